//! Maps: what the programs report, and what they are given about processes, sockets and windows.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{RawTracePointRunOptions, TestRun as _},
};
use monitor_common::{
    dns::Rate,
    event::Counters,
    inbound::Owner,
    policy::{Control, Identity, InodeId, Maintenance},
    scope::TaskLabel,
};
use rustix::fs::{Mode, OFlags};

use super::{
    Kernel,
    error::{KernelError, Result},
    object::raw_tracepoint,
    programs::IDENTIFY,
};

impl Kernel {
    /// Writes the one word that makes a policy the policy.
    pub(super) fn control(&mut self, epoch: u32, selectors: u32) -> Result<()> {
        let control = Control { epoch, selectors, flags: self.flags, guard: std::process::id() };
        let mut map: Array<_, Control> = open(&mut self.ebpf, "CONTROL")?;
        map.set(0, control, 0).map_err(|source| KernelError::Map { name: "CONTROL", source })
    }

    /// The ring buffer; once.
    pub fn events(&mut self) -> Result<RingBuf<MapData>> {
        take(&mut self.ebpf, "EVENTS")
    }

    /// Asks the kernel for the identity of a file. `None` when it does not exist. Does not follow a symbolic link.
    pub fn identify(&mut self, path: &Path) -> Result<Option<InodeId>> {
        Ok(self.look(path)?.map(|(_, identity)| identity.id))
    }

    /// Opens a file, without any access to it, and asks the kernel what it is.
    pub(super) fn look(&mut self, path: &Path) -> Result<Option<(File, Identity)>> {
        let file = match rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(KernelError::Identify { path: path.to_owned(), source: errno.into() }),
        };
        let program = raw_tracepoint(&mut self.ebpf, IDENTIFY)?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = u64::from(file.as_fd().as_raw_fd().unsigned_abs());
        program.test_run(options).map_err(|source| KernelError::Program { name: IDENTIFY, source })?;
        let map: Array<_, Identity> = open(&mut self.ebpf, "IDENTITY")?;
        let identity = map.get(&0, 0).map_err(|source| KernelError::Map { name: "IDENTITY", source })?;
        Ok((identity.id != InodeId::default()).then_some((file, identity)))
    }

    /// Notes whose a socket is that was bound before the programs came.
    pub fn own_socket(&mut self, cookie: u64, owner: Owner) -> Result<()> {
        let mut map: HashMap<_, u64, Owner> = open(&mut self.ebpf, "OWNERS")?;
        map.insert(cookie, owner, 0).map_err(|source| KernelError::Map { name: "OWNERS", source })
    }

    /// Marks a process as belonging to an instance.
    pub fn label(&mut self, tgid: u32, label: TaskLabel) -> Result<()> {
        self.tasks.insert(tgid, label, 0).map_err(|source| KernelError::Map { name: "TASKS", source })
    }

    /// The processes in scope.
    #[must_use]
    pub fn labels(&self) -> Vec<(u32, TaskLabel)> {
        self.tasks.iter().flatten().collect()
    }

    /// Whether a process is in scope.
    #[must_use]
    pub fn is_labelled(&self, tgid: u32) -> bool {
        self.tasks.get(&tgid, 0).is_ok()
    }

    /// Takes a process out of scope.
    pub fn forget_task(&mut self, tgid: u32) {
        let _ = self.tasks.remove(&tgid);
    }

    /// Opens the window of an instance for a maintenance until a time of `CLOCK_BOOTTIME` in nanoseconds; 0 closes it.
    pub fn set_window(&mut self, slot: u16, maintenance: Maintenance, until_ns: u64) -> Result<()> {
        let mut map: Array<_, u64> = open(&mut self.ebpf, "WINDOWS")?;
        map.set(Maintenance::place(slot, maintenance as u8), until_ns, 0)
            .map_err(|source| KernelError::Map { name: "WINDOWS", source })
    }

    /// Stores the number of reported losses for the next run.
    pub fn tell_lost(&mut self, lost: u64) -> Result<()> {
        let mut map: Array<_, u64> = open(&mut self.ebpf, "TOLD")?;
        map.set(0, lost, 0).map_err(|source| KernelError::Map { name: "TOLD", source })
    }

    /// Number of DNS messages that were not reported because of their rate.
    pub fn skipped_names(&mut self) -> Result<u64> {
        let map: Array<_, Rate> = open(&mut self.ebpf, "DNS_RATES")?;
        let rates = map.iter().collect::<std::result::Result<Vec<_>, _>>();
        let rates = rates.map_err(|source| KernelError::Map { name: "DNS_RATES", source })?;
        Ok(rates.iter().map(|rate| rate.skipped).sum())
    }

    /// What became of the records, CPU by CPU.
    pub fn counters(&mut self) -> Result<Vec<Counters>> {
        let map: PerCpuArray<_, Counters> = open(&mut self.ebpf, "COUNTERS")?;
        let values = map.get(&0, 0).map_err(|source| KernelError::Map { name: "COUNTERS", source })?;
        Ok(values.iter().copied().collect())
    }
}

pub(super) fn open<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let map = ebpf.map_mut(name).ok_or(KernelError::Absent(name))?;
    map.try_into().map_err(|source| KernelError::Map { name, source })
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(KernelError::Absent(name))?;
    map.try_into().map_err(|source| KernelError::Map { name, source })
}
