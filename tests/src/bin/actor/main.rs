//! `actor OPERATION [ARGUMENT...]`: does one thing by the system call that is named, and nothing else. Needs no other
//! program and no library, so that it runs wherever a kernel does.
//!
//! Ends with 0 when the kernel has let it, and with the error number when it has not.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "system calls take small sizes and addresses as untyped words"
)]

mod bench;
mod compat;
mod system;
mod uring;

use std::{
    env,
    ffi::{CString, c_int, c_long},
    fs,
    io::{self, Write as _},
    mem::size_of,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixDatagram, UnixStream},
            process::CommandExt as _,
        },
    },
    process::{Command, ExitCode},
    ptr,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

type Result<T = ()> = io::Result<T>;

/// Name, arguments in words, what is done.
type Operation = (&'static str, &'static str, fn(&[&str]) -> Result);

const OPERATIONS: &[Operation] = &[
    ("read", "FILE", |words| fs::read(word(words, 0)?).map(drop)),
    ("write", "FILE", |words| put(fs::File::options().write(true), words)),
    ("hammer", "FILE SCORE", |words| {
        let file = word(words, 0)?;
        hammer(word(words, 1)?, || put(fs::File::options().write(true), &[file]))
    }),
    ("hammer-over", "FILE SCORE", |words| {
        let file = word(words, 0)?;
        hammer(word(words, 1)?, || {
            fs::write("over", MARK)?;
            fs::rename("over", file)
        })
    }),
    ("linger", "FILE SCORE", linger),
    ("family", "FILE MEMBERS", family),
    ("append", "FILE", |words| put(fs::File::options().append(true), words)),
    ("cut-open", "FILE", |words| put(fs::File::options().write(true).truncate(true), words)),
    ("cut-read", "FILE", |words| opened(word(words, 0)?, libc::O_RDONLY | libc::O_TRUNC).map(drop)),
    ("create", "FILE", |words| put(fs::File::options().write(true).create_new(true), words)),
    ("creat", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        descriptor(
            libc::SYS_openat,
            &[libc::AT_FDCWD.into(), at(path.as_ptr()), (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC).into(), 0o644],
        )
        .map(drop)
    }),
    ("truncate", "FILE", truncate),
    ("map", "FILE", map_and_write),
    ("map-late", "FILE", map_then_write),
    ("map-when", "FILE GATE", map_when),
    ("copy-range", "FROM TO", copy_range),
    ("punch", "FILE", punch),
    ("unlink", "FILE", |words| fs::remove_file(word(words, 0)?)),
    ("rename", "FROM TO", |words| fs::rename(word(words, 0)?, word(words, 1)?)),
    ("exchange", "ONE OTHER", exchange),
    ("link", "FROM TO", |words| fs::hard_link(word(words, 0)?, word(words, 1)?)),
    ("link-write", "FROM TO", |words| {
        fs::hard_link(word(words, 0)?, word(words, 1)?)?;
        put(fs::File::options().write(true), words.get(1..).unwrap_or_default())
    }),
    ("symlink-write", "TARGET LINK", |words| {
        std::os::unix::fs::symlink(word(words, 0)?, word(words, 1)?)?;
        put(fs::File::options().write(true), words.get(1..).unwrap_or_default())
    }),
    ("chown", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        // SAFETY: no arguments.
        let own = unsafe { libc::getgid() };
        call(libc::SYS_fchownat, &[libc::AT_FDCWD.into(), at(path.as_ptr()), -1, own.into(), 0])
    }),
    ("chmod-by-number", "FILE", |words| {
        let number = opened(word(words, 0)?, libc::O_PATH)?;
        fs::set_permissions(format!("/proc/self/fd/{}", number.as_raw_fd()), fs::Permissions::from_mode(0o666))
    }),
    ("link-by-number", "FILE TO", link_by_number),
    ("symlink", "TARGET LINK", |words| std::os::unix::fs::symlink(word(words, 0)?, word(words, 1)?)),
    ("symlink-read", "TARGET LINK", |words| {
        std::os::unix::fs::symlink(word(words, 0)?, word(words, 1)?)?;
        fs::read(word(words, 1)?).map(drop)
    }),
    ("link-read", "TARGET LINK", |words| {
        fs::hard_link(word(words, 0)?, word(words, 1)?)?;
        fs::read(word(words, 1)?).map(drop)
    }),
    ("rename-read", "FROM TO", |words| {
        fs::rename(word(words, 0)?, word(words, 1)?)?;
        fs::read(word(words, 1)?).map(drop)
    }),
    ("path-read", "FILE", |words| {
        let number = opened(word(words, 0)?, libc::O_PATH)?;
        fs::read(format!("/proc/self/fd/{}", number.as_raw_fd())).map(drop)
    }),
    ("root-read", "FILE", |words| fs::read(format!("/proc/self/root{}", word(words, 0)?)).map(drop)),
    ("mknod", "FIFO", |words| make_node(words, libc::S_IFIFO)),
    ("mknod-file", "FILE", |words| make_node(words, libc::S_IFREG)),
    ("bind-unix", "SOCKET", |words| UnixDatagram::bind(word(words, 0)?).map(drop)),
    ("send-unix", "SOCKET", |words| UnixDatagram::unbound()?.send_to(MARK, word(words, 0)?).map(drop)),
    ("mkdir", "DIRECTORY", |words| fs::create_dir(word(words, 0)?)),
    ("rmdir", "DIRECTORY", |words| fs::remove_dir(word(words, 0)?)),
    ("chmod", "FILE", |words| fs::set_permissions(word(words, 0)?, fs::Permissions::from_mode(0o666))),
    ("touch", "FILE", |words| fs::File::open(word(words, 0)?)?.set_modified(SystemTime::UNIX_EPOCH)),
    ("setxattr", "FILE", set_attribute),
    ("path-write", "FILE", |words| put_by_number(word(words, 0)?)),
    ("root-write", "FILE", |words| {
        put(fs::File::options().write(true), &[&format!("/proc/self/root{}", word(words, 0)?)])
    }),
    ("run", "PROGRAM", |words| Err(Command::new(word(words, 0)?).arg("read").arg("/dev/null").exec())),
    ("run-to", "PROGRAM OPERATION [ARGUMENT...]", |words| {
        Err(Command::new(word(words, 0)?).args(words.get(1..).unwrap_or_default()).exec())
    }),
    ("unlink-unread", "FILE", |words| call(libc::SYS_unlinkat, &[libc::AT_FDCWD.into(), unread(word(words, 0)?)?, 0])),
    ("rename-unread", "FROM TO", |words| {
        let here = libc::AT_FDCWD.into();
        call(libc::SYS_renameat2, &[here, unread(word(words, 0)?)?, here, unread(word(words, 1)?)?, 0])
    }),
    ("run-unnamed", "PROGRAM", |words| {
        let memory = descriptor(libc::SYS_memfd_create, &[at(path("program")?.as_ptr()), libc::MFD_CLOEXEC.into()])?;
        io::copy(&mut fs::File::open(word(words, 0)?)?, &mut fs::File::from(memory.try_clone()?))?;
        Err(Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd())).arg("read").arg("/dev/null").exec())
    }),
    ("run-deleted", "PROGRAM", |words| {
        fs::copy(word(words, 0)?, "doomed")?;
        let number = opened("doomed", libc::O_RDONLY)?;
        fs::remove_file("doomed")?;
        Err(Command::new(format!("/proc/self/fd/{}", number.as_raw_fd())).arg("read").arg("/dev/null").exec())
    }),
    ("clone-file", "FROM TO", |words| {
        // What is cloned has to reach to the other's end.
        fs::write(word(words, 0)?, MARK.repeat(1000))?;
        let (from, to) = (opened(word(words, 0)?, libc::O_RDONLY)?, opened(word(words, 1)?, libc::O_WRONLY)?);
        Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
    }),
    ("zero", "FILE", |words| {
        let file = opened(word(words, 0)?, libc::O_RDWR)?;
        call(libc::SYS_fallocate, &[file.as_raw_fd().into(), libc::FALLOC_FL_ZERO_RANGE.into(), 0, 4])
    }),
    ("whiteout", "FROM TO", |words| {
        let (from, to) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
        let here = libc::AT_FDCWD.into();
        call(libc::SYS_renameat2, &[here, at(from.as_ptr()), here, at(to.as_ptr()), libc::RENAME_WHITEOUT.into()])
    }),
    ("vmsplice", "FILE", vmsplice),
    ("swap-name", "DECOY FILE", swap_name),
    ("run-by-number", "PROGRAM", |words| {
        let number = opened(word(words, 0)?, libc::O_RDONLY)?;
        Err(Command::new(format!("/proc/self/fd/{}", number.as_raw_fd())).arg("read").arg("/dev/null").exec())
    }),
    ("link-run", "PROGRAM LINK", |words| {
        fs::hard_link(word(words, 0)?, word(words, 1)?)?;
        Err(Command::new(word(words, 1)?).arg("read").arg("/dev/null").exec())
    }),
    ("symlink-run", "PROGRAM LINK", |words| {
        std::os::unix::fs::symlink(word(words, 0)?, word(words, 1)?)?;
        Err(Command::new(word(words, 1)?).arg("read").arg("/dev/null").exec())
    }),
    ("udp", "ADDRESS:PORT", |words| UdpSocket::bind("0.0.0.0:0")?.send_to(MARK, word(words, 0)?).map(drop)),
    ("udp-mapped", "ADDRESS:PORT", |words| UdpSocket::bind("[::]:0")?.send_to(MARK, mapped(words)?).map(drop)),
    // To connect to no address at all is to connect to this machine.
    ("connect-unspecified", "ADDRESS:PORT", |words| {
        TcpStream::connect(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port(words)?)).map(drop)
    }),
    ("udp-unspecified", "ADDRESS:PORT", |words| {
        UdpSocket::bind("0.0.0.0:0")?.send_to(MARK, (Ipv4Addr::UNSPECIFIED, port(words)?)).map(drop)
    }),
    ("udp-unspecified-6", "ADDRESS:PORT", |words| {
        UdpSocket::bind("[::]:0")?.send_to(MARK, (Ipv6Addr::UNSPECIFIED, port(words)?)).map(drop)
    }),
    ("udp-unspecified-mapped", "ADDRESS:PORT", |words| {
        UdpSocket::bind("[::]:0")?.send_to(MARK, (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), port(words)?)).map(drop)
    }),
    ("connect-mapped", "ADDRESS:PORT", |words| TcpStream::connect(mapped(words)?).map(drop)),
    ("unix", "SOCKET", |words| UnixStream::connect(word(words, 0)?).map(drop)),
    ("connect", "ADDRESS:PORT", |words| TcpStream::connect(word(words, 0)?).map(drop)),
    ("raw-socket", "", |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop)),
    ("packet-socket", "", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(drop)),
    ("bind", "ADDRESS:PORT", |words| bound(libc::SOCK_DGRAM, word(words, 0)?).map(drop)),
    ("listen", "ADDRESS:PORT", listen),
    ("fast-open", "ADDRESS:PORT", fast_open),
    ("sendmmsg", "ADDRESS:PORT", send_many),
    ("send-connected", "ADDRESS:PORT", send_connected),
    ("take-along", "DIRECTORY TO FILE", |words| {
        fs::rename(word(words, 0)?, word(words, 1)?)?;
        fs::read(format!("{}/{}", word(words, 1)?, word(words, 2)?)).map(drop)
    }),
    ("run-deep", "PROGRAM DIRECTORY", run_deep),
    ("ptrace", "PID", trace),
    ("process_vm_readv", "PID", read_memory),
    ("kill", "PID SIGNAL", |words| call(libc::SYS_kill, &numbers(words)?)),
    ("tkill", "TID SIGNAL", |words| call(libc::SYS_tkill, &numbers(words)?)),
    ("tgkill", "PID TID SIGNAL", |words| call(libc::SYS_tgkill, &numbers(words)?)),
    ("rt_sigqueueinfo", "PID SIGNAL", |words| queue(libc::SYS_rt_sigqueueinfo, words)),
    ("rt_tgsigqueueinfo", "PID TID SIGNAL", |words| queue(libc::SYS_rt_tgsigqueueinfo, words)),
    ("pidfd_send_signal", "PID SIGNAL [FLAGS]", signal_by_descriptor),
    ("pidfd_getfd", "PID FD", take_descriptor),
    ("setresuid", "UID", regain_root),
    ("capset", "", regain_capabilities),
];

/// What is sent where something is.
const MARK: &[u8] = b"stolen";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let chosen = words
        .split_first()
        .and_then(|(name, rest)| all().find(|(known, _, _)| known == name).map(|(_, _, operation)| operation(rest)));
    match chosen {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("actor: {}: {error}", words.join(" "));
            ExitCode::from(error.raw_os_error().and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX))
        }
        None => {
            for (name, arguments, _) in all() {
                eprintln!("usage: actor {name} {arguments}");
            }
            ExitCode::from(u8::MAX)
        }
    }
}

fn all() -> impl Iterator<Item = &'static Operation> {
    [OPERATIONS, bench::OPERATIONS, compat::OPERATIONS, system::OPERATIONS, uring::OPERATIONS].into_iter().flatten()
}

/// Writes what settings.js does not say.
fn put(how: &fs::OpenOptions, words: &[&str]) -> Result {
    how.open(word(words, 0)?)?.write_all(MARK)
}

/// Memory into a pipe, and from there into a file.
fn vmsplice(words: &[&str]) -> Result {
    let file = opened(word(words, 0)?, libc::O_WRONLY)?;
    let (out, into) = io::pipe()?;
    let part = libc::iovec { iov_base: MARK.as_ptr().cast_mut().cast(), iov_len: MARK.len() };
    call(libc::SYS_vmsplice, &[into.as_raw_fd().into(), at(&raw const part), 1, 0])?;
    call(libc::SYS_splice, &[out.as_raw_fd().into(), 0, file.as_raw_fd().into(), 0, MARK.len() as c_long, 0])
}

/// Opens a file whose name another thread keeps exchanging for that of a harmless one, until the kernel has looked up the
/// one after everybody else has seen the other.
fn swap_name(words: &[&str]) -> Result {
    let (decoy, wanted) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
    let target = fs::metadata(word(words, 1)?)?.ino();
    let len = decoy.as_bytes_with_nul().len().max(wanted.as_bytes_with_nul().len());
    let name: Vec<AtomicU8> = (0..len).map(|_| AtomicU8::new(0)).collect();
    let put_name = |text: &CString| {
        for (place, &byte) in name.iter().zip(text.as_bytes_with_nul()) {
            place.store(byte, Ordering::Relaxed);
        }
    };
    put_name(&decoy);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                put_name(&wanted);
                thread::yield_now();
                put_name(&decoy);
            }
        });
        let outcome = loop {
            let here = libc::AT_FDCWD.into();
            match descriptor(libc::SYS_openat, &[here, at(name.as_ptr()), libc::O_WRONLY.into(), 0]) {
                Ok(file) => {
                    let mut file = fs::File::from(file);
                    if file.metadata()?.ino() == target {
                        break file.write_all(MARK);
                    }
                }
                // Half of one name and half of the other.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => break Err(error),
            }
        };
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Has one child after the other try something, until it is stopped. Keeps score in a file: how many have tried, and
/// how many have come through.
fn hammer(score: &str, attempt: impl Fn() -> Result) -> Result {
    let (mut tried, mut through) = (0, 0);
    loop {
        let start = Instant::now();
        let child = fork(&attempt)?;
        let mut status = 0;
        // SAFETY: a child of ours, and a place for its status.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
            return Err(io::Error::last_os_error());
        }
        tried += 1;
        through += u32::from(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        fs::write(score, format!("{tried} {through}\n"))?;
        // An emulated processor has others to serve, too.
        thread::sleep(4 * start.elapsed());
    }
}

/// Writes again and again through one descriptor, until it may not. Keeps count in another file.
fn linger(words: &[&str]) -> Result {
    let (mut file, score) = (fs::File::options().append(true).open(word(words, 0)?)?, word(words, 1)?);
    for count in 0.. {
        file.write_all(MARK)?;
        fs::write(score, format!("{count}\n"))?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Makes a child that does nothing, and another with two of its own: one that does nothing, and one that writes to a file
/// once the file is there in which the pids of all are kept, in this order, after that of the first of them.
fn family(words: &[&str]) -> Result {
    let (file, members) = (word(words, 0)?, word(words, 1)?);
    let own = std::process::id();
    let idle = fork(forever)?;
    fork(|| {
        let parent = std::process::id();
        let sibling = fork(forever)?;
        fork(|| {
            let all = format!("{own} {idle} {parent} {sibling} {}\n", std::process::id());
            // The others have to be asleep when this one is met, or the test would tell less.
            thread::sleep(Duration::from_millis(100));
            fs::write("members.new", all)?;
            fs::rename("members.new", members)?;
            put(fs::File::options().write(true), &[file])
        })?;
        forever()
    })?;
    forever()
}

fn forever() -> Result {
    loop {
        thread::sleep(Duration::from_hours(1));
    }
}

/// Makes a child that does one thing and ends: with 0 when it could.
fn fork(what: impl FnOnce() -> Result) -> Result<libc::pid_t> {
    // SAFETY: there is one thread.
    match unsafe { libc::fork() } {
        0 => {
            let code = what().map_or(1, |()| 0);
            // SAFETY: ends the child, and runs nothing of the parent's.
            unsafe { libc::_exit(code) }
        }
        -1 => Err(io::Error::last_os_error()),
        child => Ok(child),
    }
}

fn path(text: &str) -> Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

fn opened(file: &str, flags: c_int) -> Result<OwnedFd> {
    let path = path(file)?;
    descriptor(libc::SYS_openat, &[libc::AT_FDCWD.into(), at(path.as_ptr()), flags.into(), 0])
}

/// Opens a file for nothing, and then by its number.
fn put_by_number(file: &str) -> Result {
    let number = opened(file, libc::O_PATH)?;
    put(fs::File::options().write(true), &[&format!("/proc/self/fd/{}", number.as_raw_fd())])
}

/// An IPv4 address as IPv6 programs write it.
fn mapped(words: &[&str]) -> Result<SocketAddr> {
    let plain: SocketAddrV4 = word(words, 0)?.parse().map_err(io::Error::other)?;
    Ok(SocketAddr::new(plain.ip().to_ipv6_mapped().into(), plain.port()))
}

fn port(words: &[&str]) -> Result<u16> {
    Ok(word(words, 0)?.parse::<SocketAddrV4>().map_err(io::Error::other)?.port())
}

fn make_node(words: &[&str], kind: libc::mode_t) -> Result {
    let path = path(word(words, 0)?)?;
    call(libc::SYS_mknodat, &[libc::AT_FDCWD.into(), at(path.as_ptr()), (kind | 0o644).into(), 0])
}

/// Address of a text in an untouched page: the kernel brings it in when it follows the path, and what
/// looks at the path before that finds nothing.
fn unread(text: &str) -> Result<c_long> {
    let page = format!("{text}.page");
    fs::write(&page, [text.as_bytes(), b"\0"].concat())?;
    let file = fs::File::open(page)?;
    // SAFETY: a new mapping, which nothing else points to.
    let room =
        unsafe { libc::mmap(ptr::null_mut(), text.len() + 1, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if room == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at(room.cast::<u8>())) }
}

/// Gives an open file another name.
fn link_by_number(words: &[&str]) -> Result {
    let number = opened(word(words, 0)?, libc::O_PATH)?;
    let (from, to) = (path(&format!("/proc/self/fd/{}", number.as_raw_fd()))?, path(word(words, 1)?)?);
    let here = libc::AT_FDCWD.into();
    call(libc::SYS_linkat, &[here, at(from.as_ptr()), here, at(to.as_ptr()), libc::AT_SYMLINK_FOLLOW.into()])
}

/// Brings a program into a directory, deeper than anybody is expected to be. Nothing is made so deep: what is in a directory
/// goes with it when it is moved.
fn run_deep(words: &[&str]) -> Result {
    let directories = |name: &str| vec![name; 20].join("/");
    let (program, place) = (fs::read(word(words, 0)?)?, word(words, 1)?);
    let (one, other) = (directories("one"), directories("other"));
    env::set_current_dir(place)?;
    fs::create_dir_all(&one)?;
    fs::create_dir_all(&other)?;
    let rogue = format!("{one}/rogue");
    fs::write(&rogue, program)?;
    fs::set_permissions(&rogue, fs::Permissions::from_mode(0o755))?;
    fs::rename("one", format!("{other}/one"))?;
    Err(Command::new(format!("{other}/{rogue}")).arg("read").arg("/dev/null").exec())
}

fn truncate(words: &[&str]) -> Result {
    let path = path(word(words, 0)?)?;
    call(libc::SYS_truncate, &[at(path.as_ptr()), 1])
}

/// Frees the beginning of a file.
fn punch(words: &[&str]) -> Result {
    let file = opened(word(words, 0)?, libc::O_RDWR)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    call(libc::SYS_fallocate, &[file.as_raw_fd().into(), mode.into(), 0, 4])
}

fn copy_range(words: &[&str]) -> Result {
    let (from, to) = (opened(word(words, 0)?, libc::O_RDONLY)?, opened(word(words, 1)?, libc::O_WRONLY)?);
    call(libc::SYS_copy_file_range, &[from.as_raw_fd().into(), 0, to.as_raw_fd().into(), 0, 4, 0])
}

fn exchange(words: &[&str]) -> Result {
    let (one, other) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
    let here = libc::AT_FDCWD.into();
    call(libc::SYS_renameat2, &[here, at(one.as_ptr()), here, at(other.as_ptr()), libc::RENAME_EXCHANGE.into()])
}

fn set_attribute(words: &[&str]) -> Result {
    let (path, name) = (path(word(words, 0)?)?, path("user.mark")?);
    call(libc::SYS_setxattr, &[at(path.as_ptr()), at(name.as_ptr()), at(MARK.as_ptr()), MARK.len() as c_long, 0])
}

/// Maps the first byte of a file shared; `protection` first, then the right to write.
fn mapping(file: &str, protection: c_int) -> Result {
    map_and_store(&opened(file, libc::O_RDWR)?, protection)
}

fn map_and_store(file: &OwnedFd, protection: c_int) -> Result {
    let shared = libc::MAP_SHARED.into();
    let place = ask(libc::SYS_mmap, &[0, 1, protection.into(), shared, file.as_raw_fd().into(), 0])?;
    // A call that changes nothing would be one more occasion to be met.
    if protection & libc::PROT_WRITE == 0 {
        call(libc::SYS_mprotect, &[place, 1, (libc::PROT_READ | libc::PROT_WRITE).into()])?;
    }
    // SAFETY: the mapping is ours, shared, writable and one byte long at the least.
    unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut::<u8>(place.cast_unsigned() as usize), b'!') };
    Ok(())
}

fn map_and_write(words: &[&str]) -> Result {
    mapping(word(words, 0)?, libc::PROT_READ | libc::PROT_WRITE)
}

/// Opens a file, and maps it once another is gone.
fn map_when(words: &[&str]) -> Result {
    let file = opened(word(words, 0)?, libc::O_RDWR)?;
    fs::write(word(words, 1)?, "open")?;
    while fs::exists(word(words, 1)?)? {
        thread::sleep(Duration::from_millis(10));
    }
    map_and_store(&file, libc::PROT_READ | libc::PROT_WRITE)
}

fn map_then_write(words: &[&str]) -> Result {
    mapping(word(words, 0)?, libc::PROT_READ)
}

fn word<'a>(words: &[&'a str], index: usize) -> Result<&'a str> {
    words.get(index).copied().ok_or_else(|| io::Error::other("an argument is missing"))
}

fn number(words: &[&str], index: usize) -> Result<c_long> {
    word(words, index)?.parse().map_err(io::Error::other)
}

fn numbers(words: &[&str]) -> Result<Vec<c_long>> {
    (0..words.len()).map(|index| number(words, index)).collect()
}

/// A system call whose arguments are numbers; its result.
fn ask(number: c_long, arguments: &[c_long]) -> Result<c_long> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: callers pass numbers, or addresses of memory that outlives the call and is what the call expects.
    let result =
        unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4), argument(5)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn call(number: c_long, arguments: &[c_long]) -> Result {
    ask(number, arguments).map(drop)
}

/// The address of something that a system call reads or writes.
fn at<T>(what: *const T) -> c_long {
    what as c_long
}

fn size<T>() -> c_long {
    size_of::<T>() as c_long
}

fn descriptor(number: c_long, arguments: &[c_long]) -> Result<OwnedFd> {
    let raw = c_int::try_from(ask(number, arguments)?).map_err(io::Error::other)?;
    // SAFETY: the call has just given the descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> Result<OwnedFd> {
    descriptor(libc::SYS_socket, &[family.into(), kind.into(), protocol.into()])
}

fn address(text: &str) -> Result<libc::sockaddr_in> {
    let parsed: SocketAddrV4 = text.parse().map_err(io::Error::other)?;
    Ok(libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: parsed.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(parsed.ip().octets()) },
        sin_zero: [0; 8],
    })
}

fn named(number: c_long, socket: &OwnedFd, address: &libc::sockaddr_in) -> Result {
    call(number, &[socket.as_raw_fd().into(), at(address), size::<libc::sockaddr_in>()])
}

fn bound(kind: c_int, text: &str) -> Result<OwnedFd> {
    let socket = socket(libc::AF_INET, kind, 0)?;
    named(libc::SYS_bind, &socket, &address(text)?)?;
    Ok(socket)
}

fn listen(words: &[&str]) -> Result {
    let socket = bound(libc::SOCK_STREAM, word(words, 0)?)?;
    call(libc::SYS_listen, &[socket.as_raw_fd().into(), 1])
}

fn send(socket: &OwnedFd, flags: c_int, to: Option<&libc::sockaddr_in>) -> Result {
    let (to, len) = to.map_or((0, 0), |to| (at(to), size::<libc::sockaddr_in>()));
    let fd = socket.as_raw_fd().into();
    call(libc::SYS_sendto, &[fd, at(MARK.as_ptr()), MARK.len() as c_long, flags.into(), to, len])
}

/// Connects and sends in one call (RFC 7413).
fn fast_open(words: &[&str]) -> Result {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    send(&socket, libc::MSG_FASTOPEN, Some(&address(word(words, 0)?)?))
}

fn send_connected(words: &[&str]) -> Result {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    named(libc::SYS_connect, &socket, &address(word(words, 0)?)?)?;
    send(&socket, 0, None)
}

fn send_many(words: &[&str]) -> Result {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let to = address(word(words, 0)?)?;
    let content = libc::iovec { iov_base: MARK.as_ptr().cast_mut().cast(), iov_len: MARK.len() };
    let header = libc::msghdr {
        msg_name: (&raw const to).cast_mut().cast(),
        msg_namelen: size_of::<libc::sockaddr_in>() as libc::socklen_t,
        msg_iov: (&raw const content).cast_mut(),
        msg_iovlen: 1,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    let datagrams = [libc::mmsghdr { msg_hdr: header, msg_len: 0 }; 2];
    let fd = socket.as_raw_fd().into();
    call(libc::SYS_sendmmsg, &[fd, at(datagrams.as_ptr()), datagrams.len() as c_long, 0])
}

fn trace(words: &[&str]) -> Result {
    call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), number(words, 0)?])
}

/// Asks for memory at an address where nothing is: whether the process may be read is asked first.
fn read_memory(words: &[&str]) -> Result {
    let mut room = [0_u8; 1];
    let local = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: ptr::without_provenance_mut(1), iov_len: 1 };
    let read =
        call(libc::SYS_process_vm_readv, &[number(words, 0)?, at(&raw const local), 1, at(&raw const remote), 1]);
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        read => read,
    }
}

/// Sends a signal with a value, as `sigqueue` does.
fn queue(call_number: c_long, words: &[&str]) -> Result {
    // SAFETY: all zero is a siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_code = libc::SI_QUEUE;
    let mut arguments = numbers(words)?;
    arguments.push(at(&raw const info));
    call(call_number, &arguments)
}

fn pidfd(words: &[&str]) -> Result<OwnedFd> {
    descriptor(libc::SYS_pidfd_open, &[number(words, 0)?])
}

fn signal_by_descriptor(words: &[&str]) -> Result {
    let flags = if words.len() > 2 { number(words, 2)? } else { 0 };
    call(libc::SYS_pidfd_send_signal, &[pidfd(words)?.as_raw_fd().into(), number(words, 1)?, 0, flags])
}

fn take_descriptor(words: &[&str]) -> Result {
    descriptor(libc::SYS_pidfd_getfd, &[pidfd(words)?.as_raw_fd().into(), number(words, 1)?]).map(drop)
}

/// Gives up root's effective uid for UID and takes it again.
fn regain_root(words: &[&str]) -> Result {
    let keep = -1;
    call(libc::SYS_setresuid, &[keep, number(words, 0)?, keep])?;
    call(libc::SYS_setresuid, &[keep, 0, keep])
}

/// `struct __user_cap_header_struct` and `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Lays its effective capabilities down and takes them up again.
fn regain_capabilities(_words: &[&str]) -> Result {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION: u32 = 0x2008_0522;
    let header = CapabilityHeader { version: VERSION, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    call(libc::SYS_capget, &[at(&raw const header), at(data.as_mut_ptr())])?;
    let down = data.map(|half| CapabilityData { effective: 0, ..half });
    call(libc::SYS_capset, &[at(&raw const header), at(down.as_ptr())])?;
    let up = data.map(|half| CapabilityData { effective: half.permitted, ..half });
    call(libc::SYS_capset, &[at(&raw const header), at(up.as_ptr())])
}
