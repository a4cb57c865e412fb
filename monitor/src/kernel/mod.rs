//! The kernel side: what the running kernel supports, the kernel programs, and their maps.
//!
//! `object` loads the object, `attach` attaches its programs, `maps` exchanges data with them, `install` writes the
//! policy. [`security`] finds the best flavour of each security hook.

pub mod abi;
mod attach;
pub mod btf;
pub mod census;
pub mod enforcer;
pub mod error;
pub mod inbound;
mod inherit;
mod install;
mod link;
mod maps;
mod object;
pub mod pin;
mod programs;
pub mod rights;
pub mod security;
pub mod table;
#[cfg(feature = "trace")]
mod trace;
mod watches;

use std::{path::PathBuf, time::Duration};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, ProgramArray},
    programs::ProgramInfo,
};
use monitor_common::{hooks::Deniable, policy::CONTROL_CGROUP, scope::TaskLabel};
use policy::host::CanDeny;

use self::{
    error::{KernelError, Result},
    install::{Epochs, Watched},
    link::Links,
    object::Opened,
    pin::{Begun, Generation, PinError},
    security::Served,
};

/// A hook that this kernel does not support.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// The hook or system call.
    pub hook: String,
    /// The reason as text.
    pub why: String,
}

/// A loaded program and the cost of loading it.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its name in the object.
    pub name: &'a str,
    /// Instructions that the verifier processed; 0 on kernels before 5.16, which do not report it.
    pub verified: u32,
    /// Time to verify and compile it.
    pub took: Duration,
}

/// The programs and maps in the kernel. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    links: Links,
    tasks: HashMap<MapData, u32, TaskLabel>,
    /// The programs are reachable by tail call while this map is open.
    handlers: ProgramArray<MapData>,
    watched: Watched,
    epochs: Epochs,
    flags: u32,
    /// The tracepoint of `io_uring` requests.
    uring: Option<&'static str>,
    degraded: Vec<Degraded>,
    served: Served,
    /// Peers can be refused.
    refuses_peers: bool,
    /// Attaching the programs that count outgoing bytes was tried.
    volume_tried: bool,
    /// Where links are pinned, once they are.
    pinned: Option<PathBuf>,
    /// Log lines, until they are drained.
    #[cfg(feature = "trace")]
    trace: Option<trace::Logger>,
}

impl Kernel {
    /// Loads the object: its maps, and the program that identifies files. Loads no other program and attaches none. Maps that
    /// the next run takes over are pinned in `pins`.
    pub fn load(pins: Option<&Begun>) -> Result<Self> {
        let Opened { mut ebpf, uring, lacking } = object::open()?;
        let degraded: Vec<_> = lacking
            .into_iter()
            .map(|field| Degraded { hook: field.clone(), why: format!("this kernel has no {field}") })
            .collect();
        let mut links = Links::default();
        object::load(&mut ebpf, &mut links, programs::IDENTIFY)?;
        if let Some(directory) = pins.map(Begun::maps) {
            for &name in pin::MAPS.iter().chain(&inherit::MAPS) {
                let map = ebpf.map(name).ok_or(KernelError::Absent(name))?;
                map.pin(directory.join(name))
                    .map_err(|source| PinError::Refused { path: directory.clone(), source })?;
            }
        }
        #[cfg(feature = "trace")]
        let trace = Some(trace::open(&mut ebpf)?);
        let handlers = maps::take(&mut ebpf, "HANDLERS")?;
        let tasks = maps::take(&mut ebpf, "TASKS")?;
        Ok(Self {
            ebpf,
            links,
            tasks,
            handlers,
            watched: Watched::default(),
            epochs: Epochs::default(),
            flags: 0,
            uring,
            degraded,
            served: Served::default(),
            refuses_peers: false,
            volume_tried: false,
            pinned: None,
            #[cfg(feature = "trace")]
            trace,
        })
    }

    /// Prints the log lines of the programs from now on. Needs a runtime.
    #[cfg(feature = "trace")]
    pub fn drain_trace(&mut self) -> Result<()> {
        self.trace.take().map_or(Ok(()), trace::drain)
    }

    /// The loaded programs.
    #[must_use]
    pub fn programs(&self) -> Vec<Program<'_>> {
        let loaded = self.ebpf.programs().filter_map(|(name, program)| Some((name, program.info().ok()?)));
        let cost = |(name, info): (_, ProgramInfo)| {
            let verified = info.verified_instruction_count().unwrap_or(0);
            Program { name, verified, took: self.links.took(name) }
        };
        loaded.map(cost).collect()
    }

    /// Which sensor serves which security hook.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Hooks that this kernel does not support.
    #[must_use]
    pub fn degraded(&self) -> &[Degraded] {
        &self.degraded
    }

    /// Starts epochs after the last one of an earlier run.
    pub fn begin_after(&mut self, epoch: u32) {
        self.epochs.begin_after(epoch);
    }

    /// Copies what the programs of an earlier run have learnt since the last call.
    pub fn inherit(&mut self, earlier: &Generation) -> Result<()> {
        inherit::carry(&mut self.ebpf, earlier)
    }

    /// Records a hook that does not run.
    pub fn degrade(&mut self, hook: &str, why: String) {
        self.degraded.push(Degraded { hook: hook.to_owned(), why });
    }

    /// The verdicts that the sensors can carry out here.
    #[must_use]
    pub fn can_deny(&self) -> CanDeny {
        CanDeny {
            files: self.served.can_deny(Deniable::Files),
            network: self.can_deny_network(),
            inbound: self.refuses_peers,
            exec: self.served.can_deny(Deniable::Exec),
            system: self.served.can_deny(Deniable::System),
        }
    }

    /// Whether traffic can be refused.
    #[must_use]
    pub fn can_deny_network(&self) -> bool {
        self.flags & CONTROL_CGROUP != 0
    }

    /// The epoch of the next policy.
    #[must_use]
    pub fn next_epoch(&self) -> u32 {
        self.epochs.next()
    }

    /// The epoch of the policy in force.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epochs.current()
    }
}
