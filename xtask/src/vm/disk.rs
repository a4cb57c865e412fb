//! Disks: one with a real Node-RED and what it needs to run, a root file system that no maintainer script has touched, so
//! that it can be made for any architecture; and one with nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use flowwarden_tests::node_red;

use super::{
    apt::{self, Suite},
    architecture::Architecture,
    kernels::FileSystem,
};
use crate::{cargo, shell};

/// npm has Node.js for every architecture, each under a name of its own.
const NODE: &str = "20.20.2";
/// The libraries that it is linked with, and what makes network namespaces.
const PACKAGES: &[&str] = &["libc6", "libstdc++6", "iproute2"];
/// Documentation, and what only a compiler reads.
const USELESS: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale"];
/// Where something is mounted.
const DIRECTORIES: &[&str] = &["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"];
/// Where Node-RED is, as the harness looks for it.
pub(super) const CACHE: &str = "/var/cache/flowwarden";
const PASSWD: &str = "root:x:0:0::/root:/sbin/nologin\n";
/// Room for what the tests write, in MiB.
const ROOM: u64 = 256;

/// Makes the disk, unless it is there; gives back its image.
pub(super) fn make(architecture: Architecture, place: &Path) -> Result<PathBuf> {
    let file_system = FileSystem::Ext4;
    let name = format!("node-red-{}-node-{NODE}-{architecture}.{}", node_red::VERSION, file_system.name());
    let image = place.join(name);
    if image.is_file() {
        return Ok(image);
    }
    let root = place.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let packages: Vec<_> = PACKAGES.iter().map(|&package| package.to_owned()).collect();
    Suite::open(&place.join("apt"), &apt::codename(), architecture)?.unpack_with_all(&packages, &root)?;
    for directory in USELESS {
        let _ = fs::remove_dir_all(root.join(directory));
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    node(architecture, place, &root.join("usr/bin/node"))?;
    let installed = node_red::install(node_red::VERSION)?;
    let directory = installed.ancestors().nth(3).context("Node-RED is installed nowhere")?;
    let cache = root.join(CACHE.trim_start_matches('/'));
    fs::create_dir_all(&cache)?;
    shell::run(cargo::plain("cp").arg("--archive").arg(directory).arg(&cache))?;
    fill(&image, &root, file_system)
}

/// Makes a disk with nothing on it but directories, unless it is there: what is on a disk can be reached past its file
/// system.
pub(super) fn bare(place: &Path, file_system: FileSystem) -> Result<PathBuf> {
    let image = place.join(format!("bare.{}", file_system.name()));
    if image.is_file() {
        return Ok(image);
    }
    let root = place.join("root");
    let _ = fs::remove_dir_all(&root);
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fill(&image, &root, file_system)
}

/// Makes an image with what is in `root`, and removes that.
fn fill(image: &Path, root: &Path, file_system: FileSystem) -> Result<PathBuf> {
    let partial = image.with_extension("partial");
    let size = size(root)? + ROOM;
    let mut make = match file_system {
        FileSystem::Ext4 => {
            let mut make = cargo::plain("mke2fs");
            make.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(root).arg(&partial);
            make.arg(format!("{size}M"));
            make
        }
        FileSystem::Btrfs => {
            fs::File::create(&partial)?.set_len(size << 20)?;
            let mut make = cargo::plain("mkfs.btrfs");
            make.args(["--quiet", "--rootdir"]).arg(root).arg(&partial);
            make
        }
    };
    shell::run(&mut make)?;
    fs::rename(&partial, image)?;
    fs::remove_dir_all(root)?;
    Ok(image.to_owned())
}

/// Fetches Node.js for an architecture that this machine need not have, and puts its program at `to`.
fn node(architecture: Architecture, place: &Path, to: &Path) -> Result<()> {
    let package = format!("node-linux-{}@{NODE}", architecture.node());
    let mut pack = npm();
    let name = shell::ask(pack.args(["pack", "--silent", &package]).current_dir(place))
        .with_context(|| format!("{package} comes from npm: see that npm reaches its registry, then try again"))?;
    let archive = place.join(name.lines().last().unwrap_or_default());
    let mut unpack = cargo::plain("tar");
    unpack.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(place).arg("package/bin/node");
    shell::run(&mut unpack)?;
    fs::copy(place.join("package/bin/node"), to).with_context(|| format!("{} cannot be made", to.display()))?;
    fs::remove_file(archive)?;
    fs::remove_dir_all(place.join("package"))?;
    Ok(())
}

fn npm() -> Command {
    cargo::plain("npm")
}

/// What a directory takes, in MiB, with a tenth more for the file system's own tables.
fn size(directory: &Path) -> Result<u64> {
    let said = shell::ask(cargo::plain("du").args(["--summarize", "--block-size=1M"]).arg(directory));
    let number = said.as_deref().and_then(|said| said.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.context("`du` does not tell how large the disk has to be")? * 11 / 10)
}
