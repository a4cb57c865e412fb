//! `flowwarden detach`

use std::path::PathBuf;

use clap::Args;
use monitor::kernel::pin::{DIRECTORY, Pins};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where the guard has pinned its programs.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pin: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = arguments.pin.display();
    if !arguments.pin.exists() {
        println!("{path}: nothing is pinned here");
        return Ok(());
    }
    match Pins::open(&arguments.pin)?.remove()? {
        0 => println!("{path}: nothing was pinned here"),
        count => println!("{path}: the programs of {count} run(s) are detached; nothing is judged any more"),
    }
    Ok(())
}
