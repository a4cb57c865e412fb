//! The first and only program of a virtual machine: makes the place habitable, runs the tests, tells how they ended, and
//! switches the machine off.

use std::{
    ffi::CStr,
    fs,
    process::{self, Command},
};

use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};

const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("securityfs", "/sys/kernel/security"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

fn main() {
    if process::id() != 1 {
        eprintln!("vm-init: switches the machine off, so it runs as its first process only");
        process::exit(2);
    }
    for &(kind, place) in MOUNTS {
        if let Err(error) = mount(kind, place, kind, MountFlags::empty(), None::<&CStr>) {
            println!("vm-init: {place}: {error}");
        }
    }
    // The tests talk to addresses of loopback.
    if let Err(error) = loopback() {
        println!("vm-init: loopback: {error}");
    }
    let environment = fs::read_to_string("/etc/environment").unwrap_or_default();
    let filter = fs::read_to_string("/etc/filter").unwrap_or_default();
    let mut tests = Command::new("/tests");
    tests.args(["--nocapture", "--test-threads=1", "--skip", "the_catalogue"]).args(filter.lines());
    tests.env("FLOWWARDEN_BIN", "/flowwarden").env("FLOWWARDEN_ACTOR", "/actor");
    tests.envs(environment.lines().filter_map(|line| line.split_once('=')));
    let ended = match tests.status() {
        Ok(status) => status.code().map_or_else(|| status.to_string(), |code| code.to_string()),
        Err(error) => error.to_string(),
    };
    println!("vm-init: exit {ended}");
    // QEMU ends where a machine would start again.
    if let Err(error) = reboot(RebootCommand::Restart) {
        println!("vm-init: {error}");
    }
}

/// Sets `lo` up.
fn loopback() -> std::io::Result<()> {
    // SAFETY: all zero is an ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).map_err(std::io::Error::other)?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request is one, and outlives the call.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
