//! `flowwarden detach`

use std::{io::Write as _, path::PathBuf};

use clap::Args;
use monitor::{
    kernel::pin::{DIRECTORY, Pins},
    stdio::Output,
};

use super::as_root;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where the guard has pinned its programs.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pin: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Whoever may not look there would find nothing.
    as_root("detach")?;
    let path = arguments.pin.display();
    if !arguments.pin.exists() {
        writeln!(Output, "{path}: nothing is pinned here")?;
        return Ok(());
    }
    match Pins::open(&arguments.pin)?.remove()? {
        0 => writeln!(Output, "{path}: nothing was pinned here")?,
        count => writeln!(Output, "{path}: the programs of {count} run(s) are detached; nothing is judged any more")?,
    }
    Ok(())
}
