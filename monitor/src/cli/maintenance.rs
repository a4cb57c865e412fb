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
    /// Says what was done in the last window that has closed: packages, settings, and how to take it back.
    Report {
        /// The last one of this instance.
        #[arg(long, value_name = "NAME")]
        instance: Option<String>,
        /// Directory of the journal.
        #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
        journal: PathBuf,
        /// The event of the journal, as it is.
        #[arg(long)]
        json: bool,
    },
    /// Makes what a window has left the good state: healed files as they are now become their good copies.
    Accept {
        /// The report's id.
        id: String,
    },
    /// Takes back what was done in a window: good copies of healed files are put back, and what takes packages back is told.
    Revert {
        /// The report's id.
        id: String,
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
    as_root("maintenance")?;
    if let Command::Report { instance, journal, json } = &arguments.command {
        return report(instance.as_ref(), journal, *json);
    }
    let ask = |request: Request| ask(&arguments.state, request);
    match arguments.command {
        Command::Open { length, instance, class } => {
            let request = Request::Open { instance, class: class.name(), seconds: length.as_secs() };
            for window in ask(request)? {
                writeln!(Output, "open: {}; what happens meanwhile is in the journal", shown(&window))?;
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
            told(&report, "is the good copy now")?;
            if report.packages.is_some() {
                writeln!(Output, "packages stay as they are; nothing keeps a copy of them")?;
            }
        }
        Command::Revert { id } => {
            let report = decision::revert(&kept(&arguments.state)?, &id)?;
            told(&report, "is as its good copy again")?;
            if let Some(command) = &report.packages {
                writeln!(
                    Output,
                    "packages are not touched: npm runs what packages say, and root is not who should run it. Type"
                )?;
                writeln!(
                    Output,
                    "  flowwarden maintenance open --for 15m --instance {}",
                    plain(report.instance.as_bytes())
                )?;
                writeln!(
                    Output,
                    "and then, as the instance's user, in {}:\n  {}",
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

/// Asks the running guard about windows.
fn ask(state: &Path, request: Request) -> anyhow::Result<Vec<Window>> {
    match control::ask(state, &control::Request::Maintenance(request)).map_err(guards::explained)? {
        Answer::Windows(windows) => Ok(windows),
        answer @ Answer::Reloaded(_) => {
            bail!("the guard has answered something else: {answer:?}; is it of another version?")
        }
    }
}

/// The state directory, which is not made for a question.
fn kept(state: &Path) -> anyhow::Result<State> {
    ensure!(
        state.is_dir(),
        "{}: no guard has kept anything here; name another directory with --state",
        state.display()
    );
    Ok(State::open(state)?)
}

fn told(report: &Kept, done: &str) -> std::io::Result<()> {
    for file in &report.files {
        writeln!(Output, "{} {done}", plain_path(&file.path))?;
    }
    if report.files.is_empty() {
        writeln!(Output, "no file that is healed was changed in that window")?;
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

/// Prints the report of the last window that has closed.
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
        bail!("{}: no window has closed yet that has a report; one that is open has none", journal.display());
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
        ("install_scripts", "asks npm to run programs when it is installed"),
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
        writeln!(Output, "ran: not known, since the guard was started in the window")?;
    }
    if event["unmapped"]["cut"] == true {
        writeln!(Output, "there are more packages than are looked at: the report is not complete")?;
    }
    for line in event["unmapped"]["settings_diff"].as_str().unwrap_or_default().lines() {
        writeln!(Output, "{}", plain(line.as_bytes()))?;
    }
    for path in event["unmapped"]["files_changed"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(Output, "not as its good copy: {}", plain(path.as_bytes()))?;
    }
    if !own("revert").is_empty() {
        let user_dir = own("user_dir");
        writeln!(
            Output,
            "to take packages back, in a new window, as the instance's user, in {user_dir}: {}",
            own("revert")
        )?;
    }
    let id = own("report_id");
    if !id.is_empty() {
        writeln!(
            Output,
            "to keep all this: flowwarden maintenance accept {id}; to take it back: flowwarden maintenance revert {id}"
        )?;
    }
    Ok(())
}
