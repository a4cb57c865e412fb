//! Requests to a web server: chat services, ntfy, Alertmanager, anything that takes a POST.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use ureq::{
    Agent,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Failure, Message, Receiver,
    config::{Body, WebhookTarget},
    secret, template,
};

/// Certificates that come with the system.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most alerts in a request.
const MOST: usize = 50;
/// What is shown of an answer, in bytes.
const SHOWN: u64 = 200;

/// A web server.
pub(super) struct Webhook {
    target: WebhookTarget,
    agent: Option<Agent>,
}

impl Webhook {
    pub(super) fn new(target: WebhookTarget) -> Self {
        Self { target, agent: None }
    }

    fn agent(&mut self) -> Result<Agent, String> {
        if self.agent.is_none() {
            self.agent = Some(agent(&self.target)?);
        }
        self.agent.clone().ok_or_else(String::new)
    }

    /// Sends one request.
    fn post(&mut self, body: &[u8], kind: &str) -> Result<(), Refusal> {
        let token = self.target.token.as_ref().map(secret).transpose().map_err(Refusal::Later)?;
        let url = self.target.url.clone();
        let agent = self.agent().map_err(Refusal::Later)?;
        let mut request = agent.post(&url).header("Content-Type", kind);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.send(body).map_err(|error| Refusal::Later(format!("{}: {error}", place(&url))))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = answer.body_mut().with_config().limit(SHOWN).read_to_string().unwrap_or_default();
        let why = format!("{} answers {status} {}", place(&url), text.trim());
        // What says that the event is wrong, and nothing about the address or the token.
        match status.as_u16() {
            400 | 413 | 415 | 422 => Err(Refusal::Never(why)),
            _ => Err(Refusal::Later(why)),
        }
    }

    fn one(&mut self, message: &Message) -> Result<(), Refusal> {
        let event = &message.event;
        let said = event["message"].as_str().unwrap_or_default();
        match &self.target.body {
            Body::Event => self.post(&message.text, "application/json"),
            Body::Text => self.post(said.as_bytes(), "text/plain; charset=utf-8"),
            Body::Slack => self.post(json!({ "text": said }).to_string().as_bytes(), "application/json"),
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

enum Refusal {
    Later(String),
    Never(String),
}

impl Receiver for Webhook {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        if self.target.body == Body::Alertmanager {
            match self.alerts(batch) {
                Ok(()) => return Ok(()),
                Err(Refusal::Later(why)) => {
                    self.agent = None;
                    return Err(Failure::Later { taken: 0, why });
                }
                // One of them is wrong: they go one by one.
                Err(Refusal::Never(_)) => {}
            }
        }
        for (taken, message) in batch.iter().enumerate() {
            match self.one(message) {
                Ok(()) => {}
                Err(Refusal::Later(why)) => {
                    // Certificates may have been exchanged meanwhile.
                    self.agent = None;
                    return Err(Failure::Later { taken, why });
                }
                Err(Refusal::Never(why)) => return Err(Failure::Never { taken, why }),
            }
        }
        Ok(())
    }
}

fn agent(target: &WebhookTarget) -> Result<Agent, String> {
    let config = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("flowwarden/", env!("CARGO_PKG_VERSION")));
    if !target.url.starts_with("https://") {
        return Ok(config.build().into());
    }
    let path = target.ca.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_CA));
    let roots = roots(&path).map_err(|error| match target.ca {
        Some(_) => format!("{}: {error}", path.display()),
        None => format!("{}: {error}; install ca-certificates, or name the server's in `ca`", path.display()),
    })?;
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(config.tls_config(tls).build().into())
}

fn roots(path: &Path) -> io::Result<RootCerts> {
    let text = fs::read(path)?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate.to_owned()),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// The server of a URL: what comes after it may hold a secret.
fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// An event as Alertmanager has alerts: the labels tell one from another, so they hold nothing that changes each time.
fn alert(event: &Value) -> Value {
    let own = |key: &str| event["unmapped"][key].as_str().unwrap_or_default();
    let hook = if own("hook").is_empty() { event["activity_name"].as_str().unwrap_or_default() } else { own("hook") };
    let severity = match event["severity_id"].as_i64() {
        Some(5..) => "critical",
        Some(3..=4) => "warning",
        _ => "info",
    };
    let labels = [
        ("alertname", format!("Flowwarden {hook}")),
        ("severity", severity.to_owned()),
        ("host", event["device"]["hostname"].as_str().unwrap_or_default().to_owned()),
        ("node_red", own("instance").to_owned()),
        ("rule", own("rule").to_owned()),
        ("verdict", own("verdict").to_owned()),
    ];
    let labels: Map<_, _> = labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let millis = u64::try_from(event["time"].as_i64().unwrap_or_default()).unwrap_or_default();
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string();
    json!({
        "labels": labels,
        "annotations": { "summary": event["message"], "uid": event["metadata"]["uid"] },
        "startsAt": time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_error_does_not_tell_the_secret_in_a_url() {
        assert_eq!(place("https://user:pass@hooks.example.net/T/B/secret?token=x"), "https://hooks.example.net");
    }
}
