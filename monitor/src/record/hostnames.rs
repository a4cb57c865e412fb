//! The name that an instance resolved before it connected to an address.

use std::collections::{HashMap, VecDeque};

use monitor_common::{
    dns::{Found, Message},
    event::Hook,
};

use super::decode::Record;

/// Most addresses in the cache.
const MAX_ADDRESSES: usize = 8192;

/// Slot of an instance, and an address with IPv4 as v4-mapped IPv6.
type Place = (u16, [u8; 16]);

/// Names by instance and address. Bounded: the oldest entries are evicted.
#[derive(Debug)]
pub struct Hostnames {
    names: HashMap<Place, String>,
    order: VecDeque<Place>,
    message: Box<Message>,
}

impl Default for Hostnames {
    fn default() -> Self {
        Self { names: HashMap::new(), order: VecDeque::new(), message: Box::new(Message::NEW) }
    }
}

impl Hostnames {
    /// Adds the names of a DNS answer, parsed by the same code as in the kernel. Of a truncated answer the complete part is used.
    pub fn observe(&mut self, record: &Record) {
        if record.hook != Hook::Dns || record.event.detail != 1 {
            return;
        }
        let Some(room) = self.message.bytes.get_mut(..record.text.len()) else { return };
        room.copy_from_slice(&record.text);
        let len = u32::try_from(record.text.len()).unwrap_or_default();
        if !self.message.begin(0, len) || !self.message.take_name() {
            return;
        }
        let name = self.message.name().to_owned();
        loop {
            match self.message.next_record() {
                Found::Address => self.remember((record.event.instance, self.message.address), &name),
                Found::Other => {}
                Found::Nothing => return,
            }
        }
    }

    fn remember(&mut self, place: Place, name: &str) {
        if self.names.insert(place, name.to_owned()).is_none() {
            self.order.push_back(place);
        }
        while self.order.len() > MAX_ADDRESSES {
            if let Some(oldest) = self.order.pop_front() {
                self.names.remove(&oldest);
            }
        }
    }

    /// The name that was resolved to the address of a record.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<&str> {
        let outgoing = matches!(record.hook, Hook::Connect | Hook::Send | Hook::Volume);
        let place = (record.event.instance, record.event.endpoint.address);
        outgoing.then(|| self.names.get(&place).map(String::as_str)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::{
        decide::map_v4,
        event::{Endpoint, Event},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::record::decode::{decode, tests::bytes};

    fn answer(instance: u16, name: &str, address: [u8; 4]) -> Record {
        let mut text = b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00".to_vec();
        for label in name.split('.') {
            text.push(u8::try_from(label.len()).unwrap());
            text.extend(label.bytes());
        }
        text.extend(b"\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04");
        text.extend(address);
        record(Hook::Dns, instance, [0; 4], 1, &text)
    }

    fn record(hook: Hook, instance: u16, address: [u8; 4], detail: u64, text: &[u8]) -> Record {
        let endpoint = Endpoint { address: map_v4(address), ..Endpoint::default() };
        let event = Event { hook: hook as u8, sensor: 2, instance, detail, endpoint, ..Event::ZERO };
        decode(&bytes(event, b"", text)).unwrap()
    }

    #[test]
    fn the_last_name_that_gave_an_address_to_the_instance_is_told() {
        let mut hostnames = Hostnames::default();
        hostnames.observe(&answer(1, "a.example", [192, 0, 2, 1]));
        hostnames.observe(&answer(1, "B.example", [192, 0, 2, 1]));
        let of = |hook, instance, address| hostnames.of(&record(hook, instance, address, 0, b"")).map(str::to_owned);
        assert_eq!(of(Hook::Connect, 1, [192, 0, 2, 1]).as_deref(), Some("b.example"));
        assert_eq!(of(Hook::Connect, 2, [192, 0, 2, 1]), None, "another instance has not asked");
        assert_eq!(of(Hook::Send, 1, [192, 0, 2, 2]), None, "no answer had this address");
        assert_eq!(of(Hook::Accept, 1, [192, 0, 2, 1]), None, "who connects has not been asked for");
    }

    #[test]
    fn a_flood_of_answers_takes_no_more_memory_than_the_bound() {
        let mut hostnames = Hostnames::default();
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 1000 {
            hostnames.observe(&answer(1, "a.example", number.to_be_bytes()));
        }
        assert_eq!((hostnames.names.len(), hostnames.order.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..1024)) {
            Hostnames::default().observe(&record(Hook::Dns, 1, [0; 4], 1, &text));
        }
    }
}
