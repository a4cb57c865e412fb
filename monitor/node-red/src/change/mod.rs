//! Changes of `settings.js`, of the flows, and of the git configuration of projects, reported as diffs without secrets.
//!
//! The last known version is kept in the state directory, so that a change while no guard ran is reported too.
//! Deploys are normal: these events are facts, not alerts.

pub mod diff;
pub mod event;
pub mod flows;
pub mod git;
pub mod mask;

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use crate::instance;
use diff::Diff;
use flows::Summary;
use journal::{
    state::{State, StateError},
    stdio::complain,
};
use policy::machine::root::Root;

/// Largest file that is compared, and kept, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// A file is compared after this time without a change,
const QUIET: Duration = Duration::from_secs(1);
/// and one that somebody keeps touching this often.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the flows are looked for anew.
const SEARCH: Duration = Duration::from_secs(30);
/// Most projects of an instance that are looked at.
const MAX_PROJECTS: usize = 64;
/// Most versions that are kept.
const MAX_KEPT: usize = 512;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `settings.js`
    Settings,
    /// The flows, without credentials.
    Flows,
    /// The configuration of a project's repository.
    Git,
}

impl Kind {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Flows => "flows",
            Self::Git => "git-config",
        }
    }
}

/// A change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Name of the instance.
    pub instance: String,
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of both versions.
    pub digests: [String; 2],
    /// Line by line; `None` for what is too large or no text.
    pub diff: Option<Diff>,
    /// Node by node.
    pub nodes: Option<Summary>,
    /// Settings by which git now runs what it did not run before.
    pub git_runs: Vec<String>,
    /// The incident that has met somebody at the file since it was looked at last.
    pub incident: Option<String>,
}

impl Change {
    /// For a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        let path = self.path.display();
        let what = match (&self.nodes, &self.diff) {
            (Some(nodes), _) => nodes.words(),
            (None, Some(diff)) => format!("{} lines added, {} removed", diff.added, diff.removed),
            (None, None) => "too large, or no text, to be compared".to_owned(),
        };
        let runs = match &self.git_runs[..] {
            [] => String::new(),
            runs => format!("; at the next commit or pull git runs what this names: {}", runs.join(", ")),
        };
        format!("instance {}: {path} has changed: {what}{runs}", self.instance)
    }
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self { place: (meta.dev(), meta.ino()), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

#[derive(Debug, Default)]
struct Watched {
    /// The version that was compared last.
    compared: Option<Stamp>,
    /// The one that was there at the last look, and since when.
    seen: Option<(Stamp, Instant)>,
    /// Since when it differs.
    differs: Option<Instant>,
    incident: Option<String>,
}

/// Looks at the files of all instances.
#[derive(Debug)]
pub struct Changes {
    kept: State,
    watched: BTreeMap<PathBuf, Watched>,
    /// Where the flows of each instance are, and when that was looked up.
    flows: BTreeMap<PathBuf, (Option<PathBuf>, Instant)>,
}

impl Changes {
    /// With what was kept in earlier runs.
    pub fn open(state: &State) -> Result<Self, StateError> {
        Ok(Self { kept: state.within("seen")?, watched: BTreeMap::new(), flows: BTreeMap::new() })
    }

    /// An incident has met somebody at a file.
    pub fn met(&mut self, path: &[u8], incident: &str) {
        use std::os::unix::ffi::OsStrExt as _;
        if let Some(watched) = self.watched.get_mut(Path::new(std::ffi::OsStr::from_bytes(path))) {
            watched.incident = Some(incident.to_owned());
        }
    }

    /// Compares what has changed and is quiet. `instances` are names and user directories. To be called now and then.
    pub fn look<'a>(&mut self, instances: impl Iterator<Item = (&'a str, &'a Path)>, now: Instant) -> Vec<Change> {
        let Ok(root) = Root::host() else { return Vec::new() };
        let mut changes = Vec::new();
        for (instance, user_dir) in instances {
            let settings = user_dir.join("settings.js");
            let flows = self.flows_of(&root, user_dir, now);
            let files = [(settings, Kind::Settings)].into_iter().chain(flows.map(|path| (path, Kind::Flows)));
            for (path, kind) in files.chain(repositories(&root, user_dir).map(|path| (path, Kind::Git))) {
                changes.extend(self.look_at(&root, instance, path, kind, now));
            }
        }
        changes
    }

    fn flows_of(&mut self, root: &Root, user_dir: &Path, now: Instant) -> Option<PathBuf> {
        let known = self.flows.get(user_dir);
        if let Some((path, at)) = known
            && now.saturating_duration_since(*at) < SEARCH
        {
            return path.clone();
        }
        let path = instance::flows_of(root, user_dir);
        self.flows.insert(user_dir.to_owned(), (path.clone(), now));
        path
    }

    fn look_at(&mut self, root: &Root, instance: &str, path: PathBuf, kind: Kind, now: Instant) -> Option<Change> {
        let watched = self.watched.entry(path.clone()).or_default();
        // A file that is gone may be on its way to be replaced.
        let place = root.find(&path).ok().filter(|place| place.metadata.is_file())?;
        let stamp = Stamp::of(&place.metadata);
        if watched.compared == Some(stamp) {
            watched.differs = None;
            return None;
        }
        let since = match watched.seen {
            Some((seen, since)) if seen == stamp => since,
            _ => now,
        };
        watched.seen = Some((stamp, since));
        let differs = *watched.differs.get_or_insert(now);
        let is_first = watched.compared.is_none();
        if !is_first
            && now.saturating_duration_since(since) < QUIET
            && now.saturating_duration_since(differs) < PATIENCE
        {
            return None;
        }
        (watched.compared, watched.differs) = (Some(stamp), None);
        let incident = watched.incident.take();
        // What is too large is known by its digest only.
        let new = match place.read(MAX_BYTES) {
            Ok(content) => content,
            Err(_) => format!("{stamp:?}").into_bytes(),
        };
        let old = self.kept.read(&name(&path)).ok().flatten();
        if old.as_ref() == Some(&new) {
            return None;
        }
        if let Err(error) = self.keep(&path, &new) {
            complain(&error);
        }
        let old = old?;
        let digests = [&old, &new].map(|content| HEXLOWER.encode(digest(&SHA256, content).as_ref()));
        let texts = std::str::from_utf8(&old).ok().zip(std::str::from_utf8(&new).ok());
        let texts = texts.filter(|_| stamp.size <= MAX_BYTES && !old.starts_with(b"Stamp {"));
        let diff = texts.map(|(old, new)| diff::diff(old, new));
        let nodes = texts.filter(|_| kind == Kind::Flows).and_then(|(old, new)| flows::compare(old, new));
        let git_runs = texts.filter(|_| kind == Kind::Git).map(|(old, new)| git::news(old, new)).unwrap_or_default();
        Some(Change { instance: instance.to_owned(), path, kind, digests, diff, nodes, git_runs, incident })
    }

    fn keep(&self, path: &Path, content: &[u8]) -> Result<(), StateError> {
        let entries = fs::read_dir(self.kept.path()).into_iter().flatten().flatten();
        let mut kept: Vec<_> =
            entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
        if kept.len() >= MAX_KEPT {
            kept.sort();
            for (_, path) in kept.iter().take(kept.len() + 1 - MAX_KEPT) {
                let _ = fs::remove_file(path);
            }
        }
        self.kept.write(&name(path), content)
    }
}

/// The configurations of an instance's projects.
fn repositories(root: &Root, user_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let projects = user_dir.join("projects");
    let names = root.list(&projects, MAX_PROJECTS).unwrap_or_default();
    names.into_iter().map(move |name| projects.join(name).join(".git/config"))
}

/// Whether a diff of this file may be shown: what is known to be settings or flows, and nothing that could be a key.
#[must_use]
pub fn is_shown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "js" || extension == "json")
        && !path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_cred"))
}

fn name(path: &Path) -> String {
    HEXLOWER.encode(digest(&SHA256, path.as_os_str().as_encoded_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        changes: Changes,
        now: Instant,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let changes = open(&directory);
        fs::create_dir(directory.path().join("u")).unwrap();
        let scene = Scene { directory, changes, now: Instant::now() };
        scene.write("settings.js", "module.exports = {\n  uiPort: 1,\n}\n");
        scene.write("flows.json", "[]");
        scene
    }

    fn open(directory: &tempfile::TempDir) -> Changes {
        Changes::open(&State::open(&directory.path().join("state")).unwrap()).unwrap()
    }

    impl Scene {
        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join("u").join(name), text).unwrap();
        }

        /// Changes of this second.
        fn look(&mut self) -> Vec<Change> {
            self.now += QUIET;
            let user_dir = self.directory.path().join("u");
            self.changes.look([("a", user_dir.as_path())].into_iter(), self.now)
        }
    }

    #[test]
    fn a_change_is_told_once_it_is_quiet_and_once_only() {
        let mut scene = scene();
        assert!(scene.look().is_empty() && scene.look().is_empty(), "the first version is no change");
        scene.write("settings.js", "module.exports = {\n  uiPort: 2,\n  credentialSecret: 'do not show',\n}\n");
        assert!(scene.look().is_empty(), "it may be written still");
        let changes = scene.look();
        assert_eq!((changes.len(), changes[0].kind), (1, Kind::Settings));
        let diff = changes[0].diff.as_ref().unwrap();
        assert!(diff.text.contains("-  uiPort: 1,\n+  uiPort: 2,\n"), "{}", diff.text);
        assert!(!diff.text.contains("do not show"), "{}", diff.text);
        assert!(
            changes[0].sentence().ends_with("settings.js has changed: 2 lines added, 1 removed"),
            "{}",
            changes[0].sentence()
        );
        assert!(scene.look().is_empty());
    }

    #[test]
    fn a_deploy_is_told_node_by_node_with_the_incident_that_met_it() {
        let mut scene = scene();
        scene.look();
        scene.write("flows.json", r#"[{"id":"a","type":"inject","name":"go"}]"#);
        let path = scene.directory.path().join("u/flows.json");
        scene.changes.met(path.as_os_str().as_encoded_bytes(), "i-1");
        scene.look();
        let changes = scene.look();
        assert_eq!((changes.len(), changes[0].incident.as_deref()), (1, Some("i-1")));
        assert_eq!(changes[0].nodes.as_ref().unwrap().added[0].name, "go");
        assert!(changes[0].sentence().ends_with("1 nodes added, 0 removed, 0 changed"));
    }

    #[test]
    fn a_repository_that_is_told_to_run_something_is_told() {
        let mut scene = scene();
        let git = scene.directory.path().join("u/projects/plant/.git");
        fs::create_dir_all(&git).unwrap();
        scene.write("projects/plant/.git/config", "[core]\n\tbare = false\n");
        assert!(scene.look().is_empty() && scene.look().is_empty(), "the first version is no change");
        // As git does it.
        fs::write(git.join("config.lock"), "[core]\n\tbare = false\n\thooksPath = /tmp/x\n").unwrap();
        fs::rename(git.join("config.lock"), git.join("config")).unwrap();
        scene.look();
        let changes = scene.look();
        assert_eq!(
            (changes.len(), changes[0].kind, &changes[0].git_runs[..]),
            (1, Kind::Git, &["core.hookspath = /tmp/x".to_owned()][..])
        );
        assert!(
            changes[0].sentence().ends_with(
                "1 lines added, 0 removed; at the next commit or pull git runs what this names: core.hookspath = /tmp/x"
            ),
            "{}",
            changes[0].sentence()
        );
        scene.write("projects/plant/.git/config", "[core]\n\tbare = true\n\thooksPath = /tmp/x\n");
        scene.look();
        let changes = scene.look();
        assert_eq!((changes.len(), changes[0].git_runs.len()), (1, 0), "{changes:?}");
    }

    #[test]
    fn a_change_while_no_guard_ran_is_told_by_the_next_one() {
        let mut scene = scene();
        scene.look();
        scene.write("settings.js", "module.exports = {}\n");
        scene.changes = open(&scene.directory);
        let changes = scene.look();
        assert_eq!((changes.len(), changes[0].diff.as_ref().unwrap().removed), (1, 3));
    }

    #[test]
    fn a_file_that_is_touched_for_ever_is_told_now_and_then() {
        let mut scene = scene();
        scene.look();
        let mut changes = 0;
        for number in 0..35 {
            scene.write("settings.js", &format!("// {number}\n"));
            scene.now -= QUIET / 2;
            changes += scene.look().len();
        }
        assert!((1..=2).contains(&changes), "{changes} times in 17 s");
    }

    #[test]
    fn what_is_too_large_or_no_file_is_told_without_a_diff() {
        let mut scene = scene();
        scene.look();
        scene.write("flows.json", &"x".repeat(usize::try_from(MAX_BYTES).unwrap() + 1));
        scene.look();
        let changes = scene.look();
        assert_eq!((changes.len(), changes[0].diff.is_some()), (1, false));
        let path = scene.directory.path().join("u/settings.js");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(scene.look().is_empty() && scene.look().is_empty(), "a pipe is not waited for");
    }
}
