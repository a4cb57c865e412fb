//! What changes the machine itself, and ways to a file that begin with somebody else.

use std::{
    ffi::c_long,
    fs,
    io::{self, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    ptr,
};

use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
        mount_change, move_mount, open_tree, unmount,
    },
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use super::{MARK, Operation, Result, at, call, descriptor, map_and_store, number, opened, path, socket, word};

pub(super) const OPERATIONS: &[Operation] = &[
    ("unshare", "", |_| call(libc::SYS_unshare, &[libc::CLONE_NEWUSER.into()])),
    ("unshare-mounts", "", |_| call(libc::SYS_unshare, &[libc::CLONE_NEWNS.into()])),
    ("clone-user", "", |_| child_with(libc::CLONE_NEWUSER.into())),
    ("setns", "NAMESPACE", |words| enter(word(words, 0)?)),
    ("bind-mount", "FROM TO", |words| {
        alone()?;
        Ok(mount_bind(word(words, 0)?, word(words, 1)?)?)
    }),
    ("mount", "DIRECTORY", |words| {
        alone()?;
        Ok(mount("none", word(words, 0)?, "tmpfs", MountFlags::empty(), None)?)
    }),
    ("move-mount", "FROM TO", |words| {
        alone()?;
        let tree = open_tree(rustix::fs::CWD, word(words, 0)?, OpenTreeFlags::OPEN_TREE_CLONE)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&tree, "", rustix::fs::CWD, word(words, 1)?, flags)?)
    }),
    // In the mount namespace of somebody who has made a root and a mount in it.
    ("pivot-root", "NAMESPACE DIRECTORY", |words| {
        enter(word(words, 0)?)?;
        std::os::unix::fs::chroot(word(words, 1)?)?;
        std::env::set_current_dir("/")?;
        let (new, old) = (path("new")?, path("new/old")?);
        call(libc::SYS_pivot_root, &[at(new.as_ptr()), at(old.as_ptr())])
    }),
    ("unmount", "NAMESPACE DIRECTORY", |words| {
        enter(word(words, 0)?)?;
        Ok(unmount(format!("{}/new", word(words, 1)?), UnmountFlags::empty())?)
    }),
    ("bind-read", "FILE", |words| {
        alone()?;
        mount_bind(".", "lib")?;
        fs::read(format!("lib/{}", word(words, 0)?)).map(drop)
    }),
    ("overlay-read", "FILE", |words| {
        // An overlay wants the owners of what is below it to be known, and so no user namespace.
        call(libc::SYS_unshare, &[libc::CLONE_NEWNS.into()])?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("none", "lib", "tmpfs", MountFlags::empty(), None)?;
        for directory in ["lib/upper", "lib/work", "lib/merged"] {
            fs::create_dir(directory)?;
        }
        let options = path("lowerdir=.,upperdir=lib/upper,workdir=lib/work")?;
        mount("none", "lib/merged", "overlay", MountFlags::empty(), options.as_c_str())?;
        fs::read(format!("lib/merged/{}", word(words, 0)?)).map(drop)
    }),
    ("chroot-write", "FILE", |words| {
        std::os::unix::fs::chroot(".")?;
        fs::File::options().write(true).open(format!("/{}", word(words, 0)?))?.write_all(MARK)
    }),
    ("open-disk", "FILE", |words| open_disk(word(words, 0)?)),
    ("getfd", "PID", |words| {
        let process = descriptor(libc::SYS_pidfd_open, &[number(words, 0)?, 0])?;
        descriptor(libc::SYS_pidfd_getfd, &[process.as_raw_fd().into(), 2, 0]).map(drop)
    }),
    ("bpf", "", |_| bpf()),
    ("bpf-by-id", "", |_| map_by_id()),
    // What is no module is refused after the kernel has asked whether any may be loaded.
    ("init_module", "", |_| {
        // Less than a header's worth is not even looked at.
        let (image, parameters) = ([0_u8; 4096], path("")?);
        let loaded = [at(image.as_ptr()), image.len() as c_long, at(parameters.as_ptr())];
        unless(call(libc::SYS_init_module, &loaded), &[libc::ENOEXEC])
    }),
    ("finit_module", "FILE", |words| {
        let (file, parameters) = (opened(word(words, 0)?, libc::O_RDONLY)?, path("")?);
        let loaded = [file.as_raw_fd().into(), at(parameters.as_ptr()), 0];
        unless(call(libc::SYS_finit_module, &loaded), &[libc::ENOEXEC])
    }),
    // The kernel asks for a module of that name when there is no such interface.
    ("name-interface", "", |_| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        // SAFETY: all zero is a request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"stolen") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        let arguments = [socket.as_raw_fd().into(), libc::SIOCGIFINDEX as c_long, at(&raw const request)];
        unless(call(libc::SYS_ioctl, &arguments), &[libc::ENODEV])
    }),
    // What holds no swap header is refused after it was opened.
    ("swapon", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        unless(call(libc::SYS_swapon, &[at(path.as_ptr()), 0]), &[libc::EINVAL])
    }),
    // A guard that kills leaves no process to turn it off again: the caller does.
    ("acct", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        call(libc::SYS_acct, &[at(path.as_ptr())])?;
        call(libc::SYS_acct, &[0])
    }),
    ("set-flags", "FILE", |words| {
        let file = opened(word(words, 0)?, libc::O_RDONLY)?;
        let flags = rustix::fs::ioctl_getflags(&file)? | rustix::fs::IFlags::NODUMP;
        Ok(rustix::fs::ioctl_setflags(&file, flags)?)
    }),
    ("set-xflags", "FILE", |words| {
        let file = opened(word(words, 0)?, libc::O_RDONLY)?;
        let mut flags = ExtendedFlags::default();
        control(&file, GET_XFLAGS, &raw mut flags)?;
        flags.flags |= XFLAG_NODUMP;
        control(&file, SET_XFLAGS, &raw mut flags)
    }),
    ("set-attributes", "FILE", |words| {
        let (path, here) = (path(word(words, 0)?)?, libc::AT_FDCWD.into());
        let mut flags = FileAttributes::default();
        let size = size_of_val(&flags) as c_long;
        call(FILE_GETATTR, &[here, at(path.as_ptr()), at(&raw mut flags), size, 0])?;
        flags.flags |= u64::from(XFLAG_NODUMP);
        call(FILE_SETATTR, &[here, at(path.as_ptr()), at(&raw const flags), size, 0])
    }),
    ("set-generation", "FILE", |words| {
        let file = opened(word(words, 0)?, libc::O_RDONLY)?;
        let mut generation = 7_u32;
        control(&file, SET_GENERATION, &raw mut generation)
    }),
    ("receive-unreserve", "SOCKET", |words| {
        let mut space = Space { len: 4, ..Space::default() };
        control(&receive(words)?.into(), UNRESERVE, &raw mut space)
    }),
    ("receive-clone-file", "SOCKET FROM", |words| {
        fs::write(word(words, 1)?, MARK.repeat(1000))?;
        Ok(rustix::fs::ioctl_ficlone(receive(words)?, opened(word(words, 1)?, libc::O_RDONLY)?)?)
    }),
    ("socket", "FAMILY TYPE PROTOCOL", |words| {
        descriptor(libc::SYS_socket, &[number(words, 0)?, number(words, 1)?, number(words, 2)?]).map(drop)
    }),
    ("receive-write", "SOCKET", |words| receive(words)?.write_all(MARK)),
    ("receive-submit", "SOCKET", |words| submit(&receive(words)?)),
    ("receive-map-late", "SOCKET", |words| map_and_store(&receive(words)?.into(), libc::PROT_READ)),
    ("receive-read", "SOCKET", |words| io::read_to_string(receive(words)?).map(drop)),
    ("memory", "PID", |words| opened(&format!("/proc/{}/mem", word(words, 0)?), libc::O_RDWR).map(drop)),
    ("tmpfile", "TO", |words| {
        let file = opened_with_mode(".", libc::O_TMPFILE | libc::O_WRONLY)?;
        let (from, to) = (path(&format!("/proc/self/fd/{}", file.as_raw_fd()))?, path(word(words, 0)?)?);
        let here = libc::AT_FDCWD.into();
        call(libc::SYS_linkat, &[here, at(from.as_ptr()), here, at(to.as_ptr()), libc::AT_SYMLINK_FOLLOW.into()])
    }),
    ("sendfile", "FROM TO", |words| {
        let (from, to) = (opened(word(words, 0)?, libc::O_RDONLY)?, opened(word(words, 1)?, libc::O_WRONLY)?);
        call(libc::SYS_sendfile, &[to.as_raw_fd().into(), from.as_raw_fd().into(), 0, 4])
    }),
    ("splice", "FROM TO", |words| {
        let (from, to) = (opened(word(words, 0)?, libc::O_RDONLY)?, opened(word(words, 1)?, libc::O_WRONLY)?);
        let (read, write) = rustix::pipe::pipe()?;
        let moved = [from.as_raw_fd().into(), 0, write.as_raw_fd().into(), 0, 4, 0];
        call(libc::SYS_splice, &moved)?;
        drop(write);
        call(libc::SYS_splice, &[read.as_raw_fd().into(), 0, to.as_raw_fd().into(), 0, 4, 0])
    }),
    ("by-handle", "FILE", by_handle),
    ("acl", "FILE", |words| give_away(word(words, 0)?)),
    ("limit", "PID", |words| {
        let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        let of = [number(words, 0)?, libc::RLIMIT_CORE.into()];
        call(libc::SYS_prlimit64, &[of[0], of[1], 0, at(&raw mut limits)])?;
        call(libc::SYS_prlimit64, &[of[0], of[1], at(&raw const limits), 0])
    }),
    // Each sets what is set already.
    ("nice", "PID", |words| {
        let whom = [libc::PRIO_PROCESS.into(), number(words, 0)?];
        // The kernel's answer is above 0 whatever the priority.
        let nice = 20 - super::ask(libc::SYS_getpriority, &whom)?;
        call(libc::SYS_setpriority, &[whom[0], whom[1], nice])
    }),
    ("affinity", "PID", |words| {
        let (pid, mask) = (number(words, 0)?, [0_u64; 128]);
        let len = super::ask(libc::SYS_sched_getaffinity, &[pid, size_of_val(&mask) as c_long, at(mask.as_ptr())])?;
        call(libc::SYS_sched_setaffinity, &[pid, len, at(mask.as_ptr())])
    }),
    // The owner of a descriptor gets a signal of a chosen kind when it becomes readable.
    ("signal-owner", "PID SIGNAL", |words| {
        let (out, mut into) = io::pipe()?;
        let fd = out.as_raw_fd().into();
        call(libc::SYS_fcntl, &[fd, libc::F_SETOWN.into(), number(words, 0)?])?;
        call(libc::SYS_fcntl, &[fd, F_SETSIG, number(words, 1)?])?;
        call(libc::SYS_fcntl, &[fd, libc::F_SETFL.into(), libc::O_ASYNC.into()])?;
        into.write_all(MARK)
    }),
];

/// `F_SETSIG` of asm-generic/fcntl.h.
const F_SETSIG: c_long = 10;

/// Writes to a file by the older kind of asynchronous requests.
fn submit(file: &fs::File) -> Result {
    /// `IOCB_CMD_PWRITE` and `struct iocb` of `linux/aio_abi.h`.
    const PWRITE: u16 = 1;
    #[repr(C)]
    #[derive(Default)]
    struct Request {
        data: u64,
        key: u32,
        flags: u32,
        command: u16,
        priority: i16,
        file: u32,
        buffer: u64,
        bytes: u64,
        offset: i64,
        reserved: u64,
        more_flags: u32,
        event_file: u32,
    }
    let mut context = 0_u64;
    call(libc::SYS_io_setup, &[1, at(&raw mut context)])?;
    let context = context.cast_signed();
    let request = Request {
        command: PWRITE,
        file: file.as_raw_fd().cast_unsigned(),
        buffer: at(MARK.as_ptr()).cast_unsigned(),
        bytes: MARK.len() as u64,
        ..Request::default()
    };
    let requests = [&raw const request];
    call(libc::SYS_io_submit, &[context, 1, at(requests.as_ptr())])?;
    // `struct io_event`: data, request, result, and another.
    let mut event = [0_i64; 4];
    call(libc::SYS_io_getevents, &[context, 1, 1, at(event.as_mut_ptr()), 0])?;
    if event[2] < 0 { Err(io::Error::from_raw_os_error(i32::try_from(-event[2]).unwrap_or(libc::EIO))) } else { Ok(()) }
}

/// Lets somebody else write to a file, by an access control list.
fn give_away(file: &str) -> Result {
    /// `struct posix_acl_xattr_header` and entries of `linux/posix_acl_xattr.h`: tag, permissions and id of the owner, of user 12345,
    /// of the group, of the mask and of others.
    const NO_OWNER: u32 = u32::MAX;
    const ENTRIES: [(u16, u16, u32); 5] =
        [(1, 6, NO_OWNER), (2, 6, 12345), (4, 4, NO_OWNER), (0x10, 6, NO_OWNER), (0x20, 4, NO_OWNER)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in ENTRIES {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let (path, name) = (path(file)?, path("system.posix_acl_access")?);
    call(libc::SYS_setxattr, &[at(path.as_ptr()), at(name.as_ptr()), at(list.as_ptr()), list.len() as c_long, 0])
}

fn enter(namespace: &str) -> Result {
    let namespace = opened(namespace, libc::O_RDONLY)?;
    call(libc::SYS_setns, &[namespace.as_raw_fd().into(), 0])
}

/// Makes further mounts private.
fn alone() -> Result {
    call(libc::SYS_unshare, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).into()])
}

/// That a call fails in one of these ways is what was meant to happen.
fn unless(done: Result, expected: &[i32]) -> Result {
    match done {
        Err(error) if error.raw_os_error().is_some_and(|number| expected.contains(&number)) => Ok(()),
        done => done,
    }
}

/// Makes a child in other namespaces, which ends at once.
fn child_with(flags: c_long) -> Result {
    let child = super::ask(libc::SYS_clone, &[flags | c_long::from(libc::SIGCHLD), 0, 0, 0, 0])?;
    if child == 0 {
        // SAFETY: ends the child, which has touched nothing.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: a null pointer asks for no status.
    unsafe { libc::waitpid(child as libc::pid_t, ptr::null_mut(), 0) };
    Ok(())
}

/// Asks for the first program's number: a command that changes nothing.
fn bpf() -> Result {
    /// `BPF_PROG_GET_NEXT_ID` of linux/bpf.h.
    const NEXT_PROGRAM: c_long = 11;
    let attributes = [0_u32; 3];
    unless(
        call(libc::SYS_bpf, &[NEXT_PROGRAM, at(attributes.as_ptr()), size_of_val(&attributes) as c_long]),
        &[libc::ENOENT],
    )
}

/// Opens the disk that a file is on, through a device file of its own.
fn open_disk(file: &str) -> Result {
    let device = match fs::metadata(file)?.dev() {
        own if libc::major(own) != 0 => own,
        _ => mounted_btrfs().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?,
    };
    let node = path("disk")?;
    let mode = libc::S_IFBLK | 0o600;
    call(libc::SYS_mknodat, &[libc::AT_FDCWD.into(), at(node.as_ptr()), mode.into(), device.cast_signed()])?;
    fs::File::open("disk").map(drop)
}

/// The disk that btrfs is mounted from: its files have the number of no device.
fn mounted_btrfs() -> Option<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = mounts.lines().find_map(|line| line.split_once(" - btrfs ")?.1.split(' ').next())?;
    fs::metadata(source).ok().map(|disk| disk.rdev())
}

/// Asks for the map with a number that no map has.
fn map_by_id() -> Result {
    /// `BPF_MAP_GET_FD_BY_ID` of linux/bpf.h.
    const MAP_BY_ID: c_long = 14;
    let attributes = [u32::MAX, 0, 0];
    unless(
        call(libc::SYS_bpf, &[MAP_BY_ID, at(attributes.as_ptr()), size_of_val(&attributes) as c_long]),
        &[libc::ENOENT],
    )
}

/// Receives a descriptor from the listener of the socket.
pub(super) fn receive(words: &[&str]) -> Result<fs::File> {
    let stream = UnixStream::connect(word(words, 0)?)?;
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let mut byte = [0];
    recvmsg(stream.as_fd(), &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())?;
    let taken = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    // The kernel leaves out what may not be received, and says nothing.
    taken.map(fs::File::from).ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of linux/fs.h, and what they are about.
const GET_XFLAGS: c_long = 0x801c_581f;
const SET_XFLAGS: c_long = 0x401c_5820;
const XFLAG_NODUMP: u32 = 0x80;

/// `struct fsxattr`
#[repr(C)]
#[derive(Default)]
struct ExtendedFlags {
    flags: u32,
    others: [u32; 6],
}

/// `file_getattr(2)` and `file_setattr(2)`, since 6.17, and their `struct file_attr`.
const FILE_GETATTR: c_long = 468;
const FILE_SETATTR: c_long = 469;

#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    flags: u64,
    others: [u32; 4],
}

/// `FS_IOC_SETVERSION`
const SET_GENERATION: c_long = 0x4008_7602;

/// `FS_IOC_UNRESVSP64` of linux/falloc.h, and its `struct space_resv`.
const UNRESERVE: c_long = 0x4030_582b;

#[repr(C)]
#[derive(Default)]
struct Space {
    kind: i16,
    whence: i16,
    start: i64,
    len: i64,
    others: [u32; 6],
}

/// A command to a file.
fn control<T>(file: &std::os::fd::OwnedFd, command: c_long, argument: *mut T) -> Result {
    call(libc::SYS_ioctl, &[file.as_raw_fd().into(), command, at(argument)])
}

fn opened_with_mode(file: &str, flags: libc::c_int) -> Result<std::os::fd::OwnedFd> {
    let path = path(file)?;
    descriptor(libc::SYS_openat, &[libc::AT_FDCWD.into(), at(path.as_ptr()), flags.into(), 0o644])
}

/// `struct file_handle` of fcntl.h with room for the longest handle.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    opaque: [u8; libc::MAX_HANDLE_SZ as usize],
}

/// Opens a file by its handle, which names no path.
fn by_handle(words: &[&str]) -> Result {
    let path = path(word(words, 0)?)?;
    let mut handle = Handle { bytes: libc::MAX_HANDLE_SZ as u32, kind: 0, opaque: [0; _] };
    let mut mount = 0;
    let here = libc::AT_FDCWD.into();
    let asked = [here, at(path.as_ptr()), at(&raw mut handle), at(&raw mut mount), 0];
    call(libc::SYS_name_to_handle_at, &asked)?;
    let opened = descriptor(libc::SYS_open_by_handle_at, &[here, at(&raw const handle), libc::O_WRONLY.into()])?;
    fs::File::from(opened).write_all(MARK)
}
