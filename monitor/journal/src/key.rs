//! The keys that sign checkpoints: made at the first start, replaced every hour, each signed by the one before.
//!
//! `signing.key` holds the key in use, for root alone. `keys.jsonl` has the public keys in order; a new one is entered
//! with the number and the hash of the journal's last line at that moment, signed by its predecessor, which is then
//! forgotten. So an attacker who steals the present key cannot rewrite what older keys have signed.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use data_encoding::HEXLOWER;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

use super::{JournalError, chain::Hash, directory, ocsf::now_ms};
use crate::durable;

/// The key in use.
const SIGNING: &str = "signing.key";
/// Its successor, while that is being entered.
const NEXT: &str = "signing.key.next";
/// The public keys.
const KEYS: &str = "keys.jsonl";
/// The journal's first public key, to be kept elsewhere.
pub const PUBLIC: &str = "public.key";
const PREFIX: &str = "ed25519:";

/// A public key: `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Names the key in checkpoints: the first 16 digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = Hash::of(&self.0).to_string();
        id.truncate(16);
        id
    }

    /// What the very first line of a journal that began with this key names as the hash before it.
    #[must_use]
    pub fn genesis(&self) -> Hash {
        Hash::of(&self.0)
    }

    /// Whether `signature`, in hexadecimal digits, is this key's for `message`.
    #[must_use]
    pub fn verify(&self, message: &str, signature: &str) -> bool {
        let Ok(signature) = HEXLOWER.decode(signature.as_bytes()) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message.as_bytes(), &signature).is_ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{PREFIX}{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim().strip_prefix(PREFIX).unwrap_or_default();
        let bytes = HEXLOWER.decode(digits.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| format!("no public key: {PREFIX} and 64 digits of 0-9 and a-f are wanted"))
    }
}

/// One line of `keys.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The public key.
    pub key: String,
    /// Number of the last line that was written before the key; 0 before the first.
    pub sequence: u64,
    /// Hash of that line, or what stands for it before the first.
    pub head: Hash,
    /// Milliseconds since 1970.
    pub time: i64,
    /// Id of the key that signed this; none for the first, and where the key before was lost.
    pub signed_by: Option<String>,
    /// The signature over [`Self::message`]; by the key itself where there is none before it.
    pub signature: String,
}

impl KeyRecord {
    /// What is signed.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { key, sequence, head, time, signed_by, .. } = self;
        format!("flowwarden key 1\n{key}\n{sequence}\n{head}\n{time}\n{}\n", signed_by.as_deref().unwrap_or("none"))
    }
}

/// The public keys of a journal.
#[derive(Clone, Debug, Default)]
pub struct KeyChain {
    /// In order, the first one first.
    pub records: Vec<KeyRecord>,
    keys: BTreeMap<String, (usize, PublicKey)>,
    /// What is wrong with it, line by line.
    pub faults: Vec<String>,
}

impl KeyChain {
    /// Reads the public keys of the journal in `directory`.
    pub fn read(directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(KEYS);
        let text = durable::read(&path, directory::LONGEST).map_err(JournalError::io(&path))?;
        let mut chain = Self::default();
        for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            if let Err(why) = chain.add(line) {
                chain.faults.push(format!("{KEYS}, line {}: {why}", index + 1));
            }
        }
        Ok(chain)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let record: KeyRecord = serde_json::from_slice(line).map_err(|error| format!("no key: {error}"))?;
        let key: PublicKey = record.key.parse()?;
        let last = self.records.last();
        let signer = match (&record.signed_by, last) {
            (None, _) => key,
            (Some(id), Some(last)) if last.key.parse::<PublicKey>().is_ok_and(|last| last.id() == *id) => {
                last.key.parse()?
            }
            (Some(id), _) => return Err(format!("signed by {id}, which is not the key before")),
        };
        if !signer.verify(&record.message(), &record.signature) {
            return Err(format!("the signature is not that of key {}", signer.id()));
        }
        if last.is_some_and(|last| last.sequence > record.sequence) {
            return Err("older than the key before".to_owned());
        }
        self.keys.insert(key.id(), (self.records.len(), key));
        self.records.push(record);
        Ok(())
    }

    /// A key by its id, and its place in the chain.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<(usize, PublicKey)> {
        self.keys.get(id).copied()
    }

    /// The key that the journal began with.
    #[must_use]
    pub fn first(&self) -> Option<PublicKey> {
        self.records.first()?.key.parse().ok()
    }
}

/// The key in use.
pub(super) struct Signer {
    directory: PathBuf,
    pair: Ed25519KeyPair,
    public: PublicKey,
    first: PublicKey,
    /// When it came to be, in milliseconds since 1970.
    since: i64,
    /// Why there is a new key without a signature of an old one.
    pub(super) broken: Option<String>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the key in use, and makes one for a new journal. `last` is the journal's last line, for the case that the
    /// key was lost.
    pub(super) fn open(
        directory: &Path,
        last: impl FnOnce() -> Result<Option<(u64, Hash)>, JournalError>,
    ) -> Result<Self, JournalError> {
        let (keys, signing, next) = (directory.join(KEYS), directory.join(SIGNING), directory.join(NEXT));
        directory::cut_torn(&keys).map_err(JournalError::io(&keys))?;
        let (first, newest_record) = ends(&keys)?;
        let newest = newest_record.as_ref().and_then(|record| record.key.parse::<PublicKey>().ok());
        // A crash between the entry of a key and its taking over.
        if let (Ok((_, public)), Some(newest)) = (load(&next), newest)
            && public == newest
        {
            fs::rename(&next, &signing).map_err(JournalError::io(&next))?;
            directory::sync(directory)?;
        }
        let _ = fs::remove_file(&next);
        let why = match (load(&signing), newest) {
            (Ok((pair, public)), Some(newest)) if public == newest => {
                let first = first.unwrap_or(public);
                publish(directory, first)?;
                let since = newest_record.map_or_else(now_ms, |record| record.time);
                return Ok(Self { directory: directory.to_owned(), pair, public, first, since, broken: None });
            }
            (_, None) if !keys.exists() => None,
            (_, None) => Some(format!("{KEYS} holds no key that can be read")),
            (Ok(_), Some(_)) => Some(format!("{SIGNING} is not the key that {KEYS} ends with")),
            (Err(why), Some(_)) => Some(format!("{SIGNING}: {why}")),
        };
        let (seed, pair, public) = generate().map_err(JournalError::io(&signing))?;
        let (sequence, head) = last()?.unwrap_or((0, public.genesis()));
        write_secret(&signing, &seed, public).map_err(JournalError::io(&signing))?;
        let record = record(public, sequence, head, None, &pair);
        append(&keys, &record).map_err(JournalError::io(&keys))?;
        directory::sync(directory)?;
        let first = first.unwrap_or(public);
        publish(directory, first)?;
        Ok(Self { directory: directory.to_owned(), pair, public, first, since: now_ms(), broken: why })
    }

    /// The key that the journal began with.
    pub(super) fn first(&self) -> PublicKey {
        self.first
    }

    /// Id of the key in use.
    pub(super) fn id(&self) -> String {
        self.public.id()
    }

    /// How long it has been in use, other runs of the guard included. A clock that was put back makes it old.
    pub(super) fn age(&self) -> Duration {
        u64::try_from(now_ms().saturating_sub(self.since)).map_or(Duration::MAX, Duration::from_millis)
    }

    /// Signs a message; hexadecimal digits.
    pub(super) fn sign(&self, message: &str) -> String {
        HEXLOWER.encode(self.pair.sign(message.as_bytes()).as_ref())
    }

    /// Goes over to a new key, and forgets the old one.
    pub(super) fn ratchet(&mut self, sequence: u64, head: Hash) -> Result<(), JournalError> {
        let (keys, signing, next) =
            (self.directory.join(KEYS), self.directory.join(SIGNING), self.directory.join(NEXT));
        let (seed, pair, public) = generate().map_err(JournalError::io(&next))?;
        write_secret(&next, &seed, public).map_err(JournalError::io(&next))?;
        let record = record(public, sequence, head, Some(self.public), &self.pair);
        append(&keys, &record).map_err(JournalError::io(&keys))?;
        // Entered: from here on there is no way back, also after a crash.
        (self.pair, self.public, self.since) = (pair, public, record.time);
        fs::rename(&next, &signing).map_err(JournalError::io(&next))?;
        directory::sync(&self.directory)
    }
}

/// The first public key, and the newest entry. The keys between them are for `verify`: they are many after some years.
fn ends(path: &Path) -> Result<(Option<PublicKey>, Option<KeyRecord>), JournalError> {
    let text = match fs::read_to_string(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok((None, None));
        }
        text => text.map_err(JournalError::io(path))?,
    };
    let parse = |line: &str| serde_json::from_str::<KeyRecord>(line).ok();
    let first = text.lines().next().and_then(parse).and_then(|record| record.key.parse().ok());
    Ok((first, text.lines().next_back().and_then(parse)))
}

fn record(public: PublicKey, sequence: u64, head: Hash, signer: Option<PublicKey>, pair: &Ed25519KeyPair) -> KeyRecord {
    let mut record = KeyRecord {
        key: public.to_string(),
        sequence,
        head,
        time: now_ms(),
        signed_by: signer.map(|signer| signer.id()),
        signature: String::new(),
    };
    record.signature = HEXLOWER.encode(pair.sign(record.message().as_bytes()).as_ref());
    record
}

fn generate() -> io::Result<([u8; 32], Ed25519KeyPair, PublicKey)> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(rejected)?;
    let public = public_of(&pair);
    Ok((seed, pair, public))
}

fn rejected(why: ring::error::KeyRejected) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

fn public_of(pair: &Ed25519KeyPair) -> PublicKey {
    let mut public = [0; 32];
    public.copy_from_slice(pair.public_key().as_ref());
    PublicKey(public)
}

/// `SEED PUBLIC` in hexadecimal digits.
fn load(path: &Path) -> io::Result<(Ed25519KeyPair, PublicKey)> {
    let text = text(path)?;
    let mut parts = text.split_whitespace().map(|part| HEXLOWER.decode(part.as_bytes()).ok());
    let (Some(Some(seed)), Some(Some(public))) = (parts.next(), parts.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no signing key"));
    };
    let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).map_err(rejected)?;
    let public = public_of(&pair);
    Ok((pair, public))
}

/// What a file with a key says.
fn text(path: &Path) -> io::Result<String> {
    let bytes = durable::read(path, 4096)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no text"))
}

fn write_secret(path: &Path, seed: &[u8; 32], public: PublicKey) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{} {}\n", HEXLOWER.encode(seed), HEXLOWER.encode(&public.0)).as_bytes())?;
    file.sync_all()
}

fn publish(directory: &Path, first: PublicKey) -> Result<(), JournalError> {
    let path = directory.join(PUBLIC);
    let text = format!("{first}\n");
    if self::text(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    durable::replace(&path, text.as_bytes()).map_err(JournalError::io(&path))
}

fn append(path: &Path, record: &KeyRecord) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let mut file = directory::open_append(path)?;
    let before = file.metadata()?.len();
    // Half a line must not stay in the way of the next.
    file.write_all(&line).and_then(|()| file.sync_all()).inspect_err(|_| drop(file.set_len(before)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open(directory: &Path) -> Signer {
        Signer::open(directory, || Ok(Some((5, Hash::of(b"five"))))).unwrap()
    }

    #[test]
    fn each_key_is_signed_by_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let mut signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        let first = signer.public;
        signer.ratchet(3, Hash::of(b"three")).unwrap();
        signer.ratchet(9, Hash::of(b"nine")).unwrap();
        let chain = KeyChain::read(directory.path()).unwrap();
        assert!(chain.faults.is_empty(), "{:?}", chain.faults);
        assert_eq!((chain.records.len(), chain.first()), (3, Some(first)));
        assert_eq!(chain.get(&signer.id()), Some((2, signer.public)));
        assert!(signer.public.verify("x", &signer.sign("x")));
        assert!(!first.verify("x", &signer.sign("x")), "the old key still signs");
        let secret = fs::metadata(directory.path().join(SIGNING)).unwrap();
        assert_eq!(secret.permissions().mode() & 0o777, 0o600);
        assert_eq!(open(directory.path()).public, signer.public);
    }

    #[test]
    fn a_crash_while_a_key_is_exchanged_leaves_one_that_signs() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let mut signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        let old = signer.public;
        // Before the new key is entered.
        let (seed, _, public) = generate().unwrap();
        write_secret(&path(NEXT), &seed, public).unwrap();
        assert_eq!(open(directory.path()).public, old);
        assert!(!path(NEXT).exists());
        // After that, before it takes over.
        fs::copy(path(SIGNING), path("old")).unwrap();
        signer.ratchet(3, Hash::of(b"three")).unwrap();
        fs::rename(path(SIGNING), path(NEXT)).unwrap();
        fs::rename(path("old"), path(SIGNING)).unwrap();
        assert_eq!(open(directory.path()).public, signer.public);
        // In the middle of the entry.
        let mut file = OpenOptions::new().append(true).open(path(KEYS)).unwrap();
        file.write_all(b"{\"key\":").unwrap();
        let again = open(directory.path());
        assert_eq!((again.public, again.broken), (signer.public, None));
    }

    #[test]
    fn a_lost_key_is_replaced_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let first = Signer::open(directory.path(), || Ok(None)).unwrap().public;
        fs::remove_file(directory.path().join(SIGNING)).unwrap();
        let signer = open(directory.path());
        assert!(signer.broken.as_deref().unwrap().contains(SIGNING));
        assert_eq!(signer.first(), first);
        let chain = KeyChain::read(directory.path()).unwrap();
        assert_eq!((chain.records.len(), &chain.records[1].signed_by, chain.records[1].sequence), (2, &None, 5));
    }

    #[test]
    fn a_forged_successor_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut signer = Signer::open(directory.path(), || Ok(None)).unwrap();
        signer.ratchet(3, Hash::of(b"three")).unwrap();
        let path = directory.path().join(KEYS);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"sequence\":3", "\"sequence\":4")).unwrap();
        let chain = KeyChain::read(directory.path()).unwrap();
        assert!(chain.faults[0].contains("line 2: the signature"), "{:?}", chain.faults);
    }
}
