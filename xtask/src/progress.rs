//! Progress of work that takes long: what is done, what to expect, and how long it has taken so far.

use std::{
    io::{IsTerminal as _, Write as _, stdout},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

/// How the time is shown while the work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// One line that is written again and again.
    Rewritten,
    /// A line now and then, for a pipe and beside the output of the work itself.
    Lines,
}

impl Style {
    fn pause(self) -> Duration {
        match self {
            Self::Rewritten => Duration::from_secs(1),
            Self::Lines => Duration::from_secs(30),
        }
    }

    fn begin(self, what: &str, expected: &str) -> String {
        let line = format!("{what} ({expected}) ...");
        if self == Self::Rewritten { line } else { line + "\n" }
    }

    fn go_on(self, what: &str, expected: &str, elapsed: Duration) -> String {
        let elapsed = time(elapsed);
        match self {
            Self::Rewritten => format!("\r\u{1b}[K{what} ({expected}) ... {elapsed}"),
            Self::Lines => format!("{what} ... {elapsed}\n"),
        }
    }

    fn end(self, what: &str, elapsed: Duration, succeeded: bool) -> String {
        let start = if self == Self::Rewritten { "\r\u{1b}[K" } else { "" };
        let how = if succeeded { "done" } else { "failed" };
        format!("{start}{what}: {how} after {}\n", time(elapsed))
    }
}

/// Shows that silent work goes on.
pub(crate) fn silent<T>(what: &str, expected: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    show(if stdout().is_terminal() { Style::Rewritten } else { Style::Lines }, what, expected, work)
}

/// Shows that work goes on which prints by itself.
pub(crate) fn noisy<T>(what: &str, expected: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    show(Style::Lines, what, expected, work)
}

fn show<T>(style: Style, what: &str, expected: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    print(&style.begin(what, expected));
    let (end, ended) = mpsc::channel::<()>();
    let done = thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(style.pause()) == Err(RecvTimeoutError::Timeout) {
                print(&style.go_on(what, expected, start.elapsed()));
            }
        });
        let done = work();
        drop(end);
        done
    });
    print(&style.end(what, start.elapsed(), done.is_ok()));
    done
}

fn print(text: &str) {
    let mut out = stdout().lock();
    // Who has closed the pipe does not read of it either.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn time(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_whole_lines_and_a_terminal_one_that_is_rewritten() {
        let (what, expected, elapsed) = ("npm installs Node-RED", "90 MB, 1 min", Duration::from_secs(75));
        assert_eq!(Style::Lines.begin(what, expected), "npm installs Node-RED (90 MB, 1 min) ...\n");
        assert_eq!(Style::Lines.go_on(what, expected, elapsed), "npm installs Node-RED ... 1 min 15 s\n");
        assert_eq!(Style::Lines.end(what, elapsed, true), "npm installs Node-RED: done after 1 min 15 s\n");
        assert!(Style::Rewritten.begin(what, expected).ends_with("..."));
        let line = Style::Rewritten.go_on(what, expected, elapsed);
        assert_eq!(line, "\r\u{1b}[Knpm installs Node-RED (90 MB, 1 min) ... 1 min 15 s");
        let failed = Style::Rewritten.end(what, Duration::from_secs(3), false);
        assert_eq!(failed, "\r\u{1b}[Knpm installs Node-RED: failed after 3 s\n");
    }

    #[test]
    fn the_work_gives_its_result() {
        assert_eq!(noisy("work", "no time", || Ok(7)).unwrap(), 7);
        assert!(noisy("work", "no time", || -> Result<()> { anyhow::bail!("broken") }).is_err());
    }
}
