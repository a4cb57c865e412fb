//! Audit of an instance against the seven rules: findings with evidence and remediation.
//!
//! An audit changes nothing and executes nothing. Every input is treated as hostile. The ids of checks are stable.

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

use access::Credentials;
use serde::Serialize;

use super::{Instance, Survey};
pub use fix::Fix;
use policy::machine::{account::Accounts, root::Root};
use policy::model::Policy;

/// Result of a check, ordered by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The instance meets the requirement.
    Pass,
    /// The protection is weak, or its state is unknown.
    Warn,
    /// The instance violates the rule.
    Fail,
}

impl Status {
    /// Returns the label in console output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// Result of one check for one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id of the check.
    pub check: &'static str,
    /// Number of the rule; 0 for a check beyond the seven rules.
    pub rule: u8,
    /// Result of the check.
    pub status: Status,
    /// Summary in one sentence.
    pub what: String,
    /// Observations that support the result.
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

/// Audit report of one instance.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// Name of the instance.
    pub instance: String,
    /// Findings in the order of the rules.
    pub findings: Vec<Finding>,
}

impl AuditReport {
    /// Returns the worst status of all findings.
    #[must_use]
    pub fn worst(&self) -> Status {
        self.findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Pass)
    }
}

/// Titles of the rules, indexed by number.
pub const RULES: [&str; 8] = [
    "other checks",
    "settings.js",
    "certificates and keys",
    "the editor",
    "the palette",
    "the host's files",
    "egress",
    "other instances",
];

/// Errors of [`audit`].
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The root directory of the instance cannot be opened.
    #[error("{name}: cannot open its root directory: {source}; run as root")]
    Root {
        /// Name of the instance.
        name: String,
        /// Underlying error.
        source: std::io::Error,
    },
}

/// Context of the checks of one instance.
struct Subject<'a> {
    instance: &'a Instance,
    root: Root,
    accounts: Accounts,
    credentials: Credentials,
    survey: &'a Survey,
    policy: Option<&'a Policy>,
}

impl Subject<'_> {
    /// Returns the user's name and uid for messages.
    fn user(&self) -> String {
        let uid = self.credentials.uid;
        self.instance.user.as_ref().map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})"))
    }

    fn user_dir(&self) -> Option<&Path> {
        self.instance.user_dir.as_deref()
    }

    /// Returns the home directory of the instance's account.
    fn home(&self) -> Option<&Path> {
        self.instance.home.as_deref().filter(|home| home.as_os_str().len() > 1)
    }

    /// Returns whether the instance uses the host's file system, so that shell commands on the host can fix it.
    fn is_on_host(&self) -> bool {
        !self.instance.is_contained()
    }
}

/// Audits one instance.
///
/// `root` replaces the root directory of the instance, for example with a mounted image. `policy` is the policy that the
/// egress check evaluates.
pub fn audit(
    instance: &Instance,
    survey: &Survey,
    root: Option<&Path>,
    policy: Option<&Policy>,
) -> Result<AuditReport, AuditError> {
    let opened = root.map_or_else(|| instance.root(), Root::at);
    let root = opened.map_err(|source| AuditError::Root { name: instance.name.clone(), source })?;
    let accounts = Accounts::read(&root);
    let credentials = credentials(instance, &accounts);
    let subject = Subject { instance, root, accounts, credentials, survey, policy };
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
    Ok(AuditReport { instance: instance.name.clone(), findings })
}

/// Returns the credentials of the running process, or those of the account if the instance is stopped.
fn credentials(instance: &Instance, accounts: &Accounts) -> Credentials {
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
    Credentials { uid, gids }
}

#[cfg(test)]
mod tests;
