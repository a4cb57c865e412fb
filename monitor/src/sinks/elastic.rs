//! Elasticsearch's `_bulk`: events as ECS, created under their own id, so that what comes twice is there once.

use serde_json::{Value, json};

use super::{
    Failure, Message, Receiver,
    config::{Access, ElasticTarget},
    http::{Answer, Http, Refusal},
    secret,
};

/// Most events in a request.
const MOST: usize = 1000;
/// It is there already: an earlier answer was lost on its way.
const CONFLICT: u64 = 409;

/// An Elasticsearch.
pub(super) struct Elastic {
    target: ElasticTarget,
    http: Http,
}

impl Elastic {
    pub(super) fn new(target: ElasticTarget) -> Self {
        Self { http: Http::new(target.web.clone()), target }
    }

    fn post(&mut self, batch: &[Message]) -> Result<Answer, Refusal> {
        let access = match &self.target.access {
            None => None,
            Some(Access::Key(key)) => Some(format!("ApiKey {}", secret(key).map_err(Refusal::Later)?)),
            Some(Access::Login(login)) => {
                let password = secret(&login.password).map_err(Refusal::Later)?;
                let pair = format!("{}:{password}", login.user);
                Some(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())))
            }
        };
        let mut body = Vec::new();
        for message in batch {
            let action = json!({ "create": { "_id": message.event["metadata"]["uid"] } });
            body.extend_from_slice(format!("{action}\n").as_bytes());
            body.extend_from_slice(&message.text);
            body.push(b'\n');
        }
        let mut headers = vec![("Content-Type", "application/x-ndjson")];
        headers.extend(access.as_deref().map(|access| ("Authorization", access)));
        self.http.post(&format!("/{}/_bulk", self.target.index), &headers, &body)
    }

    /// What became of each event. What comes after the first that was not taken goes again, and is there already.
    fn judge(&self, batch: &[Message], answer: &Answer) -> Result<(), Failure> {
        let place = self.http.place();
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let items = said["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.len() != batch.len() {
            let why = format!("{place} answers for {} of {} events: is it Elasticsearch?", items.len(), batch.len());
            return Err(Failure::Later { taken: 0, why });
        }
        for (taken, (message, item)) in batch.iter().zip(items).enumerate() {
            let item = &item["create"];
            if item["_id"] != message.event["metadata"]["uid"] {
                return Err(Failure::Later { taken, why: format!("{place} answers for an event that was not sent") });
            }
            let status = item["status"].as_u64().unwrap_or_default();
            let why = || {
                let error = &item["error"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!("{place} answers {status} {}: {}", text(&error["type"]), text(&error["reason"]))
            };
            match status {
                200..300 | CONFLICT => {}
                400 | 413 | 422 => return Err(Failure::Never { taken, why: why() }),
                _ => return Err(Failure::Later { taken, why: why() }),
            }
        }
        Ok(())
    }
}

impl Receiver for Elastic {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let answer = match self.post(batch) {
            Ok(answer) => answer,
            Err(Refusal::Later(why) | Refusal::Never(why)) => return Err(Failure::Later { taken: 0, why }),
        };
        match answer.judge(&self.http.place()) {
            Ok(()) => self.judge(batch, &answer),
            Err(Refusal::Later(why)) => Err(Failure::Later { taken: 0, why }),
            Err(Refusal::Never(why)) if batch.len() <= 1 => Err(Failure::Never { taken: 0, why }),
            // The request as a whole, which may be too large.
            Err(Refusal::Never(_)) => {
                let (left, right) = batch.split_at(batch.len() / 2);
                self.deliver(left)?;
                self.deliver(right).map_err(|failure| failure.after(left.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use super::{super::stub, *};
    use crate::sinks::config::{Secret, Web};

    fn sink(address: std::net::SocketAddr, access: Option<Access>) -> Elastic {
        let web = Web { url: format!("http://{address}").as_str().into(), ca: None, own: None };
        Elastic::new(ElasticTarget { web, index: "logs-flowwarden-default".into(), access })
    }

    fn message(number: usize) -> Message {
        let event = json!({ "metadata": { "uid": format!("run-{number}") } });
        Message { event, text: json!({ "@timestamp": "t", "n": number }).to_string().into_bytes() }
    }

    /// What is in the index, what is busy, and the longest request that is taken.
    #[derive(Default)]
    struct Index {
        documents: BTreeMap<String, Value>,
        busy: Option<u64>,
        longest: usize,
    }

    fn bulk(index: &mut Index, request: &stub::Request) -> (u16, String) {
        assert_eq!(request.path, "/logs-flowwarden-default/_bulk");
        assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
        let body = String::from_utf8(request.body.clone()).unwrap();
        assert!(body.ends_with('\n'), "the last line has to end");
        let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if index.longest > 0 && lines.len() / 2 > index.longest {
            return (413, String::new());
        }
        let mut items = Vec::new();
        for pair in lines.chunks(2) {
            let [action, document] = pair else { panic!("an action without a document") };
            let id = action["create"]["_id"].as_str().unwrap().to_owned();
            let status = match document["n"].as_u64() {
                Some(3) => 400,
                number if number == index.busy => 429,
                _ if index.documents.contains_key(&id) => 409,
                _ => {
                    index.documents.insert(id.clone(), document.clone());
                    201
                }
            };
            let mut item = json!({ "_index": "x", "_id": id, "status": status });
            if status >= 400 {
                item["error"] = json!({ "type": "some_exception", "reason": "for a reason" });
            }
            items.push(json!({ "create": item }));
        }
        (200, json!({ "took": 1, "errors": true, "items": items }).to_string())
    }

    #[test]
    fn a_batch_of_which_some_fail_is_there_once_in_the_end_and_only_the_wrong_event_is_missing() {
        let index = Arc::new(Mutex::new(Index { busy: Some(1), longest: 4, ..Index::default() }));
        let shared = Arc::clone(&index);
        let server = stub::Server::start(move |request| bulk(&mut shared.lock().unwrap(), request));
        let mut sink = sink(server.address(), None);
        let batch: Vec<_> = (0..6).map(message).collect();
        let failure = sink.deliver(&batch).unwrap_err();
        let why = format!("http://{} answers 429 some_exception: for a reason", server.address());
        assert_eq!(failure, Failure::Later { taken: 1, why });
        index.lock().unwrap().busy = None;
        let failure = sink.deliver(&batch[1..]).unwrap_err();
        assert!(matches!(failure, Failure::Never { taken: 2, .. }), "{failure:?}");
        sink.deliver(&batch[4..]).unwrap();
        let found: Vec<_> = index.lock().unwrap().documents.values().map(|it| it["n"].as_u64().unwrap()).collect();
        assert_eq!(found, [0, 1, 2, 4, 5]);
    }

    #[test]
    fn who_answers_for_something_else_has_taken_nothing_and_a_key_goes_with_each_request() {
        let key = stub::secret("VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw==");
        let server = stub::Server::start(|request| {
            let key = "ApiKey VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw==";
            assert_eq!(request.header("authorization"), Some(key));
            (200, json!({ "items": [] }).to_string())
        });
        let access = Access::Key(Secret::File(key.path().into()));
        let failure = sink(server.address(), Some(access)).deliver(&[message(0)]).unwrap_err();
        assert!(matches!(&failure, Failure::Later { taken: 0, why } if why.contains("0 of 1")), "{failure:?}");
    }
}
