//! `flowwarden learn`

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ::journal::{
    stdio::{Output, aside},
    text::terminal::{lines, plain, plain_path},
};
use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use monitor::{
    agent::{Agent, Options},
    config::{self, Config, ConfigError},
    evidence::{
        learn::{self, Draft, Learnt, Logged},
        simulate::{Judge, simulate},
    },
};
use monitor_common::verdict::Sensor;
use node_red::instance::{self, init};
use policy::{host::System, model::Policy};

use super::{
    as_root,
    explain::POLICY,
    init::write,
    journal::{self, time},
    with_peers,
};
use tokio_util::sync::CancellationToken;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Observe the instances for this time (1h, 15m) with a separate guard that denies nothing. Ctrl-C ends it earlier. A
    /// running guard is not affected.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, required_unless_present = "journal", conflicts_with = "journal")]
    length: Option<Duration>,
    /// Read a journal instead. The policy of its guard should log its defaults.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Start: a time (2026-01-31T08:00:00Z) or an age (15m, 2h, 7days).
    #[arg(long, value_name = "TIME", value_parser = time, requires = "journal")]
    since: Option<SystemTime>,
    /// Policy to extend [default: /etc/flowwarden/policy.toml if it exists, otherwise a minimal policy for the instances
    /// that are found]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Also allow critical operations, which are otherwise reported and not allowed.
    #[arg(long)]
    include_critical: bool,
    /// Write the whole policy to this file with mode 0600 [default: print the difference].
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Overwrite the file.
    #[arg(long, requires = "write")]
    force: bool,
    /// Directory in cgroup v2 below which traffic is watched [default: the whole machine].
    #[arg(long, value_name = "DIR", requires = "length")]
    cgroup_root: Option<PathBuf>,
}

/// The policy to extend, with its text.
struct Present {
    text: String,
    policy: Policy,
    /// No policy existed.
    new: bool,
}

fn present(named: Option<&Path>) -> anyhow::Result<Present> {
    let usual = Path::new(POLICY);
    if let Some(path) = named.or_else(|| usual.exists().then_some(usual)) {
        let (Config { policy, .. }, _) = config::read(path, &System::expected())?;
        let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        return Ok(Present { text, policy, new: false });
    }
    let found = init::instances(&instance::survey(&System::new().cgroup_mount));
    if found.is_empty() {
        bail!("no running Node-RED instance found; start it, or pass a policy with --policy");
    }
    let text = learn::base(&found);
    let Config { policy, .. } =
        config::parse(&text).map_err(|faults| ConfigError::Faulty { path: "a new policy".into(), faults })?;
    Ok(Present { text, policy, new: true })
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(file) = arguments.write.as_ref().filter(|file| file.exists() && !arguments.force) {
        bail!("{}: already exists; --force overwrites it", file.display());
    }
    if arguments.length.is_some() {
        as_root("learn --for")?;
    }
    if let Some(journal) = &arguments.journal {
        journal::look(journal)?;
    }
    let present = present(arguments.policy.as_deref())?;
    let directory;
    let journal = match (&arguments.journal, arguments.length) {
        (Some(journal), _) => journal.clone(),
        (None, length) => {
            directory = tempfile::Builder::new().prefix("flowwarden-learn-").tempdir()?;
            watch(&present, directory.path(), length.unwrap_or_default(), arguments.cgroup_root.clone())?
        }
    };
    let host = with_peers(&present.policy);
    let faulty =
        |fault| ConfigError::Faulty { path: arguments.policy.clone().unwrap_or_default(), faults: vec![fault] };
    // A guard that was started to learn from logs everything.
    let logged = if arguments.length.is_some() { Logged::Everything } else { Logged::AsJournaled };
    let critical = arguments.include_critical;
    let learnt = learn::learn(&present.policy, &host, &journal, arguments.since, critical, logged);
    let learnt = learnt.map_err(faulty)??;
    aside(&learnt.faults);
    aside(&summary(&learnt, &present.policy));
    if learnt.operations == 0 {
        bail!("{}", nothing(&learnt));
    }
    let unlogged = unlogged(&learnt, &present.policy)?;
    aside(&unlogged);
    let draft = learn::draft(&present.text, &present.policy, &learnt)?;
    aside(&left(&draft, &journal, arguments.since)?);
    match &arguments.write {
        None if present.new => Ok(write!(Output, "{}", draft.text)?),
        None => Ok(write!(Output, "{}", lines(&draft.diff))?),
        Some(file) => {
            write(file, &draft.text, arguments.force)?;
            // What stands there now is what a guard would read.
            let (Config { policy, .. }, _) = config::read(file, &System::expected())?;
            let mode = if policy.enforce { "enforces: take care" } else { "only observes" };
            writeln!(Output, "{}: written; it {mode}. Read it, then: flowwarden run --config {0}", plain_path(file))?;
            Ok(())
        }
    }
}

/// Runs a guard that denies nothing and logs everything, and answers with its journal.
fn watch(present: &Present, place: &Path, length: Duration, cgroup_root: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let config = place.join("policy.toml");
    fs::write(&config, learn::observing(&present.text, &present.policy)?)?;
    let journal = place.join("journal");
    let options = Options {
        config: Some(config),
        journal: journal.clone(),
        state: place.join("state"),
        pin: None,
        enforce: Some(false),
        cgroup_root,
        sensors: vec![Sensor::Lsm, Sensor::Fentry, Sensor::Kprobe, Sensor::Tracepoint],
        quiet: true,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")?;
    let _runtime = runtime.enter();
    let (agent, events) = Agent::start(options)?;
    aside(&format_args!("watching for {}; Ctrl-C ends it earlier\n", humantime::format_duration(length)));
    let stop = CancellationToken::new();
    let timer = stop.clone();
    runtime.spawn(async move {
        tokio::time::sleep(length).await;
        timer.cancel();
    });
    runtime.block_on(agent.run(events, stop))?;
    Ok(journal)
}

/// What was seen, and what was refused.
fn summary(learnt: &Learnt, policy: &Policy) -> String {
    let mut text = format!(
        "{} operations, {} of which rules of the present policy allow, {} in maintenance windows\n",
        learnt.operations, learnt.covered, learnt.in_windows
    );
    for instance in &policy.instances {
        let refused = learnt.refused(&instance.name);
        for line in refused.iter().take(50) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "refused ({}): {line}", instance.name);
        }
        if refused.len() > 50 {
            let _ = writeln!(text, "refused ({}): {} more", instance.name, refused.len() - 50);
        }
        let more = learnt.instances.get(&instance.name).map_or(0, |facts| facts.more);
        if more > 0 {
            let _ = writeln!(
                text,
                "not learnt ({}): {more} operations, for which there were too many others",
                instance.name
            );
        }
    }
    text
}

/// How to record a journal that can be learnt from.
const TO_LEARN: &str = "run `flowwarden learn --for 1h`, which logs everything by itself; or let the policy log what no rule \
                        names, default = { files = \"log\", exec = \"log\", egress = \"log\", ... }, reload it, and learn from what \
                        is journaled from then on (--since)";

/// Classes that stay unchanged since they were not logged, one line per instance. An error if nothing was logged.
fn unlogged(learnt: &Learnt, policy: &Policy) -> anyhow::Result<String> {
    let unlogged = policy.instances.iter().map(|instance| (instance, learnt.unlogged(&instance.name)));
    let unlogged: Vec<_> = unlogged
        .filter(|(_, classes)| !classes.is_empty())
        .map(|(instance, classes)| format!("{}: {}", plain(instance.name.as_bytes()), classes.join(", ")))
        .collect();
    let is_about = policy.instances.iter().any(|instance| learnt.is_about(&instance.name));
    ensure!(
        is_about || unlogged.is_empty(),
        "the policy of this journal did not log what no rule names ({}): what Node-RED needs there is not known, and closing \
         it would stop Node-RED. To learn, {TO_LEARN}",
        unlogged.join("; ")
    );
    if unlogged.is_empty() {
        return Ok(String::new());
    }
    let lines: String = unlogged.iter().flat_map(|line| ["unchanged, since it was not logged: ", line, "\n"]).collect();
    Ok(format!("{lines}to learn the rest, {TO_LEARN}\n"))
}

/// Why nothing was learnt.
fn nothing(learnt: &Learnt) -> String {
    if learnt.strangers.is_empty() {
        return format!("no operation was seen. To learn, {TO_LEARN}");
    }
    let names: Vec<_> = learnt.strangers.keys().map(|name| plain(name.as_bytes())).collect();
    format!("the journal has other instances: {}; pass the policy that names them with --policy", names.join(", "))
}

/// Simulates the draft on the events that it was learnt from.
fn left(draft: &Draft, journal: &Path, since: Option<SystemTime>) -> anyhow::Result<String> {
    let Config { policy, .. } =
        config::parse(&draft.text).map_err(|faults| anyhow!("the learnt policy is invalid: {faults:?}"))?;
    let mut judge = Judge::new(&policy, &with_peers(&policy)).map_err(|fault| anyhow!("the learnt policy: {fault}"))?;
    let report = simulate(&mut judge, journal, since)?;
    let mut text = String::new();
    for row in &report.stopped {
        let _ = writeln!(
            text,
            "still denied ({}): {} operations by {}, for example event {}: {}",
            plain(row.instance.as_bytes()),
            row.tally.count,
            plain(row.rule.as_bytes()),
            row.tally.event,
            plain(row.tally.example.as_bytes())
        );
    }
    Ok(text)
}
