//! Requests to a web server: chat services, ntfy, Alertmanager, anything that takes a POST.

use serde_json::{Map, Value, json};

use super::{
    Failure, Message, Receiver,
    config::{Body, WebhookTarget},
    http::{Http, Refusal, halves},
    template,
};
use journal::{
    format::rfc3339,
    ocsf::{FINDING, Severity},
};

/// Most alerts in a request.
const MOST: usize = 50;

/// A web server.
pub(super) struct Webhook {
    target: WebhookTarget,
    http: Http,
}

impl Webhook {
    pub(super) fn new(target: WebhookTarget) -> Self {
        Self { http: Http::new(target.web.clone()), target }
    }

    /// Sends one request.
    fn post(&mut self, body: &[u8], kind: &str) -> Result<(), Refusal> {
        let bearer = super::bearer(self.target.token.as_ref()).map_err(Refusal::Later)?;
        let mut headers = vec![("Content-Type", kind)];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        self.http.post("", &headers, body)?.judge(&self.http.place())
    }

    fn one(&mut self, message: &Message) -> Result<(), Refusal> {
        let event = &message.event;
        let said = said(event);
        match &self.target.body {
            Body::Event => self.post(&message.text, "application/json"),
            Body::Text => self.post(said.as_bytes(), "text/plain; charset=utf-8"),
            Body::Slack => self.post(json!({ "text": unmarked(&said) }).to_string().as_bytes(), "application/json"),
            Body::Alertmanager => self.alerts(std::slice::from_ref(message)),
            Body::Template(template) => {
                let body = template::fill(template, event);
                self.post(body.as_bytes(), "application/json")
            }
        }
    }

    fn alerts(&mut self, batch: &[Message]) -> Result<(), Refusal> {
        let alerts: Vec<_> = batch.iter().map(|message| alert(&message.event)).collect();
        self.post(Value::from(alerts).to_string().as_bytes(), "application/json")
    }
}

impl Receiver for Webhook {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        if self.target.body == Body::Alertmanager {
            return halves(batch, &mut |part| self.alerts(part));
        }
        for (taken, message) in batch.iter().enumerate() {
            match self.one(message) {
                Ok(()) => {}
                Err(Refusal::Later(why)) => return Err(Failure::Later { taken, why }),
                Err(Refusal::Never(why)) => return Err(Failure::Never { taken, why }),
            }
        }
        Ok(())
    }
}

/// An event as Alertmanager has alerts: the labels tell one from another, so they hold nothing that changes each time.
fn alert(event: &Value) -> Value {
    let own = |key: &str| event["unmapped"][key].as_str().unwrap_or_default();
    let is_incident = event["class_uid"] == FINDING;
    let hook = match own("hook") {
        _ if is_incident => "incident",
        "" => event["activity_name"].as_str().unwrap_or_default(),
        hook => hook,
    };
    // The values that Alertmanager's examples and most routes use.
    let severity = match Severity::of(event) {
        Severity::Critical => "critical",
        Severity::Medium | Severity::High => "warning",
        Severity::Informational | Severity::Low => "info",
    };
    let labels = [
        ("alertname", format!("Flowwarden {hook}")),
        ("severity", severity.to_owned()),
        ("host", event["device"]["hostname"].as_str().unwrap_or_default().to_owned()),
        ("node_red", own("instance").to_owned()),
        ("rule", own("rule").to_owned()),
        ("verdict", own("verdict").to_owned()),
        ("outcome", own("outcome").to_owned()),
        ("incident", own("incident").to_owned()),
    ];
    let labels: Map<_, _> = labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let time = |value: &Value| rfc3339(value.as_i64().unwrap_or_default());
    let mut alert = json!({
        "labels": labels,
        "annotations": { "summary": event["message"], "uid": event["metadata"]["uid"] },
        "startsAt": time(if is_incident { &event["start_time"] } else { &event["time"] }),
    });
    if is_incident {
        alert["annotations"]["description"] = event["remediation"]["desc"].clone();
        if event["activity_name"] == "Close" {
            alert["endsAt"] = time(&event["time"]).into();
        }
    }
    alert
}

/// Text without mentions and links: Slack has both between angle brackets.
fn unmarked(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The sentence, and of an incident that begins also what to do.
fn said(event: &Value) -> String {
    let said = event["message"].as_str().unwrap_or_default();
    match event["remediation"]["desc"].as_str() {
        Some(remediation) if event["activity_name"] == "Create" => format!("{said}\n{remediation}"),
        _ => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            config::Secret,
            stub::{self, Server},
        },
        *,
    };

    #[test]
    fn an_alert_has_no_label_that_is_empty_or_changes() {
        let event = json!({ "time": 5, "severity_id": 5, "message": "m", "metadata": { "uid": "u" },
            "device": { "hostname": "h" }, "unmapped": { "hook": "write", "rule": "r", "verdict": "kill" } });
        let alert = alert(&event);
        assert_eq!(
            alert["labels"],
            json!({ "alertname": "Flowwarden write", "severity": "critical", "host": "h", "rule": "r", "verdict": "kill" })
        );
        assert_eq!(alert["annotations"]["uid"], "u");
        assert_eq!(alert["startsAt"], "1970-01-01T00:00:00.005Z");
    }

    #[test]
    fn an_incident_is_one_alert_from_its_beginning_to_its_end_and_says_what_to_do() {
        let phase = |activity: &str, time: i64| {
            json!({ "class_uid": 2004, "activity_name": activity, "time": time, "start_time": 1, "severity_id": 4,
                "message": "m", "remediation": { "desc": "do" }, "metadata": { "uid": activity },
                "unmapped": { "rule": "r", "incident": "i-1", "outcome": "stopped" } })
        };
        let (begin, end) = (phase("Create", 2), phase("Close", 9));
        assert_eq!((said(&begin), said(&end)), ("m\ndo".to_owned(), "m".to_owned()));
        let (begin, end) = (alert(&begin), alert(&end));
        assert_eq!((&begin["labels"], &begin["startsAt"]), (&end["labels"], &end["startsAt"]));
        assert_eq!((&begin["endsAt"], &end["endsAt"]), (&Value::Null, &"1970-01-01T00:00:00.009Z".into()));
        assert_eq!(begin["annotations"]["description"], "do");
    }

    /// Each way in which a file with a secret can be wrong.
    #[test]
    fn a_secret_that_is_none_is_not_sent_and_its_file_is_named() {
        let server = Server::start(|_| (200, String::new()));
        for (content, why) in [
            ("", "the secret is empty"),
            ("\n", "the secret is empty"),
            (" \t\r\n\n", "the secret is empty"),
            ("\u{feff}\n", "is no secret"),
            ("one two", "a blank"),
            ("one\ttwo", "a blank"),
            ("one\ntwo\n", "more than one line"),
            ("one\r\n\r\ntwo", "more than one line"),
            ("one\u{0}", "is no secret"),
            ("one\u{7f}two", "is no secret"),
            ("\u{e9}", "is no secret"),
            ("# the token\nsecret", "more than one line"),
        ] {
            let file = stub::secret(content);
            let token = Some(Secret::File(file.path().to_owned()));
            let event = json!({ "message": "m" });
            let target = WebhookTarget { web: server.url("/").into(), body: Body::Text, token };
            let failure = Webhook::new(target).deliver(&[Message { event, text: Vec::new() }]).unwrap_err();
            let Failure::Later { taken: 0, why: said } = failure else { panic!("{content:?}: {failure:?}") };
            assert!(
                said.starts_with(&format!("{}: ", file.path().display())) && said.contains(why),
                "{content:?}: {said}"
            );
        }
        assert_eq!(server.connections(), 0);
    }
}
