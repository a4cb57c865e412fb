//! The first promise: no flow changes settings.js.
//!
//! Every attack is played twice on the same Node-RED: without a guard, where it has to do its harm, and with one.

use anyhow::{Result, ensure};
use flowwarden_tests::{
    flows::{FileAction, Flow, js},
    node_red::{self, NodeRed},
    policy::Policy,
    scene::Scene,
    snapshot::{Snapshot, State},
};

use crate::SCENE;

const RULE: &str = "settings-js";

/// What is promised about the file when the attack is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// Not a byte is changed.
    Intact,
    /// The kernel may have cut, moved or removed the file before the tracepoint sensor could act; then the record says so,
    /// and in no case is a byte of the attacker's in the file.
    Honest,
}

/// Plays the attack with and without guard.
fn prove(promise: Promise, attack: impl Fn(&NodeRed) -> Result<Flow>) -> Result<()> {
    SCENE.with(|scene| {
        let attack = attack(&scene.node_red)?;
        let policy = Policy::enforce(&scene.node_red).guard_settings();
        prove_on(scene, promise, &policy, &attack)
    })
}

fn prove_on(scene: &mut Scene, promise: Promise, policy: &Policy, attack: &Flow) -> Result<()> {
    let mut settings = Snapshot::take(&scene.node_red.settings())?;
    let outcome = scene.without_guard(attack)?;
    ensure!(settings.state()? != State::Intact, "the attack does no harm even without a guard: {outcome:?}");
    tidy(scene)?;
    settings.restore()?;

    let guarded = scene.with_guard(policy, RULE, attack)?;
    let state = settings.state()?;
    tidy(scene)?;
    settings.restore()?;

    let alerts = guarded.alerts(RULE);
    ensure!(!alerts.is_empty(), "no alert, and settings.js is {state:?}: {guarded:#?}");
    ensure!(alerts.iter().any(|alert| alert.verdict() == "kill"), "seen, but not killed: {alerts:#?}");
    let says = |flag| alerts.iter().any(|alert| alert.has_flag(flag));
    match (promise, state) {
        (_, State::Intact) => {}
        (Promise::Honest, State::Emptied) => ensure!(says("damaged"), "no alert admits the damage: {alerts:#?}"),
        (Promise::Honest, State::Replaced | State::Missing) => {
            ensure!(says("after"), "no alert admits that it came too late: {alerts:#?}");
        }
        (_, state) => anyhow::bail!("settings.js is {state:?}: {guarded:#?}"),
    }
    Ok(())
}

/// Removes what attacks leave in the home.
fn tidy(scene: &mut Scene) -> Result<()> {
    let home = scene.node_red.home();
    let moved = home.path().join("moved");
    if moved.exists() {
        scene.node_red.stop()?;
        let home = scene.node_red.home();
        // A Node-RED that was killed in between has put nothing in its place.
        if home.user_dir().exists() {
            std::fs::remove_dir_all(home.user_dir())?;
        }
        std::fs::rename(moved, home.user_dir())?;
    }
    for name in ["alias.js", "symlink.js", "new.js"] {
        let _ = std::fs::remove_file(scene.node_red.home().path().join(name));
    }
    Ok(())
}

/// A Function node that can use `fs` and knows settings.js as `target` and a free name in the home as `name`.
fn function(node_red: &NodeRed, name: &str, code: &str) -> Flow {
    let (target, name) = (js(&node_red.settings()), js(&node_red.home().path().join(name)));
    let code = format!("const target = {target}, name = {name};\n{code}\nreturn msg;");
    Flow::function(&code, &["fs", "path", "worker_threads"])
}

#[test]
fn file_node_overwrites() -> Result<()> {
    prove(Promise::Honest, |node_red| Ok(Flow::file(&node_red.settings(), FileAction::Overwrite, "TAMPERED")))
}

#[test]
fn file_node_appends() -> Result<()> {
    prove(Promise::Intact, |node_red| Ok(Flow::file(&node_red.settings(), FileAction::Append, "TAMPERED")))
}

#[test]
fn file_node_deletes() -> Result<()> {
    prove(Promise::Honest, |node_red| Ok(Flow::file(&node_red.settings(), FileAction::Delete, "")))
}

#[test]
fn function_node_writes_in_place() -> Result<()> {
    let code = "const fd = fs.openSync(target, 'r+'); fs.writeSync(fd, 'TAMPERED'); fs.closeSync(fd);";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", code)))
}

#[test]
fn function_node_writes_after_cutting() -> Result<()> {
    prove(Promise::Honest, |node_red| Ok(function(node_red, "", "fs.writeFileSync(target, 'TAMPERED');")))
}

#[test]
fn function_node_appends() -> Result<()> {
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", "fs.appendFileSync(target, 'TAMPERED');")))
}

#[test]
fn function_node_writes_asynchronously() -> Result<()> {
    let code = "fs.promises.appendFile(target, 'TAMPERED').then(() => node.send(msg)); return;";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", code)))
}

#[test]
fn worker_thread_writes() -> Result<()> {
    let code = "const code = `require('fs').appendFileSync(${JSON.stringify(target)}, 'TAMPERED')`;
        new worker_threads.Worker(code, { eval: true }).on('exit', () => node.send(msg)); return;";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", code)))
}

#[test]
fn vm_escape_writes() -> Result<()> {
    prove(Promise::Intact, |node_red| {
        let code = format!(
            "const process = Buffer.constructor('return process')();
             process.mainModule.require('fs').appendFileSync({}, 'TAMPERED'); return msg;",
            js(&node_red.settings())
        );
        Ok(Flow::function(&code, &[]))
    })
}

#[test]
fn exec_node_appends() -> Result<()> {
    prove(Promise::Intact, |node_red| Ok(Flow::exec(&format!("echo TAMPERED >> '{}'", node_red.settings().display()))))
}

#[test]
fn exec_node_writes_with_dd() -> Result<()> {
    prove(Promise::Intact, |node_red| {
        Ok(Flow::exec(&format!("echo TAMPERED | dd conv=notrunc status=none of='{}'", node_red.settings().display())))
    })
}

#[test]
fn hard_link_made_and_written_through() -> Result<()> {
    let code = "fs.linkSync(target, name); fs.appendFileSync(name, 'TAMPERED');";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "alias.js", code)))
}

#[test]
fn hard_link_from_before_the_guard() -> Result<()> {
    SCENE.with(|scene| {
        let alias = scene.node_red.home().path().join("alias.js");
        std::fs::hard_link(scene.node_red.settings(), &alias)?;
        let attack = function(&scene.node_red, "alias.js", "fs.appendFileSync(name, 'TAMPERED');");
        let mut settings = Snapshot::take(&scene.node_red.settings())?;
        scene.without_guard(&attack)?;
        ensure!(settings.state()? == State::Changed, "the alias is not the file");
        settings.restore()?;
        let policy = Policy::enforce(&scene.node_red).guard_settings();
        let guarded = scene.with_guard(&policy, RULE, &attack)?;
        let state = settings.state()?;
        tidy(scene)?;
        settings.restore()?;
        ensure!(state == State::Intact, "settings.js is {state:?}: {guarded:#?}");
        ensure!(guarded.alerts(RULE).iter().any(|alert| alert.verdict() == "kill"), "not killed: {guarded:#?}");
        Ok(())
    })
}

#[test]
fn symbolic_link() -> Result<()> {
    let code = "fs.symlinkSync(target, name); fs.appendFileSync(name, 'TAMPERED');";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "symlink.js", code)))
}

#[test]
fn through_proc_self_root() -> Result<()> {
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", "fs.truncateSync('/proc/self/root' + target, 3);")))
}

#[test]
fn through_a_dotted_path() -> Result<()> {
    let code = "fs.appendFileSync(path.dirname(target) + '/lib/../../.node-red/./settings.js', 'TAMPERED');";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "", code)))
}

#[test]
fn renamed_over() -> Result<()> {
    let code = "fs.writeFileSync(name, 'TAMPERED'); fs.renameSync(name, target);";
    prove(Promise::Honest, |node_red| Ok(function(node_red, "new.js", code)))
}

#[test]
fn renamed_away() -> Result<()> {
    prove(Promise::Honest, |node_red| Ok(function(node_red, "new.js", "fs.renameSync(target, name);")))
}

#[test]
fn parent_directory_swapped() -> Result<()> {
    let code = "const dir = path.dirname(target);
        fs.renameSync(dir, name); fs.mkdirSync(dir); fs.writeFileSync(target, 'TAMPERED');";
    prove(Promise::Honest, |node_red| Ok(function(node_red, "moved", code)))
}

#[test]
fn copy_file_range() -> Result<()> {
    let code = "fs.writeFileSync(name, 'TAMPERED'); fs.copyFileSync(name, target);";
    prove(Promise::Intact, |node_red| Ok(function(node_red, "new.js", code)))
}

#[test]
fn io_uring_writes_without_an_open_call() -> Result<()> {
    prove(Promise::Honest, |node_red| {
        let node = node_red::node_with_io_uring()?;
        // The kernel's threads of the ring show that there is one; without them this would be an ordinary append.
        let code = format!(
            "const fs = require('fs');
             fs.promises.appendFile({}, 'TAMPERED').then(() => {{
                 const names = fs.readdirSync('/proc/self/task').map(t => fs.readFileSync(`/proc/self/task/${{t}}/comm`, 'utf8'));
                 if (!names.some(name => name.startsWith('iou-'))) throw new Error('no io_uring here: ' + names);
             }});",
            js(&node_red.settings())
        );
        let script = node_red.home().file("ring.js", &code)?;
        Ok(Flow::exec(&format!("UV_USE_IO_URING=1 '{}' '{}'", node.display(), script.display())))
    })
}

#[test]
fn reading_settings_js_is_nobodys_business() -> Result<()> {
    SCENE.with(|scene| {
        let policy = Policy::enforce(&scene.node_red).guard_settings();
        let read = function(&scene.node_red, "", "msg.payload = fs.readFileSync(target, 'utf8').length;");
        let guarded = scene.with_guard(&policy, RULE, &read)?;
        ensure!(guarded.alerts(RULE).is_empty(), "a false alert: {guarded:#?}");
        ensure!(guarded.outcome.text().parse::<usize>().is_ok(), "the read failed: {:?}", guarded.outcome);
        Ok(())
    })
}
