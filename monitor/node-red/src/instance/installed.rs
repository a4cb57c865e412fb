//! Node-RED where it is installed and may not run: packages of npm, processes that pm2 remembers, homes with a userDir.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{arguments, settings::Environment};
use policy::machine::{account::Accounts, root::Root};

/// Largest package.json, dump.pm2 and the like that is read.
const LIMIT: u64 = 4 << 20;
/// Most entries of a directory that are looked at.
const MOST: usize = 200;

/// A package that holds Node-RED.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Installation {
    /// Its directory, with `red.js`.
    pub path: PathBuf,
    /// Its version.
    pub version: Option<String>,
}

/// Where npm puts packages for everybody, and for one user.
pub(crate) fn installations(root: &Root, accounts: &Accounts) -> Vec<Installation> {
    let mut places: Vec<PathBuf> =
        ["/usr/lib", "/usr/local/lib", "/opt/node/lib", "/usr/src/node-red"].map(PathBuf::from).into();
    for account in &accounts.users {
        let versions = account.home.join(".nvm/versions/node");
        let with_nvm = root.list(&versions, MOST).unwrap_or_default().into_iter();
        places.extend(with_nvm.map(|version| versions.join(version).join("lib")));
        places.extend([".npm-global/lib", ".local/lib", ""].map(|place| account.home.join(place)));
    }
    let mut found: Vec<_> = places
        .into_iter()
        .map(|place| place.join("node_modules/node-red"))
        .filter(|path| root.exists(&path.join("red.js")))
        .map(|path| Installation { version: version(root, &path), path })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The version of the package in a directory.
pub(crate) fn version(root: &Root, package: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let text = root.read(&package.join("package.json"), LIMIT).ok()?;
    let package: Package = serde_json::from_slice(&text).ok()?;
    (package.version.len() < 64 && !package.version.chars().any(char::is_control)).then_some(package.version)
}

/// A process that pm2 starts again after a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pm2 {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) command: Vec<String>,
    pub(crate) working_directory: Option<PathBuf>,
    pub(crate) environment: Environment,
}

/// The Node-RED processes in every user's dump.pm2.
pub(crate) fn pm2(root: &Root, accounts: &Accounts) -> Vec<Pm2> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        name: String,
        #[serde(default)]
        pm_exec_path: String,
        #[serde(default)]
        pm_cwd: Option<PathBuf>,
        #[serde(default)]
        args: serde_json::Value,
        #[serde(default)]
        env: BTreeMap<String, serde_json::Value>,
    }
    let mut found = Vec::new();
    for account in &accounts.users {
        let Ok(text) = root.read(&account.home.join(".pm2/dump.pm2"), LIMIT) else { continue };
        for entry in serde_json::from_slice::<Vec<Entry>>(&text).unwrap_or_default() {
            let arguments = match &entry.args {
                serde_json::Value::Array(items) => {
                    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
                }
                serde_json::Value::String(line) => line.split_whitespace().map(str::to_owned).collect(),
                _ => Vec::new(),
            };
            let command: Vec<_> = std::iter::once(entry.pm_exec_path).chain(arguments).collect();
            if !command.iter().any(|word| arguments::is_program(word)) {
                continue;
            }
            let text = |(name, value): (String, serde_json::Value)| Some((name, value.as_str()?.to_owned()));
            let mut set: BTreeMap<_, _> = entry.env.into_iter().filter_map(text).collect();
            set.entry("HOME".to_owned()).or_insert_with(|| account.home.display().to_string());
            let environment = Environment { set, complete: false };
            found.push(Pm2 {
                name: entry.name,
                uid: account.uid,
                command,
                working_directory: entry.pm_cwd,
                environment,
            });
        }
    }
    found
}

/// Whether a directory holds what Node-RED keeps in its userDir.
pub(crate) fn is_user_dir(root: &Root, directory: &Path) -> bool {
    [".config.runtime.json", "settings.js", "flows.json", ".config.nodes.json"]
        .iter()
        .any(|file| root.exists(&directory.join(file)))
}

/// Paths in the homes of accounts that may have a userDir and cannot be read, each with the cause.
pub(crate) fn closed(root: &Root, accounts: &Accounts) -> Vec<String> {
    let directories: BTreeSet<_> = accounts.users.iter().map(|account| account.home.join(".node-red")).collect();
    let unreadable = directories.iter().filter_map(|directory| {
        let error = root.find(&directory.join("settings.js")).err()?;
        let absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        (!absent).then(|| format!("{} cannot be looked into: {error}", directory.display()))
    });
    unreadable.collect()
}

/// The userDirs in the homes of accounts, with the account's uid.
pub(crate) fn user_dirs(root: &Root, accounts: &Accounts) -> Vec<(u32, PathBuf)> {
    let mut found: Vec<_> = accounts
        .users
        .iter()
        .filter(|account| account.home.as_os_str().len() > 1)
        .map(|account| (account.uid, account.home.join(".node-red")))
        .filter(|(_, directory)| is_user_dir(root, directory))
        .collect();
    // Two accounts of one home have one userDir.
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found.dedup_by(|a, b| a.1 == b.1);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::testing::root;

    #[test]
    fn global_packages_and_those_of_nvm_are_found() {
        let (_keep, root) = root(&[
            ("etc/passwd", "a:x:1000:1000::/home/a:/bin/sh\n"),
            ("usr/lib/node_modules/node-red/red.js", ""),
            ("usr/lib/node_modules/node-red/package.json", r#"{"name":"node-red","version":"4.1.15"}"#),
            ("home/a/.nvm/versions/node/v22.1.0/lib/node_modules/node-red/red.js", ""),
            ("home/a/.nvm/versions/node/v22.1.0/lib/node_modules/node-red/package.json", "{"),
        ]);
        let found = installations(&root, &Accounts::read(&root));
        assert_eq!(found.iter().map(|one| one.version.as_deref()).collect::<Vec<_>>(), [None, Some("4.1.15")]);
    }

    #[test]
    fn what_pm2_remembers_is_found() {
        let dump = r#"[{"name":"nr","pm_exec_path":"/usr/bin/node-red","args":["-u","/srv/nr"],"pm_cwd":"/srv","env":{"PORT":"1881","x":{}}},
                       {"name":"web","pm_exec_path":"/srv/app.js"}]"#;
        let (_keep, root) = root(&[("etc/passwd", "a:x:1000:1000::/home/a:/bin/sh\n"), ("home/a/.pm2/dump.pm2", dump)]);
        let found = pm2(&root, &Accounts::read(&root));
        assert_eq!((found.len(), found[0].name.as_str(), found[0].uid), (1, "nr", 1000));
        assert_eq!(found[0].command, ["/usr/bin/node-red", "-u", "/srv/nr"]);
        assert_eq!(found[0].environment.set["PORT"], "1881");
    }
}
