//! The console of the guard.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::pipeline::IncidentReport;
use journal::text::terminal;

/// Messages go to standard error, since standard output is used otherwise.
static ASIDE: AtomicBool = AtomicBool::new(false);

/// Selects standard error or standard output for messages.
pub(super) fn aside(quiet: bool) {
    ASIDE.store(quiet, Ordering::Relaxed);
}

/// Prints a line. A closed pipe is ignored.
pub(super) fn say(line: &str) {
    if ASIDE.load(Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "{line}");
        return;
    }
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(super) fn say_incident(said: &IncidentReport, whole: bool) {
    if whole {
        say(&terminal::plain(said.sentence.as_bytes()));
    }
    if let Some(remediation) = &said.remediation {
        say(&terminal::plain(format!("  what to do: {remediation}").as_bytes()));
    }
}
