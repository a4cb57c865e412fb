//! The modules of a kernel that a machine needs for its disk, a network, overlays, and sockets of all kinds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::cargo;

/// In the order in which they can be loaded. What is not among a kernel's modules is built in.
const MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "libcrc32c",
    "ext4",
    "xor",
    "raid6_pq",
    "xxhash_generic",
    "blake2b_generic",
    "btrfs",
    "overlay",
    "veth",
    // Sockets of other kinds.
    "af_alg",
    "vsock",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
];

/// The content of each module that is none of the kernel's built-in parts, under a name that begins with its turn.
pub(super) fn read(unpacked: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let roots = ["lib/modules", "usr/lib/modules"].map(|root| unpacked.join(root));
    let mut files = Vec::new();
    for root in &roots {
        walk(root, &mut files);
    }
    let mut modules = Vec::new();
    for (turn, module) in MODULES.iter().enumerate() {
        let is_it = |file: &&PathBuf| {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == *module)
        };
        if let Some(file) = files.iter().find(is_it) {
            modules.push((format!("{turn:02}-{module}.ko"), content(file)?));
        }
    }
    Ok(modules)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

fn content(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
    }
    let output = cargo::plain("xz").args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.context("`xz` is missing: type `apt-get install xz-utils`")?;
    anyhow::ensure!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
