//! What runs and enforces on this machine, for commands that find no guard where they look.

use std::fmt::Display;

use anyhow::anyhow;
use monitor::{
    control::ControlError,
    kernel::census::{self, Enforcing},
};

/// What enforces although no guard runs, in words, each with the way out; nothing for anybody but root, who cannot know.
pub(super) fn unguarded() -> Vec<String> {
    all().iter().filter(|it| !it.guarded).map(ToString::to_string).collect()
}

/// All that enforces, with a guard or without.
pub(super) fn all() -> Vec<Enforcing> {
    if rustix::process::geteuid().is_root() { census::take() } else { Vec::new() }
}

/// An error, with what enforces although no guard runs.
pub(super) fn with_unguarded(error: impl Display) -> anyhow::Error {
    let lines: Vec<_> = unguarded().into_iter().map(|line| format!("\n{line}")).collect();
    anyhow!("{error}{}", lines.concat())
}

/// The same for an error of the control socket that may be the reason for it.
pub(super) fn explained(error: ControlError) -> anyhow::Error {
    match error {
        ControlError::NoGuard(_) | ControlError::Ended(_) => with_unguarded(error),
        error => error.into(),
    }
}
