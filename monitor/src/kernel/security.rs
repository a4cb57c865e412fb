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
use monitor_common::{event::Hook, security::SecurityHook, verdict::Sensor};
use tempfile::TempDir;

use super::{
    link::{Links, Target},
    rights,
};

/// One hook as userspace knows it.
#[derive(Debug)]
pub struct Entry {
    /// The hook.
    pub hook: SecurityHook,
    /// The kernel's function, for fentry and kprobe.
    pub function: &'static str,
    /// Programs: LSM, fentry, kprobe.
    programs: [&'static str; 3],
    /// Whether the guard can reach the hook by an operation of its own that does nothing.
    provable: bool,
}

macro_rules! entry {
    ($hook:ident, $program:literal, $function:literal) => {
        entry!($hook, $program, $function, true)
    };
    ($hook:ident, $program:literal, $function:literal, $provable:literal) => {
        Entry {
            hook: SecurityHook::$hook,
            function: $function,
            programs: [concat!("lsm_", $program), concat!("fentry_", $program), concat!("kprobe_", $program)],
            provable: $provable,
        }
    };
}

/// Every hook. The first is tried first: a kernel that refuses it refuses the flavour.
pub const ENTRIES: &[Entry] = &[
    entry!(FileOpen, "file_open", "security_file_open"),
    entry!(FilePermission, "file_permission", "security_file_permission"),
    entry!(MmapFile, "mmap_file", "security_mmap_file"),
    entry!(FileMprotect, "file_mprotect", "security_file_mprotect"),
    entry!(InodeCreate, "inode_create", "security_inode_create"),
    entry!(InodeLink, "inode_link", "security_inode_link"),
    entry!(InodeUnlink, "inode_unlink", "security_inode_unlink"),
    entry!(InodeSymlink, "inode_symlink", "security_inode_symlink"),
    entry!(InodeMkdir, "inode_mkdir", "security_inode_mkdir"),
    entry!(InodeRmdir, "inode_rmdir", "security_inode_rmdir"),
    entry!(InodeMknod, "inode_mknod", "security_inode_mknod"),
    entry!(InodeRename, "inode_rename", "security_inode_rename"),
    entry!(InodeSetattr, "inode_setattr", "security_inode_setattr"),
    entry!(InodeSetxattr, "inode_setxattr", "security_inode_setxattr"),
    entry!(InodeRemovexattr, "inode_removexattr", "security_inode_removexattr"),
    // Not every file system keeps such lists.
    entry!(InodeSetAcl, "inode_set_acl", "security_inode_set_acl", false),
    entry!(InodeRemoveAcl, "inode_remove_acl", "security_inode_remove_acl", false),
    // Not every file system has such flags, and no command of the guard's is a 32-bit program's.
    entry!(InodeFileSetattr, "inode_file_setattr", "security_inode_file_setattr", false),
    entry!(FileIoctl, "file_ioctl", "security_file_ioctl"),
    entry!(FileIoctlCompat, "file_ioctl_compat", "security_file_ioctl_compat", false),
    // What is executed is another process than the guard.
    entry!(BprmCheck, "bprm_check", "security_bprm_check", false),
    entry!(UnixStreamConnect, "unix_stream_connect", "security_unix_stream_connect"),
    entry!(UnixMaySend, "unix_may_send", "security_unix_may_send"),
    entry!(TaskKill, "task_kill", "security_task_kill"),
    // The guard holds back and traces nobody.
    entry!(FileFcntl, "file_fcntl", "security_file_fcntl"),
    entry!(FileSendSigiotask, "send_sigiotask", "security_file_send_sigiotask", false),
    entry!(TaskSetrlimit, "task_setrlimit", "security_task_setrlimit", false),
    entry!(TaskSetnice, "task_setnice", "security_task_setnice", false),
    entry!(TaskSetscheduler, "task_setscheduler", "security_task_setscheduler", false),
    entry!(PtraceAccessCheck, "ptrace_access", "security_ptrace_access_check", false),
    entry!(FileReceive, "file_receive", "security_file_receive"),
    // It mounts nothing, makes no namespace, and changes neither the kernel nor its own credentials.
    entry!(SbMount, "sb_mount", "security_sb_mount", false),
    entry!(SbUmount, "sb_umount", "security_sb_umount", false),
    entry!(MoveMount, "move_mount", "security_move_mount", false),
    entry!(SbPivotroot, "sb_pivotroot", "security_sb_pivotroot", false),
    entry!(UsernsCreate, "userns_create", "security_create_user_ns", false),
    entry!(Bpf, "bpf", "security_bpf"),
    entry!(KernelModuleRequest, "module_request", "security_kernel_module_request", false),
    entry!(KernelReadFile, "kernel_read_file", "security_kernel_read_file", false),
    entry!(KernelLoadData, "kernel_load_data", "security_kernel_load_data", false),
    entry!(UringCmd, "uring_cmd", "security_uring_cmd", false),
    entry!(TaskFixSetuid, "task_fix_setuid", "security_task_fix_setuid", false),
    entry!(Capset, "capset", "security_capset", false),
    entry!(BprmCredsFromFile, "bprm_creds", "security_bprm_creds_from_file", false),
    entry!(SocketCreate, "socket_create", "security_socket_create"),
    entry!(SocketBind, "socket_bind", "security_socket_bind"),
    entry!(SocketConnect, "socket_connect", "security_socket_connect"),
    entry!(SocketListen, "socket_listen", "security_socket_listen"),
];

/// The sensors that sit on security hooks, the best first.
pub const FLAVOURS: [Sensor; 3] = [Sensor::Lsm, Sensor::Fentry, Sensor::Kprobe];

/// What the tracepoint sensor need not look at any more when all of these hooks run.
const REPLACES: &[(Hook, &[SecurityHook])] = {
    use SecurityHook as S;
    &[
        (Hook::Open, &[S::FileOpen, S::InodeCreate]),
        (Hook::Write, &[S::FilePermission]),
        (Hook::WriteTotals, &[S::FilePermission]),
        (Hook::Truncate, &[S::InodeSetattr, S::FilePermission]),
        (Hook::Mmap, &[S::MmapFile, S::FileMprotect]),
        (Hook::Rename, &[S::InodeRename]),
        (Hook::Unlink, &[S::InodeUnlink]),
        (Hook::Rmdir, &[S::InodeRmdir]),
        (Hook::Mkdir, &[S::InodeMkdir]),
        (Hook::Mknod, &[S::InodeMknod, S::InodeCreate]),
        (Hook::Link, &[S::InodeLink]),
        (Hook::Symlink, &[S::InodeSymlink]),
        (Hook::Chmod, &[S::InodeSetattr]),
        (Hook::Chown, &[S::InodeSetattr]),
        (Hook::Utimes, &[S::InodeSetattr]),
        (Hook::Xattr, &[S::InodeSetxattr, S::InodeRemovexattr]),
        (Hook::Ioctl, &[S::FileIoctl]),
        (Hook::FileAttr, &[S::InodeFileSetattr]),
        (Hook::Signal, &[S::TaskKill, S::FileFcntl]),
        (Hook::Ptrace, &[S::PtraceAccessCheck, S::TaskSetrlimit, S::TaskSetnice, S::TaskSetscheduler]),
        (Hook::UnixConnect, &[S::UnixStreamConnect, S::UnixMaySend]),
        (Hook::Privilege, &[S::TaskFixSetuid, S::Capset, S::BprmCredsFromFile]),
        (Hook::Mount, &[S::SbMount, S::MoveMount, S::SbPivotroot]),
        (Hook::Unmount, &[S::SbUmount]),
        (Hook::Bpf, &[S::Bpf]),
        (Hook::Module, &[S::KernelReadFile, S::KernelLoadData]),
        (Hook::Socket, &[S::SocketCreate]),
        // To bind a UNIX socket makes a file.
        (Hook::Bind, &[S::SocketBind, S::InodeMknod]),
        (Hook::Listen, &[S::SocketListen]),
        // A request is carried out by the same functions as a system call.
        (
            Hook::IoUring,
            &[
                S::FileOpen,
                S::FilePermission,
                S::InodeCreate,
                S::InodeLink,
                S::InodeUnlink,
                S::InodeSymlink,
                S::InodeMkdir,
                S::InodeRename,
                S::InodeSetattr,
                S::InodeSetxattr,
            ],
        ),
    ]
};

/// What shows in no system call, so that the tracepoints do not see it where no other sensor serves the hook.
const UNSEEN_BY_TRACEPOINTS: &[SecurityHook] = &[
    SecurityHook::UnixMaySend,
    SecurityHook::FileReceive,
    SecurityHook::FileSendSigiotask,
    SecurityHook::KernelModuleRequest,
    SecurityHook::SocketConnect,
];

/// Hooks that older kernels lack, where what they are for comes by another, or does not exist: access control lists (6.2) by
/// those for other attributes, commands of 32-bit programs (6.8) by that for commands, `file_setattr` (6.17) not at all.
const YOUNG: [SecurityHook; 4] = [
    SecurityHook::InodeSetAcl,
    SecurityHook::InodeRemoveAcl,
    SecurityHook::FileIoctlCompat,
    SecurityHook::InodeFileSetattr,
];

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
            None if UNSEEN_BY_TRACEPOINTS.contains(&hook) => "none",
            None => Sensor::Tracepoint.name(),
        }
    }

    /// Whether everything that the tracepoints know as `hook` is served here.
    #[must_use]
    pub fn replaces(&self, hook: Hook) -> bool {
        REPLACES.iter().any(|(replaced, by)| *replaced == hook && by.iter().all(|by| self.hooks.contains_key(by)))
    }

    /// Whether file accesses can be refused: each of them, in each way.
    #[must_use]
    pub fn can_deny_files(&self) -> bool {
        ENTRIES
            .iter()
            .map(|entry| entry.hook)
            .filter(|hook| hook.name().starts_with("inode_") || hook.name().contains("file"))
            .filter(|hook| !YOUNG.contains(hook))
            .all(|hook| self.by(hook) == Some(Sensor::Lsm))
    }

    /// Whether the execution of a program can be refused.
    #[must_use]
    pub fn can_deny_exec(&self) -> bool {
        self.by(SecurityHook::BprmCheck) == Some(Sensor::Lsm)
    }

    /// Whether everything else than files, programs and Internet traffic can be refused. A hook that the kernel is too
    /// old for does not count.
    #[must_use]
    pub fn can_deny_system(&self) -> bool {
        use SecurityHook as S;
        [
            S::TaskKill,
            S::FileFcntl,
            S::TaskSetrlimit,
            S::PtraceAccessCheck,
            S::TaskFixSetuid,
            S::Capset,
            S::BprmCredsFromFile,
            S::SbMount,
            S::Bpf,
        ]
        .into_iter()
        .chain([S::KernelReadFile, S::SocketCreate])
        .all(|hook| self.by(hook) == Some(Sensor::Lsm))
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
    for (flavour, sensor) in FLAVOURS.into_iter().enumerate() {
        if !allowed.contains(&sensor) {
            served.refused.push((sensor, "switched off".to_owned()));
            continue;
        }
        let mut attached = Vec::new();
        for (index, entry) in ENTRIES.iter().enumerate() {
            if served.hooks.contains_key(&entry.hook) {
                continue;
            }
            match attach_one(ebpf, links, entry, flavour, btf.as_ref().map_err(String::as_str)) {
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
            links.detach(ebpf, entry.programs[flavour]);
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
    entry: &Entry,
    flavour: usize,
    btf: Result<&Btf, &str>,
) -> Result<(), String> {
    let name = entry.programs[flavour];
    let target = match FLAVOURS[flavour] {
        Sensor::Lsm => Target::Hook(entry.hook.name(), btf?),
        Sensor::Fentry => Target::Function(entry.function, btf?),
        _ => Target::Probe(entry.function),
    };
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the kernel object has no {name}"))?;
    links.attach(program, name, target).map_err(|error| {
        links.detach(ebpf, name);
        let refused = FLAVOURS[flavour] == Sensor::Kprobe && rights::is_refusal(&error);
        super::load::chain(&error) + if refused { rights::PROBES } else { "" }
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

/// Where files that nobody looks for may be made.
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
    fn every_hook_has_an_entry() {
        for (name, hook) in SecurityHook::NAMES {
            assert!(ENTRIES.iter().any(|entry| entry.hook == *hook), "{name}");
        }
    }

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
        assert!(!served.can_deny_files());
        assert!(!served.replaces(Hook::Accept));
    }
}
