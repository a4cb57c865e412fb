//! Where on the host the files of a container are.
//!
//! A rule names files as the host sees them, and a container sees them elsewhere: both are mounts of one file system, so
//! the device and the directory that is mounted lead from one to the other.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// A line of /proc/PID/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    /// What of the file system is mounted.
    root: PathBuf,
    point: PathBuf,
}

/// The host's name for a path that a process in another mount namespace has; the path itself where it has the host's.
pub(crate) fn on_host(pid: u32, path: &Path) -> Option<PathBuf> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let table = |pid: &str| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok();
    let other = pid.to_string();
    if namespace(&other)? == namespace("self")? {
        return Some(path.to_owned());
    }
    translate(path, &mounts(&table(&other)?), &mounts(&table("self")?))
}

fn translate(path: &Path, inside: &[Mount], outside: &[Mount]) -> Option<PathBuf> {
    // The last mount over a directory is the one that is seen, and the longest name is the nearest.
    let nearest = |mounts: &[Mount]| {
        mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
            .cloned()
    };
    let mount = nearest(inside)?;
    let real = plain(&mount.root.join(path.strip_prefix(&mount.point).ok()?));
    let host = outside
        .iter()
        .filter(|host| host.device == mount.device && real.starts_with(&host.root))
        .max_by_key(|host| host.root.components().count())?;
    Some(plain(&host.point.join(real.strip_prefix(&host.root).ok()?)))
}

/// Without the slash that joining an empty path leaves.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let device = fields.next()?.to_owned();
            Some(Mount { device, root: unescape(fields.next()?), point: unescape(fields.next()?) })
        })
        .collect()
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digits: Vec<u8> = if byte == b'\\' { bytes.clone().take(3).collect() } else { Vec::new() };
        let code = std::str::from_utf8(&digits).ok().filter(|text| text.len() == 3);
        match code.and_then(|text| u8::from_str_radix(text, 8).ok()) {
            Some(code) => {
                plain.push(code);
                bytes.nth(2);
            }
            None => plain.push(byte),
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n23 22 0:44 / /var/lib/docker/overlay2/ab/merged rw - overlay overlay rw\n\
                        24 22 254:2 / /srv rw - ext4 /dev/vdb rw\n";

    fn find(path: &str, inside: &str) -> Option<PathBuf> {
        translate(Path::new(path), &mounts(inside), &mounts(HOST))
    }

    #[test]
    fn a_container_path_is_found_on_the_host() {
        let inside = "90 80 0:44 / / rw - overlay overlay rw\n91 90 254:1 /var/lib/docker/volumes/x\\040y/_data /data rw - ext4 /dev/vda1 rw\n\
                      92 90 254:2 /nr /other rw - ext4 /dev/vdb rw\n93 90 0:99 / /gone rw - tmpfs tmpfs rw\n";
        for (path, host) in [
            ("/data/settings.js", "/var/lib/docker/volumes/x y/_data/settings.js"),
            ("/data", "/var/lib/docker/volumes/x y/_data"),
            ("/other/a", "/srv/nr/a"),
            ("/usr/src/node-red", "/var/lib/docker/overlay2/ab/merged/usr/src/node-red"),
        ] {
            assert_eq!(find(path, inside).as_deref(), Some(Path::new(host)), "{path}");
        }
        assert_eq!(find("/gone/x", inside), None);
    }

    #[test]
    fn a_path_of_the_own_namespace_stays_as_it_is() {
        assert_eq!(on_host(std::process::id(), Path::new("/a/b")).as_deref(), Some(Path::new("/a/b")));
    }
}
