//! The policy that is used when there is none: the same few rules for every instance that was found.

use std::{fmt::Write as _, path::PathBuf};

use super::{
    Fault,
    model::{Policy, Select},
    parse::parse,
};

/// The rules, without the instance that they are for.
pub const RULES: &str = include_str!("default.toml");

/// An instance that was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A name for it.
    pub name: String,
    /// What selects its processes.
    pub select: Select,
    /// Its user directory.
    pub user_dir: PathBuf,
}

/// The default policy as text, as `flowwarden` would read it from a file.
#[must_use]
pub fn text(instances: &[Found], enforce: bool) -> String {
    let mut text = format!("version = 1\nmode = \"{}\"\n", if enforce { "enforce" } else { "observe" });
    for found in instances {
        let mut parts = Vec::new();
        let quoted = |text: &str| format!("{text:?}");
        parts.extend(found.select.uid.map(|uid| format!("uid = {uid}")));
        parts.extend(found.select.unit.as_ref().map(|unit| format!("unit = {}", quoted(unit))));
        parts.extend(found.select.cgroup.as_ref().map(|cgroup| format!("cgroup = {}", quoted(cgroup))));
        if found.select.exec {
            parts.push("exec = \"node-red\"".to_owned());
        }
        let _ = write!(
            text,
            "\n[[instance]]\nname = {}\nselect = [{{ {} }}]\nuser-dir = {}\ndefault = {{ egress = \"log\" }}\n\n{RULES}",
            quoted(&found.name),
            parts.join(", "),
            quoted(&found.user_dir.to_string_lossy()),
        );
    }
    text
}

/// The default policy for these instances.
pub fn policy(instances: &[Found], enforce: bool) -> Result<Policy, Vec<Fault>> {
    parse(&text(instances, enforce))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_parses_and_covers_the_three_cards() {
        let found = Found {
            name: "a".into(),
            select: Select { uid: Some(990), exec: true, ..Select::default() },
            user_dir: "/home/a b/.node-red".into(),
        };
        let policy = policy(&[found], true).unwrap();
        let instance = &policy.instances[0];
        let ids: Vec<_> = instance.files.iter().map(|rule| rule.action.id.as_str()).collect();
        assert!(ids.contains(&"settings-js") && ids.contains(&"private-keys"), "{ids:?}");
        assert!(policy.enforce && instance.select[0].exec);
        assert_eq!(instance.files[0].path, PathBuf::from("/home/a b/.node-red/settings.js"));
    }
}
