//! `flowwarden run`

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use monitor::agent::{Agent, Options};

use super::reload::PID_FILE;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The policy; without it the embedded policy is used for every Node-RED that runs.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the journal; made when it is not there, readable by root only.
    #[arg(long, value_name = "DIR", default_value = "/var/log/flowwarden")]
    journal: PathBuf,
    /// Carry verdicts out, whatever the policy's mode.
    #[arg(long, conflicts_with = "observe")]
    enforce: bool,
    /// Only log, whatever the policy's mode.
    #[arg(long)]
    observe: bool,
    /// Directory in cgroup v2 below which traffic is judged [default: the whole machine].
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Where the pid is kept for `flowwarden reload`.
    #[arg(long, value_name = "FILE", default_value = PID_FILE)]
    pid_file: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let enforce = match (arguments.enforce, arguments.observe) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let options = Options {
        config: arguments.config,
        journal: arguments.journal,
        enforce,
        cgroup_root: arguments.cgroup_root,
        pid_file: Some(arguments.pid_file.clone()),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")?;
    let _runtime = runtime.enter();
    let (agent, events) = Agent::start(options)?;
    fs::write(&arguments.pid_file, std::process::id().to_string())
        .with_context(|| format!("{}: the pid cannot be written", arguments.pid_file.display()))?;
    runtime.block_on(agent.run(events))?;
    Ok(())
}
