//! What of this project is in the kernel: the programs of guards that run, and those that enforce although none does.
//!
//! Two ways lead to them. The kernel lists all programs and maps, but only for `CAP_SYS_ADMIN`, which the service does not
//! have; and pins can be found in the BPF file systems that are mounted here. What either finds counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{
    maps::{Array, Map, MapData, MapError, MapInfo, MapType},
    programs::loaded_programs,
};
use monitor_common::policy::Control;

/// The map that says which policy is in force, and for whom.
const CONTROL: &str = "CONTROL";
/// Another map that all programs in scope have: a map with the name CONTROL alone may be that of another program.
const TASKS: &str = "TASKS";
/// How deep pins are looked for below the mount of a BPF file system.
const MAX_DEPTH: usize = 8;
/// Directories that are searched for pins, at most.
const MAX_DIRECTORIES: usize = 4096;

/// Polls of programs that are being removed, and the interval between them.
const MAX_POLLS: u32 = 10;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The programs of one run, which have a policy to enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcing {
    /// The process that was their guard last.
    pub guard: u32,
    /// It still is.
    pub guarded: bool,
    /// Where they are pinned, as far as that is mounted here.
    pub pins: Option<PathBuf>,
}

impl fmt::Display for Enforcing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guard, guarded, pins } = self;
        match (guarded, pins) {
            (true, Some(pins)) => write!(to, "a guard runs (process {guard}) with pins in {}", pins.display()),
            (true, None) => write!(to, "a guard runs (process {guard})"),
            (false, Some(pins)) => {
                let pins = pins.display();
                write!(
                    to,
                    "programs of an earlier run (process {guard}) enforce without a guard, and nothing is journaled: \
                     `flowwarden run --pin {pins}` takes over, `flowwarden detach --pin {pins}` ends it"
                )
            }
            (false, None) => write!(
                to,
                "programs of an earlier run (process {guard}) enforce without a guard, and nothing is journaled. They are \
                 pinned in no BPF file system that is mounted here: type `flowwarden detach --pin DIR` where it is, or \
                 restart the machine"
            ),
        }
    }
}

/// All that enforces on this machine, as far as this process may know: those without a guard first.
///
/// The kernel takes some time to let go of programs that were detached. What has neither guard nor pins is therefore looked
/// at again, for a second at most, before it counts.
#[must_use]
pub fn take() -> Vec<Enforcing> {
    let mut found = look();
    for _ in 0..MAX_POLLS {
        if found.iter().all(|it| it.guarded || it.pins.is_some()) {
            break;
        }
        thread::sleep(POLL_INTERVAL);
        found = look();
    }
    found
}

fn look() -> Vec<Enforcing> {
    let mut controls: BTreeMap<u32, (Control, Option<PathBuf>)> = BTreeMap::new();
    for id in listed() {
        if let Some(control) = MapData::from_id(id).ok().and_then(|map| read(map).ok()) {
            controls.insert(id, (control, None));
        }
    }
    for (directory, id, control) in pinned() {
        let (_, pins) = controls.entry(id).or_insert((control, None));
        pins.get_or_insert(directory);
    }
    let ids: BTreeSet<_> = controls.keys().copied().collect();
    let mut found: Vec<Enforcing> = Vec::new();
    // Before its first policy a run enforces nothing.
    for (Control { guard, .. }, pins) in controls.into_values().filter(|(control, _)| control.epoch != 0) {
        let known = |it: &Enforcing| it.guard == guard && it.pins == pins;
        if !found.iter().any(known) {
            found.push(Enforcing { guard, guarded: holds(Path::new("/proc"), guard, &ids), pins });
        }
    }
    found.sort_by_key(|it| it.guarded);
    found
}

/// Ids of the control maps that programs have; none for who may not ask.
fn listed() -> Vec<u32> {
    let programs = loaded_programs().flatten();
    let used: BTreeSet<Vec<u32>> = programs.filter_map(|program| program.map_ids().ok().flatten()).collect();
    let maps: BTreeSet<u32> = used.iter().flatten().copied().collect();
    let name = |id: u32| Some((id, MapInfo::from_id(id).ok()?.name_as_str()?.to_owned()));
    let names: BTreeMap<u32, String> = maps.into_iter().filter_map(name).collect();
    let is = |id: &u32, wanted: &str| names.get(id).is_some_and(|name| name == wanted);
    let of_ours = used.iter().filter(|maps| maps.iter().any(|id| is(id, TASKS)));
    let controls: BTreeSet<u32> = of_ours.flatten().copied().filter(|id| is(id, CONTROL)).collect();
    controls.into_iter().collect()
}

/// What a control map says; an error for a map of another kind.
fn read(map: MapData) -> Result<Control, MapError> {
    let info = map.info()?;
    if (info.map_type()?, info.value_size()) != (MapType::Array, size_of::<Control>().try_into().unwrap_or_default()) {
        return Err(MapError::InvalidMapType { map_type: info.map_type()? as u32 });
    }
    Array::<_, Control>::try_from(Map::from_map_data(map)?)?.get(&0, 0)
}

/// Directories with pins, the ids of their control maps, and what those say.
fn pinned() -> Vec<(PathBuf, u32, Control)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = Vec::new();
    let mut open: Vec<_> = mounts.lines().filter_map(bpf_mount).map(|path| (path, MAX_DEPTH)).collect();
    let mut seen = 0;
    while let Some((path, depth)) = open.pop() {
        seen += 1;
        if seen > MAX_DIRECTORIES {
            break;
        }
        let control = path.join("map").join(CONTROL);
        if let Some(map) = control.exists().then(|| MapData::from_pin(&control).ok()).flatten()
            && let (Ok(info), Some(directory)) = (map.info(), path.parent())
            && let Ok(control) = read(map)
        {
            found.push((directory.to_owned(), info.id(), control));
        } else if let Some(depth) = depth.checked_sub(1) {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(directories.map(|entry| (entry.path(), depth)));
        }
    }
    found
}

/// Where a BPF file system is mounted, by a line of `/proc/self/mounts`.
fn bpf_mount(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ').skip(1);
    let (point, kind) = (fields.next()?, fields.next()?);
    (kind == "bpf").then(|| PathBuf::from(OsString::from_vec(unescaped(point.as_bytes()))))
}

/// The bytes that the kernel has written as `\ooo`.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [first, rest @ ..] = text {
        let code = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        let escaped = rest.get(..3).filter(|_| *first == b'\\').and_then(code);
        bytes.push(escaped.unwrap_or(*first));
        text = if escaped.is_some() { rest.get(3..).unwrap_or_default() } else { rest };
    }
    bytes
}

/// Whether a process has one of these maps open: its number alone may be another's by now.
fn holds(proc: &Path, pid: u32, maps: &BTreeSet<u32>) -> bool {
    let descriptors = fs::read_dir(proc.join(pid.to_string()).join("fdinfo"));
    let id = |entry: fs::DirEntry| -> Option<u32> {
        let text = fs::read_to_string(entry.path()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().parse().ok()
    };
    descriptors.into_iter().flatten().flatten().filter_map(id).any(|id| maps.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_bpf_are_found_whatever_they_are_called() {
        let found = |line| bpf_mount(line).map(|path| path.display().to_string());
        assert_eq!(found("bpf /sys/fs/bpf bpf rw,nosuid 0 0").as_deref(), Some("/sys/fs/bpf"));
        assert_eq!(found("bpf /mnt/a\\040b\\134c bpf rw 0 0").as_deref(), Some("/mnt/a b\\c"));
        assert_eq!(found("bpf /mnt/a\\04 bpf rw 0 0").as_deref(), Some("/mnt/a\\04"));
        assert_eq!((found("tmpfs /bpf tmpfs rw 0 0"), found(""), found("bpf")), (None, None, None));
    }

    #[test]
    fn a_process_is_the_guard_only_while_it_has_the_map_open() {
        let directory = tempfile::tempdir().unwrap();
        let fdinfo = directory.path().join("7/fdinfo");
        fs::create_dir_all(&fdinfo).unwrap();
        fs::write(fdinfo.join("3"), "pos:\t0\nflags:\t02\nmap_type:\t2\nmap_id:\t41\n").unwrap();
        fs::write(fdinfo.join("4"), "pos:\t0\n").unwrap();
        let is = |pid, ids: &[u32]| holds(directory.path(), pid, &ids.iter().copied().collect());
        assert_eq!((is(7, &[41, 5]), is(7, &[4, 5]), is(8, &[41]), is(7, &[])), (true, false, false, false));
    }

    #[test]
    fn what_enforces_without_a_guard_names_the_way_out() {
        let mut found = Enforcing { guard: 7, guarded: false, pins: Some("/sys/fs/bpf/x".into()) };
        let text = found.to_string();
        assert!(text.contains("enforce without a guard") && text.contains("`flowwarden detach --pin /sys/fs/bpf/x`"));
        found.pins = None;
        assert!(found.to_string().contains("flowwarden detach --pin DIR"), "{found}");
        found.guarded = true;
        assert_eq!(found.to_string(), "a guard runs (process 7)");
    }
}
