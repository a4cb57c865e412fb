//! The last deploy by Node-RED's own log: a hint for the reader of an incident, not evidence.
//!
//! With `logging.console.audit` on, Node-RED prints a line for each request to its admin API. The policy can name where that
//! goes (`audit-log`): a file, or the journal of systemd. Any flow can print such a line too, so nothing rests on it.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::follow::{Follower, matches};
use journal::stdio::complain;
use policy::{
    host::Host,
    model::{AuditLog, InstancePolicy},
};

/// Most bytes that are read at once: of more, the last ones.
const MAX_READ: u64 = 64 << 10;
/// Most characters of a name or an address.
const MAX_TEXT: usize = 64;
/// What these lines have before their JSON.
const MARK: &str = "[audit] ";
/// Requests that change what runs.
const DEPLOYS: [&str; 6] = ["flows.set", "flow.add", "flow.update", "flow.remove", "nodes.install", "projects.set"];

/// The last request that changed what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    /// What it was, as Node-RED calls it.
    pub event: String,
    /// Who had logged in; none where the editor asks for no password.
    pub user: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// When, in milliseconds since 1970, by Node-RED's word.
    pub time_ms: u64,
}

impl Deploy {
    /// For a record.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "event": self.event, "user": self.user, "address": self.address, "time": self.time_ms, "verified": false })
    }

    /// For a person.
    #[must_use]
    pub fn words(&self) -> String {
        let user = self.user.as_deref().unwrap_or("somebody without a name");
        let from = self.address.as_deref().map_or_else(String::new, |address| format!(" from {address}"));
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(self.time_ms));
        let at = time.map_or_else(String::new, |time| format!(" at {}", humantime::format_rfc3339_seconds(time)));
        format!("A hint, not verified: by Node-RED's own log {user}{from} deployed last{at} ({}).", self.event)
    }

    /// Reads a line of the log; `None` for every other one.
    pub(super) fn read(line: &str) -> Option<Self> {
        let (_, json) = line.split_once(MARK)?;
        // What colours the line may come after it.
        let line: Value = serde_json::Deserializer::from_str(json).into_iter().next()?.ok()?;
        let event = line["event"].as_str().filter(|event| DEPLOYS.contains(event) && line["error"].is_null())?;
        let text = |value: &Value| {
            let visible = |char: char| if journal::text::terminal::is_hidden(char) { '?' } else { char };
            Some(value.as_str()?.chars().map(visible).take(MAX_TEXT).collect::<String>())
        };
        Some(Self {
            event: event.to_owned(),
            user: text(&line["user"]["username"]).or_else(|| text(&line["user"])),
            address: text(&line["ip"]),
            time_ms: line["timestamp"].as_u64()?,
        })
    }
}

/// Where a log comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file; absolute.
    File(PathBuf),
    /// Entries of the journal of systemd: [`matches()`].
    Journal(Vec<String>),
}

impl Source {
    /// Where the log of an instance is; `None` when its policy does not say.
    #[must_use]
    pub fn of(instance: &InstancePolicy, host: &dyn Host) -> Option<Self> {
        Some(match instance.audit_log.as_ref()? {
            AuditLog::File(path) => Self::File(path.clone()),
            AuditLog::Journal => Self::Journal(matches(&instance.select, host)),
        })
    }
}

/// A log that is read.
#[derive(Debug)]
enum Log {
    File(Reader),
    Journal(Follower),
}

impl Log {
    fn open(source: &Source) -> io::Result<Self> {
        Ok(match source {
            Source::File(path) => Self::File(Reader { path: path.clone(), place: (0, 0), at: 0, last: None }),
            Source::Journal(matches) => Self::Journal(Follower::start(matches)?),
        })
    }

    fn last(&mut self) -> Option<Deploy> {
        match self {
            Self::File(reader) => {
                reader.look();
                reader.last.clone()
            }
            Self::Journal(follower) => follower.last(),
        }
    }
}

/// A file, and how far it has been read.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    /// Device and number of the file.
    place: (u64, u64),
    at: u64,
    last: Option<Deploy>,
}

impl Reader {
    /// Reads what is new. What cannot be read is no reason to keep an incident back.
    fn look(&mut self) {
        let Ok((mut file, place, len)) = open(&self.path) else { return };
        if self.place != place || len < self.at {
            (self.place, self.at) = (place, 0);
        }
        self.at = self.at.max(len.saturating_sub(MAX_READ));
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(self.at)).and_then(|_| file.take(MAX_READ).read_to_end(&mut bytes));
        // A line that is not written to its end is read the next time.
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if read.is_err() || end == 0 {
            return;
        }
        self.at += end as u64;
        let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        if let Some(deploy) = text.lines().rev().find_map(Deploy::read) {
            self.last = Some(deploy);
        }
    }
}

/// The file is not trusted: only a regular file is read, without blocking.
fn open(path: &Path) -> io::Result<(File, (u64, u64), u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((file, (meta.dev(), meta.ino()), meta.len()))
}

/// The logs of all instances.
#[derive(Debug, Default)]
pub struct Editors(BTreeMap<String, (Source, Log)>);

impl Editors {
    /// Reads these logs from now on, by name of the instance. One that is read already goes on.
    pub fn watch<'a>(&mut self, logs: impl Iterator<Item = (&'a str, Source)>) {
        let mut old = std::mem::take(&mut self.0);
        for (instance, source) in logs {
            let known = old.remove(instance).filter(|(known, _)| *known == source).map(|(_, log)| Ok(log));
            match known.unwrap_or_else(|| Log::open(&source)) {
                Ok(log) => drop(self.0.insert(instance.to_owned(), (source, log))),
                Err(error) => complain(&format_args!("who deploys at {instance} is not known: {error}")),
            }
        }
    }

    /// Who deployed last, as far as that is known. A file is read now: to be asked when there is something to tell.
    pub fn last(&mut self, instance: &str) -> Option<Deploy> {
        self.0.get_mut(instance)?.1.last()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    fn line(user: &str, time: u64) -> String {
        format!(
            "24 Nov 20:04:05 - [audit] {{\"event\":\"flows.set\",\"type\":\"full\",\"user\":{{\"username\":\"{user}\"}},\
             \"path\":\"/flows\",\"ip\":\"10.0.0.5\",\"level\":98,\"timestamp\":{time}}}\x1b[39m\n"
        )
    }

    struct Scene {
        directory: tempfile::TempDir,
        editors: Editors,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let mut editors = Editors::default();
        editors.watch([("a", Source::File(directory.path().join("log")))].into_iter());
        Scene { directory, editors }
    }

    impl Scene {
        fn append(&self, text: &[u8]) {
            let path = self.directory.path().join("log");
            OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text).unwrap();
        }

        fn user(&mut self) -> Option<String> {
            self.editors.last("a")?.user
        }
    }

    #[test]
    fn the_last_deploy_is_told_and_a_line_is_read_when_it_is_whole() {
        let mut scene = scene();
        assert_eq!(scene.user(), None, "there is no log yet");
        scene.append((line("ann", 1) + "24 Nov - [audit] {\"event\":\"flows.get\",\"timestamp\":2}\n").as_bytes());
        assert_eq!(scene.user().as_deref(), Some("ann"));
        let next = line("bob", 3);
        scene.append(&next.as_bytes()[..40]);
        assert_eq!(scene.user().as_deref(), Some("ann"));
        scene.append(&next.as_bytes()[40..]);
        let deploy = scene.editors.last("a").unwrap();
        assert_eq!(deploy.json()["verified"], false);
        assert!(
            deploy.words().contains("bob from 10.0.0.5 deployed last at 1970-01-01T00:00:00Z"),
            "{}",
            deploy.words()
        );
        assert_eq!(scene.editors.last("other"), None);
    }

    #[test]
    fn a_log_that_is_rotated_cut_or_huge_is_read_on() {
        let mut scene = scene();
        scene.append(line("ann", 1).as_bytes());
        assert_eq!(scene.user().as_deref(), Some("ann"));
        let path = scene.directory.path().join("log");
        fs::rename(&path, scene.directory.path().join("log.1")).unwrap();
        scene.append(line("bob", 2).as_bytes());
        assert_eq!(scene.user().as_deref(), Some("bob"));
        fs::write(&path, "").unwrap();
        scene.user();
        scene.append(line("eve", 3).as_bytes());
        assert_eq!(scene.user().as_deref(), Some("eve"));
        scene.append(&vec![b'x'; 3 * usize::try_from(MAX_READ).unwrap()]);
        scene.append(format!("\n{}", line("dan", 4)).as_bytes());
        assert_eq!(scene.user().as_deref(), Some("dan"));
    }

    #[test]
    fn nothing_but_a_file_is_read_and_no_name_acts_on_a_terminal() {
        let mut scene = scene();
        scene.append(line("\\u001b[2J", 1).as_bytes());
        assert_eq!(scene.user().as_deref(), Some("?[2J"));
        let path = scene.directory.path().join("log");
        fs::rename(&path, scene.directory.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert!(open(&path).is_err());
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open(&path).is_err());
        for text in ["", "[audit] ", "[audit] {", "[audit] []", "[audit] {\"event\":\"flows.set\"}", "[audit] 7"] {
            assert_eq!(Deploy::read(text), None, "{text}");
        }
    }
}
