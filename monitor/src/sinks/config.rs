//! `[[sink]]` in the policy file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    journal::{config::size, format::Format},
    policy::parse::{Reader, Table, Value, suggest},
};

use super::filter::{Filter, Severity};

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

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Lines in a file.
    File(FileTarget),
    /// A syslog server, RFC 5424.
    Syslog(SyslogTarget),
    /// Requests to a web server.
    Webhook(WebhookTarget),
}

/// Lines in a file, for agents that read files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTarget {
    /// The file.
    pub path: PathBuf,
    /// It is moved to `.1` when it would grow larger, in bytes.
    pub max_bytes: u64,
    /// How many of the moved ones are kept.
    pub keep: u32,
}

/// A syslog server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogTarget {
    /// `HOST:PORT`, an IPv6 address in brackets.
    pub server: String,
    /// How it is reached.
    pub transport: Transport,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: nobody knows what arrives.
    Udp,
    /// A plain connection.
    Tcp,
    /// TLS.
    Tls(TlsFiles),
}

/// Files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that the server's must come from; PEM.
    pub ca: PathBuf,
    /// Our own certificate and its key; PEM.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// A web server.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookTarget {
    /// Where requests go.
    pub url: String,
    /// What they say.
    pub body: Body,
    /// Certificates that the server's must come from; those that come with the program when there is none.
    pub ca: Option<PathBuf>,
    /// A secret that goes with each request as a bearer token.
    pub token: Option<Secret>,
}

/// What a request says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The event itself, in the sink's format.
    Event,
    /// The message as text: ntfy.
    Text,
    /// `{"text": MESSAGE}`: Slack, Mattermost.
    Slack,
    /// Alerts as Prometheus Alertmanager takes them at `/api/v2/alerts`.
    Alertmanager,
    /// A text of your own, with `${/json/pointer}` for what the event says.
    Template(String),
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a credential of the systemd unit.
    Credential(String),
}

/// Reads all of them.
pub(crate) fn read(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<SinkConfig> {
    let (mut sinks, mut names) = (Vec::new(), BTreeSet::new());
    for (keys, at) in reader.tables(value, "sink") {
        let mut table = Table::new(keys, at);
        let sink = sink(reader, &mut table);
        // Without its type nobody knows which keys it may have.
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
    let format = table.take("format").map_or(Some(Format::Ocsf), |value| {
        let text = reader.string(value, "`format`")?;
        text.parse().map_err(|why: String| reader.fault(value.span().start, why)).ok()
    });
    let filter = filter(reader, table);
    let rate = table.take("rate").and_then(|value| number(reader, value, "`rate`", 1..=1_000_000));
    let from = table.take("from").map_or(Some(false), |value| match reader.string(value, "`from`")? {
        "now" => Some(false),
        "beginning" => Some(true),
        other => {
            reader.fault(value.span().start, format!("`from` is \"now\" or \"beginning\", not \"{other}\""));
            None
        }
    });
    let target = target(reader, table);
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

fn filter(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Filter {
    let mut filter = Filter::default();
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

fn target(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Target> {
    const TYPES: [&str; 3] = ["file", "syslog", "webhook"];
    let value = reader.required(table, "type")?;
    match reader.string(value, "`type`")? {
        "file" => {
            let path = reader.required(table, "path").and_then(|value| path(reader, value, "`path`"));
            let max_bytes = table.take("max-size").map_or(Some(64 << 20), |value| size(reader, value, "`max-size`"));
            let keep = table.take("keep").map_or(Some(5), |value| number(reader, value, "`keep`", 0..=1000));
            Some(Target::File(FileTarget { path: path?, max_bytes: max_bytes?, keep: keep? }))
        }
        "syslog" => {
            let server = reader.required(table, "server").and_then(|value| server(reader, value));
            let transport = transport(reader, table);
            Some(Target::Syslog(SyslogTarget { server: server?, transport: transport? }))
        }
        "webhook" => {
            let url = reader.required(table, "url").and_then(|value| url(reader, value));
            let body = body(reader, table);
            let ca = table.take("ca").map(|value| path(reader, value, "`ca`"));
            let token = token(reader, table);
            let ca = match ca {
                Some(None) => return None,
                Some(ca) => ca,
                None => None,
            };
            Some(Target::Webhook(WebhookTarget { url: url?, body: body?, ca, token }))
        }
        other => {
            let hint = suggest(other, TYPES.into_iter());
            reader.fault(value.span().start, format!("\"{other}\" is no type of sink: {}{hint}", TYPES.join(", ")));
            None
        }
    }
}

fn path(reader: &mut Reader<'_>, value: &Value<'_>, what: &str) -> Option<PathBuf> {
    let text = reader.string(value, what)?;
    if !Path::new(text).is_absolute() {
        reader.fault(value.span().start, format!("{what} must be absolute; \"{text}\" is not"));
        return None;
    }
    Some(PathBuf::from(text))
}

fn number(reader: &mut Reader<'_>, value: &Value<'_>, what: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let integer = value.get_ref().as_integer();
    let number = integer.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        reader.fault(value.span().start, format!("{what} is a number from {} to {}", range.start(), range.end()));
    }
    number
}

fn server(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.string(value, "`server`")?;
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        reader.fault(
            value.span().start,
            format!("`server` is HOST:PORT, like \"siem.example.net:6514\", not \"{text}\""),
        );
        return None;
    }
    Some(text.to_owned())
}

fn transport(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Transport> {
    let value = table.take("transport");
    let text = value.map_or(Some("tls"), |value| reader.string(value, "`transport`"))?;
    let (ca, cert, key) = (table.take("ca"), table.take("cert"), table.take("key"));
    match text {
        "tls" => {
            let Some(ca) = ca else {
                reader.fault(table.at, "`ca` is missing: the certificates that the server's must come from");
                return None;
            };
            let ca = path(reader, ca, "`ca`");
            let own = match (cert, key) {
                (Some(cert), Some(key)) => Some((path(reader, cert, "`cert`")?, path(reader, key, "`key`")?)),
                (None, None) => None,
                (Some(one), None) | (None, Some(one)) => {
                    reader.fault(one.span().start, "`cert` and `key` go together");
                    return None;
                }
            };
            Some(Transport::Tls(TlsFiles { ca: ca?, own }))
        }
        "udp" | "tcp" => {
            if let Some(value) = ca.or(cert).or(key) {
                reader.fault(value.span().start, "certificates are for transport = \"tls\" only");
            }
            Some(if text == "udp" { Transport::Udp } else { Transport::Tcp })
        }
        other => {
            let at = value.map_or(table.at, |value| value.span().start);
            reader.fault(at, format!("`transport` is \"tls\", \"tcp\" or \"udp\", not \"{other}\""));
            None
        }
    }
}

fn url(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.string(value, "`url`")?;
    if !(text.starts_with("https://") || text.starts_with("http://")) {
        reader.fault(value.span().start, format!("`url` begins with https:// or http://; \"{text}\" does not"));
        return None;
    }
    Some(text.to_owned())
}

fn body(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Body> {
    const NAMES: [&str; 4] = ["event", "text", "slack", "alertmanager"];
    match (table.take("body"), table.take("template")) {
        (None, None) => Some(Body::Event),
        (None, Some(value)) => {
            let text = reader.string(value, "`template`")?;
            match super::template::check(text) {
                Ok(()) => Some(Body::Template(text.to_owned())),
                Err(why) => {
                    reader.fault(value.span().start, why);
                    None
                }
            }
        }
        (Some(value), None) => match reader.string(value, "`body`")? {
            "event" => Some(Body::Event),
            "text" => Some(Body::Text),
            "slack" => Some(Body::Slack),
            "alertmanager" => Some(Body::Alertmanager),
            other => {
                let hint = suggest(other, NAMES.into_iter());
                reader.fault(value.span().start, format!("\"{other}\" is no body: {}{hint}", NAMES.join(", ")));
                None
            }
        },
        (Some(_), Some(value)) => {
            reader.fault(value.span().start, "`body` and `template` in one sink: use one of them");
            None
        }
    }
}

fn token(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Secret> {
    match (table.take("token-file"), table.take("token-credential")) {
        (None, None) => None,
        (Some(value), None) => path(reader, value, "`token-file`").map(Secret::File),
        (None, Some(value)) => {
            let text = reader.string(value, "`token-credential`")?;
            if text.is_empty() || text.contains('/') {
                reader.fault(value.span().start, "`token-credential` is the name of a credential, without a `/`");
            }
            Some(Secret::Credential(text.to_owned()))
        }
        (Some(_), Some(value)) => {
            reader.fault(value.span().start, "`token-file` and `token-credential` in one sink: use one of them");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::parse;

    fn read(sink: &str) -> Result<SinkConfig, String> {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let parsed = parse(&format!("version = 1\n[[sink]]\n{sink}\n{rest}"));
        parsed.map(|mut policy| policy.sinks.remove(0)).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn every_key_is_read() {
        let file = read(
            "name = \"wazuh\"\ntype = \"file\"\npath = \"/var/log/x.json\"\nmax-size = \"1MiB\"\nkeep = 2\n\
             format = \"ecs\"\nverdict = [\"deny\", \"kill\"]\nseverity = \"high\"\ninstance = \"a\"\nrule = \"r\"\n\
             rate = 50\nown-events = false\nfrom = \"beginning\"",
        );
        assert_eq!(
            file.unwrap(),
            SinkConfig {
                name: "wazuh".into(),
                target: Target::File(FileTarget { path: "/var/log/x.json".into(), max_bytes: 1 << 20, keep: 2 }),
                filter: Filter {
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
    fn a_fault_has_its_place_and_a_mend() {
        let file = "type = \"file\"\npath = \"/x\"";
        for (sink, fault) in [
            ("type = \"file\"\npath = \"/x\"".to_owned(), "line 2, column 1: `name` is missing"),
            (format!("name = \"A/b\"\n{file}"), "line 3, column 8: a sink's `name` has 1 to 32"),
            (
                "name = \"a\"\ntype = \"fiel\"".into(),
                "line 4, column 8: \"fiel\" is no type of sink: file, syslog, webhook; did you mean \"file\"?",
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
            ("name = \"a\"\ntype = \"webhook\"\nurl = \"ftp://x\"".into(), "line 5, column 7: `url` begins with"),
            ("name = \"a\"\ntype = \"webhook\"\nurl = \"http://x\"\ntemplate = \"${x\"".into(), "line 6, column 12: "),
            (
                format!("name = \"a\"\n{file}\n[[sink]]\nname = \"a\"\n{file}"),
                "line 6, column 1: there are two sinks called \"a\"",
            ),
        ] {
            let found = read(&sink).unwrap_err();
            assert!(found.starts_with(fault), "{sink}: {found}");
        }
    }
}
