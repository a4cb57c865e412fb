//! `flowwarden discover`

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::guards;
use anyhow::Context as _;
use clap::Args;
use journal::{
    stdio::Output,
    text::terminal::{plain, plain_path},
};
use node_red::instance::{
    self, Instance, Survey,
    flows::Flows,
    settings::{CredentialSecret, Fact, Settings},
};
use policy::host::System;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Root directory of the search.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// Search this directory as the root of a machine on which no process runs.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Place {
    pub(super) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    pub(super) fn survey(&self) -> anyhow::Result<Survey> {
        match &self.root {
            Some(root) => instance::survey_at(root).with_context(|| format!("{}: cannot be read", root.display())),
            None => Ok(instance::survey(&System::new().cgroup_mount)),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut survey = arguments.place.survey()?;
    if arguments.place.root().is_none() {
        survey.notes.extend(guards::unguarded());
    }
    if arguments.json {
        return Ok(writeln!(Output, "{}", serde_json::to_string_pretty(&survey)?)?);
    }
    for note in &survey.notes {
        writeln!(Output, "note: {}", plain(note.as_bytes()))?;
    }
    if survey.instances.is_empty() {
        writeln!(Output, "no Node-RED instance found")?;
    }
    for instance in &survey.instances {
        writeln!(Output, "{}", text(instance))?;
    }
    for installation in &survey.installations {
        let version = installation.version.as_deref().unwrap_or("unknown");
        writeln!(Output, "installed: Node-RED {} in {}", plain(version.as_bytes()), plain_path(&installation.path))?;
    }
    Ok(())
}

/// An instance as text, one fact per line.
fn text(instance: &Instance) -> String {
    let mut text = format!("{}\n", plain(instance.name.as_bytes()));
    let mut line = |key: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {key:<10} {}", plain(value.as_bytes()));
    };
    let place = [&instance.unit, &instance.container].into_iter().flatten().next();
    let place = place.map_or_else(String::new, |place| format!(" {place}"));
    let state = instance.pid.map_or_else(|| "not running".to_owned(), |pid| format!("running as process {pid}"));
    line("is", format!("{}{place}, {state}", instance.kind.name()));
    if let Some(uid) = instance.uid {
        line("user", instance.user.as_ref().map_or_else(|| format!("uid {uid}"), |user| format!("{user} (uid {uid})")));
    }
    if let Some(directory) = &instance.user_dir {
        let host = instance.host_user_dir.as_ref().filter(|host| *host != directory);
        let host = host.map_or_else(String::new, |host| format!(" (on the host: {})", host.display()));
        line("userDir", format!("{}{host}", directory.display()));
    }
    if let Some(file) = &instance.settings_file {
        line("settings", file.display().to_string());
    }
    if let Some(version) = &instance.version {
        let package = instance.package.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
        line("version", format!("Node-RED {version}{package}"));
    }
    if !instance.listens.is_empty() {
        let listens: Vec<_> = instance
            .listens
            .iter()
            .map(|listen| std::net::SocketAddr::from((listen.address, listen.port)).to_string())
            .collect();
        line("listens", listens.join(", "));
    }
    if let Some(settings) = &instance.settings {
        line("editor", editor(instance, settings));
        line("palette", palette(settings));
        let secret = match settings.credential_secret {
            CredentialSecret::Given => "encrypted with the secret of the settings",
            CredentialSecret::Generated => "encrypted with a generated secret, which is kept beside them",
            CredentialSecret::Disabled => "not encrypted",
            CredentialSecret::Unknown => "encrypted with a secret that is computed",
        };
        line("flow creds", secret.to_owned());
        for read in &settings.reads {
            let role = read.role.as_deref().unwrap_or("file");
            line("reads", format!("{} ({role} of the settings)", read.path.display()));
        }
    }
    if let Some(flows) = &instance.flows {
        declared(flows, &mut line);
    }
    for unknown in &instance.unknown {
        line("unknown", unknown.clone());
    }
    text
}

fn declared(flows: &Flows, line: &mut impl FnMut(&str, String)) {
    if let Some(file) = &flows.file {
        line("flows", format!("{}, {} nodes", file.display(), flows.nodes));
    }
    for target in &flows.targets {
        let port = target.port.map_or_else(String::new, |port| format!(" port {port}"));
        line("connects", format!("{}{port} {} ({})", target.host, target.protocol, target.node));
    }
    for file in &flows.files {
        let r#use = match file.r#use {
            instance::flows::Use::Read => "read",
            instance::flows::Use::Write => "written",
            instance::flows::Use::Watch => "watched",
            instance::flows::Use::Key => "key",
            instance::flows::Use::Certificate => "certificate",
        };
        line("file", format!("{} ({use} by {})", file.path.display(), file.node));
    }
}

fn editor(instance: &Instance, settings: &Settings) -> String {
    let said = |fact: &Fact<bool>, name: &str| match fact {
        Fact::Known(true) => name.to_owned(),
        Fact::Known(false) => format!("no {name}"),
        Fact::Unknown { .. } => format!("{name} unknown"),
    };
    let port = instance.port().map_or_else(|| "unknown".to_owned(), |port| port.to_string());
    let host = settings.ui_host.known().map_or("an unknown address", String::as_str);
    let root = if settings.admin_root.is(&false) { "; httpAdminRoot is off" } else { "" };
    format!(
        "port {port} on {host}; {}; {}; {}{root}",
        said(&settings.admin_auth, "adminAuth"),
        said(&settings.https, "https"),
        said(&settings.http_node_auth, "httpNodeAuth")
    )
}

fn palette(settings: &Settings) -> String {
    let said = |fact: &Fact<bool>, yes: &'static str, no: &'static str| match fact {
        Fact::Known(true) => yes,
        Fact::Known(false) => no,
        Fact::Unknown { .. } => "unknown",
    };
    format!(
        "editors may install: {}; flows may load modules: {}; Projects: {}",
        said(&settings.palette_install, "yes", "no"),
        said(&settings.function_modules, "yes", "no"),
        said(&settings.projects, "on", "off")
    )
}
