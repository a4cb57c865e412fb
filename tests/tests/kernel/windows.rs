//! Maintenance windows: operations are exempted and logged while one is open, and the kernel closes it, guard or
//! no guard.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use flowwarden_tests::{bpffs::BpfFs, needs, policy::Policy, record::Record, stand_in::StandIn, wait};

use super::{start, with_sensors};

/// An emulated machine takes its time.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a window is open that closes by itself, in seconds. What is done meanwhile takes less.
const SHORT: u64 = 8;

/// settings.js, which a window for settings opens, and a file beside it, which none does.
pub(super) fn policy(stand_in: &StandIn) -> Policy {
    stand_in.policy().deny("settings.js", &super::CHANGES, "settings-js").maintenance("settings").deny(
        "kept.js",
        &super::CHANGES,
        "kept",
    )
}

/// Whether the stand-in changes a file now. Puts it back.
pub(super) fn changes(stand_in: &StandIn, name: &str) -> Result<bool> {
    let (_, status) = stand_in.does(&format!("append {name}"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    stand_in.file("settings.js", flowwarden_tests::stand_in::SETTINGS, 0o644)?;
    Ok(status.success())
}

/// Waits until the time of a window is over, as the file shows.
fn wait_closed(stand_in: &StandIn) -> Result<()> {
    wait::until("the window to close", PATIENCE, || Ok((!changes(stand_in, "settings.js")?).then_some(())))
}

fn says<'a>(records: &'a [Record], what: &str) -> Result<&'a Record> {
    let found = records.iter().find(|record| record.pointer_text("/message").contains(what));
    found.with_context(|| format!("no record says \"{what}\": {records:#?}"))
}

#[test]
fn a_window_opens_what_it_names_and_closes_by_its_time_and_by_hand() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    // A third file for the windows of another class.
    stand_in.file("host", b"", 0o644)?;
    let policy = policy(&stand_in).deny("host", &super::CHANGES, "host").maintenance("files");
    let guard = start(&stand_in, &policy, &[])?;
    ensure!(!changes(&stand_in, "settings.js")?, "settings.js is open before there is a window");
    ensure!(guard.asks("status")?.contains("no window is open"), "there is a window already");

    let said = guard.asks(&format!("open --for {SHORT}s --class settings"))?;
    ensure!(said.contains("settings of instance plant-a"), "{said}");
    ensure!(changes(&stand_in, "settings.js")?, "settings.js is closed in a window for it");
    ensure!(!changes(&stand_in, "kept.js")?, "the window opens what it does not name");
    wait_closed(&stand_in)?;

    guard.asks("open --for 1h --class files")?;
    ensure!(changes(&stand_in, "host")?, "the host's files are closed in a window for them");
    ensure!(!changes(&stand_in, "settings.js")?, "a window for files opens settings.js");
    guard.asks("open --for 1h --class settings")?;
    guard.asks("close --class files")?;
    ensure!(
        !changes(&stand_in, "host")? && changes(&stand_in, "settings.js")?,
        "the other one of two windows is closed"
    );
    guard.asks("close")?;

    guard.asks("open --for 24h --class settings")?;
    ensure!(changes(&stand_in, "settings.js")?, "settings.js is closed in a long window");
    let status = guard.asks("status")?;
    ensure!(status.contains("settings of instance plant-a, for ") && status.contains("flowwarden (pid"), "{status}");
    // A window outlives a new policy.
    ensure!(guard.reload(&policy.clone().file("x", &["read"], "log", "x"))?.contains("in force"));
    ensure!(changes(&stand_in, "settings.js")?, "a reload has closed the window");
    guard.asks("close")?;
    ensure!(!changes(&stand_in, "settings.js")?, "a window that was closed is open");

    for (what, code, why) in [
        ("open --for 1m --class palette", 1, "no rule of plant-a has maintenance = \"palette\""),
        (
            "open --for 1m --class settings --instance plant-b",
            1,
            "there is no instance \"plant-b\"; there are: plant-a",
        ),
        ("open --for 25h --class settings", 2, "1s to 24h"),
        ("open --for soon --class settings", 2, "a time is like 15m"),
        ("close --instance plant-b", 1, "there is no instance \"plant-b\""),
    ] {
        let answer = guard.maintenance(what)?;
        ensure!(answer.code == Some(code) && answer.errors.contains(why), "{what}: {answer:?}");
    }
    ensure!(!changes(&stand_in, "settings.js")?, "what was refused has opened a window");

    let records = guard.stop()?;
    let lifted: Vec<_> = records.iter().filter(|record| record.has_flag("maintenance")).collect();
    ensure!(!lifted.is_empty(), "operations in the window are not logged: {records:#?}");
    let mild = |record: &&Record| ["settings-js", "host"].contains(&record.rule()) && record.verdict() == "log";
    ensure!(lifted.iter().all(mild), "{lifted:#?}");
    says(&records, &format!("settings of instance plant-a is open for {SHORT} s, by flowwarden (pid "))?;
    says(&records, "settings of instance plant-a is closed: its time is over")?;
    says(&records, "settings of instance plant-a is closed: by flowwarden (pid ")?;
    Ok(())
}

#[test]
fn a_window_closes_when_the_guard_is_dead_and_one_that_is_open_is_taken_over() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    let bpf = BpfFs::new()?;
    let pins = bpf.pins().display().to_string();
    let pinned = with_sensors(&["--pin", &pins]);
    let pinned: Vec<_> = pinned.iter().map(String::as_str).collect();
    let mut guard = start(&stand_in, &policy(&stand_in), &["--pin", &pins])?;

    guard.asks(&format!("open --for {SHORT}s --class settings"))?;
    guard.kill()?;
    ensure!(changes(&stand_in, "settings.js")?, "the window has gone with the guard");
    wait_closed(&stand_in).context("the window of a killed guard was not closed")?;
    let answer = guard.maintenance("status")?;
    ensure!(answer.code == Some(1) && answer.errors.contains("no guard runs"), "{answer:?}");

    let guard = guard.start_again(&stand_in.cgroup, &pinned)?;
    ensure!(!changes(&stand_in, "settings.js")?, "the next guard has opened a window that was closed");
    guard.asks("open --for 1h --class settings")?;
    let guard = guard.start_again(&stand_in.cgroup, &pinned)?;
    ensure!(changes(&stand_in, "settings.js")?, "the next guard has closed a window that was open");
    let status = guard.asks("status")?;
    ensure!(status.contains("settings of instance plant-a, for 59m"), "{status}");
    guard.asks("close --class settings")?;
    ensure!(!changes(&stand_in, "settings.js")?, "a window that was taken over does not close");
    let records = guard.stop()?;
    // The guard that has opened it is dead: the next one tells what was done in it.
    let closed = says(&records, "settings of instance plant-a is closed: its time was over")?;
    let report = closed.pointer_text("/unmapped/report");
    ensure!(report == "0 packages added, 0 removed, 0 updated; settings.js as it was", "{closed:#?}");
    needs::run(Command::new(needs::flowwarden()?).args(["detach", "--pin", &pins]))?;
    Ok(())
}

#[test]
fn without_pins_a_window_goes_with_its_guard() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    let guard = start(&stand_in, &policy(&stand_in), &[])?;
    guard.asks("open --for 1h --class settings")?;
    let with = with_sensors(&[]);
    let with: Vec<_> = with.iter().map(String::as_str).collect();
    let guard = guard.start_again(&stand_in.cgroup, &with)?;
    ensure!(!changes(&stand_in, "settings.js")?, "the window of another run is open");
    says(&guard.stop()?, "settings of instance plant-a is closed: the guard that had opened it has ended")?;
    Ok(())
}

/// What was opened in a window is written through for as long as the window is open.
#[test]
fn a_descriptor_does_not_outlive_its_window() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    stand_in.file("kept.js", b"kept", 0o644)?;
    let guard = start(&stand_in, &policy(&stand_in), &[])?;
    guard.asks("open --for 1h --class settings")?;
    let mut lingering = stand_in.begins("linger settings.js score")?;
    let score = stand_in.user_dir().join("score");
    let written = || std::fs::read_to_string(&score).ok()?.trim().parse::<u32>().ok();
    let many = || Ok(written().filter(|&written| written > 3));
    wait::until("some writes in the window", PATIENCE, many)?;
    ensure!(lingering.ended()?.is_none(), "it has ended in the window");
    guard.asks("close")?;
    let ended = wait::until("the end of the writes", PATIENCE, || lingering.ended())?;
    if ended.success() {
        bail!("it goes on when the window is closed");
    }
    let records = guard.stop()?;
    let met = |record: &Record| record.rule() == "settings-js" && matches!(record.verdict(), "deny" | "kill");
    ensure!(records.iter().any(met), "{records:#?}");
    // Each write is no event of its own.
    let logged = records.iter().filter(|record| record.has_flag("maintenance")).count();
    ensure!(logged < 8, "{logged} records");
    Ok(())
}
