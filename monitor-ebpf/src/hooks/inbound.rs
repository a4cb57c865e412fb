//! What comes in to the sockets of an instance: the only place where a peer can be refused.
//!
//! The kernel answers a peer before any process asks for the connection, and `accept` cannot send it away any more. So the
//! programs at `bind` note whose a socket is, and the program on packets drops what a rule denies: all that is sent to a
//! listener, and datagrams to a socket whose port was asked for. Answers to what the instance has sent are neither.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns},
    macros::{cgroup_skb, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::{
    Verdict, decide,
    event::{Endpoint, Hook},
    inbound::{Owner, PeerKey, PeerTold, TELL_AGAIN_NS},
    policy::{Direction, NetKey},
    scope::TaskLabel,
    socket::{TCP, UDP},
    verdict::Sensor,
};

use super::packet::{self, DROP, PASS, Packet, SENDER, Socket};
use crate::{
    emit::Record,
    facts::{actor::Actor, offset, pointer, task, word},
    lookups::Maps,
    maps::{self, OWNERS, PEERS, TASKS},
    trace::trace,
};

/// `TCP_LISTEN` of `include/net/tcp_states.h`, which is what `struct bpf_sock` has as well.
const LISTENS: u32 = 10;

#[cgroup_sock_addr(bind4)]
fn inbound_bind4(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

#[cgroup_sock_addr(bind6)]
fn inbound_bind6(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

/// Notes whose the socket is that is being bound.
#[inline(always)]
fn note(ctx: &SockAddrContext) -> Option<()> {
    let current = task::current();
    let tgid = task::tgid(current)?;
    // SAFETY: the value is changed by single stores only.
    let label = unsafe { TASKS.get(tgid) }?;
    // SAFETY: the context is the kernel's and outlives the program; each field is read as the verifier asks.
    let (port, protocol) = unsafe {
        let raw = &*ctx.sock_addr;
        (core::ptr::read_volatile(&raw const raw.user_port), core::ptr::read_volatile(&raw const raw.protocol) as u8)
    };
    // Any port will do for a socket that only sends; what comes back to it are answers.
    if protocol == UDP && port == 0 {
        return None;
    }
    // SAFETY: the helper takes the context of these programs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    OWNERS.insert(cookie, owner(current, tgid, label)?, 0).ok()
}

/// The current task as the owner of a socket.
#[inline(always)]
pub(super) fn owner(current: u64, tgid: u32, label: &TaskLabel) -> Option<Owner> {
    let cred = pointer(current, offset!(task_cred))?;
    let leader = pointer(current, offset!(task_leader))?;
    Some(Owner {
        label: *label,
        start_ns: word(leader, offset!(task_start)),
        cgroup: task::cgroup_of(current)?,
        tgid,
        uid: word(cred, offset!(cred_uid)),
        gid: word(cred, offset!(cred_gid)),
        euid: word(cred, offset!(cred_euid)),
        comm: word(leader, offset!(task_comm)),
    })
}

#[cgroup_skb(ingress)]
fn inbound_packet(ctx: SkBuffContext) -> i32 {
    judge(&ctx).unwrap_or(PASS)
}

/// The socket that a packet has reached, when any peer can reach it: a listener, or a datagram socket.
#[inline(always)]
fn reached(ctx: &SkBuffContext) -> Option<Socket> {
    let socket = Socket::of(ctx)?;
    let open = match socket.protocol() {
        TCP => socket.state() == LISTENS,
        UDP => true,
        _ => false,
    };
    open.then_some(socket)
}

#[inline(always)]
fn judge(ctx: &SkBuffContext) -> Option<i32> {
    let socket = reached(ctx)?;
    // SAFETY: written once, when the socket is bound.
    let owner = unsafe { OWNERS.get(packet::cookie(ctx)) }?;
    let (port, protocol) = (socket.own_port(), socket.protocol());
    let actor = Actor::of(&owner.label, Sensor::Cgroup)?;
    trace!(fw_trace_inbound, port.into());
    let sender = Packet::read(ctx, SENDER)?;
    // The peer's port is reported and not judged: after extension headers it is another number.
    let (address, family, theirs) = (sender.address, sender.family, sender.port(ctx).unwrap_or(0));
    let peer = Endpoint { address, port: theirs, local_port: port, family, protocol, pad: 0 };
    let key = NetKey {
        epoch: actor.subject.epoch,
        instance: actor.subject.slot,
        direction: Direction::Ingress as u16,
        address: peer.address,
    };
    let decision = decide::net(&Maps::WITHOUT_BUFFER, &actor.subject, &key, port, protocol);
    if (decision.verdict as u8) < Verdict::Log as u8 {
        return None;
    }
    let done = actor.sensor.apply(decision.verdict, decision.fallback, actor.enforces());
    // A kill rule kills the process that accepts; an allowed connection is reported when it is accepted.
    if protocol == TCP && !matches!(done, Verdict::Deny) {
        return None;
    }
    // A datagram from outside must not kill its reader.
    let refused = (done as u8) >= Verdict::Deny as u8;
    let done = if refused { Verdict::Deny } else { done };
    let answer = if refused { DROP } else { PASS };
    let reported = PeerKey {
        address: peer.address,
        instance: key.instance,
        port,
        rule: decision.rule,
        protocol,
        verdict: done as u8,
    };
    let Some(silent) = to_report(&reported) else { return Some(answer) };
    let Some(held) = maps::hold() else { return Some(answer) };
    let mut record = Record::about(held.scratch, &actor, Hook::Accept as u8, owner);
    let event = record.event();
    event.endpoint = peer;
    event.count = silent;
    record.send_decision(&actor, &decision, done);
    Some(answer)
}

/// Whether a peer is reported now, with the number of its packets that were not reported since the last time.
#[inline(always)]
fn to_report(key: &PeerKey) -> Option<u64> {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut silent = 0;
    if let Some(report) = PEERS.get_ptr_mut(key) {
        // SAFETY: numbers of a map's value; a count lost to another CPU is no more than a count.
        unsafe {
            if now.saturating_sub((*report).at_ns) < TELL_AGAIN_NS {
                (*report).silent += 1;
                return None;
            }
            silent = (*report).silent;
        }
    }
    let _ = PEERS.insert(key, PeerTold { at_ns: now, silent: 0 }, 0);
    Some(silent)
}
