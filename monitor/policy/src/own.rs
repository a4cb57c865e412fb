//! What belongs to the guard: rules that every instance has, whatever its policy says.
//!
//! A watched process must not change the guard's program, policy, journal, state and pins, nor read what it has written,
//! nor stop it, through its process or by its cgroup.

use std::path::{Path, PathBuf};

use monitor_common::{Access, Verdict};

use super::model::{Action, FileRule, KillScope, Names, Policy};
use crate::toml_reader::At;

/// What the ids of these rules begin with, and no other's may.
pub const PREFIX: &str = "guard-";

/// The rule for data that is carried out in the names that resolvers are asked for. Every policy has it.
pub const DNS_TUNNEL: &str = "dns-tunnel";
/// Rule for files that watched processes must not change.
pub const FILES: &str = "guard-files";
/// Rule for files that watched processes must not read or change.
pub const SECRETS: &str = "guard-secrets";

/// The files of a running guard, by absolute paths.
#[derive(Clone, Debug, Default)]
pub struct Own {
    files: Vec<PathBuf>,
    directories: Vec<(PathBuf, Names)>,
    secrets: Vec<PathBuf>,
}

impl Own {
    /// Its program, its entry in /proc, and its cgroup below `cgroup_mount` with the switches of those above.
    #[must_use]
    pub fn process(cgroup_mount: &Path) -> Self {
        let mut own = Self::default();
        own.files.extend(std::fs::read_link("/proc/self/exe"));
        own.directories.push((Path::new("/proc").join(std::process::id().to_string()), Names::Below));
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let inside = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        // The root cgroup has no switch that would stop anybody.
        for directory in Path::new(inside).ancestors().filter(|path| !path.as_os_str().is_empty()) {
            let directory = cgroup_mount.join(directory);
            own.files.extend(["cgroup.freeze", "cgroup.kill", "cgroup.procs"].map(|switch| directory.join(switch)));
        }
        own
    }

    /// Adds a file that watched processes must not change.
    pub fn file(&mut self, path: &Path) {
        self.files.extend(std::path::absolute(path));
    }

    /// Adds a directory that watched processes must not read or change.
    pub fn secret(&mut self, path: &Path) {
        self.secrets.extend(std::path::absolute(path));
    }

    /// Adds the rules to every instance.
    pub fn protect(&self, policy: &mut Policy) {
        let rule = |id: &str, path: &Path, names: Names, access: Access| FileRule {
            path: path.to_owned(),
            names,
            access,
            heal: false,
            at_once: true,
            action: Action {
                id: id.to_owned(),
                verdict: Verdict::Deny,
                fallback: Verdict::Kill,
                scope: KillScope::Process,
                maintenance: None,
                why: None,
                techniques: Vec::new(),
                at: At::default(),
            },
        };
        let closed = Access::CHANGES.union(Access::READ);
        for instance in &mut policy.instances {
            for path in &self.files {
                instance.files.push(rule(FILES, path, Names::Itself, Access::CHANGES));
            }
            for (path, names) in &self.directories {
                instance.files.push(rule(FILES, path, names.clone(), Access::CHANGES));
            }
            for path in &self.secrets {
                instance.files.push(rule(SECRETS, path, Names::Itself, closed));
                instance.files.push(rule(SECRETS, path, Names::Below, closed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    #[test]
    fn every_instance_gets_the_rules() {
        let head = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ uid = 9 }]\nuser-dir = \"/u\"\n";
        let mut policy =
            parse(&format!("{head}{}", head.replace("version = 1\n", "").replace("\"a\"", "\"b\""))).unwrap();
        let mut own = Own::process(Path::new("/sys/fs/cgroup"));
        own.file(Path::new("/etc/flowwarden/policy.toml"));
        own.secret(Path::new("/var/log/flowwarden"));
        own.protect(&mut policy);
        for instance in &policy.instances {
            let has = |path: &Path, names: Names, id: &str| {
                instance.files.iter().any(|rule| rule.path == path && rule.names == names && rule.action.id == id)
            };
            assert!(has(&std::env::current_exe().unwrap(), Names::Itself, FILES));
            assert!(has(Path::new("/etc/flowwarden/policy.toml"), Names::Itself, FILES));
            assert!(has(Path::new("/var/log/flowwarden"), Names::Below, SECRETS));
            assert!(has(&Path::new("/proc").join(std::process::id().to_string()), Names::Below, FILES));
            assert!(instance.files.iter().all(|rule| rule.at_once && rule.action.id.starts_with(PREFIX)));
        }
    }
}
