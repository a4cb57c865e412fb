//! The command line: one file for each subcommand.
//!
//! Exit codes: 0 done, 1 something failed, 2 the command line or the policy is wrong; and of `audit` 3 when a check warns,
//! 4 when one fails. `journal verify` has more.

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
    kernel::load::chain,
};
use policy::{
    host::System,
    model::Policy,
    peers::{self, Told},
};

/// Watches and restrains Node-RED from outside.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 1 something failed, 2 the command line or the policy is wrong.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guards the Node-RED instances of this machine (as root).
    Run(run::Arguments),
    /// Says how the instances stand against the seven rules, and what to do; sees most as root.
    Audit(audit::Arguments),
    /// Checks a policy file, and looks up the hosts that it names in `from`; needs no privilege.
    Check(check::Arguments),
    /// Lists the Node-RED instances of this machine, and what is known of each; sees most as root.
    Discover(discover::Arguments),
    /// Says what this machine's kernel can do for you.
    Doctor(doctor::Arguments),
    /// Says in plain words what an event or a rule is, and what to do about it.
    Explain(explain::Arguments),
    /// Writes the least policy for what the instances do: watches them for a while, or reads a journal.
    Learn(learn::Arguments),
    /// Makes protected files as they are now the good copies that are put back after an attack (as root).
    Accept(good::Arguments),
    /// Puts the good copies of protected files back (as root).
    Restore(good::Arguments),
    /// Ends what a guard that was started with --pin has left in the kernel (as root).
    Detach(detach::Arguments),
    /// Writes a policy for the instances that are found; read it before you use it.
    Init(init::Arguments),
    /// Opens and closes windows in which rules only log, so that an administrator can work (as root).
    Maintenance(maintenance::Arguments),
    /// Have the running guard read its policy again; wait, and print what came of it (as root).
    Reload(reload::Arguments),
    /// Reads, checks and converts the journal.
    Journal(journal::Arguments),
    /// Says what another policy would have done about what is in the journal; changes nothing.
    Simulate(simulate::Arguments),
    /// Tests the receivers of events, and says how they fare.
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

/// Reports an error. The faults of a policy are a line each, with nothing before them, so that an editor can jump to each.
fn report(error: &anyhow::Error) {
    let sentence = sentence(error, rustix::process::geteuid().is_root());
    match faults(error) {
        Some(faults) if sentence == faults => aside(&format_args!("{faults}\n")),
        // What else is said about them comes after them.
        Some(faults) => {
            let rest = sentence.replace(&faults, "the policy is faulty");
            aside(&format_args!("{faults}\nflowwarden: {rest}\n"));
        }
        None => complain(&sentence),
    }
}

/// The faults of a policy among the causes of an error, a line each.
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

/// An error and its causes, with what everybody but root may have to be told.
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

/// What only root can do, said before it is tried.
fn as_root(what: &str) -> anyhow::Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "{what} needs root. Try: sudo flowwarden {what}");
    Ok(())
}

/// How long whoever tries a policy waits for the addresses of the hosts that it names.
const LOOKING_UP: Duration = Duration::from_secs(10);

/// This machine, with the hosts that ingress rules name at the addresses that they have now.
fn with_peers(policy: &Policy) -> System {
    let (peers, told) = peers::look_up_all(policy, LOOKING_UP);
    for told in told {
        if let Told::Failed { name, why, .. } = told {
            let why = plain(why.as_bytes());
            complain(&format_args!("warning: {name} cannot be looked up ({why}): it stands for no address"));
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
            let mend = if root { "" } else { "; root may" };
            for (error, text) in [
                (anyhow::Error::from(denied()).context("b: cannot be read"), "b: cannot be read: "),
                (anyhow::Error::from(ConfigError::Unreadable { path: "a.toml".into(), source: denied() }), "a.toml: "),
            ] {
                assert_eq!(sentence(&error, root), format!("{text}{}{mend}", denied()));
            }
        }
        let twice = Err::<(), _>(policy).context("it does not start").unwrap_err();
        assert_eq!(sentence(&twice, true), format!("it does not start: a.toml: {}", denied()));
        assert!(is_users_fault(&twice), "whatever is said about it");
    }
}
