//! Rules about addresses and names, and resolvers.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use monitor_common::{decide::map_v4, policy::Direction};
use toml::de::{DeTable, DeValue};

use crate::{
    limit,
    model::{NetRule, Prefix},
    name::DnsName,
    toml_reader::{Reader, Table, Value, suggest},
};

/// Most resolvers of an instance.
const MAX_RESOLVERS: usize = 16;

/// Groups of addresses that have a name.
const GROUPS: &[(&str, &[&str])] = &[
    ("any", &["::/0"]),
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    ("private", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
    ("metadata", &["169.254.169.254/32", "fd00:ec2::254/128"]),
];

/// A prefix of the one tree: IPv4 as v4-mapped IPv6.
fn prefix(net: IpNet) -> Prefix {
    match net.trunc() {
        IpNet::V4(net) => Prefix { address: map_v4(net.addr().octets()), bits: 96 + net.prefix_len() },
        IpNet::V6(net) => Prefix { address: net.addr().octets(), bits: net.prefix_len() },
    }
}

impl Reader<'_> {
    pub(super) fn net_rule(
        &mut self,
        table: &DeTable<'_>,
        at: usize,
        (kind, end, direction): (&str, &'static str, Direction),
        ids: &mut BTreeSet<String>,
        index: usize,
    ) -> Option<NetRule> {
        let mut table = Table::new(table, at);
        let (mut prefixes, mut names) = (Vec::new(), Vec::new());
        if let Some(value) = self.required(&mut table, end) {
            for (text, at) in self.strings(value, &format!("`{end}`")) {
                if let Some(name) = self.party(text, at, &mut prefixes) {
                    if direction == Direction::Ingress && name.is_wild() {
                        self.fault(
                            at,
                            format!(
                                "\"{text}\": a peer is known by its address, and the names below a domain cannot be enumerated; \
                                 name each host, or write its addresses"
                            ),
                        );
                    }
                    names.push(name);
                }
            }
        }
        let mut ports = Vec::new();
        if let Some(value) = table.take("ports") {
            self.ports(value, &mut ports);
        }
        let protocol = match table
            .take("protocol")
            .and_then(|value| Some((self.string(value, "`protocol`")?, value.span().start)))
        {
            None | Some(("any", _)) => 0,
            Some(("tcp", _)) => 6,
            Some(("udp", _)) => 17,
            Some((other, at)) => {
                self.fault(at, format!("`protocol` is \"tcp\", \"udp\" or \"any\", not \"{other}\""));
                0
            }
        };
        let action = self.action(&mut table, kind, ids, index);
        let bound = limit::read(self, &mut table, direction, action.as_ref().map(|action| action.verdict));
        self.finish(&table);
        Some(NetRule { direction, prefixes, names, ports, protocol, bound, action: action? })
    }

    /// Addresses, or else a name.
    fn party(&mut self, text: &str, at: usize, prefixes: &mut Vec<Prefix>) -> Option<DnsName> {
        if let Some(&(_, group)) = GROUPS.iter().find(|&&(name, _)| name == text) {
            prefixes.extend(group.iter().filter_map(|cidr| cidr.parse().ok()).map(prefix));
            return None;
        }
        if let Ok(net) = text.parse::<IpNet>() {
            if net.network() != net.addr() {
                self.fault(at, format!("\"{text}\" has bits beyond its prefix; did you mean \"{}\"?", net.trunc()));
            }
            prefixes.push(prefix(net));
            return None;
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            prefixes.push(address.into());
            return None;
        }
        let hint = suggest(text, GROUPS.iter().map(|&(name, _)| name));
        if !hint.is_empty() || text.contains(['/', ':']) {
            self.fault(
                at,
                format!(
                    "\"{text}\" is no address, CIDR, name or group (any, loopback, private, link-local, metadata){hint}"
                ),
            );
            return None;
        }
        DnsName::parse(text).map_err(|why| self.fault(at, why)).ok()
    }

    pub(super) fn resolvers(&mut self, value: &Value<'_>) -> Vec<IpAddr> {
        let mut resolvers = Vec::new();
        for (text, at) in self.strings(value, "`resolvers`") {
            match text.parse() {
                Ok(address) => resolvers.push(address),
                Err(_) => self.fault(at, format!("\"{text}\" is no address of a resolver, such as \"192.0.2.53\"")),
            }
        }
        if resolvers.len() > MAX_RESOLVERS {
            self.fault(value.span().start, format!("more than {MAX_RESOLVERS} resolvers of one instance"));
        }
        resolvers
    }

    fn ports(&mut self, value: &Value<'_>, ports: &mut Vec<(u16, u16)>) {
        let items = match value.get_ref() {
            DeValue::Array(array) => {
                if array.is_empty() {
                    self.fault(
                        value.span().start,
                        "`ports` is empty: a rule about nothing; leave it out to mean every port",
                    );
                }
                array.iter().collect()
            }
            _ => vec![value],
        };
        for item in items {
            let range = match item.get_ref() {
                DeValue::Integer(number) => {
                    u16::from_str_radix(number.as_str(), number.radix()).ok().map(|port| (port, port))
                }
                DeValue::String(text) => match text.split_once('-') {
                    Some((first, last)) => first.trim().parse().ok().zip(last.trim().parse().ok()),
                    None => text.trim().parse().ok().map(|port| (port, port)),
                },
                _ => None,
            };
            match range {
                Some((first, last)) if first <= last => ports.push((first, last)),
                _ => self.fault(item.span().start, "a port is a number up to 65535, a range is \"FIRST-LAST\""),
            }
        }
    }
}
