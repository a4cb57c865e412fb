//! Access rights of a user to a file, evaluated as the kernel does: mode, access control list, sticky directories,
//! read-only mounts and immutable files.

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{IFlags, StatVfsMountFlags};

use policy::machine::root::{Place, Root};

/// Permission bits of a mode: read, write and search.
pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const SEARCH: u32 = 1;
const STICKY: u32 = 0o1000;

/// User and groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gids: BTreeSet<u32>,
}

/// A file or directory whose permissions let a user change or replace the file at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WritePath {
    /// Path of the file or directory.
    pub(super) path: PathBuf,
    /// Mode of the file or directory.
    pub(super) mode: u32,
    /// Whether the user owns it, and can therefore change the mode.
    pub(super) owned: bool,
    /// Whether this is a directory above the file, not the file itself.
    pub(super) directory: bool,
}

impl WritePath {
    /// Formats a line of evidence.
    pub(super) fn describe(&self) -> String {
        let how = if self.owned { "is owned by the user" } else { "is writable" };
        let what = if self.directory { ": entries can be renamed and replaced" } else { "" };
        format!("{} {how} (mode {:04o}){what}", self.path.display(), self.mode & 0o7777)
    }
}

impl Credentials {
    /// Returns whether the kernel would grant the access `want`.
    pub(super) fn may(&self, place: &Place, want: u32) -> bool {
        let metadata = &place.metadata;
        if self.uid == 0 {
            return true;
        }
        let mode = metadata.mode();
        if metadata.uid() == self.uid {
            return (mode >> 6) & want == want;
        }
        if let Some(granted) = acl(place).and_then(|acl| self.by_acl(&acl, metadata.gid(), want)) {
            return granted;
        }
        let bits = if self.gids.contains(&metadata.gid()) { mode >> 3 } else { mode };
        bits & want == want
    }

    /// Evaluates an access control list; `None` if it has no entry that applies to the user.
    fn by_acl(&self, acl: &[Entry], owning: u32, want: u32) -> Option<bool> {
        let mask = acl.iter().find(|entry| entry.tag == Entry::MASK).map_or(7, |entry| entry.granted);
        if let Some(user) = acl.iter().find(|entry| entry.tag == Entry::USER && entry.id == self.uid) {
            return Some(user.granted & mask & want == want);
        }
        let mut groups = acl
            .iter()
            .filter(|entry| match entry.tag {
                Entry::GROUP_OBJ => self.gids.contains(&owning),
                Entry::GROUP => self.gids.contains(&entry.id),
                _ => false,
            })
            .peekable();
        if groups.peek().is_some() {
            return Some(groups.any(|entry| entry.granted & mask & want == want));
        }
        let other = acl.iter().find(|entry| entry.tag == Entry::OTHER)?;
        Some(other.granted & want == want)
    }

    /// Returns whether the user can read a file, or can change its mode to do so.
    pub(super) fn reads(&self, root: &Root, path: &Path) -> bool {
        let Ok(real) = root.real(path) else { return false };
        let searched =
            real.ancestors().skip(1).all(|above| root.find(above).is_ok_and(|place| self.may(&place, SEARCH)));
        searched
            && root.find(&real).is_ok_and(|place| {
                self.may(&place, READ) || (place.metadata.uid() == self.uid && !is_read_only(&place))
            })
    }

    /// Returns every file and directory that lets the user change or replace the file at `path`.
    pub(super) fn changes(&self, root: &Root, path: &Path) -> Vec<WritePath> {
        let mut ways = Vec::new();
        let real = root.real(path).unwrap_or_else(|_| path.to_owned());
        // For a symbolic link, both the path of the link and the path of its target matter.
        for named in BTreeSet::from([path.to_owned(), real]) {
            self.along(root, &named, &mut ways);
        }
        ways
    }

    fn along(&self, root: &Root, path: &Path, ways: &mut Vec<WritePath>) {
        let mut steps: Vec<_> = path.ancestors().collect();
        steps.reverse();
        let mut add = |way: WritePath| {
            if !ways.contains(&way) {
                ways.push(way);
            }
        };
        for (at, step) in steps.iter().enumerate() {
            let last = at + 1 == steps.len();
            let Ok(place) = (if last { root.find_link(step) } else { root.find(step) }) else { return };
            // A symbolic link has no mode. Its directory, checked before, decides who can replace it.
            if place.metadata.is_symlink() {
                return;
            }
            let owned = self.uid != 0 && place.metadata.uid() == self.uid;
            let way = WritePath { path: (*step).to_owned(), mode: place.metadata.mode(), owned, directory: !last };
            if last {
                if (owned || self.may(&place, WRITE)) && !is_read_only(&place) {
                    add(way);
                }
                return;
            }
            let child = steps.get(at + 1).and_then(|child| root.find_link(child).ok());
            let kept = way.mode & STICKY != 0
                && !owned
                && child.as_ref().is_some_and(|child| child.metadata.uid() != self.uid)
                && self.uid != 0;
            let fixed = child.as_ref().is_some_and(is_immutable);
            if (owned || self.may(&place, WRITE | SEARCH)) && !kept && !fixed && !is_read_only(&place) {
                add(way);
            }
            if !owned && !self.may(&place, SEARCH) {
                return;
            }
        }
    }
}

/// Returns whether the file is on a read-only mount, or immutable.
fn is_read_only(place: &Place) -> bool {
    let read_only = rustix::fs::fstatvfs(place.handle()).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || is_immutable(place)
}

/// Returns whether the immutable attribute is set (`chattr +i`). Not every file system supports it.
fn is_immutable(place: &Place) -> bool {
    let kind = place.metadata.file_type();
    // Opening a device or FIFO can block or have side effects.
    (kind.is_file() || kind.is_dir())
        && File::open(place.by_descriptor())
            .is_ok_and(|file| rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE)))
}

/// An entry of a POSIX access control list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    granted: u32,
    id: u32,
}

impl Entry {
    const USER: u16 = 2;
    const GROUP_OBJ: u16 = 4;
    const GROUP: u16 = 8;
    const MASK: u16 = 16;
    const OTHER: u16 = 32;
}

/// Returns the POSIX access control list of a file, if it has one.
fn acl(place: &Place) -> Option<Vec<Entry>> {
    let mut buffer = [0_u8; 4096];
    let len = rustix::fs::getxattr(place.by_descriptor(), "system.posix_acl_access", &mut buffer[..]).ok()?;
    parse_acl(buffer.get(..len)?)
}

/// Parses the format of `linux/posix_acl_xattr.h`: version 2, then tag, permissions and id of each entry.
fn parse_acl(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    (*version == 2_u32.to_le_bytes()).then(|| {
        entries
            .chunks_exact(8)
            .map(|entry| Entry {
                tag: u16::from_le_bytes([entry[0], entry[1]]),
                granted: u16::from_le_bytes([entry[2], entry[3]]).into(),
                id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    /// A tree owned by the user of the test, an unrelated user, and a member of the owning group.
    fn tree(modes: &[(&str, u32)]) -> (tempfile::TempDir, Root, Credentials, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        for (path, _) in modes {
            let path = directory.path().join(path);
            if path.extension().is_some() { fs::write(path, "").unwrap() } else { fs::create_dir(path).unwrap() }
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (path, mode) in modes.iter().rev() {
            fs::set_permissions(directory.path().join(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let owner = fs::metadata(directory.path()).unwrap();
        let root = Root::at(directory.path()).unwrap();
        let unrelated = Credentials { uid: 61_234, gids: BTreeSet::from([61_234]) };
        let member = Credentials { uid: 61_235, gids: BTreeSet::from([owner.gid()]) };
        (directory, root, unrelated, member)
    }

    fn ways(who: &Credentials, root: &Root, path: &str) -> Vec<String> {
        who.changes(root, Path::new(path)).iter().map(|way| way.path.display().to_string()).collect()
    }

    #[test]
    fn a_file_can_be_replaced_through_every_writable_directory_above() {
        let (_keep, root, unrelated, member) = tree(&[("a", 0o755), ("a/b", 0o775), ("a/b/s.js", 0o644)]);
        assert_eq!(ways(&unrelated, &root, "/a/b/s.js"), [""; 0]);
        assert_eq!(ways(&member, &root, "/a/b/s.js"), ["/a/b"]);
        let (_keep, root, unrelated, _) = tree(&[("a", 0o777), ("a/b", 0o755), ("a/b/s.js", 0o646)]);
        assert_eq!(ways(&unrelated, &root, "/a/b/s.js"), ["/a", "/a/b/s.js"], "a directory further up can be renamed");
    }

    #[test]
    fn files_of_other_users_in_a_sticky_directory_cannot_be_replaced() {
        let (_keep, root, unrelated, _) = tree(&[("a", 0o1777), ("a/s.js", 0o644)]);
        assert_eq!(ways(&unrelated, &root, "/a/s.js"), [""; 0]);
        assert_eq!(ways(&unrelated, &root, "/a/new.js"), ["/a"], "a missing file can be created");
    }

    #[test]
    fn a_file_below_an_inaccessible_directory_cannot_be_changed() {
        let (_keep, root, unrelated, _) = tree(&[("a", 0o700), ("a/b", 0o777), ("a/b/s.js", 0o666)]);
        assert_eq!(ways(&unrelated, &root, "/a/b/s.js"), [""; 0]);
        assert!(!unrelated.reads(&root, Path::new("/a/b/s.js")));
    }

    #[test]
    fn a_symbolic_link_and_its_target_are_both_checked() {
        let (keep, root, unrelated, _) =
            tree(&[("a", 0o777), ("b", 0o755), ("b/s.js", 0o644), ("c", 0o777), ("c/s.js", 0o644)]);
        symlink("/b/s.js", keep.path().join("a/link.js")).unwrap();
        symlink("/c/s.js", keep.path().join("b/link.js")).unwrap();
        assert_eq!(ways(&unrelated, &root, "/a/link.js"), ["/a"]);
        assert_eq!(ways(&unrelated, &root, "/b/link.js"), ["/c"]);
        assert!(unrelated.reads(&root, Path::new("/a/link.js")));
    }

    #[test]
    fn an_owner_can_read_a_file_without_read_permission() {
        let (keep, root, unrelated, _) = tree(&[("k.pem", 0o000)]);
        let owner = Credentials { uid: fs::metadata(keep.path()).unwrap().uid(), gids: BTreeSet::new() };
        assert!(owner.reads(&root, Path::new("/k.pem")) && !unrelated.reads(&root, Path::new("/k.pem")));
    }

    #[test]
    fn an_access_control_list_is_evaluated_as_by_the_kernel() {
        let entry = |tag: u16, granted: u16, id: u32| {
            [&tag.to_le_bytes()[..], &granted.to_le_bytes()[..], &id.to_le_bytes()[..]].concat()
        };
        let bytes = [
            2_u32.to_le_bytes().to_vec(),
            entry(1, 6, u32::MAX),
            entry(Entry::USER, 6, 7),
            entry(Entry::GROUP_OBJ, 4, u32::MAX),
            entry(Entry::GROUP, 2, 9),
            entry(Entry::MASK, 4, u32::MAX),
            entry(Entry::OTHER, 0, u32::MAX),
        ]
        .concat();
        let acl = parse_acl(&bytes).unwrap();
        let may = |uid: u32, gids: &[u32], want| {
            Credentials { uid, gids: gids.iter().copied().collect() }.by_acl(&acl, 5, want).unwrap()
        };
        assert!(may(7, &[], READ) && !may(7, &[], WRITE), "the mask cuts a named user's rights");
        assert!(may(8, &[5], READ) && !may(8, &[9], WRITE) && !may(8, &[9], READ));
        assert!(!may(8, &[], READ));
        assert_eq!(parse_acl(&[1, 0, 0, 0]), None);
    }
}
