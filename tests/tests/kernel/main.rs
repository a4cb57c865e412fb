//! What the guard promises on any kernel, without Node-RED: a stand-in does one thing at a time. The same program runs on
//! the machine at hand and inside every kernel that is booted for it.
//!
//! One guard serves all attacks: loading its programs is what takes long in an emulated machine.

mod attacks;
mod clock;
mod control;
mod crowd;
mod failures;
mod healing;
mod identity;
mod limits;
mod older;
mod order;

mod outlive;
mod reloads;
mod rights;
mod room;
mod scope;
mod simulate;
mod windows;
mod young;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    net::{TcpListener, UdpSocket},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{UnixDatagram, UnixListener},
            process::ExitStatusExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use attacks::{ATTACKS, Attack, HARMLESS, LOOPBACK, Seen};
use flowwarden_tests::{
    cli, confine::as_service, guard::Guard, needs, policy::Policy, record::Record, stand_in::StandIn, wait,
};
use room::Room;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

const SIGKILL: i32 = 9;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
/// What an attack ends with where the kernel or the file system does not have what it needs: `ENOEXEC`, `ENODEV`, `EINVAL`,
/// `ENOTTY`, `ENOSYS`, `EPROTONOSUPPORT`, `EOPNOTSUPP`, `EAFNOSUPPORT`; or what it refuses by itself.
const NOT_HERE: [i32; 10] = [8, 19, 22, 25, 38, 93, 95, 97, EACCES, EPERM];
/// Everything that changes a file or its name.
const CHANGES: [&str; 5] = ["write", "delete", "rename", "link", "attr"];

/// A stand-in with everything that the attacks are about.
struct Stage {
    stand_in: StandIn,
    tcp: TcpListener,
    udp: UdpSocket,
    _unix: (UnixListener, UnixDatagram, UnixListener),
}

impl Stage {
    fn new() -> Result<Self> {
        let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
        let (docker, syslog) = (beside(&stand_in, "docker.sock"), beside(&stand_in, "syslog.sock"));
        let harmless = beside(&stand_in, "harmless.sock");
        let unix = (UnixListener::bind(&docker)?, UnixDatagram::bind(&syslog)?, UnixListener::bind(&harmless)?);
        let give = ["give-settings.sock", "give-key.sock"].map(|name| beside(&stand_in, name));
        hand_out(&give[0], stand_in.settings(), true)?;
        hand_out(&give[1], stand_in.user_dir().join("key.pem"), false)?;
        for socket in [docker, syslog, harmless].into_iter().chain(give) {
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        }
        let (tcp, udp) = (TcpListener::bind((LOOPBACK, 0))?, UdpSocket::bind((LOOPBACK, 0))?);
        let stage = Self { stand_in, tcp, udp, _unix: unix };
        stage.restore()?;
        Ok(stage)
    }

    fn restore(&self) -> Result<()> {
        stop_accounting();
        self.stand_in.restore()?;
        clear_flags(&self.stand_in.settings())?;
        for (name, content) in
            [("other.js", "rogue"), ("key.pem", "secret"), ("cert.pem", "secret"), ("flows.json", "[]")]
        {
            self.stand_in.file(name, content.as_bytes(), 0o644)?;
        }
        fs::create_dir(self.stand_in.user_dir().join("lib"))?;
        let out = beside(&self.stand_in, "out");
        let _ = fs::remove_dir_all(&out);
        for directory in [self.stand_in.user_dir().join("drop"), self.stand_in.user_dir().join("certs"), out] {
            self.stand_in.directory(&directory)?;
        }
        fs::write(self.stand_in.user_dir().join("certs/server.key"), "secret")?;
        let unguarded = beside(&self.stand_in, "unguarded");
        let _ = fs::remove_dir_all(&unguarded);
        for directory in ["", "journal", "state"] {
            fs::create_dir(unguarded.join(directory))?;
        }
        fs::write(unguarded.join("policy.toml"), "")?;
        self.stand_in.file("rogue", &fs::read(self.stand_in.program())?, 0o755)?;
        let script = format!("#!{} read\n", self.stand_in.program().display());
        self.stand_in.file("script", script.as_bytes(), 0o755)?;
        let at = |name: &str| self.stand_in.user_dir().join(name);
        fs::hard_link(at("key.pem"), at("old-link"))?;
        symlink(beside(&self.stand_in, "docker.sock"), at("docker-link"))?;
        Ok(symlink("other.js", at("link.js"))?)
    }

    /// Whether what the rule protects has come to no harm, as far as that leaves a trace: what was read leaves none.
    fn is_unharmed(&self, rule: &str) -> bool {
        match rule {
            "settings-js" => self.stand_in.is_intact() && !has_flags(&self.stand_in.settings()),
            "environment" => fs::symlink_metadata(self.stand_in.user_dir().join("environment")).is_err(),
            _ => false,
        }
    }

    /// An operation with the names of this stage in it.
    fn words(&self, what: &str, guard: Option<&Guard>) -> Result<String> {
        let ends = [("TCP", self.tcp.local_addr()?), ("UDP", self.udp.local_addr()?)];
        let words = ends.iter().fold(what.to_owned(), |words, (name, end)| words.replace(name, &end.to_string()));
        let program = self.stand_in.program().display().to_string();
        let directory = self.stand_in.user_dir().display().to_string();
        let rooted = self.stand_in.rooted().display().to_string();
        let words = words.replace("PROGRAM", &program).replace("ROOTED", &rooted);
        let neighbour = std::process::id();
        let words = words.replace("NEIGHBOUR", &neighbour.to_string());
        // Without a guard the neighbour and a copy of the files stand in for it.
        let words = words.replace("GUARD", &guard.map_or(neighbour, Guard::pid).to_string());
        let place = guard.map_or_else(|| beside(&self.stand_in, "unguarded"), |guard| guard.directory().to_owned());
        let words = words.replace("PLACE", &place.display().to_string());
        let words =
            words.replace("UID", &self.stand_in.uid.to_string()).replace("KEY", &format!("{directory}/key.pem"));
        Ok(words.replace("SETTINGS", &format!("{directory}/settings.js")))
    }

    /// Has the stand-in try it.
    fn attempt(&self, attack: &Attack, guard: Option<&Guard>) -> Result<(u32, ExitStatus)> {
        // Who gets through has used it up.
        let room = attack.operation.contains("ROOM").then(|| Room::new(beside(&self.stand_in, "room"))).transpose()?;
        let what =
            self.words(attack.operation, guard)?.replace("ROOM", &room.as_ref().map_or(String::new(), Room::words));
        if attack.as_root { self.stand_in.does_as_root(&what) } else { self.stand_in.does(&what) }
    }

    /// The policy that a rule belongs to: what some attacks need on their way is what others are about.
    fn policy_with(&self, rule: &str) -> Policy {
        match rule {
            "default-namespace" | "default-privilege" => {
                self.stand_in.policy().deny_by_default("namespace").deny_by_default("privilege")
            }
            "default-mount" => self.stand_in.policy().deny_by_default("mount"),
            "default-exec-unnamed" => self.stand_in.policy().deny_by_default("exec-unnamed"),
            "default-exec-writable" => self.stand_in.policy().deny_by_default("exec-writable"),
            // A program is read before it is executed, and so deep the strictest rule of each would speak.
            "dropped" => self.stand_in.policy().deny_exec("drop/**", "dropped"),
            "disk" => self.stand_in.policy().deny("settings.js", &["read"], "disk"),
            // These are the guard's own and need no policy.
            "guard-files" | "guard-secrets" | "guard-process" | "guard-programs" => self.stand_in.policy(),
            _ => self.policy(),
        }
    }

    fn policy(&self) -> Policy {
        let socket = |name| beside(&self.stand_in, name).display().to_string();
        self.stand_in
            .policy()
            .deny("settings.js", &CHANGES, "settings-js")
            .heal()
            .deny("*.pem", &["read"], "certificates")
            .deny("key.pem", &["read"], "keys")
            .deny("environment", &["create", "write"], "environment")
            .deny(&socket("docker.sock"), &["write"], "docker")
            .deny(&socket("syslog.sock"), &["write"], "syslog")
            .deny("**/*.key", &["read", "rename"], "private-keys")
            .deny_exec("rogue", "programs")
            .deny_exec("script", "scripts")
            .egress(&["127.0.0.0/8", "::1"], "deny", "egress")
            .deny_by_default("raw-socket")
            .deny_by_default("socket")
            .deny_by_default("kernel")
            .deny_by_default("signal")
            .deny_by_default("ptrace")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        stop_accounting();
    }
}

/// Turns off what a program that was killed has turned on.
fn stop_accounting() {
    // SAFETY: no file.
    unsafe { libc::acct(std::ptr::null()) };
}

/// Whether a file has the flag that the attacks set.
fn has_flags(path: &Path) -> bool {
    let flags = fs::File::open(path).map(|file| rustix::fs::ioctl_getflags(&file));
    matches!(flags, Ok(Ok(flags)) if flags.contains(rustix::fs::IFlags::NODUMP))
}

/// Takes that flag off again.
fn clear_flags(path: &Path) -> Result<()> {
    if has_flags(path) {
        let file = fs::File::open(path)?;
        rustix::fs::ioctl_setflags(&file, rustix::fs::ioctl_getflags(&file)? - rustix::fs::IFlags::NODUMP)?;
    }
    Ok(())
}

/// Hands a descriptor of a file to everybody who connects to a socket, as a careless helper would.
fn hand_out(socket: &Path, file: PathBuf, writable: bool) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(file) = fs::File::options().read(true).write(writable).open(&file) else { continue };
            let files = [file.as_fd()];
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut room);
            if control.push(SendAncillaryMessage::ScmRights(&files)) {
                // Who has been killed meanwhile takes nothing.
                let _ = sendmsg(&stream, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL);
            }
        }
    });
    Ok(())
}

/// A path beside the user directory.
fn beside(stand_in: &StandIn, name: &str) -> PathBuf {
    stand_in.user_dir().with_file_name(name)
}

/// The sensors that run, as the guard's first record names them.
struct Sensors {
    /// The best one first.
    all: Vec<String>,
    /// Security hooks deny.
    lsm: bool,
    /// They are served by some sensor at least.
    on_security_hooks: bool,
    /// The making of user namespaces is a security hook here, which is so since 6.1.
    userns: bool,
}

impl Sensors {
    fn of(guard: &Guard) -> Result<Self> {
        let start =
            guard.wait_for(Duration::from_mins(1), |record| record.json().pointer("/unmapped/sensors").is_some())?;
        let names = start.json().pointer("/unmapped/sensors").and_then(|names| names.as_array().cloned());
        let all: Vec<_> =
            names.unwrap_or_default().iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        Ok(Self {
            lsm: all.iter().any(|sensor| sensor == "lsm"),
            on_security_hooks: all.iter().any(|sensor| matches!(sensor.as_str(), "lsm" | "fentry" | "kprobe")),
            userns: start.pointer_text("/unmapped/hooks/userns_create") == "lsm",
            all,
        })
    }

    /// Whether an attack has to fail without its process being killed.
    fn deny(&self, attack: &Attack) -> bool {
        let hooked = match attack.seen {
            Seen::OnSystemCalls => false,
            Seen::Everywhere if attack.rule == "default-namespace" => self.userns,
            Seen::Everywhere | Seen::OnSecurityHooks(_) => self.lsm,
        };
        hooked || attack.rule == "egress"
    }
}

/// Flags for the guard, and the sensors that it may use when somebody has chosen.
fn with_sensors(flags: &[&str]) -> Vec<String> {
    let allowed = env::var("FLOWWARDEN_SENSORS").ok();
    let sensors = allowed.iter().flat_map(|sensors| ["--sensors", sensors]);
    flags.iter().copied().chain(sensors).map(str::to_owned).collect()
}

/// Starts the guard with these flags, and no other sensors than somebody has chosen.
fn start(stand_in: &StandIn, policy: &Policy, flags: &[&str]) -> Result<Guard> {
    let flags = with_sensors(flags);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Guard::start(Some(policy), &stand_in.cgroup, &flags)
}

/// What came of an attack: the word for it, or what is wrong about it.
fn judge(stage: &Stage, guard: &Guard, attack: &Attack, sensors: &Sensors) -> Result<&'static str> {
    let (pid, status) = stage.attempt(attack, Some(guard))?;
    if let Seen::OnSecurityHooks(reason) = attack.seen
        && !sensors.on_security_hooks
    {
        ensure!(status.success(), "it is seen after all: correct the list ({status})");
        println!("reason: {} | {} | {reason}", attack.technique, attack.rule);
        return Ok("not seen");
    }
    let alert = guard
        .wait_for(wait::PATIENCE, |record| {
            record.rule() == attack.rule && record.is_alert() && record.pid() == Some(pid.into())
        })
        .with_context(|| format!("no record ({status})"))?;
    if sensors.deny(attack) || alert.verdict() == "deny" {
        ensure!(alert.verdict() == "deny", "not denied ({status}): {alert:#?}");
        ensure!(attack.silent || matches!(status.code(), Some(EPERM | EACCES)), "it does not get the error: {status}");
        let intact = stage.stand_in.is_intact() && !has_flags(&stage.stand_in.settings());
        ensure!(intact, "denied, and settings.js has changed");
        ensure!(attack.rule != "environment" || stage.is_unharmed(attack.rule), "denied, and made all the same");
        return Ok("denied");
    }
    ensure!(alert.verdict() == "kill" && was_killed(status), "not killed ({status}): {alert:#?}");
    if stage.is_unharmed(attack.rule) {
        return Ok("killed before harm");
    }
    if attack.rule == "settings-js" {
        let healed = || Ok(stage.stand_in.is_healed().then_some(()));
        wait::until("settings.js to be healed", wait::PATIENCE, healed)?;
        return Ok(if has_flags(&stage.stand_in.settings()) { "killed" } else { "killed and healed" });
    }
    Ok("killed")
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

#[test]
fn every_attack_is_met() -> Result<()> {
    let stage = Stage::new()?;
    // Without a guard each of them goes through.
    let mut absent = Vec::new();
    for attack in ATTACKS {
        let (_, status) = stage.attempt(attack, None)?;
        if attack.optional && status.code().is_some_and(|code| NOT_HERE.contains(&code)) {
            println!("without a guard: {} ({status})", attack.technique);
            absent.push(attack.technique);
        } else {
            ensure!(status.success(), "without a guard `{}` should go through: {status}", attack.operation);
        }
        stage.restore()?;
    }
    let mut policy = stage.policy();
    let guard = start(&stage.stand_in, &policy, &[])?;
    let sensors = Sensors::of(&guard)?;
    if let Some(expected) = needs::expected_sensor() {
        let all = &sensors.all;
        // The cgroup programs stand beside whatever there is.
        let best = all.iter().find(|sensor| *sensor != "cgroup");
        if best != Some(&expected) {
            let why = cli::run(as_service(Command::new(needs::flowwarden()?).arg("doctor")))?;
            bail!("{expected} should be the best sensor here: {all:?}\n{}{}", why.text, why.errors);
        }
    }
    println!("sensors: {}", sensors.all.join(", "));
    let mut failed = String::new();
    for attack in ATTACKS {
        if absent.contains(&attack.technique) {
            println!("attack: {} | {} | not on this kernel", attack.technique, attack.rule);
            continue;
        }
        put_in_force(&guard, &mut policy, stage.policy_with(attack.rule))?;
        match judge(&stage, &guard, attack, &sensors) {
            Ok(verdict) => println!("attack: {} | {} | {verdict}", attack.technique, attack.rule),
            Err(error) => writeln!(failed, "{}: {error:#}", attack.technique)?,
        }
        stage.restore()?;
    }
    put_in_force(&guard, &mut policy, stage.policy())?;
    for &what in HARMLESS {
        let (pid, status) = stage.stand_in.does(&stage.words(what, Some(&guard))?)?;
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

/// A program that a kernel's verifier refuses leaves its hook to the next sensor: that must not go unnoticed.
#[test]
fn every_program_is_accepted_by_the_verifier() -> Result<()> {
    let doctor = Command::new(needs::flowwarden()?).arg("doctor").output()?;
    let said = String::from_utf8_lossy(&doctor.stdout);
    ensure!(doctor.status.success(), "{said}");
    let refused: Vec<_> =
        said.lines().filter(|line| line.starts_with("missing") && line.contains("Verifier")).collect();
    ensure!(refused.is_empty(), "{said}");
    // Where LSM programs run, everything that they are there for can be denied.
    let lsm = needs::expected_sensor().is_some_and(|sensor| sensor == "lsm");
    for class in ["files", "exec", "egress", "privilege", "ptrace", "signal", "socket", "mount", "kernel"] {
        let row = said.lines().find(|line| line.split_whitespace().next() == Some(class) && line.contains(" yes "));
        let row = row.with_context(|| format!("no verdicts for {class}: {said}"))?;
        ensure!(!lsm || !row.contains("fallback"), "{class} is not denied here: {said}");
    }
    Ok(())
}

/// The links and the size of a directory change with what is in it.
#[test]
fn what_comes_and_goes_in_a_protected_directory_is_not_the_directory() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().deny(".", &["write", "delete", "rename", "link", "attr"], "directory");
    let guard = start(&stand_in, &policy, &[])?;
    for what in ["mkdir below", "rmdir below", "create file", "unlink file"] {
        let (_, status) = stand_in.does(what)?;
        ensure!(status.success(), "{what}: {status}\n{}", guard.console().text());
    }
    let (pid, status) = stand_in.does("chmod .")?;
    ensure!(!status.success(), "the directory itself is not protected");
    let met = |record: &Record| record.rule() == "directory" && record.pid() == Some(pid.into());
    guard.wait_for(wait::PATIENCE, met)?;
    let alerts: Vec<_> = guard.stop()?.into_iter().filter(|it| it.is_alert() && !met(it)).collect();
    ensure!(alerts.is_empty(), "{alerts:#?}");
    Ok(())
}

/// Gives the guard another policy, unless it has that one.
fn put_in_force(guard: &Guard, present: &mut Policy, wanted: Policy) -> Result<()> {
    if present.text() != wanted.text() {
        let answer = guard.reload(&wanted)?;
        ensure!(answer.contains("in force"), "the policy is refused: {answer}");
        *present = wanted;
    }
    Ok(())
}

/// The catalogue is written by the runs in other kernels; what is tried must be in it, and nothing else may.
#[test]
fn the_catalogue_is_that_of_these_attacks() -> Result<()> {
    let catalogue = include_str!("../../../docs/explanation/bypass-catalogue.md");
    let rows = catalogue.lines().filter(|line| line.starts_with("| ")).map(|line| line.split(" | "));
    let rows: Vec<_> = rows
        .filter_map(|mut fields| Some((fields.next()?.trim_start_matches("| "), fields.next()?)))
        .skip_while(|&(rule, _)| rule != "rule")
        .skip(1)
        .collect();
    let attacks: Vec<_> = ATTACKS.iter().map(|attack| (attack.rule, attack.technique)).collect();
    ensure!(rows == attacks, "docs/explanation/bypass-catalogue.md is out of date: `cargo xtask vm` writes it");
    Ok(())
}
