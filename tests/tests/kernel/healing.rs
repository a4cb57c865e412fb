//! Healing holds what it says: no moment without a baseline after the announcement, no baseline of what an attacker has
//! left, and no file that is not restored without a word.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use flowwarden_tests::{
    cli,
    guard::{Guard, MADE},
    mounts,
    policy::Policy,
    record::Record,
    stand_in::StandIn,
    wait::{PATIENCE, until},
};
use rustix::{
    fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags},
    mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount},
};

use super::CHANGES;

/// What the files say; more than a page, so that a full file system has no room for it.
const GOOD: &[u8] = &[b'g'; 10_000];
/// Of the sensors the one that cannot deny: what it has killed has done its harm.
const TRACEPOINT: [&str; 2] = ["--sensors", "tracepoint"];

fn stand_in() -> Result<StandIn> {
    StandIn::new(option_env!("CARGO_BIN_EXE_actor"))
}

/// A file of the stand-in's.
fn file(stand_in: &StandIn, path: &Path) -> Result<()> {
    fs::write(path, GOOD)?;
    Ok(chown(path, Some(stand_in.uid), Some(stand_in.uid))?)
}

fn is_good(path: &Path) -> bool {
    fs::read(path).is_ok_and(|content| content == GOOD)
}

fn healing<'a>(records: &'a [Record], path: &'a Path) -> impl Iterator<Item = &'a Record> {
    let path = path.to_string_lossy();
    records.iter().filter(move |record| record.number("/class_uid") == Some(7002) && record.path() == path)
}

/// Events that say that a file is not healed, with the cause and what to do.
fn failures<'a>(records: &'a [Record], path: &'a Path) -> impl Iterator<Item = &'a Record> {
    healing(records, path).filter(|record| {
        let has = |pointer| !record.pointer_text(pointer).is_empty();
        record.number("/severity_id") == Some(5) && has("/message") && has("/status_detail") && has("/remediation/desc")
    })
}

/// Where a guard is stopped while a file settles.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A line on the console.
    Said(&'static str),
    /// An event in the journal that has these words.
    Journaled(&'static str),
    /// The baseline is in the state directory.
    Copied,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Said("was just created"),
        Self::Journaled("was just created"),
        Self::Copied,
        Self::Said("baseline of"),
        Self::Said(MADE),
        Self::Journaled(MADE),
    ];

    /// Whether the guard has come to it. Baselines are counted before the file is made.
    fn is_reached(self, guard: &Guard, name: &str, mark: usize, baselines: usize) -> Result<bool> {
        let about = |text: &str, words: &str| text.contains(name) && text.contains(words);
        Ok(match self {
            Self::Said(words) => guard.console().find(mark, |line| about(line, words)).is_some(),
            Self::Journaled(words) => guard.journal()?.iter().any(|it| about(it.pointer_text("/message"), words)),
            Self::Copied => count(guard)? > baselines,
        })
    }
}

/// How many baselines there are.
fn count(guard: &Guard) -> Result<usize> {
    let whole = fs::read_dir(guard.state().join("good"))?.flatten().filter(|it| it.path().extension().is_none());
    Ok(whole.count())
}

/// From when a file is made until it is announced to be protected, and after that, the guard is stopped at each step, and
/// the file attacked meanwhile. What its maker may still do is let through. All else is healed or reported.
#[test]
fn a_file_that_is_attacked_at_any_step_before_it_is_announced_is_not_lost_without_a_word() -> Result<()> {
    let stand_in = stand_in()?;
    let acts = ["unlink", "cut-open", "replace", "rename"];
    let mut policy = stand_in.policy();
    for step in 0..Step::ALL.len() {
        for act in acts {
            let name = format!("{act}-{step}");
            policy = policy.deny(&format!("{name}.js"), &CHANGES, &name).heal();
        }
    }
    let guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    for (at, step) in Step::ALL.into_iter().enumerate() {
        for act in acts {
            let name = format!("{act}-{at}.js");
            attacked_at(&stand_in, &guard, step, act, &name)
                .with_context(|| format!("{act} at {step:?}\n{}", guard.console().text()))?;
        }
    }
    guard.stop().map(drop)
}

fn attacked_at(stand_in: &StandIn, guard: &Guard, step: Step, act: &str, name: &str) -> Result<()> {
    let path = stand_in.user_dir().join(name);
    let (mark, baselines) = (guard.console().mark(), count(guard)?);
    let other = stand_in.user_dir().join("other");
    fs::write(&other, "rogue")?;
    chown(&other, Some(stand_in.uid), Some(stand_in.uid))?;
    file(stand_in, &path)?;
    // As often as there is time for, so that little passes between a step and the stop.
    while !step.is_reached(guard, name, mark, baselines)? {
        thread::yield_now();
    }
    let (status, kept) = guard.standing_still(|| {
        let words = match act {
            "replace" => format!("rename other {name}"),
            "rename" => format!("rename {name} away"),
            act => format!("{act} {name}"),
        };
        let (_, status) = stand_in.does(&words)?;
        Ok((status, count(guard)? > baselines))
    })?;
    // The rules for changes of the file itself wait until it is made.
    let young = matches!(step, Step::Said("was just created") | Step::Journaled("was just created"));
    ensure!(young || !status.success(), "the rule is not in force: {status}");
    if status.success() && act == "cut-open" {
        // The last look at it is over when it is announced.
        guard.console().wait_for(mark, &format!("{name} has settled"), PATIENCE)?;
        return Ok(());
    }
    let restored = until("a word about it", PATIENCE, || {
        if is_good(&path) {
            return Ok(Some(true));
        }
        Ok(failures(&guard.journal()?, &path).next().map(|_| false))
    })?;
    ensure!(restored || !kept, "it has a baseline, and is not restored");
    if !restored {
        let said = |line: &str| line.contains(name) && line.contains("; fix: ");
        until("a line about it", PATIENCE, || Ok(guard.console().find(mark, said)))?;
    }
    for name in ["away", name] {
        let _ = fs::remove_file(stand_in.user_dir().join(name));
    }
    Ok(())
}

/// As soon as `said` appears the guard is stopped and the file removed: it comes back.
fn removed_at_once(stand_in: &StandIn, guard: &Guard, mark: usize, said: &str, name: &str) -> Result<()> {
    while guard.console().find(mark, |line| line.contains(said)).is_none() {
        thread::yield_now();
    }
    guard.standing_still(|| {
        let (_, status) = stand_in.does(&format!("unlink {name}"))?;
        ensure!(!status.success(), "the rule is not in force: {status}");
        Ok(())
    })?;
    let path = stand_in.user_dir().join(name);
    until(&format!("{name} to be restored"), PATIENCE, || Ok(is_good(&path).then_some(())))
        .with_context(|| guard.console().text())
}

#[test]
fn a_file_is_restored_from_the_moment_on_that_it_is_announced() -> Result<()> {
    let stand_in = stand_in()?;
    let policy = stand_in.policy().deny("fresh.js", &CHANGES, "fresh-js").heal();
    let guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    let mark = guard.console().mark();
    file(&stand_in, &stand_in.user_dir().join("fresh.js"))?;
    removed_at_once(&stand_in, &guard, mark, MADE, "fresh.js")?;
    guard.stop().map(drop)
}

#[test]
fn a_file_is_restored_as_soon_as_a_reload_has_it_healed() -> Result<()> {
    let stand_in = stand_in()?;
    file(&stand_in, &stand_in.user_dir().join("old.js"))?;
    let rule = stand_in.policy().deny("old.js", &CHANGES, "old-js");
    let guard = Guard::start(Some(&rule), &stand_in.cgroup, &TRACEPOINT)?;
    let mark = guard.console().mark();
    guard.ask_to_reload(&rule.heal())?;
    removed_at_once(&stand_in, &guard, mark, "reload: the new policy is in force", "old.js")?;
    guard.stop().map(drop)
}

/// Whose end is accepted does not come back, and what comes after it is a new file.
#[test]
fn a_file_that_is_accepted_to_be_gone_stays_away() -> Result<()> {
    let stand_in = stand_in()?;
    let path = stand_in.user_dir().join("old.js");
    file(&stand_in, &path)?;
    let policy = stand_in.policy().deny("old.js", &CHANGES, "old-js").heal();
    let guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    let mark = guard.console().mark();
    fs::remove_file(&path)?;
    guard.console().wait_for(mark, "old.js is missing; its baseline is kept", PATIENCE)?;
    let accepted = by_hand("accept", &guard, &path)?;
    ensure!(accepted.code == Some(0) && accepted.text.contains("is missing"), "{accepted:?}");
    let guard = guard.start_again(&stand_in.cgroup, &TRACEPOINT)?;
    ensure!(!path.exists(), "it is back");
    file(&stand_in, &path)?;
    removed_at_once(&stand_in, &guard, 0, MADE, "old.js")?;
    guard.stop().map(drop)
}

/// Links keep the guard busy while the file is young, and then it is emptied.
#[test]
fn what_was_attacked_before_it_has_a_baseline_gets_none_until_it_is_accepted() -> Result<()> {
    let stand_in = stand_in()?;
    let policy = stand_in.policy().deny("young.js", &CHANGES, "young-js").heal();
    let mut guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    let path = stand_in.user_dir().join("young.js");
    let mark = guard.console().mark();
    file(&stand_in, &path)?;
    guard.console().wait_for(mark, "young.js was just created", PATIENCE)?;
    let mut links = 0;
    while guard.console().find(mark, |line| line.contains("young.js") && line.ends_with(MADE)).is_none() {
        links += 1;
        let (_, status) = stand_in.does(&format!("link young.js x{links}"))?;
        ensure!(!status.success(), "a link to a young file is let through");
        thread::yield_now();
    }
    let first = failures(&guard.journal()?, &path).count();
    ensure!(first > 0, "nothing is said of it\n{}", guard.console().text());
    let (_, status) = stand_in.does("cut-open young.js")?;
    ensure!(!status.success() && fs::read(&path)?.is_empty(), "{status}");
    until(
        "another word about it",
        PATIENCE,
        || Ok((failures(&guard.journal()?, &path).count() > first).then_some(())),
    )?;
    ensure!(count(&guard)? == 0, "the emptied file is the baseline");

    // The next run knows it too.
    guard = guard.start_again(&stand_in.cgroup, &TRACEPOINT)?;
    ensure!(count(&guard)? == 0, "the emptied file is the baseline of the next run");
    until("the next run's word", PATIENCE, || {
        Ok(guard.console().find(0, |line| line.contains("young.js has no baseline")))
    })?;
    let refused = by_hand("restore", &guard, &path)?;
    ensure!(refused.code != Some(0) && refused.errors.contains("flowwarden accept"), "{refused:?}");
    file(&stand_in, &path)?;
    let accepted = by_hand("accept", &guard, &path)?;
    ensure!(accepted.code == Some(0), "{accepted:?}");
    let (_, status) = stand_in.does("unlink young.js")?;
    ensure!(!status.success(), "{status}");
    until("young.js to be restored", PATIENCE, || Ok(is_good(&path).then_some(())))?;
    guard.stop().map(drop)
}

#[test]
fn a_file_that_went_while_no_guard_ran_is_restored_at_the_start() -> Result<()> {
    let stand_in = stand_in()?;
    let policy = stand_in.policy().deny("settings.js", &CHANGES, "settings-js").heal();
    let mut guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    guard.kill()?;
    fs::remove_file(stand_in.settings())?;
    let guard = guard.start_again(&stand_in.cgroup, &TRACEPOINT)?;
    ensure!(stand_in.is_healed(), "ready, and it is not back\n{}", guard.console().text());
    let (_, status) = stand_in.does("append settings.js")?;
    ensure!(!status.success(), "what was put back is open: {status}");
    let records = guard.stop()?;
    let restored = healing(&records, &stand_in.settings()).filter(|it| it.number("/severity_id") == Some(4)).count();
    ensure!(restored >= 1, "nothing is journaled");
    Ok(())
}

/// `flowwarden restore` or `accept` with the guard's state.
fn by_hand(command: &str, guard: &Guard, path: &Path) -> Result<cli::Answer> {
    cli::flowwarden(&[command, "--state", &guard.state().display().to_string(), &path.display().to_string()])
}

/// Something that keeps a file from being restored.
struct Obstacle {
    name: &'static str,
    /// `false` when this kernel has no such thing.
    block: fn(&Path) -> Result<bool>,
    unblock: fn(&Path) -> Result<()>,
    /// What the report has to say, and the fix.
    says: [&'static str; 2],
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Where the file system is mounted in which the file is.
fn mounted(path: &Path) -> &Path {
    directory(directory(path))
}

fn flag(path: &Path, flag: IFlags, on: bool) -> Result<bool> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let Ok(now) = ioctl_getflags(&file) else { return Ok(false) };
    Ok(ioctl_setflags(&file, if on { now | flag } else { now & !flag }).is_ok())
}

const LOCKED: [Obstacle; 3] = [
    Obstacle {
        name: "immutable file",
        block: |path| flag(path, IFlags::IMMUTABLE, true),
        unblock: |path| flag(path, IFlags::IMMUTABLE, false).map(drop),
        says: ["is immutable", "chattr -i "],
    },
    Obstacle {
        name: "immutable directory",
        block: |path| flag(directory(path), IFlags::IMMUTABLE, true),
        unblock: |path| flag(directory(path), IFlags::IMMUTABLE, false).map(drop),
        says: ["is immutable", "chattr -i "],
    },
    Obstacle {
        name: "append-only file",
        block: |path| flag(path, IFlags::APPEND, true),
        unblock: |path| flag(path, IFlags::APPEND, false).map(drop),
        says: ["is append-only", "chattr -a "],
    },
];

const OBSTACLES: [Obstacle; 5] = [
    Obstacle {
        name: "read-only file system",
        block: |path| Ok(mount_remount(mounted(path), MountFlags::RDONLY, "").map(|()| true)?),
        unblock: |path| Ok(mount_remount(mounted(path), MountFlags::empty(), "")?),
        says: ["is mounted read-only", "mount -o remount,rw "],
    },
    Obstacle {
        name: "full file system",
        block: |path| {
            let filler = fs::write(mounted(path).join("filler"), vec![0; 2 << 20]);
            ensure!(filler.is_err(), "there is still room");
            Ok(true)
        },
        unblock: |path| Ok(fs::remove_file(mounted(path).join("filler"))?),
        says: ["is full", "remove files below "],
    },
    Obstacle {
        name: "mount point with its name",
        block: |path| {
            fs::remove_file(path)?;
            fs::create_dir(path)?;
            Ok(mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).map(|()| true)?)
        },
        unblock: |path| Ok(unmount(path, UnmountFlags::DETACH)?),
        says: ["something is mounted on ", "umount "],
    },
    Obstacle {
        name: "directory that is gone",
        block: |path| Ok(fs::rename(directory(path), mounted(path).join("elsewhere")).map(|()| true)?),
        unblock: |path| Ok(fs::rename(mounted(path).join("elsewhere"), directory(path))?),
        says: ["is gone", "mkdir -p "],
    },
    Obstacle {
        name: "file in place of the directory",
        block: |path| {
            fs::rename(directory(path), mounted(path).join("elsewhere"))?;
            Ok(fs::write(directory(path), "").map(|()| true)?)
        },
        unblock: |path| {
            fs::remove_file(directory(path))?;
            Ok(fs::rename(mounted(path).join("elsewhere"), directory(path))?)
        },
        says: ["is no directory now", "put the directory back"],
    },
];

/// A stand-in with a small file system of its own, which only this thread and its children see, and a file in it.
struct Small {
    stand_in: StandIn,
    path: PathBuf,
    policy: Policy,
}

fn small() -> Result<Small> {
    mounts::part()?;
    let stand_in = stand_in()?;
    let top = stand_in.user_dir().join("m");
    fs::create_dir(&top)?;
    mount("tmpfs", &top, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=0755"))?;
    stand_in.directory(&top.join("d"))?;
    let path = top.join("d/file.js");
    file(&stand_in, &path)?;
    let policy = stand_in.policy().deny("m/d/file.js", &CHANGES, "file-js").heal();
    Ok(Small { stand_in, path, policy })
}

/// Runs a test in a thread whose mounts end with it.
fn apart(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| scope.spawn(test).join().map_err(|_| anyhow::anyhow!("the test panicked"))?)
}

impl Small {
    /// Has the file cut while the guard stands still, and something put in the way of healing.
    fn harm(&self, guard: &Guard, obstacle: &Obstacle) -> Result<bool> {
        guard.standing_still(|| {
            let (_, status): (u32, ExitStatus) = self.stand_in.does("cut-open m/d/file.js")?;
            ensure!(!status.success(), "the rule is not in force: {status}");
            (obstacle.block)(&self.path)
        })
    }

    fn meet(&self, guard: &Guard, obstacle: &Obstacle) -> Result<()> {
        let (mark, path) = (guard.console().mark(), &self.path);
        let before = guard.journal()?.len();
        if !self.harm(guard, obstacle)? {
            println!("not here: {}", obstacle.name);
            return until("the file to be healed", PATIENCE, || Ok(is_good(path).then_some(())));
        }
        let says = |text: &str| obstacle.says.iter().all(|words| text.contains(words));
        let new = || Ok::<_, anyhow::Error>(guard.journal()?.split_off(before));
        until("a report", PATIENCE, || Ok(failures(&new()?, path).next().map(|_| ())))?;
        let by_hand = by_hand("restore", guard, path)?;
        ensure!(by_hand.code != Some(0) && says(&by_hand.errors), "`restore` says: {by_hand:?}");
        // It is tried again and again, and long after the second in which harm is expected.
        thread::sleep(std::time::Duration::from_millis(1500));
        (obstacle.unblock)(path)?;
        until("the file to be healed", PATIENCE, || Ok(is_good(path).then_some(())))?;
        let restored = until("the report that it worked", PATIENCE, || {
            Ok(healing(&new()?, path).find(|record| record.number("/severity_id") == Some(4)).cloned())
        })?;
        ensure!(restored.number("/unmapped/tries").is_some_and(|tries| tries > 1), "{restored:?}");
        let new = new()?;
        let failures: Vec<_> = failures(&new, path).collect();
        ensure!(failures.len() == 1 && says(failures[0].pointer_text("/message")), "{failures:#?}");
        let lines: Vec<_> =
            guard.console().since(mark).into_iter().filter(|line| line.contains("cannot be restored")).collect();
        ensure!(lines.len() == 1 && says(&lines[0]), "{lines:#?}");
        let left: Vec<_> = fs::read_dir(directory(path))?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.iter().filter(|name| name.to_string_lossy().starts_with(".flowwarden-")).count() <= 1, "{left:?}");
        Ok(())
    }
}

#[test]
fn what_keeps_a_file_from_being_healed_is_reported_once_and_healing_retried() -> Result<()> {
    apart(|| {
        let small = small()?;
        let lacking = ["CAP_LINUX_IMMUTABLE"];
        let guard = Guard::start_lacking(&small.policy, &small.stand_in.cgroup, &TRACEPOINT, &lacking)?;
        for obstacle in LOCKED.iter().chain(&OBSTACLES) {
            small.meet(&guard, obstacle).with_context(|| format!("{}\n{}", obstacle.name, guard.console().text()))?;
        }
        guard.stop().map(drop)
    })
}

#[test]
fn flags_that_keep_a_file_from_being_healed_are_removed_and_reported() -> Result<()> {
    apart(|| {
        let small = small()?;
        let guard = Guard::start(Some(&small.policy), &small.stand_in.cgroup, &TRACEPOINT)?;
        for obstacle in &LOCKED {
            let before = guard.journal()?.len();
            let here = small.harm(&guard, obstacle)?;
            let path = &small.path;
            until(&format!("{}: the file to be healed", obstacle.name), PATIENCE, || Ok(is_good(path).then_some(())))
                .with_context(|| guard.console().text())?;
            let restored = until("the report", PATIENCE, || {
                let new = guard.journal()?.split_off(before);
                Ok(healing(&new, path).find(|record| record.number("/severity_id") == Some(4)).cloned())
            })?;
            let removed = restored.json().pointer("/unmapped/flags_removed").is_some();
            ensure!(removed == here, "{}: {restored:?}", obstacle.name);
        }
        guard.stop().map(drop)
    })
}

#[test]
fn a_file_that_is_too_large_to_be_healed_is_reported() -> Result<()> {
    let stand_in = stand_in()?;
    let path = stand_in.user_dir().join("large.js");
    fs::File::create(&path)?.set_len(9 << 20)?;
    let policy = stand_in.policy().deny("large.js", &CHANGES, "large-js").heal();
    let guard = Guard::start(Some(&policy), &stand_in.cgroup, &TRACEPOINT)?;
    let records = guard.stop()?;
    let Some(failure) = failures(&records, &path).next() else { bail!("nothing is said of it") };
    ensure!(failure.pointer_text("/message").contains("larger than 8 MiB"), "{failure:?}");
    Ok(())
}
