//! A file that has just taken a protected name is protected under every other name that it has. The guard is stopped
//! meanwhile: what holds here does not wait for it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, policy::Policy, stand_in::StandIn, wait};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{CHANGES, Sensors, beside, start};

/// An emulated machine takes its time.
const PATIENCE: Duration = Duration::from_mins(2);
/// For how long a window is open, in seconds. What is done meanwhile takes less.
const WINDOW: u64 = 8;
/// Every name of a file with this many is looked at.
const MANY: usize = 64;
/// So many that not all of them are looked at.
const TOO_MANY: usize = 300;

/// The strictest rule of all has to meet it, whichever that is.
const ANY: &str = "";

/// How a file takes a name.
#[derive(Clone, Copy, Debug)]
enum Way {
    Rename,
    Exchange,
    Link,
    /// It is made under its name and linked from there.
    Make,
}

/// A directory of root's beside that of the stand-in.
struct Out(PathBuf);

impl Out {
    fn new(stand_in: &StandIn) -> Result<Self> {
        let out = beside(stand_in, "out");
        fs::create_dir(&out)?;
        Ok(Self(out))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a new file of `target` that has a second name here.
    fn replace(&self, stand_in: &StandIn, way: Way, target: &Path, other: &str) -> Result<()> {
        let (new, other) = (self.path("new"), self.path(other));
        let content = fs::read(target)?;
        let mode = fs::metadata(target)?.permissions();
        let make = |path: &Path| -> Result<()> {
            fs::write(path, &content)?;
            fs::set_permissions(path, mode)?;
            Ok(std::os::unix::fs::chown(path, Some(stand_in.uid), Some(stand_in.uid))?)
        };
        if matches!(way, Way::Make) {
            fs::remove_file(target)?;
            make(target)?;
            return Ok(fs::hard_link(target, other)?);
        }
        make(&new)?;
        fs::hard_link(&new, &other)?;
        match way {
            Way::Rename => fs::rename(&new, target)?,
            Way::Exchange => {
                renameat_with(CWD, &new, CWD, target, RenameFlags::EXCHANGE)?;
                fs::remove_file(&new)?;
            }
            Way::Link | Way::Make => {
                fs::remove_file(target)?;
                fs::hard_link(&new, target)?;
                fs::remove_file(&new)?;
            }
        }
        Ok(())
    }
}

/// Has the kernel forget names that are not in use.
fn forget_names() -> Result<()> {
    Ok(fs::write("/proc/sys/vm/drop_caches", "2")?)
}

/// What was tried while the guard stood still.
struct Tries<'a> {
    stand_in: &'a StandIn,
    failed: String,
    /// The rule that has to have met it, and who tried.
    met: Vec<(String, &'static str, u32)>,
}

impl Tries<'_> {
    /// Tries what has to be refused on account of a rule.
    fn refused(&mut self, technique: &str, rule: &'static str, what: &str) -> Result<()> {
        let (pid, status) = self.stand_in.does(what)?;
        self.judge(technique, rule, pid, status.success())
    }

    fn judge(&mut self, technique: &str, rule: &'static str, pid: u32, passed: bool) -> Result<()> {
        if passed {
            writeln!(self.failed, "{technique}: it goes through")?;
        } else {
            self.met.push((technique.to_owned(), rule, pid));
        }
        Ok(())
    }

    /// Tries what no rule is about.
    fn let_through(&mut self, technique: &str, what: &str) -> Result<()> {
        let (_, status) = self.stand_in.does(what)?;
        if !status.success() {
            writeln!(self.failed, "{technique}: it is met, and no rule is about it ({status})")?;
        }
        Ok(())
    }

    /// Checks that the guard has a record of each that was met.
    fn confirm(mut self, guard: &Guard) -> Result<()> {
        for (technique, rule, pid) in self.met {
            let is_it = |record: &flowwarden_tests::record::Record| {
                record.is_alert() && (record.rule() == rule || rule == ANY) && record.pid() == Some(pid.into())
            };
            if let Err(error) = guard.wait_for(wait::PATIENCE, is_it) {
                writeln!(self.failed, "{technique}: no record of {rule}: {error:#}")?;
            }
        }
        ensure!(self.failed.is_empty(), "{}", self.failed);
        Ok(())
    }
}

fn policy(stand_in: &StandIn) -> Policy {
    stand_in
        .policy()
        .deny("settings.js", &CHANGES, "settings-js")
        .deny("key.pem", &["read", "link"], "keys")
        .deny("*.crt", &["read"], "certificates")
        .deny("below/**", &["write", "attr"], "below")
        .deny_exec("rogue", "programs")
}

#[test]
fn what_takes_a_protected_name_is_protected_under_each_of_its_names() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let out = Out::new(&stand_in)?;
    let at = |name: &str| stand_in.user_dir().join(name);
    stand_in.directory(&at("below"))?;
    stand_in.directory(&at("lib"))?;
    for name in ["key.pem", "other.crt", "below/file"] {
        fs::write(at(name), "secret")?;
    }
    fs::copy(stand_in.program(), at("rogue"))?;
    let overlays = {
        let (_, status) = stand_in.does_as_root("overlay-read key.pem")?;
        status.success()
    };
    let guard = start(&stand_in, &policy(&stand_in), &[])?;
    let sensors = Sensors::of(&guard)?;
    let tries = guard.standing_still(|| {
        let mut tries = Tries { stand_in: &stand_in, failed: String::new(), met: Vec::new() };
        let words = |operation: &str, name: &str| format!("{operation} {}", out.path(name).display());
        for way in [Way::Rename, Way::Exchange, Way::Link, Way::Make] {
            let other = format!("key-{way:?}");
            out.replace(&stand_in, way, &at("key.pem"), &other)?;
            tries.refused(&format!("read, {way:?}"), "keys", &words("read", &other))?;
            if sensors.on_security_hooks {
                let link = format!("link {} mine-{way:?}", out.path(&other).display());
                tries.refused(&format!("a third name, {way:?}"), "keys", &link)?;
            }
            let other = format!("settings-{way:?}");
            out.replace(&stand_in, way, &at("settings.js"), &other)?;
            for operation in ["append", "map", "truncate", "chmod"] {
                if sensors.on_security_hooks || !["truncate", "chmod"].contains(&operation) {
                    let technique = format!("{operation}, {way:?}");
                    tries.refused(&technique, "settings-js", &words(operation, &other))?;
                }
            }
            let (cert, file) = (format!("crt-{way:?}"), format!("below-{way:?}"));
            out.replace(&stand_in, way, &at("other.crt"), &cert)?;
            tries.refused(&format!("read, by a pattern, {way:?}"), "certificates", &words("read", &cert))?;
            out.replace(&stand_in, way, &at("below/file"), &file)?;
            tries.refused(&format!("append, below, {way:?}"), "below", &words("append", &file))?;
            let program = format!("rogue-{way:?}");
            out.replace(&stand_in, way, &at("rogue"), &program)?;
            tries.refused(&format!("executed, {way:?}"), "programs", &words("run", &program))?;
        }
        // A name that was not used since is not in memory: the security hooks have seen who took the protected one.
        if sensors.on_security_hooks {
            for way in [Way::Rename, Way::Exchange, Way::Link, Way::Make] {
                let other = format!("forgotten-{way:?}");
                out.replace(&stand_in, way, &at("key.pem"), &other)?;
                forget_names()?;
                tries.refused(&format!("read, names forgotten, {way:?}"), "keys", &words("read", &other))?;
            }
        }
        // What lies below an overlay has no other name.
        if overlays && sensors.on_security_hooks {
            fs::write(out.path("new"), "secret")?;
            fs::rename(out.path("new"), at("key.pem"))?;
            fs::write(out.path("new"), "secret")?;
            fs::rename(out.path("new"), at("other.crt"))?;
            for (name, rule) in [("key.pem", "keys"), ("other.crt", "certificates")] {
                let (pid, status) = stand_in.does_as_root(&format!("overlay-read {name}"))?;
                tries.judge(&format!("{name} by an overlay"), rule, pid, status.success())?;
            }
        }
        for (count, name, rule) in [(MANY, "many", "keys"), (TOO_MANY, "more", ANY)] {
            let path = |index: usize| out.path(&format!("{name}-{index}"));
            fs::write(path(0), "secret")?;
            for index in 1..count {
                fs::hard_link(path(0), path(index))?;
            }
            fs::rename(path(0), at("key.pem"))?;
            for index in [1, count / 2, count - 1] {
                let what = format!("read {}", path(index).display());
                tries.refused(&format!("number {index} of {count} names"), rule, &what)?;
            }
        }
        // Sensors on security hooks that only kill do so after `truncate` and `chmod` have taken effect.
        let kills_late = sensors.on_security_hooks && !sensors.lsm;
        if !kills_late && !stand_in.is_healed() {
            writeln!(tries.failed, "settings.js was changed")?;
        }
        // No rule is about other files with several names.
        fs::write(out.path("free"), "free")?;
        stand_in.file("free", b"free", 0o644)?;
        for index in 0..MANY - 2 {
            fs::hard_link(out.path("free"), out.path(&format!("free-{index}")))?;
        }
        tries.let_through("a file with several names, read", &words("read", "free-3"))?;
        tries.let_through("a file with several names, written", "append free")?;
        tries.let_through("a name taken from a protected file", "rename free freed")?;
        Ok(tries)
    })?;
    tries.confirm(&guard)?;
    guard.stop().map(drop)
}

/// A name from before a window is not the way around its end, nor is a descriptor.
#[test]
fn what_took_a_name_in_a_window_is_closed_with_it() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().deny("settings.js", &CHANGES, "settings-js").maintenance("settings");
    let guard = start(&stand_in, &policy, &[])?;
    stand_in.file("n2.js", b"", 0o644)?;
    guard.asks(&format!("open --for {WINDOW}s --class settings"))?;
    let mut lingering = stand_in.begins("linger n2.js score")?;
    let score = stand_in.user_dir().join("score");
    let written = || fs::read_to_string(&score).ok()?.trim().parse::<u32>().ok();
    wait::until("some writes in the window", PATIENCE, || Ok(written().filter(|&written| written > 3)))?;
    let tries = guard.standing_still(|| {
        let mut tries = Tries { stand_in: &stand_in, failed: String::new(), met: Vec::new() };
        for what in ["link n2.js n2-too.js", "rename n2.js settings.js"] {
            let (_, status) = stand_in.does(what)?;
            ensure!(status.success(), "{what}: {status}");
        }
        let closed = || Ok((!stand_in.does("append settings.js")?.1.success()).then_some(()));
        wait::until("the window to close", PATIENCE, closed)?;
        tries.refused("written by the other name after the window", "settings-js", "append n2-too.js")?;
        let ended = wait::until("the end of the writes", PATIENCE, || lingering.ended());
        let ended = ended.context("a descriptor from before it was settings.js")?;
        tries.judge(
            "written by an older descriptor after the window",
            "settings-js",
            lingering.pid(),
            ended.success(),
        )?;
        Ok(tries)
    })?;
    tries.confirm(&guard)?;
    guard.stop().map(drop)
}
