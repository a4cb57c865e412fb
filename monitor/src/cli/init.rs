//! `flowwarden init`

use std::{
    fs::{self, DirBuilder},
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use journal::{
    stdio::{Output, aside},
    text::terminal::{plain, plain_path},
};
use monitor::config;
use node_red::instance::init;
use policy::{host::System, preset::Preset, toml_reader::Located};

use super::discover::Place;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Preset: how much the policy denies.
    #[arg(long, value_enum, default_value = "home")]
    preset: Choice,
    /// Write the policy to this file, readable by its owner only [default: print it].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the file.
    #[arg(long, requires = "output")]
    force: bool,
    /// Write mode = "enforce" instead of "observe".
    #[arg(long)]
    enforce: bool,
    #[command(flatten)]
    place: Place,
}

/// Preset as named on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// Deny what no flow needs
    Home,
    /// Deny gaining privileges and programs, too
    Standard,
    /// Isolate instances; close the palette; allow declared addresses only
    MultiTenant,
    /// Close the host's files and programs, too
    Strict,
}

impl Choice {
    fn preset(self) -> Preset {
        match self {
            Self::Home => Preset::Home,
            Self::Standard => Preset::Standard,
            Self::MultiTenant => Preset::MultiTenant,
            Self::Strict => Preset::Strict,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let survey = arguments.place.survey()?;
    for note in &survey.notes {
        aside(&format_args!("note: {}\n", plain(note.as_bytes())));
    }
    let (text, left_out) = init::text(&survey, arguments.preset.preset(), arguments.enforce)?;
    for line in &left_out {
        aside(&format_args!("left out: {}\n", plain(line.as_bytes())));
    }
    let Some(file) = &arguments.output else {
        return Ok(write!(Output, "{text}")?);
    };
    write(file, &text, arguments.force)?;
    writeln!(Output, "{}: written; review it, then run: flowwarden run --config {0}", plain_path(file))?;
    // What stands there now is what a guard would read.
    let (_, warnings) = config::read(file, &System::expected())?;
    for warning in &warnings {
        writeln!(Output, "{}", Located(file, warning).warning())?;
    }
    Ok(())
}

/// Writes the file as a whole or not at all, with mode 0600. Creates its directory.
pub(super) fn write(file: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let failed = || format!("{}: cannot be written", file.display());
    let directory = match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(failed)?;
    let mut new = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).with_context(failed)?;
    if force {
        new.persist(file).with_context(failed)?;
    } else if let Err(error) = new.persist_noclobber(file) {
        if error.error.kind() == std::io::ErrorKind::AlreadyExists {
            bail!("{}: already exists; --force overwrites it", file.display());
        }
        return Err(error.error).with_context(failed);
    }
    fs::File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)
}
