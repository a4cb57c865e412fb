//! An MQTT broker, version 3.1.1 or 5: events by `QoS` 1, and a retained topic that says whether the guard is there.
//!
//! The protocol is a library's; this holds the connection. An event counts as taken when its PUBACK has come.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use mqtt_protocol_core::mqtt::{
    self,
    common::Cursor,
    connection::{ConnectionOptions, Event, TimerKind},
    packet::{GenericPacketTrait as _, Packet, Qos, v3_1_1, v5_0},
    result_code::{ConnectReasonCode, ConnectReturnCode, MqttError, PubackReasonCode},
    role::Client,
};
use serde_json::{Value, json};

use super::{
    Failure, Message, Purpose, Receiver,
    config::{MqttTarget, MqttVersion},
    connection::{Connection, PATIENCE},
    later, secret, unique,
};

/// Most events that are handed over at once.
const MOST: usize = 200;
/// Most of them that wait for their PUBACK.
const WINDOW: usize = 20;
/// Longest event for a broker of version 3.1.1, in bytes. One of version 5 says what it takes; an older one hangs up over a
/// longer one, as often as it comes.
const LARGEST: usize = 65_000;
/// Longest packet that a broker may send, in bytes: it has nothing to say but answers.
const LONGEST: u32 = 64 << 10;
/// How often a connection shows that it stands, in seconds.
const KEEP_ALIVE: u16 = 30;
/// What the state topic says.
const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

/// A broker.
pub(super) struct Mqtt {
    target: MqttTarget,
    purpose: Purpose,
    names: Names,
    open: Option<Session>,
}

/// Topics, and who we are in them.
struct Names {
    host: String,
    base: String,
}

impl Names {
    fn new(topic: Option<&str>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let fits = |char: char| if char.is_ascii_alphanumeric() || char == '-' { char } else { '_' };
        let host: String = host.chars().map(fits).collect();
        Self { base: topic.map_or_else(|| format!("flowwarden/{host}"), str::to_owned), host }
    }

    fn events(&self) -> String {
        format!("{}/events", self.base)
    }

    fn state(&self) -> String {
        format!("{}/state", self.base)
    }

    /// What Home Assistant needs to know, by topic.
    fn discovery(&self, prefix: &str) -> [(String, Value); 2] {
        let id = format!("flowwarden_{}", self.host.replace('-', "_"));
        let version = env!("CARGO_PKG_VERSION");
        let common = json!({
            "device": { "identifiers": [id], "name": format!("Flowwarden {}", self.host), "manufacturer": "Flowwarden",
                "sw_version": version },
            "origin": { "name": "Flowwarden", "sw_version": version },
        });
        let with = |own: Value| -> Value {
            let parts = [common.clone(), own];
            parts.into_iter().filter_map(|part| part.as_object().cloned()).flatten().collect()
        };
        let guard = with(json!({
            "name": "Guard", "unique_id": format!("{id}_guard"), "state_topic": self.state(), "payload_on": ONLINE,
            "payload_off": OFFLINE, "device_class": "connectivity", "entity_category": "diagnostic",
        }));
        let event = with(json!({
            "name": "Last event", "unique_id": format!("{id}_event"), "state_topic": self.events(),
            // A state has 255 characters at most.
            "value_template": "{{ value_json.message[:255] }}", "json_attributes_topic": self.events(),
            "availability_topic": self.state(), "icon": "mdi:shield-alert",
        }));
        [
            (format!("{prefix}/binary_sensor/{id}/guard/config"), guard),
            (format!("{prefix}/sensor/{id}/event/config"), event),
        ]
    }
}

impl Mqtt {
    pub(super) fn new(target: MqttTarget, purpose: Purpose) -> Self {
        let names = Names::new(target.topic.as_deref());
        Self { target, purpose, names, open: None }
    }

    /// The connection; a new one says that the guard is there.
    fn session(&mut self) -> io::Result<&mut Session> {
        match &mut self.open {
            Some(session) => Ok(session),
            none => {
                let state = self.names.state();
                let announced = self.purpose == Purpose::Sink;
                let mut session = Session::open(&self.target, announced.then_some(state.as_str()))?;
                if announced {
                    session.keep(&state, ONLINE)?;
                    if let Some(prefix) = &self.target.discovery {
                        for (topic, config) in self.names.discovery(prefix) {
                            session.keep(&topic, &config.to_string())?;
                        }
                    }
                }
                Ok(none.insert(session))
            }
        }
    }

    fn send(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let (place, topic) = (self.target.server.to_string(), self.names.events());
        let broken = |taken, error: &io::Error| later(taken, &place, error);
        let session = self.session().map_err(|error| broken(0, &error))?;
        let (mut sent, mut ids) = (0, Vec::new());
        let mut taken = 0;
        while taken < batch.len() {
            while sent < batch.len() && sent - taken < WINDOW && session.has_room() {
                let Some(message) = batch.get(sent) else { break };
                match session.publish(&topic, &message.text, false) {
                    Ok(id) => ids.push(id),
                    Err(Sent::Broken(error)) => return Err(broken(taken, &error)),
                    // What went before has its answers first.
                    Err(Sent::TooLarge) if sent > taken => break,
                    Err(Sent::TooLarge) => {
                        return Err(Failure::Never { taken, why: format!("{place}: larger than the broker takes") });
                    }
                }
                sent += 1;
            }
            let Some(&id) = ids.get(taken) else {
                return Err(Failure::Later { taken, why: format!("{place}: the broker takes nothing") });
            };
            match session.acknowledged(id).map_err(|error| broken(taken, &error))? {
                None => taken += 1,
                Some(PubackReasonCode::PayloadFormatInvalid) => {
                    return Err(Failure::Never { taken, why: format!("{place}: the broker refuses the event's form") });
                }
                Some(why) => return Err(Failure::Later { taken, why: format!("{place}: the broker answers {why}") }),
            }
        }
        Ok(())
    }
}

impl Receiver for Mqtt {
    fn most(&self) -> usize {
        MOST
    }

    fn longest(&self) -> Option<usize> {
        (self.target.version == MqttVersion::V3).then_some(LARGEST)
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        self.send(batch).inspect_err(|_| self.open = None)
    }

    /// Connects, so that the guard shows before anything happens, and keeps the connection alive.
    fn idle(&mut self) -> Option<Result<(), String>> {
        let kept = self.session().and_then(Session::idle);
        Some(kept.map_err(|error| {
            self.open = None;
            format!("{}: {error}", self.target.server)
        }))
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        let Some(session) = &mut self.open else { return };
        // A broker that does not take it says so itself, once the connection is gone.
        if self.purpose == Purpose::Sink && session.keep(&self.names.state(), OFFLINE).is_err() {
            return;
        }
        let _ = session.leave();
    }
}

/// A connection to a broker that has accepted us.
struct Session {
    connection: Connection,
    protocol: mqtt::Connection<Client>,
    version: MqttVersion,
    /// The broker's answer to our greeting: accepted, or why not.
    greeted: Option<Result<(), String>>,
    /// Answers to what was published, by its id: taken, or why not.
    answers: BTreeMap<u16, Option<PubackReasonCode>>,
    /// When something has to be done.
    timers: BTreeMap<u8, (TimerKind, Instant)>,
}

/// Why an event was not sent.
enum Sent {
    Broken(io::Error),
    TooLarge,
}

impl From<io::Error> for Sent {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Session {
    /// Connects. Where there is a topic for it, the broker says `offline` there once this connection breaks.
    fn open(target: &MqttTarget, will: Option<&str>) -> io::Result<Self> {
        let connection = Connection::open(&target.server, target.tls.as_ref())?;
        let version = match target.version {
            MqttVersion::V3 => mqtt::Version::V3_1_1,
            MqttVersion::V5 => mqtt::Version::V5_0,
        };
        let options = ConnectionOptions::new().maximum_packet_size_recv(LONGEST);
        let mut session = Self {
            connection,
            protocol: mqtt::Connection::with_options(version, options),
            version: target.version,
            greeted: None,
            answers: BTreeMap::new(),
            timers: BTreeMap::new(),
        };
        session.protocol.set_pingresp_recv_timeout(10_000);
        let login = match &target.login {
            None => None,
            Some(login) => Some((login.user.as_str(), secret(&login.password).map_err(invalid)?)),
        };
        let greeting = greeting(target.version, login, will).map_err(wrong)?;
        let events = session.protocol.send(greeting);
        session.act(events)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match session.greeted.take() {
                Some(Ok(())) => return Ok(session),
                Some(Err(why)) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
                None => session.receive(deadline)?,
            }
        }
    }

    /// Whether the broker lets one more event be on its way.
    fn has_room(&self) -> bool {
        self.protocol.get_receive_maximum_vacancy_for_send() != Some(0)
    }

    /// Sends an event, and answers its id.
    fn publish(&mut self, topic: &str, text: &[u8], retain: bool) -> Result<u16, Sent> {
        let id = self.protocol.acquire_packet_id().map_err(wrong)?;
        let packet: Packet = match self.version {
            MqttVersion::V3 => {
                let packet = v3_1_1::Publish::builder().topic_name(topic).map_err(wrong)?.qos(Qos::AtLeastOnce);
                packet.retain(retain).packet_id(id).payload(text).build().map_err(wrong)?.into()
            }
            MqttVersion::V5 => {
                let packet = v5_0::Publish::builder().topic_name(topic).map_err(wrong)?.qos(Qos::AtLeastOnce);
                packet.retain(retain).packet_id(id).payload(text).build().map_err(wrong)?.into()
            }
        };
        let events = self.protocol.send(packet);
        if events.iter().any(|event| matches!(event, Event::NotifyError(MqttError::PacketTooLarge))) {
            return Err(Sent::TooLarge);
        }
        self.act(events)?;
        Ok(id)
    }

    /// Publishes what the broker keeps for those who come later, and waits for its answer.
    fn keep(&mut self, topic: &str, text: &str) -> io::Result<()> {
        let id = self.publish(topic, text.as_bytes(), true).map_err(|failed| match failed {
            Sent::Broken(error) => error,
            Sent::TooLarge => invalid("the broker takes no message of this size"),
        })?;
        match self.acknowledged(id)? {
            None => Ok(()),
            Some(why) => Err(invalid(format!("the broker answers {why} to {topic}"))),
        }
    }

    /// Waits for the answer to what was published: none when it was taken, or why it was not.
    fn acknowledged(&mut self, id: u16) -> io::Result<Option<PubackReasonCode>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return Ok(answer);
            }
            self.receive(deadline)?;
        }
    }

    /// Takes what has come, and shows that the connection stands.
    fn idle(&mut self) -> io::Result<()> {
        self.take(Duration::ZERO)?;
        let now = Instant::now();
        let due: Vec<_> = self.timers.values().filter(|(_, at)| *at <= now).map(|&(kind, _)| kind).collect();
        for kind in due {
            self.timers.remove(&(kind as u8));
            let events = self.protocol.notify_timer_fired(kind);
            self.act(events)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        let packet: Packet = match self.version {
            MqttVersion::V3 => v3_1_1::Disconnect::builder().build().map_err(wrong)?.into(),
            MqttVersion::V5 => v5_0::Disconnect::builder().build().map_err(wrong)?.into(),
        };
        for event in self.protocol.send(packet) {
            if let Event::RequestSendPacket { packet, .. } = event {
                self.write(&packet)?;
            }
        }
        Ok(())
    }

    /// Waits for something to come.
    fn receive(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker does not answer"));
        }
        self.take(left)
    }

    fn take(&mut self, patience: Duration) -> io::Result<()> {
        let mut part = [0; 4096];
        let Some(length) = self.connection.read_within(&mut part, patience)? else { return Ok(()) };
        let part = part.get(..length).unwrap_or_default();
        let mut cursor = Cursor::new(part);
        while usize::try_from(cursor.position()).is_ok_and(|at| at < part.len()) {
            let events = self.protocol.recv(&mut cursor);
            self.act(events)?;
        }
        Ok(())
    }

    fn write(&mut self, packet: &Packet) -> io::Result<()> {
        self.connection.write_all(&packet.to_continuous_buffer())?;
        self.connection.flush()
    }

    /// Does what the protocol asks for.
    fn act(&mut self, events: Vec<Event>) -> io::Result<()> {
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => self.write(&packet)?,
                Event::NotifyPacketReceived(packet) => self.received(&packet)?,
                Event::RequestTimerReset { kind, duration_ms } => {
                    let at = Instant::now() + Duration::from_millis(duration_ms);
                    self.timers.insert(kind as u8, (kind, at));
                }
                Event::RequestTimerCancel(kind) => drop(self.timers.remove(&(kind as u8))),
                Event::NotifyPacketIdReleased(_) => {}
                Event::NotifyError(error) => return Err(wrong(error)),
                Event::RequestClose => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection has to end"));
                }
            }
        }
        Ok(())
    }

    fn received(&mut self, packet: &Packet) -> io::Result<()> {
        match packet {
            Packet::V3_1_1Connack(answer) => {
                let code = answer.return_code();
                self.greeted =
                    Some(if code == ConnectReturnCode::Accepted { Ok(()) } else { Err(refused(&code.to_string())) });
            }
            Packet::V5_0Connack(answer) => {
                let code = answer.reason_code();
                self.greeted =
                    Some(if code == ConnectReasonCode::Success { Ok(()) } else { Err(refused(&code.to_string())) });
            }
            Packet::V3_1_1Puback(answer) => drop(self.answers.insert(answer.packet_id(), None)),
            Packet::V5_0Puback(answer) => {
                let why = answer.reason_code().filter(PubackReasonCode::is_failure);
                self.answers.insert(answer.packet_id(), why);
            }
            Packet::V5_0Disconnect(farewell) => {
                let why = farewell.reason_code().map_or_else(String::new, |code| format!(": {code}"));
                let why = format!("the broker has ended the connection{why}");
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A CONNECT packet: nothing of an earlier connection is kept, since the journal knows what was not delivered.
fn greeting(version: MqttVersion, login: Option<(&str, String)>, will: Option<&str>) -> Result<Packet, MqttError> {
    // As long as every broker has to take.
    let id = format!("fw-{}", unique());
    macro_rules! build {
        ($packet:expr) => {{
            let mut packet = $packet.client_id(id.as_str())?.keep_alive(KEEP_ALIVE).clean_start(true);
            if let Some(topic) = will {
                packet = packet.will_message(topic, OFFLINE, Qos::AtLeastOnce, true)?;
            }
            if let Some((user, password)) = login {
                packet = packet.user_name(user)?.password(password.as_str())?;
            }
            packet.build()?.into()
        }};
    }
    Ok(match version {
        MqttVersion::V3 => build!(v3_1_1::Connect::builder()),
        MqttVersion::V5 => build!(v5_0::Connect::builder()),
    })
}

fn refused(why: &str) -> String {
    format!("the broker refuses the connection: {why}")
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn wrong(error: MqttError) -> io::Error {
    invalid(format!("MQTT: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_home_assistant_is_told_has_what_it_asks_for() {
        let names = Names::new(Some("plant/guard"));
        let [(guard_topic, guard), (event_topic, event)] = names.discovery("homeassistant");
        assert!(guard_topic.starts_with("homeassistant/binary_sensor/flowwarden_") && guard_topic.ends_with("/config"));
        assert!(event_topic.starts_with("homeassistant/sensor/flowwarden_") && event_topic.ends_with("/config"));
        assert_eq!(guard["state_topic"], "plant/guard/state");
        assert_eq!(event["state_topic"], "plant/guard/events");
        assert_ne!(guard["unique_id"], event["unique_id"]);
        assert_eq!(guard["device"], event["device"]);
        // Object ids are of these letters only.
        let id = guard_topic.split('/').nth(2).unwrap();
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{id}");
    }
}
