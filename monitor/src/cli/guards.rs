//! Guards and attached programs on this machine, for commands that find no guard at their path.

use std::fmt::Display;

use anyhow::anyhow;
use monitor::{
    control::ControlError,
    kernel::census::{self, Enforcing},
};

/// Programs that enforce without a guard, as text with the command that detaches them. Empty unless the caller is root.
pub(super) fn unguarded() -> Vec<String> {
    all().iter().filter(|it| !it.guarded).map(ToString::to_string).collect()
}

/// All attached programs, with or without a guard.
pub(super) fn all() -> Vec<Enforcing> {
    if rustix::process::geteuid().is_root() { census::take() } else { Vec::new() }
}

/// An error, followed by the programs that enforce without a guard.
pub(super) fn with_unguarded(error: impl Display) -> anyhow::Error {
    let lines: Vec<_> = unguarded().into_iter().map(|line| format!("\n{line}")).collect();
    anyhow!("{error}{}", lines.concat())
}

/// The same for an error of the control socket.
pub(super) fn explained(error: ControlError) -> anyhow::Error {
    match error {
        ControlError::NoGuard(_) | ControlError::Ended(_) => with_unguarded(error),
        error => error.into(),
    }
}
