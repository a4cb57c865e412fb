//! `racer FILE COUNT [truncate]`: COUNT processes that write to FILE at the same moment. `racer --map FILE`: one that
//! writes to it through a mapping, with a descriptor that it opened before it reads a line from its input. `racer
//! --as-32-bit FILE`: one that opens and writes with the system calls of 32-bit programs, whose numbers are others.
//!
//! All of them wait for the end of one pipe; when it is closed, each opens the file and writes at once. The parent
//! prints how many got through to their write, and how many were killed.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    process::{Child, Command, ExitCode},
};

/// What a writer leaves in the file: a mark that the tests look for.
const MARK: &[u8] = b"OVERWRITTEN";

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--write", file, how] => write(file, how == "truncate"),
        ["--map", file] => map(file),
        #[cfg(target_arch = "x86_64")]
        ["--as-32-bit", file] => as_32_bit(file),
        [file, count] => race(file, count, "keep"),
        [file, count, how] => race(file, count, how),
        _ => {
            eprintln!("usage: racer FILE COUNT [truncate]");
            Ok(ExitCode::from(2))
        }
    }
}

fn race(file: &str, count: &str, how: &str) -> io::Result<ExitCode> {
    let count: usize = count.parse().map_err(|_| io::Error::other("COUNT is not a number"))?;
    let (gate, opener) = io::pipe()?;
    let writers: Vec<Child> = (0..count)
        .map(|_| Command::new("/proc/self/exe").args(["--write", file, how]).stdin(gate.try_clone()?).spawn())
        .collect::<io::Result<_>>()?;
    drop(opener);
    let (mut wrote, mut killed, mut failed) = (0, 0, 0);
    for mut writer in writers {
        let status = writer.wait()?;
        match status.signal() {
            Some(9) => killed += 1,
            None if status.success() => wrote += 1,
            _ => failed += 1,
        }
    }
    println!("wrote={wrote} killed={killed} failed={failed}");
    Ok(ExitCode::SUCCESS)
}

fn write(file: &str, truncate: bool) -> io::Result<ExitCode> {
    // The gate opens when the parent closes its end.
    io::stdin().read_to_end(&mut Vec::new())?;
    OpenOptions::new().write(true).truncate(truncate).open(file)?.write_all(MARK)?;
    Ok(ExitCode::SUCCESS)
}

fn map(file: &str) -> io::Result<ExitCode> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    println!("open");
    io::stdin().read_line(&mut String::new())?;
    // SAFETY: a new mapping of one page, over nothing that is in use.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MARK.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page was mapped above, and the file is not shorter than the mark.
    unsafe { std::ptr::copy_nonoverlapping(MARK.as_ptr(), page.cast(), MARK.len()) };
    Ok(ExitCode::SUCCESS)
}

/// A system call by the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn call_32(number: u32, arguments: [u32; 3]) -> i32 {
    let mut result = number;
    // SAFETY: the kernel reads the registers as the 32-bit convention has it and writes the result to eax; rbx, which
    // the compiler keeps for itself, is put back.
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

#[cfg(target_arch = "x86_64")]
fn as_32_bit(file: &str) -> io::Result<ExitCode> {
    const OPEN: u32 = 5;
    const WRITE: u32 = 4;
    let path = std::ffi::CString::new(file)?;
    let bytes = path.as_bytes_with_nul();
    // SAFETY: a new mapping in the lower 4 GiB, which is all that a 32-bit call can point to.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    let low = u32::try_from(page as usize).map_err(|_| io::Error::other("no memory in the lower 4 GiB"))?;
    if bytes.len() > 4096 {
        return Err(io::Error::other("the path is too long"));
    }
    // SAFETY: the page was mapped above and is long enough.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast(), bytes.len()) };
    let fd = call_32(OPEN, [low, libc::O_WRONLY.cast_unsigned(), 0]);
    let Ok(fd) = u32::try_from(fd) else { return Err(io::Error::from_raw_os_error(-fd)) };
    let written = call_32(WRITE, [fd, low, 4]);
    Ok(if written == 4 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
