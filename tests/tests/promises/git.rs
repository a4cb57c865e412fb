//! Git runs what the configuration of a repository names. Who writes something there waits for the next commit, which
//! somebody else makes; the guard tells of it, and judges what git then runs as everything that the instance runs.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::{Flow, js},
    guard::Guard,
    learning::learn,
    node_red::NodeRed,
    own,
    policy::Policy,
    record::Record,
    scene::Scene,
    wait,
};
use serde_json::json;

use super::scenarios::stage;

/// The table that people read.
const TABLE: &str = include_str!("../../../docs/explanation/scenarios.md");
/// The project that is committed to.
const PROJECT: &str = "line";

/// What the preset says about the script in /tmp.
const DROPPED: &str = "`dropped-programs` deny";

/// A way to have git run something.
struct Way {
    what: &'static str,
    /// What goes into the configuration.
    setting: String,
    /// The program that has to be there for it.
    program: Option<PathBuf>,
    /// The rules of the preset `standard` that speak when git is made to run it, what they do, and
    standard: &'static str,
    /// those of what a day with Projects has taught. Where the kernel cannot deny defaults only log.
    learnt: &'static str,
}

impl Way {
    fn row(&self) -> String {
        format!("| {} | {} | {} |", self.what, self.standard, self.learnt)
    }
}

fn ways(home: &Path, proof: &Path) -> [Way; 4] {
    let hooks = PathBuf::from("/tmp").join(own::name());
    let inside = home.join(format!(".node-red/projects/{PROJECT}/ci"));
    let hook = home.join("hook.sh");
    let line = format!("[core]\n\tfsmonitor = \": > '{}'; false\"\n", proof.display());
    let hooks_path = |path: &Path| format!("[core]\n\thooksPath = {}\n", path.display());
    [
        Way {
            what: "hooks in /tmp",
            setting: hooks_path(&hooks),
            program: Some(hooks.join("pre-commit")),
            standard: DROPPED,
            learnt: "`default-files` deny, `default-exec` deny",
        },
        Way {
            what: "hooks inside of the project",
            setting: hooks_path(&inside),
            program: Some(inside.join("pre-commit")),
            standard: "`git-hooks` log",
            learnt: "`git-hooks` deny",
        },
        Way {
            what: "a program in the home directory",
            setting: format!("[core]\n\tfsmonitor = {}\n", hook.display()),
            program: Some(hook),
            standard: "none",
            learnt: "`default-files` deny, `default-exec` deny",
        },
        Way { what: "a command line", setting: line, program: None, standard: "none", learnt: "`default-files` deny" },
    ]
}

/// The rows below the heading of the table.
fn rows() -> Vec<&'static str> {
    let below = TABLE.lines().skip_while(|line| !line.starts_with("## Programs that git runs"));
    let table = below.skip_while(|line| !line.starts_with('|'));
    table.take_while(|line| line.starts_with('|')).skip(2).collect()
}

fn config(node_red: &NodeRed) -> PathBuf {
    node_red.home().user_dir().join("projects").join(PROJECT).join(".git/config")
}

/// A project with a first commit.
fn begin(node_red: &NodeRed) -> Result<()> {
    let ask = |path: &str, body: &serde_json::Value| {
        let answer = node_red.http("POST", path, &body.to_string())?;
        ensure!(answer.is_success(), "{path}: {answer:?}\n{}", node_red.console().text());
        Ok(())
    };
    ask("/settings/user", &json!({ "git": { "user": { "name": "Admin", "email": "admin@plant.example" } } }))?;
    let files = json!({ "flow": "flows.json", "credentials": "flows_cred.json" });
    ask("/projects", &json!({ "name": PROJECT, "summary": "", "files": files, "credentialSecret": "secret" }))
}

/// What an editor does who knows nothing; whether it succeeds is git's concern.
fn commit(node_red: &NodeRed) -> String {
    let ask = |what: &str, body: serde_json::Value| {
        let answer = node_red.http("POST", &format!("/projects/{PROJECT}/{what}"), &body.to_string());
        answer.map(|answer| format!("{answer:?}"))
    };
    let staged = ask("stage", json!({ "files": ["flows.json"] }));
    format!("{staged:?} {:?}", ask("commit", json!({ "message": "a new flow" })))
}

/// A flow writes, somebody commits. Node-RED may die of the first.
fn play(node_red: &mut NodeRed, way: &Way, proof: &Path) -> Result<String> {
    let program = way.program.as_deref().map_or_else(String::new, |program| {
        format!(
            "fs.mkdirSync(path.dirname({0}), {{ recursive: true }});
             fs.writeFileSync({0}, '#!/bin/sh\\n: > ' + {1} + '\\n', {{ mode: 0o755 }});",
            js(program),
            js(proof)
        )
    });
    let setting = json!(way.setting);
    let code = format!("{program} fs.appendFileSync({}, {setting}); return msg;", js(&config(node_red)));
    let outcome = node_red.play(&Flow::function(&code, &["fs", "path"]))?;
    node_red.start()?;
    Ok(format!("{outcome:?} {}", commit(node_red)))
}

/// Puts everything back.
fn clean(node_red: &NodeRed, way: &Way, before: &[u8], proof: &Path) -> Result<()> {
    let file = config(node_red);
    fs::write(&file, before)?;
    let uid = node_red.confinement().uid;
    chown(&file, Some(uid), Some(uid))?;
    let _ = fs::remove_file(proof);
    if let Some(program) = &way.program {
        let _ = fs::remove_file(program);
        // Only where it was made for it.
        let _ = program.parent().map(fs::remove_dir);
    }
    Ok(())
}

/// Plays each of them under a policy; `expected` are the rules with what they want, as the table has them.
fn under(
    scene: &mut Scene,
    policy: &Policy,
    ways: &[Way],
    proof: &Path,
    expected: impl Fn(&Way) -> &'static str,
) -> Result<()> {
    let guard = Guard::start(Some(policy), &scene.cgroup, &["--enforce"])?;
    scene.node_red.start()?;
    let before = fs::read(config(&scene.node_red))?;
    let seen = guard.directory().join("state/seen");
    let knows = |content: &[u8]| {
        wait::until("a look at the configuration", wait::SOON, || {
            let mut kept = fs::read_dir(&seen)?.flatten();
            Ok(kept.any(|kept| fs::read(kept.path()).is_ok_and(|bytes| bytes == content)).then_some(()))
        })
    };
    let mut wrong = Vec::new();
    for way in ways {
        knows(&before)?;
        let known = guard.journal()?.len();
        let came = play(&mut scene.node_red, way, proof)?;
        // The change is reported, whatever rule exists.
        if fs::read(config(&scene.node_red))? != before {
            let named = way.setting.split(" = ").nth(1).context("no value")?.trim().trim_matches('"');
            let reported = guard.wait_for(wait::SOON, |record| {
                record.pointer_text("/unmapped/change") == "git-config"
                    && record.pointer_text("/unmapped/git_runs/0").ends_with(named)
            });
            if !matches!(&reported, Ok(reported) if reported.number("/severity_id") == Some(4)) {
                wrong.push(format!("{}: the change is not reported: {reported:?}; {came}", way.what));
            }
        }
        wait::pause(Duration::from_millis(700))?;
        let records = guard.journal()?.split_off(known);
        let alerts: Vec<_> = records.iter().filter(|record| record.is_alert()).collect();
        let spoken: BTreeSet<_> = alerts.iter().map(|alert| format!("`{}` {}", alert.rule(), wanted(alert))).collect();
        let expected = expected(way);
        // Where no LSM programs run a script is judged as its interpreter.
        let by_lsm = records.iter().any(|record| record.sensor() == "lsm");
        let is_due = |rule: &str| rule != "none" && (by_lsm || rule != DROPPED);
        let missing: Vec<_> = expected.split(", ").filter(|rule| is_due(rule) && !spoken.contains(*rule)).collect();
        println!("{}: {spoken:?}, ran: {}", way.what, proof.exists());
        if !missing.is_empty() || (expected == "none" && !spoken.is_empty()) {
            wrong.push(format!("{}: {spoken:?} and not {expected}; {came}; {alerts:#?}", way.what));
        }
        let stopped = alerts.iter().any(|alert| matches!(alert.verdict(), "deny" | "kill"));
        if stopped && proof.exists() {
            wrong.push(format!("{}: it ran: {came}; {alerts:#?}", way.what));
        }
        clean(&scene.node_red, way, &before, proof)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    guard.stop().map(drop)
}

/// `deny` stands for a kill, too.
fn wanted(record: &Record) -> &str {
    if record.wanted() == "kill" { "deny" } else { record.wanted() }
}

#[test]
fn what_git_is_told_to_run_is_told_and_judged_as_what_the_instance_runs() -> Result<()> {
    let mut scene = stage()?;
    let node_red = &mut scene.node_red;
    begin(node_red)?;
    let proof = node_red.home().path().join("proof");
    let ways = ways(node_red.home().path(), &proof);
    let here: Vec<_> = ways.iter().map(Way::row).collect();
    ensure!(
        rows() == here,
        "docs/explanation/scenarios.md has another table; this is what is played:\n{}",
        here.join("\n")
    );
    let before = fs::read(config(node_red))?;
    for way in &ways {
        let came = play(node_red, way, &proof)?;
        ensure!(proof.exists(), "git runs nothing even without a guard ({}): {came}", way.what);
        clean(node_red, way, &before, &proof)?;
    }
    let policy = Policy::preset("standard", &scene.node_red)?;
    under(&mut scene, &policy, &ways, &proof, |way| way.standard)
}

#[test]
#[ignore = "takes half a minute, and what learnt policies close is tested in every run: `cargo xtask test --only promises -- --ignored`"]
fn what_git_is_told_to_run_is_new_under_what_a_day_with_projects_has_taught() -> Result<()> {
    let mut scene = stage()?;
    begin(&scene.node_red)?;
    let (_, text) = learn(&mut scene, |node_red| {
        // Exec nodes need the shell that git runs command lines with.
        node_red.play(&Flow::exec("date"))?;
        commit(node_red);
        Ok(())
    })?;
    let learnt = Policy::only(&text, &scene.node_red.home().user_dir())?;
    println!("{}", learnt.text());
    let proof = scene.node_red.home().path().join("proof");
    let ways = ways(scene.node_red.home().path(), &proof);
    under(&mut scene, &learnt, &ways, &proof, |way| way.learnt)
}
