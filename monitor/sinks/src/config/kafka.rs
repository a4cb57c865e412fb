//! The keys of a sink of type `kafka`.

use super::address::Server;
use super::keys::{Login, TlsFiles, address, login, text_like, transport};
use policy::toml_reader::{Reader, Table};

/// How a broker is shown that we know the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// By the password itself.
    Plain,
    /// SCRAM (RFC 5802): the password is not sent, and the broker proves that it knows it.
    ScramSha256,
    /// The same with a longer hash.
    ScramSha512,
}

/// A topic of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTarget {
    /// Brokers that are asked for all others; one at least.
    pub servers: Vec<Server>,
    /// Files for TLS; a plain connection without them.
    pub tls: Option<TlsFiles>,
    /// Who we are, and how that is shown.
    pub login: Option<(Mechanism, Login)>,
    /// Where records go.
    pub topic: String,
}

pub(super) fn read(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<KafkaTarget> {
    let servers = reader.required(table, "server").map(|value| {
        let texts = reader.strings(value, "`server`");
        texts.into_iter().filter_map(|(text, at)| address(reader, text, at)).collect()
    });
    let tls = transport(reader, table, &["tls"], &["tcp"]).map(|(_, files)| files);
    let login = sasl(reader, table, tls == Some(None));
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
    Some(KafkaTarget { servers: servers?, tls: tls?, login: login?, topic: topic? })
}

/// The outer one is none when something is wrong.
#[expect(clippy::option_option, reason = "a fault, nothing, or a login")]
fn sasl(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, is_plain: bool) -> Option<Option<(Mechanism, Login)>> {
    let value = table.take("mechanism");
    let login = login(reader, table);
    let Some(value) = value else { return Some(login.map(|login| (Mechanism::ScramSha512, login))) };
    let at = value.span().start;
    let mechanism = match reader.string(value, "`mechanism`")? {
        "plain" if is_plain => {
            reader.fault(at, "a password over a plain connection: use `tls`, or a mechanism that does not show it");
            return None;
        }
        "plain" => Mechanism::Plain,
        "scram-sha-256" => Mechanism::ScramSha256,
        "scram-sha-512" => Mechanism::ScramSha512,
        other => {
            let known = "\"scram-sha-512\" or \"scram-sha-256\" or \"plain\"";
            reader.fault(at, format!("`mechanism` is {known}, not \"{other}\""));
            return None;
        }
    };
    if login.is_none() {
        reader.fault(at, "`mechanism` goes with `user`, and `password-file` or `password-credential`");
    }
    login.map(|login| Some((mechanism, login)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, Target, parse};

    fn target(keys: &str) -> Result<Target, String> {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let parsed = parse(&format!("version = 1\n[[sink]]\nname = \"a\"\ntype = \"kafka\"\n{keys}\n{rest}"));
        parsed.map(|mut sinks| sinks.remove(0).target).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn one_broker_or_many_lead_to_a_topic() {
        let one = target("server = \"k:9092\"\ntransport = \"tcp\"").unwrap();
        let expected =
            KafkaTarget { servers: vec!["k:9092".into()], tls: None, login: None, topic: "flowwarden".into() };
        assert_eq!(one, Target::Kafka(expected));
        let two = target("server = [\"k:9093\", \"l:9093\"]\nca = \"/ca\"\ntopic = \"plant.a\"").unwrap();
        let tls = Some(TlsFiles { ca: "/ca".into(), own: None });
        let servers = vec!["k:9093".into(), "l:9093".into()];
        let expected = KafkaTarget { servers, tls, login: None, topic: "plant.a".into() };
        assert_eq!(two, Target::Kafka(expected));
    }

    #[test]
    fn a_login_has_its_mechanism() {
        let of = |keys: &str| {
            let Target::Kafka(target) = target(&format!("server = \"k:1\"\n{keys}\nuser = \"u\"")).unwrap() else {
                panic!("another target");
            };
            target.login.unwrap()
        };
        let file = Login { user: "u".into(), password: Secret::File("/p".into()) };
        let credential = Login { user: "u".into(), password: Secret::Credential("p".into()) };
        let (tls, tcp) = ("ca = \"/ca\"", "transport = \"tcp\"");
        let from_file = "password-file = \"/p\"";
        for (keys, expected) in [
            (format!("{tls}\n{from_file}"), (Mechanism::ScramSha512, file.clone())),
            (format!("{tcp}\n{from_file}\nmechanism = \"scram-sha-256\""), (Mechanism::ScramSha256, file.clone())),
            (format!("{tls}\n{from_file}\nmechanism = \"plain\""), (Mechanism::Plain, file)),
            (
                format!("{tls}\npassword-credential = \"p\"\nmechanism = \"scram-sha-512\""),
                (Mechanism::ScramSha512, credential),
            ),
        ] {
            assert_eq!(of(&keys), expected, "{keys}");
        }
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        for (keys, fault) in [
            ("transport = \"tcp\"", "line 2, column 1: `server` is missing"),
            ("server = [\"k:9092\", \"l\"]\ntransport = \"tcp\"", "line 5, column 21: `server` is HOST:PORT"),
            ("server = \"k:9092\"", "line 2, column 1: `ca` is missing"),
            ("server = \"k:9092\"\ntransport = \"tcp\"\ntopic = \"a/b\"", "line 7, column 9: `topic` is a name of A-Z"),
            (
                "server = \"k:9092\"\ntransport = \"tcp\"\nmechanism = \"plain\"\nuser = \"u\"\npassword-file = \"/p\"",
                "line 7, column 13: a password over a plain connection",
            ),
            (
                "server = \"k:9092\"\nca = \"/ca\"\nmechanism = \"plain\"",
                "line 7, column 13: `mechanism` goes with `user`",
            ),
            (
                "server = \"k:9092\"\nca = \"/ca\"\nmechanism = \"gssapi\"\nuser = \"u\"\npassword-file = \"/p\"",
                "line 7, column 13: `mechanism` is \"scram-sha-512\" or \"scram-sha-256\" or \"plain\", not \"gssapi\"",
            ),
        ] {
            let found = target(keys).unwrap_err();
            assert!(found.starts_with(fault), "{keys}: {found}");
        }
    }
}
