//! `flowwarden run`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use journal::state;
use monitor::{
    agent::{Agent, Options},
    kernel::pin,
};
use monitor_common::verdict::Sensor;

use super::journal::DIRECTORY;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The policy; without it the embedded policy is used for every Node-RED that runs.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the journal; made when it is not there, readable by root only.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
    /// Carry verdicts out, whatever the policy's mode.
    #[arg(long, conflicts_with = "observe")]
    enforce: bool,
    /// Only log, whatever the policy's mode.
    #[arg(long)]
    observe: bool,
    /// Directory in cgroup v2 below which traffic is judged [default: the whole machine].
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Sensors that may be used beside the cgroup programs; each hook takes the best of them that runs here.
    #[arg(long, value_name = "SENSOR,...", value_delimiter = ',', default_value = "lsm,fentry,kprobe,tracepoint")]
    sensors: Vec<Choice>,
    /// Keep the kernel programs where they are when the guard ends or is killed, by pins in this directory of a BPF file
    /// system; the next run takes over without a gap, and `flowwarden detach` ends it. The default under systemd.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = pin::DIRECTORY)]
    pin: Option<PathBuf>,
    /// Detach everything when the guard ends, also under systemd.
    #[arg(long, conflicts_with = "pin")]
    no_pin: bool,
    /// Directory of what is kept from one run to the next; made when it is not there, closed to others.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY)]
    state: PathBuf,
}

/// A sensor by its name on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// BPF LSM programs: refuse and kill
    Lsm,
    /// fentry programs on the security hooks: log and kill
    Fentry,
    /// kprobes on the security hooks: log and kill
    Kprobe,
    /// System calls, for what no other sensor serves; always there
    Tracepoint,
}

impl Choice {
    fn sensor(self) -> Sensor {
        match self {
            Self::Lsm => Sensor::Lsm,
            Self::Fentry => Sensor::Fentry,
            Self::Kprobe => Sensor::Kprobe,
            Self::Tracepoint => Sensor::Tracepoint,
        }
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let enforce = match (arguments.enforce, arguments.observe) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let options = Options {
        config: arguments.config,
        journal: arguments.journal,
        state: arguments.state,
        pin: arguments.pin.or_else(|| (!arguments.no_pin && is_service()).then(|| pin::DIRECTORY.into())),
        enforce,
        cgroup_root: arguments.cgroup_root,
        sensors: arguments.sensors.into_iter().map(Choice::sensor).collect(),
        quiet: false,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be started")?;
    let _runtime = runtime.enter();
    let (agent, events) = Agent::start(options)?;
    runtime.block_on(agent.run(events))?;
    Ok(())
}

/// Whether systemd has started this process itself, and not somebody whom it has started.
fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some() && rustix::process::getppid().is_some_and(rustix::process::Pid::is_init)
}
