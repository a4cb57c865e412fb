//! What keeps a file from being restored, in words that end with the command that fixes it.

use std::{
    fmt, fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{IFlags, Mode, OFlags, ResolveFlags, ioctl_getflags, ioctl_setflags, openat2, statvfs},
    io::Errno,
};

use super::copy::{Copy, MAX_BYTES};

/// Inode flags under which a file cannot be replaced, and a directory cannot get another entry.
const LOCKS: [(IFlags, &str, &str); 2] =
    [(IFlags::IMMUTABLE, "immutable", "-i"), (IFlags::APPEND, "append-only", "-a")];

/// Why something about a file fails, and how that is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The cause.
    pub why: String,
    /// The command, or what to do.
    pub fix: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}; fix: {}", self.why, self.fix)
    }
}

impl Obstacle {
    pub(super) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }

    /// Why the baseline cannot be put in its place.
    pub(super) fn of_restoring(place: &Path, baseline: &Copy, error: &io::Error) -> Self {
        let parent = place.parent().unwrap_or(place);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => {
                let locked = locked(place);
                if locked.is_empty() {
                    return Self::other(place, error);
                }
                let why: Vec<_> =
                    locked.iter().map(|(path, flags)| format!("{} is {}", path.display(), words(*flags))).collect();
                let commands = LOCKS.iter().filter_map(|(flag, _, option)| {
                    let of: Vec<_> = locked.iter().filter(|(_, flags)| flags.contains(*flag)).collect();
                    let of: Vec<_> = of.iter().map(|(path, _)| quoted(path)).collect();
                    (!of.is_empty()).then(|| format!("`chattr {option} {}`", of.join(" ")))
                });
                Self::new(why.join(", "), commands.collect::<Vec<_>>().join(", "))
            }
            Some(Errno::ROFS) => {
                let mount = Mount::of(parent);
                let how = if mount.only_here { "remount,bind,rw" } else { "remount,rw" };
                let why = format!("the file system on {} is mounted read-only", mount.point.display());
                Self::new(why, format!("`mount -o {how} {}`", quoted(&mount.point)))
            }
            Some(Errno::NOSPC) => Self::full(parent),
            Some(Errno::DQUOT) => {
                let mount = Mount::of(parent).point;
                let uid = if let Copy::File(file) = baseline { file.uid } else { 0 };
                Self::new(
                    format!("the disk quota of uid {uid} on {} is used up", mount.display()),
                    format!(
                        "remove files of uid {uid} (`find {} -xdev -uid {uid} -size +1M`), or raise the quota \
                         (`edquota -u \"$(id -nu {uid})\"`)",
                        quoted(&mount)
                    ),
                )
            }
            Some(Errno::BUSY) => {
                Self::new(format!("something is mounted on {}", place.display()), format!("`umount {}`", quoted(place)))
            }
            Some(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::INVAL) if place.is_dir() => Self::new(
                format!("{} is a directory that cannot be moved aside", place.display()),
                format!("`mv {0} {0}.aside`", quoted(place)),
            ),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Self::no_way(place, baseline),
            _ => Self::other(place, error),
        }
    }

    /// Why no baseline can be taken of a file.
    pub(super) fn of_copying(place: &Path, rule: &str, error: &io::Error) -> Self {
        let path = quoted(place);
        let Ok(meta) = fs::symlink_metadata(place) else { return Self::other(place, error) };
        if meta.is_file() && meta.len() > MAX_BYTES {
            return Self::new(
                format!("it is larger than {} MiB", MAX_BYTES >> 20),
                format!("make it smaller, or take `heal = true` out of rule {rule}"),
            );
        }
        if !meta.is_file() && !meta.is_symlink() {
            let why = "it is no regular file";
            return Self::new(
                why,
                format!("move what is there aside, `mv {path} {path}.aside`, then `flowwarden restore {path}`"),
            );
        }
        Self::new(error.to_string(), format!("`ls -l {path}` shows the file: root has to be able to read it"))
    }

    /// Why the guard's own state fails.
    pub(super) fn of_state(directory: &Path, error: &dyn fmt::Display, source: Option<&io::Error>) -> Self {
        match source.and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::full(directory),
            _ => Self::new(error.to_string(), format!("`ls -ld {}` shows the directory", quoted(directory))),
        }
    }

    fn full(directory: &Path) -> Self {
        let mount = Mount::of(directory).point;
        let inodes = statvfs(&mount).is_ok_and(|stat| stat.f_files > 0 && stat.f_ffree == 0);
        let (what, option) = if inodes { ("has no inodes left", "-i ") } else { ("is full", "") };
        Self::new(
            format!("the file system on {} {what}", mount.display()),
            format!("remove files below {} (`df {option}{}` shows what is free)", mount.display(), quoted(&mount)),
        )
    }

    /// The directory cannot be reached without following links.
    fn no_way(place: &Path, baseline: &Copy) -> Self {
        let parent = place.parent().unwrap_or(place);
        let mut steps: Vec<_> = parent.ancestors().collect();
        steps.reverse();
        let owner = if let Copy::File(file) = baseline { (file.uid, file.gid) } else { (0, 0) };
        let make = format!("`mkdir -p {0} && chown {1}:{2} {0}`", quoted(parent), owner.0, owner.1);
        for step in steps {
            let shown = step.display();
            match fs::symlink_metadata(step) {
                Ok(meta) if meta.is_dir() => {}
                Ok(meta) => {
                    let what = if meta.is_symlink() { "a symbolic link" } else { "no directory" };
                    let why = format!("{shown} on the way to it is {what} now");
                    return Self::new(
                        why,
                        format!("`mv {0} {0}.aside`, then put the directory back, or {make}", quoted(step)),
                    );
                }
                Err(_) => {
                    return Self::new(format!("the directory {shown} is gone"), format!("put it back, or {make}"));
                }
            }
        }
        Self::new("its directory was gone for a moment", format!("`flowwarden restore {}`", quoted(place)))
    }

    fn other(place: &Path, error: &io::Error) -> Self {
        Self::new(error.to_string(), format!("`flowwarden restore {}` tries it again", quoted(place)))
    }
}

/// Takes flags off a file and its directory that keep the file from being replaced. Answers with what was taken off.
pub(super) fn unlock(place: &Path) -> Vec<String> {
    let mut done = Vec::new();
    for (path, flags) in locked(place) {
        let mask = LOCKS.iter().fold(IFlags::empty(), |mask, (flag, ..)| mask | *flag);
        let cleared = open(&path).and_then(|file| {
            let now = ioctl_getflags(&file)?;
            Ok(ioctl_setflags(&file, now & !mask)?)
        });
        if cleared.is_ok() {
            done.push(format!("{} was {}", path.display(), words(flags)));
        }
    }
    done
}

/// The file and its directory, as far as such flags are on them.
fn locked(place: &Path) -> Vec<(PathBuf, IFlags)> {
    let of = |path: &Path| {
        let flags = ioctl_getflags(open(path).ok()?).ok()?;
        LOCKS.iter().any(|(flag, ..)| flags.contains(*flag)).then(|| (path.to_owned(), flags))
    };
    [place.parent(), Some(place)].into_iter().flatten().filter_map(of).collect()
}

fn words(flags: IFlags) -> String {
    let words = LOCKS.iter().filter(|(flag, ..)| flags.contains(*flag)).map(|(_, word, _)| *word);
    words.collect::<Vec<_>>().join(" and ")
}

/// Opens a file or a directory, and nothing that could do something when it is opened.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() && !meta.is_dir() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)?)
}

/// A path as an argument of a command.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+,:@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Where a path's file system is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    /// This mount of it is read-only, and the file system itself is not.
    only_here: bool,
}

impl Mount {
    fn of(path: &Path) -> Self {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::among(&text, path)
    }

    /// The last one counts among those at the same place: it hides the others.
    fn among(mountinfo: &[u8], path: &Path) -> Self {
        let mounts = mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
            let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
            let point = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.get(4)?)));
            let read_only = |options: &[u8]| options.split(|&byte| byte == b',').any(|option| option == b"ro");
            let only_here = read_only(fields.get(5)?) && !read_only(fields.last()?);
            path.starts_with(&point).then_some(Self { point, only_here })
        });
        let nearest = mounts.max_by_key(|mount| mount.point.components().count());
        nearest.unwrap_or_else(|| Self { point: PathBuf::from("/"), only_here: false })
    }
}

/// A path of `mountinfo`, in which blanks and backslashes are octal numbers.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(number) = number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(number);
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Copy {
        Copy::Link(b"x".to_vec())
    }

    fn because(place: &Path, errno: Errno) -> Obstacle {
        Obstacle::of_restoring(place, &baseline(), &errno.into())
    }

    #[test]
    fn each_cause_names_the_command_that_fixes_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("settings.js");
        fs::write(&place, "x").unwrap();
        for (errno, why, fix) in [
            (Errno::ROFS, "is mounted read-only", "`mount -o remount"),
            (Errno::NOSPC, "is full", "remove files below"),
            (Errno::DQUOT, "the disk quota of uid 0", "edquota"),
            (Errno::BUSY, "something is mounted on", "`umount "),
            (Errno::IO, "Input/output error", "`flowwarden restore "),
            (Errno::PERM, "Operation not permitted", "`flowwarden restore "),
        ] {
            let found = because(&place, errno);
            assert!(found.why.contains(why) && found.fix.contains(fix), "{errno:?}: {found}");
        }
    }

    #[test]
    fn a_directory_that_is_gone_or_a_link_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let own = fs::canonicalize(directory.path()).unwrap();
        let gone = because(&own.join("ud/settings.js"), Errno::NOENT);
        assert!(gone.why.ends_with("/ud is gone") && gone.fix.contains("mkdir -p"), "{gone}");
        std::os::unix::fs::symlink("/tmp", own.join("ud")).unwrap();
        let link = because(&own.join("ud/settings.js"), Errno::LOOP);
        assert!(link.why.contains("/ud on the way to it is a symbolic link"), "{link}");
    }

    #[test]
    fn the_nearest_mount_counts_and_the_last_at_its_place() {
        let table =
            b"1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n2 1 8:2 / /home\\040x ro,nosuid - ext4 /dev/sdb ro\n\
            3 1 8:2 / /home\\040x ro - ext4 /dev/sdb rw,errors=continue\n";
        let found = Mount::among(table, Path::new("/home x/ud"));
        assert_eq!(found, Mount { point: "/home x".into(), only_here: true });
        assert_eq!(Mount::among(table, Path::new("/home")).point, Path::new("/"));
    }

    #[test]
    fn a_path_is_one_argument() {
        assert_eq!(quoted(Path::new("/a/b-c.js")), "/a/b-c.js");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
