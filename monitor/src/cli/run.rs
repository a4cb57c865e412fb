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
use tokio_util::sync::CancellationToken;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Policy file [default: the embedded policy, for each running Node-RED].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the journal. Created with access for root only.
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    journal: PathBuf,
    /// Enforce verdicts, whatever the mode of the policy.
    #[arg(long, conflicts_with = "observe")]
    enforce: bool,
    /// Log only, whatever the mode of the policy.
    #[arg(long)]
    observe: bool,
    /// cgroup v2 directory whose traffic is judged [default: the root].
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Sensors to use beside the cgroup programs. Each hook uses the best that works on this kernel.
    #[arg(long, value_name = "SENSOR,...", value_delimiter = ',', default_value = "lsm,fentry,kprobe,tracepoint")]
    sensors: Vec<Choice>,
    /// Pin the kernel programs in this directory of a BPF file system, so that they enforce also when the guard is stopped or
    /// killed. The next run takes over without a gap; `flowwarden detach` detaches them. The default under systemd.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = pin::DIRECTORY)]
    pin: Option<PathBuf>,
    /// Detach everything when the guard stops, also under systemd.
    #[arg(long, conflicts_with = "pin")]
    no_pin: bool,
    /// State directory. Created with access for root only.
    #[arg(long, value_name = "DIR", default_value = state::DIRECTORY)]
    state: PathBuf,
}

/// Sensor as named on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// BPF LSM programs: log, deny and kill
    Lsm,
    /// fentry programs on the security hooks: log and kill
    Fentry,
    /// kprobes on the security hooks: log and kill
    Kprobe,
    /// Tracepoints of system calls, where no other sensor serves; always available
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
    runtime.block_on(agent.run(events, CancellationToken::new()))?;
    Ok(())
}

/// Whether systemd started this process itself, not a process of the service.
fn is_service() -> bool {
    std::env::var_os("INVOCATION_ID").is_some() && rustix::process::getppid().is_some_and(rustix::process::Pid::is_init)
}
