//! The command line: one file for each subcommand.
//!
//! Exit codes: 0 success, 1 failure, 2 invalid command line or policy; for `audit` also 3 if a check warns and 4 if a check
//! fails. `journal verify` has more.

mod audit;
mod check;
mod detach;
mod discover;
mod doctor;
mod explain;
mod good;
mod guards;
mod init;
mod journal;
mod learn;
mod maintenance;
#[cfg(test)]
mod reference;
mod reload;
mod run;
mod simulate;
mod sink;

use std::{io, process::ExitCode, time::Duration};

use ::journal::{
    stdio::{aside, complain},
    text::terminal::plain,
};
use clap::{Parser, Subcommand};
use monitor::{
    agent::{AgentError, fatal::Fatal},
    config::ConfigError,
    kernel::error::chain,
};
use policy::{
    host::System,
    model::Policy,
    peers::{self, LookupReport},
};

/// Watch and restrain Node-RED from outside
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 success, 1 failure, 2 invalid command line or policy.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guard the Node-RED instances of this machine (root)
    Run(run::Arguments),
    /// Audit the instances against the seven rules and print remediations; run as root to see everything
    Audit(audit::Arguments),
    /// Check a policy file and resolve the hosts in its `from` lists; needs no privilege
    Check(check::Arguments),
    /// List the Node-RED instances of this machine and their facts; run as root to see everything
    Discover(discover::Arguments),
    /// Print what the kernel of this machine supports
    Doctor(doctor::Arguments),
    /// Explain an event or a rule, and what to do about it
    Explain(explain::Arguments),
    /// Learn the least policy for what the instances do, by observing them or from a journal
    Learn(learn::Arguments),
    /// Accept the present content of healed files as their baselines (root)
    Accept(good::Arguments),
    /// Restore healed files from their baselines (root)
    Restore(good::Arguments),
    /// Detach the kernel programs that a guard started with --pin left attached (root)
    Detach(detach::Arguments),
    /// Write a policy for the instances that are found; review it before use
    Init(init::Arguments),
    /// Open and close maintenance windows, in which rules only log (root)
    Maintenance(maintenance::Arguments),
    /// Reload the policy of the running guard, wait, and print the result (root)
    Reload(reload::Arguments),
    /// Query, verify and export the journal
    Journal(journal::Arguments),
    /// Simulate a policy on the events of a journal
    Simulate(simulate::Arguments),
    /// Test sinks and print their delivery status
    Sink(sink::Arguments),
}

/// Runs the command and decides the exit code, here and nowhere else.
pub(crate) fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments).map(done),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Check(arguments) => check::run(&arguments).map(done),
        Command::Discover(arguments) => discover::run(&arguments).map(done),
        Command::Doctor(arguments) => doctor::run(&arguments).map(done),
        Command::Learn(arguments) => learn::run(&arguments).map(done),
        Command::Explain(arguments) => explain::run(&arguments).map(done),
        Command::Accept(arguments) => good::accept(&arguments).map(done),
        Command::Restore(arguments) => good::restore(&arguments).map(done),
        Command::Detach(arguments) => detach::run(&arguments).map(done),
        Command::Init(arguments) => init::run(&arguments).map(done),
        Command::Maintenance(arguments) => maintenance::run(arguments).map(done),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Simulate(arguments) => simulate::run(&arguments).map(done),
        Command::Sink(arguments) => sink::run(&arguments).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(code(&error))
        }
    }
}

/// Prints an error. Each fault of a policy is a line without a prefix, so that editors can jump to it.
fn report(error: &anyhow::Error) {
    let sentence = sentence(error, rustix::process::geteuid().is_root());
    match faults(error) {
        Some(faults) if sentence == faults => aside(&format_args!("{faults}\n")),
        // What else is said about them comes after them.
        Some(faults) => {
            let rest = sentence.replace(&faults, "the policy is invalid");
            aside(&format_args!("{faults}\nflowwarden: {rest}\n"));
        }
        None => complain(&sentence),
    }
}

/// The faults of a policy among the causes of an error, one per line.
fn faults(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let agents = cause.downcast_ref().and_then(|error| match error {
            AgentError::Policy(error) => Some(error),
            _ => None,
        });
        let policy = cause.downcast_ref::<ConfigError>().or(agents);
        policy.filter(|error| matches!(error, ConfigError::Faulty { .. })).map(ToString::to_string)
    })
}

/// An error and its causes. Users other than root get a hint if access was refused.
fn sentence(error: &anyhow::Error, root: bool) -> String {
    let mut text = chain(error.as_ref());
    let denied = io::Error::from_raw_os_error(libc::EACCES).to_string();
    if !root && text.ends_with(&denied) {
        text.push_str("; root may");
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Fatal>() {
        Fatal::EXIT_CODE
    } else if is_users_fault(error) {
        2
    } else {
        1
    }
}

fn is_users_fault(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>() || matches!(error.downcast_ref(), Some(AgentError::Policy(_) | AgentError::Compile(_)))
}

/// Fails early unless the caller is root.
fn as_root(what: &str) -> anyhow::Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "{what} needs root. Try: sudo flowwarden {what}");
    Ok(())
}

/// Timeout of looking up the hosts of a policy.
const LOOKING_UP: Duration = Duration::from_secs(10);

/// This machine, with the present addresses of the hosts in ingress rules.
fn with_peers(policy: &Policy) -> System {
    let (peers, reports) = peers::look_up_all(policy, LOOKING_UP);
    for report in reports {
        if let LookupReport::Failed { name, why, .. } = report {
            let why = plain(why.as_bytes());
            complain(&format_args!("warning: {name} cannot be resolved ({why}): it matches no address"));
        }
    }
    System { peers, ..System::expected() }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_says_its_cause_once() {
        let denied = || io::Error::from_raw_os_error(libc::EACCES);
        let policy = ConfigError::Unreadable { path: "a.toml".into(), source: denied() };
        for root in [true, false] {
            let hint = if root { "" } else { "; root may" };
            for (error, text) in [
                (anyhow::Error::from(denied()).context("b: cannot be read"), "b: cannot be read: "),
                (anyhow::Error::from(ConfigError::Unreadable { path: "a.toml".into(), source: denied() }), "a.toml: "),
            ] {
                assert_eq!(sentence(&error, root), format!("{text}{}{hint}", denied()));
            }
        }
        let twice = Err::<(), _>(policy).context("it does not start").unwrap_err();
        assert_eq!(sentence(&twice, true), format!("it does not start: a.toml: {}", denied()));
        assert!(is_users_fault(&twice), "whatever is said about it");
    }
}
