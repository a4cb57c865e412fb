//! `racer FILE COUNT [truncate]`: COUNT processes that write to FILE at the same moment. `racer --map FILE`: one that
//! writes to it through a mapping, with a descriptor that it opened before it reads a line from its input.
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
