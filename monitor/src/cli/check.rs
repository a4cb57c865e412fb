//! `flowwarden check`

use std::path::PathBuf;

use clap::Args;
use monitor::policy::{self, Located, host::System};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The policy.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (policy, warnings) = policy::read(&arguments.file, &System::expected())?;
    for warning in &warnings {
        println!("warning: {}", Located(&arguments.file, warning));
    }
    for instance in &policy.instances {
        println!("instance {}: {} file and {} network rules", instance.name, instance.files.len(), instance.nets.len());
    }
    println!("{}: good, mode {}", arguments.file.display(), if policy.enforce { "enforce" } else { "observe" });
    Ok(())
}
