//! Waiting for something to become true, never longer than a given time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a thing may take that normally takes a second or two: generous, for machines that are emulated.
pub const PATIENCE: Duration = Duration::from_mins(4);
/// How long a thing may take that normally takes a moment: a machine may have other things to do.
pub const SOON: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every wait of this process with an error. Safe to call from a signal handler.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Asks `look` again and again until it has something, and gives that back; `what` names the thing for the error.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > timeout {
            bail!("waited {timeout:?} in vain for {what}");
        }
        pause(PAUSE)?;
    }
}

/// Waits while cleaning up: an interrupt does not end it. Returns whether `look` held within `timeout`.
pub fn while_cleaning_up(timeout: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if look() {
            return true;
        }
        if start.elapsed() > timeout {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Sleeps, unless the process is asked to end.
pub fn pause(time: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        if is_interrupted() {
            bail!("interrupted");
        }
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_up_waits_for_what_comes_later_and_for_no_longer_than_the_timeout() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            looks == 3
        };
        assert!(while_cleaning_up(PATIENCE, third));
        assert_eq!(looks, 3);
        assert!(!while_cleaning_up(Duration::ZERO, || false));
    }
}
