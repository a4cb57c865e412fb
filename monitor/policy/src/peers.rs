//! Hosts that ingress rules name, and the addresses that this machine's own resolver gives for them.
//!
//! A peer is known by its address, and the instance does not resolve its name: there is no DNS answer to be
//! read, as there is for names in egress rules. So the guard looks up itself, as every program of root does
//! (`getaddrinfo`: `/etc/hosts`, DNS, whatever `nsswitch.conf` says). That knows no deadline and may take a minute. Each
//! look-up therefore has a thread of its own, which is not waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use monitor_common::{dns::GRACE_NS, policy::Direction};

use super::{model::Policy, name::DnsName};

/// Most names in the ingress rules of a policy.
pub const MAX_PEERS: usize = 256;
/// A name is looked up again so long after an answer.
const AGAIN: Duration = Duration::from_secs(30);
/// And so long after none.
const RETRY: Duration = Duration::from_secs(5);
/// A look-up that takes longer has failed; its answer counts when it comes nevertheless.
const DEADLINE: Duration = Duration::from_secs(15);
/// An address that answers do not have any more stays the name's so long: there are servers that tell a few of many.
const GRACE: Duration = Duration::from_nanos(GRACE_NS);
/// Most look-ups under way.
const AT_ONCE: usize = 8;
/// Most addresses that one name has.
const MAX_ADDRESSES: usize = 32;

/// Names and their addresses; one that has none is not in it.
pub type Table = BTreeMap<DnsName, BTreeSet<IpAddr>>;

/// What a look-up came to.
#[derive(Debug)]
struct Answer {
    name: DnsName,
    found: io::Result<Vec<IpAddr>>,
}

#[derive(Debug)]
struct Peer {
    /// Its addresses, and when an answer had them last.
    addresses: BTreeMap<IpAddr, Instant>,
    /// When it is to be looked up.
    due: Instant,
    /// Since when it is being looked up.
    asked: Option<Instant>,
    /// The last look-up failed, and that was reported.
    failing: bool,
}

/// Result of a look-up that has to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupReport {
    /// It has other addresses now.
    Changed {
        /// The name.
        name: DnsName,
        /// What it had; empty when it was not known.
        before: BTreeSet<IpAddr>,
        /// What it has.
        now: BTreeSet<IpAddr>,
    },
    /// The look-up failed; reported once until it succeeds.
    Failed {
        /// The name.
        name: DnsName,
        /// The resolver's words.
        why: String,
        /// What it had, and keeps.
        kept: BTreeSet<IpAddr>,
    },
}

/// The names that a policy's ingress rules have.
#[derive(Debug)]
pub struct Peers {
    all: BTreeMap<DnsName, Peer>,
    answers: Receiver<Answer>,
    sender: Sender<Answer>,
}

impl Peers {
    /// Knows what an earlier run has known.
    #[must_use]
    pub fn new(known: &Table, now: Instant) -> Self {
        let (sender, answers) = channel();
        let mut peers = Self { all: BTreeMap::new(), answers, sender };
        peers.keep(known, now);
        peers
    }

    /// Goes by these addresses, whatever answers have said.
    pub fn keep(&mut self, known: &Table, now: Instant) {
        for peer in self.all.values_mut() {
            peer.addresses.clear();
        }
        for (name, addresses) in known {
            let peer = self.all.entry(name.clone()).or_insert_with(|| Peer::due(now));
            peer.addresses = addresses.iter().map(|&address| (address, now)).collect();
        }
    }

    /// Follows the names of this policy and no others.
    pub fn follow(&mut self, policy: &Policy, now: Instant) {
        let names: BTreeSet<_> = names(policy).cloned().collect();
        self.all.retain(|name, _| names.contains(name));
        for name in names {
            self.all.entry(name).or_insert_with(|| Peer::due(now));
        }
    }

    /// Looks all of them up at the next turn.
    pub fn hurry(&mut self, now: Instant) {
        for peer in self.all.values_mut() {
            peer.due = now;
        }
    }

    /// Takes the answers that have come, and begins the look-ups that are due. Never waits.
    pub fn turn(&mut self, now: Instant) -> Vec<LookupReport> {
        let mut reports = Vec::new();
        while let Ok(answer) = self.answers.try_recv() {
            reports.extend(self.take(answer, now));
        }
        for (name, peer) in &mut self.all {
            if peer.asked.is_some_and(|asked| now.saturating_duration_since(asked) >= DEADLINE) {
                reports.extend(peer.fail(name, &format!("no answer for {} s", DEADLINE.as_secs())));
            }
        }
        for name in self.next(now) {
            let (name_there, sender) = (name.clone(), self.sender.clone());
            // Who has ended meanwhile needs no answer.
            let work = move || drop(sender.send(look_up(name_there)));
            if let Err(error) = thread::Builder::new().name("look-up".to_owned()).spawn(work) {
                reports.extend(self.take(Answer { name, found: Err(error) }, now));
            }
        }
        reports
    }

    /// What is known.
    #[must_use]
    pub fn table(&self) -> Table {
        let known = self.all.iter().filter(|(_, peer)| !peer.addresses.is_empty());
        known.map(|(name, peer)| (name.clone(), peer.known())).collect()
    }

    /// The names whose look-up begins now, as many as may be under way.
    fn next(&mut self, now: Instant) -> Vec<DnsName> {
        let under_way = self.all.values().filter(|peer| peer.asked.is_some()).count();
        let mut due: Vec<_> = self.all.iter_mut().filter(|(_, peer)| peer.asked.is_none() && peer.due <= now).collect();
        // The oldest is first: names without an answer do not delay others.
        due.sort_by_key(|(_, peer)| peer.due);
        due.truncate(AT_ONCE.saturating_sub(under_way));
        due.into_iter()
            .map(|(name, peer)| {
                peer.asked = Some(now);
                name.clone()
            })
            .collect()
    }

    fn take(&mut self, Answer { name, found }: Answer, now: Instant) -> Option<LookupReport> {
        // No rule names it any more.
        let peer = self.all.get_mut(&name)?;
        peer.asked = None;
        peer.due = now + RETRY;
        let found = match found {
            Err(error) => return peer.fail(&name, &error.to_string()),
            Ok(found) => found.into_iter().filter(|address| is_a_peer(*address)).collect::<BTreeSet<_>>(),
        };
        if found.is_empty() {
            return peer.fail(&name, "the answer has no address of a host");
        }
        let before = peer.known();
        (peer.due, peer.failing) = (now + AGAIN, false);
        peer.addresses.retain(|_, last| now.saturating_duration_since(*last) < GRACE);
        peer.addresses.extend(found.into_iter().take(MAX_ADDRESSES).map(|address| (address, now)));
        while peer.addresses.len() > MAX_ADDRESSES {
            let oldest = peer.addresses.iter().min_by_key(|&(_, last)| last).map(|(&address, _)| address);
            oldest.and_then(|address| peer.addresses.remove(&address));
        }
        let now = peer.known();
        (now != before).then_some(LookupReport::Changed { name, before, now })
    }
}

impl Peer {
    fn due(now: Instant) -> Self {
        Self { addresses: BTreeMap::new(), due: now, asked: None, failing: false }
    }

    fn known(&self) -> BTreeSet<IpAddr> {
        self.addresses.keys().copied().collect()
    }

    fn fail(&mut self, name: &DnsName, why: &str) -> Option<LookupReport> {
        let report = LookupReport::Failed { name: name.clone(), why: why.to_owned(), kept: self.known() };
        (!std::mem::replace(&mut self.failing, true)).then_some(report)
    }
}

/// Looks up the names of a policy and waits.
#[must_use]
pub fn look_up_all(policy: &Policy, within: Duration) -> (Table, Vec<LookupReport>) {
    let begun = Instant::now();
    let mut peers = Peers::new(&Table::new(), begun);
    peers.follow(policy, begun);
    let mut reports = Vec::new();
    loop {
        reports.extend(peers.turn(Instant::now()));
        let open = |peer: &Peer| !peer.failing && peer.addresses.is_empty();
        let left = within.saturating_sub(begun.elapsed());
        if left.is_zero() || !peers.all.values().any(open) {
            return (peers.table(), reports);
        }
        match peers.answers.recv_timeout(left) {
            Ok(answer) => reports.extend(peers.take(answer, Instant::now())),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// The names in ingress rules.
pub(super) fn names(policy: &Policy) -> impl Iterator<Item = &DnsName> {
    let nets = policy.instances.iter().flat_map(|instance| &instance.nets);
    nets.filter(|rule| rule.direction == Direction::Ingress).flat_map(|rule| &rule.names)
}

fn look_up(name: DnsName) -> Answer {
    let found = (name.to_string(), 0).to_socket_addrs().map(|all| all.map(|it| it.ip().to_canonical()).collect());
    Answer { name, found }
}

/// `0.0.0.0`, by which filters of advertisements say no, would be a rule about sockets that are bound to every address.
fn is_a_peer(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    const PROXY: &str = "proxy.plant.example";

    fn policy(names: &[&str]) -> Policy {
        parse(&format!(
            "version = 1\n[[instance]]\nname = \"a\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/u\"\n\
             [[instance.ingress]]\nfrom = {names:?}\nverdict = \"allow\"\n"
        ))
        .unwrap()
    }

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn following(names: &[&str], now: Instant) -> Peers {
        let mut peers = Peers::new(&Table::new(), now);
        peers.follow(&policy(names), now);
        peers
    }

    fn found(text: &str, all: &[&str]) -> Answer {
        Answer { name: name(text), found: Ok(addresses(all).into_iter().collect()) }
    }

    fn failed(text: &str) -> Answer {
        Answer { name: name(text), found: Err(io::Error::other("no such host")) }
    }

    #[test]
    fn an_answer_that_fails_keeps_what_was_known_and_is_told_once() {
        let begun = Instant::now();
        let mut peers = following(&[PROXY], begun);
        let failure = |kept: &[&str]| {
            Some(LookupReport::Failed { name: name(PROXY), why: "no such host".to_owned(), kept: addresses(kept) })
        };
        assert_eq!(peers.take(failed(PROXY), begun), failure(&[]));
        assert_eq!((peers.take(failed(PROXY), begun), peers.table()), (None, Table::new()));
        let (before, now) = (addresses(&[]), addresses(&["192.0.2.7", "2001:db8::7"]));
        let changed = Some(LookupReport::Changed { name: name(PROXY), before, now: now.clone() });
        assert_eq!(peers.take(found(PROXY, &["192.0.2.7", "2001:db8::7"]), begun), changed);
        let long = begun + 10 * GRACE;
        assert_eq!(peers.take(failed(PROXY), long), failure(&["192.0.2.7", "2001:db8::7"]));
        assert_eq!(peers.table()[&name(PROXY)], now, "however long ago");
        assert_eq!(
            peers.take(found(PROXY, &["0.0.0.0", "::", "224.0.0.1"]), long),
            None,
            "these are not addresses of hosts"
        );
        assert_eq!(peers.table()[&name(PROXY)], now);
        assert_eq!(peers.take(found(PROXY, &["192.0.2.7", "2001:db8::7"]), long), None, "as it was");
    }

    #[test]
    fn an_address_that_answers_leave_out_stays_for_a_while() {
        let begun = Instant::now();
        let mut peers = following(&[PROXY], begun);
        let mut after = |age: Duration, answer: &str| {
            peers.take(found(PROXY, &[answer]), begun + age);
            peers.table()[&name(PROXY)].clone()
        };
        assert_eq!(after(Duration::ZERO, "192.0.2.7"), addresses(&["192.0.2.7"]));
        assert_eq!(after(AGAIN, "192.0.2.8"), addresses(&["192.0.2.7", "192.0.2.8"]));
        assert_eq!(after(GRACE, "192.0.2.8"), addresses(&["192.0.2.8"]));
        let many: Vec<_> = (0..60).map(|host| format!("198.51.100.{host}")).collect();
        peers.take(found(PROXY, &many.iter().map(String::as_str).collect::<Vec<_>>()), begun + GRACE);
        assert_eq!(peers.table()[&name(PROXY)].len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_name_is_looked_up_again_later_and_sooner_when_that_has_failed() {
        let begun = Instant::now();
        let mut peers = following(&[PROXY], begun);
        assert_eq!(peers.next(begun), [name(PROXY)]);
        assert_eq!(peers.next(begun + 100 * AGAIN), [], "not twice at once");
        peers.take(found(PROXY, &["192.0.2.7"]), begun);
        assert_eq!(peers.next(begun + AGAIN / 2), []);
        assert_eq!(peers.next(begun + AGAIN), [name(PROXY)]);
        peers.take(failed(PROXY), begun + AGAIN);
        assert_eq!(peers.next(begun + AGAIN + RETRY), [name(PROXY)]);
        peers.take(found(PROXY, &["192.0.2.7"]), begun + 2 * AGAIN);
        peers.hurry(begun + 2 * AGAIN);
        assert_eq!(peers.next(begun + 2 * AGAIN), [name(PROXY)]);
    }

    #[test]
    fn names_that_nobody_answers_for_are_told_and_do_not_keep_others_back() {
        let begun = Instant::now();
        let silent: Vec<_> = (0..2 * AT_ONCE).map(|number| format!("h{number}.example")).collect();
        let mut peers = following(&silent.iter().map(String::as_str).collect::<Vec<_>>(), begun);
        let first = peers.next(begun);
        assert_eq!(first.len(), AT_ONCE);
        // The thread of each is still under way: no other takes its place, and each is reported once.
        let failures = |peers: &mut Peers, now| {
            let reports = peers.turn(now);
            reports
                .iter()
                .filter(|it| matches!(it, LookupReport::Failed { why, .. } if why.contains("no answer")))
                .count()
        };
        assert_eq!(failures(&mut peers, begun + DEADLINE), AT_ONCE);
        assert_eq!(failures(&mut peers, begun + 2 * DEADLINE), 0);
        for name in first.clone() {
            peers.take(Answer { name, found: Err(io::Error::other("timed out")) }, begun + 2 * DEADLINE);
        }
        let second = peers.next(begun + 2 * DEADLINE + RETRY);
        assert!(second.len() == AT_ONCE && second.iter().all(|name| !first.contains(name)), "{first:?}, {second:?}");
    }

    #[test]
    fn what_was_known_is_known_at_once_and_forgotten_with_its_rule() {
        let begun = Instant::now();
        let known = Table::from([(name(PROXY), addresses(&["192.0.2.7"])), (name("old.example"), addresses(&["::1"]))]);
        let mut peers = Peers::new(&known, begun);
        peers.follow(&policy(&[PROXY, "new.example"]), begun);
        assert_eq!(peers.table(), Table::from([(name(PROXY), addresses(&["192.0.2.7"]))]));
        assert_eq!(peers.next(begun), [name("new.example"), name(PROXY)], "and asked for anew");
        assert_eq!(peers.take(found("old.example", &["::1"]), begun), None);
    }
}
