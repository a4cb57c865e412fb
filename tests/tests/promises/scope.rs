//! Scope: the instance and all its descendants, whatever their uid, and no other process.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    confine::Confinement,
    flows::{FileAction, Flow},
    guard::Guard,
    needs,
    node_red::Outcome,
    policy::{INSTANCE, Policy},
    scene::Scene,
    snapshot::{Snapshot, State},
    user, wait,
};

use crate::{
    SCENE,
    stage::{by_cgroup, copy, saw},
};

const RULE: &str = "settings-js";

/// A copy of `program` that runs as root for everybody, as sudo does.
fn setuid_copy(scene: &Scene, program: &str) -> Result<PathBuf> {
    copy(scene, &needs::program(program)?, 0o4755)
}

/// A process that has become somebody else is still the instance's.
fn prove_watched(command: impl Fn(&Scene) -> Result<String>) -> Result<()> {
    SCENE.with(|scene| {
        // A file that only root may write: a write that succeeds was root's.
        let directory = scene.node_red.home().directory("vault")?;
        let path = directory.join("vault.js");
        fs::write(&path, "sealed\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let mut vault = Snapshot::take(&path)?;
        let attack = Flow::exec(&format!("echo TAMPERED | {}", command(scene)?));

        let outcome = scene.without_guard(&attack)?;
        ensure!(vault.state()? == State::Changed, "the attacker does not become root: {outcome:?}");
        vault.restore()?;

        let policy = Policy::enforce(&scene.node_red).file(&path.display().to_string(), &["write"], "kill", "vault");
        let guarded = scene.with_guard(&policy, "vault", &attack)?;
        ensure!(vault.state()? == State::Intact, "root wrote: {guarded:#?}");
        let alerts = guarded.alerts("vault");
        ensure!(alerts.iter().any(|alert| alert.verdict() == "kill" && alert.instance() == INSTANCE), "{guarded:#?}");
        Ok(())
    })
}

#[test]
fn setuid_program() -> Result<()> {
    prove_watched(|scene| {
        let tee = setuid_copy(scene, "tee")?;
        Ok(format!("'{}' -a '{}/vault/vault.js'", tee.display(), scene.node_red.home().path().display()))
    })
}

#[test]
fn all_ids_changed_as_sudo_does() -> Result<()> {
    prove_watched(|scene| {
        let setpriv = setuid_copy(scene, "setpriv")?;
        let ids = "--reuid=0 --regid=0 --clear-groups";
        Ok(format!("'{}' {ids} tee -a '{}/vault/vault.js'", setpriv.display(), scene.node_red.home().path().display()))
    })
}

#[test]
fn new_session_after_all_ids_changed() -> Result<()> {
    prove_watched(|scene| {
        let setpriv = setuid_copy(scene, "setpriv")?;
        let ids = "--reuid=0 --regid=0 --clear-groups";
        let file = format!("{}/vault/vault.js", scene.node_red.home().path().display());
        Ok(format!("'{}' {ids} setsid --fork --wait tee -a '{file}'", setpriv.display()))
    })
}

#[test]
fn neighbour_with_another_uid_is_never_touched() -> Result<()> {
    SCENE.with(|scene| {
        let mut neighbour = scene.neighbour()?;
        let settings = Snapshot::take(&neighbour.settings())?;
        let policy = Policy::enforce(&scene.node_red).guard_settings();
        let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
        let outcome = neighbour.play(&Flow::file(&neighbour.settings(), FileAction::Append, "MINE"))?;
        ensure!(matches!(outcome, Outcome::Answered(_)), "the neighbour was hindered: {outcome:?}");
        ensure!(settings.state()? == State::Changed, "the neighbour did not write");
        let uid = neighbour.confinement().uid;
        let pid = neighbour.pid().context("the neighbour has ended")?;
        let records = guard.stop()?;
        ensure!(
            records.iter().all(|record| record.pid() != Some(pid.into())),
            "uid {uid} is in the journal: {records:#?}"
        );
        ensure!(records.iter().all(|record| !record.is_alert()), "{records:#?}");
        Ok(())
    })
}

#[test]
fn administrator_may_write_settings_js() -> Result<()> {
    SCENE.with(|scene| {
        let mut settings = Snapshot::take(&scene.node_red.settings())?;
        let policy = Policy::enforce(&scene.node_red).guard_settings();
        let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
        let write = format!("echo '// edited' >> '{}'", scene.node_red.settings().display());
        needs::run(Command::new("sh").args(["-c", &write]))?;
        ensure!(settings.state()? == State::Changed, "the administrator was hindered");
        let records = guard.stop()?;
        settings.restore()?;
        ensure!(records.iter().all(|record| record.rule() != RULE), "root is not the instance: {records:#?}");
        Ok(())
    })
}

#[test]
fn what_ran_before_the_guard_is_watched() -> Result<()> {
    SCENE.with(|scene| {
        let mut settings = Snapshot::take(&scene.node_red.settings())?;
        let path = scene.node_red.settings();
        // The child is there when the guard comes, and no child of Node-RED any more when it writes.
        let go = scene.node_red.home().path().join("go");
        let _ = fs::remove_file(&go);
        let script = format!(
            "(setsid sh -c 'while [ ! -e {go} ]; do sleep 0.1; done; echo TAMPERED >> {path}; echo $? > {go}.done' >/dev/null 2>&1 &)",
            go = go.display(),
            path = path.display()
        );
        let done = go.with_extension("done");
        for guarded in [false, true] {
            let _ = (fs::remove_file(&go), fs::remove_file(&done));
            scene.node_red.start()?;
            scene.node_red.play(&Flow::exec(&script))?;
            let policy = Policy::enforce(&scene.node_red).guard_settings();
            let guard = guarded.then(|| Guard::start(Some(&policy), &scene.cgroup, &[])).transpose()?;
            fs::write(&go, "")?;
            match guard {
                None => {
                    wait::until("the orphan's write", wait::PATIENCE, || Ok(done.exists().then_some(())))?;
                    ensure!(settings.state()? == State::Changed, "the orphan does no harm even without a guard");
                    settings.restore()?;
                }
                Some(guard) => {
                    guard.wait_for(wait::SOON, |record| record.rule() == RULE && record.verdict() == "kill")?;
                    ensure!(settings.state()? == State::Intact, "the orphan wrote");
                    guard.stop()?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn who_is_moved_into_the_instances_cgroup_is_watched_from_then_on() -> Result<()> {
    let scene = Scene::empty()?;
    let file = scene.node_red.home().file("moved.txt", "INTACT")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let attack = format!("read go; echo TAMPERED >> '{}'", file.display());
    let policy = Policy::enforce(&scene.node_red).file(&file.display().to_string(), &["write"], "kill", "moved");
    let policy = by_cgroup(&scene, policy)?;
    let stranger = Confinement {
        uid: user::free_uid()?,
        cgroup: scene.cgroup.child("elsewhere")?,
        ..scene.node_red.confinement().clone()
    };
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    for moved in [false, true] {
        fs::write(&file, "INTACT")?;
        let mut command = Command::new("sh");
        let mut child = stranger.spawn(command.args(["-c", &attack]).stdin(Stdio::piped()))?;
        if moved {
            let entrance = scene.node_red.confinement().cgroup.entrance()?;
            rustix::io::write(&entrance, child.id().to_string().as_bytes())?;
        }
        child.stdin.take().context("no input")?.write_all(b"go\n")?;
        let status = child.wait()?;
        let wrote = fs::read_to_string(&file)? != "INTACT";
        ensure!(wrote != moved && status.success() != moved, "moved: {moved}, wrote: {wrote}, {status}");
    }
    saw(&guard.stop()?, "open", "kill")?;
    Ok(())
}
