//! One file for each kind of operation.

mod cgroup;
mod close;
mod descriptor;
pub(crate) mod dns;
mod exec;
mod identify;
mod inbound;
mod io_uring;
mod mmap;
pub(crate) mod names;
mod open;
mod packet;
mod path;
mod privilege;
mod process;
mod scope;
mod script;
mod security;
mod socket;
mod syscalls;
mod system;
mod volume;

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    decide::Decision,
    event::{Event, FLAG_AFTER, FLAG_BY_NAME, FLAG_DAMAGED, HEALS_ALL, PENDING_TEXT},
    syscall::Handler,
};

use crate::{
    emit::Record,
    facts::{
        actor::Actor,
        call,
        file::{File, Inode, inode_at},
        path::{Location, Text, start},
    },
    lookups::{self, Maps},
    maps::{HANDLERS, Scratch},
};

/// What is asked of a file, and what its record is to say beside the facts.
#[derive(Clone, Copy)]
struct Request {
    /// A [`monitor_common::event::Hook`] as a number.
    hook: u8,
    access: Access,
    /// `FLAG_*`; [`FLAG_AFTER`] and [`FLAG_DAMAGED`] are left out where the operation can still be refused.
    flags: u32,
    open_flags: u32,
    detail: u64,
    family: u16,
    /// Dentry and mount of the other path of a rename or a link; zeros when there is none.
    other: (u64, u64),
}

impl Request {
    #[inline(always)]
    const fn new(hook: u8, access: Access) -> Self {
        Self { hook, access, flags: 0, open_flags: 0, detail: 0, family: 0, other: (0, 0) }
    }
}

/// Judges an access to an open file and carries the verdict out.
#[inline(always)]
fn judge_file(scratch: &mut Scratch, actor: &Actor, file: File, request: &Request) -> Option<Verdict> {
    let (dentry, mount) = file.dentry_and_mount()?;
    // Before 6.5 overlayfs opens what is below it under its own path.
    let inode = file.inode().map_or(0, |inode| inode.0);
    scratch.overlay_inode.set(if inode == inode_at(dentry).map_or(0, |inode| inode.0) { 0 } else { inode });
    Some(judge_place(scratch, actor, dentry, mount, request))
}

/// Judges an access to a file in a place, and carries the verdict out: the body of every hook that has a file in hand.
///
/// A function of its own in every program: it is most of their code.
#[inline(never)]
fn judge_place(scratch: &mut Scratch, actor: &Actor, dentry: u64, mount: u64, request: &Request) -> Verdict {
    let access = Access::from_bits(scratch.opaque(u32::from(request.access.bits())) as u8);
    let mut view = Location::new((dentry, mount), scratch);
    decide::file(&Maps::with(scratch), &actor.subject, &mut view, access, &mut scratch.work);
    weigh_rest(scratch, actor, (dentry, mount));
    names::weigh_others(scratch, actor);
    let decision = scratch.work.decision();
    report_place(scratch, actor, (dentry, mount), request, &decision)
}

/// Carries out what was decided about a file in a place.
#[inline(always)]
fn report_place(
    scratch: &mut Scratch,
    actor: &Actor,
    (dentry, mount): (u64, u64),
    request: &Request,
    decision: &Decision,
) -> Verdict {
    let done = actor.outcome(decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return done;
    }
    let mut flags = request.flags;
    if actor.sensor.can_deny() && done as u8 >= Verdict::Deny as u8 {
        flags &= !(FLAG_AFTER | FLAG_DAMAGED);
    }
    if !decision.access.contains(Access::WRITE) {
        flags &= !FLAG_DAMAGED;
    }
    let healing = scratch.work.healing();
    let mut record = Record::new(scratch, actor, request.hook);
    if let Some(inode) = inode_at(dentry) {
        record.inode(inode);
    }
    let event = record.event();
    event.flags |= flags;
    event.healing[0] = healing;
    event.open_flags = request.open_flags;
    event.detail = request.detail;
    event.endpoint.family = request.family;
    record.path((dentry, mount));
    if request.other.0 != 0 {
        record.other_path(request.other);
    }
    record.carry_out(actor, decision, done);
    done
}

/// Judges an access to an unknown file.
#[inline(always)]
fn judge_unknown(scratch: &mut Scratch, actor: &Actor, hook: u8, access: Access, detail: u64) -> Verdict {
    let decision = decide::unknown(&Maps::with(scratch), &actor.subject, access, &mut scratch.work);
    judge(scratch, actor, hook, &decision, |event| {
        event.detail = detail;
        event.healing[0] = HEALS_ALL;
    })
}

/// Finds where the path in memory, the first of the two, starts, and goes on with the walk along it: a program of its own,
/// or it would be too much for the verifier.
#[inline(always)]
fn walk_from(ctx: &RawTracePointContext, scratch: &mut Scratch, dir: i32, walk: Handler) -> Option<()> {
    let subject = lookups::subject(call::label()?.instance)?;
    let absolute = u32::from(scratch.pending.texts[0][0] == b'/');
    let absolute = scratch.opaque(absolute);
    scratch.walk.start = start(dir, absolute)?;
    let mut view = Location::new(scratch.walk.start, scratch);
    decide::place(&Maps::with(scratch), &subject, &mut view, &mut scratch.work)?;
    // SAFETY: the array holds programs of this type only.
    unsafe { HANDLERS.tail_call(ctx, walk as u32) };
    Some(())
}

/// The same for a path that is in the kernel's memory.
#[inline(always)]
fn walk_name(ctx: &RawTracePointContext, scratch: &mut Scratch, name: u64, dir: i32, walk: Handler) -> Option<()> {
    let [first, other] = &mut scratch.pending.texts;
    other[0] = 0;
    // SAFETY: the destination is as long as is said.
    let len = unsafe { bpf_probe_read_kernel_str(first.as_mut_ptr().cast(), PENDING_TEXT as u32, name as *const _) };
    if len <= 1 {
        return None;
    }
    walk_from(ctx, scratch, dir, walk)
}

/// Judges an access to the path in memory, from where [`walk_from`] has found that it starts, and carries the verdict out;
/// `hook` and `fill` are as for [`judge`].
#[inline(always)]
fn judge_name(scratch: &mut Scratch, actor: &Actor, hook: u8, access: Access, fill: impl FnOnce(&mut Event)) {
    let text = Text::new(0, scratch);
    let decision = decide::text(&Maps::with(scratch), &actor.subject, &text, access, &mut scratch.work);
    let done = actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return;
    }
    let (start, healing) = (scratch.walk.start, scratch.work.healing());
    let mut record = Record::new(scratch, actor, hook);
    let event = record.event();
    event.flags |= FLAG_BY_NAME;
    event.healing[0] = healing;
    fill(event);
    record.path(start);
    record.own_texts();
    record.carry_out(actor, &decision, done);
}

/// Weighs in what is on a block device, when the file is one, and the file that an overlay has opened for its own; finds
/// the inode whose other names count. A function of its own to keep the stack of others small.
#[inline(never)]
fn weigh_rest(scratch: &mut Scratch, actor: &Actor, place: (u64, u64)) {
    let below = scratch.overlay_inode.get();
    scratch.overlay_inode.set(0);
    if below != 0 {
        if let Some(id) = Inode(below).id() {
            decide::identity(&Maps::with(scratch), &actor.subject, id, &mut scratch.work);
        }
        // Its names are those of another file system.
        names::look_at(scratch, Inode(below), (place.0, 0));
        return;
    }
    scratch.links.inode.set(0);
    let Some(inode) = inode_at(place.0) else { return };
    let device = inode.block_device();
    if device != 0 {
        decide::device(&Maps::with(scratch), &actor.subject, device, &mut scratch.work);
    }
    if inode.has_names() {
        names::look_at(scratch, inode, place);
    }
}

/// Judges something that is not a file; `hook` is a [`monitor_common::event::Hook`], `fill` completes the record.
#[inline(always)]
fn judge(
    scratch: &mut Scratch,
    actor: &Actor,
    hook: u8,
    decision: &Decision,
    fill: impl FnOnce(&mut Event),
) -> Verdict {
    let done = actor.outcome(decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return done;
    }
    let mut record = Record::new(scratch, actor, hook);
    fill(record.event());
    record.carry_out(actor, decision, done);
    done
}
