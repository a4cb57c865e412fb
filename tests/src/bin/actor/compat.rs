//! The same by the system calls of 32-bit programs, whose numbers are others.
//!
//! On x86 any program can make them. On arm64 only a 32-bit program can: a tiny one is put together here and executed.

use std::io;

use super::{Operation, Result, word};

pub(super) const OPERATIONS: &[Operation] = &[
    // Writes the beginning of its name.
    ("write-32", "FILE", |words| {
        let mut path = word(words, 0)?.as_bytes().to_vec();
        path.push(0);
        run(&path, &[(number::OPEN, [Data, Word(1), Word(0)]), (number::WRITE, [Last, Data, Word(4)])])
    }),
    ("unix-32", "SOCKET", |words| {
        let mut address = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes().to_vec();
        address.extend(word(words, 0)?.as_bytes());
        address.push(0);
        let length = Word(u16::try_from(address.len()).map_err(io::Error::other)?);
        let stream = [Word(libc::AF_UNIX as u16), Word(libc::SOCK_STREAM as u16), Word(0)];
        run(&address, &[(number::SOCKET, stream), (number::CONNECT, [Last, Data, length])])
    }),
    ("set-flags-32", "FILE", |words| set_flags(word(words, 0)?)),
    ("unix-socketcall", "SOCKET", |words| socketcall(word(words, 0)?)),
];

/// Connects by the call that 32-bit programs of x86 had for everything about sockets: its arguments are in memory.
#[cfg(target_arch = "x86_64")]
fn socketcall(path: &str) -> Result {
    const SOCKETCALL: u32 = 102;
    const SYS_CONNECT: u32 = 3;
    let (family, kind) = (libc::AF_UNIX.cast_unsigned(), libc::SOCK_STREAM.cast_unsigned());
    let socket = error_of(call_32(u32::from(number::SOCKET), [family, kind, 0]))?;
    let mut address = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes().to_vec();
    address.extend(path.as_bytes());
    address.push(0);
    let length = u32::try_from(address.len()).map_err(io::Error::other)?;
    let arguments = [socket, low(&address)?, length].map(u32::to_ne_bytes).concat();
    error_of(call_32(SOCKETCALL, [SYS_CONNECT, low(&arguments)?, 0])).map(drop)
}

#[cfg(not(target_arch = "x86_64"))]
fn socketcall(_: &str) -> Result {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Sets a flag by the command that is a 32-bit program's alone.
#[cfg(target_arch = "x86_64")]
fn set_flags(path: &str) -> Result {
    use std::os::fd::AsRawFd as _;
    const IOCTL: u32 = 54;
    /// `FS_IOC32_SETFLAGS` of linux/fs.h.
    const SETFLAGS: u32 = 0x4004_6602;
    let file = std::fs::File::open(path)?;
    let flags = rustix::fs::ioctl_getflags(&file)? | rustix::fs::IFlags::NODUMP;
    let number = file.as_raw_fd().cast_unsigned();
    error_of(call_32(IOCTL, [number, SETFLAGS, low(&flags.bits().to_ne_bytes())?])).map(drop)
}

#[cfg(not(target_arch = "x86_64"))]
fn set_flags(_: &str) -> Result {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// What a system call has answered.
#[cfg(target_arch = "x86_64")]
fn error_of(answer: i32) -> Result<u32> {
    u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer))
}

/// An argument of a call.
#[derive(Clone, Copy)]
enum Argument {
    /// A number.
    Word(u16),
    /// The address of the data.
    Data,
    /// What the call before gave.
    Last,
}
use Argument::{Data, Last, Word};

/// A number and its arguments.
type Call = (u16, [Argument; 3]);

/// `unistd_32.h`
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const OPEN: u16 = 5;
    pub(super) const WRITE: u16 = 4;
    pub(super) const SOCKET: u16 = 359;
    pub(super) const CONNECT: u16 = 362;
}

/// `arch/arm/tools/syscall.tbl`
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const OPEN: u16 = 5;
    pub(super) const WRITE: u16 = 4;
    pub(super) const SOCKET: u16 = 281;
    pub(super) const CONNECT: u16 = 283;
}

/// Makes the calls one after the other, until one fails.
#[cfg(target_arch = "x86_64")]
fn run(data: &[u8], calls: &[Call]) -> Result {
    let address = low(data)?;
    let mut result = 0;
    for (number, arguments) in calls {
        let value = |argument| match argument {
            Word(value) => u32::from(value),
            Data => address,
            Last => result,
        };
        result = error_of(call_32(u32::from(*number), arguments.map(value)))?;
    }
    Ok(())
}

/// A copy in the lower 4 GiB, which is all that a 32-bit call can point to.
#[cfg(target_arch = "x86_64")]
fn low(data: &[u8]) -> Result<u32> {
    // SAFETY: a new mapping, which nothing else points to.
    let room = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), data.len(), libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    let address = u32::try_from(room as usize).map_err(io::Error::other)?;
    // SAFETY: the mapping is ours and long enough.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), room.cast(), data.len()) };
    Ok(address)
}

/// A system call by the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn call_32(number: u32, arguments: [u32; 3]) -> i32 {
    let mut result = number;
    // SAFETY: the kernel reads the registers as the 32-bit convention has it and writes the result to eax; rbx, which the
    // compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg {first:r}, rbx",
            "int 0x80",
            "xchg {first:r}, rbx",
            first = inout(reg) u64::from(arguments[0]) => _,
            inout("eax") result,
            in("ecx") arguments[1],
            in("edx") arguments[2],
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result.cast_signed()
}

/// Becomes a 32-bit program that makes the calls and ends with the error of the one that fails.
#[cfg(target_arch = "aarch64")]
fn run(data: &[u8], calls: &[Call]) -> Result {
    use std::{
        io::Write as _,
        os::{
            fd::{AsRawFd as _, FromRawFd as _},
            unix::process::CommandExt as _,
        },
    };
    // SAFETY: the name is a C string.
    let file = unsafe { libc::memfd_create(c"program".as_ptr(), 0) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given the descriptor to us alone.
    let mut file = unsafe { std::fs::File::from_raw_fd(file) };
    file.write_all(&program(data, calls))?;
    Err(std::process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).exec())
}

/// An ELF file for 32-bit ARM: header, one segment, instructions (A32), data.
#[cfg(target_arch = "aarch64")]
fn program(data: &[u8], calls: &[Call]) -> Vec<u8> {
    const BASE: u32 = 0x1_0000;
    const HEADERS: u32 = 52 + 32;
    /// `svc 0`, `cmp r0, #0`, `rsblt r0, r0, #0`, `movge r0, #0`
    const SVC: u32 = 0xef00_0000;
    const IS_NEGATIVE: u32 = 0xe350_0000;
    const NEGATE: u32 = 0xb260_0000;
    const SUCCEED: u32 = 0xa3a0_0000;
    const EXIT: u16 = 1;
    /// Instructions for each call, and for the end.
    const EACH: usize = 10;
    const LAST: usize = 5;
    let length = EACH * calls.len() + LAST;
    let place = BASE + HEADERS + 4 * length as u32;
    let mov = |register: u32, value: u16| {
        let value = u32::from(value);
        0xe300_0000 | (value >> 12) << 16 | register << 12 | value & 0xfff
    };
    let movt = |register: u32, value: u16| mov(register, value) | 0x0040_0000;
    let mut code = Vec::new();
    for (number, arguments) in calls {
        for (register, argument) in (0..).zip(arguments) {
            let (low, high) = match argument {
                Word(value) => (mov(register, *value), movt(register, 0)),
                Data => (mov(register, place as u16), movt(register, (place >> 16) as u16)),
                // `mov r0, r0`: it is only ever the first argument, and there already.
                Last => (0xe1a0_0000, 0xe1a0_0000),
            };
            code.extend([low, high]);
        }
        code.extend([mov(7, *number), SVC, IS_NEGATIVE]);
        // `blt` to the end, counted from the instruction after the next: of the last call it is one back.
        let ahead = ((length - LAST) as u32).wrapping_sub(code.len() as u32 + 2);
        code.push(0xba00_0000 | ahead & 0x00ff_ffff);
    }
    code.extend([IS_NEGATIVE, NEGATE, SUCCEED, mov(7, EXIT), SVC]);

    let size = HEADERS + 4 * length as u32 + data.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC, EM_ARM; then version, entry, program headers, no section headers, EF_ARM_EABI_VER5.
    file.extend([2_u16, 40].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1, BASE + HEADERS, 52, 0, 0x0500_0000].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend([52_u16, 32, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // PT_LOAD: the whole file, readable and executable, aligned to the largest page.
    let segment = [1, 0, BASE, BASE, size, size, 5, 0x1_0000];
    file.extend(segment.iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(data);
    file
}
