//! Discovery and audit of a real Node-RED; the printed remediation fixes the finding.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli,
    flows::{FileAction, Flow, js},
    needs,
    node_red::{Outcome, VERSION},
    scene::Scene,
    snapshot::{Snapshot, State},
};
use serde_json::{Value, json};

fn finding<'a>(findings: &'a [Value], check: &str) -> Result<&'a Value> {
    findings.iter().find(|finding| finding["check"] == check).with_context(|| format!("no {check} in {findings:#?}"))
}

/// A machine with two instances. Files of the first can be read only with a capability of root.
fn closed_and_open() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let file = |path: &str, content: &str| -> Result<PathBuf> {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().context("a file without a directory")?)?;
        fs::write(&path, content)?;
        Ok(path)
    };
    file("etc/passwd", "a:x:1000:1000::/home/a:/bin/sh\nb:x:1001:1001::/home/b:/bin/sh\n")?;
    let closed = file("home/a/.node-red/settings.js", "module.exports = {}")?;
    file("home/b/.node-red/settings.js", "module.exports = { uiPort: 1999 }")?;
    fs::set_permissions(closed.parent().context("no directory")?, fs::Permissions::from_mode(0o000))?;
    Ok(directory)
}

/// Runs `flowwarden` as a root without the capabilities that open every file.
fn without_override(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(needs::program("setpriv")?);
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(needs::flowwarden()?).args(arguments);
    Ok(command.output()?)
}

#[test]
fn an_unreadable_directory_is_reported_and_the_rest_is_found() -> Result<()> {
    let machine = closed_and_open()?;
    let root = machine.path().display().to_string();
    let output = without_override(&["discover", "--json", "--root", &root])?;
    ensure!(output.status.success(), "{output:?}");
    let survey: Value = serde_json::from_slice(&output.stdout)?;
    let notes = survey["notes"].to_string();
    ensure!(notes.contains("/home/a/.node-red") && notes.contains("Permission denied"), "{survey:#}");
    ensure!(survey["instances"].as_array().is_some_and(|all| all.len() == 1), "{survey:#}");
    ensure!(survey.pointer("/instances/0/settings/ui-port") == Some(&json!(1999)), "{survey:#}");
    // The readable instance has its findings, and the report says that it is incomplete.
    let output = without_override(&["audit", "--json", "--root", &root])?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(report["reports"].as_array().is_some_and(|all| all.len() == 1), "{report:#}");
    ensure!(report["problems"].to_string().contains("/home/a/.node-red"), "{report:#}");
    // What could not be looked at is no pass.
    ensure!(output.status.code() != Some(0), "{output:?}");
    // With the capabilities both are there: the test sees what it says.
    let answer = cli::flowwarden(&["discover", "--json", "--root", &root])?;
    let survey: Value = serde_json::from_str(&answer.text)?;
    ensure!(survey["instances"].as_array().is_some_and(|all| all.len() == 2), "{survey:#}");
    Ok(())
}

#[test]
fn a_running_instance_is_found_with_its_facts() -> Result<()> {
    let scene = Scene::new()?;
    let node_red = &scene.node_red;
    let broker =
        json!({ "id": "fw-mqtt", "type": "mqtt-broker", "broker": "10.1.2.3", "port": "1883", "usetls": false });
    let tls = json!({ "id": "fw-tls", "type": "tls-config", "cert": "", "key": "certs/key.pem", "ca": "" });
    node_red.deploy(&Flow::http_get("http://127.0.0.1:9/").with_nodes([broker, tls]))?;

    let found = cli::discover(node_red)?;
    let user_dir = node_red.home().user_dir();
    for (pointer, expected) in [
        ("/uid", json!(node_red.confinement().uid)),
        ("/kind", json!("process")),
        ("/user-dir", json!(user_dir)),
        ("/host-user-dir", json!(user_dir)),
        ("/settings-file", json!(node_red.settings())),
        ("/working-directory", json!(node_red.home().path())),
        ("/version", json!(VERSION)),
        ("/settings/admin-auth", json!(false)),
        ("/settings/https", json!(false)),
        ("/settings/projects", json!(false)),
        ("/settings/ui-port", json!(1880)),
        ("/settings/function-modules", json!(true)),
        ("/settings/palette-install", json!(true)),
        ("/settings/credential-secret", json!("generated")),
        ("/settings/flow-file", json!("flows.json")),
        ("/flows/file", json!(user_dir.join("flows.json"))),
        ("/flows/files/0/path", json!(node_red.home().path().join("certs/key.pem"))),
        ("/flows/files/0/use", json!("key")),
    ] {
        ensure!(found.pointer(pointer) == Some(&expected), "{pointer} is not {expected}: {found:#}");
    }
    let targets: Vec<_> =
        found["flows"]["targets"].as_array().into_iter().flatten().map(|target| &target["host"]).collect();
    ensure!(targets == [&json!("10.1.2.3"), &json!("127.0.0.1")], "{targets:?}");
    let listens = found["listens"].as_array().context("no listeners")?;
    ensure!(listens.len() == 1 && listens[0]["address"] == "0.0.0.0", "{listens:?}");
    // The file that Node-RED makes is understood to its last line.
    let unknown: Vec<_> = found["unknown"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(!unknown.iter().any(|line| line.starts_with("settings")), "{unknown:?}");
    Ok(())
}

/// The first rule fails on a default installation, and its remediation consists of shell commands.
#[test]
fn the_remediation_of_the_first_rule_fixes_it() -> Result<()> {
    let mut scene = Scene::new()?;
    let (findings, code) = cli::audit(&scene.node_red)?;
    let first = finding(&findings, "settings-writable")?.clone();
    ensure!(first["status"] == "fail" && code == Some(4), "{first:#}");
    ensure!(finding(&findings, "editor-auth")?["status"] == "fail", "{findings:#?}");

    let fixes = first["remediation"].as_array().context("no remediation")?;
    for fix in fixes {
        ensure!(fix["kind"] == "shell", "{fix}");
        needs::run(Command::new("sh").args(["-c", fix["text"].as_str().unwrap_or_default()]))?;
    }
    let (findings, _) = cli::audit(&scene.node_red)?;
    let first = finding(&findings, "settings-writable")?;
    ensure!(first["status"] == "pass", "{first:#}");

    // It is true: no guard runs, and no flow changes the file.
    let settings = Snapshot::take(&scene.node_red.settings())?;
    let target = js(&scene.node_red.settings());
    let home = js(scene.node_red.home().path());
    for (name, flow) in [
        ("append", Flow::file(&scene.node_red.settings(), FileAction::Append, "TAMPERED")),
        ("delete", Flow::file(&scene.node_red.settings(), FileAction::Delete, "")),
        (
            "replace",
            Flow::function(
                &format!(
                    "fs.writeFileSync({target} + '.new', 'TAMPERED'); fs.renameSync({target} + '.new', {target}); return msg;"
                ),
                &["fs"],
            ),
        ),
        (
            "move the directory",
            Flow::function(&format!("fs.renameSync({home} + '/.node-red', {home} + '/moved'); return msg;"), &["fs"]),
        ),
        ("chmod", Flow::function(&format!("fs.chmodSync({target}, 0o666); return msg;"), &["fs"])),
    ] {
        let outcome = scene.node_red.play(&flow)?;
        ensure!(matches!(outcome, Outcome::Failed(_)), "{name}: {outcome:?}");
        ensure!(settings.state()? == State::Intact, "{name} has changed it");
    }
    // And Node-RED goes on: it starts, deploys, and keeps its flows.
    scene.node_red.stop()?;
    scene.node_red.start()?;
    let outcome = scene.node_red.play(&Flow::function("msg.payload = 'well'; return msg;", &[]))?;
    ensure!(outcome == Outcome::Answered("well".to_owned()), "{outcome:?}");
    let flows = fs::read_to_string(scene.node_red.home().user_dir().join("flows.json"))?;
    ensure!(flows.contains("well"), "the flows were not kept");
    Ok(())
}

/// What `init` writes is good for `check`, whatever the preset.
#[test]
fn every_preset_is_good() -> Result<()> {
    let scene = Scene::new()?;
    let directory = tempfile::tempdir()?;
    for preset in ["home", "standard", "multi-tenant", "strict"] {
        let file = directory.path().join(format!("{preset}.toml"));
        let name = file.to_str().context("a name")?;
        cli::init(preset, &["--output", name])?;
        let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{preset}: mode {mode:o}");
        let again = cli::flowwarden(&["init", "--preset", preset, "--output", name])?;
        ensure!(again.code == Some(1) && again.errors.contains("--force"), "{again:?}");
        cli::init(preset, &["--output", name, "--force"])?;
        let checked = cli::flowwarden(&["check", name])?;
        ensure!(checked.code == Some(0), "{preset}: {checked:?}");
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(&format!("uid = {}", scene.node_red.confinement().uid)), "{preset}: {text}");
    }
    Ok(())
}
