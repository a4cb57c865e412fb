//! DNS tunnels: data is exfiltrated in the names of queries, below a domain of the attacker.
//!
//! A resolver forwards every new name to the servers of its domain, so rules about addresses do not stop it. A tunnel differs from
//! look-ups by its payload: ever new names below one registered domain, long and of high entropy, or queries for record
//! types that hold data. A repeated name carries no data.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher as _,
};

use monitor_common::{dns::HEADER, event::Hook};
use serde::Serialize;

use super::decode::Record;
use policy::own;

/// Id of the built-in rule.
pub const RULE: &str = own::DNS_TUNNEL;
/// Text of the rule.
pub const SENTENCE: &str = "names that resolvers are asked for carry no data: alert";
/// ATT&CK: Application Layer Protocol: DNS; Exfiltration Over Alternative Protocol.
pub const TECHNIQUES: [&str; 2] = ["T1071.004", "T1048"];

const SECOND: u64 = 1_000_000_000;
/// Window in which names are counted, in nanoseconds.
pub const WINDOW: u64 = 300 * SECOND;
/// Thresholds, each for different names in the window: long names of high entropy,
pub const MOST_LONG: usize = 50;
/// names queried for types that hold data (TXT, NULL),
pub const MOST_DATA: usize = 100;
/// bytes in names,
pub const MOST_BYTES: usize = 16_384;
/// names in a minute.
pub const MOST_A_MINUTE: usize = 500;
/// A label is long from this length, in bytes,
const LONG: usize = 24;
/// and of high entropy from this value: Shannon entropy in bits per byte.
const SENSELESS: f64 = 3.0;
/// Interval of reports about a tunnel that continues.
const AGAIN: u64 = 60 * SECOND;
/// Most tracked domains, of all instances.
const MAX_DOMAINS: usize = 128;
/// Most tracked names of a domain.
const MAX_NAMES: usize = 512;
/// Most bytes of a name (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

/// A domain whose names carry data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// The registered domain.
    pub domain: String,
    /// Number of queries since the last quiet window.
    pub questions: u64,
    /// Different names in the window.
    pub names: usize,
    /// Those that are long and of high entropy.
    #[serde(rename = "names_long")]
    pub long: usize,
    /// Those queried for types that hold data.
    #[serde(rename = "names_data")]
    pub data: usize,
    /// Their bytes, without the domain.
    #[serde(rename = "names_bytes")]
    pub bytes: usize,
    /// The last name.
    #[serde(rename = "name")]
    pub example: String,
}

impl Tunnel {
    /// The findings as text.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { domain, names, long, data, bytes, example, .. } = self;
        format!(
            "ask for {names} different names below {domain} ({long} long and without sense, {data} for TXT or NULL records, \
             {bytes} bytes in all; the last one {example})"
        )
    }
}

/// A queried name.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: u64,
    /// Hash of the name.
    hash: u64,
    bytes: usize,
    long: bool,
    data: bool,
}

#[derive(Debug, Default)]
struct Domain {
    /// Different names, the newest last.
    names: VecDeque<Asked>,
    questions: u64,
    last: u64,
    reported: Option<u64>,
}

/// Recent queries by instance and registered domain. Bounded: the domain with the fewest names and the oldest names are
/// evicted.
#[derive(Debug, Default)]
pub struct Tunnels {
    domains: HashMap<(u16, Vec<u8>), Domain>,
    hasher: RandomState,
}

impl Tunnels {
    /// Adds a query. Returns the tunnel when one is detected or continues. Domains for which `trusted` holds are skipped.
    pub fn look(&mut self, record: &Record, trusted: impl Fn(&str) -> bool) -> Option<Tunnel> {
        if record.hook != Hook::Dns || record.event.detail != 0 {
            return None;
        }
        let (name, kind) = question(&record.text)?;
        let domain = psl::domain(&name)?.as_bytes();
        let below = name.get(..name.len().checked_sub(domain.len() + 1)?)?;
        // Reverse look-ups.
        if name.ends_with(b".arpa") {
            return None;
        }
        let text = String::from_utf8_lossy(domain).into_owned();
        if trusted(&text) {
            return None;
        }
        let now = record.event.time_ns;
        let asked = Asked {
            at: now,
            hash: self.hasher.hash_one(below),
            bytes: below.len(),
            long: below.split(|&byte| byte == b'.').any(|label| label.len() >= LONG && entropy(label) >= SENSELESS),
            data: holds_data(kind),
        };
        let domain = self.domain((record.event.instance, domain.to_owned()));
        domain.add(asked);
        let tunnel = domain.tunnel(now)?;
        Some(Tunnel { domain: text, example: String::from_utf8_lossy(&name).into_owned(), ..tunnel })
    }

    fn domain(&mut self, key: (u16, Vec<u8>)) -> &mut Domain {
        if self.domains.len() >= MAX_DOMAINS && !self.domains.contains_key(&key) {
            let least = self.domains.iter().min_by_key(|(_, domain)| (domain.names.len(), domain.last));
            if let Some(least) = least.map(|(key, _)| key.clone()) {
                self.domains.remove(&least);
            }
        }
        self.domains.entry(key).or_default()
    }
}

impl Domain {
    fn add(&mut self, asked: Asked) {
        if asked.at.saturating_sub(self.last) >= WINDOW {
            *self = Self::default();
        }
        (self.last, self.questions) = (asked.at, self.questions + 1);
        while self.names.front().is_some_and(|oldest| asked.at.saturating_sub(oldest.at) >= WINDOW) {
            self.names.pop_front();
        }
        if let Some(known) = self.names.iter_mut().find(|known| known.hash == asked.hash) {
            known.data |= asked.data;
            return;
        }
        if self.names.len() >= MAX_NAMES {
            self.names.pop_front();
        }
        self.names.push_back(asked);
    }

    fn tunnel(&mut self, now: u64) -> Option<Tunnel> {
        if self.reported.is_some_and(|at| now.saturating_sub(at) < AGAIN) {
            return None;
        }
        let count = |of: fn(&Asked) -> bool| self.names.iter().filter(|asked| of(asked)).count();
        let (long, data) = (count(|asked| asked.long), count(|asked| asked.data));
        let bytes = self.names.iter().map(|asked| asked.bytes).sum();
        let minute = self.names.iter().filter(|asked| now.saturating_sub(asked.at) < 60 * SECOND).count();
        if long < MOST_LONG && data < MOST_DATA && bytes < MOST_BYTES && minute < MOST_A_MINUTE {
            return None;
        }
        self.reported = Some(now);
        let (questions, names) = (self.questions, self.names.len());
        Some(Tunnel { questions, names, long, data, bytes, ..Tunnel::default() })
    }
}

/// Whether records of this type hold arbitrary data: NULL, TXT, KEY, and types for private use (RFC 6895, 3.1).
fn holds_data(kind: u16) -> bool {
    matches!(kind, 10 | 16 | 25 | 65_280..=65_534)
}

/// Name and type of a query. Unlike names in rules, those of tunnels may have any bytes.
fn question(message: &[u8]) -> Option<(Vec<u8>, u16)> {
    let is_question = message.get(2)? & 0xf8 == 0 && message.get(4..6)? == [0, 1];
    let mut rest = message.get(HEADER as usize..).filter(|_| is_question)?;
    let mut name = Vec::new();
    loop {
        let (&len, more) = rest.split_first()?;
        // Compression pointers are not valid in a question.
        if len > 63 || name.len() > MAX_NAME {
            return None;
        }
        let (label, more) = more.split_at_checked(len.into())?;
        rest = more;
        if label.is_empty() {
            break;
        }
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.to_ascii_lowercase());
    }
    Some((name, u16::from_be_bytes(*rest.first_chunk()?)))
}

/// Shannon entropy of a label, in bits per byte.
#[expect(clippy::cast_precision_loss, reason = "a label has 63 bytes at most")]
fn entropy(label: &[u8]) -> f64 {
    let mut counts = [0_usize; 256];
    for &byte in label {
        counts[usize::from(byte)] += 1;
    }
    let share = |&count: &usize| count as f64 / label.len() as f64;
    counts.iter().filter(|&&count| count > 0).map(share).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE32_NOPAD;
    use monitor_common::event::Event;
    use proptest::prelude::*;
    use ring::digest::{SHA256, digest};

    use super::*;
    use crate::record::decode::{decode, tests::bytes};

    const A: u16 = 1;
    const TXT: u16 = 16;

    fn record(detail: u64, time_ns: u64, text: &[u8]) -> Record {
        let event = Event { hook: Hook::Dns as u8, sensor: 2, instance: 1, detail, time_ns, ..Event::ZERO };
        decode(&bytes(event, b"", text)).unwrap()
    }

    fn asks(name: &str, kind: u16, second: u64) -> Record {
        let mut text = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in name.split('.') {
            text.push(u8::try_from(label.len()).unwrap());
            text.extend(label.bytes());
        }
        text.push(0);
        text.extend(kind.to_be_bytes());
        text.extend([0, 1]);
        record(0, second * SECOND, &text)
    }

    /// What a tunnel sends in its piece of this number.
    fn piece(number: u64) -> String {
        BASE32_NOPAD.encode(&digest(&SHA256, &number.to_be_bytes()).as_ref()[..20])
    }

    /// The reports about these queries, one per second.
    fn reports<'a>(questions: impl IntoIterator<Item = (String, u16)> + 'a) -> Vec<Tunnel> {
        let mut tunnels = Tunnels::default();
        let questions = questions.into_iter().zip(1..);
        questions.filter_map(|((name, kind), second)| tunnels.look(&asks(&name, kind, second), |_| false)).collect()
    }

    #[test]
    fn data_in_names_is_told_by_its_domain_with_counts_and_an_example() {
        let found = reports((0..300).map(|number| (format!("{}.x.attacker.co.uk", piece(number)), TXT)));
        let first = &found[0];
        assert_eq!((first.domain.as_str(), first.questions, first.names), ("attacker.co.uk", 50, 50));
        assert_eq!((first.long, first.data, first.bytes), (50, 50, 50 * 34));
        assert!(first.example.ends_with(".x.attacker.co.uk"), "{first:?}");
        assert_eq!(found.len(), 5, "once, and once a minute while it goes on");
    }

    #[test]
    fn short_pieces_are_told_by_the_kind_of_record_and_by_their_rate() {
        let short = |number: u64| format!("{number:x}.attacker.example");
        assert!(reports((0..99).map(|number| (short(number), TXT))).is_empty());
        assert_eq!(reports((0..100).map(|number| (short(number), TXT))).len(), 1);
        assert!(reports((0..2000).map(|number| (short(number), A))).is_empty(), "one a second");
        let mut tunnels = Tunnels::default();
        let fast = (0..600).filter(|&number| tunnels.look(&asks(&short(number), A, 1), |_| false).is_some());
        assert_eq!(fast.collect::<Vec<_>>(), [499]);
    }

    #[test]
    fn ordinary_names_are_no_tunnel_however_often_they_are_asked_for() {
        let hosts = (0..10_000).map(|number| (format!("h{}.plant.example", number % 190), A));
        assert!(reports(hosts).is_empty());
        let words = ["mqtt-broker-of-the-bottling-line-in-hall-seven", "api", "r3---sn-4g5e6nz7", "d1a2b3c4d5e6f7"];
        let names = (0..5_000).map(|number| {
            let kind = if number % 3 == 0 { TXT } else { A };
            (format!("{}.{}.plant{}.example", number % 40, words[number % 4], number % 7), kind)
        });
        assert!(reports(names).is_empty());
        let mut tunnels = Tunnels::default();
        for number in 0..2 * MOST_A_MINUTE {
            let backwards = asks(&format!("{}.{}.0.192.in-addr.arpa", number % 250, number / 250), 12, 1);
            assert_eq!(tunnels.look(&backwards, |_| false), None);
        }
        for suffix in ["com", "example", "co.uk"] {
            assert!(reports((0..1000).map(|_| (suffix.to_owned(), TXT))).is_empty());
        }
    }

    #[test]
    fn a_domain_that_the_policy_allows_is_passed_over() {
        let mut tunnels = Tunnels::default();
        for number in 0..300 {
            let question = asks(&format!("{}.plant.example", piece(number)), TXT, number);
            assert_eq!(tunnels.look(&question, |domain| domain == "plant.example"), None);
        }
    }

    #[test]
    fn what_is_old_counts_no_more() {
        let slow = (0..200).map(|number| asks(&format!("{}.attacker.example", piece(number)), A, number * 10));
        let mut tunnels = Tunnels::default();
        assert!(slow.into_iter().all(|question| tunnels.look(&question, |_| false).is_none()));
    }

    #[test]
    fn a_flood_of_domains_and_names_takes_no_more_memory_than_the_bounds_and_hides_no_tunnel() {
        let (mut tunnels, mut count) = (Tunnels::default(), 0);
        for number in 0..100 {
            // A domain of which one name is known is as good as any other.
            for other in 0..if number < 2 { 0 } else { 2 * MAX_DOMAINS } {
                tunnels.look(&asks(&format!("www.d{number}-{other}.example"), A, number / 10), |_| false);
            }
            let tunnel = asks(&format!("{}.attacker.example", piece(number)), A, number / 10);
            count += usize::from(tunnels.look(&tunnel, |_| false).is_some());
        }
        for number in 0..2000 {
            tunnels.look(&asks(&format!("{number}.many.example"), A, 10), |_| false);
        }
        assert_eq!((tunnels.domains.len(), count), (MAX_DOMAINS, 1));
        assert!(tunnels.domains.values().all(|domain| domain.names.len() <= MAX_NAMES));
    }

    #[test]
    fn names_of_any_bytes_are_read() {
        let mut text =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03\xff.\x00\x08attacker\x07example\x00".to_vec();
        text.extend([0, 10, 0, 1]);
        assert_eq!(question(&text), Some((b"\xff.\x00.attacker.example".to_vec(), 10)));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut text = text;
            Tunnels::default().look(&record(0, 1, &text), |_| false);
            if text.len() > 12 {
                text[2] = 1;
                text[4..6].copy_from_slice(&[0, 1]);
                Tunnels::default().look(&record(0, u64::MAX, &text), |_| false);
            }
        }
    }
}
