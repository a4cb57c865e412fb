//! Finding the Node-RED instances that run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    kernel::scan::{self, Process},
    policy::{model::Select, preset::Found},
};

/// The instances that run now, one for each uid and user directory.
#[must_use]
pub fn discover(cgroup_mount: &Path) -> Vec<Found> {
    let processes = scan::processes(cgroup_mount);
    let mut found: BTreeMap<(u32, PathBuf), Found> = BTreeMap::new();
    for process in processes.iter().filter(|process| process.is_node_red) {
        let Some(user_dir) = user_dir(process) else { continue };
        let count = found.len() + 1;
        found.entry((process.uid, user_dir.clone())).or_insert_with(|| Found {
            name: format!("node-red-{count}"),
            // The uid may be shared with people; with the program it is Node-RED and what descends from it.
            select: Select { uid: Some(process.uid), exec: true, ..Select::default() },
            user_dir,
        });
    }
    found.into_values().collect()
}

/// The user directory of a running Node-RED: `-u` or `--userDir`, else `.node-red` in its home.
fn user_dir(process: &Process) -> Option<PathBuf> {
    let base = Path::new("/proc").join(process.tgid.to_string());
    let cmdline = fs::read(base.join("cmdline")).ok()?;
    let arguments: Vec<_> =
        cmdline.split(|&byte| byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    let given = arguments.iter().enumerate().find_map(|(index, argument)| match argument.as_str() {
        "-u" | "--userDir" => arguments.get(index + 1).cloned(),
        _ => argument.strip_prefix("--userDir=").map(str::to_owned),
    });
    let cwd = fs::read_link(base.join("cwd")).unwrap_or_default();
    let environ = fs::read(base.join("environ")).unwrap_or_default();
    let home = environ
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"HOME="))
        .map(|home| String::from_utf8_lossy(home).into_owned());
    let candidates =
        [given.map(|dir| cwd.join(dir)), home.map(|home| Path::new(&home).join(".node-red")), Some(cwd.clone())];
    // Once it listens, Node-RED's title has replaced its arguments: then the directory that holds its files is taken.
    let is_user_dir = |dir: &PathBuf| {
        ["settings.js", ".config.runtime.json", "flows.json"].iter().any(|file| dir.join(file).exists())
    };
    let mut candidates = candidates.into_iter().flatten();
    let first = candidates.clone().next();
    candidates.find(is_user_dir).or(first).and_then(|dir| fs::canonicalize(&dir).ok().or(Some(dir)))
}
