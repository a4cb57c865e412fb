//! The policy that is used when there is none: the same few rules for every instance that was found.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Fault,
    model::{Policy, Select},
    parse::parse,
};

/// The rules, without the instance that they are for.
pub const RULES: &str = include_str!("default.toml");

/// An instance that was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A name for it.
    pub name: String,
    /// What selects its processes.
    pub select: Select,
    /// Its user directory.
    pub user_dir: PathBuf,
}

/// The default policy as text, as `flowwarden` would read it from a file.
#[must_use]
pub fn text(instances: &[Found], enforce: bool) -> String {
    let mut text = format!("version = 1\nmode = \"{}\"\n", if enforce { "enforce" } else { "observe" });
    for found in instances {
        let Select { user, uid, unit, container, cgroup, exec, at: _ } = &found.select;
        let mut parts = Vec::new();
        parts.extend(uid.map(|uid| format!("uid = {uid}")));
        let named = [("user", user), ("unit", unit), ("container", container), ("cgroup", cgroup)];
        parts.extend(named.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", quoted(value.as_ref()?)))));
        if *exec {
            parts.push("exec = \"node-red\"".to_owned());
        }
        let _ = write!(
            text,
            "\n[[instance]]\nname = {}\nselect = [{{ {} }}]\nuser-dir = {}\ndefault = {{ egress = \"log\" }}\n\n{}",
            quoted(&found.name),
            parts.join(", "),
            quoted(&found.user_dir.to_string_lossy()),
            rules(&found.user_dir),
        );
    }
    text
}

/// The rules for one user directory. Its home is known when it is `~/.node-red`; without one the rules about a home
/// are left out.
fn rules(user_dir: &Path) -> String {
    let home = user_dir.parent().filter(|home| user_dir.ends_with(".node-red") && home.as_os_str() != "/");
    let rules = RULES.split("\n\n").filter_map(|rule| match home {
        _ if !rule.contains("\"~/") => Some(rule.to_owned()),
        // Everything up to the last name is literal in a rule's path, but for wildcards.
        Some(home) if !home.to_string_lossy().contains(['*', '?', '[']) => {
            let home = quoted(&home.to_string_lossy());
            Some(rule.replace("\"~/", &format!("{}/", home.trim_end_matches('"'))))
        }
        _ => None,
    });
    rules.collect::<Vec<_>>().join("\n\n")
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            _ => quoted.push(char),
        }
    }
    quoted + "\""
}

/// The default policy for these instances.
pub fn policy(instances: &[Found], enforce: bool) -> Result<Policy, Vec<Fault>> {
    let nameless = instances.iter().find(|found| found.user_dir.to_str().is_none());
    if let Some(found) = nameless {
        let what = format!("{}: a user directory whose name is not UTF-8 cannot be guarded", found.user_dir.display());
        return Err(vec![Fault { line: 0, column: 0, what }]);
    }
    parse(&text(instances, enforce))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use monitor_common::{Access, Verdict, decide, policy::NetKey};

    use super::*;
    use crate::policy::compile::{
        compile,
        tests::{EPOCH, Everything, Tables, file, seen, text as by_name},
    };

    fn found(user_dir: &str) -> Found {
        let select = Select { uid: Some(990), exec: true, ..Select::default() };
        Found { name: "a".into(), select, user_dir: user_dir.into() }
    }

    /// The embedded policy on a machine where everything is there but `missing`.
    fn tables(user_dir: &str, missing: &[&str]) -> Tables {
        let policy = policy(&[found(user_dir)], true).unwrap();
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let mut identify = |path: &Path| (!missing.iter().any(|gone| path == Path::new(gone))).then(|| seen(path));
        Tables::new(compile(&policy, EPOCH, &slots, &Everything, &mut identify).unwrap())
    }

    fn judge(tables: &Tables, path: &str, access: Access) -> Verdict {
        file(tables, path, access).0.max(by_name(tables, "/", path.trim_start_matches('/'), access))
    }

    const READ: Access = Access::READ;
    const MAKE: Access = Access::WRITE.union(Access::CREATE).union(Access::ATTR);
    const REPLACE: Access = Access::RENAME.union(Access::CREATE).union(Access::DELETE);
    const UD: &str = "/home/n/.node-red";

    #[test]
    fn what_node_red_really_does_raises_nothing() {
        let settings = format!("{UD}/settings.js");
        let sshkeys = format!("{UD}/projects/.sshkeys");
        for missing in [&[][..], &[settings.as_str()], &[UD, &settings], &[&sshkeys]] {
            let tables = tables(UD, missing);
            for (path, access) in [
                // Start, deploy, context, library: storage writes aside and renames.
                ("settings.js", READ),
                ("flows.json", READ.union(REPLACE)),
                ("flows.json.$$$", MAKE.union(REPLACE)),
                (".flows.json.backup", MAKE.union(REPLACE)),
                ("flows_cred.json", READ.union(REPLACE)),
                (".config.runtime.json.$$$", MAKE.union(REPLACE)),
                (".sessions.json", READ.union(MAKE).union(REPLACE)),
                ("context/global/global.json.17.tmp", MAKE.union(REPLACE)),
                ("context/1a2b", REPLACE),
                ("lib/flows/x.json", READ.union(MAKE)),
                ("package.json", READ.union(MAKE)),
                // Palette: npm writes packages, among them ones with keys for their tests, and moves their directories.
                ("node_modules/x/test/fixtures/server.key", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
                ("node_modules/.x-Ab3dEf/ca.pem", READ.union(MAKE).union(REPLACE)),
                ("node_modules/x", REPLACE),
                ("node_modules/.bin/tool", Access::EXEC.union(READ)),
                // Projects: git checks out whatever a repository holds; ssh-keygen makes keys, the editor shows public ones.
                ("projects/p/certs/dev.pem", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
                ("projects/p/.git/objects/ab/cd", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
                ("projects/.sshkeys", READ.union(Access::CREATE)),
                ("projects/.sshkeys/admin_key", MAKE.union(Access::DELETE)),
                ("projects/.sshkeys/admin_key.pub", READ.union(MAKE).union(Access::DELETE)),
            ] {
                let path = format!("{UD}/{path}");
                assert_eq!(judge(&tables, &path, access), Verdict::Allow, "{path} {access:?} without {missing:?}");
            }
            for (path, access) in [
                ("/tmp/node-compile-cache/v24/x", MAKE.union(REPLACE)),
                ("/tmp/node-watch-1", MAKE.union(REPLACE)),
                ("/home/n/.npm/_cacache/tmp/1", MAKE.union(REPLACE).union(Access::LINK)),
                ("/home/n/.ssh", READ),
                ("/home/n/.ssh/id_rsa.pub", READ),
                ("/home/n/.ssh/known_hosts", READ.union(MAKE)),
                ("/home/n/.bashrc", READ),
                ("/etc/ssl/certs/ca-certificates.crt", READ),
                ("/etc/passwd", READ),
                ("/usr/bin/node", Access::EXEC.union(READ)),
                ("/bin/bash", Access::EXEC),
            ] {
                assert_eq!(judge(&tables, path, access), Verdict::Allow, "{path} {access:?} without {missing:?}");
            }
        }
        // The first start makes its settings file and everything above it.
        let tables = tables(UD, &[UD, &settings]);
        assert_eq!(judge(&tables, UD, Access::CREATE), Verdict::Allow);
        assert_eq!(judge(&tables, &settings, MAKE), Verdict::Allow);
    }

    #[test]
    fn the_three_cards_are_covered() {
        let tables = tables(UD, &[]);
        for (path, access) in [
            ("/home/n/.node-red/settings.js", Access::WRITE),
            ("/home/n/.node-red/settings.js", Access::DELETE),
            ("/home/n/.node-red/settings.js", Access::RENAME),
            ("/home/n/.node-red/settings.js", Access::LINK),
            ("/home/n/.node-red/settings.js", Access::ATTR),
            ("/home/n/.node-red", Access::RENAME),
            ("/home/n/.node-red/key.pem", READ),
            ("/home/n/.node-red/certs/a/server.key", READ),
            ("/home/n/.node-red/x.p12", READ),
            ("/home/n/.node-red/x.pfx", Access::WRITE),
            ("/home/n/.ssh/id_ed25519", READ),
            ("/root/.ssh/id_rsa", READ),
            ("/etc/ssl/private/ssl-cert-snakeoil.key", READ),
            ("/etc/letsencrypt/live/x/privkey.pem", READ),
            ("/etc/letsencrypt/archive/x/privkey1.pem", READ),
            ("/etc/shadow", READ),
            ("/etc/ssh/ssh_host_ed25519_key", READ),
        ] {
            assert_eq!(judge(&tables, path, access), Verdict::Kill, "{path} {access:?}");
        }
        // A pull over SSH is what this key is for: seen, not stopped.
        assert_eq!(judge(&tables, "/home/n/.node-red/projects/.sshkeys/admin_key", READ), Verdict::Log);
        let net = |address: &str| {
            let address = match address.parse().unwrap() {
                std::net::IpAddr::V4(address) => decide::map_v4(address.octets()),
                std::net::IpAddr::V6(address) => address.octets(),
            };
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address };
            let decision = decide::net(&tables, &tables.subject(), &key, 80, 6);
            (decision.verdict, decision.fallback)
        };
        assert_eq!(net("203.0.113.9"), (Verdict::Log, Verdict::Unset));
        assert_eq!(net("127.0.0.53"), (Verdict::Allow, Verdict::Unset));
        assert_eq!(net("::1"), (Verdict::Allow, Verdict::Unset));
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(net(metadata), (Verdict::Deny, Verdict::Kill), "{metadata}");
        }
    }

    #[test]
    fn an_explicit_rule_declares_a_key() {
        let text = text(&[found(UD)], true)
            + "[[instance.files]]\npath = \"tls/own.pem\"\naccess = [\"read\"]\nverdict = \"allow\"\n";
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let policy = parse(&text).unwrap();
        let tables = Tables::new(compile(&policy, EPOCH, &slots, &Everything, &mut |path| Some(seen(path))).unwrap());
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/own.pem", READ), Verdict::Allow);
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/own.pem", Access::WRITE), Verdict::Kill);
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/other.pem", READ), Verdict::Kill);
    }

    #[test]
    fn any_directory_and_any_selector_can_be_written_down() {
        for user_dir in ["/data", "/srv/a \"b\"\\c\u{301}\t\n\u{7f}'d'/.node-red", "/srv/[x]*/.node-red"] {
            let policy = policy(&[found(user_dir)], false).unwrap();
            assert_eq!(policy.instances[0].user_dir, PathBuf::from(user_dir));
            assert_eq!(policy.instances[0].files[0].path, PathBuf::from(user_dir).join("settings.js"));
            assert!(!policy.enforce);
        }
        let select =
            |select| policy(&[Found { select, ..found("/data") }], true).unwrap().instances.remove(0).select.remove(0);
        let user = select(Select { user: Some("nodered".into()), ..Select::default() });
        assert_eq!(user.user.as_deref(), Some("nodered"));
        let container = select(Select { container: Some("0123456789ab".into()), ..Select::default() });
        assert_eq!(container.container.as_deref(), Some("0123456789ab"));
    }

    #[test]
    fn a_directory_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let user_dir = PathBuf::from(std::ffi::OsString::from_vec(b"/srv/\xff".to_vec()));
        let faults = policy(&[Found { user_dir, ..found("/data") }], true).unwrap_err();
        assert!(faults[0].what.contains("is not UTF-8"), "{faults:?}");
    }
}
