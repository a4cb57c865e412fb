//! Elasticsearch's `_bulk`: events as ECS, created under their own id, so that what comes twice is there once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Failure, Message, Receiver,
    config::{Access, ElasticTarget},
    http::{Answer, Http, Refusal},
    secret, token,
};

/// Most events in a request.
const MOST: usize = 1000;
/// It is there already: an earlier answer was lost on its way.
const CONFLICT: u64 = 409;

/// An Elasticsearch.
pub(super) struct Elastic {
    target: ElasticTarget,
    http: Http,
    /// Events that were created although one before them was not: they are not sent again.
    created: BTreeSet<String>,
}

impl Elastic {
    pub(super) fn new(target: ElasticTarget) -> Self {
        Self { http: Http::new(target.web.clone()), target, created: BTreeSet::new() }
    }

    fn post(&mut self, batch: &[&Message]) -> Result<Answer, Refusal> {
        let access = match &self.target.access {
            None => None,
            Some(Access::Key(key)) => Some(format!("ApiKey {}", token(key).map_err(Refusal::Later)?)),
            Some(Access::Login(login)) => {
                let password = secret(&login.password).map_err(Refusal::Later)?;
                let pair = format!("{}:{password}", login.user);
                Some(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())))
            }
        };
        let mut body = Vec::new();
        for message in batch {
            let action = json!({ "create": { "_id": id(message) } });
            body.extend_from_slice(format!("{action}\n").as_bytes());
            body.extend_from_slice(&message.text);
            body.push(b'\n');
        }
        let mut headers = vec![("Content-Type", "application/x-ndjson")];
        headers.extend(access.as_deref().map(|access| ("Authorization", access)));
        self.http.post(&format!("/{}/_bulk", self.target.index), &headers, &body)
    }

    /// Results of the events of a bulk request. The first failure is reported.
    fn judge(&mut self, batch: &[Message], sent: &[&Message], answer: &Answer) -> Result<(), Failure> {
        let place = self.http.place();
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let items = said["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.len() != sent.len() {
            let why = format!("{place} answers for {} of {} events: is it Elasticsearch?", items.len(), sent.len());
            return Err(Failure::Later { taken: 0, why });
        }
        let mut wrong = None;
        for (message, item) in sent.iter().zip(items) {
            let item = &item["create"];
            if item["_id"] != *id(message) {
                let why = format!("{place} answers for an event that was not sent");
                return Err(Failure::Later { taken: 0, why });
            }
            let status = item["status"].as_u64().unwrap_or_default();
            if matches!(status, 200..300 | CONFLICT) {
                self.created.insert(id(message).to_owned());
            } else if wrong.is_none() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let error = &item["error"];
                let why = format!("{place} answers {status} {}: {}", text(&error["type"]), text(&error["reason"]));
                wrong = Some((status, why));
            }
        }
        let Some((status, why)) = wrong else {
            self.created.clear();
            return Ok(());
        };
        let taken = batch.iter().take_while(|message| self.created.remove(id(message))).count();
        Err(match status {
            400 | 413 | 422 => Failure::Never { taken, why },
            _ => Failure::Later { taken, why },
        })
    }
}

/// What tells an event from all others.
fn id(message: &Message) -> &str {
    message.event["metadata"]["uid"].as_str().unwrap_or_default()
}

impl Receiver for Elastic {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let sent: Vec<_> = batch.iter().filter(|message| !self.created.contains(id(message))).collect();
        if sent.is_empty() {
            self.created.clear();
            return Ok(());
        }
        let answer = match self.post(&sent) {
            Ok(answer) => answer,
            Err(Refusal::Later(why) | Refusal::Never(why)) => return Err(Failure::Later { taken: 0, why }),
        };
        match answer.judge(&self.http.place()) {
            Ok(()) => self.judge(batch, &sent, &answer),
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
    use std::collections::BTreeMap;

    use super::{super::stub, *};
    use crate::config::Secret;

    fn sink(server: &stub::Server, access: Option<Access>) -> Elastic {
        Elastic::new(ElasticTarget { web: server.url("").into(), index: "logs-flowwarden-default".into(), access })
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
        /// Events that were created, and came again.
        again: usize,
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
                _ if index.documents.contains_key(&id) => {
                    index.again += 1;
                    409
                }
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
        let (server, index) = stub::Server::with(Index { busy: Some(1), longest: 4, ..Index::default() }, bulk);
        let mut sink = sink(&server, None);
        let batch: Vec<_> = (0..6).map(message).collect();
        let failure = sink.deliver(&batch).unwrap_err();
        let why = format!("{} answers 429 some_exception: for a reason", server.url(""));
        assert_eq!(failure, Failure::Later { taken: 1, why });
        index.lock().unwrap().busy = None;
        let failure = sink.deliver(&batch[1..]).unwrap_err();
        assert!(matches!(failure, Failure::Never { taken: 2, .. }), "{failure:?}");
        sink.deliver(&batch[4..]).unwrap();
        let found: Vec<_> = index.lock().unwrap().documents.values().map(|it| it["n"].as_u64().unwrap()).collect();
        assert_eq!((found, index.lock().unwrap().again), (vec![0, 1, 2, 4, 5], 0));
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
        let failure = sink(&server, Some(access)).deliver(&[message(0)]).unwrap_err();
        assert!(matches!(&failure, Failure::Later { taken: 0, why } if why.contains("0 of 1")), "{failure:?}");
    }
}
