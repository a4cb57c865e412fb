//! Rule 2: as few users as possible can read private keys, preferably not Node-RED's user.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Finding, Fix, Status, Subject, access::WritePath, fix::path};
use crate::instance::{flows::Use, settings::CredentialSecret};

const RULE: u8 = 2;
/// File name extensions of private keys.
const KEY_EXTENSIONS: [&str; 4] = [".pem", ".key", ".p12", ".pfx"];
/// Number of bytes that are searched for a PEM header.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Directories of the user directory that are skipped: keys in them belong to packages.
const PACKAGE_DIRECTORIES: [&str; 3] = ["node_modules", "externalModules", ".npm"];
/// Maximum number of directory entries that are searched.
const MAX_ENTRIES: usize = 2000;
/// Maximum depth of the search.
const MAX_DEPTH: usize = 4;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![keys(subject), credentials(subject)]
}

fn keys(subject: &Subject<'_>) -> Finding {
    let keys = known_keys(subject);
    let readable: Vec<_> = keys.iter().filter(|(key, _)| subject.credentials.reads(&subject.root, key)).collect();
    if readable.is_empty() {
        return Finding::pass("keys-readable", RULE, format!("{} cannot read any known private key", subject.user()));
    }
    let (mut evidence, mut fixes, mut open) = (Vec::new(), Vec::new(), false);
    for (key, why) in readable {
        let Ok(place) = subject.root.find(key) else { continue };
        let mode = place.metadata.mode();
        let ways = subject.credentials.changes(&subject.root, key);
        let world = mode & 0o004 != 0;
        open |= world || !ways.is_empty();
        let mut facts = vec![format!("mode {:04o}, {why}", mode & 0o7777)];
        facts.extend(world.then(|| "readable by all users".to_owned()));
        facts.extend(ways.iter().map(WritePath::describe).next());
        evidence.push(format!("{}: {}", key.display(), facts.join("; ")));
        if subject.is_on_host() && (world || !ways.is_empty()) {
            let gid = subject
                .accounts
                .with_uid(subject.credentials.uid)
                .map_or(subject.credentials.uid, |account| account.gid);
            let group = subject.accounts.group_name(gid);
            fixes.push(Fix::shell(format!("chown root:{group} {0} && chmod 0640 {0}", path(key))));
        }
    }
    fixes.push(Fix::advice(
        "preferred: terminate https at a reverse proxy (nginx, Caddy) that holds the keys, bind Node-RED to 127.0.0.1 \
         without https, and revoke its access to the keys",
    ));
    let status = if open { Status::Fail } else { Status::Warn };
    let what = format!("{} private keys can be read by {}", evidence.len(), subject.user());
    Finding::new("keys-readable", RULE, status, what).because(evidence).fix(fixes)
}

/// Returns private keys that settings or flows refer to, and those in the user directory, each with its origin.
fn known_keys(subject: &Subject<'_>) -> BTreeMap<PathBuf, &'static str> {
    let mut keys = BTreeMap::new();
    let settings = subject.instance.settings.iter().flat_map(|settings| &settings.reads);
    for read in settings.filter(|read| matches!(read.role.as_deref(), Some("key" | "pfx"))) {
        keys.insert(read.path.clone(), "referenced by the settings");
    }
    let flows = subject.instance.flows.iter().flat_map(|flows| &flows.files);
    for file in flows.filter(|file| file.r#use == Use::Key) {
        keys.entry(file.path.clone()).or_insert("referenced by a tls-config node");
    }
    let mut open: Vec<_> = subject.user_dir().map(|directory| (directory.to_owned(), 0)).into_iter().collect();
    let mut visited = 0;
    while let Some((directory, depth)) = open.pop() {
        for name in subject.root.list(&directory, MAX_ENTRIES).unwrap_or_default() {
            visited += 1;
            if visited > MAX_ENTRIES || PACKAGE_DIRECTORIES.contains(&name.as_str()) {
                continue;
            }
            let entry = directory.join(&name);
            let Ok(place) = subject.root.find_link(&entry) else { continue };
            if place.metadata.is_dir() && depth < MAX_DEPTH {
                open.push((entry, depth + 1));
            } else if KEY_EXTENSIONS.iter().any(|ending| name.ends_with(ending)) && is_private(subject, &entry) {
                keys.entry(entry).or_insert("in the user directory");
            }
        }
    }
    keys.retain(|key, _| subject.root.exists(key));
    keys
}

/// Returns whether a file is a key store by its extension, or begins with the PEM header of a private key.
fn is_private(subject: &Subject<'_>, file: &Path) -> bool {
    if [".p12", ".pfx"].iter().any(|ending| file.to_string_lossy().ends_with(ending)) {
        return true;
    }
    let Ok(opened) = subject.root.find(file).and_then(|place| place.open()) else { return false };
    let mut header = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(opened, MAX_HEADER_BYTES), &mut header);
    read.is_ok() && header.windows(12).any(|window| window == b"PRIVATE KEY-")
}

/// Checks whether other users can read the credential files that Node-RED writes.
fn credentials(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "credentials-readable";
    let Some(directory) = subject.user_dir() else {
        return Finding::new(CHECK, RULE, Status::Warn, "the user directory is unknown");
    };
    // A user without groups and files can read exactly what all users can read.
    let other = super::Credentials { uid: u32::MAX - 1, gids: std::collections::BTreeSet::new() };
    let names = [".config.runtime.json", ".sessions.json", "flows_cred.json", ".npmrc", "environment"];
    let listed = subject.root.list(directory, MAX_ENTRIES).unwrap_or_default();
    let open: Vec<_> = listed
        .iter()
        .filter(|name| names.contains(&name.as_str()) || name.ends_with("_cred.json"))
        .map(|name| directory.join(name))
        .filter(|file| other.reads(&subject.root, file))
        .collect();
    let secret = subject.instance.settings.as_ref().map(|settings| settings.credential_secret);
    let mut fixes = Vec::new();
    if secret == Some(CredentialSecret::Disabled) {
        fixes.push(Fix::settings("credentialSecret: \"a long random secret\","));
    }
    if open.is_empty() {
        return match secret {
            Some(CredentialSecret::Disabled) => {
                Finding::new(CHECK, RULE, Status::Warn, "credentials of flows are not encrypted").fix(fixes)
            }
            _ => Finding::pass(CHECK, RULE, "other users cannot read credentials of flows"),
        };
    }
    if subject.is_on_host() {
        fixes.insert(0, Fix::shell(format!("chmod o-rwx {}", path(directory))));
    }
    Finding::new(
        CHECK,
        RULE,
        Status::Warn,
        "every user of this machine can read credentials of flows or session tokens",
    )
    .because(open.iter().map(|file| file.display().to_string()))
    .fix(fixes)
}
