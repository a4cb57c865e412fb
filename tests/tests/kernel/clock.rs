//! A clock that jumps, as that of a Raspberry Pi does when it finds a time server: rules hold, windows keep their time, the
//! journal stays whole.

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::MADE, record::Record, stand_in::StandIn, wait::PATIENCE};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::{
    start,
    windows::{changes, policy},
};

/// In seconds.
const YEAR: i64 = 365 * 24 * 60 * 60;
const MILLISECONDS: u64 = 1000;
/// What the guard may hold afterwards, in KiB.
const MOST: u64 = 64 << 10;

/// The machine's clock, put right again in the end.
struct Clock {
    real: Timespec,
    booted: Timespec,
}

impl Clock {
    fn now() -> Self {
        Self { real: clock_gettime(ClockId::Realtime), booted: clock_gettime(ClockId::Boottime) }
    }

    /// Sets it so many seconds before or after what is right.
    fn jump(&self, by: i64) -> Result<()> {
        let passed = clock_gettime(ClockId::Boottime).tv_sec - self.booted.tv_sec;
        let real = Timespec { tv_sec: self.real.tv_sec + passed + by, tv_nsec: self.real.tv_nsec };
        clock_settime(ClockId::Realtime, real).context("the clock cannot be set")
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = self.jump(0);
    }
}

#[test]
#[ignore = "sets the machine's clock: `cargo xtask vm` runs it in a machine of its own"]
fn years_forth_and_back_change_no_rule_no_window_and_no_line() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    let rules = policy(&stand_in).deny("young.js", &["write"], "young");
    let guard = start(&stand_in, &rules, &[])?;
    ensure!(!changes(&stand_in, "settings.js")?, "settings.js is open before anything has happened");
    let clock = Clock::now();
    for by in [10 * YEAR, -20 * YEAR] {
        let mark = guard.console().mark();
        guard.asks("open --for 1h --class settings")?;
        clock.jump(by)?;
        ensure!(changes(&stand_in, "settings.js")?, "a window has gone with the time");
        let status = guard.asks("status")?;
        let left = ["59m", "1h"].map(|left| format!("settings of instance plant-a, for {left}"));
        ensure!(left.iter().any(|left| status.contains(left)), "{status}");
        guard.asks("close")?;
        ensure!(!changes(&stand_in, "settings.js")?, "settings.js is open in another year");
        ensure!(guard.reload(&rules)?.contains("in force"));
        // How old a file is, is what the clock says of it.
        let (_, status) = stand_in.does("create young.js")?;
        ensure!(status.success(), "the maker is not let through: {status}\n{}", guard.console().text());
        guard.console().wait_for(mark, &format!("young.js has settled: {MADE}"), PATIENCE)?;
        let (_, status) = stand_in.does("append young.js")?;
        ensure!(!status.success(), "what is made is not protected");
        std::fs::remove_file(stand_in.user_dir().join("young.js"))?;
    }
    ensure!(guard.memory()?.now_kib < MOST, "{:?}", guard.memory()?);
    // The journal is verified with that.
    let records = guard.stop()?;
    let now = u64::try_from(clock.real.tv_sec)? * MILLISECONDS;
    let year = u64::try_from(YEAR)? * MILLISECONDS;
    let met = |record: &&Record| record.rule() == "settings-js" && matches!(record.verdict(), "deny" | "kill");
    let times: Vec<_> = records.iter().filter(met).filter_map(|record| record.number("/time")).collect();
    let is_in = |years: &dyn Fn(u64) -> bool| times.iter().any(|&time| years(time));
    ensure!(is_in(&|time| time > now + 9 * year), "nothing was met in ten years: {times:?}");
    ensure!(is_in(&|time| time < now - 9 * year), "nothing was met ten years ago: {times:?}");
    Ok(())
}
