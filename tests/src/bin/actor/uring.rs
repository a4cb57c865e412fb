//! The same by `io_uring`: no system call names what is done.

use std::{io::Write as _, os::fd::AsRawFd as _};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::{MARK, Operation, Result, address, path, socket, system::receive, word};

pub(super) const OPERATIONS: &[Operation] = &[
    ("uring-write", "FILE", |words| {
        let file = open(words, libc::O_WRONLY)?;
        submit(&opcode::Write::new(file, MARK.as_ptr(), MARK.len() as u32).build()).map(drop)
    }),
    ("uring-write-direct", "FILE", |words| write_directly(word(words, 0)?, 0)),
    ("uring-truncate", "FILE", |words| open(words, libc::O_RDONLY | libc::O_TRUNC).map(drop)),
    ("uring-creat", "FILE", |words| open(words, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC).map(drop)),
    ("uring-create", "FILE", |words| {
        let file = open(words, libc::O_WRONLY | libc::O_CREAT)?;
        submit(&opcode::Write::new(file, MARK.as_ptr(), MARK.len() as u32).build()).map(drop)
    }),
    ("uring-create-new", "FILE", |words| open(words, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).map(drop)),
    ("uring-create-to-read", "FILE", |words| open(words, libc::O_RDONLY | libc::O_CREAT).map(drop)),
    ("uring-create-2", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        let how = types::OpenHow::new().flags((libc::O_WRONLY | libc::O_CREAT) as u64).mode(0o644);
        submit(&opcode::OpenAt2::new(HERE, path.as_ptr(), &raw const how).build()).map(drop)
    }),
    ("uring-create-directly", "FILE", |words| write_directly(word(words, 0)?, libc::O_CREAT)),
    ("uring-tmpfile", "FILE", |words| {
        let file = open(&["."], libc::O_TMPFILE | libc::O_WRONLY)?;
        submit(&opcode::Write::new(file, MARK.as_ptr(), MARK.len() as u32).build())?;
        let (from, to) = (path(&format!("/proc/self/fd/{}", file.0))?, path(word(words, 0)?)?);
        let link = opcode::LinkAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).flags(libc::AT_SYMLINK_FOLLOW);
        submit(&link.build()).map(drop)
    }),
    ("uring-read", "FILE", |words| {
        let file = open(words, libc::O_RDONLY)?;
        let mut room = [0_u8; 8];
        submit(&opcode::Read::new(file, room.as_mut_ptr(), room.len() as u32).build()).map(drop)
    }),
    ("uring-unlink", "FILE", |words| {
        let path = path(word(words, 0)?)?;
        submit(&opcode::UnlinkAt::new(HERE, path.as_ptr()).build()).map(drop)
    }),
    ("uring-rename", "FROM TO", |words| {
        let (from, to) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
        submit(&opcode::RenameAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build()).map(drop)
    }),
    ("uring-link", "FROM TO", |words| {
        let (from, to) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
        submit(&opcode::LinkAt::new(HERE, from.as_ptr(), HERE, to.as_ptr()).build()).map(drop)
    }),
    ("uring-mkdir", "DIRECTORY", |words| {
        let path = path(word(words, 0)?)?;
        submit(&opcode::MkDirAt::new(HERE, path.as_ptr()).build()).map(drop)
    }),
    ("uring-symlink", "TARGET LINK", |words| {
        let (target, link) = (path(word(words, 0)?)?, path(word(words, 1)?)?);
        submit(&opcode::SymlinkAt::new(HERE, target.as_ptr(), link.as_ptr()).build()).map(drop)
    }),
    ("uring-setxattr", "FILE", |words| {
        let (file, name) = (path(word(words, 0)?)?, path("user.mark")?);
        let mark = MARK.as_ptr().cast();
        submit(&opcode::SetXattr::new(name.as_ptr(), mark, file.as_ptr(), MARK.len() as u32).build()).map(drop)
    }),
    // The name does not show where the link leads, and an entry of the ring's own table has no number in the process's.
    ("uring-symlink-write", "TARGET LINK", |words| {
        std::os::unix::fs::symlink(word(words, 0)?, word(words, 1)?)?;
        write_directly(word(words, 1)?, 0)
    }),
    ("uring-splice", "SOCKET", |words| {
        let file = receive(words)?;
        let (out, mut into) = std::io::pipe()?;
        into.write_all(MARK)?;
        let (from, to) = (types::Fd(out.as_raw_fd()), types::Fd(file.as_raw_fd()));
        submit(&opcode::Splice::new(from, -1, to, 0, MARK.len() as u32).build()).map(drop)
    }),
    ("uring-unix", "SOCKET", |words| {
        let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        let (to, len) = unix_address(word(words, 0)?);
        submit(&opcode::Connect::new(types::Fd(socket.as_raw_fd()), (&raw const to).cast(), len).build()).map(drop)
    }),
    ("uring-connect", "ADDRESS:PORT", |words| {
        let (socket, to) = (socket(libc::AF_INET, libc::SOCK_STREAM, 0)?, address(word(words, 0)?)?);
        let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        submit(&opcode::Connect::new(types::Fd(socket.as_raw_fd()), (&raw const to).cast(), len).build()).map(drop)
    }),
    ("uring-send", "ADDRESS:PORT", |words| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut to = address(word(words, 0)?)?;
        let mut content = libc::iovec { iov_base: MARK.as_ptr().cast_mut().cast(), iov_len: MARK.len() };
        let header = libc::msghdr {
            msg_name: (&raw mut to).cast(),
            msg_namelen: size_of::<libc::sockaddr_in>() as libc::socklen_t,
            msg_iov: &raw mut content,
            msg_iovlen: 1,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        submit(&opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const header).build()).map(drop)
    }),
    ("uring-command", "DEVICE", |words| {
        let file = open(words, libc::O_RDWR)?;
        submit(&opcode::UringCmd16::new(file, 0).build()).map(drop)
    }),
];

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

fn open(words: &[&str], flags: libc::c_int) -> Result<types::Fd> {
    let path = path(word(words, 0)?)?;
    submit(&opcode::OpenAt::new(HERE, path.as_ptr()).flags(flags).mode(0o644).build()).map(types::Fd)
}

fn unix_address(path: &str) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all zero is an address.
    let mut to: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    to.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in to.sun_path.iter_mut().zip(path.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    (to, size_of::<libc::sockaddr_un>() as libc::socklen_t)
}

/// Opens a file into the ring's own table, and writes there.
fn write_directly(file: &str, flags: libc::c_int) -> Result {
    let path = path(file)?;
    let mut ring = IoUring::new(2)?;
    ring.submitter().register_files(&[-1])?;
    let place = types::DestinationSlot::try_from_slot_target(0).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let open =
        opcode::OpenAt::new(HERE, path.as_ptr()).flags(libc::O_WRONLY | flags).mode(0o644).file_index(Some(place));
    submit_to(&mut ring, &open.build())?;
    let write = opcode::Write::new(types::Fixed(0), MARK.as_ptr(), MARK.len() as u32);
    submit_to(&mut ring, &write.build()).map(drop)
}

/// Has one request carried out; its result.
fn submit(request: &squeue::Entry) -> Result<i32> {
    submit_to(&mut IoUring::new(2)?, request)
}

fn submit_to(ring: &mut IoUring, request: &squeue::Entry) -> Result<i32> {
    // SAFETY: what the request points to is the caller's, who waits here until it is done.
    unsafe { ring.submission().push(request) }.map_err(std::io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-libc::EIO, |entry: cqueue::Entry| entry.result());
    if result < 0 { Err(std::io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}
