//! Requirements of the harness. A missing one is an error with its fix, never a skipped test.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::tools;

/// Fails for anybody but root, who alone may load eBPF programs, change uids and make namespaces.
pub fn root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("the tests against a real Node-RED run as root: type `sudo -E env PATH=$PATH cargo xtask test`")
}

/// Whether this is a machine that `cargo xtask vm` has booted: it has the guard and the tests, and no other program.
#[must_use]
pub fn is_bare() -> bool {
    expected_sensor().is_some()
}

/// The sensor that has to be the best one there.
#[must_use]
pub fn expected_sensor() -> Option<String> {
    env::var("FLOWWARDEN_EXPECT").ok()
}

/// Where a program of the table is, by the name that starts it. Under `cargo xtask` it is one of the step's links.
pub fn program(program: &str) -> Result<PathBuf> {
    let tool =
        tools::declared(program).with_context(|| format!("`{program}` is not declared in tests/src/tools.rs"))?;
    if let Some(links) = env::var_os(tools::LINKS) {
        let link = Path::new(&links).join(program);
        ensure!(link.exists(), "`{program}` is not declared for this step in tests/src/tools.rs");
        return Ok(link);
    }
    let package = tool.package().unwrap_or("rustup");
    tool.find().with_context(|| {
        format!("`{program}` is missing: type `apt-get install {package}`, or `cargo xtask setup --tests`")
    })
}

/// The file that is executed when a program of the table is started, as the kernel names it.
pub fn executed(name: &str) -> Result<PathBuf> {
    let program = program(name)?;
    program.canonicalize().with_context(|| format!("{} leads nowhere", program.display()))
}

/// Where a package of Debian is unpacked that cannot be installed beside what the tests need otherwise.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let directory = unpacked_to(package);
    if directory.is_dir() {
        return Ok(directory);
    }
    bail!("{} is missing: type `cargo xtask setup --tests`, which unpacks {package} there", directory.display())
}

/// Where [`unpacked`] looks, and `cargo xtask setup` unpacks to.
#[must_use]
pub fn unpacked_to(package: &str) -> PathBuf {
    target().join("unpacked").join(package)
}

/// The workspace's target directory, where the programs under test are.
#[must_use]
pub fn target() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().unwrap_or(manifest);
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target))
}

/// The `flowwarden` program: `FLOWWARDEN_BIN`, or what `cargo xtask build` made.
pub fn flowwarden() -> Result<PathBuf> {
    let built = || target().join("guard/flowwarden");
    let file = env::var_os("FLOWWARDEN_BIN").map_or_else(built, PathBuf::from);
    if file.is_file() {
        return Ok(file);
    }
    bail!("{} is missing: type `cargo xtask build`, or name the program in FLOWWARDEN_BIN", file.display())
}

/// The program that does one thing: `FLOWWARDEN_ACTOR`, or `built` beside the test.
pub fn actor(built: Option<&str>) -> Result<PathBuf> {
    let file = env::var_os("FLOWWARDEN_ACTOR").map(PathBuf::from).or_else(|| built.map(PathBuf::from));
    file.filter(|file| file.is_file()).context("the program `actor` is missing: name it in FLOWWARDEN_ACTOR")
}

/// Runs `command` to its end; anything but success is an error with what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
