//! Answers of resolvers, on their way to an instance's socket: they bind names to addresses before the instance can
//! connect.
//!
//! A socket is [noted](note) when a process in scope connects it, or sends from it, to a resolver of its instance. Of all
//! other packets nothing is looked at beyond that. An answer over UDP counts when the socket has asked for it, by number;
//! one over TCP where the stream stands that the resolver's SYN has begun, so that the middle of an answer cannot
//! pass for one. These programs run without task context: the current task is unrelated.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_skb_load_bytes},
    macros::cgroup_skb,
    maps::lpm_trie::Key,
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::{
    dns::{
        self, Bound, BoundKey, Found, HEADER, Kind, MAX_MESSAGE, MAX_RECORDS, Message, NameKey, NameQuestion, Noted,
        QueryKey, ResolverKey, Stream,
    },
    event::{Endpoint, FLAG_CUT, Hook, TEXT_MAX},
    opaque::Opaque,
    socket::{TCP, UDP},
};

use super::packet::{self, PASS, Packet, RECEIVER, SENDER, load16};
use crate::{
    emit::Record,
    facts::{actor::Actor, offset, pointer, word},
    global,
    maps::{self, BOUND, DNS_RATES, NAMES, QUERIES, RESOLVERS, SOCKETS, STREAMS, Scratch},
    trace::trace,
};

/// Flag of a TCP segment that begins a stream.
const SYN: u8 = 2;
/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;
/// Longest reported question, in bytes.
const MAX_QUESTION: u32 = 1024;
/// Most messages in one segment that are read.
const MAX_IN_SEGMENT: u32 = 4;
/// Bytes of a stream that wait: one that has more is given up.
const GIVEN_UP: u32 = u32::MAX;

/// Notes a socket that is about to talk to a resolver of the instance.
///
/// Not one in a network namespace of a user: there, any process can be the resolver.
#[inline(always)]
pub(super) fn note(ctx: &SockAddrContext, actor: &Actor, tgid: u32, address: &[u8; 16]) -> Option<()> {
    let (epoch, instance) = (actor.subject.epoch, u32::from(actor.subject.slot));
    let key = ResolverKey { address: *address, epoch, instance };
    // SAFETY: only whether it is there is asked.
    unsafe { RESOLVERS.get(key) }?;
    // SAFETY: the context is the kernel's and outlives the program.
    let sock = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk) } as u64;
    let held = maps::hold()?;
    // To the verifier it is a socket until it has been in memory.
    held.scratch.set_location((sock, 0));
    let network = pointer(held.scratch.location().0, offset!(sock_net))?;
    let owner = pointer(network, offset!(net_user_namespace))?;
    if word::<u32>(owner, offset!(user_namespace_level)) != 0 {
        return None;
    }
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    SOCKETS.insert(cookie, Noted { instance, tgid }, 0).ok()
}

/// A socket of an instance, and the policy's epoch.
#[derive(Clone, Copy)]
struct Asking {
    cookie: u64,
    instance: u32,
    tgid: u32,
    epoch: u32,
}

#[inline(always)]
fn noted(ctx: &SkBuffContext) -> Option<Asking> {
    let cookie = packet::cookie(ctx);
    // SAFETY: the value never changes.
    let Noted { instance, tgid } = *unsafe { SOCKETS.get(cookie) }?;
    Some(Asking { cookie, instance, tgid, epoch: crate::lookups::subject(instance as u16)?.epoch })
}

/// A packet leaves.
#[cgroup_skb(egress)]
fn dns_query(ctx: SkBuffContext) -> i32 {
    let _ = query(&ctx);
    PASS
}

#[inline(always)]
fn query(ctx: &SkBuffContext) -> Option<()> {
    let socket = noted(ctx)?;
    // Where it goes is not asked: what a container's resolver is asked is on its way to another port by now.
    let packet = Packet::read(ctx, RECEIVER)?;
    if packet.protocol == TCP {
        let header: u8 = ctx.load(packet.transport as usize + 12).ok()?;
        // After the length of the message.
        return report_question(ctx, socket, &packet, packet.transport + u32::from(header >> 4) * 4 + 2);
    }
    if packet.protocol != UDP {
        return None;
    }
    let message = packet.transport + UDP_HEADER;
    let key = QueryKey { socket: socket.cookie, id: load16(ctx, message)?.into(), pad: 0 };
    // SAFETY: no arguments.
    QUERIES.insert(key, unsafe { bpf_ktime_get_boot_ns() }, 0).ok()?;
    report_question(ctx, socket, &packet, message)
}

/// Hands a question over; `at` is where in the packet it begins.
#[inline(always)]
fn report_question(ctx: &SkBuffContext, socket: Asking, packet: &Packet, at: u32) -> Option<()> {
    let held = maps::hold()?;
    let len = held.scratch.opaque(ctx.len().wrapping_sub(at));
    trace!(fw_trace_dns, socket.instance);
    // A longer message is not a question of a resolver library.
    if !(HEADER..MAX_QUESTION).contains(&len) {
        return None;
    }
    let kind = Kind::of_question(len);
    if !may_report(socket.instance, kind) {
        return None;
    }
    let len = bounded::<MAX_QUESTION>(len);
    let mut record = begin(held.scratch, socket, packet, kind);
    let mut failed = 0;
    record.text(|to| {
        // SAFETY: the destination holds TEXT_MAX bytes; the helper checks the packet's bounds.
        failed = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at, to.cast(), len) };
        len as usize
    });
    if failed == 0 {
        record.send();
    }
    Some(())
}

/// Whether one more message of an instance is reported. Two CPUs at once may count one for two: the bound is approximate.
#[inline(always)]
fn may_report(instance: u32, kind: Kind) -> bool {
    let Some(rate) = DNS_RATES.get_ptr_mut(Kind::COUNT * instance + kind as u32) else { return false };
    // SAFETY: the value of an array lives as long as the map; no arguments.
    unsafe { (*rate).may_report(bpf_ktime_get_boot_ns()) }
}

/// A record about a message with a resolver.
#[inline(always)]
fn begin<'a>(scratch: &'a mut Scratch, socket: Asking, packet: &Packet, kind: Kind) -> Record<'a> {
    let mut record = Record::of_nobody(scratch, Hook::Dns, socket.instance as u16, socket.epoch);
    let event = record.event();
    (event.detail, event.tgid) = (kind.detail(), socket.tgid);
    event.endpoint = Endpoint {
        address: packet.address,
        port: dns::PORT,
        local_port: 0,
        family: packet.family,
        protocol: packet.protocol,
        pad: 0,
    };
    record
}

/// A packet has come for a socket.
#[cgroup_skb(ingress)]
fn dns_answer(ctx: SkBuffContext) -> i32 {
    let _ = answer(&ctx);
    PASS
}

#[inline(always)]
fn answer(ctx: &SkBuffContext) -> Option<()> {
    let socket = noted(ctx)?;
    let packet = Packet::read(ctx, SENDER)?;
    if packet.port(ctx)? != dns::PORT {
        return None;
    }
    let key = ResolverKey { address: packet.address, epoch: socket.epoch, instance: socket.instance };
    // SAFETY: only whether it is there is asked.
    unsafe { RESOLVERS.get(key) }?;
    if packet.protocol == UDP {
        datagram(ctx, socket, &packet)
    } else if packet.protocol == TCP {
        segment(ctx, socket, &packet)
    } else {
        None
    }
}

#[inline(always)]
fn datagram(ctx: &SkBuffContext, socket: Asking, packet: &Packet) -> Option<()> {
    let at = packet.transport + UDP_HEADER;
    let key = QueryKey { socket: socket.cookie, id: load16(ctx, at)?.into(), pad: 0 };
    // SAFETY: only whether it is there is asked.
    unsafe { QUERIES.get(key) }?;
    let work = maps::message()?;
    let len = fill(ctx, at, work, 0)?;
    global::fw_dns_message(0, len, socket.instance, socket.epoch);
    report(work, 0, len, socket, packet);
    Some(())
}

/// Loads the rest of a packet behind what is there already; `at` is where in the packet it begins. Answers how long it is.
#[inline(always)]
fn fill(ctx: &SkBuffContext, at: u32, work: &mut Message, have: u32) -> Option<u32> {
    work.done.set(ctx.len().wrapping_sub(at));
    let len = work.done.get();
    if len == 0 || len >= MAX_MESSAGE as u32 {
        return None;
    }
    let len = bounded::<{ MAX_MESSAGE as u32 }>(len);
    // Through memory, or the compiler would leave the mask out that the verifier needs.
    let have = Opaque::new(have).get() as usize & (MAX_MESSAGE - 1);
    // SAFETY: both are below half of the buffer; the helper checks the packet's bounds.
    let failed = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at, work.bytes.as_mut_ptr().add(have).cast(), len) };
    (failed == 0).then_some(len)
}

/// A piece of a stream: messages, each after its length in two bytes.
#[inline(always)]
fn segment(ctx: &SkBuffContext, socket: Asking, packet: &Packet) -> Option<()> {
    let sequence = ctx.load(packet.transport as usize + 4).ok().map(u32::from_be_bytes)?;
    let header: u8 = ctx.load(packet.transport as usize + 12).ok()?;
    let flags: u8 = ctx.load(packet.transport as usize + 13).ok()?;
    let work = maps::message()?;
    if flags & SYN != 0 {
        let stream: &Stream = maps::new_stream(sequence.wrapping_add(1))?;
        return STREAMS.insert(socket.cookie, stream, 0).ok();
    }
    let at = packet.transport + u32::from(header >> 4) * 4;
    // SAFETY: segments of a connection are not handled by two processors at once; if they were, numbers would be wrong.
    let stream = unsafe { &mut *STREAMS.get_ptr_mut(socket.cookie)? };
    let len = ctx.len().wrapping_sub(at);
    // One that was sent again is passed over. After one that was lost the stream stays where it is: nothing more counts.
    if len == 0 || sequence != stream.next {
        return None;
    }
    stream.next = sequence.wrapping_add(len);
    let have = stream.have;
    if have >= MAX_MESSAGE as u32 {
        return None;
    }
    stream.have = GIVEN_UP;
    copy(work.bytes.as_mut_ptr(), stream.bytes.as_ptr(), have);
    let total = have + fill(ctx, at, work, have)?;
    work.done.set(0);
    for _ in 0..MAX_IN_SEGMENT {
        let at = work.done.get();
        let message = u32::from(work.byte(at)) << 8 | u32::from(work.byte(at + 1));
        let end = at + 2 + message;
        if end > total || total < at + 2 {
            break;
        }
        global::fw_dns_message(at + 2, message, socket.instance, socket.epoch);
        report(work, at + 2, message, socket, packet);
        work.done.set(end);
    }
    let from = work.done.get();
    let rest = total.wrapping_sub(from);
    if rest < MAX_MESSAGE as u32 {
        // SAFETY: the mask keeps it inside.
        let left = unsafe { work.bytes.as_ptr().add(from as usize & (2 * MAX_MESSAGE - 1)) };
        copy(stream.bytes.as_mut_ptr(), left, rest);
        stream.have = rest;
    }
    Some(())
}

/// Copies less than a message's length.
#[inline(always)]
fn copy(to: *mut u8, from: *const u8, len: u32) {
    if len > 0 && len < MAX_MESSAGE as u32 {
        let len = bounded::<{ MAX_MESSAGE as u32 }>(len);
        // SAFETY: the destination holds the longest message; the helper checks the source.
        unsafe { bpf_probe_read_kernel(to.cast(), len, from.cast()) };
    }
}

/// A length from 1 to `MAX`, which is a power of two, in a way that every verifier follows: the compiler checks such a
/// range by one comparison of a difference, from which older ones learn nothing about the length itself.
#[inline(always)]
fn bounded<const MAX: u32>(len: u32) -> u32 {
    (Opaque::new(len.wrapping_sub(1)).get() & (MAX - 1)) + 1
}

/// Hands a message over: userspace knows names by them, also those that no rule is about.
#[inline(always)]
fn report(work: &Message, base: u32, len: u32, socket: Asking, packet: &Packet) {
    if len < HEADER || !may_report(socket.instance, Kind::Answer) {
        return;
    }
    let Some(scratch) = maps::answers() else { return };
    let mut record = begin(scratch, socket, packet, Kind::Answer);
    if len > TEXT_MAX as u32 {
        record.event().flags |= FLAG_CUT;
    }
    // SAFETY: the mask keeps it inside.
    let from = unsafe { work.bytes.as_ptr().add(base as usize & (2 * MAX_MESSAGE - 1)) };
    record.text(|to| {
        let len = bounded::<{ TEXT_MAX as u32 }>(if len > TEXT_MAX as u32 { TEXT_MAX as u32 } else { len });
        // SAFETY: the destination holds TEXT_MAX bytes; the helper checks the source.
        unsafe { bpf_probe_read_kernel(to.cast(), len, from.cast()) };
        len as usize
    });
    record.send();
}

const _: () = assert!(size_of::<NameQuestion>() == size_of::<Key<NameKey>>());

/// Reads a message, and binds the name that was asked for to its addresses where the policy knows the name.
#[inline(always)]
pub(crate) fn message(work: &mut Message, base: u32, len: u32, instance: u32, epoch: u32) -> Option<()> {
    if !work.begin(base, len) || global::fw_dns_name() == 0 {
        return None;
    }
    global::fw_dns_key(instance, epoch);
    // SAFETY: both are a number and a key behind one another, without padding; the trie reads no more.
    let question = unsafe { &*(&raw const work.question).cast::<Key<NameKey>>() };
    work.named.set(*NAMES.get(question)?);
    for _ in 0..MAX_RECORDS {
        let found = global::fw_dns_record();
        if found == Found::Nothing as u32 {
            break;
        }
        if found == Found::Address as u32 {
            global::fw_dns_bind(instance);
        }
    }
    Some(())
}

/// Binds the last address to the name.
#[inline(always)]
pub(crate) fn bind(work: &Message, instance: u32) {
    let key = BoundKey { address: work.address, instance };
    // SAFETY: no arguments.
    let until = work.until(unsafe { bpf_ktime_get_boot_ns() });
    if let Some(bound) = BOUND.get_ptr_mut(key) {
        // SAFETY: the entry may be given to another address meanwhile, which then gets a name too many of the same
        // instance for a moment; the memory stays the map's.
        unsafe { (*bound).add(work.named.get(), until) };
    } else {
        let mut bound = Bound::default();
        bound.add(work.named.get(), until);
        let _ = BOUND.insert(key, bound, 0);
    }
}
