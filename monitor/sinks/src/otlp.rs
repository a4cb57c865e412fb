//! Log records of OpenTelemetry, as JSON over HTTP.

use serde_json::{Value, json};

use super::{
    Failure, Message, Receiver,
    config::OtlpTarget,
    http::{Http, Refusal, halves},
};
use journal::ocsf::Severity;

/// Most records in a request.
const MOST: usize = 500;

/// A collector.
pub(super) struct Otlp {
    target: OtlpTarget,
    http: Http,
}

impl Otlp {
    pub(super) fn new(target: OtlpTarget) -> Self {
        Self { http: Http::new(target.web.clone()), target }
    }

    fn send(&mut self, batch: &[Message]) -> Result<(), Refusal> {
        let bearer = super::bearer(self.target.token.as_ref()).map_err(Refusal::Later)?;
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let answer = self.http.post("", &headers, request(batch).to_string().as_bytes())?;
        let place = self.http.place();
        answer.judge(&place)?;
        // A collector that takes a part does not say which: the parts go one by one, and what is refused is found.
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let partial = &said["partialSuccess"];
        match partial["rejectedLogRecords"]
            .as_str()
            .and_then(|count| count.parse().ok())
            .or(partial["rejectedLogRecords"].as_u64())
        {
            None | Some(0) => Ok(()),
            Some(count) => {
                let message = partial["errorMessage"].as_str().unwrap_or_default();
                Err(Refusal::Never(format!("{place} rejects {count} of {} records: {message}", batch.len())))
            }
        }
    }
}

impl Receiver for Otlp {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        halves(batch, &mut |part| self.send(part))
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// An `ExportLogsServiceRequest`. 64-bit numbers are texts in it.
fn request(batch: &[Message]) -> Value {
    let host = batch.first().and_then(|message| message.event["device"]["hostname"].as_str()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let resource = [("service.name", "flowwarden"), ("service.version", version), ("host.name", host)]
        .map(|(key, value)| attribute(key, value));
    json!({ "resourceLogs": [{
        "resource": { "attributes": resource },
        "scopeLogs": [{
            "scope": { "name": "flowwarden", "version": version },
            "logRecords": batch.iter().map(record).collect::<Vec<_>>(),
        }],
    }] })
}

fn record(message: &Message) -> Value {
    let event = &message.event;
    let (number, text) = Severity::of(event).otel();
    let uid = event["metadata"]["uid"].as_str().unwrap_or_default();
    let original = String::from_utf8_lossy(&message.text);
    let mut attributes = vec![attribute("log.record.uid", uid), attribute("log.record.original", &original)];
    for key in ["instance", "rule", "verdict", "hook"] {
        if let Some(value) = event["unmapped"][key].as_str() {
            attributes.push(attribute(&format!("flowwarden.{key}"), value));
        }
    }
    let time = event["time"].as_i64().unwrap_or_default().saturating_mul(1_000_000).to_string();
    json!({
        "timeUnixNano": time,
        "observedTimeUnixNano": time,
        "severityNumber": number,
        "severityText": text,
        "body": { "stringValue": event["message"].as_str().unwrap_or_default() },
        "attributes": attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::stub, *};

    fn message(number: usize) -> Message {
        let event = json!({ "time": 5, "severity_id": 5, "message": format!("m{number}"), "device": { "hostname": "h" },
            "metadata": { "uid": format!("u{number}") }, "unmapped": { "rule": "r" } });
        Message { text: event.to_string().into_bytes(), event }
    }

    /// A collector that takes what `OpenTelemetry`'s protocol buffers would take, by their JSON mapping.
    fn export(taken: &mut Vec<String>, request: &stub::Request) -> (u16, String) {
        assert_eq!((request.path.as_str(), request.header("content-type")), ("/v1/logs", Some("application/json")));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let only = |value: &Value, keys: &[&str]| {
            for key in value.as_object().unwrap().keys() {
                assert!(keys.contains(&key.as_str()), "{key} is no field");
            }
        };
        only(&body, &["resourceLogs"]);
        let logs = &body["resourceLogs"][0];
        only(logs, &["resource", "scopeLogs", "schemaUrl"]);
        assert_eq!(logs["resource"]["attributes"][0], attribute("service.name", "flowwarden"));
        let mut rejected = 0;
        for record in logs["scopeLogs"][0]["logRecords"].as_array().unwrap() {
            only(
                record,
                &["timeUnixNano", "observedTimeUnixNano", "severityNumber", "severityText", "body", "attributes"],
            );
            assert_eq!((&record["timeUnixNano"], &record["severityNumber"]), (&json!("5000000"), &json!(21)));
            assert!(record["attributes"].as_array().unwrap().contains(&attribute("flowwarden.rule", "r")));
            let said = record["body"]["stringValue"].as_str().unwrap();
            if said == "m2" { rejected += 1 } else { taken.push(said.to_owned()) }
        }
        if rejected == 0 {
            return (200, "{}".to_owned());
        }
        let partial = json!({ "partialSuccess": { "rejectedLogRecords": "1", "errorMessage": "no" } });
        (200, partial.to_string())
    }

    #[test]
    fn records_are_as_the_protocol_has_them_and_one_that_is_rejected_is_found() {
        let (server, taken) = stub::Server::with(Vec::new(), export);
        let mut sink = Otlp::new(OtlpTarget { web: server.url("/v1/logs").into(), token: None });
        let batch: Vec<_> = (0..4).map(message).collect();
        let failure = sink.deliver(&batch).unwrap_err();
        assert!(matches!(&failure, Failure::Never { taken: 2, why } if why.contains("rejects 1 of 1")), "{failure:?}");
        sink.deliver(&batch[3..]).unwrap();
        let mut taken = taken.lock().unwrap().clone();
        taken.sort();
        taken.dedup();
        assert_eq!(taken, ["m0", "m1", "m3"]);
    }
}
