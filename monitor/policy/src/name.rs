//! Names in rules: what counts as one, and how the kernel files it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use monitor_common::dns::{MAX_NAME, NAME_HEAD_BITS, NAME_ROOM, NameKey};

/// Longest label.
const MAX_LABEL: usize = 63;
/// Names without a dot that cannot be registered on the Internet (RFC 6761, RFC 6762 appendix G, ICANN's `internal`).
const PRIVATE: [&str; 11] =
    ["corp", "example", "home", "home.arpa", "internal", "intranet", "invalid", "lan", "local", "private", "test"];

/// A name of a rule: a whole one, or all those below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName {
    /// In lower case, without the `*.`.
    name: String,
    /// Those below are meant, at any depth.
    below: bool,
}

impl DnsName {
    /// Parses a name. The error says what is wrong and how to fix it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let wrong = |why: &str| Err(format!("\"{text}\" is no name: {why}"));
        if name.contains('*') {
            return wrong("`*` stands for whole labels at the beginning only, as in \"*.plant.example\"");
        }
        if !name.is_ascii() {
            return wrong("write it in its ASCII form (xn--...)");
        }
        if name.ends_with('.') {
            return wrong("write it without the dot at its end");
        }
        if name.len() > MAX_NAME {
            return Err(format!("\"{text}\" has {} bytes; a name has at most {MAX_NAME}", name.len()));
        }
        for label in name.split('.') {
            if label.is_empty() {
                return wrong("there is nothing between two dots");
            }
            if label.len() > MAX_LABEL {
                return Err(format!("\"{label}\" has {} bytes; a part of a name has at most {MAX_LABEL}", label.len()));
            }
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                || label.starts_with('-')
                || label.ends_with('-')
            {
                return wrong("its parts hold letters, digits, `-` and `_`, and `-` only between others");
            }
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return wrong("it ends in a number, and is no address either");
        }
        let name = name.to_ascii_lowercase();
        if name == "localhost" {
            return wrong("no resolver is asked for it; write \"loopback\"");
        }
        if below && is_open_to_all(&name) {
            return Err(format!(
                "\"{text}\": anybody can register a name below \"{name}\", so this allows everything; name the domains"
            ));
        }
        Ok(Self { name, below })
    }

    /// Whether it stands for all names below one.
    #[must_use]
    pub fn is_wild(&self) -> bool {
        self.below
    }

    /// Those that mean this one too, the nearest first.
    pub fn around(&self) -> impl Iterator<Item = Self> + '_ {
        let dots = self.name.match_indices('.').map(|(dot, _)| dot + 1);
        dots.map(|from| Self { name: self.name[from..].to_owned(), below: true })
    }

    /// A number for it that is the same in every policy.
    #[must_use]
    pub fn id(&self) -> u64 {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.to_string().as_bytes());
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first).max(1)
    }

    /// How the kernel files it, and how many bits of that count.
    #[must_use]
    pub fn key(&self, instance: u16, epoch: u32) -> (NameKey, u32) {
        let mut name = [0; NAME_ROOM];
        for (to, byte) in name.iter_mut().zip(self.name.bytes().rev()) {
            *to = byte;
        }
        // What comes after the name: a dot where others are below it, or the end.
        if let Some(end) = name.get_mut(self.name.len()) {
            *end = if self.below { b'.' } else { 0 };
        }
        let bytes = u32::try_from(self.name.len() + 1).unwrap_or_default();
        let [instance, _] = instance.to_le_bytes();
        let [epoch, ..] = epoch.to_le_bytes();
        (NameKey { instance, epoch, name }, NAME_HEAD_BITS + 8 * bytes)
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// Whether anybody can register a name below this one.
fn is_open_to_all(name: &str) -> bool {
    if PRIVATE.contains(&name) {
        return false;
    }
    psl::suffix_str(name) == Some(name)
}

/// The resolvers that a `resolv.conf` names; the machine itself when it names none, as the C library has it.
#[must_use]
pub fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // An interface may follow, as in fe80::1%eth0.
        address.split('%').next()?.parse().ok()
    });
    let found: Vec<_> = lines.collect();
    if found.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_without_regard_to_case() {
        for (text, shown) in [
            ("mqtt.example.com", "mqtt.example.com"),
            ("MQTT.Example.COM", "mqtt.example.com"),
            ("*.plant.example", "*.plant.example"),
            ("broker", "broker"),
            ("_mqtt._tcp.example.com", "_mqtt._tcp.example.com"),
            ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
            ("*.lan", "*.lan"),
            ("*.example.co.uk", "*.example.co.uk"),
            ("co.uk", "co.uk"),
        ] {
            assert_eq!(DnsName::parse(text).map(|name| name.to_string()).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = format!("{}.example", ["a".repeat(63).as_str(); 4].join("."));
        for (text, why) in [
            ("a..b", "nothing between two dots"),
            ("a.example.", "without the dot"),
            ("-a.example", "`-` only between"),
            ("a b.example", "letters, digits"),
            ("münchen.de", "xn--"),
            ("10.0.0.300", "no address either"),
            ("localhost", "loopback"),
            ("mqtt.*.example", "at the beginning only"),
            ("*mqtt.example.com", "at the beginning only"),
            ("*", "at the beginning only"),
            ("*.com", "anybody can register"),
            ("*.co.uk", "anybody can register"),
            ("*.github.io", "anybody can register"),
            (long.as_str(), "at most 253"),
            (&"a".repeat(64), "at most 63"),
        ] {
            let said = DnsName::parse(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(DnsName::parse(&long[long.len() - 253..]).is_ok(), "253 bytes are a name");
    }

    #[test]
    fn a_whole_name_is_filed_with_its_end_and_others_with_the_dot_before_them() {
        let (key, bits) = DnsName::parse("a.Lan").unwrap().key(3, 0x1_02);
        assert_eq!((key.instance, key.epoch, bits), (3, 2, 16 + 8 * 6));
        assert!(key.name.starts_with(b"nal.a\0"));
        let (key, bits) = DnsName::parse("*.a.lan").unwrap().key(3, 0x1_02);
        assert!(key.name.starts_with(b"nal.a.") && bits == 16 + 8 * 6);
    }

    #[test]
    fn resolvers_are_read_as_the_c_library_does() {
        let text =
            "# nameserver 192.0.2.9\nsearch lan\nnameserver 127.0.0.53\nnameserver\tfe80::1%eth0\nnameserver x\n";
        let found: Vec<_> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53", "fe80::1"]);
        assert_eq!(resolvers("search lan"), [Ipv4Addr::LOCALHOST]);
    }
}
