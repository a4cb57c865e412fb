//! `cargo xtask demo`: six attacks on a throw-away Node-RED under guard.

mod attack;
mod report;

use std::{
    env, fs,
    io::{Write as _, stdout},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use flowwarden_tests::{
    guard::Guard,
    needs,
    netns::Network,
    node_red::{self, NodeRed, VERSION},
    policy::Policy,
    record::Record,
    scene::Scene,
    snapshot::Snapshot,
    tools::Step,
    user::User,
    wait,
};

use crate::{build, links, paint::Paint, progress, shell, signals};
use attack::{Attack, Targets};
use report::{Effect, Fate, Row, Verdict};

/// How long a record, a restored file or the end of a killed process may take.
const LONGEST: Duration = Duration::from_secs(15);

/// What `cargo xtask demo` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Everything is built: go on from there
    #[arg(long, hide = true)]
    built: bool,
}

/// `cargo xtask demo`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.built {
        build::before(&[Step::Demo])?;
    }
    if !shell::is_root() {
        // It makes a user and a network namespace. cargo, which root may not have, is done by now.
        let own = env::current_exe().context("this program's own file cannot be found")?;
        return shell::become_root("The demo", &own, &["demo", "--built"]);
    }
    links::enter(Step::Demo, &["demo", "--built"])?;
    signals::end_waits()?;
    if !node_red::is_installed(VERSION) {
        let what = format!("npm installs Node-RED {VERSION}");
        progress::silent(&what, "about 90 MB, up to 3 min", || node_red::install(VERSION))?;
    }
    play(Paint::for_stdout())
}

/// Plays the attacks and prints what came of them. Everything that it makes is gone when it returns, but for the journal.
fn play(paint: Paint) -> Result<()> {
    println!("\nStarting Node-RED {VERSION} under a user of its own, in its own network ...");
    let mut stage = Stage::new()?;
    let policy = policy(&stage.scene.node_red);
    let mut guard = Guard::start(Some(&policy), &stage.scene.cgroup, &[])?;
    guard.wait_for(wait::SOON, Record::is_good_copy).context("no baseline of settings.js was stored")?;
    println!(
        "Flowwarden guards it: settings.js is healed, certs/*.pem are not read,\n{} is not reached.\n",
        Network::FORBIDDEN_NET
    );

    let attacks = stage.targets.attacks(&stage.scene)?;
    let mut rows = Vec::new();
    for (index, attack) in attacks.iter().enumerate() {
        print!("{}", Row::beginning(index + 1, attack.title));
        stdout().flush()?;
        let row = stage.play(attack, &guard).inspect_err(|_| println!())?;
        println!("{}", row.end(paint));
        rows.push(row);
    }
    let memory = guard.memory()?;
    guard.terminate()?;

    // Harm may have come later.
    stage.targets.settle(&stage.scene)?;
    for (row, attack) in rows.iter_mut().zip(&attacks) {
        if let harm @ Effect::Harm(_) = stage.targets.harm(attack.target, &stage.scene, 0)? {
            row.effect = harm;
        }
    }
    let kept = Kept::new(&needs::target().join("demo"), &guard)?;
    println!("\n{}\n", report::table(&rows, paint));
    if rows.iter().any(|row| row.verdict == Some(Verdict::Killed)) {
        println!(
            "The sensors of this kernel cannot deny access to files: Flowwarden kills the\n\
             process and restores the file. Kernels with BPF LSM deny (flowwarden doctor)."
        );
    }
    let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
    println!("Memory of flowwarden: {:.1} MiB, {:.1} MiB at most.", mib(memory.now_kib), mib(memory.peak_kib));
    println!("Journal: {} ({} events, verified)", shown(&kept.journal), kept.verify()?);
    let event = rows.iter().find_map(|row| row.sequence);
    println!("\nGo on with:");
    for command in next_commands(&needs::flowwarden()?, &kept, event) {
        println!("  {command}");
    }
    report::decide(&rows)?;
    guard.be_quiet();
    Ok(())
}

/// File access is denied, or ends in a kill where the sensor cannot deny.
fn policy(node_red: &NodeRed) -> Policy {
    Policy::enforce(node_red)
        .deny("settings.js", &["write", "delete", "rename", "link", "attr"], attack::SETTINGS_RULE)
        .heal()
        .deny("certs/*.pem", &["read"], attack::KEYS_RULE)
        .egress(&[Network::FORBIDDEN_NET], "deny", attack::ADDRESS_RULE)
}

/// Where the demo takes place. Fields are dropped in this order: the user goes last, when no process runs under it any more.
struct Stage {
    scene: Scene,
    targets: Targets,
    _user: User,
}

impl Stage {
    fn new() -> Result<Self> {
        let user = User::create()?;
        let mut scene = Scene::with_uid(user.uid())?;
        scene.node_red.start()?;
        Ok(Self { targets: Targets::new(&scene)?, scene, _user: user })
    }

    fn play(&mut self, attack: &Attack, guard: &Guard) -> Result<Row> {
        let printed = self.scene.node_red.console().mark();
        let known = guard.journal()?.len();
        let pid = self.scene.node_red.pid().map(u64::from);
        let before = Snapshot::take(&self.scene.node_red.settings())?;
        self.scene.node_red.play(&attack.flow)?;

        let record = record(guard, known, |record| record.rule() == attack.rule && verdict(record).is_some())?;
        if let Some(record) = &record
            && verdict(record) == Some(Verdict::Killed)
            && record.pid() == pid
            && self.scene.node_red.alive()?
        {
            self.scene.node_red.wait_exit(LONGEST).context("Node-RED outlives its kill")?;
        }
        let effect = match attack.target {
            attack::Target::Settings if !before.is_untouched()? => self.healing(guard, known, record.as_ref())?,
            target => self.targets.harm(target, &self.scene, printed)?,
        };
        if attack.target == attack::Target::Settings && matches!(effect, Effect::Harm(_)) {
            self.targets.put_back()?;
        }
        let verdict = record.as_ref().and_then(verdict);
        let node_red = match verdict {
            _ if self.scene.node_red.alive()? => Fate::KeptRunning,
            Some(Verdict::Killed) => Fate::Killed,
            _ => Fate::Ended,
        };
        self.scene.node_red.start()?;
        let sequence = record.and_then(|record| record.number("/metadata/sequence"));
        Ok(Row { title: attack.title, verdict, node_red, effect, sequence })
    }

    /// State of settings.js after an attack modified it.
    fn healing(&self, guard: &Guard, known: usize, attack: Option<&Record>) -> Result<Effect> {
        if !self.targets.wait_until_restored()? {
            return self.targets.harm(attack::Target::Settings, &self.scene, 0);
        }
        let restored = record(guard, known, Record::is_restored)?;
        let times = (attack.and_then(Record::time), restored.and_then(|restored| restored.time()));
        Ok(match times {
            (Some(attacked), Some(restored)) => Effect::Restored(restored.saturating_sub(attacked)),
            _ => Effect::Harm("no record of restoring".to_owned()),
        })
    }
}

/// The first record after the first `known` that is `wanted`; `None` when there is none in time.
fn record(guard: &Guard, known: usize, wanted: impl Fn(&Record) -> bool) -> Result<Option<Record>> {
    let start = Instant::now();
    wait::until("a record", wait::PATIENCE, || {
        let found = guard.journal()?.into_iter().skip(known).find(&wanted);
        Ok((found.is_some() || start.elapsed() > LONGEST).then_some(found))
    })
}

fn verdict(record: &Record) -> Option<Verdict> {
    match record.verdict() {
        "deny" => Some(Verdict::Denied),
        "kill" => Some(Verdict::Killed),
        _ => None,
    }
}

/// What is left of the demo.
struct Kept {
    journal: PathBuf,
    policy: PathBuf,
}

impl Kept {
    /// Copies the journal of a guard that has ended to a directory, in the place of an earlier one.
    fn new(directory: &Path, guard: &Guard) -> Result<Self> {
        let (journal, policy) = (directory.join("journal"), directory.join("policy.toml"));
        let copy = || {
            if directory.exists() {
                fs::remove_dir_all(directory)?;
            }
            fs::create_dir_all(&journal)?;
            for entry in fs::read_dir(guard.journal_directory())? {
                let entry = entry?;
                fs::copy(entry.path(), journal.join(entry.file_name()))?;
            }
            fs::copy(guard.policy_file(), &policy)
        };
        copy().with_context(|| format!("the journal cannot be kept in {}", directory.display()))?;
        Ok(Self { journal, policy })
    }

    /// Verifies it with the program itself, and counts its events.
    fn verify(&self) -> Result<usize> {
        let mut verify = Command::new(needs::flowwarden()?);
        needs::run(verify.args(["journal", "verify", "--journal"]).arg(&self.journal))?;
        Ok(flowwarden_tests::journal::text(&self.journal)?.lines().count())
    }
}

/// The commands that the demo ends with, as they are typed in the current directory. The first has two lines.
fn next_commands(program: &Path, kept: &Kept, event: Option<u64>) -> [String; 2] {
    // The journal is root's.
    let sudo = if env::var_os("SUDO_UID").is_some() { "sudo " } else { "" };
    let (program, journal, policy) = (shown(program), shown(&kept.journal), shown(&kept.policy));
    let first = match event {
        Some(event) => format!("explain {event} --journal {journal} \\\n      --policy {policy}"),
        None => format!("journal query --journal {journal}"),
    };
    [format!("{sudo}{program} {first}"), format!("{sudo}{program} audit    # the Node-RED instances of this machine")]
}

/// A path as it is typed in the current directory.
fn shown(path: &Path) -> String {
    let current = env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(current).unwrap_or(path).display().to_string();
    let is_plain = path.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-+".contains(letter));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commands_can_be_typed() {
        let current = env::current_dir().unwrap();
        let kept = |top: &Path| Kept { journal: top.join("a journal"), policy: top.join("policy.toml") };
        let [explain, _] = next_commands(&current.join("target/flowwarden"), &kept(&current), Some(7));
        let expected = "target/flowwarden explain 7 --journal 'a journal' \\\n      --policy policy.toml";
        assert!(explain.ends_with(expected), "{explain}");
        let [query, audit] = next_commands(Path::new("/x/flowwarden"), &kept(Path::new("/y")), None);
        assert!(query.ends_with("/x/flowwarden journal query --journal '/y/a journal'"), "{query}");
        assert!(audit.contains("/x/flowwarden audit"), "{audit}");
    }
}
