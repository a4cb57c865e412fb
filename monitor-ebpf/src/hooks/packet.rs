//! A packet that passes a cgroup: who is at its other end, and the socket that it leaves from or has reached.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    programs::SkBuffContext,
};
use monitor_common::{
    decide::map_v4,
    socket::{AF_INET, AF_INET6},
};

/// The packet goes on its way.
pub(super) const PASS: i32 = 1;
/// It does not.
pub(super) const DROP: i32 = 0;

/// `ETH_P_IP` and `ETH_P_IPV6` of `include/uapi/linux/if_ether.h`.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Where the number of the transport's protocol is in a header (RFC 791, RFC 8200).
const IPV4_PROTOCOL: usize = 9;
const IPV6_NEXT_HEADER: usize = 6;
/// Bytes of a header of IPv6.
const IPV6_HEADER: u32 = 40;

/// An end of a packet's way, by where its address is in the header of IPv4 and of IPv6 (RFC 791, RFC 8200), and its port
/// in that of TCP and UDP.
#[derive(Clone, Copy)]
pub(super) struct End {
    ipv4: usize,
    ipv6: usize,
    port: u32,
}

/// Where a packet comes from.
pub(super) const SENDER: End = End { ipv4: 12, ipv6: 8, port: 0 };
/// Where it goes to.
pub(super) const RECEIVER: End = End { ipv4: 16, ipv6: 24, port: 2 };

/// One end of a packet, and what it carries.
pub(super) struct Packet {
    /// The address of the end.
    pub(super) address: [u8; 16],
    pub(super) family: u16,
    /// As the header says: with extension headers of IPv6 in between it is another number than the socket's.
    pub(super) protocol: u8,
    /// Where the header of the transport begins, if there are none.
    pub(super) transport: u32,
    end: End,
}

impl Packet {
    #[inline(always)]
    pub(super) fn read(ctx: &SkBuffContext, end: End) -> Option<Self> {
        // SAFETY: the context is the kernel's and outlives the program.
        let kind = u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*ctx.skb.skb).protocol) } as u16);
        let (address, family, protocol, transport) = match kind {
            IPV4 => {
                let first: u8 = ctx.load(0).ok()?;
                (map_v4(ctx.load(end.ipv4).ok()?), AF_INET, IPV4_PROTOCOL, u32::from(first & 0xf) * 4)
            }
            IPV6 => (ctx.load(end.ipv6).ok()?, AF_INET6, IPV6_NEXT_HEADER, IPV6_HEADER),
            _ => return None,
        };
        Some(Self { address, family, protocol: ctx.load(protocol).ok()?, transport, end })
    }

    /// The port of the end.
    #[inline(always)]
    pub(super) fn port(&self, ctx: &SkBuffContext) -> Option<u16> {
        load16(ctx, self.transport + self.end.port)
    }
}

/// A number of a header.
#[inline(always)]
pub(super) fn load16(ctx: &SkBuffContext, at: u32) -> Option<u16> {
    ctx.load(at as usize).ok().map(u16::from_be_bytes)
}

/// The number that the kernel gives to the socket of a packet; 0 when there is none.
#[inline(always)]
pub(super) fn cookie(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the helper takes the context of these programs.
    unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) }
}

/// The socket of a packet, when it is a full one and not a request for a connection.
#[derive(Clone, Copy)]
pub(super) struct Socket(*const bpf_sock);

impl Socket {
    #[inline(always)]
    pub(super) fn of(ctx: &SkBuffContext) -> Option<Self> {
        // SAFETY: the context is the kernel's; the verifier wants to see both null checks.
        let sock = unsafe {
            let sock = core::ptr::read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk);
            if sock.is_null() {
                return None;
            }
            bpf_sk_fullsock(sock)
        };
        (!sock.is_null()).then_some(Self(sock))
    }

    #[inline(always)]
    pub(super) fn protocol(self) -> u8 {
        // SAFETY: a socket that is not null; the verifier lets its fields be read one by one.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).protocol) as u8 }
    }

    /// A `TCP_*` of `include/net/tcp_states.h`.
    #[inline(always)]
    pub(super) fn state(self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).state) }
    }

    /// The port that it is bound to.
    #[inline(always)]
    pub(super) fn own_port(self) -> u16 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).src_port) as u16 }
    }

    /// The port that it is connected to; 0 when it is not.
    #[inline(always)]
    pub(super) fn connected_port(self) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*self.0).dst_port) as u16 })
    }
}
