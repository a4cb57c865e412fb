//! Splunk's HTTP Event Collector. With indexer acknowledgement an event counts as taken when an indexer has written it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Failure, Message, Receiver,
    config::SplunkTarget,
    http::{Answer, Http, Refusal, halves},
    token,
};

/// Most events in a request.
const MOST: usize = 1000;
/// How often indexers are asked, at first and at most.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(2);
/// How long indexers may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Timeout of waiting for acknowledgements in one delivery, so that a stop or a reload is handled in between.
const TURN: Duration = Duration::from_secs(10);
/// What the collector says of an event that is wrong: no data, invalid data format, event field required or blank,
/// error in indexed fields.
const WRONG: [i64; 5] = [5, 6, 12, 13, 15];
/// What it says when the token knows no acknowledgement.
const NO_ACK: i64 = 14;
const ACK_FIX: &str = "switch indexer acknowledgement on for the token, or say `acknowledge = false`";

/// The collector.
pub(super) struct Splunk {
    target: SplunkTarget,
    http: Http,
    /// Acknowledgements are counted by channel.
    channel: String,
    /// What the collector has, and no indexer has acknowledged yet.
    waiting: Option<Waiting>,
    turn: Duration,
}

/// A batch that the collector has.
struct Waiting {
    /// The collector's number for it.
    id: u64,
    /// Its first event, and how many there are.
    first: Value,
    count: usize,
    since: Instant,
}

impl Splunk {
    pub(super) fn new(target: SplunkTarget) -> Self {
        Self { http: Http::new(target.web.clone()), target, channel: channel(), waiting: None, turn: TURN }
    }

    fn post(&mut self, path: &str, body: &[u8]) -> Result<Answer, Refusal> {
        let token = token(&self.target.token).map_err(Refusal::Later)?;
        let token = format!("Splunk {token}");
        let headers = [
            ("Authorization", token.as_str()),
            ("X-Splunk-Request-Channel", &self.channel),
            ("Content-Type", "application/json"),
        ];
        self.http.post(path, &headers, body)
    }

    fn send(&mut self, batch: &[Message]) -> Result<(), Refusal> {
        let first = batch.first().map_or(Value::Null, |message| message.event["metadata"]["uid"].clone());
        if let Some(waiting) = self.waiting.take_if(|it| it.first == first && it.count == batch.len()) {
            return self.acknowledged(waiting);
        }
        let body: Vec<_> = batch.iter().flat_map(|message| self.envelope(message).to_string().into_bytes()).collect();
        let answer = self.post("/services/collector/event", &body)?;
        let place = self.http.place();
        let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let code = said["code"].as_i64();
        match (answer.is_success(), code) {
            (true, Some(0)) => {}
            (false, Some(code)) if WRONG.contains(&code) => return Err(Refusal::Never(answer.why(&place))),
            (false, Some(NO_ACK)) => return Err(Refusal::Later(format!("{}; {ACK_FIX}", answer.why(&place)))),
            // An event that is too large alone is too large for ever.
            (false, None) if answer.status == 413 => return Err(Refusal::Never(answer.why(&place))),
            _ => return Err(Refusal::Later(answer.why(&place))),
        }
        if !self.target.acknowledge {
            return Ok(());
        }
        match said["ackId"].as_u64() {
            Some(id) => self.acknowledged(Waiting { id, first, count: batch.len(), since: Instant::now() }),
            None => Err(Refusal::Later(format!("{place} gives no ackId; {ACK_FIX}"))),
        }
    }

    /// Waits until indexers have what was sent.
    fn acknowledged(&mut self, waiting: Waiting) -> Result<(), Refusal> {
        let id = waiting.id;
        let (start, mut pause) = (Instant::now(), SOONEST);
        let path = format!("/services/collector/ack?channel={}", self.channel);
        let question = json!({ "acks": [id] }).to_string();
        let place = self.http.place();
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(LATEST);
            let answer = self.post(&path, question.as_bytes())?;
            let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            if !answer.is_success() {
                let fix = if said["code"] == NO_ACK { format!("; {ACK_FIX}") } else { String::new() };
                return Err(Refusal::Later(format!("{}{fix}", answer.why(&place))));
            }
            if said["acks"][id.to_string()] == true {
                return Ok(());
            }
            if start.elapsed() > self.turn {
                let seconds = waiting.since.elapsed().as_secs();
                // It may be lost: it is sent again after the timeout.
                self.waiting = Some(waiting).filter(|it| it.since.elapsed() < PATIENCE);
                return Err(Refusal::Later(format!("{place}: no indexer has acknowledged within {seconds} s")));
            }
        }
    }

    fn envelope(&self, message: &Message) -> Value {
        let event = serde_json::from_slice(&message.text)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&message.text).into_owned()));
        let millis = message.event["time"].as_i64().unwrap_or_default();
        let mut envelope = json!({
            // Seconds, with thousandths.
            "time": format!("{}.{:03}", millis / 1000, millis % 1000),
            "host": message.event["device"]["hostname"],
            "source": "flowwarden",
            "sourcetype": if event.is_object() { "_json" } else { "cefevents" },
            "event": event,
        });
        if let Some(index) = &self.target.index {
            envelope["index"] = index.as_str().into();
        }
        envelope
    }
}

/// A new channel: a GUID.
fn channel() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    text.trim().to_owned()
}

impl Receiver for Splunk {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let sent = halves(batch, &mut |part| self.send(part));
        if matches!(sent, Err(Failure::Later { .. })) && self.waiting.is_none() {
            // What a restarted collector knows of the old channel is nothing.
            self.channel = channel();
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stub, *};
    use crate::config::Secret;

    const TOKEN: &str = "B5A79AAD-D822-46CC-80D1-819F80D7BFB0";

    fn sink(server: &stub::Server, token: &std::path::Path, acknowledge: bool) -> Splunk {
        let (web, token) = (server.url("/").into(), Secret::File(token.into()));
        Splunk::new(SplunkTarget { web, token, index: Some("ot".into()), acknowledge })
    }

    fn message(number: usize) -> Message {
        let event = json!({ "time": 1_700_000_000_123_i64, "device": { "hostname": "h" }, "n": number });
        Message { text: event.to_string().into_bytes(), event }
    }

    /// The collector as its documentation has it: every rule that is broken is an answer of its own.
    #[derive(Default)]
    struct Collector {
        indexed: Vec<Value>,
        asked: usize,
        no_ack: bool,
    }

    fn answer(collector: &mut Collector, request: &stub::Request) -> (u16, String) {
        let say = |status, text: &str, code: i64| (status, json!({ "text": text, "code": code }).to_string());
        if request.header("authorization") != Some(&format!("Splunk {TOKEN}")) {
            return say(403, "Invalid token", 4);
        }
        let channel = request.header("x-splunk-request-channel").unwrap_or_default();
        if channel.len() != 36 {
            return say(400, "Invalid data channel", 11);
        }
        let body = String::from_utf8(request.body.clone()).unwrap();
        if request.path == "/services/collector/event" {
            let events: Vec<Value> =
                serde_json::Deserializer::from_str(&body).into_iter().map(Result::unwrap).collect();
            for (number, event) in events.iter().enumerate() {
                assert_eq!((&event["time"], &event["index"]), (&json!("1700000000.123"), &json!("ot")));
                if event["event"]["n"] == 3 {
                    let text = json!({ "text": "Invalid data format", "code": 6, "invalid-event-number": number });
                    return (400, text.to_string());
                }
            }
            collector.indexed.extend(events.into_iter().map(|event| event["event"]["n"].clone()));
            let mut said = json!({ "text": "Success", "code": 0 });
            if !collector.no_ack {
                said["ackId"] = 7.into();
            }
            return (200, said.to_string());
        }
        assert_eq!(request.path, format!("/services/collector/ack?channel={channel}"));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "acks": [7] }));
        collector.asked += 1;
        (200, json!({ "acks": { "7": collector.asked.is_multiple_of(3) } }).to_string())
    }

    #[test]
    fn an_event_is_taken_when_an_indexer_says_so_and_a_wrong_one_is_found() {
        let token = stub::secret(TOKEN);
        let (server, collector) = stub::Server::with(Collector::default(), answer);
        let mut sink = sink(&server, token.path(), true);
        let batch: Vec<_> = (0..3).map(message).collect();
        sink.deliver(&batch).unwrap();
        assert_eq!(collector.lock().unwrap().asked, 3);
        let batch: Vec<_> = (1..6).map(message).collect();
        let failure = sink.deliver(&batch).unwrap_err();
        assert!(
            matches!(&failure, Failure::Never { taken: 2, why } if why.contains("Invalid data format")),
            "{failure:?}"
        );
        assert_eq!(collector.lock().unwrap().indexed, [0, 1, 2, 1, 2]);
    }

    #[test]
    fn what_waits_for_an_indexer_is_asked_for_again_and_not_sent_again() {
        let token = stub::secret(TOKEN);
        let (server, collector) = stub::Server::with(Collector::default(), answer);
        let mut sink = sink(&server, token.path(), true);
        sink.turn = Duration::ZERO;
        let batch = [message(0), message(1)];
        for _ in 0..2 {
            let failure = sink.deliver(&batch).unwrap_err();
            assert!(matches!(&failure, Failure::Later { taken: 0, why } if why.contains("no indexer")), "{failure:?}");
        }
        sink.deliver(&batch).unwrap();
        assert_eq!(collector.lock().unwrap().indexed, [0, 1]);
        // Another batch is another matter.
        sink.deliver(&[message(2)]).unwrap_err();
        assert_eq!(collector.lock().unwrap().indexed, [0, 1, 2]);
    }

    #[test]
    fn a_token_without_acknowledgement_and_a_wrong_one_are_told_with_the_mend() {
        let token = stub::secret(TOKEN);
        let (server, _) = stub::Server::with(Collector { no_ack: true, ..Collector::default() }, answer);
        let batch = [message(0)];
        let failure = sink(&server, token.path(), true).deliver(&batch).unwrap_err();
        assert!(
            matches!(&failure, Failure::Later { taken: 0, why } if why.contains("acknowledge = false")),
            "{failure:?}"
        );
        sink(&server, token.path(), false).deliver(&batch).unwrap();
        let wrong = stub::secret("wrong");
        let failure = sink(&server, wrong.path(), false).deliver(&batch).unwrap_err();
        let Failure::Later { taken: 0, why } = failure else { panic!("{failure:?}") };
        assert!(why.contains("403") && why.contains("Invalid token") && !why.contains("wrong"), "{why}");
    }
}
