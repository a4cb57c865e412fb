//! The kernels that the tests are run on.

use super::architecture::Architecture::{self, Amd64, Arm64};

/// A file system of a machine's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// What most have.
    Ext4,
    /// One with subvolumes and reflinks.
    Btrfs,
}

impl FileSystem {
    /// What the kernel calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
        }
    }
}

/// A kernel of Debian's, and how it is booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called here.
    pub(crate) name: &'static str,
    /// What it runs on.
    pub(crate) architecture: Architecture,
    /// The suite that has it.
    pub(crate) suite: &'static str,
    /// The meta package. The cloud flavour boots fastest, and has all that is needed built in.
    pub(crate) package: &'static str,
    /// The emulated processor; that of the board when there is none.
    pub(crate) processor: Option<&'static str>,
    /// The kernel's `lsm=` list; its own when there is none.
    pub(crate) lsm: Option<&'static str>,
    /// The best sensor that has to run on it.
    pub(crate) sensor: &'static str,
    /// The only sensors that it is tried with, beside the cgroup programs; all when there is none.
    pub(crate) only: Option<&'static str>,
    /// What its disk is formatted with.
    pub(crate) file_system: FileSystem,
    /// Whether a real Node-RED is tried on it, too.
    pub(crate) node_red: bool,
    /// Whether the tests run on it that start the guard again and again. Each start takes an emulated processor ten
    /// seconds and more: they run on the oldest kernel, on one with LSM, and on one with kprobes.
    pub(crate) restarts: bool,
    /// Whether `cargo xtask test` boots it, where the machine at hand has its architecture: one for each way to be seen, and
    /// not those that may use the tracepoints only, which are tried without any machine.
    pub(crate) fast: bool,
}

const fn amd64(name: &'static str, suite: &'static str, sensor: &'static str) -> Kernel {
    cloud(Amd64, "linux-image-cloud-amd64", name, suite, sensor)
}

const fn arm64(name: &'static str, suite: &'static str, sensor: &'static str) -> Kernel {
    cloud(Arm64, "linux-image-cloud-arm64", name, suite, sensor)
}

const fn cloud(
    architecture: Architecture,
    package: &'static str,
    name: &'static str,
    suite: &'static str,
    sensor: &'static str,
) -> Kernel {
    Kernel {
        name,
        architecture,
        suite,
        package,
        processor: None,
        lsm: None,
        sensor,
        only: None,
        file_system: FileSystem::Ext4,
        node_red: false,
        restarts: false,
        fast: true,
    }
}

/// All kernels. The suites move on: the version that ran is printed.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel { lsm: Some("lockdown,yama,apparmor,bpf"), fast: false, ..amd64("5.10-lsm", "bullseye", "lsm") },
    Kernel { restarts: true, ..amd64("5.10", "bullseye", "fentry") },
    Kernel { node_red: true, restarts: true, ..amd64("6.1", "bookworm", "lsm") },
    // The oldest has fentry, too.
    Kernel { lsm: Some("lockdown,yama,apparmor"), fast: false, ..amd64("6.1-no-bpf", "bookworm", "fentry") },
    // Requests of io_uring come by a tracepoint of another name than later.
    Kernel { only: Some("tracepoint"), fast: false, ..amd64("6.1-tracepoint", "bookworm", "tracepoint") },
    // Files of btrfs have other numbers for `stat` than within the kernel, and may share what is in them.
    Kernel { file_system: FileSystem::Btrfs, ..amd64("6.12", "bookworm-backports", "lsm") },
    // What is left where BPF may trace nothing but system calls.
    Kernel {
        only: Some("tracepoint"),
        file_system: FileSystem::Btrfs,
        fast: false,
        ..amd64("6.12-tracepoint", "bookworm-backports", "tracepoint")
    },
    amd64("newest", "trixie-backports", "lsm"),
    // Before 6.4, arm64 takes LSM and fentry programs in and refuses to attach them.
    Kernel { restarts: true, ..arm64("arm64-6.1", "bookworm", "kprobe") },
    Kernel { node_red: true, ..arm64("arm64-6.12", "bookworm-backports", "lsm") },
    // Pages of 16 KiB, as on a Raspberry Pi 5, whose processor this is; no cloud flavour has them.
    Kernel {
        package: "linux-image-arm64-16k",
        processor: Some("cortex-a76"),
        ..arm64("arm64-6.12-16k", "bookworm-backports", "lsm")
    },
    arm64("arm64-newest", "trixie-backports", "lsm"),
];
