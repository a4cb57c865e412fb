//! Flowwarden's own commands: `cargo xtask COMMAND`.

mod bench;
mod build;
mod cargo;
mod cross;
mod demo;
mod fresh;
mod links;
mod paint;
mod progress;
mod run;
mod setup;
mod shell;
mod signals;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, shows and tests Flowwarden.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing to build Flowwarden.
    Setup(setup::Options),
    /// Build the eBPF object and the `flowwarden` binary around it.
    Build(build::Options),
    /// Set up, build, and start Flowwarden as root on the Node-RED instances of this machine.
    Run(run::Options),
    /// Play six attacks on a throw-away Node-RED under guard.
    Demo(demo::Options),
    /// Run every check and test from a clean clone; `--quick` those that take minutes.
    Test(test::Options),
    /// Run the kernel tests inside other kernels, under QEMU.
    Vm(vm::Options),
    /// Take figures here and inside other kernels, and write docs/explanation/benchmarks.md; as root.
    Bench,
    /// Run the demo and the tests in a bare root of Debian, as before a release; as root.
    Fresh(fresh::Options),
    /// Check licences and advisories of the dependencies; needs the network, so `test` leaves it out.
    Deny,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Run(options) => run::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Bench => bench::run(),
        Command::Fresh(options) => fresh::run(&options),
        Command::Deny => test::deny(),
    };
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
