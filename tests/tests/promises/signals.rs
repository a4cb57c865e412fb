//! What is asked of the guard by signals.

use std::{fs::File, io::Read as _, thread};

use anyhow::{Context as _, Result, anyhow};
use flowwarden_tests::{guard::Guard, policy::Policy, scene::Scene, wait};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process},
};

/// How often it is tried: whoever reads the pid here is not always sooner than the guard gets on.
const TIMES: usize = 5;

/// As when systemd reloads what it has just started.
#[test]
fn a_reload_that_is_asked_for_before_the_guard_is_ready_is_answered() -> Result<()> {
    let scene = Scene::empty()?;
    (0..TIMES).try_for_each(|_| reload_at_once(&scene))
}

fn reload_at_once(scene: &Scene) -> Result<()> {
    let directory = Guard::new_directory()?;
    let pid_file = directory.path().join("pid");
    mkfifoat(CWD, &pid_file, Mode::RUSR | Mode::WUSR)?;
    let ask = thread::spawn(move || -> Result<()> {
        let mut pid = [0; 16];
        let length = File::open(&pid_file)?.read(&mut pid)?;
        let pid = std::str::from_utf8(pid.get(..length).unwrap_or_default())?.parse()?;
        Ok(kill_process(Pid::from_raw(pid).context("no pid")?, Signal::HUP)?)
    });
    let guard = Guard::start_in(directory, Some(&Policy::enforce(&scene.node_red)), &scene.cgroup, &[])?;
    ask.join().map_err(|_| anyhow!("nobody asked"))??;
    guard.console().wait_for(0, "reload: the new policy is in force", wait::SOON)?;
    guard.stop().map(drop)
}
