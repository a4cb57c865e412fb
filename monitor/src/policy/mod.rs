//! The policy: a TOML file becomes a validated [`model::Policy`], and that becomes map entries.
//!
//! [`parse`] knows the format and nothing of the machine, [`host`] what only the machine can tell (users, cgroups,
//! who may write the file), [`compile`] the tree of nodes that [`monitor_common::decide`] walks.

pub mod compile;
pub mod host;
pub mod model;
pub mod parse;
pub mod preset;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use model::Policy;

/// One thing that is wrong with a policy file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct Fault {
    /// From 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and the mend.
    pub what: String,
}

/// A policy file that cannot be used. Nothing of it is applied.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}", render(path, faults))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All that was found, in the order of the file.
        faults: Vec<Fault>,
    },
}

fn render(path: &Path, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(|fault| Located(path, fault).to_string()).collect();
    lines.join("\n")
}

/// A fault with its file, as an editor can jump to it.
pub struct Located<'a>(pub &'a Path, pub &'a Fault);

impl fmt::Display for Located<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, fault) = self;
        if fault.line == 0 {
            write!(to, "{}: {}", path.display(), fault.what)
        } else {
            write!(to, "{}:{}:{}: {}", path.display(), fault.line, fault.column, fault.what)
        }
    }
}

/// Reads, parses and validates a policy file; the warnings come beside it.
pub fn read(path: &Path, host: &dyn host::Host) -> Result<(Policy, Vec<Fault>), PolicyError> {
    let real = fs::canonicalize(path).map_err(|source| PolicyError::Unreadable { path: path.to_owned(), source })?;
    let text = fs::read_to_string(&real).map_err(|source| PolicyError::Unreadable { path: path.to_owned(), source })?;
    let faulty = |faults| PolicyError::Faulty { path: path.to_owned(), faults };
    let policy = parse::parse(&text).map_err(faulty)?;
    let mut faults = host::refuse(&policy, host);
    faults.extend(host::writable(&real, &policy, host));
    if faults.is_empty() {
        let warnings = host::warn(&policy, host);
        Ok((policy, warnings))
    } else {
        Err(faulty(faults))
    }
}
