//! Rule 2: keys are read by as few as possible, and better not by Node-RED at all.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Finding, Fix, Status, Subject, access::Way, fix::path};
use crate::instance::{flows::Use, settings::CredentialSecret};

const RULE: u8 = 2;
/// Endings of the names of files that hold private keys.
const ENDINGS: [&str; 4] = [".pem", ".key", ".p12", ".pfx"];
/// So much of a file is looked at for the mark of a private key.
const BEGINNING: u64 = 64 << 10;
/// Directories of the userDir in which keys are packages' own.
const PACKAGES: [&str; 3] = ["node_modules", "externalModules", ".npm"];
/// Most entries of a userDir that are looked at, and how deep.
const MOST: usize = 2000;
const DEPTH: usize = 4;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![keys(subject), credentials(subject)]
}

fn keys(subject: &Subject<'_>) -> Finding {
    let keys = found(subject);
    let readable: Vec<_> = keys.iter().filter(|(key, _)| subject.who.reads(&subject.root, key)).collect();
    if readable.is_empty() {
        return Finding::pass(
            "keys-readable",
            RULE,
            format!("no private key that is known of is read by {}", subject.user()),
        );
    }
    let (mut evidence, mut fixes, mut open) = (Vec::new(), Vec::new(), false);
    for (key, why) in readable {
        let Ok(place) = subject.root.find(key) else { continue };
        let mode = place.metadata.mode();
        let ways = subject.who.changes(&subject.root, key);
        let world = mode & 0o004 != 0;
        open |= world || !ways.is_empty();
        let mut facts = vec![format!("mode {:04o}, {why}", mode & 0o7777)];
        facts.extend(world.then(|| "readable by all users".to_owned()));
        facts.extend(ways.iter().map(Way::describe).next());
        evidence.push(format!("{}: {}", key.display(), facts.join("; ")));
        if subject.is_on_host() && (world || !ways.is_empty()) {
            let gid = subject.accounts.with_uid(subject.who.uid).map_or(subject.who.uid, |account| account.gid);
            let group = subject.accounts.group_name(gid);
            fixes.push(Fix::shell(format!("chown root:{group} {0} && chmod 0640 {0}", path(key))));
        }
    }
    fixes.push(Fix::advice(
        "better: let a reverse proxy (nginx, Caddy) hold the keys, let Node-RED listen on 127.0.0.1 without https, and \
         take its access to the keys away",
    ));
    let status = if open { Status::Fail } else { Status::Warn };
    let what = format!("{} private keys can be read by {}", evidence.len(), subject.user());
    Finding::new("keys-readable", RULE, status, what).because(evidence).fix(fixes)
}

/// Private keys that settings or flows name, and those in the user directory, each with why it is known.
fn found(subject: &Subject<'_>) -> BTreeMap<PathBuf, &'static str> {
    let mut keys = BTreeMap::new();
    let settings = subject.instance.settings.iter().flat_map(|settings| &settings.reads);
    for read in settings.filter(|read| matches!(read.role.as_deref(), Some("key" | "pfx"))) {
        keys.insert(read.path.clone(), "named by the settings");
    }
    let flows = subject.instance.flows.iter().flat_map(|flows| &flows.files);
    for file in flows.filter(|file| file.r#use == Use::Key) {
        keys.entry(file.path.clone()).or_insert("named by a tls-config node");
    }
    let mut open: Vec<_> = subject.user_dir().map(|directory| (directory.to_owned(), 0)).into_iter().collect();
    let mut seen = 0;
    while let Some((directory, depth)) = open.pop() {
        for name in subject.root.list(&directory, MOST).unwrap_or_default() {
            seen += 1;
            if seen > MOST || PACKAGES.contains(&name.as_str()) {
                continue;
            }
            let entry = directory.join(&name);
            let Ok(place) = subject.root.find_link(&entry) else { continue };
            if place.metadata.is_dir() && depth < DEPTH {
                open.push((entry, depth + 1));
            } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) && is_private(subject, &entry) {
                keys.entry(entry).or_insert("in the user directory");
            }
        }
    }
    keys.retain(|key, _| subject.root.exists(key));
    keys
}

/// A file that is a key store by its name, or has the mark of a private key in its beginning.
fn is_private(subject: &Subject<'_>, file: &Path) -> bool {
    if [".p12", ".pfx"].iter().any(|ending| file.to_string_lossy().ends_with(ending)) {
        return true;
    }
    let Ok(opened) = subject.root.find(file).and_then(|place| place.open()) else { return false };
    let mut beginning = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(opened, BEGINNING), &mut beginning);
    read.is_ok() && beginning.windows(12).any(|window| window == b"PRIVATE KEY-")
}

/// What Node-RED itself writes readable for everybody.
fn credentials(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "credentials-readable";
    let Some(directory) = subject.user_dir() else {
        return Finding::new(CHECK, RULE, Status::Warn, "the user directory is not known");
    };
    // Somebody with no groups and no files: what this one reads, everybody reads.
    let other = super::Who { uid: u32::MAX - 1, gids: std::collections::BTreeSet::new() };
    let names = [".config.runtime.json", ".sessions.json", "flows_cred.json", ".npmrc", "environment"];
    let listed = subject.root.list(directory, MOST).unwrap_or_default();
    let open: Vec<_> = listed
        .iter()
        .filter(|name| names.contains(&name.as_str()) || name.ends_with("_cred.json"))
        .map(|name| directory.join(name))
        .filter(|file| other.reads(&subject.root, file))
        .collect();
    let secret = subject.instance.settings.as_ref().map(|settings| settings.credential_secret);
    let mut fixes = Vec::new();
    if secret == Some(CredentialSecret::Disabled) {
        fixes.push(Fix::settings("credentialSecret: \"a long secret of your own\","));
    }
    if open.is_empty() {
        return match secret {
            Some(CredentialSecret::Disabled) => {
                Finding::new(CHECK, RULE, Status::Warn, "the credentials of flows are not encrypted").fix(fixes)
            }
            _ => Finding::pass(CHECK, RULE, "the credentials of flows are closed to other users"),
        };
    }
    if subject.is_on_host() {
        fixes.insert(0, Fix::shell(format!("chmod o-rwx {}", path(directory))));
    }
    Finding::new(CHECK, RULE, Status::Warn, "every user of this machine reads the credentials of flows, or live tokens")
        .because(open.iter().map(|file| file.display().to_string()))
        .fix(fixes)
}
