//! `flowwarden accept` and `flowwarden restore`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use clap::Args;
use journal::{
    state::{self, State},
    stdio::Output,
    text::terminal::plain_path,
};
use monitor::heal::{self, StoreError};

use super::as_root;

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
    let done = |place: &Path| match place.symlink_metadata() {
        Ok(_) => "is the good copy now",
        Err(_) => "is gone, and no good copy of it is kept any more",
    };
    each("accept", arguments, done, heal::accept)
}

/// Puts the good copies of files back.
pub(super) fn restore(arguments: &Arguments) -> anyhow::Result<()> {
    each("restore", arguments, |_| "is as its good copy again", heal::restore)
}

fn each(
    what: &str,
    arguments: &Arguments,
    done: fn(&Path) -> &'static str,
    act: fn(&State, &Path) -> Result<Vec<PathBuf>, StoreError>,
) -> anyhow::Result<()> {
    as_root(what)?;
    // A directory that is not there is not made for a question.
    ensure!(
        arguments.state.is_dir(),
        "{}: no guard has kept its state here; name another with --state",
        arguments.state.display()
    );
    let state = State::open(&arguments.state)?;
    for file in &arguments.files {
        for place in act(&state, file)? {
            writeln!(Output, "{} {}", plain_path(&place), done(&place))?;
        }
    }
    Ok(())
}
