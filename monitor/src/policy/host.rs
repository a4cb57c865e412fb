//! What only the machine can tell about a policy: users, cgroups, files, and who may change the policy itself.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use monitor_common::Verdict;

use super::{
    Fault,
    model::{At, InstancePolicy, Names, Policy, Select},
};

/// The machine, as far as a policy is concerned.
pub trait Host {
    /// uid of a user.
    fn uid(&self, user: &str) -> Option<u32>;
    /// A user with this uid who can log in, and the shell.
    fn login(&self, uid: u32) -> Option<(String, String)>;
    /// Directories of cgroup v2 that a selector names, with their ids.
    fn cgroups(&self, select: &Select) -> Vec<(PathBuf, u64)>;
    /// Owner and mode of a file, not following a link.
    fn owner(&self, path: &Path) -> Option<(u32, u32)>;
    /// Whether a path exists, not following a link.
    fn exists(&self, path: &Path) -> bool;
    /// Where a symbolic link points, as it stands; `None` for what is none.
    fn link(&self, path: &Path) -> Option<PathBuf>;
    /// Whether traffic can be refused here.
    fn can_deny_network(&self) -> bool;
    /// Whether an access to a file can be refused here.
    fn can_deny_files(&self) -> bool;
}

/// This machine.
#[derive(Clone, Debug)]
pub struct System {
    /// Where cgroup v2 is mounted.
    pub cgroup_mount: PathBuf,
    /// Whether traffic can be refused.
    pub deny_network: bool,
}

impl System {
    /// This machine, with cgroup v2 where it is mounted.
    #[must_use]
    pub fn new() -> Self {
        Self { cgroup_mount: cgroup_mount().unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")), deny_network: true }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

/// Where cgroup v2 is mounted, from /proc/self/mounts.
#[must_use]
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    })
}

/// Shells with which nobody logs in.
const NO_LOGIN: &[&str] = &["nologin", "false", "sync", "true", ""];

impl Host for System {
    fn uid(&self, user: &str) -> Option<u32> {
        passwd().into_iter().find(|entry| entry.name == user).map(|entry| entry.uid)
    }

    fn login(&self, uid: u32) -> Option<(String, String)> {
        passwd()
            .into_iter()
            .find(|entry| entry.uid == uid && !NO_LOGIN.contains(&entry.shell.rsplit('/').next().unwrap_or_default()))
            .map(|entry| (entry.name, entry.shell))
    }

    fn cgroups(&self, select: &Select) -> Vec<(PathBuf, u64)> {
        if let Some(path) = &select.cgroup {
            let path = self.cgroup_mount.join(path.trim_start_matches('/'));
            return fs::metadata(&path).map(|meta| (path, meta.ino())).into_iter().collect();
        }
        let wanted = |name: &str| match (&select.unit, &select.container) {
            (Some(unit), _) => name == unit,
            (_, Some(container)) => {
                // docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, or the plain ID.
                let id = name.strip_suffix(".scope").unwrap_or(name);
                id.rsplit('-').next().is_some_and(|id| id.len() >= 12 && id.starts_with(container.as_str()))
            }
            _ => false,
        };
        let mut found = Vec::new();
        let mut open = vec![(self.cgroup_mount.clone(), 0)];
        while let Some((directory, depth)) = open.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if entry.file_name().to_str().is_some_and(wanted) {
                    found.extend(entry.metadata().map(|meta| (entry.path(), meta.ino())));
                } else if depth < 8 {
                    open.push((entry.path(), depth + 1));
                }
            }
        }
        found
    }

    fn owner(&self, path: &Path) -> Option<(u32, u32)> {
        fs::symlink_metadata(path).ok().map(|meta| (meta.uid(), meta.mode()))
    }

    fn exists(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }

    fn can_deny_network(&self) -> bool {
        self.deny_network
    }

    fn can_deny_files(&self) -> bool {
        false
    }
}

struct Passwd {
    name: String,
    uid: u32,
    shell: String,
}

fn passwd() -> Vec<Passwd> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            Some(Passwd { name: (*fields.first()?).to_owned(), uid: fields.get(2)?.parse().ok()?, shell: (*fields.get(6)?).to_owned() })
        })
        .collect()
}

fn fault(at: At, what: String) -> Fault {
    Fault { line: at.line, column: at.column, what }
}

/// The uid that a selector names.
#[must_use]
pub fn uid_of(select: &Select, host: &dyn Host) -> Option<u32> {
    select.uid.or_else(|| host.uid(select.user.as_deref()?))
}

/// What makes a policy unusable on this machine.
#[must_use]
pub fn refuse(policy: &Policy, host: &dyn Host) -> Vec<Fault> {
    let mut faults = Vec::new();
    for select in policy.instances.iter().flat_map(|instance| &instance.select) {
        if let Some(user) = &select.user
            && host.uid(user).is_none()
        {
            faults.push(fault(select.at, format!("there is no user \"{user}\" on this machine")));
            continue;
        }
        let Some(uid) = uid_of(select, host).filter(|_| select.by_user_alone()) else { continue };
        if uid == 0 {
            faults.push(fault(
                select.at,
                "uid 0 alone would select half of the machine; add `unit`, `container`, `cgroup` or exec = \"node-red\"".to_owned(),
            ));
        } else if let Some((user, shell)) = host.login(uid) {
            faults.push(fault(
                select.at,
                format!(
                    "uid {uid} alone would select the login shells of {user} ({shell}) too; \
                     add exec = \"node-red\" or select by `unit`, `container` or `cgroup`"
                ),
            ));
        }
    }
    faults
}

/// A policy that those whom it restrains can change is none.
#[must_use]
pub fn writable(path: &Path, policy: &Policy, host: &dyn Host) -> Vec<Fault> {
    let watched: Vec<_> = policy.instances.iter().flat_map(|instance| &instance.select).filter_map(|select| uid_of(select, host)).collect();
    let mut faults = Vec::new();
    for (index, place) in path.ancestors().enumerate() {
        let Some((owner, mode)) = host.owner(place) else { continue };
        // In a sticky directory others cannot replace what is not theirs.
        let sticky = index > 0 && mode & 0o1000 != 0;
        let what = if owner != 0 && watched.contains(&owner) {
            format!("{} belongs to uid {owner}, which the policy restrains; chown root it", place.display())
        } else if mode & 0o022 != 0 && !sticky {
            format!("{} can be written by group or others; chmod go-w it", place.display())
        } else {
            continue;
        };
        faults.push(fault(At::default(), what));
    }
    faults
}

/// What is odd but can be meant.
#[must_use]
pub fn warn(policy: &Policy, host: &dyn Host) -> Vec<Fault> {
    let mut warnings = Vec::new();
    for instance in &policy.instances {
        if !host.exists(&instance.user_dir) {
            warnings.push(fault(instance.at, format!("user-dir {} does not exist (yet)", instance.user_dir.display())));
        }
        for select in &instance.select {
            let named = select.unit.as_ref().or(select.container.as_ref()).or(select.cgroup.as_ref());
            if let Some(name) = named.filter(|_| host.cgroups(select).is_empty()) {
                warnings.push(fault(select.at, format!("{name} does not run: no cgroup of that name (yet)")));
            }
        }
        warn_rules(instance, host, &mut warnings);
    }
    warnings
}

fn warn_rules(instance: &InstancePolicy, host: &dyn Host, warnings: &mut Vec<Fault>) {
    let cannot = |verdict: Verdict, fallback: Verdict| match (verdict, fallback) {
        (Verdict::Deny, Verdict::Kill) => Some("kills instead (`fallback`)"),
        (Verdict::Deny, _) => Some("logs instead; say fallback = \"kill\" to stop it"),
        _ => None,
    };
    for rule in &instance.files {
        if rule.names == Names::Itself && !host.exists(&rule.path) {
            warnings.push(fault(rule.action.at, format!("{} does not exist (yet)", rule.path.display())));
        }
        if !host.can_deny_files()
            && let Some(instead) = cannot(rule.action.verdict, rule.action.fallback)
        {
            warnings.push(fault(rule.action.at, format!("rule {}: no sensor here can deny file accesses; it {instead}", rule.action.id)));
        }
    }
    for rule in &instance.nets {
        let can = host.can_deny_network() && rule.direction as u16 == 0;
        if !can && let Some(instead) = cannot(rule.action.verdict, rule.action.fallback) {
            warnings.push(fault(rule.action.at, format!("rule {}: no sensor here can deny this traffic; it {instead}", rule.action.id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::parse;

    struct Fake;

    impl Host for Fake {
        fn uid(&self, user: &str) -> Option<u32> {
            (user == "nodered").then_some(990)
        }
        fn login(&self, uid: u32) -> Option<(String, String)> {
            (uid == 1000).then(|| ("pi".to_owned(), "/bin/bash".to_owned()))
        }
        fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
            Vec::new()
        }
        fn owner(&self, path: &Path) -> Option<(u32, u32)> {
            Some(match path.to_str()? {
                "/etc/own/policy.toml" => (990, 0o600),
                "/etc/open" => (0, 0o777),
                "/tmp" => (0, 0o1777),
                _ => (0, 0o755),
            })
        }
        fn exists(&self, path: &Path) -> bool {
            path == Path::new("/ud")
        }
        fn link(&self, _: &Path) -> Option<PathBuf> {
            None
        }
        fn can_deny_network(&self) -> bool {
            true
        }
        fn can_deny_files(&self) -> bool {
            false
        }
    }

    fn policy(select: &str, rest: &str) -> Policy {
        parse(&format!("version = 1\n[[instance]]\nname = \"a\"\nuser-dir = \"/ud\"\nselect = [{select}]\n{rest}")).unwrap()
    }

    fn refused(select: &str) -> String {
        refuse(&policy(select, ""), &Fake).into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn root_and_shared_uids_are_not_selected_by_uid_alone() {
        assert!(refused("{ uid = 0 }").contains("half of the machine"));
        assert!(refused("{ uid = 1000 }").contains("login shells of pi"));
        assert!(refused("{ user = \"nobody-here\" }").contains("no user"));
        assert_eq!(refused("{ uid = 1000, exec = \"node-red\" }"), "");
        assert_eq!(refused("{ uid = 0, unit = \"nodered.service\" }"), "");
        assert_eq!(refused("{ user = \"nodered\" }"), "");
    }

    #[test]
    fn a_policy_that_the_watched_can_write_is_refused() {
        let policy = policy("{ user = \"nodered\" }", "");
        assert_eq!(writable(Path::new("/etc/own/policy.toml"), &policy, &Fake).len(), 1);
        assert_eq!(writable(Path::new("/etc/open/policy.toml"), &policy, &Fake).len(), 1);
        assert!(writable(Path::new("/etc/flowwarden/policy.toml"), &policy, &Fake).is_empty());
        assert!(writable(Path::new("/tmp/policy.toml"), &policy, &Fake).is_empty());
    }

    #[test]
    fn what_the_kernel_cannot_deny_is_said() {
        let rules = "[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\nverdict = \"deny\"\nfallback = \"kill\"\n";
        let warnings = warn(&policy("{ uid = 990 }", rules), &Fake);
        assert!(warnings.iter().any(|fault| fault.what.contains("kills instead")), "{warnings:?}");
        assert!(warnings.iter().any(|fault| fault.what.contains("/ud/x does not exist")), "{warnings:?}");
    }
}
