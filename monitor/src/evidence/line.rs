//! One line of the journal, as far as a policy can judge it; borrowed from its bytes.

use std::{borrow::Cow, fmt, ops::Deref};

use monitor_common::{Access, Verdict, event::Hook, verdict::Sensor};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use crate::record::activity::FLAGS;
use policy::name::DnsName;

/// A text of the line; copied only where the line has escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// An event of the journal. Whatever it does not have is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Line<'a> {
    /// Milliseconds since 1970.
    pub time: i64,
    /// What happened, as a sentence.
    #[serde(borrow)]
    pub message: Text<'a>,
    /// Its number.
    #[serde(borrow)]
    pub metadata: Metadata<'a>,
    /// The file.
    #[serde(borrow)]
    pub file: Option<File<'a>>,
    /// The process that was launched, for a launch.
    #[serde(borrow)]
    pub process: Option<Process<'a>>,
    /// Who did it.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// Who is connected to.
    #[serde(borrow)]
    pub dst_endpoint: Endpoint<'a>,
    /// Who connects.
    #[serde(borrow)]
    pub src_endpoint: Endpoint<'a>,
    /// How.
    pub connection_info: Connection,
    /// What the guard says beside that.
    #[serde(borrow)]
    pub unmapped: Own<'a>,
}

/// The number of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata<'a> {
    /// From 1, running.
    pub sequence: u64,
    /// The same for all journals.
    #[serde(borrow)]
    pub uid: Text<'a>,
}

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct File<'a> {
    /// Its absolute path.
    #[serde(borrow)]
    pub path: Text<'a>,
    /// Its kind, as OCSF numbers them.
    pub type_id: u32,
}

/// The kind of a block device, as OCSF numbers them.
pub const BLOCK_DEVICE: u32 = 4;

/// Who acted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Actor<'a> {
    /// The process.
    #[serde(borrow)]
    pub process: Process<'a>,
}

/// A process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process<'a> {
    /// Its program's name.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// Its arguments.
    #[serde(borrow)]
    pub cmd_line: Text<'a>,
    /// Its program.
    #[serde(borrow)]
    pub file: Option<File<'a>>,
}

/// One end of a connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoint<'a> {
    /// Its address.
    #[serde(borrow)]
    pub ip: Option<Text<'a>>,
    /// The name that the instance had asked for to get it.
    #[serde(borrow)]
    pub hostname: Option<Text<'a>>,
    /// Its port.
    pub port: u16,
}

/// What a connection is.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// An `IPPROTO_*` number.
    pub protocol_num: u8,
}

/// What the guard says beside OCSF.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Own<'a> {
    /// The instance.
    #[serde(borrow)]
    pub instance: Text<'a>,
    /// The rule that decided.
    #[serde(borrow)]
    pub rule: Text<'a>,
    /// What was done.
    #[serde(deserialize_with = "verdict")]
    pub verdict: Verdict,
    /// What the policy wanted.
    #[serde(deserialize_with = "verdict")]
    pub wanted: Verdict,
    /// The operation; none for what is no operation of an instance.
    #[serde(deserialize_with = "hook")]
    pub hook: Option<Hook>,
    /// What saw it.
    #[serde(deserialize_with = "sensor")]
    pub sensor: Option<Sensor>,
    /// The accesses on which the verdict rests.
    #[serde(deserialize_with = "access")]
    pub access: Access,
    /// `FLAG_*`
    #[serde(deserialize_with = "flags")]
    pub flags: u32,
    /// Meaning depends on the operation.
    pub detail: Option<i64>,
    /// What was written, or has left.
    pub bytes: u64,
    /// The flags of an open (`O_*`).
    pub open_flags: Option<u32>,
    /// The file's device, as major:minor.
    #[serde(borrow)]
    pub dev: Text<'a>,
    /// The file's number.
    pub ino: u64,
    /// The file's generation.
    pub generation: u32,
    /// The other path of a rename or a link.
    #[serde(borrow)]
    pub other: Option<Text<'a>>,
    /// The path is not what the file is called: that is no text.
    pub lossy: bool,
    /// A path that the guard tells about.
    #[serde(borrow)]
    pub path: Option<Text<'a>>,
    /// The maintenance that a window is for.
    #[serde(borrow)]
    pub maintenance: Option<Text<'a>>,
    /// What the policy logs where no rule speaks, an instance a text.
    #[serde(borrow)]
    pub logged: Vec<Text<'a>>,
    /// When the window closes.
    #[serde(borrow)]
    pub until: Option<Text<'a>>,
}

fn verdict<'de, D: Deserializer<'de>>(from: D) -> Result<Verdict, D::Error> {
    let text = Text::deserialize(from)?;
    Ok(Verdict::by_name(&text).unwrap_or_default())
}

fn hook<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Hook>, D::Error> {
    let text = Text::deserialize(from)?;
    Ok(Hook::NAMES.iter().find(|(name, _)| *name == &*text).map(|&(_, hook)| hook))
}

fn sensor<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Sensor>, D::Error> {
    let text = Text::deserialize(from)?;
    Ok((1..=5).filter_map(Sensor::from_raw).find(|sensor| sensor.name() == &*text))
}

/// A list of names as the bits that they stand for.
struct Bits<F>(F);

impl<'de, F: Fn(&str) -> u32> Visitor<'de> for Bits<F> {
    type Value = u32;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of names")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u32, A::Error> {
        let mut bits = 0;
        while let Some(name) = list.next_element::<Text<'de>>()? {
            bits |= self.0(&name);
        }
        Ok(bits)
    }
}

fn access<'de, D: Deserializer<'de>>(from: D) -> Result<Access, D::Error> {
    let bit = |name: &str| u32::from(Access::by_name(name).unwrap_or_default().bits());
    let bits = from.deserialize_seq(Bits(bit))?;
    Ok(Access::from_bits(u8::try_from(bits).unwrap_or_default()))
}

fn flags<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    from.deserialize_seq(Bits(|name: &str| FLAGS.iter().find(|(_, known)| *known == name).map_or(0, |&(bit, _)| bit)))
}

impl<'a> Line<'a> {
    /// Reads a line; says what is wrong with it otherwise.
    pub fn read(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The name that gave the address which is connected to, where it is one that rules can have.
    #[must_use]
    pub fn name(&self) -> Option<DnsName> {
        DnsName::parse(self.dst_endpoint.hostname.as_ref()?).ok()
    }

    /// The path that it is about: the file, or the program that is launched.
    #[must_use]
    pub fn path(&self) -> &str {
        let launched = self.process.as_ref().and_then(|process| process.file.as_ref());
        self.file.as_ref().or(launched).map_or("", |file| &file.path)
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::event::{FLAG_CREATED, FLAG_OBSERVED};

    use super::*;

    #[test]
    fn what_a_policy_judges_is_read_and_the_rest_passed_over() {
        let text = br#"{"class_uid":1001,"time":7,"message":"a \"b\"","file":{"path":"/u/x","type_id":1},"more":[{}],
            "metadata":{"sequence":3},"actor":{"process":{"name":"node","parent_process":{"pid":1}}},
            "unmapped":{"instance":"a","rule":"r","verdict":"log","wanted":"deny","hook":"open","sensor":"lsm",
            "access":["read","write","never heard of"],"flags":["created","observed"],"dev":"8:1","ino":9}}"#;
        let line = Line::read(text).unwrap();
        let Own { verdict, wanted, hook, sensor, access, flags, .. } = line.unmapped;
        assert_eq!((verdict, wanted, hook, sensor), (Verdict::Log, Verdict::Deny, Some(Hook::Open), Some(Sensor::Lsm)));
        assert_eq!(access, Access::READ.union(Access::WRITE));
        assert_eq!(flags, FLAG_CREATED | FLAG_OBSERVED);
        assert_eq!((&*line.message, line.path(), line.metadata.sequence), ("a \"b\"", "/u/x", 3));
        assert!(matches!(&line.file.unwrap().path.0, Cow::Borrowed("/u/x")));
        assert!(Line::read(b"{\"time\":").is_err());
        assert!(Line::read(b"{}").unwrap().unmapped.hook.is_none());
    }
}
