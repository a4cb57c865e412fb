//! `flowwarden check`

use std::{io::Write as _, path::PathBuf};

use super::{guards, with_peers};
use clap::Args;
use journal::{
    stdio::{Output, complain},
    text::terminal::{plain, plain_path},
};
use monitor::config::{self, Config, ConfigError};
use policy::{host::System, toml_reader::Located};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = &arguments.file;
    for line in guards::unguarded() {
        complain(&format_args!("warning: {line}"));
    }
    let (Config { policy, .. }, warnings) = config::read(file, &System::expected())?;
    for warning in &warnings {
        writeln!(Output, "{}", Located(file, warning).warning())?;
    }
    // As the guard will: addresses of hosts that a policy names are entries of its tables, and may be another rule's.
    let host = with_peers(&policy);
    policy::fits(&policy, &host).map_err(|fault| ConfigError::Faulty { path: file.clone(), faults: vec![fault] })?;
    for (name, addresses) in &host.peers {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        writeln!(Output, "{name} resolves to {}", addresses.join(", "))?;
    }
    for instance in &policy.instances {
        let (files, nets) = (instance.files.len(), instance.nets.len());
        writeln!(Output, "instance {}: {files} file and {nets} network rules", plain(instance.name.as_bytes()))?;
    }
    let mode = if policy.enforce { "enforce" } else { "observe" };
    writeln!(Output, "{}: valid, mode {mode}", plain_path(file))?;
    Ok(())
}
