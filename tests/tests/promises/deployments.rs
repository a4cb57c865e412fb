//! Where an instance is no user of its own: the uid that it shares with people, and root in a container.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{self, Command},
    sync::Arc,
};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    confine::Confinement,
    flows::{FileAction, Flow},
    guard::Guard,
    needs,
    node_red::NodeRed,
    own,
    policy::{INSTANCE, Policy},
    record::Record,
    scene::Scene,
    snapshot::{Snapshot, State},
};

use crate::stage::{SIGKILL, by_cgroup, shell};

const RULE: &str = "settings-js";

#[test]
fn where_a_uid_is_shared_the_cgroup_of_the_unit_decides() -> Result<()> {
    let scene = Scene::empty()?;
    let unit = format!("{}.service", own::name());
    let outside =
        Confinement { cgroup: scene.cgroup.child("session-1.scope")?, ..scene.node_red.confinement().clone() };
    let inside = Confinement { cgroup: scene.cgroup.child(&unit)?, ..outside.clone() };
    let mut node_red = NodeRed::new(inside.clone())?;
    node_red.start()?;
    let mut settings = Snapshot::take(&node_red.settings())?;
    let policy = Policy::enforce(&node_red).guard_settings().select(&format!("{{ unit = \"{unit}\" }}"));
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;

    let path = node_red.settings();
    let edit = || shell(&format!("echo '// edited' >> '{}'", path.display()));
    let status = outside.spawn(&mut edit())?.wait()?;
    ensure!(status.success() && settings.state()? == State::Changed, "the user's own shell was hindered: {status}");
    ensure!(!guard.journal()?.iter().any(Record::is_alert), "the user's own shell is reported");
    let status = inside.spawn(&mut edit())?.wait()?;
    ensure!(status.signal() == Some(SIGKILL), "a shell inside of the unit is not met: {status}");
    settings.restore()?;

    let outcome = node_red.play(&Flow::file(&node_red.settings(), FileAction::Append, "TAMPERED"))?;
    ensure!(outcome.is_killed() && settings.state()? == State::Intact, "{outcome:?}, {:?}", settings.state()?);
    let records = guard.stop()?;
    let met: Vec<_> = records.iter().filter(|record| record.is_alert()).map(Record::rule).collect();
    ensure!(!met.is_empty() && met.iter().all(|rule| *rule == RULE), "{records:#?}");
    Ok(())
}

#[test]
fn an_instance_that_restarts_again_and_again_is_met_each_time_and_nothing_piles_up() -> Result<()> {
    const RESTARTS: usize = 20;
    /// The guard's memory may grow by so much from one restart to the nineteenth after it: what is read and written grows
    /// to its size in the beginning.
    const ROOM_KIB: u64 = 2048;
    let scene = Scene::empty()?;
    let file = scene.node_red.home().file(".node-red/settings.js", "module.exports = {};\n")?;
    let settings = Snapshot::take(&file)?;
    let unit = format!("{}.service", own::name());
    let uid = scene.node_red.confinement().uid;
    let policy = Policy::enforce(&scene.node_red).guard_settings();
    let policy = policy.select(&format!("{{ uid = {uid} }}, {{ unit = \"{unit}\" }}"));
    let mut guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let mut first = None;
    for turn in 0..RESTARTS {
        // As systemd does it: each start has a cgroup of its own by the same name, and the user's last process ends.
        let cgroup = scene.cgroup.child(&unit)?;
        let start = Confinement { cgroup, ..scene.node_red.confinement().clone() };
        let script = format!("sleep 0.2; echo '// {turn}' >> '{}'", file.display());
        let status = start.spawn(&mut shell(&script))?.wait()?;
        ensure!(status.signal() == Some(SIGKILL), "restart {turn}: {status}");
        first.get_or_insert(guard.memory()?.now_kib);
    }
    let (first, last) = (first.unwrap_or_default(), guard.memory()?.now_kib);
    ensure!(last <= first + ROOM_KIB, "from {first} KiB to {last} KiB");
    ensure!(settings.state()? == State::Intact, "{:?}", settings.state()?);
    let records = guard.end()?;
    let met: Vec<_> = records.iter().filter(|record| record.rule() == RULE && record.verdict() == "kill").collect();
    ensure!(met.len() == RESTARTS, "{} of {RESTARTS}: {met:#?}", met.len());
    // Failures and losses would be reported.
    let calm = guard.console().since(0).iter().all(|line| !line.contains("error") && !line.contains("lost"));
    ensure!(calm, "{}", guard.console().text());
    Ok(())
}

#[test]
fn root_in_a_container_is_held_to_the_rules_by_whatever_way_it_reaches_a_file() -> Result<()> {
    let scene = Scene::empty()?;
    let home = scene.node_red.home();
    let file = home.file(".node-red/settings.js", "module.exports = {};\n")?;
    let (user_dir, data) = (home.user_dir(), home.directory("data")?);
    let root = Confinement {
        uid: 0,
        cgroup: Arc::clone(&scene.node_red.confinement().cgroup),
        network: Arc::clone(&scene.network),
    };
    let unshare = needs::program("unshare")?;
    let ways = [
        ("its own name", format!("echo TAMPERED >> '{}'", file.display())),
        (
            "a bind mount, as a container has its volume",
            format!(
                "mount --bind '{}' '{1}' && echo TAMPERED >> '{1}/settings.js'",
                user_dir.display(),
                data.display()
            ),
        ),
        (
            "the root of a process of the host",
            format!("echo TAMPERED >> '/proc/{}/root{}'", process::id(), file.display()),
        ),
        (
            "another root directory",
            format!(
                "mount --bind / '{0}' && chroot '{0}' sh -c \"echo TAMPERED >> '{1}'\"",
                data.display(),
                file.display()
            ),
        ),
    ];
    let mut settings = Snapshot::take(&file)?;
    let go = |script: &str| -> Result<bool> {
        let mut command = Command::new(&unshare);
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        Ok(root.spawn(&mut command)?.wait()?.success())
    };
    for (way, script) in &ways {
        ensure!(go(script)? && settings.state()? == State::Changed, "{way} does not lead to the file");
        settings.restore()?;
    }
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).guard_settings())?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    for (way, script) in &ways {
        let through = go(script)?;
        let state = settings.state()?;
        ensure!(!through && state == State::Intact, "{way}: settings.js is {state:?}");
    }
    // The rules know the file, wherever it was seen from.
    let records = guard.stop()?;
    let reported: Vec<_> =
        records.iter().filter(|record| record.rule() == RULE && record.verdict() == "kill").collect();
    ensure!(reported.len() == ways.len(), "{} records: {reported:#?}", reported.len());
    let same = |record: &&Record| record.instance() == INSTANCE && record.path().ends_with("/settings.js");
    ensure!(reported.iter().all(same), "{reported:#?}");
    fs::remove_file(&file)?;
    Ok(())
}
