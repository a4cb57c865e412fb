//! Where events go, and the keys that say so.

use std::path::PathBuf;

#[cfg(feature = "email")]
use super::email::{self, EmailTarget};
#[cfg(feature = "kafka")]
use super::kafka::{self, KafkaTarget};
use super::{
    address::Server,
    keys::{Login, Secret, TOKEN, TlsFiles, Web, login, number, path, secret, server, text_like, transport, web},
};
use journal::format::Format;
use policy::toml_reader::{Reader, Table, suggest};

/// Where events go.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Lines in a file.
    File(FileTarget),
    /// A syslog server, RFC 5424.
    Syslog(SyslogTarget),
    /// Requests to a web server.
    Webhook(WebhookTarget),
    /// An MQTT broker.
    Mqtt(MqttTarget),
    /// Splunk's HTTP Event Collector.
    Splunk(SplunkTarget),
    /// Elasticsearch, or what speaks like it.
    Elastic(ElasticTarget),
    /// The journal of systemd on this machine.
    Journald(JournaldTarget),
    /// Log records of OpenTelemetry over HTTP.
    Otlp(OtlpTarget),
    /// A stream of NATS.
    Nats(NatsTarget),
    /// Mail to persons.
    #[cfg(feature = "email")]
    Email(EmailTarget),
    /// A topic of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaTarget),
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
    /// Where it is.
    pub server: Server,
    /// How it is reached.
    pub transport: Transport,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: delivery is not confirmed.
    Udp,
    /// A plain connection.
    Tcp,
    /// TLS.
    Tls(TlsFiles),
}

/// A web server that takes anything.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookTarget {
    /// The server.
    pub web: Web,
    /// What requests say.
    pub body: Body,
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

/// An MQTT broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttTarget {
    /// Where it is.
    pub server: Server,
    /// Files for TLS; a plain connection without them.
    pub tls: Option<TlsFiles>,
    /// Version of the protocol.
    pub version: MqttVersion,
    /// Who we are.
    pub login: Option<Login>,
    /// What topics begin with; `flowwarden/HOSTNAME` when there is none.
    pub topic: Option<String>,
    /// What topics of Home Assistant's discovery begin with.
    pub discovery: Option<String>,
}

/// Version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    /// 3.1.1
    V3,
    /// 5
    V5,
}

/// Splunk's HTTP Event Collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplunkTarget {
    /// The server.
    pub web: Web,
    /// The collector's token.
    pub token: Secret,
    /// The index; the token's own when there is none.
    pub index: Option<String>,
    /// An event counts as taken when an indexer has it, not when the collector has.
    pub acknowledge: bool,
}

/// Elasticsearch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElasticTarget {
    /// The server.
    pub web: Web,
    /// Index or data stream.
    pub index: String,
    /// Who we are.
    pub access: Option<Access>,
}

/// How a server knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a key.
    Key(Secret),
    /// By user and password.
    Login(Login),
}

/// systemd's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournaldTarget {
    /// Where it listens.
    pub socket: PathBuf,
}

/// A collector of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpTarget {
    /// The server, with `/v1/logs`.
    pub web: Web,
    /// A secret that goes with each request as a bearer token.
    pub token: Option<Secret>,
}

/// A NATS server with `JetStream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTarget {
    /// Where it is.
    pub server: Server,
    /// Files for TLS; a plain connection without them.
    pub tls: Option<TlsFiles>,
    /// What messages are about; a stream has to take it.
    pub subject: String,
    /// Who we are.
    pub access: Option<Access>,
}

impl Target {
    /// The format when none is given.
    pub(super) fn usual_format(&self) -> Format {
        if matches!(self, Self::Elastic(_)) { Format::Ecs } else { Format::Ocsf }
    }

    /// Whether events in a format can go there, and if not, why.
    pub(super) fn takes(&self, format: Format) -> Result<(), String> {
        match self {
            Self::Elastic(_) if format != Format::Ecs => {
                Err("an index of `elastic` holds \"ecs\"; leave `format` out".to_owned())
            }
            Self::Mqtt(MqttTarget { discovery: Some(_), .. }) if format == Format::Cef => {
                Err("`discovery` needs events in JSON: ocsf, jsonl or ecs".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Reads the keys of one sink that say where it goes.
pub(super) fn read(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Target> {
    const TYPES: [&str; 11] =
        ["file", "syslog", "webhook", "mqtt", "splunk", "elastic", "journald", "otlp", "nats", "email", "kafka"];
    let value = reader.required(table, "type")?;
    match reader.string(value, "`type`")? {
        "file" => file(reader, table).map(Target::File),
        "syslog" => syslog(reader, table).map(Target::Syslog),
        "webhook" => {
            let (web, body, token) = (web(reader, table), body(reader, table), secret(reader, table, TOKEN));
            Some(Target::Webhook(WebhookTarget { web: web?, body: body?, token }))
        }
        "mqtt" => mqtt(reader, table).map(Target::Mqtt),
        "splunk" => splunk(reader, table).map(Target::Splunk),
        "elastic" => elastic(reader, table).map(Target::Elastic),
        "journald" => {
            let socket = table.take("socket").map(|value| path(reader, value, "`socket`"));
            let socket = socket.unwrap_or_else(|| Some("/run/systemd/journal/socket".into()));
            Some(Target::Journald(JournaldTarget { socket: socket? }))
        }
        "otlp" => {
            let (web, token) = (web(reader, table), secret(reader, table, TOKEN));
            Some(Target::Otlp(OtlpTarget { web: web?, token }))
        }
        "nats" => nats(reader, table).map(Target::Nats),
        #[cfg(feature = "email")]
        "email" => email::read(reader, table).map(Target::Email),
        #[cfg(not(feature = "email"))]
        "email" => left_out(reader, table, value, "email"),
        #[cfg(feature = "kafka")]
        "kafka" => kafka::read(reader, table).map(Target::Kafka),
        #[cfg(not(feature = "kafka"))]
        "kafka" => left_out(reader, table, value, "kafka"),
        other => {
            let hint = suggest(other, TYPES.into_iter());
            reader.fault(value.span().start, format!("\"{other}\" is no type of sink: {}{hint}", TYPES.join(", ")));
            None
        }
    }
}

/// A type of sink that this build was made without.
#[cfg(not(all(feature = "email", feature = "kafka")))]
fn left_out(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    value: &policy::toml_reader::Value<'_>,
    kind: &str,
) -> Option<Target> {
    table.forgive();
    let fix = format!("remove this sink, or build flowwarden with `--features {kind}`");
    reader.fault(value.span().start, format!("this build has no {kind} sink: {fix}"));
    None
}

fn file(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<FileTarget> {
    let path = reader.required(table, "path").and_then(|value| path(reader, value, "`path`"));
    let max_bytes = table.take("max-size").map_or(Some(64 << 20), |value| reader.size(value, "`max-size`"));
    let keep = table.take("keep").map_or(Some(5), |value| number(reader, value, "`keep`", 0..=1000));
    Some(FileTarget { path: path?, max_bytes: max_bytes?, keep: keep? })
}

fn syslog(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<SyslogTarget> {
    let server = reader.required(table, "server").and_then(|value| server(reader, value));
    let transport = match transport(reader, table, &["tls"], &["tcp", "udp"])? {
        (_, Some(files)) => Transport::Tls(files),
        ("udp", None) => Transport::Udp,
        (_, None) => Transport::Tcp,
    };
    Some(SyslogTarget { server: server?, transport })
}

fn mqtt(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<MqttTarget> {
    let server = reader.required(table, "server").and_then(|value| server(reader, value));
    let transport = transport(reader, table, &["tls"], &["tcp"]);
    let version =
        table.take("version").map_or(Some(MqttVersion::V5), |value| match reader.string(value, "`version`")? {
            "5" => Some(MqttVersion::V5),
            "3.1.1" => Some(MqttVersion::V3),
            other => {
                reader.fault(value.span().start, format!("`version` is \"5\" or \"3.1.1\", not \"{other}\""));
                None
            }
        });
    let login = login(reader, table);
    let mut topic = |key: &'static str, what: &str| {
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 200
                && !text.contains(['+', '#', '$'])
                && !text.chars().any(char::is_control)
        };
        let value = table.take(key)?;
        text_like(reader, value, what, |text| plain(text) && !text.starts_with('/') && !text.ends_with('/'))
    };
    let topic_ =
        topic("topic", "`topic` is what topics begin with, like \"plant/flowwarden\", without `+`, `#` and `$`");
    let discovery =
        topic("discovery", "`discovery` is what Home Assistant's topics begin with, usually \"homeassistant\"");
    Some(MqttTarget { server: server?, tls: transport?.1, version: version?, login, topic: topic_, discovery })
}

fn splunk(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<SplunkTarget> {
    let web = web(reader, table);
    let at = table.at;
    let token = secret(reader, table, TOKEN);
    if token.is_none() {
        reader.fault(at, "`token-file` or `token-credential` is missing: the collector's token");
    }
    let index = table.take("index").and_then(|value| text_like(reader, value, INDEX, is_index));
    let acknowledge = table.take("acknowledge").map_or(Some(true), |value| {
        let given = value.get_ref().as_bool();
        if given.is_none() {
            reader.fault(value.span().start, "`acknowledge` is true or false");
        }
        given
    });
    Some(SplunkTarget { web: web?, token: token?, index, acknowledge: acknowledge? })
}

const INDEX: &str = "`index` is a name of a-z, 0-9, `-`, `_` and `.` that begins with a letter or digit";

fn is_index(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 200 && text.bytes().all(fits) && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn elastic(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<ElasticTarget> {
    let web = web(reader, table);
    let index = table
        .take("index")
        .map_or_else(|| Some("logs-flowwarden-default".to_owned()), |value| text_like(reader, value, INDEX, is_index));
    let key = secret(reader, table, ["api-key-file", "api-key-credential"]);
    let access = access(reader, table, key, "an API key");
    Some(ElasticTarget { web: web?, index: index?, access })
}

/// A key or a login, not both.
fn access(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, key: Option<Secret>, what: &str) -> Option<Access> {
    match (key, login(reader, table)) {
        (Some(_), Some(_)) => {
            reader.fault(table.at, format!("{what} and `user` in one sink: use one of them"));
            None
        }
        (Some(key), None) => Some(Access::Key(key)),
        (None, login) => login.map(Access::Login),
    }
}

fn nats(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<NatsTarget> {
    let server = reader.required(table, "server").and_then(|value| server(reader, value));
    let transport = transport(reader, table, &["tls"], &["tcp"]);
    let what = "`subject` is words of A-Z, a-z, 0-9, `-` and `_` with `.` between them";
    let subject = table.take("subject").map_or_else(
        || Some("flowwarden.events".to_owned()),
        |value| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_subject = |text: &str| text.split('.').all(|word| !word.is_empty() && word.bytes().all(fits));
            text_like(reader, value, what, is_subject)
        },
    );
    let token = secret(reader, table, TOKEN);
    let access = access(reader, table, token, "a token");
    Some(NatsTarget { server: server?, tls: transport?.1, subject: subject?, access })
}

fn body(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Body> {
    const NAMES: [&str; 4] = ["event", "text", "slack", "alertmanager"];
    match (table.take("body"), table.take("template")) {
        (None, None) => Some(Body::Event),
        (None, Some(value)) => {
            let text = reader.string(value, "`template`")?;
            match crate::template::check(text) {
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
