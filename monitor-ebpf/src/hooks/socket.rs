//! Sockets as the tracepoints see them: accepted connections, listeners, sockets bound to a port, UNIX sockets by path, packet sockets; and
//! Internet connections where no cgroup program can be attached.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, Verdict, decide,
    event::{Endpoint, FLAG_AFTER, Hook},
    policy::{CONTROL_CGROUP, Class, Direction, NetKey},
    socket::{self, AF_INET, AF_INET6, AF_UNIX},
};

use super::{Request, judge, judge_place};
use crate::{
    facts::{
        actor::Actor,
        call::Call,
        file::{File, path_at},
        offset, pointer, read,
    },
    lookups::Maps,
    maps::{self, CONTROL, Scratch},
};

const EINPROGRESS: i64 = -115;

/// Whether Internet sockets are left to the cgroup programs.
#[inline(always)]
pub(super) fn left_to_cgroup() -> bool {
    CONTROL.get(0).is_some_and(|control| control.flags & CONTROL_CGROUP != 0)
}

/// The `struct sock` behind a descriptor.
#[inline(always)]
fn sock(fd: i32) -> Option<u64> {
    let socket = pointer(File::from_fd(fd)?.0, offset!(file_private))?;
    pointer(socket, offset!(socket_sk))
}

/// The peer of an Internet socket.
#[inline(always)]
pub(super) fn peer(sock: u64) -> Option<Endpoint> {
    endpoint(sock, offset!(sock_daddr), offset!(sock_v6_daddr))
}

/// The address that an Internet socket is bound to.
#[inline(always)]
fn own(sock: u64) -> Option<Endpoint> {
    endpoint(sock, offset!(sock_own_addr), offset!(sock_v6_own_addr))
}

#[inline(always)]
fn endpoint(sock: u64, v4: u32, v6: u32) -> Option<Endpoint> {
    let family: u16 = read(sock, offset!(sock_family))?;
    let address = match family {
        AF_INET => decide::map_v4(read(sock, v4)?),
        AF_INET6 => read(sock, v6)?,
        _ => return None,
    };
    Some(Endpoint {
        address,
        port: u16::from_be(read(sock, offset!(sock_dport))?),
        local_port: read(sock, offset!(sock_num))?,
        family,
        protocol: read::<u16>(sock, offset!(sock_protocol))? as u8,
        pad: 0,
    })
}

/// Judges the peer of a socket, or the address that it is bound to. A function of its own: its stack and that of what is
/// done about UNIX sockets would not fit in one frame. The hook is a constant, and with it the direction: the verifier does
/// not take an index into an array of defaults that was computed.
#[inline(never)]
fn judge_end<const HOOK: u8>(actor: &Actor, sock: u64) {
    let _ = end::<HOOK>(actor, sock);
}

#[inline(always)]
fn end<const HOOK: u8>(actor: &Actor, sock: u64) -> Option<()> {
    let scratch = maps::scratch()?;
    if HOOK == Hook::Bind as u8 {
        judge_endpoint(scratch, actor, Hook::Bind, Direction::Ingress, &own(sock)?, FLAG_AFTER);
    } else if HOOK == Hook::Accept as u8 {
        judge_endpoint(scratch, actor, Hook::Accept, Direction::Ingress, &peer(sock)?, FLAG_AFTER);
    } else {
        judge_endpoint(scratch, actor, Hook::Connect, Direction::Egress, &peer(sock)?, FLAG_AFTER);
    }
    Some(())
}

/// Judges the other end of a connection, or the end that is ours.
#[inline(always)]
pub(super) fn judge_endpoint(
    scratch: &mut Scratch,
    actor: &Actor,
    hook: Hook,
    direction: Direction,
    peer: &Endpoint,
    flags: u32,
) -> Verdict {
    let key = NetKey {
        epoch: actor.subject.epoch,
        instance: actor.subject.slot,
        direction: direction as u16,
        address: peer.address,
    };
    // A rule for incoming connections names our port, one for outgoing ones the other's.
    let port = if matches!(direction, Direction::Ingress) { peer.local_port } else { peer.port };
    let decision = decide::net(&Maps::WITHOUT_BUFFER, &actor.subject, &key, port, peer.protocol);
    judge(scratch, actor, hook as u8, &decision, |event| {
        event.endpoint = *peer;
        event.flags |= flags;
    })
}

/// Judges the making of a socket that nothing else judges.
#[inline(always)]
pub(super) fn judge_socket(
    scratch: &mut Scratch,
    actor: &Actor,
    family: u32,
    kind: u16,
    protocol: u16,
    flags: u32,
) -> Option<Verdict> {
    let decision = match socket::class(family, kind, protocol)? {
        Class::RawSocket => decide::class(&actor.subject, Class::RawSocket, Access::NONE),
        _ => decide::class(&actor.subject, Class::Socket, Access::NONE),
    };
    Some(judge(scratch, actor, Hook::Socket as u8, &decision, |event| {
        event.detail = detail(family, kind, protocol);
        event.endpoint.family = family as u16;
        event.endpoint.protocol = protocol as u8;
        event.flags |= flags;
    }))
}

/// What a record says about a socket that was made.
#[inline(always)]
pub(super) fn detail(family: u32, kind: u16, protocol: u16) -> u64 {
    u64::from(family) << 32 | u64::from(kind & socket::TYPE_MASK) << 16 | u64::from(protocol)
}

/// `accept`, `accept4`: the peer comes from the socket, since Node passes no buffer for it.
#[raw_tracepoint]
fn accept_exit(ctx: RawTracePointContext) -> i32 {
    let _ = accept(&ctx);
    0
}

#[inline(always)]
fn accept(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    judge_end::<{ Hook::Accept as u8 }>(&call.actor, sock(i32::try_from(call.ret).ok()?)?);
    Some(())
}

/// `connect` and `bind`: UNIX sockets by the identity of the file that they are bound to.
#[raw_tracepoint]
fn connect_exit(ctx: RawTracePointContext) -> i32 {
    let _ = connect(&ctx);
    0
}

#[inline(always)]
fn connect(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    if call.ret < 0 && call.ret != EINPROGRESS {
        return None;
    }
    let sock = sock(call.arg(0)? as i32)?;
    let binds = call.spec.hook == Hook::Bind as u8;
    if read::<u16>(sock, offset!(sock_family))? != AF_UNIX {
        if binds {
            judge_end::<{ Hook::Bind as u8 }>(&call.actor, sock);
        } else if !left_to_cgroup() {
            judge_end::<{ Hook::Connect as u8 }>(&call.actor, sock);
        }
        return Some(());
    }
    // To bind one makes a file.
    let (holder, access, hook) = if binds {
        (sock, Access::CREATE, Hook::Mknod)
    } else {
        (pointer(sock, offset!(unix_peer))?, Access::WRITE, Hook::UnixConnect)
    };
    let (dentry, mount) = path_at(holder + u64::from(offset!(unix_path)))?;
    let request = Request { family: AF_UNIX, flags: FLAG_AFTER, ..Request::new(hook as u8, access) };
    judge_place(maps::scratch()?, &call.actor, dentry, mount, &request);
    Some(())
}

/// `listen`: reported if incoming connections are reported.
#[raw_tracepoint]
fn listen_exit(ctx: RawTracePointContext) -> i32 {
    let _ = listen(&ctx);
    0
}

#[inline(always)]
fn listen(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    if call.ret < 0 {
        return None;
    }
    let peer = peer(sock(call.arg(0)? as i32)?)?;
    let decision = decide::class(&call.actor.subject, Class::Ingress, Access::NONE);
    judge(maps::scratch()?, &call.actor, Hook::Listen as u8, &decision, |event| event.endpoint = peer);
    Some(())
}

/// `socket`: those that no cgroup program sees; all of them where there is none.
#[raw_tracepoint]
fn socket_exit(ctx: RawTracePointContext) -> i32 {
    let _ = socket(&ctx);
    0
}

#[inline(always)]
fn socket(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::exit(ctx)?;
    if call.ret < 0 {
        return None;
    }
    let (family, kind, protocol) = (call.arg(0)? as u32, call.arg(1)? as u16, call.arg(2)? as u16);
    if (family == u32::from(AF_INET) || family == u32::from(AF_INET6)) && left_to_cgroup() {
        return None;
    }
    judge_socket(maps::scratch()?, &call.actor, family, kind, protocol, FLAG_AFTER)?;
    Some(())
}
