//! What changes the machine itself: mounts, user namespaces, BPF, modules, commands to drivers.
#![expect(clippy::unnecessary_wraps, reason = "one signature for the bodies of all hooks")]

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_AFTER, Hook, TEXT_MAX},
    policy::Class,
};

use super::Args;
use crate::{
    emit::Record,
    facts::{actor::Actor, file::path_at, offset, word},
    hooks::{Request, judge, judge_place},
    maps::Scratch,
};

/// `detail` of a mount that was elsewhere before.
const MOVED: u64 = 1;
/// `detail` of a mount that becomes the root.
const ROOT: u64 = 3;
/// `CLONE_NEWUSER`
const CLONE_NEWUSER: u64 = 0x1000_0000;

#[inline(always)]
pub(super) fn mount<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    mounted(actor, scratch, args.arg(1), 0)
}

#[inline(always)]
pub(super) fn move_mount<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    mounted(actor, scratch, args.arg(1), MOVED)
}

#[inline(always)]
pub(super) fn pivot_root<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    mounted(actor, scratch, args.arg(1), ROOT)
}

/// What is mounted over a file takes its name away as a rename would; the class is asked where no rule forbids that.
#[inline(always)]
fn mounted(actor: &Actor, scratch: &mut Scratch, path: u64, detail: u64) -> Option<Verdict> {
    let place = path_at(path)?;
    let request = Request { flags: FLAG_AFTER, detail, ..Request::new(Hook::Mount as u8, Access::RENAME) };
    let done = judge_place(scratch, actor, place.0, place.1, &request);
    if done as u8 >= Verdict::Deny as u8 {
        return Some(done);
    }
    Some(report(actor, scratch, Hook::Mount, place, detail))
}

#[inline(always)]
pub(super) fn unmount<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let mount = args.arg(0) - u64::from(offset!(mount_mnt));
    let root: u64 = word(mount, offset!(mount_root));
    Some(report(actor, scratch, Hook::Unmount, (root, mount), 0))
}

/// Judges by the class of mounts.
#[inline(always)]
fn report(actor: &Actor, scratch: &mut Scratch, hook: Hook, place: (u64, u64), detail: u64) -> Verdict {
    let decision = decide::class(&actor.subject, Class::Mount, Access::NONE);
    let done = actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return done;
    }
    let mut record = Record::new(scratch, actor, hook as u8);
    record.event().detail = detail;
    record.path(place);
    record.carry_out(actor, &decision, done);
    done
}

#[inline(always)]
pub(super) fn user_namespace<A: Args>(_: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let decision = decide::class(&actor.subject, Class::Namespace, Access::NONE);
    Some(judge(scratch, actor, Hook::Namespace as u8, &decision, |event| event.detail = CLONE_NEWUSER))
}

#[inline(always)]
pub(super) fn bpf<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let command = args.arg(0) as u32;
    let decision = decide::bpf(&actor.subject, command);
    Some(judge(scratch, actor, Hook::Bpf as u8, &decision, |event| event.detail = command.into()))
}

/// The kernel is about to ask for a module by name, as for a socket of a family that it does not know yet.
#[inline(always)]
pub(super) fn module_request<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let decision = decide::class(&actor.subject, Class::Kernel, Access::NONE);
    let done = actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return Some(done);
    }
    let name = args.arg(0) as *const _;
    let mut record = Record::new(scratch, actor, Hook::Module as u8);
    record.text(|to| {
        // SAFETY: the destination holds TEXT_MAX bytes; the helper checks the source.
        let read = unsafe { bpf_probe_read_kernel_str(to.cast(), TEXT_MAX as u32, name) };
        if read > 0 { read as usize } else { 0 }
    });
    record.carry_out(actor, &decision, done);
    Some(done)
}

/// The kernel is about to take a module, a new kernel or firmware in.
#[inline(always)]
pub(super) fn module<A: Args>(_: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    of_the_kernel(actor, scratch, Hook::Module)
}

#[inline(always)]
pub(super) fn uring_command<A: Args>(_: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    of_the_kernel(actor, scratch, Hook::UringCommand)
}

#[inline(always)]
fn of_the_kernel(actor: &Actor, scratch: &mut Scratch, hook: Hook) -> Option<Verdict> {
    let decision = decide::class(&actor.subject, Class::Kernel, Access::NONE);
    Some(judge(scratch, actor, hook as u8, &decision, |_| ()))
}
