//! What an instance was seen doing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use monitor_common::{Access, policy::Class};

use super::Line;
use policy::name::DnsName;

/// Most names of programs that are kept for a fact.
const MAX_WHO: usize = 3;
/// Most facts of one kind; what finds no place is counted.
const MAX_FACTS: usize = 20_000;

/// How often, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What was done with the file.
    pub access: Access,
    /// How often.
    pub count: u64,
    /// The number of the first event.
    pub event: u64,
    /// Programs that did it.
    pub who: Vec<String>,
}

impl Seen {
    pub(super) fn add(&mut self, line: &Line<'_>) {
        self.access = self.access.union(line.unmapped.access);
        if self.count == 0 {
            self.event = line.metadata.sequence;
        }
        self.count += 1;
        self.by(&line.actor.process.name);
    }

    fn by(&mut self, name: &str) {
        if self.who.len() < MAX_WHO && !name.is_empty() && self.who.iter().all(|known| known != name) {
            self.who.push(name.to_owned());
        }
    }

    /// Adds what was seen of another path.
    pub(super) fn join(&mut self, other: &Self) {
        self.access = self.access.union(other.access);
        self.event = if self.count == 0 { other.event } else { self.event.min(other.event) };
        self.count += other.count;
        other.who.iter().for_each(|name| self.by(name));
    }

    /// As a comment. Names of programs are other people's: nothing in them ends the line.
    #[must_use]
    pub fn comment(&self) -> String {
        let who: Vec<_> = self.who.iter().map(|name| plain(name)).collect();
        format!(
            "{} times, event {}, by {}",
            self.count,
            self.event,
            if who.is_empty() { "?".into() } else { who.join(", ") }
        )
    }
}

/// A text that cannot leave its comment.
pub(super) fn plain(text: &str) -> String {
    let visible = |char: char| if journal::text::terminal::is_hidden(char) { '?' } else { char };
    text.chars().map(visible).take(40).collect()
}

/// Who is at the other end, as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Any address that the name resolves to.
    Name(DnsName),
    /// One that was asked for by no name.
    Address(IpAddr),
}

/// Where traffic goes to or comes from: who is there, our port or theirs, and an `IPPROTO_*` number.
pub type End = (Peer, u16, u8);

/// Everything that an instance was seen doing, and no rule speaks about.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Files, by the path as the policy names it.
    pub files: BTreeMap<String, Seen>,
    /// Programs.
    pub programs: BTreeMap<String, Seen>,
    /// Where it connects to.
    pub egress: BTreeMap<End, Seen>,
    /// Where it listens, and who connects.
    pub ingress: BTreeMap<End, Seen>,
    /// Other classes of operations.
    pub classes: BTreeMap<usize, (Class, Seen)>,
    /// What is not learnt: what it is, and why.
    pub refused: BTreeMap<(String, String), Seen>,
    /// What found no place.
    pub more: u64,
    /// The classes whose operations the journal's policy logged where no rule spoke. Of others nothing is known.
    pub logged: BTreeSet<usize>,
}

/// Adds an event, unless there are too many.
pub(super) fn add<K: Ord>(facts: &mut BTreeMap<K, Seen>, key: K, line: &Line<'_>, more: &mut u64) {
    if facts.len() < MAX_FACTS || facts.contains_key(&key) {
        facts.entry(key).or_default().add(line);
    } else {
        *more += 1;
    }
}
