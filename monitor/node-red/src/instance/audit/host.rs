//! Rule 5: Node-RED accesses only the host files that it needs.

use std::path::{Path, PathBuf};

use super::{Finding, Fix, Status, Subject, fix::path};

const RULE: u8 = 5;
/// Paths of the host that give a writer the rights of another user, or persistence.
const SYSTEM: [&str; 17] = [
    "/etc",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/systemd/system",
    "/etc/cron.d",
    "/etc/crontab",
    "/etc/profile.d",
    "/etc/ld.so.preload",
    "/etc/ssh",
    "/usr/bin",
    "/usr/local/bin",
    "/usr/lib/node_modules",
    "/usr/local/lib/node_modules",
    "/var/spool/cron/crontabs",
    "/boot",
];
/// Persistence paths in a home directory: executed at login or by a user service.
const HOME: [&str; 8] = [
    ".bashrc",
    ".profile",
    ".bash_profile",
    ".ssh/authorized_keys",
    ".config/systemd/user",
    ".config/autostart",
    ".npmrc",
    ".pm2/dump.pm2",
];
/// Secrets of the host.
const SECRETS: [&str; 8] = [
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssl/private",
    "/etc/letsencrypt/live",
    "/etc/letsencrypt/archive",
    "/root/.ssh",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/wireguard",
];
/// Secrets in a home directory.
const HOME_SECRETS: [&str; 5] = [".ssh", ".aws/credentials", ".docker/config.json", ".netrc", ".git-credentials"];

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![writes(subject), reads(subject), environment(subject), confinement(subject)]
}

fn writes(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "host-writable";
    if subject.credentials.uid == 0 {
        let what = if subject.is_on_host() {
            "Node-RED runs as root and can write every file of the host"
        } else {
            "Node-RED runs as root in its container"
        };
        let status = if subject.is_on_host() { Status::Fail } else { Status::Warn };
        return Finding::new(CHECK, RULE, status, what).fix([Fix::advice("run it as a dedicated user")]);
    }
    let open =
        |path: &PathBuf| subject.root.exists(path) && !subject.credentials.changes(&subject.root, path).is_empty();
    let system: Vec<_> = SYSTEM.iter().map(PathBuf::from).filter(open).collect();
    if !system.is_empty() {
        let what = format!("{} can write system files", subject.user());
        let fixes =
            system.iter().map(|place| Fix::shell(format!("chown root:root {0} && chmod go-w {0}", path(place))));
        return Finding::new(CHECK, RULE, Status::Fail, what).because(shown(&system)).fix(fixes.collect::<Vec<_>>());
    }
    // A missing file can be created if its parent directory is writable.
    let reachable = |path: &PathBuf| open(path) || path.parent().is_some_and(|above| open(&above.to_owned()));
    let own: Vec<_> =
        subject.home().into_iter().flat_map(|home| HOME.map(|name| home.join(name))).filter(reachable).collect();
    if own.is_empty() {
        return Finding::pass(
            CHECK,
            RULE,
            format!("{} cannot write any of the checked system and persistence paths", subject.user()),
        );
    }
    let person = subject.accounts.login(subject.credentials.uid).is_some();
    let (status, what) = if person {
        (Status::Fail, "flows can install programs that run at the next login of this account")
    } else {
        (Status::Warn, "flows can install programs in the home directory that run later")
    };
    Finding::new(CHECK, RULE, status, what).because(shown(&own)).fix([Fix::advice(
        "run Node-RED as a dedicated user with its own home directory; Flowwarden's rule `user-persistence` denies these writes",
    )])
}

fn reads(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "host-readable";
    let readable = |path: &PathBuf| subject.root.exists(path) && subject.credentials.reads(&subject.root, path);
    let secrets: Vec<_> = SECRETS.iter().map(PathBuf::from).filter(readable).collect();
    if !secrets.is_empty() && subject.is_on_host() {
        let what = format!("{} can read secrets of the host", subject.user());
        return Finding::new(CHECK, RULE, Status::Fail, what)
            .because(shown(&secrets))
            .fix(secrets.iter().map(|place| Fix::shell(format!("chmod o-rwx {}", path(place)))).collect::<Vec<_>>());
    }
    let others: Vec<_> = subject
        .accounts
        .users
        .iter()
        .filter(|account| {
            account.uid != subject.credentials.uid && account.uid >= 1000 && account.home.starts_with("/home")
        })
        .map(|account| account.home.clone())
        .filter(readable)
        .collect();
    let own: Vec<_> =
        subject.home().into_iter().flat_map(|home| HOME_SECRETS.map(|name| home.join(name))).filter(readable).collect();
    if others.is_empty() && own.is_empty() {
        return Finding::pass(CHECK, RULE, format!("{} cannot read any of the checked secrets", subject.user()));
    }
    let mut fixes: Vec<_> = others.iter().map(|home| Fix::shell(format!("chmod o-rwx {}", path(home)))).collect();
    fixes.push(Fix::advice("Flowwarden's rules `user-keys` and `host-keys` deny reads of keys"));
    Finding::new(CHECK, RULE, Status::Warn, format!("{} can read files that do not belong to Node-RED", subject.user()))
        .because(shown(&others).into_iter().chain(shown(&own)))
        .fix(fixes)
}

/// Checks whether flows can write an `EnvironmentFile=`, which controls the environment of the next start.
fn environment(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "environment-writable";
    let files = &subject.instance.environment_files;
    let open: Vec<_> =
        files.iter().filter(|file| !subject.credentials.changes(&subject.root, file).is_empty()).cloned().collect();
    if open.is_empty() {
        return Finding::pass(CHECK, RULE, "flows cannot write any EnvironmentFile of the unit");
    }
    let mut finding = Finding::new(
        CHECK,
        RULE,
        Status::Fail,
        "flows can execute code at the next start through the unit's EnvironmentFile (NODE_OPTIONS=--require)",
    )
    .because(shown(&open));
    if let Some(unit) = &subject.instance.unit {
        let name = &subject.instance.name;
        finding = finding
            .fix([
                Fix::shell("install -d -o root -g root -m 0755 /etc/node-red"),
                Fix::shell(format!(
                    "touch {0} && install -o root -g root -m 0600 {0} /etc/node-red/{name}.environment",
                    path(&open[0])
                )),
            ])
            .fix(Fix::drop_in(
                unit,
                "environment",
                &format!("EnvironmentFile=\nEnvironmentFile=-/etc/node-red/{name}.environment\n"),
            ));
    }
    finding
}

/// Checks the sandboxing options of the unit.
fn confinement(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "unit-confined";
    let Some(unit) = &subject.instance.unit else {
        return Finding::pass(CHECK, RULE, "not a systemd unit; Flowwarden's rules confine it");
    };
    let wanted = [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "tmpfs"),
        ("PrivateTmp", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectControlGroups", "yes"),
    ];
    let set = |key: &str| {
        let value = subject.instance.unit_keys.get(key).map(|value| value.to_ascii_lowercase());
        value.is_some_and(|value| !matches!(value.as_str(), "" | "no" | "false" | "off" | "0"))
    };
    let missing: Vec<_> = wanted.iter().filter(|(key, _)| !set(key)).collect();
    if missing.is_empty() {
        return Finding::pass(CHECK, RULE, format!("{unit} uses the sandboxing options of systemd"));
    }
    let mut lines: Vec<_> = missing.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    if let Some(directory) = subject.user_dir() {
        lines.push(format!("ReadWritePaths={}\n", directory.display()));
        if directory.starts_with("/home") || directory.starts_with("/root") {
            lines.push(format!("BindPaths={}\n", directory.display()));
        }
    }
    Finding::new(CHECK, RULE, Status::Warn, format!("{unit} grants Node-RED all permissions of its user"))
        .because(missing.iter().map(|(key, _)| format!("{key}= is not set")))
        .fix(Fix::drop_in(unit, "confine", &lines.concat()))
        .fix([Fix::advice("NoNewPrivileges= prevents sudo: omit it if your flows need sudo")])
}

fn shown(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path: &PathBuf| Path::display(path).to_string()).collect()
}
