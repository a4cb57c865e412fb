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
    /// Where the running guard keeps its state.
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
            anyhow::bail!("the guard has answered something else: {answer:?}; is it of another version?")
        }
        Err(ControlError::Refused(Refusal::Policy(faults))) => {
            for fault in &faults {
                // As compilers do, so that an editor can jump to each.
                eprint(fault);
            }
            complain(&"the policy was refused; the old one stays in force");
            Ok(ExitCode::from(2))
        }
        Err(ControlError::Refused(Refusal::Failed(why))) => {
            anyhow::bail!("the old policy stays in force: {}", plain(why.as_bytes()))
        }
        Err(error) => Err(guards::explained(error)),
    }
}

/// A line for the standard error; a reader that went away is no error.
fn eprint(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line.as_bytes()));
}
