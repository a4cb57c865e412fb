//! What outlives the guard: links and maps pinned in a BPF file system.
//!
//! `DIR/GENERATION/map/NAME` and `DIR/GENERATION/link/PROGRAM`, a generation for each run. A run that begins finds those
//! of earlier runs still judging. It brings its own programs up beside them, takes over who is in scope and what was
//! recorded meanwhile, and only then removes the older ones: enforcement has no gap.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use monitor_common::{
    event::Counters,
    policy::{Control, Maintenance},
    scope::TaskLabel,
};
use rustix::fs::{FlockOperation, flock, statfs};

use journal::stdio::complain;

/// Where pins are kept unless another place is named.
pub const DIRECTORY: &str = "/sys/fs/bpf/flowwarden";

/// The maps that the next run has to find, beside those with what was [learnt](super::inherit). Those that only programs use
/// live as long as these.
pub(super) const MAPS: &[&str] = &["CONTROL", "COUNTERS", "EVENTS", "HANDLERS", "TASKS", "TOLD", "WINDOWS"];

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;

/// Why pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The directory is none in a BPF file system.
    #[error(
        "{0} is not in a BPF file system: type `mount -t bpf bpf /sys/fs/bpf`, or name a directory in one with --pin"
    )]
    NoBpfFs(PathBuf),
    /// Another guard uses the directory.
    #[error("a guard runs already with the pins in {0}: stop it first")]
    InUse(PathBuf),
    /// Something failed in the file system.
    #[error("pins in {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refused to pin.
    #[error("pins in {path}: {source}")]
    Refused {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: aya::pin::PinError,
    },
}

type Result<T> = std::result::Result<T, PinError>;

fn io(path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { path, source }
}

/// The directory of all pins, locked for as long as this lives.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    _lock: File,
}

impl Pins {
    /// Opens the directory, and makes it when it is not there; it has to be in a BPF file system.
    pub fn open(directory: &Path) -> Result<Self> {
        let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let found = statfs(existing).map_err(|errno| io(existing)(errno.into()))?;
        // The magic number's type differs from one architecture to the next.
        if i128::from(found.f_type) & 0xffff_ffff != BPF_FS_MAGIC {
            return Err(PinError::NoBpfFs(directory.to_owned()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io(directory))?;
        let lock = File::open(directory).map_err(io(directory))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::InUse(directory.to_owned())),
            Err(errno) => Err(io(directory)(errno.into())),
        }
    }

    /// What earlier runs have left, the oldest first.
    pub fn generations(&self) -> Result<Vec<Generation>> {
        let entries = fs::read_dir(&self.directory).map_err(io(&self.directory))?;
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| Generation { path: self.directory.join(number.to_string()) }).collect())
    }

    /// Begins a generation, to be filled.
    pub fn begin(&self) -> Result<Begun> {
        let last = self.generations()?.into_iter().filter_map(|it| it.path.file_name()?.to_str()?.parse().ok()).max();
        let number: u64 = last.map_or(1, |last: u64| last.saturating_add(1));
        let generation = Generation { path: self.directory.join(number.to_string()) };
        let begun = Begun(Some(generation));
        for path in [begun.path().to_owned(), begun.maps(), begun.links()] {
            DirBuilder::new().mode(0o700).create(&path).map_err(io(&path))?;
        }
        Ok(begun)
    }

    /// Removes everything: what the pins kept attached is detached.
    pub fn remove(self) -> Result<usize> {
        let generations = self.generations()?;
        let count = generations.len();
        generations.into_iter().try_for_each(Generation::remove)?;
        fs::remove_dir(&self.directory).map_err(io(&self.directory))?;
        Ok(count)
    }
}

/// A generation that goes away again unless it is kept.
#[derive(Debug)]
pub struct Begun(Option<Generation>);

impl Begun {
    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(DIRECTORY), |generation| &generation.path)
    }

    /// Where maps are pinned.
    pub(super) fn maps(&self) -> PathBuf {
        self.path().join("map")
    }

    /// Where links are pinned.
    pub(super) fn links(&self) -> PathBuf {
        self.path().join("link")
    }

    /// It is complete, and stays.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(generation) = self.0.take()
            && let Err(error) = generation.remove()
        {
            complain(&error);
        }
    }
}

/// What an earlier run has left.
#[derive(Debug)]
pub struct Generation {
    path: PathBuf,
}

impl Generation {
    pub(super) fn map(&self, name: &str) -> std::result::Result<Map, MapError> {
        Map::from_map_data(MapData::from_pin(self.path.join("map").join(name))?)
    }

    fn control(&self) -> std::result::Result<Array<MapData, Control>, MapError> {
        self.map("CONTROL")?.try_into()
    }

    /// Tells its programs which process the guard is now. Answers with the epoch of its policy.
    ///
    /// Fails when it was left by a version whose maps are others.
    pub fn adopt(&self) -> std::result::Result<u32, MapError> {
        let mut map = self.control()?;
        let control = map.get(&0, 0)?;
        map.set(0, Control { guard: std::process::id(), ..control }, 0)?;
        Ok(control.epoch)
    }

    /// The processes in scope.
    pub fn labels(&self) -> std::result::Result<Vec<(u32, TaskLabel)>, MapError> {
        let tasks: HashMap<_, u32, TaskLabel> = self.map("TASKS")?.try_into()?;
        Ok(tasks.iter().flatten().collect())
    }

    /// Until when its window of an instance for a maintenance is open, as [`Kernel::set_window`](super::Kernel) was
    /// reported; 0 for a closed one, and for every one of a version without windows.
    #[must_use]
    pub fn window(&self, slot: u16, maintenance: Maintenance) -> u64 {
        let windows = self.map("WINDOWS").and_then(Array::<_, u64>::try_from);
        windows.and_then(|map| map.get(&Maintenance::place(slot, maintenance as u8), 0)).unwrap_or_default()
    }

    /// Its pending records.
    pub fn events(&self) -> std::result::Result<RingBuf<MapData>, MapError> {
        self.map("EVENTS")?.try_into()
    }

    /// Number of lost records that were not reported.
    pub fn lost(&self) -> std::result::Result<u64, MapError> {
        let counters: PerCpuArray<_, Counters> = self.map("COUNTERS")?.try_into()?;
        let reported: Array<_, u64> = self.map("TOLD")?.try_into()?;
        let lost: u64 = counters.get(&0, 0)?.iter().map(|counters| counters.lost).sum();
        Ok(lost.saturating_sub(reported.get(&0, 0)?))
    }

    /// Removes the pins of its programs, which are detached with that. Its maps can still be read.
    pub fn detach(&self) -> Result<()> {
        clear(&self.path.join("link"))
    }

    /// Removes its pins: first those of programs, since none may be called whose maps are half gone.
    pub fn remove(self) -> Result<()> {
        self.detach()?;
        clear(&self.path.join("map"))?;
        fs::remove_dir(&self.path).map_err(io(&self.path))
    }
}

/// Removes a directory with the pins in it, if it is there.
fn clear(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(directory)(error)),
    };
    for entry in entries.flatten() {
        fs::remove_file(entry.path()).map_err(io(&entry.path()))?;
    }
    fs::remove_dir(directory).map_err(io(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_is_refused_with_the_mend() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::open(&directory.path().join("pins")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
        assert!(!directory.path().join("pins").exists());
    }
}
