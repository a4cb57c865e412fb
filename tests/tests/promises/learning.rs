//! A policy that was learnt on a day raises nothing on the next one, and lets nothing else through.

use std::{collections::BTreeSet, fs, sync::Arc};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    cli,
    flows::Flow,
    guard::Guard,
    learning::learn,
    netns::Network,
    node_red::{NodeRed, Outcome, RELEASES, Release},
    policy::Policy,
    record::Record,
    scene::Scene,
    sink::Sink,
    user::User,
    wait,
};

use super::{
    negative::{keep_context, ordinary},
    releases::{Broker, PASSWORD, Plant, make_key, no_alarms, palette, set_up, work},
    scenarios::{Attack, Bystanders, Played, attacks, lay_out, on_the_guard, play, stage},
};

#[test]
fn what_was_learnt_from_a_day_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[0])
}

#[test]
#[ignore = "one release is enough for every run: `cargo xtask test --only promises -- --ignored`"]
fn what_was_learnt_from_a_day_of_node_22_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[1])
}

#[test]
#[ignore = "one release is enough for every run: `cargo xtask test --only promises -- --ignored`"]
fn what_was_learnt_from_a_day_of_node_24_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[2])
}

#[test]
fn what_is_learnt_from_a_plain_instance_fits_on_a_page_and_names_what_was_asked_for_by_name() -> Result<()> {
    let mut scene = Scene::new()?;
    let _resolver = super::dns::resolver(&scene.network)?;
    let sink = Sink::tcp(&scene.network, Network::ALLOWED)?;
    let (_, text) = learn(&mut scene, |node_red| {
        let came = node_red.play(&Flow::http_get(&format!("http://web.plant.example:{}/", sink.address().port())))?;
        ensure!(came == Outcome::Answered("ok".to_owned()), "{came:?}");
        Ok(())
    })?;
    // Others that run on this machine have tables of their own.
    let own = Policy::only(&text, &scene.node_red.home().user_dir())?;
    let own = own.text();
    // A person can read it aloud.
    let lines = own.lines().filter(|line| !line.is_empty()).count();
    println!("{lines} lines: {own}");
    ensure!(lines < 60, "{lines} lines: {own}");
    ensure!(own.contains("to = [\"web.plant.example\"] }, #"), "{own}");
    ensure!(!own.contains(&Network::ALLOWED.to_string()), "{own}");
    Ok(())
}

/// An intruder finds an instance that has a policy from a plain day,
#[test]
fn every_attack_is_met_under_what_a_plain_day_has_taught() -> Result<()> {
    let mut scene = stage()?;
    scene.node_red.stop()?;
    keep_context(&scene.node_red)?;
    scene.node_red.start()?;
    let (_, text) = learn(&mut scene, ordinary)?;
    every_attack_is_met(&mut scene, &text)
}

/// and one where everything happened that day, Projects and packages too.
#[test]
#[ignore = "takes minutes, and a plain day is enough for every run: `cargo xtask test --only promises -- --ignored`"]
fn every_attack_is_met_under_what_a_day_with_everything_has_taught() -> Result<()> {
    // ssh-keygen needs an account.
    let user = User::create()?;
    let mut scene = Scene::of(user.uid(), RELEASES[0])?;
    let node_red = &mut scene.node_red;
    let plant = Plant::new(node_red, &node_red.home().directory("data")?);
    let _broker = Broker::start(&scene.network)?;
    morning(node_red, &plant)?;
    let (_, text) = learn(&mut scene, |node_red| {
        work(node_red, &plant)?;
        palette(node_red)
    })?;
    lay_out(&scene)?;
    every_attack_is_met(&mut scene, &text)
}

/// Plays the table of docs/explanation/scenarios.md under a policy that was learnt.
fn every_attack_is_met(scene: &mut Scene, learnt: &str) -> Result<()> {
    let learnt = Policy::only(learnt, &scene.node_red.home().user_dir())?;
    println!("{}", learnt.text());
    let bystanders = Bystanders::new(scene)?;
    let guard = Guard::start(Some(&learnt), &scene.cgroup, &["--enforce"])?;
    let mut all = attacks(scene, &bystanders)?;
    all.push(on_the_guard(scene, &guard)?);
    let mut wrong = Vec::new();
    for attack in &all {
        if let Err(error) = is_met(scene, &guard, attack) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    guard.stop().map(drop)
}

/// That one of its rules meets an attack, wants it stopped, and stops it if the kernel can. Others may speak besides: what
/// was not done that day is denied, and so is the way to it.
fn is_met(scene: &mut Scene, guard: &Guard, attack: &Attack) -> Result<()> {
    let rules = rules(attack);
    let played = play(scene, guard, attack, rules)?;
    let spoken: BTreeSet<_> = played.alerts.iter().map(Record::rule).collect();
    let Played { outcome, alerts, done } = &played;
    let what = format!("{}, {}: {spoken:?}", attack.number, attack.what);
    println!("{what}");
    let what = format!("{what}; {outcome:?}; {alerts:#?}");
    let met: Vec<_> = alerts.iter().filter(|alert| rules.contains(&alert.rule())).collect();
    ensure!(met.iter().any(|alert| matches!(alert.wanted(), "deny" | "kill")), "not met: {what}");
    let reported = met.iter().all(|alert| !alert.pointer_text("/metadata/correlation_uid").is_empty());
    ensure!(reported, "no incident: {what}");
    // A class default does not kill where the kernel cannot deny: it covers what no rule names.
    let stopped = rules.iter().any(|rule| played.is_stopped_by(rule));
    let by_default =
        |alert: &Record| alert.rule().starts_with("default-") && !["lsm", "cgroup"].contains(&alert.sensor());
    ensure!(stopped || met.iter().all(|alert| by_default(alert)), "not stopped: {what}");
    ensure!(!stopped || !done || played.is_late(), "it was done: {what}");
    Ok(())
}

/// The rules of a learnt policy that meet an attack. The preset has more of them; `learn` closes by default.
fn rules(attack: &Attack) -> &'static [&'static str] {
    match attack.rules.last().copied().unwrap_or_default() {
        // A file in the home that was not written is moved over it.
        "settings-js" => &["settings-js", "default-files"],
        "environment" => &["settings-js"],
        "private-keys" | "user-keys" => &["private-keys"],
        // npm does not even read the package that it is to install.
        "palette" => &["palette", "default-files"],
        "default-egress" | "own-dns" | "dns-over-https" | "cloud-metadata" => &["default-egress"],
        "container-engines" | "user-persistence" | "process-environments" => &["default-files", "default-exec"],
        "git-hooks" => &["git-hooks", "default-files"],
        // Programs that were not run, such as a copy of sudo.
        "dropped-programs" | "default-exec-unnamed" | "host-persistence" | "host-keys" | "guard-files" => {
            &["default-exec"]
        }
        _ => &[],
    }
}

/// An instance on the morning of a day: set up by its administrator, started once, with its flows.
fn morning(node_red: &mut NodeRed, plant: &Plant) -> Result<()> {
    node_red.stop()?;
    for entry in fs::read_dir(node_red.home().user_dir())?.flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    node_red.start()?;
    node_red.stop()?;
    set_up(node_red)?;
    make_key(node_red)?;
    node_red.start()?;
    node_red.log_in("admin", PASSWORD)?;
    node_red.replace_flows(&plant.text(), &["Started flows"])
}

fn learn_and_enforce(release: Release) -> Result<()> {
    // ssh-keygen needs an account.
    let user = User::create()?;
    let mut scene = Scene::of(user.uid(), release)?;
    let network = Arc::clone(&scene.network);
    let node_red = &mut scene.node_red;
    let plant = Plant::new(node_red, &node_red.home().directory("data")?);
    let _broker = Broker::start(&network)?;

    morning(node_red, &plant)?;
    let (said, text) = learn(&mut scene, |node_red| {
        work(node_red, &plant)?;
        palette(node_red)
    })?;
    println!("{said}\n{text}");
    // The palette changes in windows only, which is not learnt.
    ensure!(said.contains("the rule palette of the present policy forbids it"), "{said}");
    ensure!(!said.contains("critical: "), "something critical on an honest day: {said}");

    let node_red = &mut scene.node_red;
    morning(node_red, &plant)?;
    node_red.stop()?;
    let learnt = Policy::written(text);
    let guard = Guard::start(Some(&learnt), &scene.cgroup, &["--enforce"])?;
    node_red.start()?;
    work(node_red, &plant)?;
    let instance = learnt.instance(&node_red.home().user_dir())?;
    guard.asks(&format!("open --for 10m --instance {instance}"))?;
    palette(node_red)?;
    guard.asks(&format!("close --instance {instance}"))?;
    node_red.stop()?;
    node_red.start()?;
    no_alarms(&guard, "under what was learnt")?;

    // What was not done that day is denied.
    node_red.log_in("admin", PASSWORD)?;
    let new = node_red.home().path().join("new");
    node_red.play(&Flow::exec(&format!("touch '{}'", new.display())))?;
    let met = guard.wait_for(wait::SOON, |record| record.is_alarm() && record.path().ends_with("new"))?;
    ensure!(matches!(met.verdict(), "deny" | "log"), "{met:#?}");
    // And an event can be asked about.
    let number = met.json()["metadata"]["sequence"].to_string();
    let journal = guard.journal_directory().display().to_string();
    let policy = guard.policy_file().display().to_string();
    let reported = cli::flowwarden(&["explain", &number, "--policy", &policy, "--journal", &journal])?;
    ensure!(reported.code == Some(0) && reported.text.contains("an exec node"), "{reported:?}");
    guard.stop().map(drop)
}
