//! Attaching programs, and keeping them attached when the guard ends.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf,
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, KProbe, Lsm, Program,
        ProgramError, RawTracePoint, kprobe::KProbeLink, links::FdLink,
    },
};

/// What a program is attached to.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A raw tracepoint.
    Tracepoint(&'static str),
    /// A directory in cgroup v2. Others' programs there stay.
    Cgroup(&'a File),
    /// A hook in the kernel's LSM list.
    Hook(&'static str, &'a Btf),
    /// The entry of a function, by fentry.
    Function(&'static str, &'a Btf),
    /// The same, by a kprobe.
    Probe(&'static str),
}

/// An attached program; detached when this goes away, unless it is pinned.
enum Link {
    Pinnable(FdLink),
    /// Kernels before 5.15 have no link for a kprobe that could be pinned.
    Bound(#[expect(dead_code, reason = "attached for as long as it is held")] KProbeLink),
}

/// All attached programs, by name.
#[derive(Default)]
pub(super) struct Links {
    attached: BTreeMap<&'static str, Link>,
    /// What the kernel took to accept each program that was ever loaded.
    loads: BTreeMap<&'static str, Duration>,
}

impl Links {
    /// Loads and attaches a program.
    pub(super) fn attach(
        &mut self,
        program: &mut Program,
        name: &'static str,
        to: Target<'_>,
    ) -> Result<(), ProgramError> {
        self.load(program, name, Some(to))?;
        let link = attach(program, to)?;
        self.attached.insert(name, link);
        Ok(())
    }

    /// Loads a program and attaches it to nothing. The kernel has to know beforehand what an LSM or fentry program is for.
    pub(super) fn load(
        &mut self,
        program: &mut Program,
        name: &'static str,
        to: Option<Target<'_>>,
    ) -> Result<(), ProgramError> {
        let start = Instant::now();
        match (program, to) {
            (Program::Lsm(program), Some(Target::Hook(hook, btf))) => program.load(hook, btf)?,
            (Program::FEntry(program), Some(Target::Function(function, btf))) => program.load(function, btf)?,
            (Program::KProbe(program), _) => program.load()?,
            (Program::RawTracePoint(program), _) => program.load()?,
            (Program::CgroupSock(program), _) => program.load()?,
            (Program::CgroupSkb(program), _) => program.load()?,
            (Program::CgroupSockAddr(program), _) => program.load()?,
            _ => return Err(ProgramError::UnexpectedProgramType),
        }
        self.loads.insert(name, start.elapsed());
        Ok(())
    }

    /// What the kernel took to accept a program.
    pub(super) fn took(&self, name: &str) -> Duration {
        self.loads.get(name).copied().unwrap_or_default()
    }

    /// Detaches a program and takes it out of the kernel, if it is there.
    pub(super) fn detach(&mut self, ebpf: &mut Ebpf, name: &str) {
        self.attached.remove(name);
        // An error leaves a program behind that nothing calls and that ends with the guard.
        let _ = match ebpf.program_mut(name) {
            Some(Program::Lsm(program)) => program.unload(),
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            Some(Program::CgroupSockAddr(program)) => program.unload(),
            Some(Program::CgroupSock(program)) => program.unload(),
            Some(Program::CgroupSkb(program)) => program.unload(),
            _ => Ok(()),
        };
    }

    /// Pins every program under its name in a directory of a BPF file system. From then on it stays attached until the
    /// pin is removed. Answers with those that cannot be pinned here; they stay attached for as long as the guard runs.
    pub(super) fn pin(&mut self, directory: &Path) -> Result<Vec<&'static str>, PinError> {
        let mut bound = Vec::new();
        for (name, link) in std::mem::take(&mut self.attached) {
            match link {
                Link::Pinnable(link) => drop(link.pin(directory.join(name))?),
                link @ Link::Bound(_) => {
                    bound.push(name);
                    self.attached.insert(name, link);
                }
            }
        }
        Ok(bound)
    }
}

/// Attaches a program that is loaded.
fn attach(program: &mut Program, to: Target<'_>) -> Result<Link, ProgramError> {
    let link = match to {
        Target::Tracepoint(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into()?;
            let id = program.attach(tracepoint)?;
            program.take_link(id)?.into()
        }
        Target::Hook(..) => {
            let program: &mut Lsm = program.try_into()?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Target::Function(..) => {
            let program: &mut FEntry = program.try_into()?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Target::Probe(function) => {
            let program: &mut KProbe = program.try_into()?;
            let id = program.attach(function, 0)?;
            let link = program.take_link(id)?;
            if !aya::features().bpf_perf_link() {
                return Ok(Link::Bound(link));
            }
            pinnable(link)?
        }
        Target::Cgroup(directory) => {
            if let Program::CgroupSock(program) = program {
                let program: &mut CgroupSock = program;
                let id = program.attach(directory, CgroupAttachMode::Single)?;
                pinnable(program.take_link(id)?)?
            } else if let Program::CgroupSkb(program) = program {
                let program: &mut CgroupSkb = program;
                let side = program.expected_attach_type().unwrap_or(CgroupSkbAttachType::Ingress);
                let id = program.attach(directory, side, CgroupAttachMode::Single)?;
                pinnable(program.take_link(id)?)?
            } else {
                let program: &mut CgroupSockAddr = program.try_into()?;
                let id = program.attach(directory, CgroupAttachMode::Single)?;
                pinnable(program.take_link(id)?)?
            }
        }
    };
    Ok(Link::Pinnable(link))
}

/// A link as a descriptor, which all kernels that we run on give for all but kprobes.
fn pinnable<L>(link: L) -> Result<FdLink, ProgramError>
where
    FdLink: TryFrom<L>,
{
    FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)
}
