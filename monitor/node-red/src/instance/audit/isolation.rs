//! Rule 7: instances are isolated from each other, and none can escalate its privileges.

use std::path::Path;

use super::{Finding, Fix, Status, Subject, access::WRITE, fix::quoted};
use crate::instance::Instance;

const RULE: u8 = 7;
/// Groups whose members can become root.
const PRIVILEGED: [&str; 9] = ["root", "sudo", "wheel", "admin", "docker", "podman", "lxd", "incus-admin", "disk"];
/// Groups whose members have more access than other users.
const ELEVATED: [&str; 5] = ["adm", "shadow", "systemd-journal", "libvirt", "kvm"];
/// Control sockets of container engines that run as root.
const SOCKETS: [&str; 4] =
    ["/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock"];

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![groups(subject), account(subject), files(subject), ports(subject)]
}

fn groups(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "privileged-groups";
    let named = |list: &[&str]| -> Vec<String> {
        let groups = subject.accounts.groups.iter().filter(|group| subject.credentials.gids.contains(&group.gid));
        groups.map(|group| group.name.clone()).filter(|name| list.contains(&name.as_str())).collect()
    };
    let user = subject.instance.user.clone().unwrap_or_else(|| subject.credentials.uid.to_string());
    let (privileged, elevated) = (named(&PRIVILEGED), named(&ELEVATED));
    let sockets: Vec<_> = SOCKETS
        .iter()
        .filter(|path| subject.root.find(Path::new(path)).is_ok_and(|place| subject.credentials.may(&place, WRITE)))
        .map(|path| (*path).to_owned())
        .collect();
    let sudo = sudoers(subject, &user);
    let leave = |groups: &[String]| -> Vec<Fix> {
        groups.iter().map(|group| Fix::shell(format!("gpasswd --delete {} {}", quoted(&user), quoted(group)))).collect()
    };
    if privileged.is_empty() && sockets.is_empty() && sudo.is_empty() {
        return match elevated.as_slice() {
            [] => Finding::pass(CHECK, RULE, format!("{} is a member of no privileged group", subject.user())),
            groups => Finding::new(
                CHECK,
                RULE,
                Status::Warn,
                format!("{} is a member of groups with more access than other users", subject.user()),
            )
            .because(groups.iter().map(|group| format!("group {group}")))
            .fix(leave(groups)),
        };
    }
    let evidence = privileged.iter().map(|group| format!("group {group}"));
    let evidence = evidence.chain(sockets.iter().map(|path| format!("{path} is writable"))).chain(sudo);
    Finding::new(CHECK, RULE, Status::Fail, format!("{} can become root", subject.user()))
        .because(evidence)
        .fix(leave(&privileged))
        .fix([Fix::advice(
            "run Node-RED as a dedicated user: useradd --system --create-home --shell /usr/sbin/nologin node-red",
        )])
}

/// Returns the lines of sudoers that grant the user commands without a password.
fn sudoers(subject: &Subject<'_>, user: &str) -> Vec<String> {
    let directory = Path::new("/etc/sudoers.d");
    let drop_ins = subject.root.list(directory, 200).unwrap_or_default();
    let files = drop_ins.into_iter().map(|name| directory.join(name)).chain([Path::new("/etc/sudoers").to_owned()]);
    let groups: Vec<_> = subject
        .accounts
        .groups
        .iter()
        .filter(|group| subject.credentials.gids.contains(&group.gid))
        .map(|group| format!("%{}", group.name))
        .collect();
    let mut found = Vec::new();
    for file in files {
        let text = subject.root.text(&file, 1 << 20).unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|line| line.contains("NOPASSWD")) {
            let who = line.split_whitespace().next().unwrap_or_default();
            if who == user || who == "ALL" || groups.iter().any(|group| group == who) {
                found.push(format!("{}: {line}", file.display()));
            }
        }
    }
    found
}

fn account(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "account-shared";
    let uid = subject.credentials.uid;
    let same = others(subject)
        .filter(|other| other.uid == Some(uid))
        .map(|other| format!("instance {} has the same uid", other.name));
    let same: Vec<_> = same.collect();
    let person = subject.is_on_host().then(|| subject.accounts.login(uid)).flatten();
    let fix = [Fix::advice("run each instance as a dedicated user without a login")];
    if !same.is_empty() && uid != 0 {
        return Finding::new(
            CHECK,
            RULE,
            Status::Fail,
            format!("{} runs several instances, which are not isolated from each other", subject.user()),
        )
        .because(same)
        .fix(fix);
    }
    match person {
        Some((person, shell)) => {
            Finding::new(CHECK, RULE, Status::Warn, "Node-RED shares its account with a login user")
                .because([format!("{} has the login shell {shell}", person.name)])
                .fix(fix)
        }
        None => Finding::pass(CHECK, RULE, format!("{} runs this instance only", subject.user())),
    }
}

fn files(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "neighbours-files";
    let (mut evidence, mut fixes, mut written) = (Vec::new(), Vec::new(), false);
    for other in others(subject).filter(|other| !other.is_contained()) {
        let Some(directory) =
            other.user_dir.as_ref().filter(|directory| Some(directory.as_path()) != subject.user_dir())
        else {
            continue;
        };
        if !subject.root.exists(directory) {
            continue;
        }
        let ways = subject.credentials.changes(&subject.root, &directory.join("flows.json"));
        if !ways.is_empty() {
            written = true;
            evidence.push(format!("{}: {} is writable", other.name, directory.display()));
        } else if subject.credentials.reads(&subject.root, directory) {
            evidence.push(format!("{}: {} is readable", other.name, directory.display()));
        } else {
            continue;
        }
        fixes.push(Fix::shell(format!("chmod o-rwx {}", super::fix::path(directory))));
    }
    if evidence.is_empty() {
        return Finding::pass(CHECK, RULE, "files of other instances are not accessible");
    }
    let status = if written { Status::Fail } else { Status::Warn };
    Finding::new(CHECK, RULE, status, "files of other instances are accessible").because(evidence).fix(fixes)
}

fn ports(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "neighbours-ports";
    let network = |instance: &Instance| {
        let pid = instance.pid?;
        std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
    };
    let own = network(subject.instance);
    let reached: Vec<_> = others(subject)
        .filter(|other| other.pid.is_some() && network(other) == own)
        .flat_map(|other| {
            other.listens.iter().map(move |listen| format!("{}: port {} of this machine", other.name, listen.port))
        })
        .collect();
    if reached.is_empty() {
        return Finding::pass(CHECK, RULE, "no other instance listens in the same network namespace");
    }
    Finding::new(CHECK, RULE, Status::Warn, "flows can connect to the ports of other instances").because(reached).fix([
        Fix::advice(
            "flowwarden init --preset multi-tenant writes rules that isolate instances; containers have separate network namespaces",
        ),
    ])
}

/// Returns the other instances of the machine.
fn others<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a Instance> {
    let own = &subject.instance.name;
    subject
        .survey
        .instances
        .iter()
        .filter(move |other| &other.name != own && other.kind != crate::instance::Kind::UserDir)
}
