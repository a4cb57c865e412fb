//! How much an instance sends to an address: what a rule with a bound lets out, packet by packet.
//!
//! A socket is [noted](note) when a process in scope connects it or sends from it. What leaves from others is passed over
//! after one look. These programs are attached when a policy sets a bound, and not before.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns},
    macros::{cgroup_skb, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::{
    Verdict,
    decide::{self, Decision},
    event::{Endpoint, Hook},
    inbound::Owner,
    policy::{Direction, NetKey},
    verdict::Sensor,
    volume::{Limit, LimitKey, PassedKey, Volume, VolumeKey},
};

use super::{
    inbound,
    packet::{self, DROP, PASS, Packet, RECEIVER, Socket},
};
use crate::{
    emit::Record,
    facts::{actor::Actor, add, task},
    lookups::Maps,
    maps::{self, LIMITS, NOEXIST, PASSED, SENDERS, TASKS, VOLUMES},
    trace::trace,
};

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

/// Who a packet is for.
#[inline(always)]
fn receiver(ctx: &SkBuffContext) -> Option<Endpoint> {
    let (socket, packet) = (Socket::of(ctx)?, Packet::read(ctx, RECEIVER)?);
    // With extension headers in between it is another number: a socket that is connected knows better.
    let connected = socket.connected_port();
    let port = if connected == 0 { packet.port(ctx)? } else { connected };
    let Packet { address, family, .. } = packet;
    Some(Endpoint { address, port, local_port: 0, family, protocol: socket.protocol(), pad: 0 })
}

#[inline(always)]
fn judge(ctx: &SkBuffContext) -> Option<i32> {
    // SAFETY: written once, when the socket is noted.
    let owner = unsafe { SENDERS.get(packet::cookie(ctx)) }?;
    let actor = Actor::of(&owner.label, Sensor::Cgroup)?;
    let end = receiver(ctx)?;
    trace!(fw_trace_volume, end.port.into());
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
    // Only the first is reported: the insertion fails if the entry exists.
    if PASSED.insert(passed, 1, NOEXIST).is_err() {
        return Some(answer);
    }
    report(&actor, owner, &end, limit, &sent, &decision, done);
    Some(answer)
}

/// Hands over that a bound was passed.
#[inline(always)]
fn report(
    actor: &Actor,
    owner: &Owner,
    end: &Endpoint,
    limit: &Limit,
    sent: &Volume,
    decision: &Decision,
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
