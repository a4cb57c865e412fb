//! Errors of the kernel side.

use std::{io, path::PathBuf};

use aya::{maps::MapError, programs::ProgramError};

use super::{btf, pin::PinError, rights::RightsError};

/// Why the kernel side could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The guard was built without the kernel programs.
    #[error("this program was built without the kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// The kernel has no BTF, or it cannot be read.
    #[error(transparent)]
    Btf(#[from] btf::BtfError),
    /// BTF lacks a field that every program needs.
    #[error("this kernel's BTF lacks {}; it is not supported, please report its version", .0.join(", "))]
    Fields(Vec<String>),
    /// The kernel refused the object.
    #[error("the kernel programs cannot be loaded: {0}")]
    Object(#[from] aya::EbpfError),
    /// The process lacks the capabilities to load programs.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// The kernel refused a program.
    #[error("kernel program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The cause.
        source: ProgramError,
    },
    /// The kernel refused a map, or the map is full.
    #[error("kernel map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// The cause.
        source: MapError,
    },
    /// The object lacks a program or a map.
    #[error("the kernel object has no {0}: it was built from another version; rebuild with `cargo xtask build`")]
    Absent(&'static str),
    /// A file could not be opened to identify it.
    #[error("{path}: {source}")]
    Identify {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The cgroup to attach to cannot be opened.
    #[error("{path}: {source}")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory is not a cgroup v2 directory.
    #[error(
        "{0} is not a cgroup v2 directory: mount it, for example by `mount -t cgroup2 none /sys/fs/cgroup`, and start again"
    )]
    NoCgroup(PathBuf),
    /// The guard drains log lines that the object does not write.
    #[cfg(feature = "trace")]
    #[error("the kernel programs have no log lines: build them with `cargo xtask build --trace`")]
    NoTrace,
    /// The log lines of the kernel programs cannot be drained.
    #[cfg(feature = "trace")]
    #[error("log lines of the kernel programs: {0}")]
    Trace(io::Error),
    /// A program or map could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

pub(super) type Result<T, E = KernelError> = std::result::Result<T, E>;

/// An error with its causes, each once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The first line of a kernel error, without the log of the verifier.
#[must_use]
pub fn first_line(text: &str) -> &str {
    text.split(". Verifier output").next().unwrap_or(text).lines().next().unwrap_or(text)
}
