//! What comes in to the sockets of an instance: the only place where a peer can be refused.
//!
//! The kernel answers a peer before any process asks for the connection, and `accept` cannot send it away any more. So the
//! programs at `bind` note whose a socket is, and the program on packets drops what a rule denies: all that is sent to a
//! listener, and datagrams to a socket whose port was asked for. Answers to what the instance has sent are neither.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_sk_fullsock},
    macros::{cgroup_skb, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::{
    Verdict, decide,
    event::{Endpoint, Hook},
    inbound::{Owner, PeerKey, PeerTold, TELL_AGAIN_NS},
    policy::{Direction, NetKey},
    scope::TaskLabel,
    socket::{AF_INET, AF_INET6, TCP, UDP},
    verdict::Sensor,
};

use crate::{
    emit::Record,
    facts::{actor::Actor, offset, pointer, task, word},
    lookups::Maps,
    maps::{self, OWNERS, PEERS, TASKS},
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// `ETH_P_IP` and `ETH_P_IPV6` of `include/uapi/linux/if_ether.h`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Where the sender's address is in a packet (RFC 791, RFC 8200).
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;
const IPV6_HEADER: usize = 40;

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

/// What is known of the socket that a packet has reached.
struct Reached {
    port: u16,
    protocol: u8,
}

/// The socket, when it is one that strangers may reach: a listener, or one for datagrams.
#[inline(always)]
fn reached(ctx: &SkBuffContext) -> Option<Reached> {
    // SAFETY: the context is the kernel's; the verifier wants to see the null checks and each field read by itself.
    unsafe {
        let sk = core::ptr::read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return None;
        }
        let protocol = core::ptr::read_volatile(&raw const (*sk).protocol) as u8;
        let open = match protocol {
            TCP => core::ptr::read_volatile(&raw const (*sk).state) == LISTENS,
            UDP => true,
            _ => false,
        };
        let port = core::ptr::read_volatile(&raw const (*sk).src_port) as u16;
        open.then_some(Reached { port, protocol })
    }
}

/// The sender's address and port.
#[inline(always)]
fn sender(ctx: &SkBuffContext) -> Option<Endpoint> {
    // SAFETY: as above.
    let protocol = u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).protocol) } as u16);
    let (address, family, ports) = match protocol {
        IPV4 => {
            let first: u8 = ctx.load(0).ok()?;
            (decide::map_v4(ctx.load(IPV4_SOURCE).ok()?), AF_INET, usize::from(first & 0xf) * 4)
        }
        IPV6 => (ctx.load(IPV6_SOURCE).ok()?, AF_INET6, IPV6_HEADER),
        _ => return None,
    };
    // Only told, not judged: with extension headers in between it is another number.
    let port = u16::from_be(ctx.load(ports).unwrap_or(0));
    Some(Endpoint { address, port, local_port: 0, family, protocol: 0, pad: 0 })
}

#[inline(always)]
fn judge(ctx: &SkBuffContext) -> Option<i32> {
    let Reached { port, protocol } = reached(ctx)?;
    // SAFETY: the helper takes the context of these programs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    // SAFETY: written once, when the socket is bound.
    let owner = unsafe { OWNERS.get(cookie) }?;
    let actor = Actor::of(&owner.label, Sensor::Cgroup)?;
    let peer = Endpoint { local_port: port, protocol, ..sender(ctx)? };
    let key = NetKey {
        epoch: actor.subject.epoch,
        instance: actor.subject.slot,
        direction: Direction::Ingress as u16,
        address: peer.address,
    };
    let decision = decide::net(&Maps::WITHOUT_ROOM, &actor.subject, &key, port, protocol);
    if (decision.verdict as u8) < Verdict::Log as u8 {
        return None;
    }
    let done = actor.sensor.apply(decision.verdict, decision.fallback, actor.enforces());
    // A rule that kills, kills who accepts; and what is let in is told when it is accepted.
    if protocol == TCP && !matches!(done, Verdict::Deny) {
        return None;
    }
    // Nobody sends a datagram's reader to its death from outside.
    let refused = (done as u8) >= Verdict::Deny as u8;
    let done = if refused { Verdict::Deny } else { done };
    let answer = if refused { DROP } else { PASS };
    let told = PeerKey {
        address: peer.address,
        instance: key.instance,
        port,
        rule: decision.rule,
        protocol,
        verdict: done as u8,
    };
    let Some(silent) = to_tell(&told) else { return Some(answer) };
    let Some(held) = maps::hold() else { return Some(answer) };
    let mut record = Record::about(held.scratch, &actor, Hook::Accept as u8, owner);
    let event = record.event();
    event.endpoint = peer;
    event.count = silent;
    record.send_decision(&actor, &decision, done);
    Some(answer)
}

/// Whether a peer is to be told of now, and how many of its packets were not since the last time.
#[inline(always)]
fn to_tell(key: &PeerKey) -> Option<u64> {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut silent = 0;
    if let Some(told) = PEERS.get_ptr_mut(key) {
        // SAFETY: numbers of a map's value; a count lost to another CPU is no more than a count.
        unsafe {
            if now.saturating_sub((*told).at_ns) < TELL_AGAIN_NS {
                (*told).silent += 1;
                return None;
            }
            silent = (*told).silent;
        }
    }
    let _ = PEERS.insert(key, PeerTold { at_ns: now, silent: 0 }, 0);
    Some(silent)
}
