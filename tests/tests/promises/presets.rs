//! What the presets forbid, on a real Node-RED: the palette, the neighbours, and what is brought along.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli,
    flows::{FileAction, Flow, js},
    guard::Guard,
    needs,
    node_red::NodeRed,
    policy::Policy,
    record::Record,
    scene::Scene,
    wait::{PATIENCE, until},
};

/// Plays an attack without a guard and under a preset, whose rule has to match and deny or kill.
fn prove(
    scene: &mut Scene,
    preset: &str,
    rule: &str,
    attack: &Flow,
    harm: impl Fn(&Scene) -> Result<bool>,
    undo: impl Fn(&Scene) -> Result<()>,
) -> Result<()> {
    let outcome = scene.without_guard(attack)?;
    ensure!(harm(scene)?, "{rule}: the attack does no harm even without a guard: {outcome:?}");
    undo(scene)?;
    scene.node_red.start()?;
    let policy = Policy::written(cli::init(preset, &["--enforce"])?);
    let guarded = scene.with_guard(&policy, rule, attack)?;
    let alerts: Vec<&Record> = guarded.alerts(rule);
    ensure!(!alerts.is_empty(), "{rule} says nothing: {guarded:#?}");
    ensure!(alerts.iter().all(|alert| matches!(alert.verdict(), "deny" | "kill")), "{alerts:#?}");
    // Where the kernel cannot deny, what was done at the same moment may be there.
    let denied = alerts.iter().any(|alert| alert.verdict() == "deny");
    ensure!(!denied || !harm(scene)?, "{rule}: denied, and done all the same: {guarded:#?}");
    undo(scene)
}

fn write(node_red: &NodeRed, name: &str) -> Flow {
    Flow::file(&node_red.home().user_dir().join(name), FileAction::Overwrite, "TAMPERED")
}

#[test]
fn a_flow_changes_no_package_when_the_palette_is_closed() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.node_red.home().directory(".node-red/node_modules/kept")?;
    for name in ["node_modules/kept/index.js", "package.json", ".npmrc"] {
        let file = scene.node_red.home().user_dir().join(name);
        let before = fs::read(&file).ok();
        let attack = write(&scene.node_red, name);
        let harm = |_: &Scene| Ok(fs::read(&file).ok() != before);
        let undo = |_: &Scene| match &before {
            Some(content) => Ok(fs::write(&file, content)?),
            None => Ok(fs::remove_file(&file).or_else(|error| if file.exists() { Err(error) } else { Ok(()) })?),
        };
        prove(&mut scene, "standard", "palette", &attack, harm, undo)?;
    }
    Ok(())
}

#[test]
fn a_flow_decides_nothing_about_the_next_start() -> Result<()> {
    let mut scene = Scene::new()?;
    let file = scene.node_red.home().user_dir().join("environment");
    let attack = write(&scene.node_red, "environment");
    let undo = |_: &Scene| Ok(fs::remove_file(&file).or_else(|error| if file.exists() { Err(error) } else { Ok(()) })?);
    prove(&mut scene, "home", "environment", &attack, |_| Ok(file.exists()), undo)
}

#[test]
fn a_flow_reaches_no_file_of_a_neighbour() -> Result<()> {
    let mut scene = Scene::new()?;
    let neighbour = scene.neighbour()?;
    let secret = neighbour.home().file(".node-red/flows_cred.json", "THE SECRET")?;
    let name = cli::discover(&neighbour)?["name"].as_str().context("no name")?.to_owned();
    let attack = Flow::file_in(&secret);
    let reported =
        |scene: &Scene, mark: usize| scene.node_red.console().find(mark, |line| line.contains("THE SECRET")).is_some();
    let mark = std::cell::Cell::new(scene.node_red.console().mark());
    let harm = |scene: &Scene| Ok(reported(scene, mark.get()));
    let undo = |scene: &Scene| {
        mark.set(scene.node_red.console().mark());
        Ok(())
    };
    prove(&mut scene, "multi-tenant", &format!("neighbour-{name}"), &attack, harm, undo)
}

#[test]
fn a_program_that_was_brought_along_does_not_run() -> Result<()> {
    let mut scene = Scene::new()?;
    let uid = scene.node_red.confinement().uid;
    let (program, proof) = (format!("/tmp/fw-dropped-{uid}"), scene.node_red.home().path().join("proof"));
    let code = format!(
        "fs.copyFileSync({touch}, {program:?}); fs.chmodSync({program:?}, 0o755);
         try {{ child_process.execFileSync({program:?}, [{proof}]) }} finally {{ fs.unlinkSync({program:?}) }} return msg;",
        touch = js(&needs::executed("touch")?),
        proof = js(&proof),
    );
    let attack = Flow::function(&code, &["fs", "child_process"]);
    let undo =
        |_: &Scene| Ok(fs::remove_file(&proof).or_else(|error| if proof.exists() { Err(error) } else { Ok(()) })?);
    let outcome = prove(&mut scene, "standard", "dropped-programs", &attack, |_| Ok(proof.exists()), undo);
    let _ = fs::remove_file(&program);
    outcome
}

/// A mild rule about what is outside of the user directory meets one that kills: where the kernel cannot deny, the process
/// is killed all the same, and settings.js is healed.
#[test]
fn a_file_that_is_renamed_from_the_home_is_no_use_under_strict() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.node_red.home().file(".bashrc", "# good\n")?;
    scene.node_red.start()?;
    let policy = Policy::preset("strict", &scene.node_red)?;
    let (home, settings) = (scene.node_red.home().path().to_owned(), scene.node_red.settings());
    for (target, rule) in [(settings.clone(), "settings-js"), (home.join(".bashrc"), "user-persistence")] {
        let source = scene.node_red.home().file("x", "tampered")?;
        let good = fs::read(&settings)?;
        scene.node_red.start()?;
        let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
        let attack = Flow::function(&format!("fs.renameSync({}, {}); return msg;", js(&source), js(&target)), &["fs"]);
        let outcome = scene.node_red.play(&attack)?;
        let met = guard.wait_for(PATIENCE, |record| record.rule() == rule && record.is_alert());
        let met = met.with_context(|| format!("{outcome:?}"))?;
        ensure!(matches!(met.verdict(), "deny" | "kill"), "{met:#?}");
        ensure!(met.verdict() != "deny" || source.exists(), "denied, and moved all the same");
        let healed = || Ok((fs::read(&settings).ok().as_ref() == Some(&good)).then_some(()));
        until("settings.js to be as it was", PATIENCE, healed).with_context(|| guard.console().text())?;
        guard.stop()?;
        if !source.exists() {
            fs::write(&target, if target == settings { &good } else { b"# good\n".as_slice() })?;
        }
    }
    Ok(())
}
