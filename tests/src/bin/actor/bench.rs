//! What benchmarks ask for: many at once, and what a call costs. The figures go to a file.

use std::{
    ffi::c_int,
    fs,
    hint::black_box,
    io::{self, Read as _},
    net::{SocketAddr, UdpSocket},
    ptr,
    time::Instant,
};

use super::{Operation, Result, number, opened, put, word};

pub(super) const OPERATIONS: &[Operation] = &[
    ("race", "FILE COUNT AT-A-TIME FIGURES", race),
    ("cost", "FILE COUNT FIGURES", |words| {
        let count = number(words, 1)?;
        let file = word(words, 0)?;
        let mut open = || opened(file, libc::O_RDONLY).map(drop);
        let mut parent = || {
            // SAFETY: no arguments.
            black_box(unsafe { libc::syscall(libc::SYS_getppid) });
            Ok(())
        };
        let figures = format!("open={} getppid={}", cost(count, &mut open)?, cost(count, &mut parent)?);
        fs::write(word(words, 2)?, figures)
    }),
    ("cost-rules", "FILE ADDRESS COUNT FIGURES", |words| {
        let (file, count) = (word(words, 0)?, number(words, 2)?);
        let mut open = || opened(file, libc::O_RDONLY).map(drop);
        // A datagram socket sends nothing when it is connected.
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address: SocketAddr = word(words, 1)?.parse().map_err(io::Error::other)?;
        let mut connect = || socket.connect(address);
        let figures = format!("open={} connect={}", cost(count, &mut open)?, cost(count, &mut connect)?);
        fs::write(word(words, 3)?, figures)
    }),
];

/// Nanoseconds for one of `count`.
fn cost(count: i64, act: &mut dyn FnMut() -> Result) -> Result<u128> {
    let start = Instant::now();
    for _ in 0..count {
        act()?;
    }
    Ok(start.elapsed().as_nanos() / u128::from(count.max(1).unsigned_abs()))
}

/// Processes that write to one file at the same moment, some at a time.
fn race(words: &[&str]) -> Result {
    let (file, mut left, at_a_time) = (word(words, 0)?, number(words, 1)?, number(words, 2)?);
    let (mut wrote, mut killed, mut refused) = (0, 0, 0);
    while left > 0 {
        let now = left.min(at_a_time);
        left -= now;
        let (mut gate, opener) = io::pipe()?;
        let mut writers = Vec::new();
        for _ in 0..now {
            // SAFETY: this process has one thread, so the child may do what it likes.
            let writer = unsafe { libc::fork() };
            if writer == 0 {
                // SAFETY: the child's copy, which would keep the gate closed.
                unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&opener)) };
                let _ = gate.read_to_end(&mut Vec::new());
                let done = put(fs::File::options().write(true), &[file]);
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(done.is_err())) };
            }
            writers.push(writer);
        }
        drop(opener);
        for writer in writers {
            let mut status: c_int = 0;
            // SAFETY: the status is ours.
            unsafe { libc::waitpid(writer, ptr::from_mut(&mut status), 0) };
            match status {
                0 => wrote += 1,
                status if libc::WIFSIGNALED(status) => killed += 1,
                _ => refused += 1,
            }
        }
    }
    fs::write(word(words, 3)?, format!("wrote={wrote} killed={killed} refused={refused}"))
}
