//! `flowwarden accept` and `flowwarden restore`

use std::path::{Path, PathBuf};

use clap::Args;
use monitor::{
    heal::{self, StoreError},
    state::{self, State},
};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Files under a rule with `heal = true`.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where the guard keeps its state.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY)]
    state: PathBuf,
}

/// Makes files as they are now their good copies.
pub(super) fn accept(arguments: &Arguments) -> anyhow::Result<()> {
    each(arguments, "is the good copy now", heal::accept)
}

/// Puts the good copies of files back.
pub(super) fn restore(arguments: &Arguments) -> anyhow::Result<()> {
    each(arguments, "is as its good copy again", heal::restore)
}

fn each(
    arguments: &Arguments,
    done: &str,
    act: fn(&State, &Path) -> Result<Vec<PathBuf>, StoreError>,
) -> anyhow::Result<()> {
    let state = State::open(&arguments.state)?;
    for file in &arguments.files {
        for place in act(&state, file)? {
            println!("{} {done}", place.display());
        }
    }
    Ok(())
}
