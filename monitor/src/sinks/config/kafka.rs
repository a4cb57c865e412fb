//! The keys of a sink of type `kafka`.

use super::keys::{TlsFiles, address, text_like, transport};
use crate::policy::parse::{Reader, Table};

/// A topic of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTarget {
    /// Brokers that are asked for all others, `HOST:PORT`; one at least.
    pub servers: Vec<String>,
    /// Files for TLS; a plain connection without them.
    pub tls: Option<TlsFiles>,
    /// Where records go.
    pub topic: String,
}

pub(super) fn read(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<KafkaTarget> {
    let servers = reader.required(table, "server").map(|value| {
        let texts = reader.strings(value, "`server`");
        texts.into_iter().filter_map(|(text, at)| address(reader, text, at)).collect()
    });
    let transport = transport(reader, table, &["tls"], &["tcp"]);
    let what = "`topic` is a name of A-Z, a-z, 0-9, `.`, `_` and `-`";
    let topic = table.take("topic").map_or_else(
        || Some("flowwarden".to_owned()),
        |value| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            let is_name =
                |text: &str| (1..=249).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('.');
            text_like(reader, value, what, is_name)
        },
    );
    Some(KafkaTarget { servers: servers?, tls: transport?.1, topic: topic? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::parse::parse, sinks::config::Target};

    fn target(keys: &str) -> Result<Target, String> {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let parsed = parse(&format!("version = 1\n[[sink]]\nname = \"a\"\ntype = \"kafka\"\n{keys}\n{rest}"));
        parsed.map(|mut policy| policy.sinks.remove(0).target).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn one_broker_or_many_lead_to_a_topic() {
        let one = target("server = \"k:9092\"\ntransport = \"tcp\"").unwrap();
        let expected = KafkaTarget { servers: vec!["k:9092".into()], tls: None, topic: "flowwarden".into() };
        assert_eq!(one, Target::Kafka(expected));
        let two = target("server = [\"k:9093\", \"l:9093\"]\nca = \"/ca\"\ntopic = \"plant.a\"").unwrap();
        let tls = Some(TlsFiles { ca: "/ca".into(), own: None });
        let expected = KafkaTarget { servers: vec!["k:9093".into(), "l:9093".into()], tls, topic: "plant.a".into() };
        assert_eq!(two, Target::Kafka(expected));
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        for (keys, fault) in [
            ("transport = \"tcp\"", "line 2, column 1: `server` is missing"),
            ("server = [\"k:9092\", \"l\"]\ntransport = \"tcp\"", "line 5, column 21: `server` is HOST:PORT"),
            ("server = \"k:9092\"", "line 2, column 1: `ca` is missing"),
            ("server = \"k:9092\"\ntransport = \"tcp\"\ntopic = \"a/b\"", "line 7, column 9: `topic` is a name of A-Z"),
        ] {
            let found = target(keys).unwrap_err();
            assert!(found.starts_with(fault), "{keys}: {found}");
        }
    }
}
