//! Which sockets an instance has business with.

use crate::policy::Class;

/// `AF_*` of include/linux/socket.h.
pub const AF_UNIX: u16 = 1;
/// IPv4
pub const AF_INET: u16 = 2;
/// IPv6
pub const AF_INET6: u16 = 10;
/// The kernel.
pub const AF_NETLINK: u16 = 16;
/// Whole frames.
pub const AF_PACKET: u16 = 17;

/// `IPPROTO_TCP`
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`
pub const UDP: u8 = 17;

/// `SOCK_*` of include/linux/net.h: the type without its flags.
pub const TYPE_MASK: u16 = 0xf;
const STREAM: u16 = 1;
const DATAGRAM: u16 = 2;
const RAW: u16 = 3;

/// `NETLINK_ROUTE`, by which a program learns its own addresses.
const ROUTE: u16 = 0;
const ANY: u16 = 0;
const STREAMS: u16 = TCP as u16;
const DATAGRAMS: u16 = UDP as u16;
/// MPTCP (RFC 8684), which newer runtimes ask for in place of TCP.
const MPTCP: u16 = 262;

/// The class of a socket of this family, type and protocol; `None` for what every program makes.
///
/// UNIX sockets are judged by the file that they are bound to, TCP and UDP by address. Nothing judges the addresses of
/// other transports (SCTP, ICMP echo, ...), so that the socket itself is what can be refused.
#[inline(always)]
#[must_use]
pub const fn class(family: u32, kind: u16, protocol: u16) -> Option<Class> {
    let kind = kind & TYPE_MASK;
    if family == AF_PACKET as u32 {
        return Some(Class::RawSocket);
    }
    if family == AF_INET as u32 || family == AF_INET6 as u32 {
        if kind == RAW {
            return Some(Class::RawSocket);
        }
        let usual =
            matches!((kind, protocol), (STREAM | DATAGRAM, ANY) | (STREAM, STREAMS | MPTCP) | (DATAGRAM, DATAGRAMS));
        return if usual { None } else { Some(Class::Socket) };
    }
    if family == AF_UNIX as u32 || (family == AF_NETLINK as u32 && protocol == ROUTE) {
        return None;
    }
    Some(Class::Socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQPACKET: u16 = 5;

    #[test]
    fn what_every_program_makes_is_nobodys_business() {
        const CLOEXEC: u16 = 1 << 8;
        for (family, kind, protocol) in [
            (AF_UNIX, STREAM, 0),
            (AF_INET, STREAM, 0),
            (AF_INET, STREAM | CLOEXEC, TCP.into()),
            (AF_INET6, STREAM, MPTCP),
            (AF_INET6, DATAGRAM, UDP.into()),
            (AF_NETLINK, RAW, ROUTE),
        ] {
            assert_eq!(class(family.into(), kind, protocol), None, "{family} {kind} {protocol}");
        }
    }

    #[test]
    fn raw_and_odd_sockets_have_classes_of_their_own() {
        for (family, kind, protocol) in [(AF_INET, RAW, 1), (AF_INET6, RAW, 0), (AF_PACKET, DATAGRAM, 0)] {
            assert_eq!(class(family.into(), kind, protocol), Some(Class::RawSocket), "{family} {kind} {protocol}");
        }
        // SCTP in three spellings, ICMP echo, NETLINK_SOCK_DIAG, AF_ALG, AF_VSOCK, a family that cannot be.
        for (family, kind, protocol) in [
            (u32::from(AF_INET), STREAM, 132),
            (u32::from(AF_INET6), SEQPACKET, 132),
            (u32::from(AF_INET), SEQPACKET, 0),
            (u32::from(AF_INET), DATAGRAM, 1),
            (u32::from(AF_NETLINK), RAW, 4),
            (38, SEQPACKET, 0),
            (40, STREAM, 0),
            (0x1_0002, STREAM, 0),
        ] {
            assert_eq!(class(family, kind, protocol), Some(Class::Socket), "{family} {kind} {protocol}");
        }
    }
}
