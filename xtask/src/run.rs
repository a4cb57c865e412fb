//! `cargo xtask run`: Flowwarden, built from this checkout, on the Node-RED instances of this machine.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};
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
    let flowwarden = cargo::flowwarden();
    let mut command = if shell::is_root() {
        Command::new(&flowwarden)
    } else if shell::find("sudo").is_some() {
        println!("Flowwarden runs as root: starting it with sudo");
        let mut sudo = Command::new("sudo");
        sudo.arg(&flowwarden);
        sudo
    } else {
        bail!("Flowwarden runs as root; as root, type:\n    {} run {}", flowwarden.display(), options.flags.join(" "));
    };
    // From here on the terminal, its signals and the exit code are Flowwarden's.
    let error = command.arg("run").args(&options.flags).exec();
    Err(error).with_context(|| format!("{} cannot be started", flowwarden.display()))
}
