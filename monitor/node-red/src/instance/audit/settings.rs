//! Rule 1: the user that runs Node-RED cannot change settings.js.

use std::path::Path;

use super::{
    Finding, Fix, Status, Subject,
    access::WritePath,
    fix::{path, quoted},
};

const RULE: u8 = 1;
const CHECK: &str = "settings-writable";

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let Some(file) = subject.instance.settings_file.as_deref() else {
        let what = "the user directory is unknown: it is unknown who can change settings.js";
        return vec![Finding::new(CHECK, RULE, Status::Warn, what)];
    };
    if subject.credentials.uid == 0 {
        let what = format!("Node-RED runs as root and can change {}", file.display());
        return vec![Finding::new(CHECK, RULE, Status::Fail, what).fix([Fix::advice("run it as a dedicated user")])];
    }
    if !subject.root.exists(file) {
        let what = format!("{} does not exist: the first user who creates it controls Node-RED", file.display());
        return vec![
            Finding::new(CHECK, RULE, Status::Warn, what)
                .fix([Fix::advice("start Node-RED once, then repeat the audit")]),
        ];
    }
    let ways = subject.credentials.changes(&subject.root, file);
    if ways.is_empty() {
        return vec![Finding::pass(CHECK, RULE, format!("{} cannot change {}", subject.user(), file.display()))];
    }
    let what = format!("{} can change {}", subject.user(), file.display());
    let finding = Finding::new(CHECK, RULE, Status::Fail, what).because(ways.iter().map(WritePath::describe));
    vec![finding.fix(fixes(subject, file, &ways))]
}

fn fixes(subject: &Subject<'_>, file: &Path, ways: &[WritePath]) -> Vec<Fix> {
    if !subject.is_on_host() {
        let host = subject.instance.host_user_dir.as_ref().map(|directory| directory.join("settings.js"));
        let from = host.map_or_else(|| "HOST/settings.js".to_owned(), |file| path(&file));
        return vec![Fix::advice(format!(
            "keep the file on the host, owned by root, and bind-mount it read-only into the container: -v {from}:{}:ro",
            path(file)
        ))];
    }
    let group = private_group(subject);
    // sshd rejects a group-writable home directory, so the home of a login user is not changed.
    match (subject.accounts.login(subject.credentials.uid), group) {
        (None, Some(gid)) => in_place(subject, file, ways, gid),
        _ => elsewhere(subject, file),
    }
}

/// Returns the user's primary group if it has no other members.
fn private_group(subject: &Subject<'_>) -> Option<u32> {
    let uid = subject.credentials.uid;
    let gid = subject.accounts.with_uid(uid).map_or(uid, |account| account.gid);
    let own = subject.instance.user.as_deref();
    let shared = subject.accounts.groups.iter().filter(|group| group.gid == gid).flat_map(|group| &group.members);
    let others = subject.accounts.users.iter().filter(|account| account.gid == gid && account.uid != uid).count();
    (others == 0 && shared.filter(|member| Some(member.as_str()) != own).count() == 0).then_some(gid)
}

/// Gives the file and its directories to root. The directories stay writable for the group, and sticky, so that files of
/// root cannot be replaced.
fn in_place(subject: &Subject<'_>, file: &Path, ways: &[WritePath], gid: u32) -> Vec<Fix> {
    let group = quoted(&subject.accounts.group_name(gid));
    let file = subject.root.real(file).unwrap_or_else(|_| file.to_owned());
    let mut fixes = Vec::new();
    for way in ways.iter().filter(|way| way.directory) {
        let directory = path(&way.path);
        if way.owned {
            let mode = (way.mode & 0o705) | 0o1070;
            fixes.push(Fix::shell(format!("chown root:{group} {directory}")));
            fixes.push(Fix::shell(format!("chmod {mode:04o} {directory}")));
        } else if way.mode & 0o1000 == 0 {
            // Another user's directory that is writable on purpose, such as /tmp: only the sticky bit is added.
            fixes.push(Fix::shell(format!("chmod +t {directory}")));
        }
    }
    fixes.push(Fix::shell(format!("chown root:{group} {}", path(&file))));
    fixes.push(Fix::shell(format!("chmod 0640 {}", path(&file))));
    fixes
}

/// Moves the file to a directory of root and passes its path to Node-RED.
fn elsewhere(subject: &Subject<'_>, file: &Path) -> Vec<Fix> {
    let gid = subject.accounts.with_uid(subject.credentials.uid).map_or(subject.credentials.uid, |account| account.gid);
    let to = format!("/etc/node-red/{}.js", subject.instance.name);
    let mut fixes = vec![
        Fix::shell("install -d -o root -g root -m 0755 /etc/node-red"),
        Fix::shell(format!(
            "install -o root -g {} -m 0640 {} {}",
            quoted(&subject.accounts.group_name(gid)),
            path(file),
            quoted(&to)
        )),
    ];
    match (&subject.instance.unit, subject.instance.command.as_slice()) {
        (Some(unit), [_, ..]) => {
            let command: Vec<_> = subject.instance.command.iter().map(|word| quoted(word)).collect();
            let lines = format!("ExecStart=\nExecStart={} --settings {to}\n", command.join(" "));
            fixes.extend(Fix::drop_in(unit, "settings", &lines));
        }
        _ => fixes.push(Fix::advice(format!("start Node-RED with: --settings {to}"))),
    }
    fixes
}
