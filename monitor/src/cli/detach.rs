//! `flowwarden detach`

use std::{io::Write as _, path::PathBuf};

use anyhow::bail;
use clap::Args;
use journal::stdio::Output;
use monitor::kernel::pin::{DIRECTORY, PinError, Pins};

use super::{as_root, guards};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Directory in a BPF file system with the guard's pins.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pin: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // A user without access would see an empty directory.
    as_root("detach")?;
    let path = arguments.pin.display();
    let count = match arguments.pin.exists().then(|| Pins::open(&arguments.pin)).transpose() {
        Ok(pins) => pins.map(Pins::remove).transpose()?.unwrap_or_default(),
        Err(error @ PinError::NoBpfFs(_)) => return Err(guards::with_unguarded(error)),
        Err(error) => return Err(error.into()),
    };
    // Programs that were detached a moment ago may still be on their way out; those that are pinned are not.
    let all: Vec<_> = guards::all().into_iter().filter(|it| count == 0 || it.guarded || it.pins.is_some()).collect();
    let unguarded: Vec<_> = all.iter().filter(|it| !it.guarded).map(|it| format!("\n{it}")).collect();
    if count == 0 && !unguarded.is_empty() {
        bail!("{path}: no programs are pinned here, but elsewhere:{}", unguarded.concat());
    }
    match count {
        0 => writeln!(Output, "{path}: no programs are pinned here")?,
        count => writeln!(Output, "{path}: detached the programs of {count} run(s)")?,
    }
    if count > 0 && all.is_empty() {
        writeln!(Output, "no program enforces now")?;
    }
    for found in &all {
        writeln!(Output, "{found}")?;
    }
    Ok(())
}
