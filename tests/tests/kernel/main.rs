//! What the guard promises on any kernel, without Node-RED: a stand-in does one thing at a time. The same program runs on
//! the machine at hand and inside every kernel that is booted for it.
//!
//! One guard serves all attacks: loading its programs is what takes long in an emulated machine.

mod attacks;

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::{UnixDatagram, UnixListener},
        process::ExitStatusExt as _,
    },
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use attacks::{ATTACKS, Attack, HARMLESS, LOOPBACK};
use flowwarden_tests::{guard::Guard, policy::Policy, record::Record, stand_in::StandIn};

const SIGKILL: i32 = 9;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
/// Everything that changes a file or its name.
const CHANGES: [&str; 5] = ["write", "delete", "rename", "link", "attr"];

/// A stand-in with everything that the attacks are about.
struct Stage {
    stand_in: StandIn,
    tcp: TcpListener,
    udp: UdpSocket,
    _unix: (UnixListener, UnixDatagram),
}

impl Stage {
    fn new() -> Result<Self> {
        let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
        let (docker, syslog) = (beside(&stand_in, "docker.sock"), beside(&stand_in, "syslog.sock"));
        let unix = (UnixListener::bind(&docker)?, UnixDatagram::bind(&syslog)?);
        for socket in [docker, syslog] {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        }
        let (tcp, udp) = (TcpListener::bind((LOOPBACK, 0))?, UdpSocket::bind((LOOPBACK, 0))?);
        let stage = Self { stand_in, tcp, udp, _unix: unix };
        stage.restore()?;
        Ok(stage)
    }

    fn restore(&self) -> Result<()> {
        self.stand_in.restore()?;
        for (name, content) in
            [("other.js", "evil"), ("key.pem", "secret"), ("cert.pem", "secret"), ("flows.json", "[]")]
        {
            self.stand_in.file(name, content.as_bytes(), 0o644)?;
        }
        self.stand_in.file("evil", &fs::read(self.stand_in.program())?, 0o755)?;
        let at = |name: &str| self.stand_in.user_dir().join(name);
        fs::hard_link(at("key.pem"), at("old-link"))?;
        symlink(beside(&self.stand_in, "docker.sock"), at("docker-link"))?;
        Ok(symlink("other.js", at("link.js"))?)
    }

    /// Whether what the rule protects has come to no harm, as far as that leaves a trace: what was read leaves none.
    fn is_unharmed(&self, rule: &str) -> bool {
        match rule {
            "settings-js" => self.stand_in.is_intact(),
            "environment" => fs::symlink_metadata(self.stand_in.user_dir().join("environment")).is_err(),
            _ => false,
        }
    }

    /// An operation with the names of this stage in it.
    fn words(&self, what: &str) -> Result<String> {
        let ends = [("TCP", self.tcp.local_addr()?), ("UDP", self.udp.local_addr()?)];
        let words = ends.iter().fold(what.to_owned(), |words, (name, end)| words.replace(name, &end.to_string()));
        let program = self.stand_in.program().display().to_string();
        let directory = self.stand_in.user_dir().display().to_string();
        let words = words.replace("PROGRAM", &program).replace("KEY", &format!("{directory}/key.pem"));
        Ok(words.replace("SETTINGS", &format!("{directory}/settings.js")))
    }

    fn policy(&self) -> Policy {
        let socket = |name| beside(&self.stand_in, name).display().to_string();
        self.stand_in
            .policy()
            .deny("settings.js", &CHANGES, "settings-js")
            .deny("*.pem", &["read"], "certificates")
            .deny("key.pem", &["read"], "keys")
            .deny("environment", &["create", "write"], "environment")
            .deny(&socket("docker.sock"), &["write"], "docker")
            .deny(&socket("syslog.sock"), &["write"], "syslog")
            .deny_exec("evil", "programs")
            .egress(&["127.0.0.0/8"], "deny", "egress")
    }
}

/// A path beside the user directory.
fn beside(stand_in: &StandIn, name: &str) -> PathBuf {
    stand_in.user_dir().with_file_name(name)
}

/// The sensors that run, as the guard's first record names them.
fn sensors(guard: &Guard) -> Result<Vec<String>> {
    let start =
        guard.wait_for(Duration::from_mins(1), |record| record.json().pointer("/unmapped/sensors").is_some())?;
    let names = start.json().pointer("/unmapped/sensors").and_then(|names| names.as_array().cloned());
    Ok(names.unwrap_or_default().iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

/// What came of an attack: the word for it, or what is wrong about it.
fn judge(stage: &Stage, guard: &Guard, attack: &Attack, lsm: bool, on_security_hooks: bool) -> Result<&'static str> {
    let (pid, status) = stage.stand_in.does(&stage.words(attack.operation)?)?;
    if attack.needs_security_hooks && !on_security_hooks {
        ensure!(status.success(), "it is seen after all: correct the list ({status})");
        return Ok("not seen");
    }
    let alert = guard
        .wait_for(Duration::from_secs(30), |record| {
            record.rule() == attack.rule && record.is_alert() && record.pid() == Some(pid.into())
        })
        .with_context(|| format!("no record ({status})"))?;
    let denied = lsm || attack.rule == "egress";
    if denied {
        ensure!(alert.verdict() == "deny", "not denied ({status}): {alert:#?}");
        ensure!(matches!(status.code(), Some(EPERM | EACCES)), "it does not get the error: {status}");
        ensure!(stage.stand_in.is_intact(), "denied, and settings.js has changed");
        ensure!(attack.rule != "environment" || stage.is_unharmed(attack.rule), "denied, and made all the same");
        return Ok("denied");
    }
    ensure!(alert.verdict() == "kill" && was_killed(status), "not killed ({status}): {alert:#?}");
    Ok(if stage.is_unharmed(attack.rule) { "killed before harm" } else { "killed" })
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

#[test]
fn every_attack_is_met() -> Result<()> {
    let stage = Stage::new()?;
    // Without a guard each of them goes through.
    for attack in ATTACKS {
        let what = stage.words(attack.operation)?;
        let (_, status) = stage.stand_in.does(&what)?;
        ensure!(status.success(), "without a guard `{what}` should go through: {status}");
        stage.restore()?;
    }
    let allowed = env::var("FLOWWARDEN_SENSORS").ok();
    let flags: Vec<_> = allowed.iter().flat_map(|sensors| ["--sensors", sensors]).collect();
    let guard = Guard::start(Some(&stage.policy()), &stage.stand_in.cgroup, &flags)?;
    let sensors = sensors(&guard)?;
    if let Ok(expected) = env::var("FLOWWARDEN_EXPECT") {
        ensure!(sensors.first() == Some(&expected), "{expected} should be the best sensor here: {sensors:?}");
    }
    let lsm = sensors.iter().any(|sensor| sensor == "lsm");
    let on_security_hooks = sensors.iter().any(|sensor| matches!(sensor.as_str(), "lsm" | "fentry" | "kprobe"));
    println!("sensors: {}", sensors.join(", "));
    let mut failed = String::new();
    for attack in ATTACKS {
        match judge(&stage, &guard, attack, lsm, on_security_hooks) {
            Ok(verdict) => println!("attack: {} | {} | {verdict}", attack.technique, attack.rule),
            Err(error) => writeln!(failed, "{}: {error:#}", attack.technique)?,
        }
        stage.restore()?;
    }
    for &what in HARMLESS {
        let (pid, status) = stage.stand_in.does(&stage.words(what)?)?;
        let alert = guard.journal()?.into_iter().find(|record| record.is_alert() && record.pid() == Some(pid.into()));
        if !status.success() || alert.is_some() {
            writeln!(failed, "`{what}` is harmless: {status} {alert:#?}")?;
        }
    }
    let records = guard.stop()?;
    ensure!(failed.is_empty(), "{failed}");
    ensure!(records.iter().any(Record::is_alert), "the journal is empty");
    Ok(())
}

/// The catalogue is written by the runs in other kernels; what is tried must be in it, and nothing else may.
#[test]
fn the_catalogue_is_that_of_these_attacks() -> Result<()> {
    let catalogue = include_str!("../../../docs/bypass-catalogue.md");
    let rows = catalogue.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | "));
    let rows: Vec<_> = rows
        .filter_map(|mut fields| Some((fields.next()?.trim_start_matches("| "), fields.next()?)))
        .skip_while(|&(rule, _)| rule != "rule")
        .skip(1)
        .collect();
    let attacks: Vec<_> = ATTACKS.iter().map(|attack| (attack.rule, attack.technique)).collect();
    ensure!(rows == attacks, "docs/bypass-catalogue.md is out of date: `cargo xtask vm` writes it");
    Ok(())
}
