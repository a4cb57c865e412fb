//! Running other programs: quietly to ask them something, loudly to have them do something.

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use flowwarden_tests::tools::{self, is_executable};

/// Runs `command` with the terminal attached; anything but success is an error that quotes the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = quote(command);
    println!("+ {line}");
    succeed(command, &line)
}

/// The same without a word before it; `line` is what an error quotes.
pub(crate) fn succeed(command: &mut Command, line: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("`{line}` could not be started"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// What `command` prints on its standard output, or `None` when it is missing or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first executable file called `program` on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let directories = search_path();
    env::split_paths(&directories).map(|directory| directory.join(program)).find(|file| is_executable(file))
}

/// `PATH`, and after it the places where cargo and Debian keep programs that a root shell may not list; of a step its links
/// and nothing else.
pub(crate) fn search_path() -> std::ffi::OsString {
    if env::var_os(tools::LINKS).is_some() {
        return env::var_os("PATH").unwrap_or_default();
    }
    let mut directories: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    directories.extend(cargo_home.map(|home| home.join("bin")));
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    // Only a directory with a colon in its name cannot be joined, and none came out of a split with one.
    env::join_paths(directories).unwrap_or_default()
}

/// True for root, who may install packages and load eBPF programs.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Goes on as this program, as root. From here on the terminal, its signals and the exit code are the program's.
pub(crate) fn become_root(what: &str, program: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = if is_root() {
        Command::new(program)
    } else if find("sudo").is_some() {
        println!("{what} runs as root: starting it with sudo");
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    } else {
        bail!("{what} runs as root; as root, type:\n    {} {}", program.display(), arguments.join(" "));
    };
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be started", program.display()))
}

/// The command as it would be typed, near enough to be read.
fn quote(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
