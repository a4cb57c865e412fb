//! What is asked of the guard by signals.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use flowwarden_tests::{guard::Guard, policy::Policy, scene::Scene, wait};
use rustix::{
    net::sockopt::socket_peercred,
    process::{Signal, kill_process},
};

/// How often it is tried: the signal does not always come before the guard is ready.
const TIMES: usize = 5;

/// As when systemd reloads what it has just started.
#[test]
fn a_reload_that_is_asked_for_before_the_guard_is_ready_is_answered() -> Result<()> {
    let scene = Scene::empty()?;
    (0..TIMES).try_for_each(|_| reload_at_once(&scene))
}

fn reload_at_once(scene: &Scene) -> Result<()> {
    let directory = Guard::new_directory()?;
    // The guard listens here before its policy is in force.
    let socket = directory.path().join("state/control");
    let ended = Arc::<AtomicBool>::default();
    let over = Arc::clone(&ended);
    let ask = thread::spawn(move || -> Result<()> {
        let connect = || match UnixStream::connect(&socket) {
            _ if over.load(Ordering::Relaxed) => Err(anyhow!("nothing listens")),
            connected => Ok(connected.ok()),
        };
        let stream = wait::until("the guard's socket", wait::PATIENCE, connect)?;
        let guard = socket_peercred(&stream)?.pid;
        Ok(kill_process(guard, Signal::HUP)?)
    });
    let guard = Guard::start_in(directory, Some(&Policy::enforce(&scene.node_red)), &scene.cgroup, &[]);
    ended.store(guard.is_err(), Ordering::Relaxed);
    ask.join().ok().context("it was not asked")??;
    let guard = guard?;
    guard.console().wait_for(0, "reload: the new policy is in force", wait::SOON)?;
    guard.stop().map(drop)
}
