//! Two network namespaces joined by a cable: one for Node-RED, one for the world it may or may not talk to.
//!
//! Neither is joined to the machine's own network, so no packet of a test can leave.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{needs, own};

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";

/// A network namespace, removed when it is dropped.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// A new namespace with loopback up.
    pub fn new() -> Result<Self> {
        let namespace = Self { name: own::name() };
        ip(&["netns", "add", &namespace.name])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace. Sockets and processes that it makes stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = Path::new(DIRECTORY).join(&self.name);
        let namespace = fs::File::open(&file).with_context(|| format!("{} is gone", file.display()))?;
        // The namespace is the thread's, and ends with it.
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("setns is refused: the harness needs CAP_SYS_ADMIN")?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread in a namespace panicked"))?
    }

    /// Gives it one more address of its own.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        self.ip(&["address", "add", &address.to_string(), "dev", "lo"])
    }

    /// Has what is sent to one port of an address arrive at another one, whose answers come from the first: what Docker does
    /// in the network of a container with its resolver (moby, `libnetwork/resolver_unix.go`), for datagrams and connections.
    pub fn redirect(&self, address: IpAddr, port: u16, to: u16) -> Result<()> {
        let iptables = needs::program("iptables")?;
        for protocol in ["udp", "tcp"] {
            for rule in [
                format!("OUTPUT -d {address} -p {protocol} --dport {port} -j DNAT --to-destination {address}:{to}"),
                format!("POSTROUTING -s {address} -d {address} -p {protocol} --sport {to} -j SNAT --to-source :{port}"),
            ] {
                let mut command = Command::new(&iptables);
                command.args(["--wait", "-t", "nat", "-I"]).args(rule.split(' '));
                self.run(|| needs::run(&mut command))?;
            }
        }
        Ok(())
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Node-RED's namespace, and the world.
#[derive(Debug)]
pub struct Network {
    /// Where Node-RED runs.
    pub home: NetNs,
    /// The other end of the cable, where the sinks listen.
    pub world: NetNs,
}

impl Network {
    /// An address that the tests' policies forbid.
    pub const FORBIDDEN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
    /// The net of [`Self::FORBIDDEN`].
    pub const FORBIDDEN_NET: &str = "203.0.113.0/24";
    /// An IPv6 address that the tests' policies forbid.
    pub const FORBIDDEN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
    /// The net of [`Self::FORBIDDEN_V6`].
    pub const FORBIDDEN_NET_V6: &str = "2001:db8::/64";
    /// An address that the tests' policies allow.
    pub const ALLOWED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9));

    /// A public address that is not routed on the Internet.
    pub const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 203, 0, 9));

    /// The address where cloud machines get their credentials.
    pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

    /// Makes both namespaces and the cable.
    pub fn new() -> Result<Arc<Self>> {
        needs::root()?;
        let network = Self { home: NetNs::new()?, world: NetNs::new()? };
        let (home, world) = (network.home.name(), network.world.name());
        ip(&["link", "add", "cable", "netns", home, "type", "veth", "peer", "name", "cable", "netns", world])?;
        for (namespace, host) in [(&network.home, "1"), (&network.world, "9")] {
            for net in ["203.0.113.", "198.51.100.", "10.203.0."] {
                namespace.ip(&["address", "add", &format!("{net}{host}/24"), "dev", "cable"])?;
            }
            let last = if host == "9" { "254" } else { host };
            namespace.ip(&["address", "add", &format!("169.254.169.{last}/24"), "dev", "cable"])?;
            // Without duplicate address detection the address can be used at once.
            namespace.ip(&["address", "add", &format!("2001:db8::{host}/64"), "dev", "cable", "nodad"])?;
            namespace.ip(&["link", "set", "cable", "up"])?;
        }
        Ok(Arc::new(network))
    }

    /// Has an IPv4 address that is elsewhere on the Internet in this world instead.
    pub fn move_to_world(&self, address: IpAddr) -> Result<()> {
        self.world.add_address(address)?;
        self.home.ip(&["route", "add", &address.to_string(), "dev", "cable"])
    }
}

/// Deletes the namespaces whose name `is_ours`.
pub(crate) fn remove_where(is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) {
            drop(NetNs { name });
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program: PathBuf = needs::program("ip")?;
    needs::run(Command::new(program).args(arguments)).map(drop)
}
