//! The fourth promise: packages change while an administrator has opened a window for that, and at no other time.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli, guard::Guard, http::Response, package, policy::Policy, record::Record, scene::Scene, wait,
};
use serde_json::{Value, json};

const RULE: &str = "palette";

/// Whether something is an alarm, and about something else than that the editor listens on every address, which the
/// stricter presets say at each start.
fn is_alarm(record: &Record) -> bool {
    record.is_alarm() && record.rule() != "editor-wildcard"
}

/// Whether the package is in the user directory.
fn is_installed(scene: &Scene) -> bool {
    scene.node_red.home().user_dir().join("node_modules").join(package::NAME).join("probe.js").exists()
}

/// Asks the palette manager to install the package.
fn install(scene: &Scene, scripts: &Value) -> Result<Response> {
    let tarball = package::tarball("1.0.0", scripts)?;
    scene.node_red.upload(&format!("{}-1.0.0.tgz", package::NAME), &tarball)
}

/// That it is refused, and that the rule says so.
fn refused(scene: &mut Scene, guard: &Guard, scripts: &Value, known: usize) -> Result<usize> {
    // Where the kernel cannot deny, Node-RED dies of it: no answer is one too.
    let answer = install(scene, scripts);
    ensure!(!answer.as_ref().is_ok_and(Response::is_success), "outside of a window: {answer:?}");
    ensure!(!is_installed(scene), "a package has been installed outside of a window");
    guard.wait_for(wait::SOON, |record| record.is_alarm() && record.rule() == RULE)?;
    let all: Vec<_> = guard.journal()?.into_iter().filter(is_alarm).collect();
    let new = all.get(known..).unwrap_or_default();
    ensure!(!new.is_empty() && new.iter().all(|it| it.rule() == RULE), "{new:#?}");
    // It may be about to die still.
    scene.node_red.stop()?;
    scene.node_red.start()?;
    Ok(all.len())
}

/// What `flowwarden maintenance report` says, once it says this.
fn reported(guard: &Guard, what: &str) -> Result<String> {
    let ask = format!("report --journal {}", guard.journal_directory().display());
    wait::until(what, wait::SOON, || {
        let answer = guard.maintenance(&ask)?;
        Ok(answer.text.contains(what).then_some(answer.text))
    })
    .with_context(|| guard.console().text())
}

/// `scripts` are what the package runs when it is installed.
fn prove(preset: &str, scripts: &Value) -> Result<()> {
    let mut scene = Scene::new()?;
    let policy = Policy::written(cli::init(preset, &["--enforce"])?);
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let known = refused(&mut scene, &guard, scripts, 0)?;

    let instance = policy.instance(&scene.node_red.home().user_dir())?;
    guard.asks(&format!("open --for 10m --instance {instance}"))?;
    let answer = install(&scene, scripts)?;
    ensure!(answer.is_success() && is_installed(&scene), "in a window: {answer:?}");
    let nodes = scene.node_red.http("GET", "/nodes", "")?;
    ensure!(nodes.body.contains(package::NODE) || nodes.is_success(), "{nodes:?}");
    let gone = scene.node_red.http("DELETE", &format!("/nodes/{}", package::NAME), "")?;
    ensure!(gone.is_success() && !is_installed(&scene), "it cannot be removed in a window: {gone:?}");
    guard.asks(&format!("close --instance {instance}"))?;
    reported(&guard, "0 packages added, 0 removed, 0 updated; settings.js as it was")?;

    guard.asks(&format!("open --for 10m --instance {instance}"))?;
    let answer = install(&scene, scripts)?;
    ensure!(answer.is_success(), "in a second window: {answer:?}");
    guard.asks(&format!("close --instance {instance}"))?;
    let report = reported(&guard, "1 packages added, 0 removed, 0 updated; settings.js as it was")?;
    let uninstall = format!("npm uninstall --ignore-scripts {}", package::NAME);
    ensure!(report.contains(&format!("added: {} 1.0.0", package::NAME)) && report.contains(&uninstall), "{report}");
    let ran = report.contains(&format!("has install scripts: {}", package::NAME));
    ensure!(ran == scripts.get("postinstall").is_some(), "{report}");
    // Programs that npm ran are reported, and the report can be decided on once.
    ensure!(report.contains("ran: /") && report.contains("node -e 0") == ran, "{report}");
    let revert = report.lines().find_map(|line| line.rsplit_once("to revert: flowwarden maintenance "));
    let (_, revert) = revert.context("no id")?;
    let reported = guard.asks(revert)?;
    ensure!(reported.contains(&uninstall) && reported.contains("no healed file was changed"), "{reported}");
    let again = guard.maintenance(revert)?;
    ensure!(again.code != Some(0) && again.errors.contains("were reverted before"), "{again:?}");
    ensure!(is_installed(&scene), "npm is left to a person");
    fs::remove_dir_all(scene.node_red.home().user_dir().join("node_modules").join(package::NAME))?;

    let so_far = guard.journal()?;
    let alarms: Vec<_> = so_far.iter().filter(|record| is_alarm(record)).skip(known).collect();
    ensure!(alarms.is_empty(), "alarms in the window: {alarms:#?}");
    let reported: Vec<_> = so_far.iter().filter(|record| record.has_flag("maintenance")).collect();
    ensure!(!reported.is_empty() && reported.iter().all(|record| record.rule() == RULE), "{reported:#?}");

    refused(&mut scene, &guard, scripts, known)?;
    guard.stop().map(drop)
}

#[test]
fn packages_come_and_go_in_a_window_only() -> Result<()> {
    prove("standard", &json!({ "postinstall": "node -e 0" }))
}

#[test]
fn packages_come_and_go_in_a_window_only_where_everything_is_closed() -> Result<()> {
    // No shell runs here, so no script either.
    prove("strict", &json!({}))
}
