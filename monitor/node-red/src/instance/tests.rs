use std::fs;

use super::*;

const PASSWD: &str =
    "root:x:0:0::/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\nnr:x:990:990::/var/lib/nr:/usr/sbin/nologin\n";

fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Survey) {
    let directory = tempfile::tempdir().unwrap();
    for (path, content) in [("etc/passwd", PASSWD)].iter().chain(files) {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let survey = survey_at(directory.path()).unwrap();
    (directory, survey)
}

const UNIT: &str = "[Service]\nUser=pi\nWorkingDirectory=/home/pi\nExecStart=/usr/bin/env node-red-pi -p 1885\n";

#[test]
fn a_stopped_unit_is_one_instance_with_its_files() {
    let (_keep, survey) = machine(&[
        ("etc/systemd/system/nodered.service", UNIT),
        ("usr/lib/node_modules/node-red/red.js", ""),
        ("usr/lib/node_modules/node-red/bin/node-red-pi", ""),
        ("usr/lib/node_modules/node-red/package.json", r#"{"version":"4.1.15"}"#),
        ("usr/bin/node-red-pi", ""),
        (
            "home/pi/.node-red/settings.js",
            "module.exports = { adminAuth: {}, flowFile: 'f.json', uiPort: 1, https: tls() }",
        ),
        ("home/pi/.node-red/f.json", r#"[{"type":"mqtt-broker","broker":"10.0.0.1","port":"1883"}]"#),
    ]);
    assert_eq!(survey.instances.len(), 1, "{survey:#?}");
    let found = &survey.instances[0];
    assert_eq!((found.name.as_str(), found.kind, found.uid), ("nodered", Kind::Systemd, Some(1000)));
    assert_eq!(found.user_dir.as_deref(), Some(Path::new("/home/pi/.node-red")));
    assert_eq!(
        (found.port(), found.user.as_deref()),
        (Some(1885), Some("pi")),
        "the command line overrules the settings"
    );
    assert_eq!(found.flows.as_ref().unwrap().targets[0].host, "10.0.0.1");
    assert_eq!(found.select().unit.as_deref(), Some("nodered.service"));
    assert!(found.unknown.iter().any(|line| line.starts_with("settings: https: ")), "{:?}", found.unknown);
    assert_eq!(survey.installations[0].version.as_deref(), Some("4.1.15"));
}

#[test]
fn a_program_that_is_a_link_leads_to_its_package() {
    let directory = tempfile::tempdir().unwrap();
    let package = directory.path().join("usr/lib/node_modules/node-red");
    fs::create_dir_all(package.join("bin")).unwrap();
    fs::create_dir_all(directory.path().join("usr/bin")).unwrap();
    fs::write(package.join("red.js"), "").unwrap();
    fs::write(package.join("bin/node-red-pi"), "").unwrap();
    std::os::unix::fs::symlink(
        "../lib/node_modules/node-red/bin/node-red-pi",
        directory.path().join("usr/bin/node-red-pi"),
    )
    .unwrap();
    let root = Root::at(directory.path()).unwrap();
    let found = super::package(&root, Path::new("/home/pi/node-red-pi"));
    assert_eq!(found.as_deref(), Some(Path::new("/usr/lib/node_modules/node-red")));
}

#[test]
fn a_home_that_nothing_uses_is_told_once() {
    let (_keep, survey) = machine(&[
        ("home/pi/.node-red/settings.js", ""),
        ("var/lib/nr/.node-red/flows.json", "[]"),
        ("home/pi/.pm2/dump.pm2", r#"[{"name":"my flows","pm_exec_path":"/usr/bin/node-red","pm_cwd":"/home/pi"}]"#),
    ]);
    let names: Vec<_> = survey.instances.iter().map(|one| (one.name.as_str(), one.kind)).collect();
    assert_eq!(names, [("my-flows", Kind::Pm2), ("node-red-nr", Kind::UserDir)]);
    let select = survey.instances[0].select();
    assert!(select.exec && select.uid == Some(1000));
}

#[test]
fn names_are_unique_and_fit_a_policy() {
    let long = "x".repeat(100);
    let entry = |name: &str| format!(r#"{{"name":{name:?},"pm_exec_path":"red.js"}}"#);
    let dump = format!("[{},{},{},{}]", entry("a\"b"), entry("a'b"), entry(&long), entry(""));
    let (_keep, survey) = machine(&[("home/pi/.pm2/dump.pm2", &dump)]);
    let mut names: Vec<_> = survey.instances.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a-b", "a-b-2", "node-red-pi", &long[..48]]);
}

#[test]
fn a_project_is_followed_only_inside_of_its_directory() {
    let settings =
        ("home/pi/.node-red/settings.js", "module.exports = { editorTheme: { projects: { enabled: true } } }");
    for (active, nodes) in [("p", 1), ("../p", 0), ("..", 0)] {
        let projects = format!(r#"{{"activeProject":"{active}"}}"#);
        let (_keep, survey) = machine(&[
            settings,
            ("home/pi/.node-red/.config.projects.json", &projects),
            ("home/pi/.node-red/projects/p/package.json", r#"{"node-red":{"settings":{"flowFile":"main.json"}}}"#),
            ("home/pi/.node-red/projects/p/main.json", r#"[{"type":"exec"}]"#),
        ]);
        let found = survey.instances[0].flows.as_ref().map_or(0, |flows| flows.nodes);
        assert_eq!(found, nodes, "{active}");
    }
}
