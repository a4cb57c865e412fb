//! `[[sink]]` in the policy file.

mod address;
#[cfg(feature = "email")]
mod email;
#[cfg(feature = "kafka")]
mod kafka;
mod keys;
mod target;

use std::collections::BTreeSet;

use journal::{format::Format, ocsf::Severity};
use policy::toml_reader::{Reader, Table, Value, suggest};

use super::filter::{Filter, Grouping};
pub use address::{Server, Url};
#[cfg(feature = "email")]
pub use email::{EmailTarget, EmailTransport};
#[cfg(feature = "kafka")]
pub use kafka::{KafkaTarget, Mechanism};
use keys::number;
pub use keys::{Login, Secret, TlsFiles, Web};
pub use target::{
    Access, Body, ElasticTarget, FileTarget, JournaldTarget, MqttTarget, MqttVersion, NatsTarget, OtlpTarget,
    SplunkTarget, SyslogTarget, Target, Transport, WebhookTarget,
};

/// One sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Its name, unique in the policy: that of its cursor too.
    pub name: String,
    /// Where events go.
    pub target: Target,
    /// Which events go there.
    pub filter: Filter,
    /// In which form.
    pub format: Format,
    /// Most events a second; no limit when there is none.
    pub rate: Option<u32>,
    /// A new sink begins with what is in the journal already, not with what comes from now on.
    pub from_beginning: bool,
}

/// Reads `[[sink]]`.
pub fn read(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<SinkConfig> {
    let (mut sinks, mut names) = (Vec::new(), BTreeSet::new());
    for (keys, at) in reader.tables(value, "sink") {
        let mut table = Table::new(keys, at);
        let sink = sink(reader, &mut table);
        // Without a type the keys are not known.
        if keys.contains_key("type") {
            reader.finish(&table);
        }
        let Some(sink) = sink else { continue };
        if !names.insert(sink.name.clone()) {
            reader.fault(at, format!("there are two sinks called \"{}\"; give each its own name", sink.name));
        }
        sinks.push(sink);
    }
    sinks
}

fn sink(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<SinkConfig> {
    let name = reader.required(table, "name").and_then(|value| name(reader, value));
    let given = table.take("format");
    let format = given.map(|value| {
        let text = reader.string(value, "`format`")?;
        text.parse().map_err(|why: String| reader.fault(value.span().start, why)).ok()
    });
    let is_mail = table.take("type").is_some_and(|value| value.get_ref().as_str() == Some("email"));
    let filter = filter(reader, table, if is_mail { Filter::for_persons() } else { Filter::default() });
    let rate = table.take("rate").and_then(|value| number(reader, value, "`rate`", 1..=1_000_000));
    let from = table.take("from").map_or(Some(false), |value| match reader.string(value, "`from`")? {
        "now" => Some(false),
        "beginning" => Some(true),
        other => {
            reader.fault(value.span().start, format!("`from` is \"now\" or \"beginning\", not \"{other}\""));
            None
        }
    });
    let target = target::read(reader, table);
    let format = match (format, &target) {
        (None, Some(target)) => Some(target.usual_format()),
        (None, None) => None,
        (Some(format), target) => {
            if let (Some(format), Some(target), Some(value)) = (format, target, given)
                && let Err(why) = target.takes(format)
            {
                reader.fault(value.span().start, why);
            }
            format
        }
    };
    Some(SinkConfig { name: name?, target: target?, filter, format: format?, rate, from_beginning: from? })
}

fn name(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.string(value, "`name`")?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=32).contains(&text.len()) || !text.bytes().all(fits) {
        reader.fault(value.span().start, "a sink's `name` has 1 to 32 of a-z, 0-9 and `-`: it names a file too");
        return None;
    }
    Some(text.to_owned())
}

/// What the keys say; `filter` is what they leave open.
fn filter(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, mut filter: Filter) -> Filter {
    if let Some(value) = table.take("verdict") {
        for (text, at) in reader.strings(value, "`verdict`") {
            if !matches!(text, "log" | "deny" | "kill") {
                let hint = suggest(text, ["log", "deny", "kill"].into_iter());
                reader.fault(at, format!("\"{text}\" is no verdict that is journaled: log, deny or kill{hint}"));
            }
            filter.verdicts.push(text.to_owned());
        }
    }
    let mut list = |key: &'static str, what| {
        let value = table.take(key);
        value.map(|value| reader.strings(value, what).into_iter().map(|(text, _)| text.to_owned()).collect())
    };
    filter.instances = list("instance", "`instance`").unwrap_or_default();
    filter.rules = list("rule", "`rule`").unwrap_or_default();
    if let Some(value) = table.take("events")
        && let Some(text) = reader.string(value, "`events`")
    {
        match text.parse::<Grouping>() {
            Ok(grouping) => filter.grouping = grouping,
            Err(why) => reader.fault(value.span().start, why),
        }
    }
    if let Some(value) = table.take("severity")
        && let Some(text) = reader.string(value, "`severity`")
    {
        match text.parse::<Severity>() {
            Ok(severity) => filter.severity = severity,
            Err(why) => reader.fault(value.span().start, why),
        }
    }
    if let Some(value) = table.take("own-events") {
        match value.get_ref().as_bool() {
            Some(own) => filter.own_events = own,
            None => reader.fault(value.span().start, "`own-events` is true or false"),
        }
    }
    filter
}

/// Parses the sinks of a policy.
#[cfg(test)]
pub(crate) fn parse(text: &str) -> Result<Vec<SinkConfig>, Vec<policy::toml_reader::Fault>> {
    policy::parse::parse_with(text, |reader, root| read(reader, root.take("sink"))).map(|(_, sinks)| sinks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sink: &str) -> Result<SinkConfig, String> {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let parsed = parse(&format!("version = 1\n[[sink]]\n{sink}\n{rest}"));
        parsed.map(|mut sinks| sinks.remove(0)).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn every_key_is_read() {
        let file = read(
            "name = \"wazuh\"\ntype = \"file\"\npath = \"/var/log/x.json\"\nmax-size = \"1MiB\"\nkeep = 2\n\
             format = \"ecs\"\nverdict = [\"deny\", \"kill\"]\nseverity = \"high\"\ninstance = \"a\"\nrule = \"r\"\n\
             events = \"incidents\"\nrate = 50\nown-events = false\nfrom = \"beginning\"",
        );
        assert_eq!(
            file.unwrap(),
            SinkConfig {
                name: "wazuh".into(),
                target: Target::File(FileTarget { path: "/var/log/x.json".into(), max_bytes: 1 << 20, keep: 2 }),
                filter: Filter {
                    grouping: Grouping::Incidents,
                    verdicts: vec!["deny".into(), "kill".into()],
                    severity: Severity::High,
                    instances: vec!["a".into()],
                    rules: vec!["r".into()],
                    own_events: false,
                },
                format: Format::Ecs,
                rate: Some(50),
                from_beginning: true,
            }
        );
        let syslog =
            read("name = \"s\"\ntype = \"syslog\"\nserver = \"[::1]:6514\"\nca = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"");
        let files = TlsFiles { ca: "/ca".into(), own: Some(("/c".into(), "/k".into())) };
        assert_eq!(
            syslog.unwrap().target,
            Target::Syslog(SyslogTarget { server: "[::1]:6514".into(), transport: Transport::Tls(files) })
        );
    }

    #[test]
    fn every_type_has_its_own_keys() {
        let target = |keys: &str| read(&format!("name = \"a\"\n{keys}")).unwrap();
        let tls = "ca = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"";
        let own = Some(("/c".into(), "/k".into()));
        let files = TlsFiles { ca: "/ca".into(), own: own.clone() };
        let login = Login { user: "u".into(), password: Secret::Credential("p".into()) };
        let mqtt = target(&format!(
            "type = \"mqtt\"\nserver = \"b:8883\"\n{tls}\nversion = \"3.1.1\"\nuser = \"u\"\n\
             password-credential = \"p\"\ntopic = \"plant/guard\"\ndiscovery = \"homeassistant\""
        ));
        let expected = MqttTarget {
            server: "b:8883".into(),
            tls: Some(files.clone()),
            version: MqttVersion::V3,
            login: Some(login.clone()),
            topic: Some("plant/guard".into()),
            discovery: Some("homeassistant".into()),
        };
        assert_eq!((mqtt.target, mqtt.format), (Target::Mqtt(expected), Format::Ocsf));
        let web = |url: &str| Web { url: url.into(), ca: Some("/ca".into()), own: own.clone() };
        let splunk = target(&format!(
            "type = \"splunk\"\nurl = \"https://s:8088\"\n{tls}\ntoken-file = \"/t\"\nindex = \"ot\"\nacknowledge = false"
        ));
        let expected = SplunkTarget {
            web: web("https://s:8088"),
            token: Secret::File("/t".into()),
            index: Some("ot".into()),
            acknowledge: false,
        };
        assert_eq!(splunk.target, Target::Splunk(expected));
        let elastic = target(&format!(
            "type = \"elastic\"\nurl = \"https://e:9200\"\n{tls}\napi-key-file = \"/k\"\nindex = \"x-1\""
        ));
        let expected = ElasticTarget {
            web: web("https://e:9200"),
            index: "x-1".into(),
            access: Some(Access::Key(Secret::File("/k".into()))),
        };
        assert_eq!((elastic.target, elastic.format), (Target::Elastic(expected), Format::Ecs));
        let nats = target(&format!(
            "type = \"nats\"\nserver = \"n:4222\"\n{tls}\nuser = \"u\"\npassword-credential = \"p\"\nsubject = \"a.b\""
        ));
        let expected = NatsTarget {
            server: "n:4222".into(),
            tls: Some(files),
            subject: "a.b".into(),
            access: Some(Access::Login(login)),
        };
        assert_eq!(nats.target, Target::Nats(expected));
        let journald = target("type = \"journald\"").target;
        assert_eq!(journald, Target::Journald(JournaldTarget { socket: "/run/systemd/journal/socket".into() }));
        let otlp = target("type = \"otlp\"\nurl = \"http://c:4318/v1/logs\"").target;
        let web = Web { url: "http://c:4318/v1/logs".into(), ca: None, own: None };
        assert_eq!(otlp, Target::Otlp(OtlpTarget { web, token: None }));
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn a_sink_that_this_build_was_made_without_is_one_fault_with_its_mend() {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let sink = "[[sink]]\nname = \"a\"\ntype = \"kafka\"\nserver = \"k:9092\"\ntransport = \"tcp\"";
        let faults = parse(&format!("version = 1\n{sink}\n{rest}")).unwrap_err();
        let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let fix = "remove this sink, or build flowwarden with `--features kafka`";
        assert_eq!(said, [format!("line 4, column 8: this build has no kafka sink: {fix}")]);
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        let file = "type = \"file\"\npath = \"/x\"";
        for (sink, fault) in [
            ("type = \"file\"\npath = \"/x\"".to_owned(), "line 2, column 1: `name` is missing"),
            (format!("name = \"A/b\"\n{file}"), "line 3, column 8: a sink's `name` has 1 to 32"),
            (
                "name = \"a\"\ntype = \"fiel\"".into(),
                "line 4, column 8: \"fiel\" is no type of sink: file, syslog, webhook, mqtt, splunk, elastic, journald, otlp, nats, \
                 email, kafka; \
                 did you mean \"file\"?",
            ),
            (format!("name = \"a\"\n{file}\nserver = \"x:1\""), "line 6, column 1: unknown key \"server\""),
            (
                format!("name = \"a\"\n{file}\nverdict = \"allow\""),
                "line 6, column 11: \"allow\" is no verdict that is journaled",
            ),
            (format!("name = \"a\"\n{file}\nseverity = \"hgh\""), "line 6, column 12: \"hgh\" is no severity"),
            (format!("name = \"a\"\n{file}\nrate = 0"), "line 6, column 8: `rate` is a number from 1"),
            ("name = \"a\"\ntype = \"file\"\npath = \"x\"".into(), "line 5, column 8: `path` must be absolute"),
            (
                "name = \"a\"\ntype = \"syslog\"\nserver = \"x\"\ntransport = \"udp\"".into(),
                "line 5, column 10: `server` is HOST:PORT",
            ),
            ("name = \"a\"\ntype = \"syslog\"\nserver = \"x:1\"".into(), "line 2, column 1: `ca` is missing"),
            (
                "name = \"a\"\ntype = \"syslog\"\nserver = \"x:1\"\ntransport = \"tcp\"\nca = \"/x\"".into(),
                "line 7, column 6: certificates are for",
            ),
            ("name = \"a\"\ntype = \"webhook\"\nurl = \"ftp://x\"".into(), "line 5, column 7: `url` is an address like \"https://siem.example.net/\": it begins with"),
            ("name = \"a\"\ntype = \"webhook\"\nurl = \"http://x\"\ntemplate = \"${x\"".into(), "line 6, column 12: "),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"udp\"".into(),
                "line 6, column 13: `transport` is \"tls\" or \"tcp\", not \"udp\"",
            ),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"tcp\"\ntopic = \"a/#\"".into(),
                "line 7, column 9: `topic` is what topics begin with",
            ),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"tcp\"\nuser = \"u\"".into(),
                "line 7, column 8: `user` goes with `password-file` or `password-credential`",
            ),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"tcp\"\npassword-file = \"/p\"".into(),
                "line 2, column 1: a password without `user`",
            ),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"tcp\"\nversion = \"4\"".into(),
                "line 7, column 11: `version` is \"5\" or \"3.1.1\", not \"4\"",
            ),
            (
                "name = \"a\"\ntype = \"mqtt\"\nserver = \"x:1\"\ntransport = \"tcp\"\ndiscovery = \"ha\"\nformat = \"cef\""
                    .into(),
                "line 8, column 10: `discovery` needs events in JSON",
            ),
            (
                "name = \"a\"\ntype = \"splunk\"\nurl = \"https://x\"".into(),
                "line 2, column 1: `token-file` or `token-credential` is missing",
            ),
            (
                "name = \"a\"\ntype = \"elastic\"\nurl = \"http://x\"\nindex = \"A\"".into(),
                "line 6, column 9: `index` is a name of a-z",
            ),
            (
                "name = \"a\"\ntype = \"elastic\"\nurl = \"http://x\"\nformat = \"ocsf\"".into(),
                "line 6, column 10: an index of `elastic` holds \"ecs\"; leave `format` out",
            ),
            (
                "name = \"a\"\ntype = \"elastic\"\nurl = \"http://x\"\nca = \"/ca\"".into(),
                "line 6, column 6: certificates are for https:// only",
            ),
            (
                "name = \"a\"\ntype = \"otlp\"\nurl = \"https://x\"\ncert = \"/c\"".into(),
                "line 6, column 8: `cert` and `key` go together",
            ),
            (
                "name = \"a\"\ntype = \"nats\"\nserver = \"x:1\"\ntransport = \"tcp\"\nsubject = \"a.*\"".into(),
                "line 7, column 11: `subject` is words",
            ),
            ("name = \"a\"\ntype = \"journald\"\nsocket = \"x\"".into(), "line 5, column 10: `socket` must be absolute"),
            (
                format!("name = \"a\"\n{file}\n[[sink]]\nname = \"a\"\n{file}"),
                "line 6, column 1: there are two sinks called \"a\"",
            ),
        ] {
            let found = read(&sink).unwrap_err();
            assert!(found.starts_with(fault), "{sink}: {found}");
        }
    }

    /// A sink of each type that has a `server`, or a `url`, with all its other keys.
    const SERVERS: [&str; 5] = [
        "type = \"syslog\"\ntransport = \"tcp\"",
        "type = \"mqtt\"\ntransport = \"tcp\"",
        "type = \"nats\"\ntransport = \"tcp\"",
        #[cfg(feature = "email")]
        "type = \"email\"\ntransport = \"tcp\"\nsender = \"a@b.example\"\nto = \"c@d.example\"",
        #[cfg(not(feature = "email"))]
        "type = \"syslog\"\ntransport = \"udp\"",
        #[cfg(feature = "kafka")]
        "type = \"kafka\"\ntransport = \"tcp\"",
        #[cfg(not(feature = "kafka"))]
        "type = \"syslog\"\ntransport = \"udp\"",
    ];
    const URLS: [&str; 5] = [
        "type = \"webhook\"",
        "type = \"webhook\"\nbody = \"alertmanager\"",
        "type = \"splunk\"\ntoken-file = \"/t\"",
        "type = \"elastic\"",
        "type = \"otlp\"",
    ];

    #[test]
    fn an_address_that_cannot_be_reached_is_a_fault_with_its_place_and_an_example() {
        for (keys, key, example, addresses) in SERVERS
            .iter()
            .map(|keys| {
                let bad = [
                    "",
                    " ",
                    ":",
                    "siem",
                    "siem:",
                    ":514",
                    "siem:0",
                    "siem:65536",
                    "siem:99999",
                    "siem:-1",
                    "siem:+1",
                    "siem:514 ",
                    " siem:514",
                    "si em:514",
                    "siem:51 4",
                    "siem:514\\n",
                    "\\tsiem:514",
                    "tcp://siem:514",
                    "siem:514/",
                    "siem:6514:1",
                    "::1:6514",
                    "[::1]",
                    "[::1]:",
                    "[::1:514",
                    "::1]:514",
                    "[]:514",
                    "[siem]:514",
                    "[::g]:514",
                    "[127.0.0.1]:514",
                    "user@siem:514",
                    "siem:5e2",
                    "siem:0x20",
                    "-siem:514",
                    "siem-:514",
                    "a..b:514",
                    ".siem:514",
                    "127.0.0.256:514",
                    "1.2.3:514",
                    "127.0.0.1.:514",
                    "s\u{ef}em:514",
                    "siem:\u{661}",
                    "siem%20x:514",
                    "si*em:514",
                    "siem:514#x",
                    "siem:514?x",
                ];
                (*keys, "server", "siem.example.net:6514", bad.map(str::to_owned).to_vec())
            })
            .chain(URLS.iter().map(|keys| {
                let bad = [
                    "",
                    " ",
                    "/",
                    "http://",
                    "https://",
                    "http:///",
                    "http:///x",
                    "http://:8080/",
                    "http://:/",
                    "http://?x",
                    "http://#x",
                    "http://host:0/",
                    "http://host:65536/",
                    "http://host:99999/",
                    "http://127.0.0.1:99999/",
                    "http://host:-1/",
                    "http://host:+1/",
                    "http://host:/",
                    "http://host:x/",
                    "http://host:80:80/",
                    "http://[::1/",
                    "http://::1/",
                    "http://[]/",
                    "http://[::1]:99999/",
                    "http://[x]/",
                    "http://a b/",
                    "http://host/a b",
                    "http://host/ ",
                    " http://host/",
                    "http://host/\\n",
                    "http://ho\\tst/",
                    "http:/host/",
                    "http:host",
                    "http//host",
                    "//host/",
                    "host",
                    "ftp://host/",
                    "tcp://host:80",
                    "http:\\\\\\\\host\\\\",
                    "http://host\\\\x/",
                    "http://127.0.0.256/",
                    "http://1.2.3/",
                    "http://-host/",
                    "http://a..b/",
                    "http://h\u{f6}st/",
                    "http://user@/",
                    "http://user:pass@:80/",
                    "http://us er@host/",
                    "http://ho%20st/",
                    "http://ho*st/",
                    "http://a@b@c/",
                    "https://host:443:/",
                ];
                (*keys, "url", "https://siem.example.net/", bad.map(str::to_owned).to_vec())
            }))
        {
            for address in addresses {
                let faults = read(&format!("name = \"a\"\n{key} = \"{address}\"\n{keys}"))
                    .expect_err(&format!("{keys}: {key} = \"{address}\""));
                let place = format!("line 4, column {}: `{key}` ", key.len() + 4);
                assert!(faults.starts_with(&place) && faults.contains(example), "{keys}: \"{address}\": {faults}");
            }
        }
    }

    #[test]
    fn an_address_that_can_be_reached_is_taken_as_it_is_written() {
        for keys in SERVERS {
            for address in [
                "siem:514",
                "siem.example.net:6514",
                "siem.example.net.:1",
                "127.0.0.1:65535",
                "[::1]:6514",
                "[2001:db8::7]:514",
                "a_b.x:1",
                "1e100.net:25",
                "x--y.example:9",
                "xn--sem-vla.example:80",
            ] {
                let sink = read(&format!("name = \"a\"\nserver = \"{address}\"\n{keys}"));
                let sink = sink.unwrap_or_else(|fault| panic!("{keys}: {address}: {fault}"));
                let server = match &sink.target {
                    Target::Syslog(target) => target.server.to_string(),
                    Target::Mqtt(target) => target.server.to_string(),
                    Target::Nats(target) => target.server.to_string(),
                    #[cfg(feature = "email")]
                    Target::Email(target) => target.server.to_string(),
                    #[cfg(feature = "kafka")]
                    Target::Kafka(target) => target.servers[0].to_string(),
                    other => panic!("{other:?}"),
                };
                assert_eq!(server, address, "{keys}");
            }
        }
        for keys in URLS {
            for address in [
                "http://127.0.0.1/",
                "https://hooks.example.net/T/B?x=%20y&z",
                "http://[::1]:8080",
                "https://user:pass@host:1/x",
                "http://host",
                "http://host.",
                "http://a_b/",
                "https://host:65535",
                "http://host?x=1",
                "http://localhost:9093/api/v2/alerts",
            ] {
                let sink = read(&format!("name = \"a\"\nurl = \"{address}\"\n{keys}"));
                let sink = sink.unwrap_or_else(|fault| panic!("{keys}: {address}: {fault}"));
                let web = match &sink.target {
                    Target::Webhook(target) => &target.web,
                    Target::Splunk(target) => &target.web,
                    Target::Elastic(target) => &target.web,
                    Target::Otlp(target) => &target.web,
                    other => panic!("{other:?}"),
                };
                assert_eq!(web.url.as_str(), address, "{keys}");
            }
        }
    }

    #[test]
    fn nothing_of_an_address_that_may_be_a_secret_is_in_a_fault() {
        for address in [
            "http://user:hunter2@host:99999/x",
            "https://host:0/T0/hunter2",
            "http://hunter2@/",
            "ftp://host/hunter2",
            "hunter2",
        ] {
            let fault = read(&format!("name = \"a\"\nurl = \"{address}\"\ntype = \"webhook\"")).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }
}
