//! `flowwarden reload`

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::Args;
use journal::{
    state,
    stdio::{Output, complain},
    text::terminal::plain,
};
use monitor::control::{self, Answer, ControlError, Refusal, Request};

use super::{as_root, guards};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// State directory of the running guard.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY)]
    state: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    as_root("reload")?;
    match control::ask(&arguments.state, &Request::Reload) {
        Ok(Answer::Reloaded(reloaded)) => {
            for warning in &reloaded.warnings {
                writeln!(Output, "warning: {}", plain(warning.as_bytes()))?;
            }
            let mode = if reloaded.enforce { "enforce" } else { "observe" };
            let instances = plain(reloaded.instances.join(", ").as_bytes());
            writeln!(Output, "the new policy is in force: {mode}, instances {instances}")?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(answer @ Answer::Windows(_)) => {
            anyhow::bail!("unexpected answer of the guard: {answer:?}; check that its version is the same")
        }
        Err(ControlError::Refused(Refusal::Policy(faults))) => {
            for fault in &faults {
                // As compilers do, so that an editor can jump to each.
                eprint(fault);
            }
            complain(&"the policy was rejected; the old policy remains in force");
            Ok(ExitCode::from(2))
        }
        Err(ControlError::Refused(Refusal::Failed(why))) => {
            anyhow::bail!("the old policy remains in force: {}", plain(why.as_bytes()))
        }
        Err(error) => Err(guards::explained(error)),
    }
}

/// Writes a line to standard error. A closed pipe is ignored.
fn eprint(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line.as_bytes()));
}
