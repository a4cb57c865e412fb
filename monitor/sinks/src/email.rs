//! Mail to persons: what has come since the last one goes in one, and counts as taken when the server has answered its end
//! with 250.
//!
//! A server that refuses the mail itself for good (5xx after its last byte) does so for something in it; what it refuses
//! before that (the login, the sender, a recipient) is no event's fault, and is tried again.

use std::{fmt::Write as _, time::Duration};

use lettre::{
    Message as Mail,
    message::header::{ContentType, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{
    Failure, Message, Receiver,
    config::EmailTarget,
    hostname,
    http::{Refusal, halves},
    secret,
    smtp::Session,
};
use journal::{ocsf::FINDING, text::terminal::is_hidden};

/// Most events in a mail.
const MOST: usize = 100;
/// How long a server may take to look at a mail.
const JUDGEMENT: Duration = Duration::from_mins(1);

/// A mail server.
pub(super) struct Email {
    target: EmailTarget,
}

impl Email {
    pub(super) fn new(target: EmailTarget) -> Self {
        Self { target }
    }

    /// Sends what there is in one mail.
    fn mail(&self, batch: &[Message]) -> Result<(), Refusal> {
        let place = &self.target.server.to_string();
        let later = |what: &str, error: &dyn std::fmt::Display| Refusal::Later(format!("{place}: {what}{error}"));
        let mail =
            self.write(batch).map_err(|error| Refusal::Never(format!("{place}: no mail can be made: {error}")))?;
        let mut session = self.open().map_err(|why| later("", &why))?;
        let sender = mail.envelope().from().map(ToString::to_string).unwrap_or_default();
        let from = session.command(&format!("MAIL FROM:<{sender}>"));
        from.map_err(|error| later("the sender is refused: ", &error))?;
        for to in mail.envelope().to() {
            let taken = session.command(&format!("RCPT TO:<{to}>"));
            taken.map_err(|error| later(&format!("{to} is refused: "), &error))?;
        }
        session.command("DATA").map_err(|error| later("", &error))?;
        session.message(&mail.formatted(), JUDGEMENT).map_err(|error| {
            if error.is_for_good() {
                return Refusal::Never(format!("{place}: the mail is refused: {error}"));
            }
            later("the mail is not taken: ", &error)
        })?;
        // It has the mail; how it takes leave is its own matter.
        let _ = session.command("QUIT");
        Ok(())
    }

    /// Goes as far as the server knows who we are.
    fn open(&self) -> Result<Session, String> {
        let EmailTarget { server, transport, login, .. } = &self.target;
        let mut session = Session::open(server, transport, &hostname()).map_err(|error| error.to_string())?;
        if let Some(login) = login {
            let password = secret(&login.password)?;
            session.login(&login.user, &password).map_err(|error| format!("the login is refused: {error}"))?;
        }
        Ok(session)
    }

    fn write(&self, batch: &[Message]) -> Result<Mail, lettre::error::Error> {
        let mut mail = Mail::builder().from(self.target.sender.clone()).subject(subject(batch)).date_now();
        for to in &self.target.to {
            mail = mail.to(to.clone());
        }
        // Suppresses out-of-office replies (RFC 3834).
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        mail.message_id(Some(id(batch)))
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(text(batch))
    }
}

impl Receiver for Email {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        halves(batch, &mut |part| self.mail(part))
    }

    fn pause(&self) -> Duration {
        self.target.pause
    }
}

fn uid(message: &Message) -> &str {
    message.event["metadata"]["uid"].as_str().unwrap_or_default()
}

/// The same for the same events: a mail that comes twice shows it.
fn id(batch: &[Message]) -> String {
    let part = |message: Option<&Message>| -> String {
        let text = message.map(uid).unwrap_or_default();
        text.chars().filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.')).collect()
    };
    format!("<{}.{}.{}@flowwarden.invalid>", part(batch.first()), part(batch.last()), batch.len())
}

/// What became of it, in one word, and the instance.
fn outcome(event: &Value) -> (&str, &str) {
    let own = &event["unmapped"];
    let instance = own["instance"].as_str().unwrap_or("the guard");
    let is_own = own["verdict"].is_null() && event["class_uid"] != FINDING;
    let word = match event["disposition"].as_str() {
        _ if is_own => event["activity_name"].as_str().unwrap_or("event"),
        Some("Blocked") => "denied",
        Some("Killed") => "killed",
        Some("Alert") => "alert",
        _ => "logged",
    };
    (instance, word)
}

/// Who and what: of one event its rule too, of many how often.
fn subject(batch: &[Message]) -> String {
    let mut subject = format!("[flowwarden] {}: ", hostname());
    if let [message] = batch {
        let (instance, word) = outcome(&message.event);
        let _ = write!(subject, "{instance}: {word}");
        if let Some(rule) = message.event["unmapped"]["rule"].as_str() {
            let _ = write!(subject, " by {rule}");
        }
    } else {
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        for message in batch {
            *counts.entry(outcome(&message.event)).or_default() += 1;
        }
        let parts: Vec<_> =
            counts.iter().map(|((instance, word), count)| format!("{instance}: {count} {word}")).collect();
        subject.push_str(&parts.join(", "));
    }
    // Names of rules and instances are the policy's; what is no letter does not belong into a header all the same.
    subject.chars().filter(|&letter| !is_hidden(letter)).take(200).collect()
}

/// For each event its sentence, what to do, and how to ask for more.
fn text(batch: &[Message]) -> String {
    let mut text = String::new();
    for message in batch {
        let event = &message.event;
        let _ = writeln!(text, "{}", event["message"].as_str().unwrap_or_default());
        if let Some(remediation) = event["remediation"]["desc"].as_str() {
            let _ = writeln!(text, "\nWhat to do: {remediation}");
        }
        let _ =
            writeln!(text, "\nMore: flowwarden explain {} (event {})\n", event["metadata"]["sequence"], uid(message));
    }
    text + "-- \nSent by flowwarden. Replies to this address are not read.\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::EmailTransport;

    fn incident(number: u64, disposition: &str) -> Message {
        let event = json!({ "class_uid": FINDING, "message": "incident opened: x", "disposition": disposition,
            "remediation": { "desc": "look at y" }, "metadata": { "uid": format!("u-{number}"), "sequence": number },
            "unmapped": { "instance": "plant-a", "rule": "keys", "verdicts": { "deny": 1 } } });
        Message { event, text: Vec::new() }
    }

    fn email() -> Email {
        let (sender, to) = ("Flowwarden <g@x.example>".parse().unwrap(), vec!["o@x.example".parse().unwrap()]);
        let (server, transport) = ("127.0.0.1:1".into(), EmailTransport::Tcp);
        Email::new(EmailTarget { server, transport, login: None, sender, to, pause: Duration::ZERO })
    }

    #[test]
    fn the_subject_says_which_instance_and_what_became_of_it() {
        let host = hostname();
        let one = [incident(1, "Blocked")];
        assert_eq!(subject(&one), format!("[flowwarden] {host}: plant-a: denied by keys"));
        let own = json!({ "class_uid": 6002, "activity_name": "Loss", "message": "m", "unmapped": {} });
        let many = [
            incident(1, "Blocked"),
            incident(2, "Killed"),
            incident(3, "Blocked"),
            Message { event: own, text: Vec::new() },
        ];
        assert_eq!(
            subject(&many),
            format!("[flowwarden] {host}: plant-a: 2 denied, plant-a: 1 killed, the guard: 1 Loss")
        );
    }

    #[test]
    fn a_mail_says_what_it_is_what_to_do_and_which_event() {
        let mail = email().write(&[incident(7, "Blocked")]).unwrap().formatted();
        let text = String::from_utf8(mail).unwrap();
        for part in [
            "From: Flowwarden <g@x.example>\r\n",
            "To: o@x.example\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Message-ID: <u-7.u-7.1@flowwarden.invalid>\r\n",
            "\r\nincident opened: x\r\n\r\nWhat to do: look at y\r\n\r\nMore: flowwarden explain 7 (event u-7)\r\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn no_name_makes_a_header_of_its_own() {
        let mut message = incident(1, "Blocked");
        message.event["unmapped"]["rule"] = "r\r\nBcc: all@x.example".into();
        message.event["metadata"]["uid"] = "u>\r\nX: y".into();
        message.event["message"] = "\u{f6}\r\n.\r\nMAIL FROM:<a@b>".into();
        let text = String::from_utf8(email().write(&[message]).unwrap().formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("\r\nBcc") && !head.contains("\r\nX:"), "{head}");
        // Decoded text has no line feed either.
        assert!(head.contains(": denied by rBcc: all@x.example\r\n"), "{head}");
        assert!(head.contains("\r\nMessage-ID: <uXy.uXy.1@flowwarden.invalid>\r\n"), "{head}");
        assert!(text.is_ascii(), "{text}");
    }
}
