//! Sockets that are made, bound and listened on, whatever their family; UNIX sockets, by the file that they are bound to.
//! Connections and datagrams of Internet sockets are the cgroup programs'.

use monitor_common::{
    Access, Verdict, decide,
    event::{Endpoint, Hook},
    policy::{Class, Direction},
    socket::{AF_INET, AF_INET6, AF_UNIX},
};

use super::Args;
use crate::{
    facts::{actor::Actor, file::path_at, offset, pointer, read, word},
    hooks::{
        Request, judge, judge_place,
        socket::{judge_endpoint, judge_socket, left_to_cgroup, peer},
    },
    maps::Scratch,
};

#[inline(always)]
pub(super) fn connect<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge_holder(actor, scratch, args.arg(1))
}

#[inline(always)]
pub(super) fn send<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge_holder(actor, scratch, pointer(args.arg(1), offset!(socket_sk))?)
}

/// Judges access to the socket of the other side; a socket without a file is not judged here.
#[inline(always)]
fn judge_holder(actor: &Actor, scratch: &mut Scratch, other: u64) -> Option<Verdict> {
    let (dentry, mount) = path_at(other + u64::from(offset!(unix_path)))?;
    let request = Request { family: AF_UNIX, ..Request::new(Hook::UnixConnect as u8, Access::WRITE) };
    Some(judge_place(scratch, actor, dentry, mount, &request))
}

/// Offsets in `struct sockaddr_in` and `sockaddr_in6`, which are the same on every kernel (ip(7), ipv6(7)).
const SOCKADDR_PORT: u32 = 2;
const SOCKADDR_IN_ADDRESS: u32 = 4;
const SOCKADDR_IN6_ADDRESS: u32 = 8;

#[inline(always)]
pub(super) fn create<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let (family, kind, protocol) = (args.arg(0) as u32, args.arg(1) as u16, args.arg(2) as u16);
    // The kernel makes some for itself; those of the Internet meet a cgroup program on their way.
    let internet = family == u32::from(AF_INET) || family == u32::from(AF_INET6);
    if args.arg(3) as u32 != 0 || (internet && left_to_cgroup()) {
        return None;
    }
    judge_socket(scratch, actor, family, kind, protocol, 0)
}

/// A socket that was created before the guard started, or by another process, is connected.
#[inline(always)]
pub(super) fn connect_any<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let sock = pointer(args.arg(0), offset!(socket_sk))?;
    let family: u16 = read(sock, offset!(sock_family))?;
    // Addresses of the Internet are judged by the cgroup programs, UNIX sockets by their files.
    if matches!(family, AF_INET | AF_INET6 | AF_UNIX) {
        return None;
    }
    let kind: u16 = read(sock, offset!(sock_type))?;
    judge_socket(scratch, actor, u32::from(family), kind, word(sock, offset!(sock_protocol)), 0)
}

#[inline(always)]
pub(super) fn bind<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let sock = pointer(args.arg(0), offset!(socket_sk))?;
    let to = args.arg(1);
    let family: u16 = read(to, 0)?;
    let address = match family {
        AF_INET => decide::map_v4(read(to, SOCKADDR_IN_ADDRESS)?),
        AF_INET6 => read(to, SOCKADDR_IN6_ADDRESS)?,
        _ => return None,
    };
    let end = Endpoint {
        address,
        port: 0,
        local_port: u16::from_be(read(to, SOCKADDR_PORT)?),
        family,
        protocol: word::<u16>(sock, offset!(sock_protocol)) as u8,
        pad: 0,
    };
    Some(judge_endpoint(scratch, actor, Hook::Bind, Direction::Ingress, &end, 0))
}

#[inline(always)]
pub(super) fn listen<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    let end = peer(pointer(args.arg(0), offset!(socket_sk))?)?;
    let decision = decide::class(&actor.subject, Class::Ingress, Access::NONE);
    Some(judge(scratch, actor, Hook::Listen as u8, &decision, |event| event.endpoint = end))
}
