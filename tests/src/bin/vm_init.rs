//! The first and only program of a virtual machine: makes the place habitable, moves to the disk where there is one, runs
//! the tests, tells how they ended, and switches the machine off.

use std::{
    ffi::CStr,
    fs, io,
    path::Path,
    process::{self, Command},
    thread,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, mount, mount_move},
    system::{RebootCommand, finit_module, reboot},
};

/// Modules to be loaded, in the order of their names.
const MODULES: &str = "/modules";
/// The first disk.
const DISK: &str = "/dev/vda";
/// Where it is mounted before it becomes the root.
const ROOT: &str = "/disk";
/// What is taken along to the disk.
const PROGRAMS: [&str; 3] = ["tests", "actor", "flowwarden"];
/// Where the libraries are that programs may be linked with. A disk that has its own keeps them.
const LIBRARIES: [&str; 2] = ["lib", "lib64"];

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
    let environment = fs::read_to_string("/etc/environment").unwrap_or_default();
    let filter = fs::read_to_string("/etc/filter").unwrap_or_default();
    if let Err(error) = move_to_disk() {
        println!("vm-init: the disk: {error}");
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
    // Every user may ping, as in most distributions.
    if let Err(error) = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647") {
        println!("vm-init: ping: {error}");
    }
    let mut tests = Command::new("/tests");
    // The machine is disposable.
    tests.args(["--nocapture", "--test-threads=1", "--include-ignored"]).args(filter.lines());
    // The catalogue is a file of the sources; who dies beside the actor is decided in userspace, on every kernel alike;
    // `failures` is about what the test harness captures.
    tests.args(["--skip", "the_catalogue", "--skip", "scope::", "--skip", "limits::", "--skip", "simulate::"]);
    tests.args(["--skip", "failures::"]);
    tests.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
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

/// Loads the modules that came along, and makes the disk that they drive the root file system. No modules, no disk.
fn move_to_disk() -> io::Result<()> {
    let mut modules: Vec<_> = fs::read_dir(MODULES)?.flatten().map(|entry| entry.path()).collect();
    if modules.is_empty() {
        return Ok(());
    }
    modules.sort();
    for module in modules {
        // One that has become a part of the kernel meanwhile is no loss; the disk shows whether all are there.
        if let Err(error) = finit_module(fs::File::open(&module)?, c"", 0) {
            println!("vm-init: {}: {error}", module.display());
        }
    }
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::empty(), None::<&CStr>)?;
    for _ in 0..100 {
        if fs::exists(DISK)? {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let mounted = |kind| mount(DISK, ROOT, kind, MountFlags::empty(), None::<&CStr>);
    mounted("ext4").or_else(|_| mounted("btrfs"))?;
    for program in PROGRAMS {
        fs::copy(Path::new("/").join(program), Path::new(ROOT).join(program))?;
    }
    for directory in LIBRARIES {
        copy_missing(&Path::new("/").join(directory), &Path::new(ROOT).join(directory))?;
    }
    std::env::set_current_dir(ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Copies a directory with everything in it, if it is there and there is no such yet.
fn copy_missing(from: &Path, to: &Path) -> io::Result<()> {
    if !fs::exists(from)? || fs::exists(to)? {
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy_missing(&from, &to)? } else { fs::copy(&from, &to).map(drop)? }
    }
    Ok(())
}

/// Sets `lo` up.
fn loopback() -> io::Result<()> {
    // SAFETY: all zero is an ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request is one, and outlives the call.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
