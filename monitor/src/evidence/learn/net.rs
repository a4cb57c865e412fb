//! Rules for addresses, as they are written: a line each, or a table where the policy has such tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use monitor_common::{Verdict, policy::Direction};

use super::{
    fact::{End, Peer, Seen},
    write::{list, quoted},
};
use policy::model::{InstancePolicy, NetRule};

/// Most port ranges of one address that are written out; there is room for 16, other rules' included.
const MAX_PORTS: usize = 10;

/// A rule for addresses.
pub(super) struct NetLine {
    /// What it says beside them.
    keys: Vec<String>,
    /// `to` or `from`.
    end: &'static str,
    /// The addresses, with a comment each.
    items: Vec<(String, String)>,
}

impl NetLine {
    /// As an element of the array, on one line unless it has many addresses.
    pub(super) fn inline(&self) -> Vec<String> {
        let keys = self.keys.join(", ");
        if let [(item, comment)] = &self.items[..] {
            return vec![format!("    {{ {keys}, {} = [{item}] }}, # {comment}", self.end)];
        }
        let mut lines = vec![format!("    {{ {keys}, {} = [", self.end)];
        lines.extend(self.items.iter().map(|(item, comment)| format!("        {item}, # {comment}")));
        lines.push("    ] },".to_owned());
        lines
    }

    /// As the lines of a table.
    pub(super) fn table(&self) -> Vec<String> {
        let mut lines = self.keys.clone();
        list(&mut lines, self.end, &self.items);
        lines
    }
}

/// The id of the rule that closes all other ports; one that the instance does not have yet. What allows needs none: it is in no
/// record.
fn closing_id(instance: &InstancePolicy) -> String {
    let mut ids =
        instance.nets.iter().map(|rule| &rule.action.id).chain(instance.files.iter().map(|rule| &rule.action.id));
    let free =
        (1..).map(|number| if number == 1 { "learnt-closed".to_owned() } else { format!("learnt-closed-{number}") });
    let taken: BTreeSet<_> = ids.by_ref().collect();
    let id = free.into_iter().find(|id| !taken.contains(id)).unwrap_or_default();
    format!("id = \"{id}\"")
}

/// Addresses by port and protocol, and from the other side.
type Ports = BTreeMap<(u16, u8), Addresses>;
/// Addresses as a policy names them.
type Addresses = BTreeMap<String, Seen>;

fn by_port(ends: &BTreeMap<End, Seen>, named: fn(IpAddr) -> String) -> Ports {
    let mut ports = Ports::new();
    for ((peer, port, protocol), seen) in ends {
        let peer = match peer {
            Peer::Name(name) => name.to_string(),
            Peer::Address(address) => named(*address),
        };
        ports.entry((*port, *protocol)).or_default().entry(peer).or_default().join(seen);
    }
    ports
}

/// Where it connects to.
pub(super) fn egress(ends: &BTreeMap<End, Seen>) -> Vec<NetLine> {
    let named = |address: IpAddr| if address.is_loopback() { "loopback".to_owned() } else { address.to_string() };
    net("to", by_port(ends, named))
}

/// Who connects to it; everything else is closed.
pub(super) fn ingress(instance: &InstancePolicy, ends: &BTreeMap<End, Seen>) -> Vec<NetLine> {
    let named = |address: IpAddr| {
        let group = match address {
            _ if address.is_loopback() => "loopback",
            IpAddr::V4(v4) if v4.is_private() => "private",
            IpAddr::V6(v6) if v6.is_unique_local() => "private",
            IpAddr::V4(v4) if v4.is_link_local() => "link-local",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
            _ => return address.to_string(),
        };
        group.to_owned()
    };
    let mut rules = net("from", by_port(ends, named));
    if instance.nets.iter().any(closes) {
        return rules;
    }
    let keys = vec![closing_id(instance), "verdict = \"deny\"".to_owned()];
    rules.push(NetLine { keys, end: "from", items: vec![("\"any\"".to_owned(), "everything else".to_owned())] });
    rules
}

/// Whether a rule closes every port to everybody.
fn closes(rule: &NetRule) -> bool {
    rule.direction == Direction::Ingress
        && rule.action.verdict >= Verdict::Deny
        && rule.ports.is_empty()
        && rule.protocol == 0
        && rule.prefixes.iter().any(|prefix| prefix.bits == 0)
}

fn net(end: &'static str, ports: Ports) -> Vec<NetLine> {
    // Ports with the same addresses are one rule.
    let mut rules: BTreeMap<(Vec<String>, u8), (Vec<u16>, Addresses)> = BTreeMap::new();
    for ((port, protocol), addresses) in ports {
        let who: Vec<_> = addresses.keys().cloned().collect();
        let (ports, seen) = rules.entry((who, protocol)).or_default();
        ports.push(port);
        for (address, more) in addresses {
            seen.entry(address).or_default().join(&more);
        }
    }
    let rule = |((_, protocol), (ports, addresses)): ((Vec<String>, u8), (Vec<u16>, Addresses))| {
        let (mut keys, mut about) = (Vec::new(), String::new());
        if ports.len() <= MAX_PORTS {
            keys.push(format!("ports = {ports:?}"));
        } else {
            about = format!("{} ports, more than a rule has room for, so all of them are open: ", ports.len());
        }
        match protocol {
            6 => keys.push("protocol = \"tcp\"".to_owned()),
            17 => keys.push("protocol = \"udp\"".to_owned()),
            _ => {}
        }
        keys.push("verdict = \"allow\"".to_owned());
        let each = |(address, seen): (&String, &Seen)| (quoted(address), format!("{about}{}", seen.comment()));
        let mut items: Vec<_> = addresses.iter().map(each).collect();
        if items.len() <= 2 {
            let who = items.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>().join(", ");
            let mut all = Seen::default();
            for seen in addresses.values() {
                all.join(seen);
            }
            items = vec![(who, format!("{about}{}", all.comment()))];
        }
        NetLine { keys, end, items }
    };
    rules.into_iter().map(rule).collect()
}
