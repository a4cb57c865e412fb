//! `flowwarden maintenance`

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use monitor::{
    maintenance::{self, MaintenanceError, Request, Window},
    state::{self, State},
};

use super::printable;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the running guard keeps its state.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY, global = true)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lets rules with this `maintenance` only log for a while. It ends by itself, also when the guard is dead by then.
    Open {
        /// How long, for example 15m; 24h at most.
        #[arg(long = "for", value_name = "TIME", value_parser = maintenance::length)]
        length: Duration,
        /// The instance; needed when the policy has several.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// What is worked on.
        #[arg(long, value_enum, default_value = "palette")]
        class: Class,
    },
    /// Closes windows before their time.
    Close {
        /// Those of one instance only.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// Those of one kind only.
        #[arg(long, value_enum)]
        class: Option<Class>,
    },
    /// Says which windows are open.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is worked on.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Class {
    /// Packages
    Palette,
    /// settings.js, and what Node-RED is started with
    Settings,
    /// Other files
    Files,
}

impl Class {
    fn name(self) -> String {
        let name = match self {
            Self::Palette => "palette",
            Self::Settings => "settings",
            Self::Files => "files",
        };
        name.to_owned()
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(MaintenanceError::NotRoot.into());
    }
    // A directory that is not there is not made for a question.
    if !arguments.state.is_dir() {
        return Err(MaintenanceError::NoGuard(arguments.state).into());
    }
    let state = State::open(&arguments.state)?;
    match arguments.command {
        Command::Open { length, instance, class } => {
            let request = Request::Open { instance, class: class.name(), seconds: length.as_secs() };
            for window in maintenance::request(&state, &request)? {
                println!("open: {}; what happens meanwhile is in the journal", shown(&window));
            }
        }
        Command::Close { instance, class } => {
            let closed = maintenance::request(&state, &Request::Close { instance, class: class.map(Class::name) })?;
            if closed.is_empty() {
                println!("no window was open");
            }
            for window in closed {
                println!("closed: {} of instance {}", window.class, printable(&window.instance));
            }
        }
        Command::Status { json } => {
            let open = maintenance::request(&state, &Request::Status)?;
            if json {
                let window = |it: &Window| {
                    serde_json::json!({ "instance": it.instance, "class": it.class, "by": it.by,
                                        "seconds_left": it.left().as_secs() })
                };
                println!("{:#}", serde_json::json!({ "open": open.iter().map(window).collect::<Vec<_>>() }));
            } else if open.is_empty() {
                println!("no window is open");
            } else {
                for window in &open {
                    println!("open: {}, by {}", shown(window), printable(&window.by));
                }
            }
        }
    }
    Ok(())
}

fn shown(window: &Window) -> String {
    // Rounded to the nearest second, since some of the first one has gone by.
    let left = Duration::from_secs((window.left() + Duration::from_millis(500)).as_secs());
    format!(
        "{} of instance {}, for {} more",
        window.class,
        printable(&window.instance),
        humantime::format_duration(left)
    )
}
