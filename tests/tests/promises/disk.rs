//! A disk that is full: the guard goes on guarding, old events give way to new ones, and what is lost is counted.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{flows::js, guard::Guard, mounts, policy::Policy, scene::Scene, wait};
use rustix::mount::{MountFlags, mount};
use tempfile::TempDir;

/// What the disk holds, in bytes.
const DISK: u64 = 24 << 20;
/// The smallest segment that can be asked for.
const LIMITS: &str = "[journal]\nsegment = \"16MiB\"\n";

/// Opens a file many times, as the instance's user.
fn flood(scene: &Scene, opens: u32) -> Result<()> {
    let file = scene.node_red.home().user_dir().join("flooded.txt");
    let script = format!(
        "const fs = require('fs'); for (let i = 0; i < {opens}; i++) fs.closeSync(fs.openSync({}));",
        js(&file)
    );
    let status = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?;
    ensure!(status.success(), "the flood did not finish: {status}");
    Ok(())
}

/// Appends to settings.js as the instance's user; true when that was let happen.
fn appends(scene: &Scene) -> Result<bool> {
    let mut command = Command::new("tee");
    command.arg("-a").arg(scene.node_red.settings()).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(scene.node_red.confinement().spawn(&mut command)?.wait()?.success())
}

/// Fills a disk until `free` bytes are left, or fewer: the guard writes meanwhile.
fn fill(ballast: &Path, free: u64) -> Result<()> {
    let file = fs::File::create(ballast)?;
    let stat = rustix::fs::statvfs(ballast)?;
    let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(free);
    let block = vec![1; 1 << 16];
    let mut written = 0;
    while written < bytes {
        match file.write_all_at(&block, written) {
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            done => done.context("the ballast cannot be written")?,
        }
        written += block.len() as u64;
    }
    Ok(())
}

#[test]
fn a_full_disk_costs_old_events_and_never_the_guard() -> Result<()> {
    let scene = Scene::empty()?;
    let directory = Guard::new_directory()?;
    let place = directory.path().to_owned();
    // The disk is mounted for this thread and its children alone.
    let work = move || -> Result<()> {
        mounts::part()?;
        full_disk(&scene, directory)
    };
    let outcome = thread::spawn(work).join().map_err(|_| anyhow::anyhow!("the test panicked"))?;
    // With the thread its mounts are gone; what the disk was mounted on could not be removed before.
    let _ = fs::remove_dir(place);
    outcome
}

fn full_disk(scene: &Scene, directory: TempDir) -> Result<()> {
    fs::write(scene.node_red.home().user_dir().join("flooded.txt"), "water")?;
    scene.node_red.home().file(".node-red/settings.js", "module.exports = {}")?;
    let options = format!("size={DISK},mode=0700");
    mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), Some(std::ffi::CString::new(options)?.as_c_str()))?;
    let ballast = directory.path().join("ballast");
    let policy =
        Policy::enforce(&scene.node_red).guard_settings().file("flooded.txt", &["read"], "log", "flood").with(LIMITS);
    let guard = Guard::start_in(directory, Some(&policy), &scene.cgroup, &[])?;

    // Full, and nothing of the journal's own could give way: events wait in memory, and then are counted.
    fill(&ballast, 2 << 20)?;
    flood(scene, 20_000)?;
    ensure!(!appends(scene)?, "a full disk let an attack through");
    let memory = guard.memory()?;
    ensure!(memory.now_kib < 50 << 10, "{memory:?}");
    fs::remove_file(&ballast)?;
    let lost = guard.wait_for(wait::SOON, |record| record.number("/unmapped/journal_lost_total").is_some())?;
    ensure!(lost.number("/unmapped/journal_lost_total") > Some(0), "{lost:?}");
    ensure!(guard.console().text().contains("No space left"), "not reported:\n{}", guard.console().text());

    // Old segments give way to new events.
    flood(scene, 25_000)?;
    fill(&ballast, 256 << 10)?;
    flood(scene, 10_000)?;
    ensure!(!appends(scene)?, "a full disk let an attack through");
    // A removal is journaled once there is space.
    fs::remove_file(&ballast)?;
    guard.wait_for(wait::SOON, |record| record.number("/unmapped/removed/last_segment").is_some())?;
    // With room again, everything is evidence again. What happened before may have been among the lost.
    ensure!(!appends(scene)?, "an attack was let through");
    guard.wait_for(wait::SOON, |record| record.rule() == "settings-js")?;
    guard.stop().map(drop)
}
