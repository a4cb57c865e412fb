//! The second promise: a private key is read only by the nodes that declare it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    flows::{Flow, js},
    needs,
    node_red::{NodeRed, Outcome},
    policy::Policy,
    scene::Scene,
};
use serde_json::json;

use crate::SCENE;

const RULE: &str = "private-keys";
/// What must not come out.
const SECRET: &str = "-----THE SECRET-----";

/// A key in the userDir, as if an administrator had put it there.
fn key(node_red: &NodeRed) -> Result<PathBuf> {
    node_red.home().directory(".node-red/certs")?;
    node_red.home().file(".node-red/certs/key.pem", SECRET)
}

fn policy(node_red: &NodeRed, verdict: &str) -> Policy {
    Policy::enforce(node_red).file("certs/*.pem", &["read"], verdict, RULE)
}

/// Plays the attack without a guard, where the secret must come out, and with one, where it must not.
fn prove(attack: impl Fn(&Path) -> Flow) -> Result<()> {
    SCENE.with(|scene| {
        let attack = attack(&key(&scene.node_red)?);
        ensure!(leaks(scene, |scene| scene.without_guard(&attack))?, "the attack reads nothing even without a guard");
        let mut guarded = None;
        let policy = policy(&scene.node_red, "kill");
        let leaked = leaks(scene, |scene| {
            let result = scene.with_guard(&policy, RULE, &attack)?;
            Ok(guarded.insert(result).outcome.clone())
        })?;
        ensure!(!leaked, "the secret came out: {guarded:#?}");
        let killed = guarded.iter().flat_map(|guarded| guarded.alerts(RULE)).any(|alert| {
            alert.verdict() == "kill" && alert.has_access("read") && alert.path().ends_with("certs/key.pem")
        });
        ensure!(killed, "no alert about the key: {guarded:#?}");
        Ok(())
    })
}

/// Whether Node-RED prints the secret while `play` goes on.
fn leaks(scene: &mut Scene, play: impl FnOnce(&mut Scene) -> Result<Outcome>) -> Result<bool> {
    let mark = scene.node_red.console().mark();
    play(scene)?;
    Ok(scene.node_red.console().find(mark, |line| line.contains(SECRET)).is_some())
}

#[test]
fn file_in_node() -> Result<()> {
    prove(Flow::file_in)
}

#[test]
fn function_node() -> Result<()> {
    prove(|key| Flow::function(&format!("msg.payload = fs.readFileSync({}, 'utf8'); return msg;", js(key)), &["fs"]))
}

#[test]
fn function_node_through_a_symbolic_link() -> Result<()> {
    prove(|key| {
        let code = "const link = key + '.link'; fs.rmSync(link, { force: true }); fs.symlinkSync(key, link);
                    msg.payload = fs.readFileSync(link, 'utf8'); return msg;";
        Flow::function(&format!("const key = {}; {code}", js(key)), &["fs"])
    })
}

#[test]
fn exec_node() -> Result<()> {
    prove(|key| Flow::exec(&format!("cat '{}'", key.display())))
}

#[test]
fn exec_node_through_proc_self_root() -> Result<()> {
    prove(|key| Flow::exec(&format!("cat '/proc/self/root{}'", key.display())))
}

#[test]
fn logging_lets_the_read_happen() -> Result<()> {
    SCENE.with(|scene| {
        let attack = Flow::file_in(&key(&scene.node_red)?);
        let policy = policy(&scene.node_red, "log");
        let guarded = scene.with_guard(&policy, RULE, &attack)?;
        ensure!(guarded.outcome == Outcome::Answered(SECRET.to_owned()), "the read failed: {guarded:#?}");
        ensure!(guarded.alerts(RULE).iter().any(|alert| alert.verdict() == "log"), "no record: {guarded:#?}");
        Ok(())
    })
}

#[test]
fn declared_key_of_a_tls_node_stays_readable() -> Result<()> {
    SCENE.with(|scene| {
        let certificates = scene.node_red.home().directory(".node-red/certs")?;
        let (key, certificate) = (certificates.join("declared.pem"), certificates.join("declared.crt"));
        let mut openssl = Command::new(needs::program("openssl")?);
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=plant-a",
            "-keyout",
        ]);
        needs::run(openssl.arg(&key).arg("-out").arg(&certificate))?;
        needs::run(Command::new("chmod").arg("a+r").arg(&key))?;

        let tls = json!({
            "id": "fw-tls", "type": "tls-config", "name": "", "cert": certificate, "key": key, "ca": "",
            "certname": "", "keyname": "", "caname": "", "servername": "", "verifyservercert": true, "alpnprotocol": "",
        });
        let read = format!("msg.payload = fs.readFileSync({}, 'utf8').length; return msg;", js(&key));
        let flow = Flow::function(&read, &["fs"]).with_nodes([tls]);
        let policy = policy(&scene.node_red, "kill").file("certs/declared.pem", &["read"], "allow", "declared");
        let guarded = scene.with_guard(&policy, RULE, &flow)?;
        ensure!(guarded.outcome.text().parse::<usize>().is_ok(), "the declared key is closed: {guarded:#?}");
        ensure!(guarded.alerts(RULE).is_empty(), "a false alert: {guarded:#?}");
        Ok(())
    })
}
