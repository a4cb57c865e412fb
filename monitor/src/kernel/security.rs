//! Choosing for each security hook the sensor that truly runs.
//!
//! A program that loads and attaches may still never be called: an LSM program is not where `bpf` is missing from the
//! kernel's `lsm=` list. Each flavour is therefore attached, the guard does what the hooks are about, and what was not
//! reached is taken down again and tried in the next flavour.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::AsFd as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::Path,
};

use aya::{Btf, Ebpf};
pub use monitor_common::hooks::FLAVOURS;
use monitor_common::{
    event::Hook,
    hooks::{Deniable, HOOKS, HookSpec, SecurityHook},
    verdict::Sensor,
};
use tempfile::TempDir;

use super::{
    link::{Links, Target},
    rights,
};

/// Which sensor serves which hook, and why the better ones do not.
#[derive(Debug, Default)]
pub struct Served {
    hooks: BTreeMap<SecurityHook, Sensor>,
    /// Why a sensor does not run at all, the best sensor first.
    pub refused: Vec<(Sensor, String)>,
    /// Why a sensor that runs does not serve a hook, which is then left to the next.
    pub gaps: Vec<(SecurityHook, Sensor, String)>,
}

impl Served {
    /// The sensor that serves a hook.
    #[must_use]
    pub fn by(&self, hook: SecurityHook) -> Option<Sensor> {
        self.hooks.get(&hook).copied()
    }

    /// The name of what serves a hook.
    #[must_use]
    pub fn name(&self, hook: SecurityHook) -> &'static str {
        match self.by(hook) {
            Some(sensor) => sensor.name(),
            None if !hook.spec().traced => "none",
            None => Sensor::Tracepoint.name(),
        }
    }

    /// Whether everything that the tracepoints know as `operation` is served here.
    #[must_use]
    pub fn replaces(&self, operation: Hook) -> bool {
        let mut replacing = HOOKS.iter().filter(|spec| spec.replaces.contains(&operation)).peekable();
        replacing.peek().is_some() && replacing.all(|spec| self.hooks.contains_key(&spec.hook))
    }

    /// Whether everything of a kind can be refused: each operation, in each way. A hook that the kernel is too old for
    /// does not count.
    #[must_use]
    pub fn can_deny(&self, kind: Deniable) -> bool {
        HOOKS
            .iter()
            .filter(|spec| spec.denies.contains(&kind) && !spec.is_optional())
            .all(|spec| self.by(spec.hook) == Some(Sensor::Lsm))
    }

    /// The sensors that serve anything, the best first.
    pub fn sensors(&self) -> impl Iterator<Item = Sensor> {
        FLAVOURS.into_iter().filter(|sensor| self.hooks.values().any(|used| used == sensor))
    }
}

/// Attaches each hook in the best flavour that runs. `reached` tells whether the guard's operations have come by a hook,
/// and forgets it.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    links: &mut Links,
    allowed: &[Sensor],
    mut reached: impl FnMut(&mut Ebpf, SecurityHook) -> bool,
) -> Served {
    let mut served = Served::default();
    let btf = if allowed.contains(&Sensor::Lsm) || allowed.contains(&Sensor::Fentry) {
        Btf::from_sys_fs().map_err(|error| error.to_string())
    } else {
        Err("not read".to_owned())
    };
    for sensor in FLAVOURS {
        if !allowed.contains(&sensor) {
            served.refused.push((sensor, "switched off".to_owned()));
            continue;
        }
        let mut attached = Vec::new();
        for (index, entry) in HOOKS.iter().enumerate() {
            if served.hooks.contains_key(&entry.hook) {
                continue;
            }
            match attach_one(ebpf, links, entry, sensor, btf.as_ref().map_err(String::as_str)) {
                Ok(()) => attached.push(entry),
                Err(why) if index == 0 => {
                    served.refused.push((sensor, why));
                    break;
                }
                Err(why) => served.gaps.push((entry.hook, sensor, why)),
            }
        }
        if attached.is_empty() {
            continue;
        }
        let exercised = exercise();
        let proven: Vec<_> = attached.iter().map(|entry| entry.provable && reached(ebpf, entry.hook)).collect();
        let runs = proven.contains(&true);
        for (entry, proven) in attached.into_iter().zip(proven) {
            if runs && (proven || !entry.provable) {
                served.hooks.insert(entry.hook, sensor);
                continue;
            }
            if let Some(name) = entry.program(sensor) {
                links.detach(ebpf, name);
            }
            if runs {
                let why = match &exercised {
                    Ok(()) => "it attaches, but is never called".to_owned(),
                    Err(error) => format!("it could not be tried: {error}"),
                };
                served.gaps.push((entry.hook, sensor, why));
            }
        }
        if !runs {
            let why = match &exercised {
                Err(error) => format!("its programs attach, but could not be tried: {error}"),
                Ok(()) if sensor == Sensor::Lsm => {
                    "its programs attach, but are never called: add bpf to `lsm=` on the boot line".to_owned()
                }
                Ok(()) => "its programs attach, but are never called".to_owned(),
            };
            served.refused.push((sensor, why));
        }
    }
    served
}

fn attach_one(
    ebpf: &mut Ebpf,
    links: &mut Links,
    spec: &HookSpec,
    sensor: Sensor,
    btf: Result<&Btf, &str>,
) -> Result<(), String> {
    let name = spec.program(sensor).ok_or_else(|| format!("{} programs attach to no security hook", sensor.name()))?;
    let target = match sensor {
        Sensor::Lsm => Target::Hook(spec.lsm, btf?),
        Sensor::Fentry => Target::Function(spec.function, btf?),
        _ => Target::Probe(spec.function),
    };
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the kernel object has no {name}"))?;
    links.attach(program, name, target).map_err(|error| {
        links.detach(ebpf, name);
        let refused = sensor == Sensor::Kprobe && rights::is_refusal(&error);
        super::error::chain(&error) + if refused { rights::PROBES } else { "" }
    })
}

/// Does once what each provable hook is about, in a directory of its own.
fn exercise() -> io::Result<()> {
    let directory = scratch(&SCRATCH.map(Path::new))?;
    let at = |name: &str| directory.path().join(name);
    fs::write(at("a"), "a")?;
    let file = fs::File::options().read(true).write(true).open(at("a"))?;
    map(&file)?;
    rustix::fs::fcntl_getfl(&file)?;
    // Not every file system has such flags; the hook comes before that shows.
    let _ = rustix::fs::ioctl_getflags(&file);
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o600))?;
    // Not every file system keeps such attributes; the hook comes before that shows.
    let _ = rustix::fs::setxattr(at("a"), "user.flowwarden", b"", rustix::fs::XattrFlags::empty());
    let _ = rustix::fs::removexattr(at("a"), "user.flowwarden");
    fs::hard_link(at("a"), at("b"))?;
    fs::rename(at("b"), at("c"))?;
    symlink("a", at("d"))?;
    fs::create_dir(at("e"))?;
    fs::remove_dir(at("e"))?;
    rustix::fs::mknodat(rustix::fs::CWD, at("f"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)?;
    fs::remove_file(at("c"))?;
    let listener = UnixListener::bind(at("g"))?;
    drop(UnixStream::connect(at("g"))?);
    drop(listener);
    let receiver = UnixDatagram::bind(at("h"))?;
    UnixDatagram::unbound()?.send_to(b"", at("h"))?;
    drop(receiver);
    rustix::process::test_kill_process(rustix::process::getpid())?;
    hand_over(&file)
}

/// Sends a descriptor to itself.
fn hand_over(file: &fs::File) -> io::Result<()> {
    use rustix::net::{
        RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    };
    let (one, other) = UnixStream::pair()?;
    let files = [file.as_fd()];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut room);
    if !message.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there is no room for a descriptor"));
    }
    sendmsg(&one, &[IoSlice::new(b"x")], &mut message, SendFlags::empty())?;
    let (mut room, mut byte) = ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [0]);
    let mut message = RecvAncillaryBuffer::new(&mut room);
    recvmsg(&other, &mut [IoSliceMut::new(&mut byte)], &mut message, RecvFlags::empty())?;
    Ok(())
}

/// Directory for temporary files of the trial.
const SCRATCH: [&str; 4] = ["/run", "/tmp", "/dev/shm", "/var/tmp"];

/// A directory in the first of these places that takes one: a place may be missing, full, or mounted read-only.
fn scratch(places: &[&Path]) -> io::Result<TempDir> {
    let mut refused = io::Error::other("there is no place to try it in");
    for place in places {
        match tempfile::Builder::new().prefix("flowwarden-").tempdir_in(place) {
            Ok(directory) => return Ok(directory),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Maps a file shared, and takes and gives the right to write.
fn map(file: &fs::File) -> io::Result<()> {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};
    const LEN: usize = 1;
    // SAFETY: a mapping of its own that nothing points to.
    unsafe {
        let at = mmap(std::ptr::null_mut(), LEN, ProtFlags::READ, MapFlags::SHARED, file, 0)?;
        let changed = mprotect(at, LEN, MprotectFlags::READ | MprotectFlags::WRITE);
        munmap(at, LEN)?;
        changed?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exercise_leaves_nothing_behind() {
        let place = scratch(&SCRATCH.map(Path::new)).unwrap();
        let count = || {
            let entries = fs::read_dir(place.path().parent().unwrap()).unwrap().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("flowwarden-")).count()
        };
        let before = count();
        exercise().unwrap();
        assert_eq!(count(), before);
    }

    #[test]
    fn where_nothing_can_be_made_the_next_place_is_taken() {
        let good = tempfile::tempdir().unwrap();
        let found = scratch(&[Path::new("/nowhere"), Path::new("/proc"), good.path()]).unwrap();
        assert_eq!(found.path().parent(), Some(good.path()));
        assert!(scratch(&[Path::new("/proc")]).is_err());
    }

    #[test]
    fn a_hook_is_replaced_only_by_all_that_it_takes() {
        let mut served = Served::default();
        served.hooks.insert(SecurityHook::FileOpen, Sensor::Lsm);
        assert!(!served.replaces(Hook::Open));
        served.hooks.insert(SecurityHook::InodeCreate, Sensor::Kprobe);
        assert!(served.replaces(Hook::Open));
        assert!(!served.can_deny(Deniable::Files));
        assert!(!served.replaces(Hook::Accept));
    }
}
