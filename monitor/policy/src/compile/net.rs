//! Rules about traffic: by address, and by name.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use monitor_common::{
    dns::{NameRulesKey, ResolverKey},
    policy::{Class, Direction, MAX_NET_RULES, NET_HEAD_BITS, NetKey, NetRule, NetRules},
};

use super::{Compiled, rule_of, tree::stricter};
use crate::{
    host::Host,
    limit,
    model::{self, InstancePolicy, Prefix},
    name::DnsName,
    toml_reader::Fault,
};

impl Compiled {
    /// Takes up the rules of an instance.
    pub(super) fn nets(
        &mut self,
        instance: &InstancePolicy,
        epoch: u32,
        slot: u16,
        host: &dyn Host,
    ) -> Result<(), Fault> {
        let mut by_prefix: BTreeMap<(u16, Prefix), Vec<NetRule>> = BTreeMap::new();
        let mut by_name: BTreeMap<&DnsName, Vec<NetRule>> = BTreeMap::new();
        for rule in &instance.nets {
            let class = if matches!(rule.direction, Direction::Egress) { Class::Egress } else { Class::Ingress };
            let index = self.rule(instance, &rule.action, class, net_sentence(rule))?;
            if let Some(bound) = rule.bound {
                limit::fits(self.limits.len(), rule.action.at)?;
                self.limits.push(bound.limit(epoch, index));
            }
            let ports = if rule.ports.is_empty() { vec![(0, u16::MAX)] } else { rule.ports.clone() };
            let rules = |single| {
                ports.iter().map(move |&(port_first, port_last)| NetRule {
                    port_first,
                    port_last,
                    protocol: rule.protocol,
                    single,
                    pad: [0; 2],
                    rule: rule_of(&rule.action, index),
                })
            };
            // Names of peers are resolved by the machine; names of destinations by the answers that the instance gets.
            let (asked, looked_up): (Vec<_>, Vec<_>) =
                rule.names.iter().partition(|_| rule.direction == Direction::Egress);
            let peers = looked_up.into_iter().flat_map(|name| host.addresses(name)).map(Prefix::from);
            for prefix in rule.prefixes.iter().copied().chain(peers) {
                let single = u8::from(prefix.bits == 128);
                by_prefix.entry((rule.direction as u16, prefix)).or_default().extend(rules(single));
            }
            for name in asked {
                by_name.entry(name).or_default().extend(rules(0));
            }
        }
        for rules in by_prefix.values_mut().chain(by_name.values_mut()) {
            sort(rules);
        }
        for (&(direction, prefix), own) in &by_prefix {
            let around = (0..prefix.bits).rev().map(|bits| Prefix { address: masked(prefix.address, bits), bits });
            let around = around.filter_map(|around| by_prefix.get(&(direction, around))).flatten();
            let rules = instance.joined(&prefix, own.iter().chain(around))?;
            let key = NetKey { epoch, instance: slot, direction, address: prefix.address };
            self.nets.push((key, NET_HEAD_BITS + u32::from(prefix.bits), rules));
        }
        for (&name, own) in &by_name {
            let around = name.around().filter_map(|around| by_name.get(&around)).flatten();
            let rules = instance.joined(name, own.iter().chain(around))?;
            let (key, bits) = name.key(slot, epoch);
            self.names.push((key, bits, name.id()));
            self.name_rules.push((NameRulesKey { name: name.id(), epoch, instance: slot.into() }, rules));
        }
        Ok(())
    }

    /// Takes up the resolvers whose answers count.
    pub(super) fn resolvers(&mut self, instance: &InstancePolicy, epoch: u32, slot: u16, host: &dyn Host) {
        let mut addresses = instance.resolvers.clone();
        if addresses.is_empty() {
            addresses = host.resolvers();
            if instance.select.iter().any(|select| select.container.is_some()) {
                addresses.push(DOCKER_RESOLVER);
            }
        }
        self.resolvers.extend(addresses.into_iter().map(|address| {
            let Prefix { address, .. } = address.into();
            ResolverKey { address, epoch, instance: slot.into() }
        }));
    }
}

/// Where containers in a network that a user has defined look names up.
const DOCKER_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// The narrower the more specific. Of two for the same ports and protocol the stricter speaks for both.
fn sort(rules: &mut Vec<NetRule>) {
    let about = |rule: &NetRule| (rule.port_last - rule.port_first, rule.protocol == 0, rule.port_first, rule.protocol);
    rules.sort_by_key(about);
    rules.dedup_by(|other, kept| {
        let same = about(other) == about(kept);
        if same {
            kept.rule = stricter(kept.rule, other.rule);
        }
        same
    });
}

impl InstancePolicy {
    /// The rules about one party, the most specific first, without those that are never reached.
    fn joined<'a>(
        &self,
        party: &dyn fmt::Display,
        rules: impl Iterator<Item = &'a NetRule>,
    ) -> Result<NetRules, Fault> {
        let mut all: Vec<NetRule> = Vec::new();
        for rule in rules {
            // What an earlier one covers is never reached.
            let covered = all.iter().any(|earlier| {
                earlier.port_first <= rule.port_first
                    && rule.port_last <= earlier.port_last
                    && (earlier.protocol == 0 || earlier.protocol == rule.protocol)
            });
            if !covered {
                all.push(*rule);
            }
        }
        if all.len() > MAX_NET_RULES {
            return Err(self.fault(format!(
                "instance \"{}\": {} port ranges apply to {party}, those of the ranges around it included; at most {MAX_NET_RULES} do. \
                 Join ranges",
                self.name,
                all.len(),
            )));
        }
        let mut joined = NetRules { count: u32::try_from(all.len()).unwrap_or_default(), ..NetRules::default() };
        joined.rules[..all.len()].copy_from_slice(&all);
        Ok(joined)
    }
}

/// An address without what is behind its prefix.
pub(super) fn masked(address: [u8; 16], bits: u8) -> [u8; 16] {
    let all = u128::from_be_bytes(address);
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    (all & mask).to_be_bytes()
}

fn net_sentence(rule: &model::NetRule) -> String {
    let mut text =
        String::from(if matches!(rule.direction, Direction::Egress) { "traffic to " } else { "connections from " });
    let names = rule.names.iter().map(ToString::to_string);
    let shown: Vec<_> = names.chain(rule.prefixes.iter().map(ToString::to_string)).take(4).collect();
    text += &shown.join(", ");
    let all = rule.names.len() + rule.prefixes.len();
    if all > shown.len() {
        let _ = write!(text, " and {} more", all - shown.len());
    }
    let ports: Vec<_> = rule
        .ports
        .iter()
        .map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if !ports.is_empty() {
        let _ = write!(text, " port {}", ports.join(", "));
    }
    text += match rule.protocol {
        6 => " over TCP",
        17 => " over UDP",
        _ => "",
    };
    let bound = rule.bound.map_or_else(String::new, |bound| format!("; {bound}"));
    format!("{text}: {}{bound}", rule.action.verdict.name())
}

impl fmt::Display for Prefix {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Ipv6Addr::from(self.address).to_ipv4_mapped() {
            Some(address) if self.bits >= 96 => write!(to, "{address}/{}", self.bits - 96),
            _ if self.bits == 0 => to.write_str("any address"),
            _ => write!(to, "{}/{}", Ipv6Addr::from(self.address), self.bits),
        }
    }
}
