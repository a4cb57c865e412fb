//! The guard as a service: what it says to systemd, without anybody who looks at its console, and beside another one.

use std::{
    fs,
    io::pipe,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, journal, needs, policy::Policy, scene::Scene, wait};
use rustix::process::{Pid, Signal, kill_process};

/// The next message of the service to systemd.
fn next(from: &UnixDatagram) -> Result<String> {
    let mut said = [0; 4096];
    let length = from.recv(&mut said).context("systemd gets no message")?;
    Ok(String::from_utf8_lossy(said.get(..length).unwrap_or_default()).into_owned())
}

fn signal(guard: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(guard.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    Ok(kill_process(pid, signal)?)
}

#[test]
fn systemd_knows_how_a_guard_is_and_a_console_that_is_gone_ends_none() -> Result<()> {
    let scene = Scene::empty()?;
    let directory = Guard::new_directory()?;
    let at = |name: &str| directory.path().join(name);
    // A file that is not there is warned of at each reload.
    let policy = Policy::enforce(&scene.node_red).file("not/there", &["write"], "kill", "none");
    fs::write(at("policy.toml"), policy.text())?;
    let systemd = UnixDatagram::bind(at("notify"))?;
    systemd.set_read_timeout(Some(wait::PATIENCE))?;
    let mut run = Command::new(needs::flowwarden()?);
    run.arg("run").arg("--config").arg(at("policy.toml")).arg("--cgroup-root").arg(scene.cgroup.path());
    for place in ["journal", "state"] {
        run.arg(format!("--{place}")).arg(at(place));
    }
    run.env("NOTIFY_SOCKET", at("notify")).stdin(Stdio::null());
    let mut guard = run.stdout(pipe()?.1).stderr(pipe()?.1).spawn()?;
    let said = next(&systemd)?;
    ensure!(said.starts_with("READY=1\nSTATUS=enforce, instances "), "{said}");
    signal(&guard, Signal::HUP)?;
    wait::until("a reload", wait::PATIENCE, || {
        ensure!(guard.try_wait()?.is_none(), "it has ended");
        let records = journal::records(&at("journal"))?;
        Ok(records.iter().any(|record| record.pointer_text("/activity_name") == "Reload").then_some(()))
    })?;
    signal(&guard, Signal::TERM)?;
    ensure!(next(&systemd)? == "STOPPING=1", "its end is not reported");
    let status = guard.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_second_guard_does_not_take_the_first_ones_place() -> Result<()> {
    let scene = Scene::empty()?;
    let policy = Policy::enforce(&scene.node_red);
    let first = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let directory = Guard::new_directory()?;
    let mut second = Command::new(needs::flowwarden()?);
    second.arg("run").arg("--config").arg(first.policy_file()).arg("--cgroup-root").arg(scene.cgroup.path());
    for (flag, place) in [("journal", directory.path()), ("state", first.directory())] {
        second.arg(format!("--{flag}")).arg(place.join(flag));
    }
    let mut child = second.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let ended = wait::until("the end of the second guard", wait::PATIENCE, || Ok(child.try_wait()?));
    child.kill()?;
    let errors = String::from_utf8(child.wait_with_output()?.stderr)?;
    ensure!(ended?.code() == Some(1) && errors.contains("a guard runs already with the state in"), "{errors}");
    ensure!(first.asks("status")?.contains("no window is open"), "the first one cannot be asked any more");
    first.stop().map(drop)
}

/// What it knew of processes would be about others.
#[test]
fn where_processes_have_other_numbers_a_guard_does_not_start() -> Result<()> {
    let directory = Guard::new_directory()?;
    let mut run = Command::new(needs::program("unshare")?);
    run.args(["--pid", "--fork", "--mount-proc", "timeout", "20"]).arg(needs::flowwarden()?).arg("run");
    for place in ["journal", "state"] {
        run.arg(format!("--{place}")).arg(directory.path().join(place));
    }
    let ended = run.stdin(Stdio::null()).output()?;
    let errors = String::from_utf8(ended.stderr)?;
    ensure!(ended.status.code() == Some(1) && errors.contains("--pid=host"), "{} {errors}", ended.status);
    ensure!(!directory.path().join("journal").exists(), "it has begun");
    Ok(())
}
