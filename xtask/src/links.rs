//! The `PATH` of a step: one directory of links to the programs that tests/src/tools.rs declares for it.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result, bail};
use flowwarden_tests::{
    needs,
    tools::{self, Source, Step},
};

use crate::{cargo, shell};

/// Directories that every user may write to: a policy may deny programs from there, and others may clear them.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// Steps that start tests. There rustup's proxies, which put their own directory before a `PATH`, are passed by.
const TESTING: [Step; 4] = [Step::Unit, Step::Vm, Step::Kernel, Step::Promises];

/// This program again with these arguments, as the step: it finds the programs of the step and no other, and ends with
/// this process.
pub(crate) fn command(step: Step, before: &[&str], arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("setpriv");
    // By its own name there may be another by now: steps build `xtask`, too.
    let own = format!("/proc/{}/exe", process::id());
    command.args(["--pdeathsig", "TERM"]).args(before).arg(own).args(arguments);
    confine(&mut command, step)?;
    Ok(command)
}

/// Goes on as the step: returns when this process finds the programs of the step and no other, and starts the program
/// again with these arguments otherwise.
pub(crate) fn enter(step: Step, arguments: &[&str]) -> Result<()> {
    let links = place("tools").join(name(step));
    if env::var_os(tools::LINKS).is_some_and(|found| links == Path::new(&found)) {
        return Ok(());
    }
    // By its own name there may be another by now, or none: a build replaces it.
    let mut command = Command::new("/proc/self/exe");
    confine(&mut command, step)?;
    let error = command.args(arguments).exec();
    Err(error).context("this program cannot be started again")
}

fn confine(command: &mut Command, step: Step) -> Result<()> {
    let links = make(step)?;
    command.env("PATH", &links).env(tools::LINKS, &links);
    Ok(())
}

/// Makes the directory of a step as its programs are now.
fn make(step: Step) -> Result<PathBuf> {
    let mut wanted = BTreeMap::new();
    for tool in tools::of(&[step]) {
        let found = match tool.source {
            Source::Rustup if tool.program != "rustup" && TESTING.contains(&step) => of_toolchain(tool.program),
            _ => tool.find(),
        };
        match (found, tool.source) {
            (Some(file), _) => _ = wanted.insert(tool.program, file),
            // Who needs it says so.
            (None, Source::Cargo) => {}
            (None, Source::Rustup) => {
                bail!("rustup has no `{}`: type `rustup component add clippy rustfmt`", tool.program)
            }
            (None, _) => bail!(
                "`{}` is missing, though {} was asked for: type `apt-get install --reinstall {1}`",
                tool.program,
                tool.package().unwrap_or_default()
            ),
        }
    }
    let directory = place("tools").join(name(step));
    fill(&directory, &wanted).with_context(|| format!("{} cannot be made", directory.display()))?;
    Ok(directory)
}

/// The program itself instead of rustup's proxy.
fn of_toolchain(program: &str) -> Option<PathBuf> {
    let mut which = cargo::plain("rustup");
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        which.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    shell::ask(which.args(["which", program])).map(PathBuf::from)
}

/// Leaves these links in a directory and nothing else. Links that are right stay: another step may be using them.
fn fill(directory: &Path, wanted: &BTreeMap<&str, PathBuf>) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| wanted.contains_key(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    for (name, file) in wanted {
        let link = directory.join(name);
        if fs::read_link(&link).is_ok_and(|leads| leads == *file) {
            continue;
        }
        let new = directory.join(format!("{name}.{}", process::id()));
        symlink(file, &new)?;
        fs::rename(new, link)?;
    }
    Ok(())
}

fn name(step: Step) -> String {
    format!("{step:?}").to_lowercase()
}

/// Where a directory of this checkout is that other users may enter.
pub(crate) fn place(what: &str) -> PathBuf {
    let target = needs::target();
    let target = target.canonicalize().unwrap_or(target);
    let cache = if shell::is_root() { None } else { env::home_dir().map(|home| home.join(".cache")) };
    place_for(what, &target, is_open_to_all(&target), &cache.unwrap_or_else(|| "/var/cache".into()))
}

/// In the target directory, where that will do: users of a test's own have to enter it, and it must not be one of
/// [`SHARED`] nor below, as where a checkout is thrown away. Otherwise in the cache, where each target directory has its own.
fn place_for(what: &str, target: &Path, is_open: bool, cache: &Path) -> PathBuf {
    if is_open && !SHARED.iter().any(|shared| target.starts_with(shared)) {
        return target.join(what);
    }
    let own = target.display().to_string().replace('/', "-");
    cache.join("flowwarden").join(what).join(own.trim_start_matches('-'))
}

fn is_open_to_all(directory: &Path) -> bool {
    let closed = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0);
    !directory.ancestors().any(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_never_below_a_directory_that_all_may_write_to() {
        let place = |target: &str, is_open| place_for("tools", Path::new(target), is_open, Path::new("/var/cache"));
        assert_eq!(place("/srv/x/target", true), Path::new("/srv/x/target/tools"));
        assert_eq!(place("/tmpfiles/target", true), Path::new("/tmpfiles/target/tools"));
        for (target, name) in [("/tmp/x/target", "tmp-x-target"), ("/var/tmp/target", "var-tmp-target")] {
            assert_eq!(place(target, true), Path::new("/var/cache/flowwarden/tools").join(name));
        }
        // A user of a test's own cannot enter /root.
        assert_eq!(place("/root/x/target", false), Path::new("/var/cache/flowwarden/tools/root-x-target"));
    }

    #[test]
    fn a_directory_has_the_links_that_are_wanted_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("links");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        fill(&place, &[("a", "/x/a".into()), ("b", "/x/b".into())].into()).unwrap();
        assert_eq!(names(), ["a", "b"]);
        fill(&place, &[("b", "/y/b".into()), ("c", "/y/c".into())].into()).unwrap();
        assert_eq!(names(), ["b", "c"]);
        assert_eq!(fs::read_link(place.join("b")).unwrap(), Path::new("/y/b"));
    }

    #[test]
    fn an_undeclared_program_is_not_found_though_the_machine_has_it() {
        // `nice` looks for what it starts as every program does.
        let starts = |program: &str, path: &std::ffi::OsStr| {
            let mut command = Command::new("nice");
            command.args([program, "--version"]).env("PATH", path);
            command.output().unwrap().status.success()
        };
        let (links, machine) = (make(Step::Fmt).unwrap(), tools::DEBIAN.join(":"));
        assert!(starts("setpriv", links.as_os_str()) && starts("sed", machine.as_ref()));
        assert!(!starts("sed", links.as_os_str()));
    }
}
