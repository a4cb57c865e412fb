//! Receivers that write down what arrives, for tests of sinks: they take everything, and answer as their kind does.

#[path = "../../sinks/src/stub.rs"]
#[expect(dead_code, reason = "unit tests look closer at a request")]
pub(crate) mod stub;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use stub::Request;

/// What has arrived: the ids of events, request by request.
#[derive(Clone, Default)]
pub(crate) struct Arrived(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    requests: Vec<Vec<String>>,
    counts: BTreeMap<String, usize>,
}

impl Arrived {
    /// Writes a request down; how often each of its events has come by now.
    pub(crate) fn add(&self, ids: Vec<String>) -> Vec<usize> {
        let mut log = self.0.lock().unwrap();
        let mut count = |id: &String| {
            let count = log.counts.entry(id.clone()).or_default();
            *count += 1;
            *count
        };
        let counts = ids.iter().map(&mut count).collect();
        log.requests.push(ids);
        counts
    }

    /// How many different events have come.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().counts.len()
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    /// The requests from one on.
    pub(crate) fn since(&self, first: usize) -> Vec<Vec<String>> {
        self.0.lock().unwrap().requests.get(first..).unwrap_or_default().to_vec()
    }
}

fn id(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Takes what is in a request to a web server, and answers as its kind of receiver does.
pub(crate) fn take(request: &Request, arrived: &Arrived) -> String {
    let values = serde_json::Deserializer::from_slice(&request.body).into_iter::<Value>().map(Result::unwrap);
    if request.path.ends_with("/_bulk") {
        let ids: Vec<_> = values.filter_map(|line| line.pointer("/create/_id").map(id)).collect();
        let counts = arrived.add(ids.clone());
        let items: Vec<_> = ids
            .iter()
            .zip(counts)
            .map(|(id, count)| json!({ "create": { "_id": id, "status": if count == 1 { 201 } else { 409 } } }))
            .collect();
        return json!({ "items": items }).to_string();
    }
    match request.path.as_str() {
        "/services/collector/event" => {
            arrived.add(values.map(|event| id(&event["event"]["metadata"]["uid"])).collect());
            json!({ "code": 0, "ackId": 1 }).to_string()
        }
        "/v1/logs" => {
            let records = values.flat_map(|body| {
                let records = body.pointer("/resourceLogs/0/scopeLogs/0/logRecords").unwrap();
                records.as_array().unwrap().clone()
            });
            arrived.add(records.map(|record| id(&record["attributes"][0]["value"]["stringValue"])).collect());
            "{}".to_owned()
        }
        "/hook" => {
            arrived.add(values.map(|event| id(&event["metadata"]["uid"])).collect());
            String::new()
        }
        _ => json!({ "acks": { "1": true } }).to_string(),
    }
}
