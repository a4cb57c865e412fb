//! What a running Node-RED tells by its entries in /proc.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{arguments::Arguments, settings::Environment};
use policy::machine::scan::Process;

/// A running Node-RED.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Its command line; none when its title has replaced it and no parent tells.
    pub(crate) arguments: Option<Arguments>,
    pub(crate) environment: Environment,
    pub(crate) working_directory: Option<PathBuf>,
    /// The program that it runs.
    pub(crate) executable: Option<PathBuf>,
    /// Its cgroup below the mount.
    pub(crate) cgroup: String,
    /// The device agent of FlowFuse has started it.
    pub(crate) by_flowfuse: bool,
}

impl Running {
    /// The Node-RED processes among these. What descends from one is its own, not another.
    pub(crate) fn among(processes: &[Process]) -> Vec<Self> {
        let parents: BTreeMap<_, _> = processes.iter().map(|process| (process.tgid, process)).collect();
        let descends = |process: &Process| {
            let mut above = parents.get(&process.parent);
            // A pid may be used again while we look, so that parents go round in a circle.
            for _ in 0..parents.len() {
                match above {
                    Some(parent) if parent.is_node_red => return true,
                    Some(parent) => above = parents.get(&parent.parent).filter(|next| next.tgid != parent.tgid),
                    None => return false,
                }
            }
            false
        };
        processes
            .iter()
            .filter(|process| process.is_node_red && !descends(process))
            .map(|process| Self::of(process.tgid, process.uid, process.parent))
            .collect()
    }

    fn of(pid: u32, uid: u32, parent: u32) -> Self {
        let base = Path::new("/proc").join(pid.to_string());
        let words = |pid: u32| strings(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        // Once it listens, the title `node-red` has replaced the arguments. A shell or npm that has started it may still
        // have the same ones.
        let own = words(pid);
        let of_parent = words(parent);
        let arguments = Some(own).filter(|words| !is_title(words)).and_then(|words| Arguments::read(&words));
        let arguments = arguments.or_else(|| Arguments::read(&of_parent));
        let environ = fs::read(base.join("environ"));
        let complete = environ.is_ok();
        let set = strings(&environ.unwrap_or_default())
            .into_iter()
            .filter_map(|entry| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        Self {
            pid,
            uid,
            arguments,
            environment: Environment { set, complete },
            working_directory: fs::read_link(base.join("cwd")).ok(),
            executable: fs::read_link(base.join("exe")).ok(),
            cgroup: cgroup(&fs::read_to_string(base.join("cgroup")).unwrap_or_default()),
            by_flowfuse: of_parent
                .iter()
                .any(|word| word.ends_with("flowfuse-device-agent") || word.ends_with("flowforge-device-agent")),
        }
    }

    /// The directories that a native module of it was loaded from, which lead to its package when its title hides that.
    pub(crate) fn packages(&self) -> Vec<PathBuf> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let mut found: Vec<PathBuf> = Vec::new();
        for line in maps.lines().filter(|line| line.rsplit('.').next() == Some("node")) {
            let Some(path) = line.find('/').and_then(|at| line.get(at..)) else { continue };
            if let Some((before, _)) = path.split_once("/node-red/node_modules/") {
                found.push(Path::new(before).join("node-red"));
            } else if let Some((before, _)) = path.split_once("/node_modules/") {
                found.push(Path::new(before).join("node_modules/node-red"));
            }
        }
        found.dedup();
        found
    }
}

/// Whether a title stands where the arguments were: its text, and zero bytes up to where they ended.
fn is_title(words: &[String]) -> bool {
    words.iter().skip(1).all(String::is_empty)
}

/// Words that each end with a zero byte.
fn strings(bytes: &[u8]) -> Vec<String> {
    let mut words: Vec<_> =
        bytes.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    if words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

/// The cgroup v2 path, or systemd's own in version 1.
fn cgroup(text: &str) -> String {
    let of = |mark: &str| text.lines().find_map(|line| line.split_once(mark).map(|(_, path)| path.to_owned()));
    of("0::").filter(|path| path != "/").or_else(|| of("name=systemd:")).or_else(|| of("0::")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_in_both_versions() {
        assert_eq!(cgroup("0::/system.slice/nodered.service\n"), "/system.slice/nodered.service");
        assert_eq!(cgroup("5:memory:/x\n1:name=systemd:/system.slice/n.service\n0::/\n"), "/system.slice/n.service");
        assert_eq!(cgroup("0::/\n"), "/");
        assert_eq!(cgroup(""), "");
    }

    #[test]
    fn words_end_with_a_zero_byte() {
        assert_eq!(strings(b"node\0red.js\0-u\0\0"), ["node", "red.js", "-u", ""]);
        assert_eq!(strings(b""), [""; 0]);
        assert!(is_title(&strings(b"node-red")) && is_title(&strings(b"node-red\0\0\0\0\0")));
        assert!(!is_title(&strings(b"node\0red.js\0")));
    }
}
