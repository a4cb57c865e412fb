//! The kernels that the tests are run on.

/// A kernel of Debian's, and how it is booted.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called here.
    pub(crate) name: &'static str,
    /// The suite that has it.
    pub(crate) suite: &'static str,
    /// The kernel's `lsm=` list; its own when there is none.
    pub(crate) lsm: Option<&'static str>,
    /// The best sensor that has to run on it.
    pub(crate) sensor: &'static str,
    /// Whether `cargo xtask test` boots it.
    pub(crate) fast: bool,
}

/// The meta package: the cloud flavour boots fastest, and has all that is needed built in.
pub(crate) const PACKAGE: &str = "linux-image-cloud-amd64";

const WITHOUT_BPF: Option<&str> = Some("lockdown,yama,apparmor");

/// All kernels. The suites move on: the version that ran is printed.
pub(crate) const KERNELS: &[Kernel] = &[
    Kernel { name: "5.10-lsm", suite: "bullseye", lsm: Some("lockdown,yama,apparmor,bpf"), sensor: "lsm", fast: false },
    Kernel { name: "5.10", suite: "bullseye", lsm: None, sensor: "fentry", fast: false },
    Kernel { name: "6.1", suite: "bookworm", lsm: None, sensor: "lsm", fast: true },
    Kernel { name: "6.1-no-bpf", suite: "bookworm", lsm: WITHOUT_BPF, sensor: "fentry", fast: false },
    Kernel { name: "6.12", suite: "bookworm-backports", lsm: None, sensor: "lsm", fast: true },
    Kernel { name: "newest", suite: "trixie-backports", lsm: None, sensor: "lsm", fast: false },
];
