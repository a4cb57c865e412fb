//! What only the machine can tell about a policy: users, cgroups, files, and who may change the policy itself.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    policy::{Class, Direction},
};

use super::{
    model::{Action, InstancePolicy, Names, Policy, Select},
    name::{self, DnsName},
    peers::Table,
};
use crate::{
    machine::{account::Accounts, device, procs, root::Root},
    toml_reader::{At, Fault},
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
    /// Block devices below the file system with this number, all in the kernel's encoding.
    fn devices(&self, _device: u32) -> Vec<u32> {
        Vec::new()
    }
    /// What can be refused here.
    fn can_deny(&self) -> CanDeny;
    /// Where this machine looks names up.
    fn resolvers(&self) -> Vec<IpAddr> {
        Vec::new()
    }
    /// Numbers of the proc file systems that the instance with this slot sees beside this machine's own.
    fn procs(&self, _slot: u16) -> Vec<u32> {
        Vec::new()
    }
    /// Whether a file is about to be restored: its rules do not wait until it has settled.
    fn is_expected(&self, _path: &Path) -> bool {
        false
    }
    /// Addresses of a host that an ingress rule names, as far as they are known.
    fn addresses(&self, _name: &DnsName) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// Which operations the sensors of the running kernel can make fail.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CanDeny {
    /// Accesses to files.
    pub files: bool,
    /// Outgoing traffic.
    pub network: bool,
    /// Connections and datagrams from others.
    pub inbound: bool,
    /// Programs that are started.
    pub exec: bool,
    /// Changes of credentials, signals and tracing, mounts, namespaces, the kernel, and sockets of any family.
    pub system: bool,
}

impl CanDeny {
    /// Whether operations of a class can be refused.
    #[must_use]
    pub fn class(self, class: Class) -> bool {
        match class {
            Class::Files => self.files,
            Class::Exec | Class::ExecUnnamed | Class::ExecWritable => self.exec,
            // The cgroup programs refuse raw sockets too.
            Class::Egress | Class::RawSocket => self.network,
            Class::Ingress => self.inbound,
            Class::Privilege
            | Class::Ptrace
            | Class::Signal
            | Class::Socket
            | Class::Mount
            | Class::Namespace
            | Class::Kernel => self.system,
        }
    }
}

/// This machine.
#[derive(Clone, Debug)]
pub struct System {
    /// Where cgroup v2 is mounted.
    pub cgroup_mount: PathBuf,
    /// What can be refused. Before the sensors run: traffic, as on most kernels.
    pub can_deny: CanDeny,
    /// Addresses of the hosts that ingress rules name: what [`Peers`](super::peers::Peers) has found out.
    pub peers: Table,
    /// The proc file systems that instances see, by slot.
    pub procs: procs::Seen,
    /// Files that are about to be restored.
    pub expected: BTreeSet<PathBuf>,
}

impl System {
    /// This machine by its configuration, for callers that load no kernel programs: with `bpf` in the kernel's list of LSMs,
    /// or where that list cannot be read, everything counts as refusable. The guard itself tries it.
    #[must_use]
    pub fn expected() -> Self {
        let listed = fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|list| !list.trim().split(',').any(|name| name == "bpf"));
        let can = !listed;
        Self { can_deny: CanDeny { files: can, network: true, inbound: true, exec: can, system: can }, ..Self::new() }
    }

    /// This machine, with cgroup v2 where it is mounted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cgroup_mount: cgroup_mount().unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")),
            can_deny: CanDeny { network: true, inbound: true, ..CanDeny::default() },
            peers: Table::new(),
            procs: procs::Seen::new(),
            expected: BTreeSet::new(),
        }
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

impl Host for System {
    fn resolvers(&self) -> Vec<IpAddr> {
        name::resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    fn procs(&self, slot: u16) -> Vec<u32> {
        self.procs.get(&slot).into_iter().flatten().copied().collect()
    }

    fn is_expected(&self, path: &Path) -> bool {
        self.expected.contains(path)
    }

    fn addresses(&self, name: &DnsName) -> Vec<IpAddr> {
        self.peers.get(name).into_iter().flatten().copied().collect()
    }

    fn uid(&self, user: &str) -> Option<u32> {
        Some(accounts().named(user)?.uid)
    }

    fn login(&self, uid: u32) -> Option<(String, String)> {
        accounts().login(uid).map(|(account, shell)| (account.name.clone(), shell.to_owned()))
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

    fn devices(&self, device: u32) -> Vec<u32> {
        device::below(device)
    }

    fn can_deny(&self) -> CanDeny {
        self.can_deny
    }
}

fn accounts() -> Accounts {
    Root::host().map(|root| Accounts::read(&root)).unwrap_or_default()
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
///
/// `paths` are the file as it was named and its real path: a user who can replace a link in the first
/// changes the policy as well.
#[must_use]
pub fn writable(paths: &[&Path], policy: &Policy, host: &dyn Host) -> Vec<Fault> {
    let selected =
        policy.instances.iter().flat_map(|instance| &instance.select).filter_map(|select| uid_of(select, host));
    // A unit or container does not tell its user, but the owner of the user directory does.
    let owners = policy.instances.iter().filter_map(|instance| Some(host.owner(&instance.user_dir)?.0));
    let watched: BTreeSet<_> = selected.chain(owners).filter(|&uid| uid != 0).collect();
    let places: BTreeSet<_> =
        paths.iter().flat_map(|path| path.ancestors()).filter(|place| !place.as_os_str().is_empty()).collect();
    let mut faults = Vec::new();
    for place in places {
        let Some((owner, mode)) = host.owner(place) else { continue };
        // A link has no mode of its own. In a sticky directory others cannot replace what is not theirs.
        let link = host.link(place).is_some();
        let sticky = !paths.contains(&place) && mode & 0o1000 != 0;
        let what = if watched.contains(&owner) {
            format!("{} belongs to uid {owner}, which the policy restrains; chown root it", place.display())
        } else if mode & 0o022 != 0 && !sticky && !link {
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
    let can = host.can_deny();
    for rule in &instance.files {
        // A rule against making a file is about one that is not there.
        let against_making = rule.access.contains(Access::CREATE) && rule.action.verdict > Verdict::Allow;
        if rule.names == Names::Itself && !against_making && !host.exists(&rule.path) {
            warnings.push(fault(rule.action.at, format!("{} does not exist (yet)", rule.path.display())));
        }
    }
    for rule in instance.nets.iter().filter(|rule| rule.bound.is_some() && !can.network) {
        let what = format!("rule {}: nothing here can count what leaves; `max-bytes` does nothing", rule.action.id);
        warnings.push(fault(rule.action.at, what));
    }
    // A rule with several paths is reported once. Rules with an explicit fallback are reported in one line: where only
    // tracepoints run they are nearly all.
    let (mut reported, mut kills) = (BTreeSet::new(), Vec::new());
    let mut cannot = |action: &Action, what: &str| {
        if action.verdict != Verdict::Deny || !reported.insert(action.id.clone()) {
        } else if action.fallback == Verdict::Kill {
            kills.push(action.id.clone());
        } else {
            let what = format!(
                "rule {}: no sensor here can deny {what}; it logs instead; fallback = \"kill\" would stop it",
                action.id
            );
            warnings.push(fault(action.at, what));
        }
    };
    for rule in &instance.files {
        let exec_only = rule.access == Access::EXEC;
        let deniable =
            if exec_only { can.exec } else { can.files && (can.exec || !rule.access.contains(Access::EXEC)) };
        if !deniable {
            cannot(&rule.action, if exec_only { "the start of a program" } else { "this access to files" });
        }
    }
    for rule in &instance.nets {
        match rule.direction {
            Direction::Egress if !can.network => cannot(&rule.action, "outgoing traffic"),
            Direction::Ingress if !can.inbound => cannot(&rule.action, "incoming connections"),
            Direction::Egress | Direction::Ingress => {}
        }
    }
    for (name, class) in Class::NAMES {
        let deniable = can.class(class);
        let default = instance.defaults[class as usize];
        if default.verdict != Verdict::Deny || deniable {
        } else if default.fallback == Verdict::Kill {
            kills.push(format!("default-{name}"));
        } else {
            let what = format!("default {name} = \"deny\": no sensor here can deny it; it logs instead");
            warnings.push(fault(instance.at, what));
        }
    }
    if !kills.is_empty() {
        let what =
            format!("no sensor here can deny for these, which kill instead, as `fallback` says: {}", kills.join(", "));
        warnings.push(fault(instance.at, what));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::parse::parse;

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
                "/etc/dir" | "/ud" => (991, 0o755),
                "/etc/group.toml" => (0, 0o664),
                "/tmp/open.toml" => (0, 0o1666),
                "/etc/open" | "/etc/link/policy.toml" => (0, 0o777),
                "/tmp" => (0, 0o1777),
                _ => (0, 0o755),
            })
        }
        fn exists(&self, path: &Path) -> bool {
            path == Path::new("/ud")
        }
        fn link(&self, path: &Path) -> Option<PathBuf> {
            (path == Path::new("/etc/link/policy.toml")).then(|| PathBuf::from("/etc/flowwarden/policy.toml"))
        }
        fn can_deny(&self) -> CanDeny {
            CanDeny { network: true, ..CanDeny::default() }
        }
    }

    fn policy(select: &str, rest: &str) -> Policy {
        parse(&format!("version = 1\n[[instance]]\nname = \"a\"\nuser-dir = \"/ud\"\nselect = [{select}]\n{rest}"))
            .unwrap()
    }

    fn refused(select: &str) -> String {
        refuse(&policy(select, ""), &Fake).into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn root_and_shared_uids_are_not_selected_by_uid_alone() {
        assert!(refused("{ uid = 0 }").contains("half of the machine"));
        assert!(refused("{ uid = 1000 }").contains("login shells of pi"));
        assert!(refused("{ user = \"no-such-user\" }").contains("no user"));
        assert_eq!(refused("{ uid = 1000, exec = \"node-red\" }"), "");
        assert_eq!(refused("{ uid = 0, unit = \"nodered.service\" }"), "");
        assert_eq!(refused("{ user = \"nodered\" }"), "");
    }

    #[test]
    fn a_policy_that_the_watched_can_write_is_refused() {
        let policy = policy("{ user = \"nodered\" }", "");
        let refused = |paths: &[&str]| -> String {
            let paths: Vec<_> = paths.iter().map(Path::new).collect();
            writable(&paths, &policy, &Fake).into_iter().map(|fault| fault.what).collect()
        };
        assert!(refused(&["/etc/own/policy.toml"]).contains("belongs to uid 990"));
        assert!(refused(&["/etc/open/policy.toml"]).contains("/etc/open can be written"));
        assert!(refused(&["/etc/group.toml"]).contains("can be written by group"));
        assert!(refused(&["/tmp/open.toml"]).contains("can be written"), "sticky means nothing for a file");
        assert!(
            refused(&["/etc/dir/policy.toml"]).contains("belongs to uid 991"),
            "the owner of the user directory is watched"
        );
        assert!(
            refused(&["/etc/open/link.toml", "/etc/flowwarden/policy.toml"]).contains("/etc/open"),
            "the link counts too"
        );
        assert_eq!(refused(&["/etc/flowwarden/policy.toml"]), "");
        assert_eq!(
            refused(&["/etc/link/policy.toml", "/etc/flowwarden/policy.toml"]),
            "",
            "the mode of a link says nothing"
        );
        assert_eq!(refused(&["/tmp/policy.toml"]), "");
    }

    #[test]
    fn what_the_kernel_cannot_deny_is_said() {
        let file = |access: &str, fallback: &str| {
            format!(
                "[[instance.files]]\nid = \"r\"\npaths = [\"x\", \"y\"]\naccess = [{access:?}]\nverdict = \"deny\"\n{fallback}"
            )
        };
        let net = |key: &str, end: &str| format!("[[instance.{key}]]\n{end} = [\"any\"]\nverdict = \"deny\"\n");
        let warnings_of = |rules: &str| -> Vec<String> {
            let warnings = warn(&policy("{ uid = 990 }", rules), &Fake).into_iter().map(|fault| fault.what);
            warnings.filter(|what| what.contains("no sensor")).collect()
        };
        let defaults = "default = { mount = { verdict = \"deny\", fallback = \"kill\" } }\n";
        assert_eq!(
            warnings_of(&format!("{defaults}{}", file("read", "fallback = \"kill\"\n"))),
            ["no sensor here can deny for these, which kill instead, as `fallback` says: r, default-mount"]
        );
        assert_eq!(
            warnings_of(&file("exec", "")),
            [
                "rule r: no sensor here can deny the start of a program; it logs instead; fallback = \"kill\" would stop it"
            ]
        );
        assert_eq!(warnings_of(&net("egress", "to")), [""; 0]);
        assert_eq!(
            warnings_of(&net("ingress", "from")),
            [
                "rule ingress-1: no sensor here can deny incoming connections; it logs instead; fallback = \"kill\" would stop it"
            ]
        );
        assert_eq!(
            warnings_of("default = { files = \"deny\", egress = \"deny\" }\n"),
            ["default files = \"deny\": no sensor here can deny it; it logs instead"]
        );
    }

    #[test]
    fn what_is_not_there_is_said() {
        let rules = "[[instance.files]]\npaths = [\"x\", \"y/**\"]\naccess = [\"read\"]\nverdict = \"kill\"\n";
        let warnings: Vec<_> = warn(&policy("{ unit = \"u.service\" }", rules), &Fake)
            .into_iter()
            .map(|fault| (fault.line, fault.what))
            .collect();
        assert_eq!(
            warnings,
            [
                (5, "u.service does not run: no cgroup of that name (yet)".to_owned()),
                (6, "/ud/x does not exist (yet)".to_owned())
            ]
        );
    }

    #[test]
    fn the_machine_itself_answers() {
        let system = System::new();
        assert_eq!(system.uid("root"), Some(0));
        // Accounts of passwd with a shell of /etc/shells, and no others.
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
