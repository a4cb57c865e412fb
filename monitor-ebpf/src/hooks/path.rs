//! A path is named: rename, unlink, rmdir, mkdir, mknod, link, symlink, truncate, chmod, chown, utimes, setxattr.
//!
//! This sensor sees only the name, at the entry, before the kernel looks it up. The name is walked through the policy's
//! tree from the identity of the directory that it starts at; the verdict waits for the exit, which tells whether
//! anything happened. The state of the protected paths is compared with that at the entry: it confirms the name, and it
//! gives away what came by a name that cannot be followed (a symbolic link on the way, `/proc/self/root`, a path that
//! another thread changed in the meantime).

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_user_str},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use monitor_common::{
    Access, Verdict, decide,
    event::{FLAG_AFTER, FLAG_BY_NAME, FLAG_CONFIRMED, FLAG_FAILED, PENDING_TEXT, Pending},
    opaque::Opaque,
    policy::MAX_WATCHES,
    syscall::{Handler, NO_ARG},
};

use crate::{
    emit::{self, Record},
    facts::{
        actor::Actor,
        call::Call,
        path::{self, AT_FDCWD, Location, Text},
        state,
    },
    lookups::Maps,
    maps::{self, HANDLERS, PENDING, Scratch},
};

const EPERM: i64 = -1;
const EACCES: i64 = -13;
const EROFS: i64 = -30;

/// Takes down the state of what is protected and finds where the first path starts. The walk along it is a program of
/// its own, and so is the second path: each is small enough for the verifier.
#[raw_tracepoint]
fn path_enter(ctx: RawTracePointContext) -> i32 {
    let _ = begin(&ctx);
    let _ = enter(&ctx, 0);
    // SAFETY: the array holds programs of this type only.
    unsafe { HANDLERS.tail_call(&ctx, Handler::PathWalk as u32) };
    0
}

#[inline(always)]
fn begin(ctx: &RawTracePointContext) -> Option<()> {
    let scratch = maps::scratch()?;
    scratch.pending.begin();
    scratch.pending.watched = 0;
    scratch.pending.texts[1][0] = 0;
    let call = Call::enter(ctx)?;
    scratch.pending.epoch = call.actor.subject.epoch;
    for index in 0..MAX_WATCHES {
        let mut state = 0;
        if let Some(watch) = state::watch(&call.actor.subject, index as u32) {
            state = state::state(watch);
            scratch.pending.watched = 1;
        }
        scratch.pending.states[index] = state;
    }
    Some(())
}

/// Finds where the second path starts.
#[raw_tracepoint]
fn path_enter_second(ctx: RawTracePointContext) -> i32 {
    let _ = enter(&ctx, 1);
    // SAFETY: as above.
    unsafe { HANDLERS.tail_call(&ctx, Handler::PathWalk as u32) };
    0
}

#[inline(always)]
fn enter(ctx: &RawTracePointContext, which: u32) -> Option<()> {
    let scratch = maps::scratch()?;
    scratch.walk.which.set(which);
    scratch.walk.start = (0, 0);
    let call = Call::enter(ctx)?;
    let spec = call.spec;
    let (dir, arg) = if which == 0 { (spec.dir, spec.arg) } else { (spec.dir2, spec.arg2) };
    let address = call.arg(arg)?;
    let dir = call.arg(dir).map_or(AT_FDCWD, |fd| fd as i32);
    let dir = scratch.opaque(dir as u32) as i32;
    let text = &mut scratch.pending.texts[which as usize];
    // SAFETY: the destination is as long as is said; the helper checks the source.
    let len = unsafe { bpf_probe_read_user_str(text.as_mut_ptr().cast(), PENDING_TEXT as u32, address as *const _) };
    if len <= 1 {
        // Nothing there, or the empty path, which stands for the descriptor itself.
        text[0] = 0;
        if dir < 0 {
            return None;
        }
    }
    let absolute = u32::from(text[0] == b'/');
    let absolute = scratch.opaque(absolute);
    let start = path::start(dir, absolute)?;
    let mut view = Location::new(start, scratch);
    decide::place(&Maps::with(scratch), &call.actor.subject, &mut view, &mut scratch.work)?;
    scratch.walk.start = start;
    Some(())
}

/// Walks along a path, decides, and goes on with the second path after the first.
#[raw_tracepoint]
fn path_walk(ctx: RawTracePointContext) -> i32 {
    let second = walk(&ctx).unwrap_or(false);
    if second {
        // SAFETY: as above.
        unsafe { HANDLERS.tail_call(&ctx, Handler::SecondPath as u32) };
    }
    0
}

#[inline(always)]
fn walk(ctx: &RawTracePointContext) -> Option<bool> {
    let call = Call::enter(ctx)?;
    let scratch = maps::scratch()?;
    let which = scratch.walk.which.get() & 1;
    let access = if which == 0 { call.spec.access } else { call.spec.access2 };
    let access = scratch.opaque(u32::from(access)) as u8;
    if scratch.walk.start.0 != 0 {
        let text = Text::new(which, scratch);
        decide::text(&Maps::with(scratch), &call.actor.subject, &text, Access::from_bits(access), &mut scratch.work);
        let Scratch { pending, walk, work, .. } = scratch;
        pending.take(work, which, walk.start);
    }
    let more = which == 0 && call.spec.arg2 != NO_ARG;
    let pending: &Pending = &scratch.pending;
    if !more && (pending.verdict > Verdict::Allow as u8 || pending.watched != 0) {
        let _ = PENDING.insert(bpf_get_current_pid_tgid(), pending, 0);
    }
    Some(more)
}

#[raw_tracepoint]
fn path_exit(ctx: RawTracePointContext) -> i32 {
    let _ = exit(&ctx);
    0
}

#[inline(always)]
fn exit(ctx: &RawTracePointContext) -> Option<()> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the entry is this thread's own and stays until it is removed below.
    let pending = unsafe { PENDING.get(thread) }?;
    let call = Call::exit(ctx)?;
    let scratch = maps::scratch()?;
    let done = report(scratch, &call, pending);
    let _ = PENDING.remove(thread);
    if matches!(done, Some(Verdict::Kill)) {
        emit::kill();
    }
    Some(())
}

#[inline(always)]
fn report(scratch: &mut Scratch, call: &Call, pending: &Pending) -> Option<Verdict> {
    let refused = matches!(call.ret, EPERM | EACCES | EROFS);
    if call.ret < 0 && !refused {
        return None;
    }
    let node = changed(scratch, call, pending);
    let named = pending.verdict > Verdict::Allow as u8;
    if !named && node == 0 {
        return None;
    }
    // The name was judged, and so was what has changed: the stronger rule has the record. Where no name led to it that this
    // sensor can follow, there is no path to tell but that of the node.
    let by_name = named && (node == 0 || pending.rank >= scratch.work.rank());
    let (mut decision, mut flags) = (pending.decision(), FLAG_BY_NAME);
    if !by_name {
        (decision, flags) = (scratch.work.decision(), 0);
    }
    if node != 0 {
        flags |= FLAG_CONFIRMED;
    }
    let mut done = call.actor.outcome(&decision, scratch);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    // An operation that the system refused is reported, and its process is not killed.
    let refused = scratch.opaque(u32::from(refused)) != 0;
    if refused {
        done = Verdict::from_raw(scratch.opaque(Verdict::Log as u32) as u8);
    }
    flags = scratch.opaque(flags | if refused { FLAG_FAILED } else { FLAG_AFTER });
    let changed = scratch.changed.healing;
    let mut record = Record::new(scratch, &call.actor, call.spec.hook);
    let event = record.event();
    event.flags |= flags;
    event.healing = [pending.healing[0], pending.healing[1], changed[0].get(), changed[1].get()];
    if flags & FLAG_BY_NAME != 0 {
        event.epoch = pending.epoch;
        event.detail = u64::from(pending.which);
        record.path((pending.dentry, pending.mount));
        record.texts(&pending.texts);
    } else {
        event.detail = u64::from(node);
    }
    record.send_decision(&call.actor, &decision, done);
    Some(done)
}

/// The node of a protected path that the call has changed, 0 for none. Of several the one with the strongest rule; what was
/// decided is left in the working memory, and what heals two of them at the most: a call moves no more.
#[inline(always)]
fn changed(scratch: &mut Scratch, call: &Call, pending: &Pending) -> u32 {
    scratch.changed.node.set(0);
    scratch.changed.healing = [const { Opaque::new(0) }; 2];
    scratch.work.begin(Access::NONE);
    let asked = Access::from_bits(call.spec.access | call.spec.access2);
    // One policy may have been applied in between. Two or more cannot be distinguished: the maps hold two epochs.
    if pending.watched != 0 && call.actor.subject.epoch.wrapping_sub(pending.epoch) < 2 {
        for index in 0..MAX_WATCHES {
            let before = pending.states[index];
            if before == 0 {
                continue;
            }
            let Some(watch) = state::watch_since(&call.actor.subject, pending.epoch, index as u32) else { continue };
            let shown = state::shown(before ^ state::state(watch), asked);
            if !shown.is_empty() {
                weigh_changed(scratch, &call.actor, watch.node, shown.bits());
            }
        }
    }
    scratch.changed.node.get()
}

/// Weighs in what holds for a node that has changed. A function of its own: it is walked through for each of them.
#[inline(never)]
fn weigh_changed(scratch: &mut Scratch, actor: &Actor, node: u32, shown: u8) {
    let rank = scratch.work.rank();
    decide::node_too(&Maps::with(scratch), &actor.subject, node, Access::from_bits(shown), &mut scratch.work);
    if scratch.changed.node.get() == 0 || scratch.work.rank() > rank {
        scratch.changed.node.set(node);
    }
    let (healing, [first, second]) = (scratch.work.healing(), &mut scratch.changed.healing);
    if healing != 0 {
        second.set(first.get());
        first.set(healing);
    }
}
