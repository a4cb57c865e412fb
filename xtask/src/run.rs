//! `cargo xtask run`: Flowwarden, built from this checkout, on the Node-RED instances of this machine.

use anyhow::Result;
use clap::Args;

use crate::{build, cargo, setup, shell};

/// What `cargo xtask run` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Flags for `flowwarden run`, after `--`
    #[arg(last = true)]
    flags: Vec<String>,
}

/// `cargo xtask run`.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::build(&setup::kernel_toolchain()?)?;
    let arguments: Vec<_> = ["run"].into_iter().chain(options.flags.iter().map(String::as_str)).collect();
    shell::become_root("Flowwarden", &cargo::flowwarden(), &arguments)
}
