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

use super::{MARK, Operation, Result, at, call, descriptor, number, opened, path, socket, word};

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
    ("socket", "FAMILY TYPE PROTOCOL", |words| {
        descriptor(libc::SYS_socket, &[number(words, 0)?, number(words, 1)?, number(words, 2)?]).map(drop)
    }),
    ("receive-write", "SOCKET", |words| receive(words)?.write_all(MARK)),
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
];

fn enter(namespace: &str) -> Result {
    let namespace = opened(namespace, libc::O_RDONLY)?;
    call(libc::SYS_setns, &[namespace.as_raw_fd().into(), 0])
}

/// Lets nobody else see what is mounted from now on.
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

/// Takes a descriptor that whoever listens at the socket hands over.
fn receive(words: &[&str]) -> Result<fs::File> {
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
