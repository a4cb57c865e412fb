//! The command line: one file for each subcommand.
//!
//! Exit codes: 0 done, 1 something failed, 2 the command line or the policy is wrong.

mod check;
mod detach;
mod doctor;
mod good;
mod reload;
mod run;

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
    /// Makes protected files as they are now the good copies that are put back after an attack (as root).
    Accept(good::Arguments),
    /// Puts the good copies of protected files back (as root).
    Restore(good::Arguments),
    /// Ends what a guard that was started with --pin has left in the kernel (as root).
    Detach(detach::Arguments),
    /// Has the running guard read its policy again.
    Reload(reload::Arguments),
}

/// Runs the command and decides the exit code, here and nowhere else.
pub(crate) fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Accept(arguments) => good::accept(&arguments),
        Command::Restore(arguments) => good::restore(&arguments),
        Command::Detach(arguments) => detach::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowwarden: {error:#}");
            ExitCode::from(if is_users_fault(&error) { 2 } else { 1 })
        }
    }
}

fn is_users_fault(error: &anyhow::Error) -> bool {
    error.is::<PolicyError>() || matches!(error.downcast_ref(), Some(AgentError::Policy(_) | AgentError::Compile(_)))
}
