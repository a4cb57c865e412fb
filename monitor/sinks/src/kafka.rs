//! A topic of Kafka: each event is a record whose key is the event's id, and counts as taken when all replicas that are in sync
//! have it.
//!
//! All records of a guard go to one partition, which its host name picks: there they keep their order. A batch whose answer is
//! lost goes again, and the key tells what comes twice.

use std::{collections::BTreeMap, io, time::Duration};

use ring::digest::{SHA256, digest};
use rskafka::{
    BackoffConfig,
    chrono::DateTime,
    client::{
        Client, ClientBuilder, Credentials, SaslConfig,
        error::{Error, ProtocolError},
        partition::{Compression, PartitionClient, UnknownTopicHandling},
    },
    record::Record,
};
use tokio::runtime::{Builder, Runtime};

use super::{
    Failure, Message, Receiver,
    config::{KafkaTarget, Mechanism},
    hostname,
    http::{Refusal, halves},
    secret, tls,
};

/// Most records in a request.
const MOST: usize = 500;
/// Longest answer of a broker, in bytes: one about all topics.
const LONGEST: usize = 64 << 20;
/// How long a request may take, with everything that has to be asked before it.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the client says of a login that fails, among what it has wrapped around it.
const NO_LOGIN: &str = "Sasl handshake failed: ";
/// How long the client tries again by itself, before the sink does.
const TRIES: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(1),
    base: 2.0,
    deadline: Some(Duration::from_secs(3)),
};

/// A topic.
pub(super) struct Kafka {
    target: KafkaTarget,
    /// The client waits by turns; this thread is where it does.
    runtime: Option<Runtime>,
    open: Option<PartitionClient>,
}

impl Kafka {
    pub(super) fn new(target: KafkaTarget) -> Self {
        Self { target, runtime: None, open: None }
    }

    fn send(&mut self, batch: &[Message]) -> Result<(), Refusal> {
        let place = self.target.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let later = |why: &dyn std::fmt::Display| Refusal::Later(format!("{place}: {why}"));
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => none.insert(
                Builder::new_current_thread().enable_io().enable_time().build().map_err(|error| later(&error))?,
            ),
        };
        let (target, open) = (&self.target, &mut self.open);
        let produce = async {
            let partition = match open {
                Some(partition) => partition,
                none => none.insert(partition(target).await?),
            };
            let records = batch.iter().map(record).collect();
            partition.produce(records, Compression::NoCompression).await.map(drop).map_err(refusal)
        };
        // A clock can be had inside of the runtime alone.
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, produce).await });
        let answer = answer.unwrap_or_else(|_| Err(Refusal::Later("no answer".to_owned())));
        answer.map_err(|refusal| match refusal {
            Refusal::Later(why) => {
                // Brokers, partitions and certificates may be others next time.
                self.open = None;
                later(&why)
            }
            Refusal::Never(why) => Refusal::Never(format!("{place}: {why}")),
        })
    }
}

impl Receiver for Kafka {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        halves(batch, &mut |part| self.send(part))
    }
}

/// The partition of this guard.
async fn partition(target: &KafkaTarget) -> Result<PartitionClient, Refusal> {
    let failed = |error: io::Error| Refusal::Later(error.to_string());
    let mut builder =
        ClientBuilder::new(target.servers.iter().map(ToString::to_string).collect()).client_id("flowwarden");
    builder = builder.max_message_size(LONGEST).backoff_config(TRIES);
    if let Some(files) = &target.tls {
        builder = builder.tls_config(tls::config(files).map_err(failed)?);
    }
    if let Some((mechanism, login)) = &target.login {
        let password = secret(&login.password).map_err(Refusal::Later)?;
        let credentials = Credentials::new(login.user.clone(), password);
        builder = builder.sasl_config(match mechanism {
            Mechanism::Plain => SaslConfig::Plain(credentials),
            Mechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
            Mechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
        });
    }
    let client: Client = builder.build().await.map_err(refusal)?;
    let topic = &target.topic;
    let topics = client.list_topics().await.map_err(refusal)?;
    let found = topics.into_iter().find(|found| found.name == *topic).filter(|found| !found.partitions.is_empty());
    let Some(found) = found else {
        return Err(Refusal::Later(format!(
            "there is no topic {topic}: make it (`kafka-topics --create --topic {topic}`)"
        )));
    };
    let numbers: Vec<_> = found.partitions.into_iter().collect();
    let number = numbers.get(pick(&hostname(), numbers.len())).copied().unwrap_or_default();
    client.partition_client(topic, number, UnknownTopicHandling::Error).await.map_err(refusal)
}

/// One of so many, the same for a name at all times.
fn pick(name: &str, count: usize) -> usize {
    let digest = digest(&SHA256, name.as_bytes());
    let first = digest.as_ref().iter().take(4).fold(0_usize, |number, &byte| number << 8 | usize::from(byte));
    first.checked_rem(count).unwrap_or_default()
}

/// An event as a record.
fn record(message: &Message) -> Record {
    let event = &message.event;
    let time = event["time"].as_i64().and_then(DateTime::from_timestamp_millis);
    Record {
        key: event["metadata"]["uid"].as_str().map(|uid| uid.as_bytes().to_vec()),
        value: Some(message.text.clone()),
        headers: BTreeMap::new(),
        timestamp: time.unwrap_or_default(),
    }
}

/// Whether it is the records' fault.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn refusal(error: Error) -> Refusal {
    let Error::ServerError { protocol_error, error_message, .. } = &error else {
        let why = error.to_string();
        return Refusal::Later(match why.split_once(NO_LOGIN) {
            Some((_, why)) => format!("the login is refused: {why}"),
            None => why,
        });
    };
    let why = format!("{protocol_error:?} {}", error_message.as_deref().unwrap_or_default());
    let why = format!("the broker answers {}", why.trim_end());
    match protocol_error {
        ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge | ProtocolError::InvalidRecord => {
            Refusal::Never(why)
        }
        _ => Refusal::Later(why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_has_the_events_id_and_time() {
        let event = json!({ "time": 1_700_000_000_123_i64, "metadata": { "uid": "u-1" } });
        let record = record(&Message { event, text: b"{}".to_vec() });
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"u-1"[..]), Some(&b"{}"[..])));
        assert_eq!(record.timestamp.timestamp_millis(), 1_700_000_000_123);
    }

    #[test]
    fn a_host_has_one_partition_and_hosts_have_all() {
        assert_eq!(pick("plant-a", 12), pick("plant-a", 12));
        let found: std::collections::BTreeSet<_> = (0..200).map(|host| pick(&format!("plant-{host}"), 12)).collect();
        assert_eq!(found.len(), 12);
        assert_eq!(pick("plant-a", 0), 0);
    }
}
