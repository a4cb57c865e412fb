//! Packages of other suites, unpacked beside the system and never installed.
//!
//! apt keeps its lists and its idea of what is installed in directories of our own, so that the machine's stay as they
//! are. The mirror is the one that the machine uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::architecture::Architecture;
use crate::{cargo, setup, shell};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt for one suite, or for some that belong together, and one architecture.
pub(crate) struct Suite {
    directory: PathBuf,
    architecture: Architecture,
}

impl Suite {
    /// Reads the lists of a suite; what apt needs to know is kept under `directory`.
    pub(crate) fn open(directory: &Path, suite: &str, architecture: Architecture) -> Result<Self> {
        Self::of(directory, &[(mirror()?, suite.to_owned())], architecture)
    }

    /// Reads the lists of the suite that this machine runs, with its security updates.
    pub(crate) fn own(directory: &Path, architecture: Architecture) -> Result<Self> {
        let (suite, mirror) = (codename(), mirror()?);
        let updates = (format!("{mirror}-security"), format!("{suite}-security"));
        Self::of(directory, &[(mirror, suite), updates], architecture)
    }

    /// The first suite gives the directory its name.
    fn of(directory: &Path, suites: &[(String, String)], architecture: Architecture) -> Result<Self> {
        let name = suites.first().map_or("", |(_, suite)| suite);
        let opened = Self { directory: directory.join(format!("{name}-{architecture}")), architecture };
        for part in ["lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(opened.directory.join(part))?;
        }
        fs::write(opened.directory.join("status"), "")?;
        let source = |(mirror, suite): &(String, String)| {
            format!("deb [arch={architecture} signed-by={KEYRING}] {mirror} {suite} main\n")
        };
        fs::write(opened.directory.join("sources.list"), suites.iter().map(source).collect::<String>())?;
        shell::run(opened.apt("apt-get").args(["--quiet", "--quiet", "update"]))?;
        Ok(opened)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = setup::apt(program);
        let at = |name: &str| self.directory.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", at("empty")),
            ("Dir::Etc::preferencesparts", at("empty")),
            ("Dir::State::lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", self.architecture.to_string()),
            ("APT::Architectures::", self.architecture.to_string()),
        ] {
            apt.arg("-o").arg(format!("{option}={value}"));
        }
        apt
    }

    /// The packages that `package` depends on and whose names begin with one of `prefixes` and a digit.
    pub(crate) fn depends(&self, package: &str, prefixes: &[&str]) -> Vec<String> {
        let list = shell::ask(self.apt("apt-cache").args(["depends", package])).unwrap_or_default();
        let names = list.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let wanted = |name: &&str| {
            prefixes.iter().any(|prefix| {
                name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
            })
        };
        names.filter(wanted).map(str::to_owned).collect()
    }

    /// Fetches packages and unpacks them; `to` has nothing else, and is there when it is whole.
    pub(crate) fn unpack(&self, packages: &[String], to: &Path) -> Result<()> {
        let partial = to.parent().context("packages are unpacked nowhere")?.join("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        let archives = self.archives("archives")?;
        // apt fetches as a user of its own, who may not write here; it says so, and goes on as root.
        shell::run(self.apt("apt-get").args(["--quiet", "--quiet", "download"]).args(packages).current_dir(&archives))?;
        extract(&archives, &partial)?;
        let _ = fs::remove_dir_all(to);
        Ok(fs::rename(&partial, to)?)
    }

    /// Fetches packages with all that they depend on, and unpacks them into `to`.
    pub(crate) fn unpack_with_all(&self, packages: &[String], to: &Path) -> Result<()> {
        let archives = self.archives("cache/archives")?;
        fs::create_dir_all(archives.join("partial"))?;
        let mut fetch = self.apt("apt-get");
        fetch.args(["--quiet", "--quiet", "--yes", "--no-install-recommends", "--download-only", "install"]);
        shell::run(fetch.args(packages))?;
        extract(&archives, to)
    }

    /// An empty directory for packages.
    fn archives(&self, name: &str) -> Result<PathBuf> {
        let archives = self.directory.join(name);
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives)?;
        Ok(archives)
    }
}

/// Unpacks all packages of a directory, and removes it.
fn extract(archives: &Path, to: &Path) -> Result<()> {
    let files = fs::read_dir(archives)?.flatten().map(|entry| entry.path());
    for archive in files.filter(|file| file.extension().is_some_and(|extension| extension == "deb")) {
        shell::run(cargo::plain("dpkg-deb").arg("--extract").arg(archive).arg(to))?;
    }
    Ok(fs::remove_dir_all(archives)?)
}

/// Has the machine's own apt do something with one more suite, whose lists are kept under `directory`.
pub(crate) fn with_suite(directory: &Path, suite: &str, act: impl FnOnce(&mut Command) -> Result<()>) -> Result<()> {
    let parts = directory.join("parts");
    fs::create_dir_all(directory.join("lists/partial"))?;
    fs::create_dir_all(&parts)?;
    for own in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        fs::copy(own.path(), parts.join(own.file_name()))?;
    }
    let more = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(parts.join("flowwarden.list"), more)?;
    let apt = || {
        let mut apt = setup::apt("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.arg("-o").arg(format!("Dir::Etc::sourceparts={}", parts.display()));
        apt.arg("-o").arg(format!("Dir::State::lists={}", directory.join("lists").display()));
        apt
    };
    shell::run(apt().args(["--quiet", "--quiet", "update"]))?;
    act(&mut apt())
}

/// The name of the suite that the machine runs.
pub(crate) fn codename() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or("bookworm").to_owned()
}

/// The mirror that the machine takes its own suite from.
fn mirror() -> Result<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = parts.chain(["/etc/apt/sources.list".into()]).collect();
    files.sort();
    for file in &files {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(found) = text.lines().find_map(uri) {
            return Ok(found.to_owned());
        }
    }
    bail!("no mirror of Debian's archive is named under /etc/apt: packages can be fetched on Debian only")
}

/// The archive's address in a line of either format, security updates aside.
fn uri(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if first != "deb" && first != "URIs:" {
        return None;
    }
    words.find(|word| word.contains("://")).map(|uri| uri.trim_end_matches('/')).filter(|uri| uri.ends_with("/debian"))
}

/// The lines that name the archive of a suite, with its updates, at the mirror that the machine uses.
pub(crate) fn sources(suite: &str) -> Result<[String; 3]> {
    let mirror = mirror()?;
    let line = |mirror: &str, suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main");
    let security = line(&format!("{mirror}-security"), &format!("{suite}-security"));
    Ok([line(&mirror, suite), line(&mirror, &format!("{suite}-updates")), security])
}

/// What `path` begins with, in a directory.
pub(crate) fn first_in(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("{} is missing", directory.display()))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    names.sort();
    names
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("{} has no {prefix}...", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        assert_eq!(uri("URIs: http://mirror.example/debian/"), Some("http://mirror.example/debian"));
        assert_eq!(
            uri("deb [signed-by=/k] https://mirror.example/debian bookworm main"),
            Some("https://mirror.example/debian")
        );
        assert_eq!(uri("# deb http://mirror.example/debian bookworm main"), None);
        assert_eq!(uri("URIs: http://mirror.example/debian-security"), None);
    }
}
