//! Report of a maintenance window: packages and settings before and after, and how to revert them.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{heal::Left, maintenance::programs::Ran};
use node_red::change::{
    self,
    diff::{self, Diff},
};
use policy::machine::root::Root;

/// Most packages that are read.
const MAX_PACKAGES: usize = 4000;
/// Most bytes of package.json files that are read, of one and of all together.
const MAX_FILE: u64 = 256 << 10;
const MAX_ALL: usize = 16 << 20;
/// Most bytes of a version and of a name.
const MAX_TEXT: usize = 214;
/// Most packages that are named in a report.
const MAX_NAMED: usize = 100;

/// A package as its package.json describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// It has install scripts.
    pub scripts: bool,
}

/// State of a user directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Packages in `node_modules`, without nested ones.
    pub packages: BTreeMap<String, Package>,
    /// There are more packages than are read.
    pub cut: bool,
    /// Content of `settings.js`; `None` if it is missing or too large.
    pub settings: Option<String>,
}

impl Snapshot {
    /// Reads the state.
    #[must_use]
    pub fn take(user_dir: &Path) -> Self {
        let mut found = Self::default();
        let Ok(root) = Root::host() else { return found };
        found.settings = root.text(&user_dir.join("settings.js"), change::MAX_BYTES).ok();
        let modules = user_dir.join("node_modules");
        let mut left = MAX_ALL;
        for name in root.list(&modules, MAX_PACKAGES + 1).unwrap_or_default() {
            if name.starts_with('@') {
                for inner in root.list(&modules.join(&name), MAX_PACKAGES + 1).unwrap_or_default() {
                    found.add(&root, &modules, format!("{name}/{inner}"), &mut left);
                }
            } else if !name.starts_with('.') {
                found.add(&root, &modules, name, &mut left);
            }
        }
        found
    }

    fn add(&mut self, root: &Root, modules: &Path, name: String, left: &mut usize) {
        if self.packages.len() >= MAX_PACKAGES || *left == 0 || name.len() > MAX_TEXT {
            self.cut = true;
            return;
        }
        let Ok(text) = root.read(&modules.join(&name).join("package.json"), MAX_FILE) else { return };
        *left = left.saturating_sub(text.len());
        let Ok(description) = serde_json::from_slice::<Value>(&text) else { return };
        let version = description["version"].as_str().unwrap_or("?").chars().take(64).collect();
        let scripts =
            ["preinstall", "install", "postinstall"].iter().any(|name| !description["scripts"][name].is_null());
        self.packages.insert(name, Package { version, scripts });
    }
}

/// Changes in a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Added packages with their versions.
    pub added: Vec<String>,
    /// Removed packages.
    pub removed: Vec<String>,
    /// Updated packages.
    pub updated: Vec<String>,
    /// Packages with install scripts among them.
    pub scripts: Vec<String>,
    /// Diff of settings.js; `None` if unchanged.
    pub settings: Option<Diff>,
    /// The command that reverts packages.
    pub revert: Option<String>,
    /// Executed programs with counts; `None` if the guard was restarted in the window.
    pub ran: Option<Ran>,
    /// Healed files that differ from their baselines.
    pub files: Vec<Left>,
    /// The report is incomplete, since there were too many packages.
    pub cut: bool,
}

/// Compares a user directory before and after.
#[must_use]
pub fn compare(before: &Snapshot, after: &Snapshot) -> Report {
    let mut report = Report { cut: before.cut || after.cut, ..Report::default() };
    let (mut remove, mut install, mut by_hand) = (Vec::new(), Vec::new(), false);
    for (name, package) in &after.packages {
        match before.packages.get(name) {
            Some(old) if old == package => continue,
            Some(old) => {
                report.updated.push(format!("{name} {} -> {}", old.version, package.version));
                take_back(&mut install, &mut by_hand, name, Some(&old.version));
            }
            None => {
                report.added.push(format!("{name} {}", package.version));
                take_back(&mut remove, &mut by_hand, name, None);
            }
        }
        if package.scripts {
            report.scripts.push(name.clone());
        }
    }
    for (name, package) in before.packages.iter().filter(|(name, _)| !after.packages.contains_key(*name)) {
        report.removed.push(format!("{name} {}", package.version));
        take_back(&mut install, &mut by_hand, name, Some(&package.version));
    }
    if before.settings != after.settings {
        let text = |snapshot: &Snapshot| snapshot.settings.clone().unwrap_or_default();
        report.settings = Some(diff::diff(&text(before), &text(after)));
    }
    let commands: Vec<_> = [("uninstall", remove), ("install", install)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(command, names)| format!("npm {command} --ignore-scripts {}", names.join(" ")))
        .collect();
    report.revert = match (commands.is_empty(), by_hand || report.cut) {
        (true, false) => None,
        (true, true) => Some("by hand: the names cannot be given to a shell, or there are too many".to_owned()),
        (false, false) => Some(commands.join(" && ")),
        (false, true) => Some(format!("{} # and some more by hand", commands.join(" && "))),
    };
    report
}

/// Package names come from others: a command is only given if a shell cannot misread a name.
fn take_back(list: &mut Vec<String>, by_hand: &mut bool, name: &str, version: Option<&str>) {
    let plain = |text: &str, more: &str| {
        text.starts_with(|char: char| char.is_ascii_alphanumeric() || char == '@')
            && text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
    };
    if list.len() >= MAX_NAMED || !plain(name, "@/._-") || version.is_some_and(|version| !plain(version, ".+-")) {
        *by_hand = true;
        return;
    }
    list.push(version.map_or_else(|| name.to_owned(), |version| format!("{name}@{version}")));
}

impl Report {
    /// Summary in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let settings = match &self.settings {
            Some(diff) => format!("settings.js changed ({} lines added, {} removed)", diff.added, diff.removed),
            None => "settings.js as it was".to_owned(),
        };
        format!(
            "{} packages added, {} removed, {} updated; {settings}",
            self.added.len(),
            self.removed.len(),
            self.updated.len()
        )
    }

    /// Attributes of the journal event.
    pub fn tell(&self, details: &mut Map<String, Value>) {
        details.insert("report".to_owned(), self.words().into());
        for (key, list) in [
            ("packages_added", &self.added),
            ("packages_removed", &self.removed),
            ("packages_updated", &self.updated),
            ("install_scripts", &self.scripts),
        ] {
            if !list.is_empty() {
                let named: Vec<_> = list.iter().take(MAX_NAMED).cloned().collect();
                details.insert(key.to_owned(), named.into());
            }
        }
        match &self.ran {
            Some(Ran { lines, more }) => {
                let lines: Vec<_> = lines.iter().map(|(line, count)| format!("{line}, {count} times")).collect();
                details.insert("programs".to_owned(), lines.into());
                if *more > 0 {
                    details.insert("programs_more".to_owned(), (*more).into());
                }
            }
            None => drop(details.insert("programs_unknown".to_owned(), true.into())),
        }
        if !self.files.is_empty() {
            let paths: Vec<_> = self.files.iter().map(|file| file.path.display().to_string()).collect();
            details.insert("files_changed".to_owned(), paths.into());
        }
        if let Some(diff) = &self.settings {
            details.insert("settings_diff".to_owned(), diff.text.as_str().into());
        }
        if let Some(revert) = &self.revert {
            details.insert("revert".to_owned(), revert.as_str().into());
        }
        if self.cut {
            details.insert("cut".to_owned(), true.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn package(user_dir: &Path, name: &str, json: &str) {
        let directory = user_dir.join("node_modules").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("package.json"), json).unwrap();
    }

    #[test]
    fn packages_and_settings_are_reported_with_the_way_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Snapshot::take(path), Snapshot::default());
        package(path, "stays", r#"{"version":"1.0.0"}"#);
        package(path, "goes", r#"{"version":"1.2.3"}"#);
        package(path, "@s/grows", r#"{"version":"1.0.0"}"#);
        package(path, ".cache", r#"{"version":"1.0.0"}"#);
        fs::write(path.join("settings.js"), "uiPort: 1\n").unwrap();
        let before = Snapshot::take(path);
        assert_eq!(before.packages.len(), 3);
        fs::remove_dir_all(path.join("node_modules/goes")).unwrap();
        package(path, "@s/grows", r#"{"version":"2.0.0","scripts":{"postinstall":"x"}}"#);
        package(path, "comes", r#"{"version":"0.1.0"}"#);
        fs::write(path.join("settings.js"), "uiPort: 2\n").unwrap();
        let report = compare(&before, &Snapshot::take(path));
        assert_eq!(
            (&report.added[..], &report.removed[..], &report.updated[..], &report.scripts[..]),
            (
                &["comes 0.1.0".to_owned()][..],
                &["goes 1.2.3".to_owned()][..],
                &["@s/grows 1.0.0 -> 2.0.0".to_owned()][..],
                &["@s/grows".to_owned()][..]
            )
        );
        assert_eq!(
            report.revert.as_deref(),
            Some("npm uninstall --ignore-scripts comes && npm install --ignore-scripts @s/grows@1.0.0 goes@1.2.3")
        );
        assert_eq!(
            report.words(),
            "1 packages added, 1 removed, 1 updated; settings.js changed (1 lines added, 1 removed)"
        );
        assert_eq!(compare(&before, &before), Report::default());
    }

    #[test]
    fn no_name_of_a_package_becomes_a_command() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a;reboot", "$(x)", "-g", "a b", "a\nb", "good"] {
            package(directory.path(), name, r#"{"version":"1.0.0"}"#);
        }
        package(directory.path(), "odd", r#"{"version":"1.0.0 && reboot"}"#);
        let full = Snapshot::take(directory.path());
        let came = compare(&Snapshot::default(), &full).revert.unwrap();
        assert_eq!(came, "npm uninstall --ignore-scripts good odd # and some more by hand");
        let went = compare(&full, &Snapshot::default()).revert.unwrap();
        assert_eq!(went, "npm install --ignore-scripts good@1.0.0 # and some more by hand");
    }

    #[test]
    fn what_is_large_is_cut_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let padding = "x".repeat(usize::try_from(MAX_FILE).unwrap() - 100);
        for number in 0..=MAX_ALL / padding.len() + 2 {
            let json = format!("{{\"version\":\"1.0.0\",\"description\":\"{padding}\"}}");
            package(directory.path(), &format!("p{number}"), &json);
        }
        let full = Snapshot::take(directory.path());
        assert!(full.cut && compare(&Snapshot::default(), &full).cut);
    }
}
