//! Maintenance windows: requests of [`control`](crate::control), reports of changes, and decisions on reports.

pub mod decision;
pub mod programs;
pub mod report;

use std::time::Duration;

use monitor_common::policy::Maintenance;
use serde::{Deserialize, Serialize};

/// Longest window. A longer one belongs into the policy.
pub const LONGEST: Duration = Duration::from_hours(24);
/// Shortest window.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// A request to the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Open a window, or move the end of an open one.
    Open {
        /// Name of the instance; optional if the policy has one.
        instance: Option<String>,
        /// Name of the [`Maintenance`].
        class: String,
        /// Duration from now.
        seconds: u64,
    },
    /// Close windows.
    Close {
        /// Windows of this instance only.
        instance: Option<String>,
        /// Windows of this [`Maintenance`] only.
        class: Option<String>,
    },
    /// List open windows.
    Status,
}

/// An open window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Name of the instance.
    pub instance: String,
    /// Name of the [`Maintenance`].
    pub class: String,
    /// `CLOCK_BOOTTIME` at its end, in nanoseconds.
    pub until_ns: u64,
    /// The user who opened it.
    pub by: String,
}

impl Window {
    /// Kind of work; `None` if another version wrote an unknown name.
    #[must_use]
    pub fn maintenance(&self) -> Option<Maintenance> {
        Maintenance::by_name(&self.class)
    }

    /// Time until it closes.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until_ns.saturating_sub(boot_ns()))
    }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
#[must_use]
pub fn boot_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanoseconds = time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// Parses a duration such as `15m` or `2h 30m`.
pub fn length(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| format!("{error}; a time is like 15m or 2h"))?;
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(Duration::from_secs(length.as_secs()))
    } else {
        Err("a window is open for 1s to 24h: what is to stay open is a rule of the policy".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_length_that_fits() {
        assert_eq!(length("15m"), Ok(Duration::from_mins(15)));
        assert_eq!(length("24h"), Ok(LONGEST));
        for text in ["0s", "999ms", "24h 1s", "9999999days", "-3m", "soon", ""] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
