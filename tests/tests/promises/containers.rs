//! Node-RED in a real container of Podman: it is found, and its files are guarded wherever it sees them.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    confine::Confinement,
    flows::{FileAction, Flow},
    guard::Guard,
    node_red::{NodeRed, Outcome},
    podman::{Podman, USER_DIR},
    policy::Policy,
    record::Record,
    scene::Scene,
    snapshot::{Snapshot, State},
};
use serde_json::json;

const RULE: &str = "settings-js";
/// How long a record may take.
const RECORD: Duration = Duration::from_secs(5);

/// What the container's first process knows, and Node-RED does not.
const SECRET: &str = "database-password-4711";

#[test]
fn a_container_is_found_with_its_name_and_directory_and_its_settings_are_guarded() -> Result<()> {
    let scene = Scene::empty()?;
    let podman = Podman::new(&scene.cgroup)?;
    let mut node_red = NodeRed::contained(scene.node_red.confinement().clone(), podman)?;
    node_red.start()?;
    let (id, name) = (node_red.container()?.id()?, node_red.container()?.name().to_owned());
    let found = node_red.container()?.discover()?;
    let uid = node_red.confinement().uid;
    for (fact, expected) in [
        ("kind", json!("podman")),
        ("name", json!(name)),
        ("container", json!(id)),
        ("user-dir", json!(USER_DIR)),
        ("host-user-dir", json!(node_red.home().user_dir())),
        ("uid", json!(uid)),
    ] {
        ensure!(found[fact] == expected, "{fact} is not {expected}: {found:#}");
    }

    let mut settings = Snapshot::take(&node_red.settings())?;
    let attack = Flow::file(&Path::new(USER_DIR).join("settings.js"), FileAction::Append, "TAMPERED");
    let outcome = node_red.play(&attack)?;
    let state = settings.state()?;
    ensure!(matches!(outcome, Outcome::Answered(_)) && state == State::Changed, "{outcome:?}, {state:?}");
    settings.restore()?;

    let policy = Policy::preset("home", &node_red)?;
    let selector = format!("container = \"{}\"", &id[..12]);
    ensure!(policy.text().contains(&selector), "it is not selected by {selector}:\n{}", policy.text());
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let outcome = node_red.play(&attack)?;
    let state = settings.state()?;
    ensure!(!matches!(outcome, Outcome::Answered(_)) && state == State::Intact, "{outcome:?}, {state:?}");
    let records = guard.stop()?;
    let met: Vec<_> = records.iter().filter(|record| record.is_alert()).collect();
    ensure!(!met.is_empty() && met.iter().all(|record| record.rule() == RULE), "{met:#?}");
    let inside = Path::new(USER_DIR).join("settings.js");
    ensure!(met.iter().all(|record| Path::new(record.path()) == inside), "{met:#?}");
    ensure!(met.iter().all(|record| record.json()["unmapped"]["container"] == *id), "{met:#?}");

    // One that does not run is known by what Podman has written down.
    let found = node_red.container()?.discover()?;
    for (fact, expected) in [
        ("pid", json!(null)),
        ("kind", json!("podman")),
        ("name", json!(name)),
        ("user-dir", json!(node_red.home().user_dir())),
        ("uid", json!(uid)),
    ] {
        ensure!(found[fact] == expected, "{fact} is not {expected}: {found:#}");
    }
    Ok(())
}

#[test]
fn the_environment_of_a_containers_first_process_is_closed_to_root_in_it() -> Result<()> {
    const ENVIRON: &str = "process-environments";
    let scene = Scene::empty()?;
    // As scripts of images do that take passwords from the environment: what they start has them no more.
    let podman = Podman::new(&scene.cgroup)?.with(&["--env", &format!("SECRET={SECRET}")]);
    let podman = podman.under(&["/bin/sh", "-c", "unset SECRET; \"$@\"; exit", "entrypoint"]);
    let root = Confinement { uid: 0, ..scene.node_red.confinement().clone() };
    let mut node_red = NodeRed::contained(root, podman)?;
    node_red.start()?;
    let attack = Flow::file_in(Path::new("/proc/1/environ"));
    let outcome = node_red.play(&attack)?;
    ensure!(outcome.text().contains(SECRET), "it is not to be had without a guard: {outcome:?}");
    let own = node_red.play(&Flow::function("msg.payload = String(env.get('SECRET')); return msg;", &[]))?;
    ensure!(!own.text().contains(SECRET), "Node-RED has it itself: {own:?}");

    let policy = Policy::preset("standard", &node_red)?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let outcome = node_red.play(&attack)?;
    ensure!(!outcome.text().contains(SECRET) && !matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    let reported = guard.wait_for(RECORD, Record::is_alert)?;
    ensure!(reported.rule() == ENVIRON && reported.path() == "/proc/1/environ", "{reported:#?}");
    guard.stop().map(drop)
}
