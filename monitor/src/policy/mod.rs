//! The policy: a TOML file becomes a validated [`model::Policy`], and that becomes map entries.
//!
//! [`parse`] knows the format and nothing of the machine, [`host`] what only the machine can tell (users, cgroups,
//! who may write the file), [`compile`] the tree of nodes that [`monitor_common::decide`] walks.

pub mod compile;
pub mod device;
pub mod host;
pub mod init;
pub mod limit;
pub mod model;
pub mod name;
pub mod own;
pub mod parse;
pub mod peers;
pub mod preset;
pub mod settle;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use model::Policy;

/// One thing that is wrong with a policy file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct Fault {
    /// From 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and the mend.
    pub what: String,
}

/// A policy file that cannot be used. Nothing of it is applied.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}", render(path, faults))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All that was found, in the order of the file.
        faults: Vec<Fault>,
    },
}

fn render(path: &Path, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(|fault| Located(path, fault).to_string()).collect();
    lines.join("\n")
}

/// A fault with its file, as an editor can jump to it.
pub struct Located<'a>(pub &'a Path, pub &'a Fault);

impl fmt::Display for Located<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, fault) = self;
        if fault.line == 0 {
            write!(to, "{}: {}", path.display(), fault.what)
        } else {
            write!(to, "{}:{}:{}: {}", path.display(), fault.line, fault.column, fault.what)
        }
    }
}

/// Reads, parses and validates a policy file; the warnings come beside it.
pub fn read(path: &Path, host: &dyn host::Host) -> Result<(Policy, Vec<Fault>), PolicyError> {
    let unreadable = |source| PolicyError::Unreadable { path: path.to_owned(), source };
    let named = std::path::absolute(path).map_err(unreadable)?;
    let real = fs::canonicalize(path).map_err(unreadable)?;
    // Once opened, the text that is judged is the text that is used, whatever happens to the name.
    let text = fs::read_to_string(&real).map_err(unreadable)?;
    let refused = |faults| PolicyError::Faulty { path: path.to_owned(), faults };
    let policy = parse::parse(&text).map_err(refused)?;
    let mut faults = host::refuse(&policy, host);
    faults.extend(host::writable(&[&named, &real], &policy, host));
    if faults.is_empty() {
        faults.extend(fits(&policy, host).err());
    }
    if faults.is_empty() {
        let warnings = host::warn(&policy, host);
        Ok((policy, warnings))
    } else {
        Err(refused(faults))
    }
}

/// Whether the policy fits into the kernel's tables, whatever the files are.
fn fits(policy: &Policy, host: &dyn host::Host) -> Result<(), Fault> {
    let slots = policy.instances.iter().map(|instance| instance.name.clone()).zip(0..).collect();
    compile::compile(policy, 1, &slots, host, &mut |_| None).map(drop)
}

/// What `flowwarden check FILE` says.
#[derive(Debug)]
pub struct Report {
    /// The file as it was named.
    pub path: PathBuf,
    /// The policy, or why it cannot be used.
    pub policy: Result<Policy, PolicyError>,
    /// What is odd but can be meant.
    pub warnings: Vec<Fault>,
}

impl Report {
    /// Whether the policy can be used.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.policy.is_ok()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            let Fault { line, column, what } = warning;
            let warning = Fault { line: *line, column: *column, what: format!("warning: {what}") };
            writeln!(to, "{}", Located(&self.path, &warning))?;
        }
        match &self.policy {
            Err(error) => write!(to, "{error}"),
            Ok(policy) => {
                let rules: usize =
                    policy.instances.iter().map(|instance| instance.files.len() + instance.nets.len()).sum();
                let mode = if policy.enforce { "enforce" } else { "observe" };
                write!(
                    to,
                    "{}: usable, mode {mode}, instances {}, rules {rules}",
                    self.path.display(),
                    policy.instances.len()
                )
            }
        }
    }
}

/// Checks a policy file as it would be checked before use. Needs no privileges, changes nothing.
#[must_use]
pub fn check(path: &Path, host: &dyn host::Host) -> Report {
    let (policy, warnings) = match read(path, host) {
        Ok((policy, warnings)) => (Ok(policy), warnings),
        Err(error) => (Err(error), Vec::new()),
    };
    Report { path: path.to_owned(), policy, warnings }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::policy::{
        host::{CanDeny, Host},
        model::Select,
    };

    /// A machine on which every file is root's alone, but for those whose name says otherwise.
    struct Clean;

    impl Host for Clean {
        fn uid(&self, user: &str) -> Option<u32> {
            (user == "nodered").then_some(990)
        }
        fn login(&self, _: u32) -> Option<(String, String)> {
            None
        }
        fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
            Vec::new()
        }
        fn owner(&self, path: &Path) -> Option<(u32, u32)> {
            Some((if path.ends_with("theirs") { 990 } else { 0 }, 0o755))
        }
        fn exists(&self, _: &Path) -> bool {
            false
        }
        fn link(&self, _: &Path) -> Option<PathBuf> {
            None
        }
        fn can_deny(&self) -> CanDeny {
            CanDeny::default()
        }
    }

    const GOOD: &str =
        "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ user = \"nodered\" }]\nuser-dir = \"/ud\"\n";

    #[test]
    fn a_report_reads_like_a_compiler() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        fs::write(&file, GOOD).unwrap();
        let report = check(&file, &Clean);
        let shown = file.display();
        assert!(report.is_usable());
        assert_eq!(
            report.to_string(),
            format!(
                "{shown}:2:1: warning: user-dir /ud does not exist (yet)\n{shown}: usable, mode observe, instances 1, rules 0"
            )
        );
        fs::write(&file, format!("{GOOD}acess = 1\nmode = 2\n").replace("nodered", "nobody-here")).unwrap();
        let report = check(&file, &Clean);
        assert!(!report.is_usable());
        assert_eq!(
            report.to_string(),
            format!("{shown}:6:1: unknown key \"acess\"\n{shown}:7:1: unknown key \"mode\"")
        );
        fs::write(&file, GOOD.replace("nodered", "nobody-here")).unwrap();
        assert_eq!(
            check(&file, &Clean).to_string(),
            format!("{shown}:4:11: there is no user \"nobody-here\" on this machine")
        );
    }

    #[test]
    fn both_ends_of_a_linked_policy_file_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let [good, theirs] = ["good", "theirs"].map(|name| directory.path().join(name));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&good).unwrap();
        fs::write(good.join("policy.toml"), GOOD).unwrap();
        symlink(good.join("policy.toml"), theirs.join("policy.toml")).unwrap();
        fs::write(theirs.join("real.toml"), GOOD).unwrap();
        symlink(theirs.join("real.toml"), good.join("linked.toml")).unwrap();
        assert!(check(&good.join("policy.toml"), &Clean).is_usable());
        for path in [theirs.join("policy.toml"), good.join("linked.toml")] {
            let report = check(&path, &Clean).to_string();
            assert!(report.contains("theirs belongs to uid 990"), "{report}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_says_so() {
        let report = check(Path::new("/nowhere/policy.toml"), &Clean).to_string();
        assert!(report.starts_with("/nowhere/policy.toml: No such file"), "{report}");
    }

    #[test]
    fn what_does_not_fit_is_found_without_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        let ports: Vec<_> = (1..=17).map(|port| (port * 2).to_string()).collect();
        let rule = format!("[[instance.egress]]\nto = [\"any\"]\nports = [{}]\nverdict = \"log\"\n", ports.join(", "));
        fs::write(&file, format!("{GOOD}{rule}")).unwrap();
        assert!(check(&file, &Clean).to_string().contains("17 port ranges apply to any address"));
    }

    #[test]
    fn the_machine_itself_answers() {
        let system = host::System::new();
        assert_eq!(system.uid("root"), Some(0));
        // Whoever passwd lists with a shell that /etc/shells lists, and nobody else.
        for line in fs::read_to_string("/etc/passwd").unwrap().lines() {
            let fields: Vec<_> = line.split(':').collect();
            let [name, uid, shell] = [fields[0], fields[2], fields[6]];
            if shell.ends_with("/nologin") || shell.ends_with("/false") {
                assert_ne!(system.login(uid.parse().unwrap()).map(|(user, _)| user).as_deref(), Some(name));
            }
        }
        let listed = fs::read_to_string("/etc/shells").is_ok_and(|shells| shells.contains("/bin/bash\n"));
        if listed && fs::read_to_string("/etc/passwd").unwrap().contains("root:x:0:0:root:/root:/bin/bash\n") {
            assert_eq!(system.login(0), Some(("root".to_owned(), "/bin/bash".to_owned())));
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(system.owner(&file).unwrap().1 & 0o777, 0o664);
        symlink(&file, directory.path().join("link")).unwrap();
        assert_eq!(system.link(&directory.path().join("link")), Some(file.clone()));
        assert_eq!(system.link(&file), None);
        assert!(system.exists(&file) && !system.exists(&directory.path().join("y")));
    }
}
