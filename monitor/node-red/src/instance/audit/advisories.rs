//! Known vulnerabilities: affected versions of Node-RED and packages, and issues of all versions.

use std::path::Path;

use serde::Deserialize;

use super::{Finding, Fix, Status, Subject};
use crate::instance::installed;

const CHECK: &str = "known-vulnerabilities";

/// Versioned list of advisories.
const LIST: &str = include_str!("advisories.toml");

#[derive(Debug, Deserialize)]
struct List {
    version: String,
    advisory: Vec<Advisory>,
}

#[derive(Debug, Deserialize)]
struct Advisory {
    id: String,
    package: String,
    before: Option<String>,
    what: String,
}

impl Advisory {
    fn affects(&self, version: &str) -> bool {
        self.before.as_deref().is_none_or(|before| is_older(version, before))
    }
}

/// Compares versions. Both `1.2.7` and the pre-release `1.2.8-beta.1` are older than `1.2.8`.
fn is_older(version: &str, than: &str) -> bool {
    let parts = |text: &str| -> (Vec<u64>, bool) {
        let (core, pre) = text.split_once('-').map_or((text, false), |(core, _)| (core, true));
        (core.split('.').map(|part| part.parse().unwrap_or(0)).collect(), pre)
    };
    let ((version, pre), (than, _)) = (parts(version), parts(than));
    version < than || (version == than && pre)
}

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let list: List = match toml::from_str(LIST) {
        Ok(list) => list,
        Err(error) => {
            return vec![Finding::new(
                CHECK,
                0,
                Status::Warn,
                format!("cannot parse the built-in list of advisories: {error}"),
            )];
        }
    };
    let modules = subject.user_dir().map(|directory| directory.join("node_modules"));
    let installed = |package: &str| {
        if package == "node-red" {
            return subject.instance.version.clone();
        }
        installed::version(&subject.root, &modules.as_deref()?.join(Path::new(package)))
    };
    let (mut evidence, mut fixes) = (Vec::new(), Vec::new());
    for advisory in &list.advisory {
        let Some(version) = installed(&advisory.package).filter(|version| advisory.affects(version)) else { continue };
        evidence.push(format!("{}: {} {version}: {}", advisory.id, advisory.package, advisory.what));
        fixes.push(match &advisory.before {
            Some(before) => Fix::advice(format!("upgrade {} to {before} or later", advisory.package)),
            None => Fix::advice(format!("remove {}", advisory.package)),
        });
    }
    let list = format!("the advisory list of {}", list.version);
    let projects = subject.instance.settings.as_ref().is_some_and(|settings| !settings.projects.is(&false));
    let mut findings = vec![if !evidence.is_empty() {
        Finding::new(CHECK, 0, Status::Fail, format!("installed versions have known vulnerabilities ({list})"))
            .because(evidence)
            .fix(fixes)
    } else if let Some(version) = &subject.instance.version {
        Finding::pass(CHECK, 0, format!("no known vulnerability affects Node-RED {version} or its packages ({list})"))
    } else {
        Finding::new(CHECK, 0, Status::Warn, "the version of Node-RED is unknown")
    }];
    if projects {
        findings.push(
            Finding::new(
                "projects-keys-api",
                0,
                Status::Warn,
                "Projects are enabled: a user with the settings.write permission can read and delete files outside the user directory",
            )
            .because(["Node-RED up to at least 5.0.7 does not validate the path in /settings/user/keys/..%2f..".to_owned()])
            .fix([Fix::advice(
                "disable Projects if they are not needed; Flowwarden's rules match the reads and deletes",
            )]),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advisory_list_is_complete() {
        let list: List = toml::from_str(LIST).unwrap();
        for advisory in &list.advisory {
            assert!(advisory.id.starts_with("CVE-") && advisory.what.ends_with('.'), "{advisory:?}");
            assert!(advisory.before.as_deref().is_none_or(|version| version.split('.').count() == 3), "{advisory:?}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_older("1.2.7", "1.2.8") && is_older("0.20.10", "1.0.0") && is_older("2.9.0", "2.26.2"));
        assert!(is_older("1.2.8-beta.1", "1.2.8") && is_older("broken", "1.0.0"));
        assert!(!is_older("1.2.8", "1.2.8") && !is_older("4.1.15", "1.2.8") && !is_older("10.0.0", "9.9.9"));
    }
}
