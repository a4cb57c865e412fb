//! The least policy for what was seen.
//!
//! An event is learnt where no rule of the present policy speaks about it; rules that are there stay, and what they forbid
//! is not learnt. What is [`critical`] is refused unless somebody insists. Paths become what a person would
//! write, and the rules are put into the present policy's text.

mod edit;
mod fact;
mod logged;
mod net;
mod pattern;
mod write;

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::SystemTime};

use monitor_common::{
    Access, Verdict,
    event::{FLAG_MAINTENANCE, Hook},
    policy::Class,
};

pub use fact::{End, Facts, Peer, Seen};
pub use logged::Logged;
pub use write::{Draft, WriteError, base, draft, observing};

use super::{
    critical,
    line::Line,
    simulate::{Decider, Judge, Judged, Opinion, Unclear, other_end},
    stream::{self, Faults},
};
use journal::JournalError;
use policy::{
    host::Host,
    model::{ClassDefault, InstancePolicy, Policy},
    toml_reader::Fault,
};

/// What was learnt.
#[derive(Debug, Default)]
pub struct Learnt {
    /// By instance.
    pub instances: BTreeMap<String, Facts>,
    /// Operations of these instances.
    pub operations: u64,
    /// Those that the present policy has rules for.
    pub covered: u64,
    /// Those in maintenance windows, which are the administrator's.
    pub in_windows: u64,
    /// Instances that the policy does not have, and how many operations of each.
    pub strangers: BTreeMap<String, u64>,
    /// Lines that are no events.
    pub faults: Faults,
}

/// The policy with everything closed that no rule speaks about.
fn closed(policy: &Policy) -> Policy {
    let mut closed = policy.clone();
    for instance in &mut closed.instances {
        instance.defaults = [ClassDefault { verdict: Verdict::Deny, ..ClassDefault::ALLOW }; Class::COUNT];
    }
    closed
}

/// Reads a journal, from a start time if given. With `critical` critical operations are learnt too.
pub fn learn(
    policy: &Policy,
    host: &dyn Host,
    journal: &Path,
    since: Option<SystemTime>,
    critical: bool,
    logged: Logged,
) -> Result<Result<Learnt, JournalError>, Fault> {
    let mut judge = Judge::new(&closed(policy), host)?;
    let mut learnt = Learnt::default();
    let known = match logged.read(journal, since) {
        Ok(known) => known,
        Err(error) => return Ok(Err(error)),
    };
    for instance in &policy.instances {
        let logged = known.of(&instance.name);
        learnt.instances.insert(instance.name.clone(), Facts { logged, ..Facts::default() });
    }
    let faults = stream::events(journal, since, |line, _| learnt.take(&mut judge, policy, line, critical));
    let faults = match faults {
        Ok(faults) => faults,
        Err(error) => return Ok(Err(error)),
    };
    learnt.faults = faults;
    for instance in &policy.instances {
        if let Some(facts) = learnt.instances.get_mut(&instance.name) {
            facts.forget_unlogged();
            pattern::join(&mut facts.files, &instance.user_dir);
            pattern::join(&mut facts.programs, &instance.user_dir);
        }
    }
    Ok(Ok(learnt))
}

impl Learnt {
    /// The classes of an instance that stay as they are, since the journal's policy did not log them.
    #[must_use]
    pub fn unlogged(&self, instance: &str) -> Vec<&'static str> {
        let logged = self.instances.get(instance).map(|facts| &facts.logged);
        let is_logged = |class: Class| logged.is_some_and(|logged| logged.contains(&(class as usize)));
        Class::NAMES.iter().filter(|&&(_, class)| !is_logged(class)).map(|&(name, _)| name).collect()
    }

    /// Whether anything is added to an instance's policy, or closed in it.
    #[must_use]
    pub fn is_about(&self, instance: &str) -> bool {
        self.instances.get(instance).is_some_and(|facts| !facts.is_empty())
    }

    /// What was not learnt of an instance, and why, a line each.
    #[must_use]
    pub fn refused(&self, instance: &str) -> Vec<String> {
        self.instances.get(instance).map(write::refused).unwrap_or_default()
    }

    fn take(&mut self, judge: &mut Judge, policy: &Policy, line: &Line<'_>, critical: bool) {
        let judged = judge.judge(line);
        let own = &line.unmapped;
        let (opinion, doubt) = match judged {
            Judged::NoOperation => return,
            Judged::Stranger => {
                if self.strangers.len() < 64 || self.strangers.contains_key(&*own.instance) {
                    *self.strangers.entry(own.instance.to_string()).or_default() += 1;
                }
                return;
            }
            Judged::Clear(_, opinion) => (opinion, None),
            Judged::Unclear(_, why, opinion) => (opinion, Some(why)),
        };
        self.operations += 1;
        if own.flags & FLAG_MAINTENANCE != 0 {
            self.in_windows += 1;
            return;
        }
        if let Some(facts) = self.instances.get_mut(&*own.instance) {
            // What a default has decided is logged by it.
            facts.logged.extend(logged::class(&own.rule));
        }
        let Some(instance) = policy.instances.iter().find(|instance| instance.name == *own.instance) else { return };
        let (Some(facts), Some(hook)) = (self.instances.get_mut(&*own.instance), own.hook) else { return };
        if let Some((other, access)) = other_end(line) {
            facts.other(judge, instance, line, (other, access), critical);
        }
        let Opinion { wanted, decider, .. } = opinion;
        let refuse = |facts: &mut Facts, why: String| {
            fact::add(&mut facts.refused, (what(line, hook, &instance.user_dir), why), line, &mut facts.more);
        };
        match (decider, doubt) {
            (_, Some(why @ (Unclear::OtherName | Unclear::Disk | Unclear::Path | Unclear::Address))) => {
                return refuse(facts, why.sentence().to_owned());
            }
            (Decider::Own, _) => return refuse(facts, "no rule may allow access to the guard".to_owned()),
            (Decider::Rule(_), _) if wanted <= Verdict::Log => {
                self.covered += 1;
                return;
            }
            // Who makes a file is let through.
            (Decider::Rule(_), Some(Unclear::Young)) => {
                self.covered += 1;
                return;
            }
            (Decider::Rule(_), _) => {
                let rule = judge.name(decider, "");
                return refuse(facts, format!("the rule {rule} of the present policy forbids it"));
            }
            (Decider::Default(_), _) => {}
        }
        let end = |egress: bool| {
            let end = if egress || hook == Hook::Bind { &line.dst_endpoint } else { &line.src_endpoint };
            let port = if egress { end.port } else { line.dst_endpoint.port };
            let address: Option<IpAddr> = end.ip.as_ref()?.parse().ok();
            Some((address?.to_canonical(), port, line.connection_info.protocol_num))
        };
        let reason = match hook {
            Hook::Connect | Hook::Send | Hook::Volume => end(true).and_then(|(address, ..)| critical::egress(address)),
            Hook::Accept => end(false).and_then(|(address, ..)| critical::ingress(address)),
            Hook::Bind | Hook::Listen => None,
            _ if line.path().is_empty() => None,
            _ => critical::file(line.path(), own.access, &instance.user_dir),
        };
        let class = class_of(decider);
        let reason = reason.or_else(|| class.and_then(critical::class));
        if let Some(why) = reason.filter(|_| !critical) {
            return refuse(facts, format!("critical: {why}"));
        }
        match class {
            Some(Class::Egress) => {
                if let Some((address, port, protocol)) = end(true) {
                    // This machine has the same address by any name.
                    let name = line.name().filter(|_| !address.is_loopback());
                    let peer = name.map_or(Peer::Address(address), Peer::Name);
                    fact::add(&mut facts.egress, (peer, port, protocol), line, &mut facts.more);
                }
            }
            Some(Class::Ingress) => {
                // That a socket listens is about the port that it was bound to.
                if let Some((address, port, protocol)) = end(false).filter(|_| hook != Hook::Listen) {
                    fact::add(&mut facts.ingress, (Peer::Address(address), port, protocol), line, &mut facts.more);
                }
            }
            Some(Class::Exec | Class::ExecUnnamed | Class::ExecWritable) => {
                let path = pattern::of(line.path(), Access::EXEC, &instance.user_dir);
                if let Some(why) = pattern::unwritable(&path) {
                    return refuse(facts, why.to_owned());
                }
                fact::add(&mut facts.programs, path, line, &mut facts.more);
            }
            Some(Class::Files) => {
                let path = pattern::of(line.path(), own.access, &instance.user_dir);
                if let Some(why) = pattern::unwritable(&path) {
                    return refuse(facts, why.to_owned());
                }
                fact::add(&mut facts.files, path, line, &mut facts.more);
            }
            Some(class) => facts.classes.entry(class as usize).or_insert((class, Seen::default())).1.add(line),
            None => {}
        }
    }
}

impl Facts {
    /// Leaves out what belongs to classes of which only a part is known: what other rules have logged.
    fn forget_unlogged(&mut self) {
        let is_logged = |class: Class| self.logged.contains(&(class as usize));
        if !is_logged(Class::Files) {
            self.files.clear();
        }
        if !is_logged(Class::Exec) {
            self.programs.clear();
        }
        if !is_logged(Class::Egress) {
            self.egress.clear();
        }
        if !is_logged(Class::Ingress) {
            self.ingress.clear();
        }
        let logged = &self.logged;
        self.classes.retain(|class, _| logged.contains(class));
    }

    /// Takes the other path of a rename or a link: where names are judged, one event is about both.
    fn other(
        &mut self,
        judge: &Judge,
        instance: &InstancePolicy,
        line: &Line<'_>,
        (path, access): (&str, Access),
        critical: bool,
    ) {
        let forbids =
            |opinion: &Opinion| opinion.wanted > Verdict::Log && matches!(opinion.decider, Decider::Default(_));
        if !judge.path(&instance.name, path, access).is_some_and(|opinion| forbids(&opinion)) {
            return;
        }
        let pattern = pattern::of(path, access, &instance.user_dir);
        let reason = critical::file(path, access, &instance.user_dir).filter(|_| !critical);
        if let Some(why) = reason.map(|why| format!("critical: {why}")) {
            fact::add(&mut self.refused, (pattern, why), line, &mut self.more);
        } else if pattern::unwritable(&pattern).is_none() {
            fact::add(&mut self.files, pattern.clone(), line, &mut self.more);
            if let Some(seen) = self.files.get_mut(&pattern) {
                seen.access = seen.access.union(access);
            }
        }
    }
}

fn class_of(decider: Decider) -> Option<Class> {
    match decider {
        Decider::Default(place) => Class::NAMES.get(place).map(|&(_, class)| class),
        _ => None,
    }
}

/// What an event is about, in few words.
fn what(line: &Line<'_>, hook: Hook, user_dir: &Path) -> String {
    if !line.path().is_empty() {
        return pattern::of(line.path(), line.unmapped.access, user_dir);
    }
    let end = if hook == Hook::Accept { &line.src_endpoint } else { &line.dst_endpoint };
    match &end.ip {
        Some(address) => format!("{} {}", hook.name(), &**address),
        None => hook.name().to_owned(),
    }
}

#[cfg(test)]
mod tests;
