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
    decide::{Decision, Subject},
    event::{Endpoint, Event, Hook},
    policy::{Class, Direction, NetKey},
    scope::TaskLabel,
    verdict::Sensor,
};

use super::socket::{AF_INET, AF_INET6, SOCK_RAW};
use crate::{
    emit::Record,
    facts::task,
    lookups::{self, Maps},
    maps::{self, TASKS},
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

/// A raw socket is made.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    judge_creation(&ctx).unwrap_or(PROCEED)
}

/// The mark and tgid of the current task, read without the helper that older kernels keep from these programs.
#[inline(always)]
fn label() -> Option<(u32, &'static TaskLabel)> {
    let tgid = task::tgid(task::current())?;
    // SAFETY: the value is changed by single stores only.
    unsafe { TASKS.get(tgid) }.map(|label| (tgid, label))
}

#[inline(always)]
fn judge_address(ctx: &SockAddrContext, hook: Hook, family: u16) -> Option<i32> {
    let (tgid, label) = label()?;
    let subject = lookups::subject(label.instance)?;
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
    let key = NetKey { epoch: subject.epoch, instance: subject.slot, direction: Direction::Egress as u16, address };
    let decision = decide::net(&Maps, &subject, &key, port, protocol);
    let endpoint = Endpoint { address, port, local_port: 0, family, protocol, pad: 0 };
    carry_out(tgid, label, &subject, hook, &decision, |event| event.endpoint = endpoint)
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
            core::ptr::read_volatile(&raw const raw.type_),
            core::ptr::read_volatile(&raw const raw.protocol),
        )
    };
    if u64::from(kind) != SOCK_RAW {
        return None;
    }
    let (tgid, label) = label()?;
    let subject = lookups::subject(label.instance)?;
    let decision = decide::class(&subject, Class::RawSocket, Access::NONE);
    carry_out(tgid, label, &subject, Hook::Socket, &decision, |event| {
        event.detail = u64::from(family) << 32 | u64::from(kind) << 16 | u64::from(protocol & 0xffff);
        event.endpoint.family = family as u16;
        event.endpoint.protocol = protocol as u8;
    })
}

#[inline(always)]
fn carry_out(
    tgid: u32,
    label: &TaskLabel,
    subject: &Subject<'_>,
    hook: Hook,
    decision: &Decision,
    fill: impl FnOnce(&mut Event),
) -> Option<i32> {
    let scratch = maps::scratch()?;
    let enforce = subject.instance.enforce != 0;
    let done = Sensor::Cgroup.apply(decision.verdict, decision.fallback, enforce);
    let done = Verdict::from_raw(scratch.launder(done as u32) as u8);
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let mut record = Record::new(scratch, hook, Sensor::Cgroup, label, subject.slot, subject.epoch);
    fill(record.event());
    record.send_decision(decision, done, enforce);
    if matches!(done, Verdict::Kill)
        && let Some(stored) = TASKS.get_ptr_mut(tgid)
    {
        // SAFETY: a single store.
        unsafe { (*stored).kill = 1 };
    }
    Some(if done as u8 >= Verdict::Deny as u8 { REFUSE } else { PROCEED })
}
