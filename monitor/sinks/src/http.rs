//! Requests to web servers: what all sinks that speak HTTP share.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ureq::{
    Agent,
    tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem},
};

use super::{Failure, Message, config::Web};

/// Certificates that come with the system.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read of an answer, in bytes.
const LONGEST: u64 = 8 << 20;
/// What is shown of an answer, in characters.
const SHOWN: usize = 200;

/// A web server.
pub(super) struct Http {
    web: Web,
    agent: Option<Agent>,
}

/// What a server said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may be taken later.
    Later(String),
    /// It never will be.
    Never(String),
}

impl Http {
    pub(super) fn new(web: Web) -> Self {
        Self { web, agent: None }
    }

    /// The server's name for messages, without what may be secret.
    pub(super) fn place(&self) -> String {
        self.web.url.place()
    }

    /// Sends one request to `path` below the URL. An error is that there was no answer.
    pub(super) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, Refusal> {
        let sent = self.try_post(path, headers, body);
        if sent.is_err() {
            // Certificates may have been exchanged meanwhile.
            self.agent = None;
        }
        sent.map_err(Refusal::Later)
    }

    fn try_post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        let place = self.place();
        let agent = match &mut self.agent {
            Some(agent) => agent,
            none => none.insert(agent(&self.web)?),
        };
        let base = self.web.url.as_str();
        let url = if path.is_empty() { base.to_owned() } else { format!("{}{path}", base.trim_end_matches('/')) };
        let mut request = agent.post(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).map_err(|error| format!("{place}: {error}"))?;
        let status = answer.status().as_u16();
        let mut text = Vec::new();
        let read = answer.body_mut().as_reader().take(LONGEST).read_to_end(&mut text);
        read.map_err(|error| format!("{place}: {error}"))?;
        Ok(Answer { status, text: String::from_utf8_lossy(&text).into_owned() })
    }
}

impl Answer {
    /// Whether the server took everything.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The server's answer as a reason.
    pub(super) fn why(&self, place: &str) -> String {
        let shown: String = self.text.trim().chars().take(SHOWN).collect();
        format!("{place} answers {} {shown}", self.status).trim_end().to_owned()
    }

    /// Success, or what kind of refusal the status is.
    pub(super) fn judge(&self, place: &str) -> Result<(), Refusal> {
        match self.status {
            200..300 => Ok(()),
            // What says that the event is wrong, and nothing about the address or the token.
            400 | 413 | 415 | 422 => Err(Refusal::Never(self.why(place))),
            _ => Err(Refusal::Later(self.why(place))),
        }
    }
}

/// Sends a batch as a whole. When something in it is refused for good its halves go, until it is found.
pub(super) fn halves(
    batch: &[Message],
    send: &mut dyn FnMut(&[Message]) -> Result<(), Refusal>,
) -> Result<(), Failure> {
    match send(batch) {
        Ok(()) => Ok(()),
        Err(Refusal::Later(why)) => Err(Failure::Later { taken: 0, why }),
        Err(Refusal::Never(why)) if batch.len() <= 1 => Err(Failure::Never { taken: 0, why }),
        Err(Refusal::Never(_)) => {
            let (left, right) = batch.split_at(batch.len() / 2);
            halves(left, send)?;
            halves(right, send).map_err(|failure| failure.after(left.len()))
        }
    }
}

fn agent(web: &Web) -> Result<Agent, String> {
    let config = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("flowwarden/", env!("CARGO_PKG_VERSION")));
    if !web.url.is_secure() {
        return Ok(config.build().into());
    }
    let path = web.ca.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_CA));
    let roots = certificates(&path).map_err(|error| match web.ca {
        Some(_) => format!("{}: {error}", path.display()),
        None => format!("{}: {error}; install ca-certificates, or name the server's in `ca`", path.display()),
    })?;
    let own = match &web.own {
        None => None,
        Some((chain, key)) => {
            let chain = certificates(chain).map_err(|error| format!("{}: {error}", chain.display()))?;
            let bytes = fs::read(key).map_err(|error| format!("{}: {error}", key.display()))?;
            let key = PrivateKey::from_pem(&bytes).map_err(|error| format!("{}: {error}", key.display()))?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(own)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(config.tls_config(tls).build().into())
}

fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let text = fs::read(path)?;
    let found: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate.to_owned()),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no certificate in it"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::stub::Server, *};

    #[test]
    fn requests_go_by_one_connection() {
        let server = Server::start(|request| (200, request.path.clone()));
        let mut http = Http::new(server.url("/base").into());
        for _ in 0..3 {
            assert_eq!(http.post("/x", &[], b"y").unwrap().text, "/base/x");
            assert_eq!(server.connections(), 1);
        }
    }

    #[test]
    fn what_is_refused_for_good_is_found_and_what_lies_before_it_is_taken() {
        let batch: Vec<_> = (0..9).map(|number| Message { event: Value::from(number), text: Vec::new() }).collect();
        for bad in 0..9 {
            let mut taken = Vec::new();
            let failure = halves(&batch, &mut |part| {
                if part.iter().any(|message| message.event == bad) {
                    return Err(Refusal::Never("bad".to_owned()));
                }
                taken.extend(part.iter().map(|message| message.event.clone()));
                Ok(())
            });
            let bad = usize::try_from(bad).unwrap();
            assert_eq!(failure, Err(Failure::Never { taken: bad, why: "bad".to_owned() }));
            assert_eq!(taken, (0..bad).map(Value::from).collect::<Vec<_>>());
        }
    }
}
