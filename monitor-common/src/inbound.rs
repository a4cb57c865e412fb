//! Owners of sockets that receive traffic, and the peers that were reported.
//!
//! A packet comes in when no process asks for it, so nothing about the current task says whose it is. The socket does: it
//! was noted when it was bound.

use crate::{event::COMM_LEN, scope::TaskLabel, shared};

/// The process that bound a socket, by the socket's cookie, which the kernel never gives twice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its mark at that time.
    pub label: TaskLabel,
    /// `CLOCK_BOOTTIME` of its start, nanoseconds; 0 for one that ran before the guard came.
    pub start_ns: u64,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// tgid.
    pub tgid: u32,
    /// Real uid.
    pub uid: u32,
    /// Real gid.
    pub gid: u32,
    /// Effective uid.
    pub euid: u32,
    /// Command name.
    pub comm: [u8; COMM_LEN],
}

/// Somebody who sends to a port of an instance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// Network byte order, IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// Slot of the instance.
    pub instance: u16,
    /// The instance's port, host byte order.
    pub port: u16,
    /// Index of the rule. A match of another rule or policy is reported again.
    pub rule: u16,
    /// An `IPPROTO_*` number.
    pub protocol: u8,
    /// What is done, a [`crate::Verdict`].
    pub verdict: u8,
}

/// Report about a peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTold {
    /// When, `CLOCK_BOOTTIME` in nanoseconds.
    pub at_ns: u64,
    /// Packets since then with the same verdict that were not reported.
    pub silent: u64,
}

/// A peer that continues is reported again after this time: a client retries a closed port for minutes.
pub const TELL_AGAIN_NS: u64 = 60_000_000_000;

shared!(Owner = 64, PeerKey = 24, PeerTold = 16);
