//! Internet sockets at the cgroup: the programs that can say no.
//!
//! They see every way to an address: `connect`, TCP Fast Open and `io_uring` for streams, connected and unconnected
//! datagrams. They cannot send a signal; a process that is to be killed is marked, and dies at the exit of the call.

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use monitor_common::{
    Access, Verdict, decide,
    decide::Decision,
    dns::PORT,
    event::{Endpoint, Event, Hook},
    policy::{Class, Direction, NetKey},
    socket::{self, AF_INET, AF_INET6},
    verdict::Sensor,
};

use super::{dns, socket::detail};
use crate::{
    emit::{self, Record},
    facts::{actor::Actor, task},
    lookups::Maps,
    maps::{self, TASKS},
    trace::trace,
};

const PROCEED: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    judge_address(&ctx, Hook::Connect, AF_INET).unwrap_or(PROCEED)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    judge_address(&ctx, Hook::Connect, AF_INET6).unwrap_or(PROCEED)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge_address(&ctx, Hook::Send, AF_INET).unwrap_or(PROCEED)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge_address(&ctx, Hook::Send, AF_INET6).unwrap_or(PROCEED)
}

/// An Internet socket is made: raw, or of a transport whose addresses nothing judges.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    judge_creation(&ctx).unwrap_or(PROCEED)
}

/// The current task and its tgid, read without the helper that older kernels keep from these programs.
#[inline(always)]
fn actor() -> Option<(u32, Actor)> {
    let tgid = task::tgid(task::current())?;
    // SAFETY: the value is changed by single stores only.
    let label = unsafe { TASKS.get(tgid) }?;
    Some((tgid, Actor::of(label, Sensor::Cgroup)?))
}

#[inline(always)]
fn judge_address(ctx: &SockAddrContext, hook: Hook, family: u16) -> Option<i32> {
    let (tgid, actor) = actor()?;
    trace!(fw_trace_cgroup, tgid);
    // SAFETY: the context is the kernel's and outlives the program; each field is read as the verifier asks.
    let (address, port, protocol) = unsafe {
        let raw = &*ctx.sock_addr;
        let address = if family == AF_INET {
            decide::map_v4(core::ptr::read_volatile(&raw const raw.user_ip4).to_ne_bytes())
        } else {
            let words = [
                core::ptr::read_volatile(&raw const raw.user_ip6[0]),
                core::ptr::read_volatile(&raw const raw.user_ip6[1]),
                core::ptr::read_volatile(&raw const raw.user_ip6[2]),
                core::ptr::read_volatile(&raw const raw.user_ip6[3]),
            ];
            words_to_bytes(words)
        };
        let port = u16::from_be(core::ptr::read_volatile(&raw const raw.user_port) as u16);
        (address, port, core::ptr::read_volatile(&raw const raw.protocol) as u8)
    };
    let address = decide::reached(address);
    if port == PORT {
        let _ = dns::note(ctx, &actor, tgid, &address);
    }
    let key = NetKey {
        epoch: actor.subject.epoch,
        instance: actor.subject.slot,
        direction: Direction::Egress as u16,
        address,
    };
    let decision = decide::net(&Maps::WITH_NAMES, &actor.subject, &key, port, protocol);
    let endpoint = Endpoint { address, port, local_port: 0, family, protocol, pad: 0 };
    carry_out(tgid, &actor, hook, &decision, |event| event.endpoint = endpoint)
}

#[inline(always)]
fn words_to_bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen plain bytes.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
fn judge_creation(ctx: &SockContext) -> Option<i32> {
    // SAFETY: as above.
    let (family, kind, protocol) = unsafe {
        let raw = &*ctx.sock;
        (
            core::ptr::read_volatile(&raw const raw.family),
            core::ptr::read_volatile(&raw const raw.type_) as u16,
            core::ptr::read_volatile(&raw const raw.protocol) as u16,
        )
    };
    let class = socket::class(family, kind, protocol)?;
    let (tgid, actor) = actor()?;
    let decision = match class {
        Class::RawSocket => decide::class(&actor.subject, Class::RawSocket, Access::NONE),
        _ => decide::class(&actor.subject, Class::Socket, Access::NONE),
    };
    carry_out(tgid, &actor, Hook::Socket, &decision, |event| {
        event.detail = detail(family, kind, protocol);
        event.endpoint.family = family as u16;
        event.endpoint.protocol = protocol as u8;
    })
}

/// Judges, tells, and answers what the kernel is to do.
#[inline(always)]
fn carry_out(tgid: u32, actor: &Actor, hook: Hook, decision: &Decision, fill: impl FnOnce(&mut Event)) -> Option<i32> {
    let Some(held) = maps::hold() else {
        // What is forbidden is, whether or not there is memory to tell of it.
        let refused =
            actor.sensor.apply(decision.verdict, decision.fallback, actor.enforces()) as u8 >= Verdict::Deny as u8;
        if refused {
            emit::count_unjudged();
        }
        return refused.then_some(REFUSE);
    };
    let done = actor.outcome(decision, held.scratch);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let mut record = Record::new(held.scratch, actor, hook as u8);
    fill(record.event());
    record.send_decision(actor, decision, done);
    if matches!(done, Verdict::Kill)
        && let Some(stored) = TASKS.get_ptr_mut(tgid)
    {
        // SAFETY: a single store.
        unsafe { (*stored).kill = 1 };
    }
    Some(if done as u8 >= Verdict::Deny as u8 { REFUSE } else { PROCEED })
}
