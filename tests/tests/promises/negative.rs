//! No false alarms: what a real Node-RED does all day raises nothing under the policy that is built in, nor under the presets
//! that close most; for the others and other releases see `releases`.

use std::fs;

use anyhow::{Result, ensure};
use flowwarden_tests::{
    cli,
    flows::{FileAction, Flow},
    guard::{Guard, MADE},
    node_red::NodeRed,
    policy::Policy,
    record::Record,
    scene::Scene,
    wait,
};

/// The guard is small: less memory than this, in KiB.
const MOST_KIB: u64 = 30 * 1024;
/// What it may hold for a moment at its start, while the kernel's types are read to find the functions of the hooks.
const MOST_AT_START_KIB: u64 = 45 * 1024;

/// The built-in policy finds the instance by itself; whatever it logs in a day of Node-RED is a false alarm.
#[test]
fn a_day_in_the_life_of_node_red() -> Result<()> {
    let mut scene = Scene::empty()?;
    let guard = Guard::start(None, &scene.cgroup, &[])?;
    day(&mut scene, guard)
}

/// The presets that close more are for instances that have been started once, and that neither install nor execute.
#[test]
fn a_quiet_day_with_the_preset_multi_tenant() -> Result<()> {
    quiet_day_with("multi-tenant")
}

#[test]
fn a_quiet_day_with_the_preset_strict() -> Result<()> {
    quiet_day_with("strict")
}

fn quiet_day_with(preset: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let policy = Policy::written(cli::init(preset, &["--enforce"])?);
    let node_red = &mut scene.node_red;
    node_red.stop()?;
    // These presets tell of an editor that listens on every address.
    let settings = fs::read_to_string(node_red.settings())?;
    fs::write(
        node_red.settings(),
        settings.replacen("module.exports = {", "module.exports = {\nuiHost: '127.0.0.1',", 1),
    )?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    node_red.start()?;
    let measured = node_red.home().user_dir().join("measured.txt");
    for deploy in 1..=2 {
        let outcome = node_red.play(&Flow::function(&format!("msg.payload = {deploy}; return msg;"), &[]))?;
        ensure!(outcome.text() == deploy.to_string(), "deploy {deploy}: {outcome:?}");
        node_red.play(&Flow::file(&measured, FileAction::Append, "measured"))?;
    }
    ensure!(fs::read_to_string(&measured)? == "measuredmeasured", "a file in the user directory is closed");
    let library = node_red.http("POST", "/library/local/flows/kept.json", &Flow::empty().to_json())?;
    ensure!(library.is_success(), "the library refuses: {library:?}");
    node_red.stop()?;
    node_red.start()?;
    let alarms: Vec<_> = guard.journal()?.into_iter().filter(Record::is_alert).collect();
    ensure!(alarms.is_empty(), "false alarms: {alarms:#?}");

    // What the preset is there for: a shell.
    let outside = node_red.home().path().join("outside");
    node_red.play(&Flow::exec(&format!("touch '{}'", outside.display())))?;
    if preset == "strict" {
        guard.wait_for(wait::SOON, |record| record.is_alert() && record.rule() == "default-exec")?;
        ensure!(!outside.exists(), "a shell ran");
    }
    guard.stop().map(drop)
}

/// The administrator turns on a context that is kept on disk, and flushed every second.
pub(super) fn keep_context(node_red: &NodeRed) -> Result<()> {
    let settings = fs::read_to_string(node_red.settings())?;
    let context = "contextStorage: { default: { module: 'localfilesystem', config: { flushInterval: 1 } } },";
    let settings = settings.replacen("module.exports = {", &format!("module.exports = {{\n{context}"), 1);
    Ok(fs::write(node_red.settings(), settings)?)
}

/// What a Node-RED without anything special does on a day: deploys, a context that is kept, the library, the user's settings,
/// a file, a program, another start.
pub(super) fn ordinary(node_red: &mut NodeRed) -> Result<()> {
    let count =
        "const n = (flow.get('n') || 0) + 1; flow.set('n', n); global.set('n', n); msg.payload = n; return msg;";
    for deploy in 1..=2 {
        let outcome = node_red.play(&Flow::function(count, &[]))?;
        ensure!(outcome.text().parse::<u32>().is_ok(), "deploy {deploy}: {outcome:?}");
    }
    let stored = node_red.home().user_dir().join("context");
    wait::until("the context to be stored", wait::PATIENCE, || {
        Ok(stored.join("global/global.json").exists().then_some(()))
    })?;

    let library = node_red.http("POST", "/library/local/flows/kept.json", &Flow::function(count, &[]).to_json())?;
    ensure!(library.is_success(), "the library refuses: {library:?}");
    // Node-RED answers a moment before the entry shows in the list.
    wait::until("the library to list it", wait::PATIENCE, || {
        let listed = node_red.http("GET", "/library/local/flows/", "")?;
        Ok(listed.body.contains("kept").then_some(()))
    })?;
    let user = node_red.http("POST", "/settings/user", r#"{"menu-menu-item-sidebar":true}"#)?;
    ensure!(user.is_success(), "the user's settings are refused: {user:?}");

    let data = node_red.home().directory("data")?;
    node_red.play(&Flow::file(&data.join("log.txt"), FileAction::Append, "measured"))?;
    node_red.play(&Flow::exec("date"))?;
    node_red.stop()?;
    node_red.start()
}

fn day(scene: &mut Scene, guard: Guard) -> Result<()> {
    let node_red = &mut scene.node_red;

    // The first start, in an empty userDir, makes settings.js.
    node_red.start()?;
    node_red.stop()?;

    keep_context(node_red)?;
    node_red.start()?;
    ordinary(node_red)?;

    let so_far = guard.journal()?;
    let alarms: Vec<_> = so_far.iter().filter(|record| record.is_alarm()).collect();
    ensure!(alarms.is_empty(), "false alarms: {alarms:#?}");

    let memory = guard.memory()?;
    ensure!(memory.now_kib < MOST_KIB, "the guard holds {} KiB", memory.now_kib);
    ensure!(memory.peak_kib < MOST_AT_START_KIB, "the guard held {} KiB", memory.peak_kib);

    // The guard was awake all the time: the same policy sees the first real attack. On a fast machine all of the above takes
    // less than what a new settings file is given to become quiet.
    guard.console().wait_for(0, MADE, wait::PATIENCE)?;
    let attack = Flow::file(&node_red.settings(), FileAction::Append, "TAMPERED");
    node_red.play(&attack)?;
    guard.wait_for(wait::SOON, |record| record.is_alert() && record.path().ends_with("settings.js"))?;
    guard.stop().map(drop)
}

/// A private key is read by an undeclared process: the built-in policy speaks.
#[test]
fn built_in_policy_sees_a_key_that_is_read() -> Result<()> {
    let mut scene = Scene::new()?;
    let key = scene.node_red.home().file(".node-red/key.pem", "secret")?;
    let guard = Guard::start(None, &scene.cgroup, &[])?;
    scene.node_red.play(&Flow::file_in(&key))?;
    guard.wait_for(wait::SOON, |record| record.is_alert() && record.path().ends_with("key.pem"))?;
    guard.stop().map(drop)
}
