//! The command line: one file for each subcommand.
//!
//! Exit codes: 0 done, 1 something failed, 2 the command line or the policy is wrong; `journal verify` has more.

mod check;
mod doctor;
mod journal;
mod reload;
mod run;
mod sink;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use monitor::{agent::AgentError, policy::PolicyError};

/// Watches and restrains Node-RED from outside.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 done, 1 something failed, 2 the command line or the policy is wrong."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guards the Node-RED instances of this machine (as root).
    Run(run::Arguments),
    /// Checks a policy file; needs no privilege.
    Check(check::Arguments),
    /// Says what this machine's kernel can do for you.
    Doctor(doctor::Arguments),
    /// Has the running guard read its policy again.
    Reload(reload::Arguments),
    /// Reads, checks and converts the journal.
    Journal(journal::Arguments),
    /// Tests the receivers of events, and says how they fare.
    Sink(sink::Arguments),
}

/// Runs the command and decides the exit code, here and nowhere else.
pub(crate) fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments).map(done),
        Command::Check(arguments) => check::run(&arguments).map(done),
        Command::Doctor(arguments) => doctor::run(&arguments).map(done),
        Command::Reload(arguments) => reload::run(&arguments).map(done),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Sink(arguments) => sink::run(&arguments).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flowwarden: {error:#}");
            ExitCode::from(if is_users_fault(&error) { 2 } else { 1 })
        }
    }
}

fn is_users_fault(error: &anyhow::Error) -> bool {
    error.is::<PolicyError>() || matches!(error.downcast_ref(), Some(AgentError::Policy(_) | AgentError::Compile(_)))
}
