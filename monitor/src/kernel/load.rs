//! Loading the programs, attaching them, and what they are told of processes and sockets.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::{ProgramError, ProgramInfo, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use monitor_common::{
    dns::Rate,
    event::{Counters, Hook},
    hooks::{Deniable, SecurityHook},
    inbound::Owner,
    offsets::{Abi, Offsets},
    policy::{CONTROL_CGROUP, CONTROL_USERNS, Control, Identity, InodeId, Maintenance},
    scope::TaskLabel,
    security::Signatures,
    syscall::{HANDLERS_HALF, Handler, Syscall},
    verdict::Sensor,
};
use rustix::fs::{Mode, OFlags, fstatfs};

use super::{
    abi, btf,
    btf::Btf,
    inherit,
    install::{Epochs, Watched},
    link::{Links, Target},
    pin::{self, Begun, Generation, PinError},
    rights::{self, RightsError},
    security::{self, Served},
    table,
};
use policy::host::CanDeny;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowwarden.bpf.o"));

/// `CGROUP2_SUPER_MAGIC` of include/uapi/linux/magic.h.
const CGROUP2_MAGIC: i128 = 0x6367_7270;

/// How many programs may be under way on one CPU, as in the kernel's `maps.rs`.
const POOL_DEPTH: u32 = 4;

/// Why the kernel side could not be brought up or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The guard was built without the kernel programs.
    #[error("this program was built without the kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// No BTF, or none that can be read.
    #[error(transparent)]
    Btf(#[from] btf::BtfError),
    /// A field that every program needs is not where it is expected.
    #[error("this kernel's BTF lacks {}; it is not supported, please report its version", .0.join(", "))]
    Fields(Vec<String>),
    /// The object was refused as a whole.
    #[error("the kernel programs cannot be loaded: {0}")]
    Object(#[from] aya::EbpfError),
    /// This process may not load programs.
    #[error(transparent)]
    Rights(#[from] RightsError),
    /// One program was refused.
    #[error("kernel program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The cause.
        source: ProgramError,
    },
    /// A map was refused or ran full.
    #[error("kernel map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// The cause.
        source: MapError,
    },
    /// The object does not hold what it should.
    #[error("the kernel object has no {0}: it was built from another version; rebuild with `cargo xtask build`")]
    Absent(&'static str),
    /// A file could not be opened to ask for its identity.
    #[error("{path}: {source}")]
    Identify {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The cgroup to attach to cannot be opened.
    #[error("{path}: {source}")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no cgroup to attach to.
    #[error(
        "{0} is no directory of cgroup v2: mount it, as by `mount -t cgroup2 none /sys/fs/cgroup`, and start again"
    )]
    NoCgroup(PathBuf),
    /// Something could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
}

pub(super) type Result<T, E = KernelError> = std::result::Result<T, E>;

/// A hook that does not run here, and why.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// The hook or system call.
    pub hook: String,
    /// The reason in words.
    pub why: String,
}

/// A program in the kernel, and what it was for the kernel to accept it.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<'a> {
    /// What the object calls it.
    pub name: &'a str,
    /// How many instructions the verifier walked through; 0 on kernels before 5.16, which do not tell.
    pub walked: u32,
    /// How long it took, and to compile it.
    pub took: Duration,
}

/// The handler of system calls and the program that it is.
const HANDLERS: &[(u32, &str)] = &[
    (HANDLERS_HALF + Handler::Open as u32, "open_exit"),
    (Handler::Descriptor as u32, "descriptor_enter"),
    (HANDLERS_HALF + Handler::Descriptor as u32, "descriptor_exit"),
    (Handler::Path as u32, "path_enter"),
    (Handler::SecondPath as u32, "path_enter_second"),
    (Handler::PathWalk as u32, "path_walk"),
    (Handler::UringWalk as u32, "io_uring_walk"),
    (Handler::ScriptWalk as u32, "exec_script_walk"),
    (HANDLERS_HALF + Handler::Path as u32, "path_exit"),
    (Handler::Mmap as u32, "mmap_enter"),
    (Handler::Close as u32, "close_enter"),
    (HANDLERS_HALF + Handler::Connect as u32, "connect_exit"),
    (HANDLERS_HALF + Handler::Accept as u32, "accept_exit"),
    (HANDLERS_HALF + Handler::Listen as u32, "listen_exit"),
    (HANDLERS_HALF + Handler::Socket as u32, "socket_exit"),
    (HANDLERS_HALF + Handler::Credentials as u32, "credentials_exit"),
    (Handler::Process as u32, "process_enter"),
    (Handler::System as u32, "system_enter"),
    (Handler::Requests as u32, "requests_enter"),
    (Handler::Control as u32, "control_enter"),
];

/// The program that judges what a setuid program gains.
const EXEC_PRIVILEGE: &str = "exec_privilege";

/// The program that judges a script by its name.
const EXEC_SCRIPT: &str = "exec_script";

/// Programs on other raw tracepoints, and the tracepoint each belongs to. Order matters: the scope comes first.
const SCOPE: &[(&str, &str)] = &[
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("exec", "sched_process_exec"),
    (EXEC_PRIVILEGE, "sched_process_exec"),
    (EXEC_SCRIPT, "sched_process_exec"),
    ("process_moved", "cgroup_attach_task"),
    ("process_exit", "sched_process_exit"),
];
const SYSCALLS: &[(&str, &str)] = &[("sys_enter", "sys_enter"), ("sys_exit", "sys_exit")];

/// Programs on requests of `io_uring`.
const URING: &[&str] = &["io_uring_write", "io_uring_path", "io_uring_path_second", "io_uring_connect"];
/// The tracepoints that a request comes by, the newest name first. `io_uring_submit_sqe` was told other things before 6.0.
const URING_TRACEPOINTS: [&str; 2] = ["io_uring_submit_req", "io_uring_submit_sqe"];

/// Programs on Internet sockets.
const CGROUP: &[&str] = &["connect4", "connect6", "sendmsg4", "sendmsg6", "sock_create"];

/// Programs on packets: what resolvers are asked, and what they answer.
const DNS: &[&str] = &["dns_query", "dns_answer"];

/// Programs on what comes in: those that note whose a socket is, and the one that drops.
const INBOUND: &[&str] = &["inbound_bind4", "inbound_bind6", "inbound_packet"];

/// Programs that count what leaves.
const VOLUME: &[&str] = &["volume_connect4", "volume_connect6", "volume_sendmsg4", "volume_sendmsg6", "volume_packet"];

/// The programs and maps in the kernel. Dropping it detaches everything.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    links: Links,
    tasks: HashMap<MapData, u32, TaskLabel>,
    /// The programs are reachable by tail call only while this is open.
    handlers: ProgramArray<MapData>,
    pub(super) watched: Watched,
    pub(super) epochs: Epochs,
    flags: u32,
    /// The tracepoint that a request of `io_uring` comes by.
    uring: Option<&'static str>,
    degraded: Vec<Degraded>,
    served: Served,
    /// Peers can be refused.
    refuses_peers: bool,
    /// It was tried to count what leaves.
    volume_tried: bool,
    /// Where links are pinned, once they are.
    pinned: Option<PathBuf>,
}

impl Kernel {
    /// Brings the object in: maps, and the program that identifies files. Loads no other program, attaches none. Maps that
    /// the next run has to find are pinned in `pins`.
    pub fn load(pins: Option<&Begun>) -> Result<Self> {
        let object = present(OBJECT)?;
        rights::check()?;
        let Layout { offsets, abi, signatures, uring, lacking } = layout()?;
        let cpus = aya::util::nr_cpus().map_or(1024, |cpus| u32::try_from(cpus).unwrap_or(1024));
        let mut ebpf = EbpfLoader::new()
            // The programs need no relocation, and the parsed types would stay in memory.
            .btf(None)
            .override_global("OFFSETS", &offsets, true)
            .override_global("ABI", &abi, true)
            .override_global("SIGNATURES", &signatures, true)
            .map_max_entries("HELD", cpus.saturating_mul(POOL_DEPTH))
            .map_max_entries("TASKS", most_processes())
            .load(object)
            .map_err(|error| rights::behind(&error).map_or_else(|| error.into(), KernelError::Rights))?;
        let degraded: Vec<_> = lacking
            .into_iter()
            .map(|field| Degraded { hook: field.clone(), why: format!("this kernel has no {field}") })
            .collect();
        let mut links = Links::default();
        load(&mut ebpf, &mut links, "identify")?;
        if let Some(directory) = pins.map(Begun::maps) {
            for &name in pin::MAPS.iter().chain(&inherit::MAPS) {
                let map = ebpf.map(name).ok_or(KernelError::Absent(name))?;
                map.pin(directory.join(name))
                    .map_err(|source| PinError::Refused { path: directory.clone(), source })?;
            }
        }
        let handlers = take(&mut ebpf, "HANDLERS")?;
        let tasks = take(&mut ebpf, "TASKS")?;
        let served = Served::default();
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
            served,
            refuses_peers: false,
            volume_tried: false,
            pinned: None,
        })
    }

    /// Attaches the security hooks, each in the best flavour among `allowed` that runs here. Nothing is in scope yet.
    pub fn attach_security(&mut self, allowed: &[Sensor]) -> Result<()> {
        // The hooks answer to the guard's own operations, so that it knows whether they are called.
        self.control(0, 0)?;
        let served = security::attach(&mut self.ebpf, &mut self.links, allowed, |ebpf, hook| {
            let Ok(mut proofs) = open::<Array<_, u32>>(ebpf, "PROOFS") else { return false };
            let index = hook as u32;
            let reached = proofs.get(&index, 0).is_ok_and(|proof| proof != 0);
            let _ = proofs.set(index, 0, 0);
            reached
        });
        if served.by(SecurityHook::UsernsCreate).is_some() {
            self.flags |= CONTROL_USERNS;
        }
        self.served = served;
        Ok(())
    }

    /// Each program that is loaded.
    #[must_use]
    pub fn programs(&self) -> Vec<Loaded<'_>> {
        let loaded = self.ebpf.programs().filter_map(|(name, program)| Some((name, program.info().ok()?)));
        let cost = |(name, info): (_, ProgramInfo)| {
            let walked = info.verified_instruction_count().unwrap_or(0);
            Loaded { name, walked, took: self.links.took(name) }
        };
        loaded.map(cost).collect()
    }

    /// Which sensor serves which security hook.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Loads what the tracepoints have to look at: every system call that no security hook answers for.
    pub fn load_syscalls(&mut self) -> Result<()> {
        let network = self.can_deny_network();
        let privilege = self.served.replaces(Hook::Privilege);
        let left: Vec<_> = table::entries()
            .into_iter()
            .map(|(index, name, syscall)| {
                // `unshare` is judged for its namespaces at the entry whatever serves privileges.
                let replaced = privilege && syscall.exit == Handler::Credentials as u8;
                (index, name, Syscall { exit: if replaced { 0 } else { syscall.exit }, ..syscall })
            })
            .filter(|(_, _, syscall)| {
                Hook::from_raw(syscall.hook).is_none_or(|hook| match hook {
                    // The same call connects UNIX sockets and others.
                    Hook::Connect => !(network && self.served.replaces(Hook::UnixConnect)),
                    hook => !self.served.replaces(hook),
                })
            })
            .collect();
        let mut needed: BTreeSet<u32> = left
            .iter()
            .flat_map(|(_, _, syscall)| [u32::from(syscall.enter), HANDLERS_HALF + u32::from(syscall.exit)])
            .collect();
        if needed.contains(&(Handler::Path as u32)) {
            needed.extend([Handler::PathWalk as u32, Handler::SecondPath as u32]);
        }
        if !self.served.replaces(Hook::IoUring) {
            needed.insert(Handler::UringWalk as u32);
        }
        if self.served.by(SecurityHook::BprmCheck).is_none() {
            needed.insert(Handler::ScriptWalk as u32);
        }
        for &(index, name) in HANDLERS.iter().filter(|(index, _)| needed.contains(index)) {
            match load(&mut self.ebpf, &mut self.links, name) {
                Ok(()) => {
                    let program = raw_tracepoint(&mut self.ebpf, name)?;
                    let fd = program.fd().map_err(|source| KernelError::Program { name, source })?;
                    self.handlers.set(index, fd, 0).map_err(|source| KernelError::Map { name: "HANDLERS", source })?;
                }
                Err(error) => self.degrade(name, chain(&error)),
            }
        }
        let mut syscalls: Array<_, Syscall> = open(&mut self.ebpf, "SYSCALLS")?;
        for (index, _, syscall) in left {
            syscalls.set(index, syscall, 0).map_err(|source| KernelError::Map { name: "SYSCALLS", source })?;
        }
        Ok(())
    }

    /// Writes the one word that makes a policy the policy.
    pub(super) fn control(&mut self, epoch: u32, selectors: u32) -> Result<()> {
        let control = Control { epoch, selectors, flags: self.flags, guard: std::process::id() };
        let mut map: Array<_, Control> = open(&mut self.ebpf, "CONTROL")?;
        map.set(0, control, 0).map_err(|source| KernelError::Map { name: "CONTROL", source })
    }

    /// What does not run here.
    #[must_use]
    pub fn degraded(&self) -> &[Degraded] {
        &self.degraded
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
        let program = raw_tracepoint(&mut self.ebpf, "identify")?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = u64::from(file.as_fd().as_raw_fd().unsigned_abs());
        program.test_run(options).map_err(|source| KernelError::Program { name: "identify", source })?;
        let map: Array<_, Identity> = open(&mut self.ebpf, "IDENTITY")?;
        let identity = map.get(&0, 0).map_err(|source| KernelError::Map { name: "IDENTITY", source })?;
        Ok((identity.id != InodeId::default()).then_some((file, identity)))
    }

    /// Attaches what decides who is in scope.
    pub fn attach_scope(&mut self) -> Result<()> {
        let left = |name: &str| match name {
            EXEC_PRIVILEGE => !self.served.replaces(Hook::Privilege),
            EXEC_SCRIPT => self.served.by(SecurityHook::BprmCheck).is_none(),
            _ => true,
        };
        let scope: Vec<_> = SCOPE.iter().copied().filter(|(name, _)| left(name)).collect();
        self.attach_raw(&scope)
    }

    /// Attaches the programs on system calls, and those on `io_uring` where there is one.
    pub fn attach_syscalls(&mut self) -> Result<()> {
        let programs = if self.served.replaces(Hook::IoUring) { &[][..] } else { URING };
        for &name in programs {
            match self.uring {
                None => {
                    self.degrade(name, "no tracepoint of this kernel is told of a request (6.0 has one)".to_owned());
                }
                Some(tracepoint) => {
                    if let Err(error) = self.attach(name, Target::Tracepoint(tracepoint)) {
                        self.degrade(name, chain(&error));
                    }
                }
            }
        }
        self.attach_raw(SYSCALLS)
    }

    /// Attaches the programs that can refuse traffic to a cgroup v2 directory; what is not below it is not watched.
    ///
    /// A link always stands beside those of others, so no mode is asked for. All or none: half of them would leave a way open that the tracepoints no longer watch.
    pub fn attach_cgroup(&mut self, path: &Path) -> Result<()> {
        self.attach_all(CGROUP, path)?;
        self.flags |= CONTROL_CGROUP;
        Ok(())
    }

    /// Attaches the programs that learn names from answers to a cgroup v2 directory, both or none.
    pub fn attach_dns(&mut self, path: &Path) -> Result<()> {
        self.attach_all(DNS, path)
    }

    /// Loads the programs that learn names, attaching none, to find out whether this kernel takes them.
    pub fn try_dns(&mut self) -> Result<()> {
        DNS.iter().try_for_each(|&name| load(&mut self.ebpf, &mut self.links, name))
    }

    /// Loads the programs that count what leaves, attaching none, to find out whether this kernel takes them.
    pub fn try_volume(&mut self) -> Result<()> {
        VOLUME.iter().try_for_each(|&name| load(&mut self.ebpf, &mut self.links, name))
    }

    /// Attaches the programs that can refuse a peer, in the same way.
    pub fn attach_inbound(&mut self, path: &Path) -> Result<()> {
        self.attach_all(INBOUND, path)?;
        self.refuses_peers = true;
        Ok(())
    }

    /// Attaches the programs that count what leaves, all or none: a policy that sets a bound needs them. A kernel that
    /// refuses them is not asked again.
    pub fn attach_volume(&mut self, path: &Path) -> Result<()> {
        if std::mem::replace(&mut self.volume_tried, true) {
            return Ok(());
        }
        self.attach_all(VOLUME, path)?;
        // One that comes with a later policy outlives the guard as the others do.
        if let Some(path) = self.pinned.clone() {
            self.links.pin(&path).map_err(|source| PinError::Refused { path, source })?;
        }
        Ok(())
    }

    /// All of these programs, or none.
    fn attach_all(&mut self, programs: &[&'static str], path: &Path) -> Result<()> {
        let failed = |source| KernelError::Cgroup { path: path.to_owned(), source };
        let cgroup = File::open(path).map_err(failed)?;
        let found = fstatfs(&cgroup).map_err(|errno| failed(errno.into()))?;
        // The magic number's type differs from one architecture to the next.
        if i128::from(found.f_type) & 0xffff_ffff != CGROUP2_MAGIC {
            return Err(KernelError::NoCgroup(path.to_owned()));
        }
        let attached = programs.iter().try_for_each(|&name| self.attach(name, Target::Cgroup(&cgroup)));
        if attached.is_err() {
            for name in programs {
                self.links.detach(&mut self.ebpf, name);
            }
        }
        attached
    }

    /// Notes whose a socket is that was bound before the programs came.
    pub fn own_socket(&mut self, cookie: u64, owner: Owner) -> Result<()> {
        let mut map: HashMap<_, u64, Owner> = open(&mut self.ebpf, "OWNERS")?;
        map.insert(cookie, owner, 0).map_err(|source| KernelError::Map { name: "OWNERS", source })
    }

    /// Loads the programs that can refuse traffic, attaching none, to find out whether this kernel takes them.
    pub fn try_cgroup(&mut self) -> Result<()> {
        CGROUP.iter().chain(INBOUND).try_for_each(|&name| load(&mut self.ebpf, &mut self.links, name))
    }

    /// Pins what is attached. What cannot be pinned here ends with the guard, and is noted.
    pub fn pin(&mut self, pins: &Begun) -> Result<()> {
        let path = pins.links();
        let bound = self.links.pin(&path).map_err(|source| PinError::Refused { path: path.clone(), source })?;
        self.pinned = Some(path);
        if !bound.is_empty() {
            let why = "this kernel cannot pin kprobes (5.15 can): what they see is watched only while the guard runs";
            self.degrade(&bound.join(", "), why.to_owned());
        }
        Ok(())
    }

    /// Lets epochs begin after one that an earlier run has used.
    pub fn begin_after(&mut self, epoch: u32) {
        self.epochs.begin_after(epoch);
    }

    /// Lets the programs know what those of an earlier run have learnt, and may have learnt since the last time.
    pub fn inherit(&mut self, earlier: &Generation) -> Result<()> {
        inherit::carry(&mut self.ebpf, earlier)
    }

    /// Notes a hook that does not run, for the record.
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

    fn attach_raw(&mut self, programs: &[(&'static str, &'static str)]) -> Result<()> {
        programs.iter().try_for_each(|&(name, tracepoint)| self.attach(name, Target::Tracepoint(tracepoint)))
    }

    fn attach(&mut self, name: &'static str, target: Target<'_>) -> Result<()> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
        self.links.attach(program, name, target).map_err(|source| KernelError::Program { name, source })
    }

    /// The epoch that a new policy is to be compiled for.
    #[must_use]
    pub fn next_epoch(&self) -> u32 {
        self.epochs.next()
    }

    /// The epoch of the policy in force.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epochs.current()
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

    /// Leaves word for the next run how many lost records have been told.
    pub fn tell_lost(&mut self, lost: u64) -> Result<()> {
        let mut map: Array<_, u64> = open(&mut self.ebpf, "TOLD")?;
        map.set(0, lost, 0).map_err(|source| KernelError::Map { name: "TOLD", source })
    }

    /// How many questions to resolvers, and answers, were not told because they came too fast.
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

/// An error with all its causes, each told once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What the kernel says, without the log of its verifier.
#[must_use]
pub fn first_line(text: &str) -> &str {
    text.split(". Verifier output").next().unwrap_or(text).lines().next().unwrap_or(text)
}

/// The object, unless the build had none to embed.
fn present(object: &[u8]) -> Result<&[u8]> {
    if object.is_empty() { Err(KernelError::NoObject) } else { Ok(object) }
}

/// What the running kernel's types tell.
struct Layout {
    offsets: Offsets,
    abi: Abi,
    signatures: Signatures,
    /// The tracepoint that is told of a request of `io_uring`.
    uring: Option<&'static str>,
    /// The optional fields that it lacks.
    lacking: Vec<String>,
}

fn layout() -> Result<Layout> {
    let btf = Btf::read(Path::new(btf::VMLINUX))?;
    let (offsets, missing) = btf.resolve();
    let (lacking, required): (Vec<_>, Vec<_>) = missing.into_iter().partition(|field| {
        OPTIONAL.contains(&field.as_str()) || OPTIONAL_STRUCTS.iter().any(|strct| field.starts_with(strct))
    });
    if !required.is_empty() {
        return Err(KernelError::Fields(required));
    }
    let abi = abi::resolve(&btf).map_err(KernelError::Fields)?;
    let uring = URING_TRACEPOINTS.into_iter().find(|tracepoint| btf.is_told(tracepoint, "io_kiocb"));
    Ok(Layout { offsets, abi, signatures: btf.signatures(), uring, lacking })
}

/// As many processes as there can be, so that none that belongs to an instance is without a mark for want of room.
fn most_processes() -> u32 {
    let limit = |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let most = limit("pid_max").into_iter().chain(limit("threads-max")).min();
    // Whoever administers the machine may raise both later.
    most.map_or(MIN_PROCESSES, |most| most.clamp(MIN_PROCESSES, PID_MAX_LIMIT))
}

/// As in the kernel's `maps.rs`.
const MIN_PROCESSES: u32 = 32_768;
/// `PID_MAX_LIMIT` of include/linux/threads.h.
const PID_MAX_LIMIT: u32 = 4 * 1024 * 1024;

/// Fields without which the guard still works: by architecture or configuration they may be absent.
const OPTIONAL: &[&str] = &["task_struct.loginuid", "task_struct.thread_info.status", "task_struct.thread_info.flags"];

/// Structs whose fields are optional as a whole: `io_uring` is younger than the oldest kernel that we run on.
const OPTIONAL_STRUCTS: &[&str] = &[
    "io_kiocb.",
    "io_open.",
    "io_unlink.",
    "io_rename.",
    "io_link.",
    "io_mkdir.",
    "io_xattr.",
    "io_connect.",
    "unix_sock.",
];

/// Loads a program that is attached later, or called by others.
fn load(ebpf: &mut Ebpf, links: &mut Links, name: &'static str) -> Result<()> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    links.load(program, name, None).map_err(|source| KernelError::Program { name, source })
}

fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut RawTracePoint> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(|source| KernelError::Program { name, source })
}

pub(super) fn open<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let map = ebpf.map_mut(name).ok_or(KernelError::Absent(name))?;
    map.try_into().map_err(|source| KernelError::Map { name, source })
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(KernelError::Absent(name))?;
    map.try_into().map_err(|source| KernelError::Map { name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_without_kernel_programs_names_the_command_that_builds_them() {
        let error = present(&[]).map(<[u8]>::len).unwrap_err();
        assert!(matches!(error, KernelError::NoObject), "{error}");
        assert!(error.to_string().contains("`cargo xtask build`"), "{error}");
    }

    #[test]
    fn an_object_that_the_build_names_is_embedded() {
        assert!(option_env!("FLOWWARDEN_BPF_OBJECT").is_none() || present(OBJECT).is_ok());
    }
}
