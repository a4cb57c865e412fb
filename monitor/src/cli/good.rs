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
    /// Files of rules with `heal = true`.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// State directory of the guard.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY)]
    state: PathBuf,
}

/// Makes the present content of files their baselines.
pub(super) fn accept(arguments: &Arguments) -> anyhow::Result<()> {
    let done = |place: &Path| match place.symlink_metadata() {
        Ok(_) => "is the baseline now",
        Err(_) => "is missing; its baseline was dropped",
    };
    each("accept", arguments, done, heal::accept)
}

/// Restores files from their baselines.
pub(super) fn restore(arguments: &Arguments) -> anyhow::Result<()> {
    each("restore", arguments, |_| "matches its baseline again", heal::restore)
}

fn each(
    what: &str,
    arguments: &Arguments,
    done: fn(&Path) -> &'static str,
    act: fn(&State, &Path) -> Result<Vec<PathBuf>, StoreError>,
) -> anyhow::Result<()> {
    as_root(what)?;
    // A mistyped directory must not be created.
    ensure!(
        arguments.state.is_dir(),
        "{}: no guard uses this state directory; pass another with --state",
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
