//! What the guard says to whoever looks at its terminal.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::pipeline::Said;
use journal::text::terminal;

/// What is said goes to the standard error: the standard output is for something else.
static ASIDE: AtomicBool = AtomicBool::new(false);

/// Says everything aside from now on, or not.
pub(super) fn aside(quiet: bool) {
    ASIDE.store(quiet, Ordering::Relaxed);
}

/// Prints a line; a reader that went away is no reason to stop guarding.
pub(super) fn say(line: &str) {
    if ASIDE.load(Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "{line}");
        return;
    }
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(super) fn say_incident(said: &Said, whole: bool) {
    if whole {
        say(&terminal::plain(said.sentence.as_bytes()));
    }
    if let Some(mend) = &said.mend {
        say(&terminal::plain(format!("  what to do: {mend}").as_bytes()));
    }
}
