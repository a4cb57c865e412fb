//! Audit of an instance against the seven rules: findings with evidence and remediation.
//!
//! Nothing is changed, nothing is executed, and nothing that was found is assumed to be well meant. Each check has an id
//! that stays.

mod access;
mod advisories;
mod editor;
mod egress;
mod fix;
mod host;
mod isolation;
mod keys;
mod palette;
mod settings;

use std::{collections::BTreeSet, fs, path::Path};

use access::Who;
use serde::Serialize;

use super::{Instance, Survey};
pub use fix::Fix;
use policy::machine::{account::Accounts, root::Root};
use policy::model::Policy;

/// How a check ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Pass,
    /// Weak, or not known.
    Warn,
    /// Against the rule.
    Fail,
}

impl Status {
    /// The word that lists show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One check of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's id.
    pub check: &'static str,
    /// Number of the rule; 0 for a check beyond the seven rules.
    pub rule: u8,
    /// Result of the check.
    pub status: Status,
    /// The finding as a sentence.
    pub what: String,
    /// Evidence.
    pub evidence: Vec<String>,
    /// Steps that fix the finding.
    pub remediation: Vec<Fix>,
}

impl Finding {
    fn new(check: &'static str, rule: u8, status: Status, what: impl Into<String>) -> Self {
        Self { check, rule, status, what: what.into(), evidence: Vec::new(), remediation: Vec::new() }
    }

    fn pass(check: &'static str, rule: u8, what: impl Into<String>) -> Self {
        Self::new(check, rule, Status::Pass, what)
    }

    fn because(mut self, evidence: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.evidence.extend(evidence.into_iter().map(Into::into));
        self
    }

    fn fix(mut self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        self.remediation.extend(fixes);
        self
    }
}

/// All findings about one instance.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The instance's name.
    pub instance: String,
    /// The findings, by rule.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of its findings.
    #[must_use]
    pub fn worst(&self) -> Status {
        self.findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Pass)
    }
}

/// What the rules are called, by number.
pub const RULES: [&str; 8] = [
    "beyond the rules",
    "settings.js",
    "certificates and keys",
    "the editor",
    "the palette",
    "the host's files",
    "egress",
    "other instances",
];

/// Why an instance could not be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Its files cannot be reached.
    #[error("{name}: its file system cannot be looked at: {source}; run as root")]
    Root {
        /// The instance.
        name: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// An instance with what the checks need.
struct Subject<'a> {
    instance: &'a Instance,
    root: Root,
    accounts: Accounts,
    who: Who,
    survey: &'a Survey,
    policy: Option<&'a Policy>,
}

impl Subject<'_> {
    /// The user, as sentences name it.
    fn user(&self) -> String {
        let uid = self.who.uid;
        self.instance.user.as_ref().map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})"))
    }

    fn user_dir(&self) -> Option<&Path> {
        self.instance.user_dir.as_deref()
    }

    /// The home directory of its account.
    fn home(&self) -> Option<&Path> {
        self.instance.home.as_deref().filter(|home| home.as_os_str().len() > 1)
    }

    /// Whether its files are files of the host, so that commands on the host change them.
    fn is_on_host(&self) -> bool {
        !self.instance.is_contained()
    }
}

/// Audits one instance. `root` is what it sees, or a directory that stands for the machine; `policy` is the policy that
/// guards it, if there is one.
pub fn audit(
    instance: &Instance,
    survey: &Survey,
    root: Option<&Path>,
    policy: Option<&Policy>,
) -> Result<Report, AuditError> {
    let opened = root.map_or_else(|| instance.root(), Root::at);
    let root = opened.map_err(|source| AuditError::Root { name: instance.name.clone(), source })?;
    let accounts = Accounts::read(&root);
    let who = who(instance, &accounts);
    let subject = Subject { instance, root, accounts, who, survey, policy };
    let checks: [fn(&Subject<'_>) -> Vec<Finding>; 8] = [
        settings::check,
        keys::check,
        editor::check,
        palette::check,
        host::check,
        egress::check,
        isolation::check,
        advisories::check,
    ];
    let findings = checks.iter().flat_map(|check| check(&subject)).collect();
    Ok(Report { instance: instance.name.clone(), findings })
}

/// uid and groups: of the process while it runs, of the account otherwise.
fn who(instance: &Instance, accounts: &Accounts) -> Who {
    let uid = instance.uid.unwrap_or_default();
    let status = instance.pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let field = |name: &str| -> Vec<u32> {
        let line = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix(name)));
        line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
    };
    let running: BTreeSet<u32> = field("Gid:").into_iter().chain(field("Groups:")).collect();
    let gids = if status.is_some() {
        running
    } else {
        accounts.groups_of(uid).iter().map(|group| group.gid).chain(accounts.with_uid(uid).map(|own| own.gid)).collect()
    };
    Who { uid, gids }
}

#[cfg(test)]
mod tests;
