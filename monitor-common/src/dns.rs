//! Names: what instances ask their resolvers for, and the addresses that the answers give.
//!
//! The kernel programs read answers (RFC 1035, 4.1) as they reach an instance's socket, before the instance does, and
//! remember which names of the policy gave an address: [`Bound`]. Everyone else reads the same bytes by the same code.
//! A name is filed backwards, in lower case, with a zero byte at its end: `*.plant.example` is then the prefix
//! `elpmaxe.tnalp.` of every name below it, and a whole name is a prefix of nothing but itself.

use crate::{decide::map_v4, opaque::Opaque, shared};

/// The port of resolvers.
pub const PORT: u16 = 53;
/// Longest message that is read.
pub const MAX_MESSAGE: usize = 4096;
/// Most records of an answer that are read.
pub const MAX_RECORDS: u32 = 256;
/// Longest name as text (RFC 1035, 2.3.4, without the dot at its end).
pub const MAX_NAME: usize = 253;
/// Most names of the policy that one address is known by.
pub const NAMES_PER_ADDRESS: usize = 4;
/// How long an address stays bound beyond the TTL: some clients look up once and connect later.
pub const GRACE_NS: u64 = 300 * 1_000_000_000;
/// Longest TTL that counts, in seconds.
pub const MAX_TTL: u32 = 86_400;

/// Most messages of a [`Kind`] and an instance that are reported in a second.
pub const MAX_REPORTED: u64 = 1000;
/// From so many bytes on a question is a long one: a flood of short ones hides none that carries much.
pub const LONG_QUESTION: u32 = 64;

/// What kind of message it is, as far as floods are concerned.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Question = 0,
    /// A question of [`LONG_QUESTION`] bytes or more.
    Long = 1,
    /// An answer.
    Answer = 2,
}

impl Kind {
    /// How many there are.
    pub const COUNT: u32 = 3;

    /// What a question of this many bytes is.
    #[inline(always)]
    #[must_use]
    pub fn of_question(len: u32) -> Self {
        if len < LONG_QUESTION { Self::Question } else { Self::Long }
    }

    /// What a record's detail says.
    #[inline(always)]
    #[must_use]
    pub const fn detail(self) -> u64 {
        matches!(self, Self::Answer) as u64
    }
}

/// Bits of a [`NameKey`] before the name.
pub const NAME_HEAD_BITS: u32 = 16;
/// Bytes of a name in a [`NameKey`], the one at its end included.
pub const NAME_ROOM: usize = MAX_NAME + 1;

/// Key of the longest-prefix trie of names. A key of the kernel's tries has 256 bytes at most, so the head is short.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameKey {
    /// Slot of the instance.
    pub instance: u8,
    /// The lowest byte of the policy's epoch.
    pub epoch: u8,
    /// The name backwards, padded with zeros.
    pub name: [u8; NAME_ROOM],
}

/// A [`NameKey`] as the kernel wants it: after the number of bits that count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameQuestion {
    /// All bits.
    pub bits: u32,
    /// The key.
    pub key: NameKey,
}

/// Finds the rules of a name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameRulesKey {
    /// The name: what [`NameKey`] leads to, the same in every policy.
    pub name: u64,
    /// The policy's epoch.
    pub epoch: u32,
    /// Slot of the instance.
    pub instance: u32,
}

/// A resolver whose answers count for an instance.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResolverKey {
    /// Network byte order; IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// The policy's epoch.
    pub epoch: u32,
    /// Slot of the instance.
    pub instance: u32,
}

/// Finds the names of an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BoundKey {
    /// Network byte order; IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// Slot of the instance.
    pub instance: u32,
}

/// A name of the policy that gave an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// As in [`NameRulesKey`]; 0 for none.
    pub name: u64,
    /// Until when it counts: `CLOCK_BOOTTIME`, nanoseconds.
    pub until: u64,
}

/// The names of the policy that gave an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// In no order.
    pub names: [Named; NAMES_PER_ADDRESS],
}

impl Bound {
    /// Adds a name, or prolongs it. When there are too many the one that ends first goes.
    #[inline(always)]
    pub fn add(&mut self, name: u64, until: u64) {
        let (mut place, mut first) = (0, u64::MAX);
        for index in 0..NAMES_PER_ADDRESS {
            if self.names[index].name == name {
                self.names[index].until = until;
                return;
            }
            if self.names[index].until < first {
                (place, first) = (index, self.names[index].until);
            }
        }
        self.names[place & (NAMES_PER_ADDRESS - 1)] = Named { name, until };
    }
}
const _: () = assert!(NAMES_PER_ADDRESS.is_power_of_two());

/// A question that was asked over UDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueryKey {
    /// The socket's cookie.
    pub socket: u64,
    /// The number of the message, as it is in it.
    pub id: u32,
    /// Zero.
    pub pad: u32,
}

/// A socket that talks to a resolver.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Slot of the instance.
    pub instance: u32,
    /// The process that has begun to talk.
    pub tgid: u32,
}

/// Rate of reported messages of a [`Kind`] and an instance. It bounds floods, so that the ring buffer has space for other
/// records.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// `CLOCK_BOOTTIME` in seconds.
    pub second: u64,
    /// Those in that second.
    pub reported: u64,
    /// Messages that were not reported, in total.
    pub skipped: u64,
}

impl Rate {
    /// Whether one more message may be reported.
    #[inline(always)]
    pub fn may_report(&mut self, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if self.second != second {
            self.second = second;
            self.reported = 0;
        }
        if self.reported >= MAX_REPORTED {
            self.skipped += 1;
            return false;
        }
        self.reported += 1;
        true
    }
}

/// How far the answers of a resolver over TCP have been read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Sequence number of the byte that comes next.
    pub next: u32,
    /// Bytes of a message that has not come to its end.
    pub have: u32,
    /// Those.
    pub bytes: [u8; MAX_MESSAGE],
}

shared!(
    NameKey = 256,
    NameRulesKey = 16,
    ResolverKey = 24,
    BoundKey = 20,
    Named = 16,
    Bound = 64,
    QueryKey = 16,
    Noted = 8,
    Rate = 24,
    Stream = 4104,
);

/// What a record of an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An address, in [`Message::address`].
    Address,
    /// Something else.
    Other,
    /// No record: the rest cannot be read.
    Nothing,
}

const ROOM: usize = 2 * MAX_MESSAGE;

/// A message under way, in memory of its own: too big for a kernel program's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The name that was asked for, as a key.
    pub question: NameQuestion,
    /// The same as text, in lower case.
    pub name: [u8; 256],
    /// The message and what else came with it.
    pub bytes: [u8; ROOM],
    /// Where in `bytes` the message begins.
    base: Opaque<u32>,
    /// How long it is.
    len: Opaque<u32>,
    /// How far it has been read.
    at: Opaque<u32>,
    /// Bytes of the label that are still to come.
    left: Opaque<u32>,
    name_len: Opaque<u32>,
    kind: Opaque<u32>,
    records: Opaque<u32>,
    ttl: Opaque<u32>,
    /// The address of the last record, IPv4 as v4-mapped IPv6.
    pub address: [u8; 16],
    /// What the name leads to.
    pub named: Opaque<u64>,
    /// Bytes of a stream that have been read.
    pub done: Opaque<u32>,
    /// Zero.
    pub pad: u32,
}

impl Message {
    /// Nothing in it.
    pub const NEW: Self = Self {
        question: NameQuestion { bits: 0, key: NameKey { instance: 0, epoch: 0, name: [0; NAME_ROOM] } },
        name: [0; 256],
        bytes: [0; ROOM],
        base: Opaque::new(0),
        len: Opaque::new(0),
        at: Opaque::new(0),
        left: Opaque::new(0),
        name_len: Opaque::new(0),
        kind: Opaque::new(0),
        records: Opaque::new(0),
        ttl: Opaque::new(0),
        address: [0; 16],
        named: Opaque::new(0),
        done: Opaque::new(0),
        pad: 0,
    };

    /// A byte of what came.
    #[inline(always)]
    #[must_use]
    pub fn byte(&self, at: u32) -> u8 {
        // SAFETY: the mask keeps it inside; volatile for the reason that [`Opaque`] gives.
        unsafe { core::ptr::read_volatile(self.bytes.as_ptr().add(at as usize & (ROOM - 1))) }
    }

    #[inline(always)]
    fn read(&self, at: u32) -> u32 {
        u32::from(self.byte(self.base.get().wrapping_add(at)))
    }

    #[inline(always)]
    fn read16(&self, at: u32) -> u32 {
        self.read(at) << 8 | self.read(at + 1)
    }

    #[inline(always)]
    fn next(&mut self) -> u32 {
        let at = self.at.get();
        self.at.set(at + 1);
        self.read(at)
    }

    /// Says where in the bytes the message is; false when it is no answer to a single question.
    #[inline(always)]
    pub fn begin(&mut self, base: u32, len: u32) -> bool {
        self.base.set(base);
        self.len.set(len);
        self.at.set(HEADER);
        self.name_len.set(0);
        self.records.set(0);
        if len < HEADER {
            return false;
        }
        // QR and the opcode, then RCODE: an answer to an ordinary question, without an error.
        let (flags, errors) = (self.read(2), self.read(3));
        self.records.set(if flags & 0x80 != 0 && errors << 28 == 0 { self.read16(6) } else { 0 });
        flags & 0x78 == 0 && self.read16(4) == 1
    }

    /// Reads the name that was asked for, and goes on to the records; false when no rule could name it.
    #[inline(always)]
    pub fn take_name(&mut self) -> bool {
        self.left.set(0);
        for _ in 0..=NAME_ROOM {
            let byte = self.next();
            let left = self.left.get();
            if left == 0 {
                if byte == 0 {
                    break;
                }
                // A pointer, which a question has no need of.
                if byte > MAX_LABEL {
                    return false;
                }
                self.left.set(byte);
                if self.name_len.get() != 0 {
                    self.push(b'.');
                }
            } else {
                self.left.set(left - 1);
                let byte = lower(byte as u8);
                // With any other byte in it a label could be taken for two.
                if !is_plain(byte) {
                    return false;
                }
                self.push(byte);
            }
        }
        let at = self.at.get();
        self.at.set(at + 4);
        self.kind.set(self.read16(at));
        let len = self.name_len.get();
        self.left.get() == 0
            && len > 0
            && len <= MAX_NAME as u32
            && at + 4 <= self.len.get()
            && self.read16(at + 2) == 1
    }

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        let len = self.name_len.get();
        self.name_len.set(len + 1);
        // SAFETY: the mask keeps it inside.
        unsafe { core::ptr::write_volatile(self.name.as_mut_ptr().add(len as usize & 0xff), byte) };
    }

    /// Makes the key of the name.
    #[inline(always)]
    pub fn fill_key(&mut self, instance: u8, epoch: u8) {
        self.question.bits = NAME_HEAD_BITS + 8 * NAME_ROOM as u32;
        self.question.key.instance = instance;
        self.question.key.epoch = epoch;
        for index in 0..NAME_ROOM as u32 {
            // The length is read anew each time, or each comparison would narrow it and make a case of its own.
            let len = self.name_len.get();
            let byte = if index < len {
                // SAFETY: the mask keeps it inside.
                unsafe { core::ptr::read_volatile(self.name.as_ptr().add((len - 1 - index) as usize & 0xff)) }
            } else {
                0
            };
            self.question.key.name[index as usize] = byte;
        }
    }

    /// Reads the next record.
    #[inline(always)]
    pub fn next_record(&mut self) -> Found {
        let records = self.records.get();
        if records == 0 || !self.skip_name() {
            return Found::Nothing;
        }
        self.records.set(records - 1);
        let at = self.at.get();
        let data = at + RECORD;
        if data > self.len.get() {
            return Found::Nothing;
        }
        let end = data + self.read16(at + 8);
        if end > self.len.get() {
            return Found::Nothing;
        }
        self.at.set(end);
        // The highest bit would make it a negative number (RFC 2181, 8).
        let ttl = self.read16(at + 4) << 16 | self.read16(at + 6);
        self.ttl.set(if ttl > MAX_TTL { MAX_TTL } else { ttl });
        if self.read16(at + 2) != 1 {
            return Found::Other;
        }
        match (self.read16(at), end - data) {
            (A, 4) => {
                let bytes = [0, 1, 2, 3].map(|index| self.read(data + index) as u8);
                self.address = map_v4(bytes);
                Found::Address
            }
            (AAAA, 16) => {
                for index in 0..16 {
                    self.address[index as usize] = self.read(data + index) as u8;
                }
                Found::Address
            }
            _ => Found::Other,
        }
    }

    /// Goes past the name of a record. False where there is none.
    #[inline(always)]
    fn skip_name(&mut self) -> bool {
        for _ in 0..MAX_LABELS {
            let byte = self.next();
            if byte == 0 {
                return true;
            }
            let at = self.at.get();
            if byte & 0xc0 == 0xc0 {
                self.at.set(at + 1);
                return true;
            }
            if byte > MAX_LABEL || at > self.len.get() {
                return false;
            }
            self.at.set(at + byte);
        }
        false
    }

    /// Until when the last address counts, by a clock that says `now`.
    #[inline(always)]
    #[must_use]
    pub fn until(&self, now: u64) -> u64 {
        now + u64::from(self.ttl.get()) * 1_000_000_000 + GRACE_NS
    }

    /// The name that was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        let bytes = self.name.get(..self.name_len.get() as usize).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// What was asked for: 1 for an IPv4 address, 28 for an IPv6 one, and so on (IANA, DNS parameters).
    #[must_use]
    pub fn kind(&self) -> u32 {
        self.kind.get()
    }
}

/// Length of a message's fixed part.
pub const HEADER: u32 = 12;
/// Length of a record's fixed part, after its name.
const RECORD: u32 = 10;
/// Longest label.
const MAX_LABEL: u32 = 63;
const MAX_LABELS: u32 = 128;
/// Types of records.
const A: u32 = 1;
const AAAA: u32 = 28;

#[inline(always)]
const fn lower(byte: u8) -> u8 {
    if byte.wrapping_sub(b'A') < 26 { byte | 0x20 } else { byte }
}

/// Whether a byte can be in a name that people use.
#[inline(always)]
const fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'0') < 10 || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use std::{boxed::Box, vec::Vec};

    use super::*;

    /// `www.Example.com` as an alias of `x.example.com` with two addresses, as a resolver writes it.
    fn answer() -> Vec<u8> {
        let mut bytes =
            b"\x12\x34\x81\x80\x00\x01\x00\x03\x00\x00\x00\x00\x03www\x07Example\x03com\x00\x00\x01\x00\x01".to_vec();
        bytes.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01x\xc0\x10");
        bytes.extend(b"\xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x01");
        bytes.extend(b"\xc0\x2d\x00\x1c\x00\x01\x80\x00\x00\x00\x00\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07");
        bytes
    }

    fn message(base: usize, bytes: &[u8]) -> Box<Message> {
        let mut message = Box::new(Message::NEW);
        message.bytes[base..base + bytes.len()].copy_from_slice(bytes);
        message
    }

    fn addresses(message: &mut Message) -> Vec<[u8; 16]> {
        let mut found = Vec::new();
        loop {
            match message.next_record() {
                Found::Address => found.push(message.address),
                Found::Other => {}
                Found::Nothing => return found,
            }
        }
    }

    #[test]
    fn an_answer_is_one_without_an_error_to_one_ordinary_question() {
        type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
        let found = |change: Change<'_>| {
            let mut bytes = answer();
            change(&mut bytes);
            let mut message = message(0, &bytes);
            message.begin(0, bytes.len() as u32) && message.take_name() && !addresses(&mut message).is_empty()
        };
        assert!(found(&|_| {}));
        let changes: [(&str, Change<'_>); 7] = [
            ("a question", &|bytes| bytes[2] &= 0x7f),
            ("an error", &|bytes| bytes[3] |= 3),
            ("a question with an error", &|bytes| (bytes[2], bytes[3]) = (1, 0x82)),
            ("another operation", &|bytes| bytes[2] |= 0x28),
            ("no question", &|bytes| bytes[5] = 0),
            ("two questions", &|bytes| bytes[5] = 2),
            ("many questions", &|bytes| bytes[4] = 1),
        ];
        for (what, change) in changes {
            assert!(!found(change), "{what}");
        }
        // Flags of no account here, among them the upper half of the byte with the error.
        assert!(found(&|bytes| (bytes[2], bytes[3]) = (0x87, 0xf0)));
        let header = message(0, &answer());
        let begins = |len| {
            let mut message = header.clone();
            message.begin(0, len)
        };
        assert!(!begins(0) && !begins(HEADER - 1) && begins(HEADER) && begins(HEADER + 1));
    }

    #[test]
    fn as_many_records_are_read_as_the_message_says_it_has() {
        for (records, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (9, 2)] {
            let mut bytes = answer();
            bytes[7] = records;
            let mut message = message(0, &bytes);
            assert!(message.begin(0, bytes.len() as u32) && message.take_name());
            assert_eq!(addresses(&mut message).len(), expected, "{records}");
            message.fill_key(1, 1);
            assert_eq!(message.question.bits, 16 + 8 * 254);
        }
        // A record without content, at the very end, is one; one that goes on behind the end is none.
        let mut bytes = b"\0\0\x80\0\0\x01\0\x01\0\0\0\0\x01a\0\0\x01\0\x01\0\0\x01\0\x01\0\0\0\0\0\0".to_vec();
        let first = |bytes: &[u8]| {
            let mut message = message(0, bytes);
            assert!(message.begin(0, bytes.len() as u32) && message.take_name());
            message.next_record()
        };
        assert!(matches!(first(&bytes), Found::Other));
        *bytes.last_mut().unwrap() = 4;
        assert!(matches!(first(&bytes), Found::Nothing));
        bytes.extend(b"\x7f\0\0\x01");
        assert!(matches!(first(&bytes), Found::Address));
    }

    #[test]
    fn a_record_has_a_name_of_labels_or_a_pointer_and_a_time_to_live() {
        let head = b"\0\0\x80\0\0\x01\0\x01\0\0\0\0\x01a\0\0\x01\0\x01";
        let record = |name: &[u8], ttl: u32| {
            let fixed = [&b"\0\x01\0\x01"[..], &ttl.to_be_bytes(), b"\0\x04\x7f\0\0\x01"].concat();
            let bytes = [head, name, &fixed].concat();
            let mut message = message(0, &bytes);
            assert!(message.begin(0, bytes.len() as u32) && message.take_name());
            let found = matches!(message.next_record(), Found::Address);
            assert!(!found || message.address == map_v4([127, 0, 0, 1]));
            found.then(|| (message.until(7) - 7 - GRACE_NS) / 1_000_000_000)
        };
        let label = |length: u8| [&[length][..], &[b'x'; 64][..usize::from(length)], b"\0"].concat();
        for name in
            [&b"\0"[..], b"\xc0\x0c", b"\xc1\x0c", b"\xff\xff", b"\x01x\xc0\x0c", b"\x03www\x07example\0", &label(63)]
        {
            assert_eq!(record(name, 60), Some(60), "{name:?}");
        }
        for name in [&b"\x40\0"[..], b"\x80\0", b"\xbf\0", &label(64)] {
            assert_eq!(record(name, 60), None, "{name:?}");
        }
        let times = [
            (0, 0),
            (1, 1),
            (0x0001_0002, 0x0001_0002),
            (MAX_TTL, MAX_TTL),
            (MAX_TTL + 1, MAX_TTL),
            (u32::MAX, MAX_TTL),
        ];
        for (ttl, counts) in times {
            assert_eq!(record(b"\0", ttl), Some(u64::from(counts)), "{ttl}");
        }
    }

    #[test]
    fn letters_of_names_are_those_that_rules_can_have() {
        for byte in 0..=u8::MAX {
            assert_eq!(lower(byte), byte.to_ascii_lowercase(), "{byte}");
            let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
            assert_eq!(is_plain(byte), plain, "{byte}");
        }
        let mut bytes = answer();
        for kind in [1, 28, 65] {
            let at = bytes.windows(5).position(|it| it == b"\x03com\0").unwrap() + 6;
            bytes[at] = kind;
            let mut message = message(0, &bytes);
            assert!(message.begin(0, bytes.len() as u32) && message.take_name());
            assert_eq!(message.kind(), u32::from(kind));
        }
    }

    #[test]
    fn a_label_has_sixty_three_bytes_and_no_pointer() {
        let name = |length: u8, label: usize| {
            let mut bytes = answer()[..HEADER as usize].to_vec();
            bytes.push(length);
            bytes.extend(core::iter::repeat_n(b'a', label));
            bytes.extend(b"\0\x00\x01\x00\x01");
            let mut message = message(0, &bytes);
            message.begin(0, bytes.len() as u32) && message.take_name()
        };
        assert!(name(1, 1) && name(62, 62) && name(63, 63));
        assert!(!name(64, 64) && !name(0xc0, 0) && !name(0xc0, 192) && !name(0, 0));
        // What lies behind the end is none of it, whatever is there.
        let bytes = [&answer()[..HEADER as usize], b"\x01a\0\x00\x01\x00\x01"].concat();
        for cut in 0..6 {
            let mut message = message(0, &bytes);
            assert_eq!(message.begin(0, bytes.len() as u32 - cut) && message.take_name(), cut == 0, "{cut}");
        }
    }

    #[test]
    fn so_many_messages_are_reported_in_a_second() {
        assert_eq!(GRACE_NS, 300_000_000_000, "five minutes");
        let mut rate = Rate::default();
        let at = |tenths: u64| tenths * 100_000_000;
        for second in [1, 2, 5] {
            let before = rate.skipped;
            for count in 0..MAX_REPORTED + 7 {
                // All of the second is one second.
                let now = at(second * 10 + if count % 2 == 0 { 0 } else { 9 });
                assert_eq!(rate.may_report(now), count < MAX_REPORTED, "{second} {count}");
            }
            assert_eq!((rate.second, rate.reported, rate.skipped - before), (second, MAX_REPORTED, 7));
        }
    }

    #[test]
    fn a_long_question_is_counted_apart_and_answers_are_marked() {
        let kinds = [0, LONG_QUESTION - 1, LONG_QUESTION, LONG_QUESTION + 1, u32::MAX].map(Kind::of_question);
        assert_eq!(kinds, [Kind::Question, Kind::Question, Kind::Long, Kind::Long, Kind::Long]);
        assert_eq!([Kind::Question, Kind::Long, Kind::Answer].map(Kind::detail), [0, 0, 1]);
    }

    #[test]
    fn an_alias_and_its_addresses_are_those_of_the_name_that_was_asked_for() {
        for base in [0, 700] {
            let bytes = answer();
            let mut message = message(base as usize, &bytes);
            assert!(message.begin(base, bytes.len() as u32) && message.take_name());
            assert_eq!((message.name(), message.kind()), ("www.example.com", 1));
            message.fill_key(3, 9);
            assert!(message.question.key.name.starts_with(b"moc.elpmaxe.www\0"));
            let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
            assert_eq!(addresses(&mut message), [map_v4([192, 0, 2, 1]), v6]);
            assert_eq!(message.until(5), 5 + 86_400_000_000_000 + GRACE_NS, "the longest TTL that counts");
        }
    }

    #[test]
    fn what_is_cut_anywhere_gives_no_address_that_is_not_whole() {
        let bytes = answer();
        for len in 0..bytes.len() {
            // What an earlier message has left behind it is not this one's.
            let mut message = message(0, &bytes);
            if message.begin(0, len as u32) && message.take_name() {
                assert!(addresses(&mut message).len() < 2, "{len} bytes");
            }
        }
    }

    #[test]
    fn a_label_with_a_dot_or_a_zero_in_it_is_no_name_that_a_rule_could_mean() {
        let questions: [&[u8]; 4] = [
            b"\x0bexample.com\x00\x00\x01\x00\x01",
            b"\x03www\xc0\x0c\x00\x01\x00\x01",
            b"\x02a\x00\x03com\x00\x00\x01\x00\x01",
            b"\x00\x00\x01\x00\x01",
        ];
        for question in questions {
            let bytes = [b"\x12\x34\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00", question].concat();
            let mut message = message(0, &bytes);
            assert!(message.begin(0, bytes.len() as u32));
            assert!(!message.take_name(), "{question:?}");
        }
    }

    #[test]
    fn a_flood_is_told_up_to_the_bound_and_the_rest_is_counted() {
        let mut rate = Rate::default();
        let reported = (0..3 * MAX_REPORTED).filter(|_| rate.may_report(7_999_999_999)).count() as u64;
        assert_eq!((reported, rate.skipped), (MAX_REPORTED, 2 * MAX_REPORTED));
        assert!(rate.may_report(8_000_000_000), "the next second");
    }

    #[test]
    fn a_fifth_name_of_an_address_takes_the_place_of_the_one_that_ends_first() {
        let mut bound = Bound::default();
        for (name, until) in [(1, 40), (2, 20), (3, 30), (4, 50), (2, 60), (5, 70)] {
            bound.add(name, until);
        }
        let names = bound.names.map(|named| (named.name, named.until));
        assert_eq!(names, [(1, 40), (2, 60), (5, 70), (4, 50)]);
    }
}
