//! Evidence that holds: losses are counted, a policy is replaced as a whole or not at all, and bad input is reported.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::js,
    guard::{Guard, MADE},
    journal, needs, node_red,
    policy::Policy,
    scene::Scene,
    sigma::Rule,
    wait,
};

/// How many times a file is opened in the flood.
const OPENS: u64 = 200_000;

/// More records than the ring buffer can hold: each is either in the journal or counted as lost.
#[test]
fn in_a_flood_every_record_is_journaled_or_counted() -> Result<()> {
    let scene = Scene::empty()?;
    let file = scene.node_red.home().user_dir().join("flooded.txt");
    fs::write(&file, "water")?;
    let policy = Policy::enforce(&scene.node_red).file("flooded.txt", &["read"], "log", "flood");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let script =
        format!("const fs = require('fs'); for (let i = 0; i < {OPENS}; i++) fs.closeSync(fs.openSync({file:?}));");
    // A guard that is quick enough loses nothing; one that stands still does.
    let flood = || Ok(scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?);
    let status = guard.standing_still(flood)?;
    ensure!(status.success(), "the flood did not finish: {status}");
    let records = guard.stop()?;

    let journaled = records.iter().filter(|record| record.is_alert() && record.rule() == "flood").count() as u64;
    let losses: Vec<_> = records.iter().filter_map(|record| record.number("/unmapped/lost_total")).collect();
    let lost = losses.last().copied().context("nothing was lost: the flood is too small to prove anything")?;
    // What the journal itself could not take is counted by itself.
    let unwritten = records.iter().filter_map(|record| record.number("/unmapped/journal_lost_total")).max();
    let lost_anywhere = lost + unwritten.unwrap_or_default();
    // Context records of the flooding process itself may be among the lost.
    ensure!(
        (OPENS..OPENS + 64).contains(&(journaled + lost_anywhere)),
        "{journaled} journaled and {lost_anywhere} lost make no {OPENS} opens"
    );
    let rule = Rule::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/sigma/evidence_lost.yml"))?;
    for record in records.iter().filter(|record| record.number("/unmapped/lost_total").is_some()) {
        ensure!(rule.picks(record.json())?, "the rule of Sigma passes over {record:#?}");
        let number = |key| record.number(key).context("a loss record without its totals");
        let (produced, emitted) = (number("/unmapped/produced_total")?, number("/unmapped/emitted_total")?);
        let lost = number("/unmapped/lost_total")?;
        // The counters of a CPU that is busy are read a moment apart.
        ensure!(produced.abs_diff(emitted + lost) <= 2, "{produced} is not {emitted} + {lost}");
    }
    Ok(())
}

/// A flood of records does not delay signals.
#[test]
fn in_a_flood_the_guard_still_listens() -> Result<()> {
    let scene = Scene::empty()?;
    let file = scene.node_red.home().user_dir().join("flooded.txt");
    fs::write(&file, "water")?;
    let policy = Policy::enforce(&scene.node_red).file("flooded.txt", &["read"], "log", "flood");
    let mut guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let script = format!("const fs = require('fs'); for (;;) fs.closeSync(fs.openSync({file:?}));");
    let mut flood = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?;
    let outcome = (|| {
        guard.wait_for(wait::SOON, |record| record.rule() == "flood")?;
        // About a file that is not there: none has to be waited for while the journal fills.
        let said = guard.reload(&policy.clone().file("nothing.txt", &["read"], "log", "nothing"))?;
        ensure!(said.contains("in force"), "{said}");
        guard.terminate()
    })();
    flood.kill()?;
    flood.wait()?;
    outcome?;
    journal::check(&guard.journal_directory(), &guard.journal()?)
}

/// Appends to settings.js as the instance's user; true when that was let happen.
fn appends(scene: &Scene) -> Result<bool> {
    let mut command = Command::new("tee");
    command.arg("-a").arg(scene.node_red.settings()).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(scene.node_red.confinement().spawn(&mut command)?.wait()?.success())
}

/// A new policy is in force after a reload; a faulty one changes nothing.
#[test]
fn a_policy_is_exchanged_as_a_whole_or_not_at_all() -> Result<()> {
    let scene = Scene::new()?;
    let open = Policy::enforce(&scene.node_red);
    let guard = Guard::start(Some(&open), &scene.cgroup, &[])?;
    ensure!(appends(&scene)?, "killed by a rule that is not there yet");

    let said = guard.reload(&open.clone().guard_settings())?;
    ensure!(said.contains("in force"), "{said}");
    ensure!(!appends(&scene)?, "the new rule is not in force");

    let faulty = open.clone().file("settings.js", &["wirte"], "kill", "faulty");
    let said = guard.reload(&faulty)?;
    ensure!(said.contains("refused"), "{said}");
    ensure!(!appends(&scene)?, "a faulty policy took the old one away");
    guard.stop().map(drop)
}

/// A file that rules name is protected as soon as it is there, and a replaced one is too.
#[test]
fn a_file_that_is_made_or_replaced_is_protected() -> Result<()> {
    let scene = Scene::empty()?;
    let settings = scene.node_red.settings();
    let guard = Guard::start(Some(&Policy::enforce(&scene.node_red).guard_settings()), &scene.cgroup, &[])?;
    ensure!(appends(&scene)?, "the first start could not make its settings");
    ensure!(settings.exists(), "tee made nothing");
    guard.console().wait_for(0, MADE, wait::PATIENCE)?;
    ensure!(!appends(&scene)?, "a file that came later is not protected");

    // The administrator's editor writes a new file and moves it over the old one.
    let new = settings.with_extension("new");
    fs::write(&new, "module.exports = {}")?;
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    fs::rename(&new, &settings)?;
    ensure!(!appends(&scene)?, "a file that was replaced is not protected");
    guard.stop().map(drop)
}

/// Runs a script of Node.js as the instance's user, on its settings file; true when it came to its end.
fn runs(scene: &Scene, script: &str) -> Result<bool> {
    let script = format!(
        "const fs = require('fs'), file = {};
         const sleep = ms => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
         {script}",
        js(&scene.node_red.settings())
    );
    Ok(scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?.success())
}

/// A process that creates settings.js slowly, across ticks of the guard, may complete it.
#[test]
fn a_slow_first_start_comes_through() -> Result<()> {
    let scene = Scene::empty()?;
    let guard = Guard::start(Some(&Policy::enforce(&scene.node_red).guard_settings()), &scene.cgroup, &[])?;
    let slow = "const fd = fs.openSync(file, 'w'); sleep(1600); fs.writeSync(fd, 'module.exports = {}'); sleep(1600);
        fs.fchmodSync(fd, 0o644); fs.closeSync(fd); sleep(1600); fs.utimesSync(file, 1, 1);";
    ensure!(runs(&scene, slow)?, "the maker was killed:\n{}", guard.console().text());
    guard.console().wait_for(0, MADE, wait::PATIENCE)?;
    ensure!(!appends(&scene)?, "what was made is not protected");
    guard.stop().map(drop)
}

/// A process that keeps touching a new settings.js to delay its protection has ten seconds, and is reported.
#[test]
fn touching_a_new_file_does_not_keep_it_open() -> Result<()> {
    let scene = Scene::empty()?;
    let guard = Guard::start(Some(&Policy::enforce(&scene.node_red).guard_settings()), &scene.cgroup, &[])?;
    let touch = "for (let i = 0; i < 40; i++) { fs.writeFileSync(file, String(i)); sleep(500); }";
    ensure!(!runs(&scene, touch)?, "touched for 20 s, and not killed:\n{}", guard.console().text());
    let said = guard.console().wait_for(0, MADE, wait::PATIENCE)?;
    ensure!(said.contains("still being changed"), "{said}");
    let records = guard.stop()?;
    let reported = records.iter().filter_map(|record| record.json().get("message")?.as_str());
    ensure!(reported.filter(|message| message.contains("still being changed")).count() == 1, "{records:#?}");
    Ok(())
}

/// `flowwarden check` reports position and fix of a fault, without root, with an exit code.
#[test]
fn check_tells_place_and_mend() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("policy.toml");
    let check = |text: &str| -> Result<_> {
        fs::write(&file, text)?;
        let output = Command::new(needs::flowwarden()?).arg("check").arg(&file).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let good = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ uid = 64123 }]\nuser-dir = \"/tmp\"\n";
    let (code, said) = check(good)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let (code, said) = check(&good.replace("select", "selekt"))?;
    ensure!(
        code == Some(2) && said.contains(":4:1: unknown key \"selekt\"; did you mean \"select\"?"),
        "{code:?}: {said}"
    );
    let (code, said) = check(&good.replace("64123", "0"))?;
    ensure!(code == Some(2) && said.contains("uid 0 alone"), "{code:?}: {said}");
    Ok(())
}

/// `flowwarden doctor` says what this kernel can do.
#[test]
fn doctor_says_what_can_be_done_here() -> Result<()> {
    let output = Command::new(needs::flowwarden()?).arg("doctor").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    for part in ["kernel", "BTF         yes", "tracepoint  yes", "cgroup      yes", "egress        yes  yes"] {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    Ok(())
}

/// The list by which every ECS document of these tests is judged is the one that Elastic publishes.
#[test]
fn the_fields_of_ecs_are_the_published_ones() -> Result<()> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitor/journal/tests/ecs");
    let package = node_red::npm_install("@elastic/ecs@9.4.0")?;
    let directory = tempfile::tempdir()?;
    let theirs = directory.path().join("fields.json");
    fs::copy(ours.join("fields.json"), &theirs)?;
    let mut node = Command::new(needs::program("node")?);
    needs::run(node.arg(ours.join("generate.js")).arg(&theirs).env("NODE_PATH", package.join("node_modules")))?;
    ensure!(
        fs::read_to_string(ours.join("fields.json"))? == fs::read_to_string(&theirs)?,
        "the list differs from the published one: make it anew as its README.md says"
    );
    Ok(())
}

/// A reload changes how long the journal is kept: a closed segment that is too old by now goes.
#[test]
fn a_reload_changes_how_long_the_journal_is_kept() -> Result<()> {
    let scene = Scene::empty()?;
    let policy = Policy::enforce(&scene.node_red);
    let mut guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    guard.end()?;
    let plain = guard.journal_directory().join("journal-00000001.jsonl");
    let closed = plain.with_extension("jsonl.zst");
    fs::write(&closed, zstd::encode_all(fs::read(&plain)?.as_slice(), 3)?)?;
    fs::remove_file(&plain)?;
    let then = SystemTime::now() - Duration::from_hours(3);
    fs::File::options().write(true).open(&closed)?.set_modified(then)?;
    let guard = guard.start_again(&scene.cgroup, &[])?;
    let text = format!("{}\n[journal]\nmax-age = \"1h\"\n", fs::read_to_string(guard.policy_file())?);
    ensure!(closed.exists(), "it went before it was too old");
    guard.reload(&Policy::written(text))?;
    wait::until("the old segment to go", wait::PATIENCE, || Ok((!closed.exists()).then_some(())))
        .with_context(|| guard.console().text())?;
    guard.stop().map(drop)
}
