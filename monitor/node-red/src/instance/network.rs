//! What a process listens on, and the addresses of the network it lives in, as /proc has them.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use serde::Serialize;

/// A TCP socket that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listen {
    /// The address that it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What a process listens on; empty when its descriptors cannot be read.
#[must_use]
pub fn listens(pid: u32) -> Vec<Listen> {
    let base = Path::new("/proc").join(pid.to_string());
    let own: BTreeSet<u64> = fs::read_dir(base.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    let mut found = BTreeSet::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(base.join(table)).unwrap_or_default();
        found.extend(
            text.lines().filter_map(listener).filter(|(inode, _)| own.contains(inode)).map(|(_, listen)| listen),
        );
    }
    found.into_iter().collect()
}

/// A line of /proc/net/tcp or tcp6 that is about a listener, with the inode of its socket.
fn listener(line: &str) -> Option<(u64, Listen)> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    // TCP_LISTEN, see proc_pid_net(5).
    (fields.nth(1)? == "0A").then_some(())?;
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    Some((inode, Listen { address: hex_address(address)?, port: u16::from_str_radix(port, 16).ok()? }))
}

/// Words of four bytes, each in the machine's own order.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The addresses of the network that a process lives in.
#[must_use]
pub fn addresses(pid: Option<u32>) -> Vec<IpAddr> {
    let base = Path::new("/proc").join(pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string())).join("net");
    let trie = fs::read_to_string(base.join("fib_trie")).unwrap_or_default();
    let v6 = fs::read_to_string(base.join("if_inet6")).unwrap_or_default();
    let found: BTreeSet<_> = local_v4(&trie).into_iter().chain(v6.lines().filter_map(local_v6)).collect();
    found.into_iter().collect()
}

/// The leaves of the routing table that are addresses of this machine.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut leaf: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.map(IpAddr::from));
        }
    }
    found
}

fn local_v6(line: &str) -> Option<IpAddr> {
    let digits = line.split_whitespace().next()?;
    u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32).map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// Whether an address may be reachable from the Internet, judged by the address alone.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let shared = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_documentation()
                || shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listeners_of_this_process_are_found() {
        let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).ok());
        let found = listens(std::process::id());
        for socket in sockets.into_iter().flatten() {
            let local = socket.local_addr().unwrap();
            assert!(found.contains(&Listen { address: local.ip(), port: local.port() }), "{local}: {found:?}");
        }
        assert!(addresses(None).contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_public_address_is_none_that_is_set_aside() {
        for public in ["8.8.8.8", "2a00::1", "100.128.0.1", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in
            ["10.1.2.3", "127.0.0.1", "::1", "fe80::1", "fd00::1", "100.64.0.1", "0.0.0.0", "::ffff:10.0.0.1"]
        {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn what_is_no_table_gives_nothing() {
        for line in ["", "sl local", "0: 0100007F:07 0 0A", "0: XX:0050 00000000:0000 0A 0 0 0 0 0 7"] {
            assert_eq!(listener(line), None, "{line}");
        }
    }
}
