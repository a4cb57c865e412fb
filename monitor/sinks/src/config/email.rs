//! The keys of a sink of type `email`.

use std::time::Duration;

use lettre::message::Mailbox;

use super::address::Server;
use super::keys::{Login, TlsFiles, login, server, time, transport};
use policy::toml_reader::{Reader, Table, Value};

/// How long what comes is gathered when nothing else is said.
const USUAL_PAUSE: Duration = Duration::from_mins(1);

/// A mail server, and who writes to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailTarget {
    /// Where it is.
    pub server: Server,
    /// How it is reached.
    pub transport: EmailTransport,
    /// Who we are.
    pub login: Option<Login>,
    /// Who writes.
    pub sender: Mailbox,
    /// To whom; one at least.
    pub to: Vec<Mailbox>,
    /// The least time between two mails.
    pub pause: Duration,
}

/// How a mail server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmailTransport {
    /// TLS from the first byte on.
    Tls(TlsFiles),
    /// A plain connection that has to become TLS before anything is said.
    StartTls(TlsFiles),
    /// A plain connection.
    Tcp,
}

pub(super) fn read(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<EmailTarget> {
    let server = reader.required(table, "server").and_then(|value| server(reader, value));
    let transport = match transport(reader, table, &["tls", "starttls"], &["tcp"])? {
        ("starttls", Some(files)) => EmailTransport::StartTls(files),
        (_, Some(files)) => EmailTransport::Tls(files),
        (_, None) => EmailTransport::Tcp,
    };
    let login = login(reader, table);
    if login.is_some() && transport == EmailTransport::Tcp {
        reader.fault(table.at, "a password over a plain connection: use transport = \"tls\" or \"starttls\"");
    }
    let sender = reader.required(table, "sender").and_then(|value| {
        let text = reader.string(value, "`sender`")?;
        mailbox(reader, text, value.span().start, "`sender`")
    });
    let to = reader.required(table, "to").map(|value| mailboxes(reader, value));
    let pause = table.take("pause").map_or(Some(USUAL_PAUSE), |value| time(reader, value, "`pause`"));
    Some(EmailTarget { server: server?, transport, login, sender: sender?, to: to?, pause: pause? })
}

fn mailboxes(reader: &mut Reader<'_>, value: &Value<'_>) -> Vec<Mailbox> {
    let texts = reader.strings(value, "`to`");
    texts.into_iter().filter_map(|(text, at)| mailbox(reader, text, at, "`to`")).collect()
}

/// An address; those with other letters than ASCII reach few servers.
fn mailbox(reader: &mut Reader<'_>, text: &str, at: usize, key: &str) -> Option<Mailbox> {
    let mailbox = text
        .parse::<Mailbox>()
        .ok()
        .filter(|mailbox| mailbox.email.domain().is_ascii() && mailbox.email.user().is_ascii());
    if mailbox.is_none() {
        let example = "\"guard@plant.example\" or \"Flowwarden <guard@plant.example>\"";
        reader.fault(at, format!("{key} is an address like {example}, not \"{text}\""));
    }
    mailbox
}

#[cfg(test)]
mod tests {
    use journal::ocsf::Severity;

    use super::*;
    use crate::{
        config::{SinkConfig, Target, parse},
        filter::Grouping,
    };

    fn sink(keys: &str) -> Result<SinkConfig, String> {
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";
        let parsed = parse(&format!("version = 1\n[[sink]]\nname = \"a\"\ntype = \"email\"\n{keys}\n{rest}"));
        parsed.map(|mut sinks| sinks.remove(0)).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn mail_is_about_incidents_unless_the_policy_wants_more() {
        let keys = "server = \"m:465\"\nca = \"/ca\"\nsender = \"g@x.example\"\nto = \"Ops <o@x.example>\"";
        let found = sink(keys).unwrap();
        let Target::Email(target) = &found.target else { panic!("{found:?}") };
        assert_eq!(target.transport, EmailTransport::Tls(TlsFiles { ca: "/ca".into(), own: None }));
        assert_eq!(
            (target.sender.to_string(), target.to[0].email.to_string()),
            ("g@x.example".into(), "o@x.example".into())
        );
        assert_eq!(target.pause, Duration::from_mins(1));
        assert_eq!((found.filter.grouping, found.filter.severity), (Grouping::Incidents, Severity::Medium));
        let more = sink(&format!(
            "{keys}\nevents = \"all\"\nseverity = \"informational\"\ntransport = \"starttls\"\npause = \"0s\"\n\
             user = \"u\"\npassword-file = \"/p\""
        ));
        let more = more.unwrap();
        let Target::Email(target) = &more.target else { panic!("{more:?}") };
        assert!(matches!(target.transport, EmailTransport::StartTls(_)) && target.login.is_some());
        assert_eq!((more.filter.grouping, more.filter.severity), (Grouping::All, Severity::Informational));
        assert_eq!(target.pause, Duration::ZERO);
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        let start = "server = \"m:25\"\ntransport = \"tcp\"";
        for (keys, fault) in [
            (format!("{start}\nto = \"o@x.example\""), "line 2, column 1: `sender` is missing"),
            (format!("{start}\nsender = \"g@x.example\""), "line 2, column 1: `to` is missing"),
            (
                format!("{start}\nsender = \"nobody\"\nto = \"o@x.example\""),
                "line 7, column 10: `sender` is an address like \"guard@plant.example\"",
            ),
            (
                format!("{start}\nsender = \"g@x.example\"\nto = [\"o@x.example\", \"\u{f6}@x.example\"]"),
                "line 8, column 22: `to` is an address like",
            ),
            (
                format!("{start}\nsender = \"g@x.example\"\nto = \"o@x.example\"\npause = \"soon\""),
                "line 9, column 9: `pause` is a time like \"1min\"",
            ),
            (
                format!(
                    "{start}\nsender = \"g@x.example\"\nto = \"o@x.example\"\nuser = \"u\"\npassword-file = \"/p\""
                ),
                "line 2, column 1: a password over a plain connection",
            ),
            (
                "server = \"m:25\"\ntransport = \"ssl\"".to_owned(),
                "line 6, column 13: `transport` is \"tls\" or \"starttls\" or \"tcp\", not \"ssl\"",
            ),
        ] {
            let found = sink(&keys).unwrap_err();
            assert!(found.starts_with(fault), "{keys}: {found}");
        }
    }
}
