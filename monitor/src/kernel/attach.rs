//! Loads and attaches programs.

use std::{collections::BTreeSet, fs::File, path::Path};

use aya::maps::Array;
use monitor_common::{
    event::Hook,
    hooks::SecurityHook,
    policy::{CONTROL_CGROUP, CONTROL_USERNS},
    syscall::{HANDLERS_HALF, Handler, Syscall},
    verdict::Sensor,
};
use rustix::fs::fstatfs;

use super::{
    Kernel,
    error::{KernelError, Result, chain},
    link::Target,
    maps::open,
    object::{load, raw_tracepoint},
    pin::{Begun, PinError},
    programs::{CGROUP, DNS, EXEC_PRIVILEGE, EXEC_SCRIPT, HANDLERS, INBOUND, SCOPE, SYSCALLS, URING, VOLUME},
    security, table,
};

/// `CGROUP2_SUPER_MAGIC` of include/uapi/linux/magic.h.
const CGROUP2_MAGIC: i128 = 0x6367_7270;

impl Kernel {
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
                    self.degrade(name, "this kernel has no tracepoint with the request (6.0 has one)".to_owned());
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

    fn attach_raw(&mut self, programs: &[(&'static str, &'static str)]) -> Result<()> {
        programs.iter().try_for_each(|&(name, tracepoint)| self.attach(name, Target::Tracepoint(tracepoint)))
    }

    fn attach(&mut self, name: &'static str, target: Target<'_>) -> Result<()> {
        let program = self.ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
        self.links.attach(program, name, target).map_err(|source| KernelError::Program { name, source })
    }
}
