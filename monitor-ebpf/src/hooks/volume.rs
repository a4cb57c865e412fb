//! How much an instance sends to an address: what a rule with a bound lets out, packet by packet.
//!
//! A socket is [noted](note) when a process in scope connects it or sends from it. What leaves from others is passed over
//! after one look. These programs are attached when a policy sets a bound, and not before.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_sk_fullsock},
    macros::{cgroup_skb, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::verdict::Sensor;
use monitor_common::{
    Verdict, decide,
    event::{Endpoint, Hook},
    policy::{Direction, NetKey},
    socket::{AF_INET, AF_INET6},
    volume::{Limit, LimitKey, PassedKey, Volume, VolumeKey},
};

use super::inbound;
use crate::{
    emit::Record,
    facts::{actor::Actor, add, task},
    lookups::Maps,
    maps::{self, LIMITS, NOEXIST, PASSED, SENDERS, TASKS, VOLUMES},
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// `ETH_P_IP` and `ETH_P_IPV6` of `include/uapi/linux/if_ether.h`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Where the receiver's address is in a packet (RFC 791, RFC 8200), and the receiver's port in TCP and UDP.
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;
const IPV6_HEADER: usize = 40;
const DESTINATION_PORT: usize = 2;

#[cgroup_sock_addr(connect4)]
fn volume_connect4(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

#[cgroup_sock_addr(connect6)]
fn volume_connect6(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

#[cgroup_sock_addr(sendmsg4)]
fn volume_sendmsg4(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

#[cgroup_sock_addr(sendmsg6)]
fn volume_sendmsg6(ctx: SockAddrContext) -> i32 {
    let _ = note(&ctx);
    PASS
}

/// Notes whose the socket is that is about to send.
#[inline(always)]
fn note(ctx: &SockAddrContext) -> Option<()> {
    let current = task::current();
    let tgid = task::tgid(current)?;
    // SAFETY: the value is changed by single stores only.
    let label = unsafe { TASKS.get(tgid) }?;
    // SAFETY: the helper takes the context of these programs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    // A program that sends datagrams comes by here with each of them.
    // SAFETY: written once, when the socket is noted first.
    if unsafe { SENDERS.get(cookie) }.is_some() {
        return None;
    }
    SENDERS.insert(cookie, inbound::owner(current, tgid, label)?, 0).ok()
}

#[cgroup_skb(egress)]
fn volume_packet(ctx: SkBuffContext) -> i32 {
    judge(&ctx).unwrap_or(PASS)
}

/// What is known of the socket that a packet leaves from.
struct From {
    protocol: u8,
    /// The port that it is connected to, host byte order; 0 when it is not.
    connected: u16,
}

#[inline(always)]
fn from(ctx: &SkBuffContext) -> Option<From> {
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
        let connected = u16::from_be(core::ptr::read_volatile(&raw const (*sk).dst_port) as u16);
        Some(From { protocol, connected })
    }
}

/// Who a packet is for.
#[inline(always)]
fn receiver(ctx: &SkBuffContext) -> Option<Endpoint> {
    let From { protocol, connected } = from(ctx)?;
    // SAFETY: as above.
    let kind = u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).protocol) } as u16);
    let (address, family, transport) = match kind {
        IPV4 => {
            let first: u8 = ctx.load(0).ok()?;
            (decide::map_v4(ctx.load(IPV4_DESTINATION).ok()?), AF_INET, usize::from(first & 0xf) * 4)
        }
        IPV6 => (ctx.load(IPV6_DESTINATION).ok()?, AF_INET6, IPV6_HEADER),
        _ => return None,
    };
    // With extension headers in between it is another number: a socket that is connected knows better.
    let port = if connected == 0 { u16::from_be(ctx.load(transport + DESTINATION_PORT).ok()?) } else { connected };
    Some(Endpoint { address, port, local_port: 0, family, protocol, pad: 0 })
}

#[inline(always)]
fn judge(ctx: &SkBuffContext) -> Option<i32> {
    // SAFETY: the helper takes the context of these programs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    // SAFETY: written once, when the socket is noted.
    let owner = unsafe { SENDERS.get(cookie) }?;
    let actor = Actor::of(&owner.label, Sensor::Cgroup)?;
    let end = receiver(ctx)?;
    let (epoch, instance) = (actor.subject.epoch, actor.subject.slot);
    let key = NetKey { epoch, instance, direction: Direction::Egress as u16, address: end.address };
    let rule = decide::net(&Maps::WITH_NAMES, &actor.subject, &key, end.port, end.protocol).rule;
    // SAFETY: entries of an epoch are not changed while the epoch is current.
    let limit = unsafe { LIMITS.get(LimitKey { epoch, rule: rule.into() }) }?;
    let of = VolumeKey { address: end.address, instance, hours: limit.hours as u16 };
    let sent = count(&of, ctx.len().into())?;
    let decision = decide::volume(limit, sent.bytes, rule);
    let done = actor.sensor.apply(decision.verdict, decision.fallback, actor.enforces());
    if (done as u8) < Verdict::Log as u8 {
        return None;
    }
    let answer = if done as u8 >= Verdict::Deny as u8 { DROP } else { PASS };
    let passed =
        PassedKey { address: end.address, since_ns: sent.since_ns, instance, rule, verdict: u32::from(done as u8) };
    // The first is told of; an insertion that fails when the entry is there can be first only once.
    if PASSED.insert(passed, 1, NOEXIST).is_err() {
        return Some(answer);
    }
    tell(&actor, owner, &end, limit, &sent, &decision, done);
    Some(answer)
}

/// Hands over that a bound was passed.
#[inline(always)]
fn tell(
    actor: &Actor,
    owner: &monitor_common::inbound::Owner,
    end: &Endpoint,
    limit: &Limit,
    sent: &Volume,
    decision: &decide::Decision,
    done: Verdict,
) {
    let Some(held) = maps::hold() else { return };
    let mut record = Record::about(held.scratch, actor, Hook::Volume as u8, owner);
    let event = record.event();
    event.endpoint = *end;
    (event.bytes, event.detail, event.count) = (sent.bytes, limit.bytes, limit.hours.into());
    record.send_decision(actor, decision, done);
}

/// Adds a packet to what has left for an address; answers with all that has in this span.
#[inline(always)]
fn count(key: &VolumeKey, bytes: u64) -> Option<Volume> {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if let Some(sent) = add_to(key, bytes, now) {
        return Some(sent);
    }
    // A span begins. Of the packets that two CPUs send at this very moment one is not counted when the entry is there
    // from an earlier span: what was added since is replaced.
    let begun = Volume { since_ns: now, bytes };
    let absent = VOLUMES.get_ptr_mut(key).is_none();
    if VOLUMES.insert(key, begun, if absent { NOEXIST } else { 0 }).is_ok() {
        return Some(begun);
    }
    add_to(key, bytes, now)
}

/// The same where a span is under way.
#[inline(always)]
fn add_to(key: &VolumeKey, bytes: u64, now: u64) -> Option<Volume> {
    let sent = VOLUMES.get_ptr_mut(key)?;
    // SAFETY: numbers of a map's value, whose memory stays the map's; other CPUs add meanwhile, and so does this.
    unsafe {
        let since_ns = core::ptr::read_volatile(&raw const (*sent).since_ns);
        if Volume::is_over(since_ns, now, key.hours) {
            return None;
        }
        add(&raw mut (*sent).bytes, bytes);
        Some(Volume { since_ns, bytes: core::ptr::read_volatile(&raw const (*sent).bytes) })
    }
}
