//! `flowwarden reload`

use std::{fs, io::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use monitor::stdio::Output;
use rustix::process::{Pid, Signal, kill_process};

/// Where the running guard keeps its pid.
pub(super) const PID_FILE: &str = "/run/flowwarden.pid";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where the running guard keeps its pid.
    #[arg(long, value_name = "FILE", default_value = PID_FILE)]
    pid_file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = arguments.pid_file.display();
    let text = fs::read_to_string(&arguments.pid_file)
        .with_context(|| format!("{path}: no guard runs, or it was given another --pid-file"))?;
    let pid: i32 = text.trim().parse().with_context(|| format!("{path}: not a pid"))?;
    let Some(pid) = Pid::from_raw(pid) else { bail!("{path}: not a pid") };
    // A pid from a file may be somebody else's by now.
    let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    if comm.trim() != "flowwarden" {
        bail!("{path}: process {} is not flowwarden any more; start the guard again", pid.as_raw_nonzero());
    }
    kill_process(pid, Signal::HUP)
        .with_context(|| format!("process {} cannot be signalled; are you root?", pid.as_raw_nonzero()))?;
    writeln!(
        Output,
        "asked process {} to read its policy again; its console and journal say what came of it",
        pid.as_raw_nonzero()
    )?;
    Ok(())
}
