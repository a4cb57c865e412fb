//! `flowwarden maintenance`

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    as_root, guards,
    journal::{DIRECTORY, look},
};
use anyhow::{bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use journal::{
    format::rfc3339_seconds,
    query::{Filter, Query},
    state::{self, State},
    stdio::Output,
    text::terminal::{plain, plain_path},
};
use monitor::{
    control::{self, Answer},
    maintenance::{
        self, Request, Window,
        decision::{self, Kept},
    },
};
use serde_json::Value;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// State directory of the running guard.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY, global = true)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open a window: rules with this `maintenance` only log until it closes. The kernel closes it, also without the guard
    Open {
        /// Duration, for example 15m; 24h at most.
        #[arg(long = "for", value_name = "TIME", value_parser = maintenance::length)]
        length: Duration,
        /// Instance; required if the policy has several.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// Kind of work.
        #[arg(long, value_enum, default_value = "palette")]
        class: Class,
    },
    /// Close windows before their time
    Close {
        /// Close windows of this instance only.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// Close windows of this kind only.
        #[arg(long, value_enum)]
        class: Option<Class>,
    },
    /// Report what changed in the last closed window, and how to revert it
    Report {
        /// Report the last window of this instance.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// Directory of the journal.
        #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
        journal: PathBuf,
        /// Print the journal's event as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Accept the changes of a window: healed files as they are now become baselines
    Accept {
        /// Report id.
        id: String,
    },
    /// Revert the changes of a window: restore healed files, and print the npm commands that revert packages
    Revert {
        /// Report id.
        id: String,
    },
    /// List open windows
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Kind of work.
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
    as_root("maintenance")?;
    if let Command::Report { instance, journal, json } = &arguments.command {
        return report(instance.as_ref(), journal, *json);
    }
    let ask = |request: Request| ask(&arguments.state, request);
    match arguments.command {
        Command::Open { length, instance, class } => {
            let request = Request::Open { instance, class: class.name(), seconds: length.as_secs() };
            for window in ask(request)? {
                writeln!(Output, "open: {}; operations in the window are logged", shown(&window))?;
            }
        }
        Command::Close { instance, class } => {
            let closed = ask(Request::Close { instance, class: class.map(Class::name) })?;
            if closed.is_empty() {
                writeln!(Output, "no window was open")?;
            }
            for window in closed {
                writeln!(Output, "closed: {} of instance {}", window.class, plain(window.instance.as_bytes()))?;
            }
        }
        Command::Report { .. } => {}
        Command::Accept { id } => {
            let report = decision::accept(&kept(&arguments.state)?, &id)?;
            print_files(&report, "is the baseline now")?;
            if report.packages.is_some() {
                writeln!(Output, "packages are unchanged; the guard keeps no copies of packages")?;
            }
        }
        Command::Revert { id } => {
            let report = decision::revert(&kept(&arguments.state)?, &id)?;
            print_files(&report, "matches its baseline again")?;
            if let Some(command) = &report.packages {
                writeln!(
                    Output,
                    "packages are not changed, since npm runs their scripts and must not run as root. Run"
                )?;
                writeln!(
                    Output,
                    "  flowwarden maintenance open --for 15m --instance {}",
                    plain(report.instance.as_bytes())
                )?;
                writeln!(
                    Output,
                    "then, as the instance's user, in {}:\n  {}",
                    plain_path(&report.user_dir),
                    plain(command.as_bytes())
                )?;
            }
        }
        Command::Status { json } => {
            let open = ask(Request::Status)?;
            if json {
                let window = |it: &Window| {
                    serde_json::json!({ "instance": it.instance, "class": it.class, "by": it.by,
                                        "seconds_left": it.left().as_secs() })
                };
                writeln!(Output, "{:#}", serde_json::json!({ "open": open.iter().map(window).collect::<Vec<_>>() }))?;
            } else if open.is_empty() {
                writeln!(Output, "no window is open")?;
            } else {
                for window in &open {
                    writeln!(Output, "open: {}, by {}", shown(window), plain(window.by.as_bytes()))?;
                }
            }
        }
    }
    Ok(())
}

/// Sends a request about windows to the running guard.
fn ask(state: &Path, request: Request) -> anyhow::Result<Vec<Window>> {
    match control::ask(state, &control::Request::Maintenance(request)).map_err(guards::explained)? {
        Answer::Windows(windows) => Ok(windows),
        answer @ Answer::Reloaded(_) => {
            bail!("unexpected answer of the guard: {answer:?}; check that its version is the same")
        }
    }
}

/// The state directory, which has to exist.
fn kept(state: &Path) -> anyhow::Result<State> {
    ensure!(state.is_dir(), "{}: no guard uses this state directory; pass another with --state", state.display());
    Ok(State::open(state)?)
}

fn print_files(report: &Kept, done: &str) -> std::io::Result<()> {
    for file in &report.files {
        writeln!(Output, "{} {done}", plain_path(&file.path))?;
    }
    if report.files.is_empty() {
        writeln!(Output, "no healed file was changed in that window")?;
    }
    Ok(())
}

fn shown(window: &Window) -> String {
    // Rounded to the nearest second, since some of the first one has gone by.
    let left = Duration::from_secs((window.left() + Duration::from_millis(500)).as_secs());
    format!(
        "{} of instance {}, for {} more",
        window.class,
        plain(window.instance.as_bytes()),
        humantime::format_duration(left)
    )
}

/// Prints the report of the last closed window.
fn report(instance: Option<&String>, journal: &Path, json: bool) -> anyhow::Result<()> {
    look(journal)?;
    let filter = Filter { instances: instance.into_iter().cloned().collect(), ..Filter::default() };
    let mut query = Query::new(journal, filter)?;
    let mut last = None;
    while let Some((_, event)) = query.next_event()? {
        if event["activity_name"] == "Close" && event["unmapped"]["report"].is_string() {
            last = Some(event);
        }
    }
    let Some(event) = last else {
        bail!("{}: no closed window with a report; an open window has none", journal.display());
    };
    if json {
        return Ok(writeln!(Output, "{event}")?);
    }
    let own = |key: &str| plain(event["unmapped"][key].as_str().unwrap_or_default().as_bytes());
    let time = rfc3339_seconds(event["time"].as_i64().unwrap_or_default());
    writeln!(Output, "{time}  {}", plain(event["message"].as_str().unwrap_or_default().as_bytes()))?;
    writeln!(Output, "opened by: {}", own("opened_by"))?;
    for (key, what) in [
        ("packages_added", "added"),
        ("packages_removed", "removed"),
        ("packages_updated", "updated"),
        ("install_scripts", "has install scripts"),
    ] {
        for package in event["unmapped"][key].as_array().into_iter().flatten().filter_map(Value::as_str) {
            writeln!(Output, "{what}: {}", plain(package.as_bytes()))?;
        }
    }
    for line in event["unmapped"]["programs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(Output, "ran: {}", plain(line.as_bytes()))?;
    }
    if let Some(more) = event["unmapped"]["programs_more"].as_u64() {
        writeln!(Output, "ran: {more} more")?;
    }
    if event["unmapped"]["programs_unknown"] == true {
        writeln!(Output, "ran: unknown, since the guard was started during the window")?;
    }
    if event["unmapped"]["cut"] == true {
        writeln!(Output, "too many packages: the report is incomplete")?;
    }
    for line in event["unmapped"]["settings_diff"].as_str().unwrap_or_default().lines() {
        writeln!(Output, "{}", plain(line.as_bytes()))?;
    }
    for path in event["unmapped"]["files_changed"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(Output, "differs from its baseline: {}", plain(path.as_bytes()))?;
    }
    if !own("revert").is_empty() {
        let user_dir = own("user_dir");
        writeln!(
            Output,
            "to revert packages, in a new window, as the instance's user, in {user_dir}: {}",
            own("revert")
        )?;
    }
    let id = own("report_id");
    if !id.is_empty() {
        writeln!(
            Output,
            "to accept: flowwarden maintenance accept {id}; to revert: flowwarden maintenance revert {id}"
        )?;
    }
    Ok(())
}
