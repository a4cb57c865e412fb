//! Restores a copy in a directory that an attacker may write to.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, fstat, fsync, openat, openat2, renameat, renameat_with, statat,
    symlinkat, unlinkat,
};

use super::copy::{Copy, FileCopy};

/// Attempts while another process changes the same names.
const TRIES: usize = 5;

/// Restores a copy. Returns the new path of what had the file's name and cannot be replaced by a file, such as a directory.
///
/// The directory is opened without following links. The file is written under a random name and renamed over what has its
/// name; then the result is verified.
pub(super) fn restore(path: &Path, copy: &Copy) -> io::Result<Option<PathBuf>> {
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(|| io::Error::other("the path has no name"))?;
    let directory = openat2(
        rustix::fs::CWD,
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    let name = CString::new(name.as_bytes())?;
    let mut aside = None;
    for _ in 0..TRIES {
        let temporary = Temporary { directory: &directory, name: random_name()? };
        let placed = match copy {
            Copy::Link(target) => {
                symlinkat(OsStr::from_bytes(target), &directory, &temporary.name)?;
                None
            }
            Copy::File(file) => Some(write(&temporary, file)?),
        };
        match renameat(&directory, &temporary.name, &directory, &name) {
            Ok(()) => {}
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {
                let moved = match renameat_with(&directory, &temporary.name, &directory, &name, RenameFlags::EXCHANGE) {
                    Ok(()) => temporary.name.clone(),
                    // Not every file system can.
                    Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                        let moved = move_aside(&directory, &name)?;
                        // Another one may be there by now: that is the next try.
                        let _ = renameat(&directory, &temporary.name, &directory, &name);
                        moved
                    }
                    Err(errno) => return Err(errno.into()),
                };
                aside = Some(parent.join(OsStr::from_bytes(moved.as_bytes())));
            }
            Err(errno) => {
                // A mount point cannot be replaced, but what is mounted there can be written.
                if let (rustix::io::Errno::BUSY, Copy::File(file)) = (errno, copy) {
                    return overwrite(&directory, &name, file).map(|()| None);
                }
                return Err(errno.into());
            }
        }
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let there = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map(identity);
        let is_ours = match &placed {
            Some(file) => there.ok() == Some(identity(fstat(file)?)),
            None => rustix::fs::readlinkat(&directory, &name, Vec::new())
                .is_ok_and(|now| matches!(copy, Copy::Link(target) if now.as_bytes() == target.as_slice())),
        };
        if is_ours {
            fsync(&directory)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other("another process keeps putting something else in its place"))
}

/// A temporary name in a directory, removed on drop.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: CString,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // It is gone where it was moved to its place. A directory that it was exchanged for stays.
        let _ = unlinkat(self.directory, &self.name, AtFlags::empty());
    }
}

/// Gives a directory that has the file's name another one.
fn move_aside(directory: &OwnedFd, name: &CString) -> io::Result<CString> {
    let aside = random_name()?;
    // Nothing has this name.
    renameat(directory, name, directory, &aside)?;
    Ok(aside)
}

fn random_name() -> io::Result<CString> {
    let mut bytes = [0; 12];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(CString::new(format!(".flowwarden-{}", data_encoding::HEXLOWER.encode(&bytes)))?)
}

/// Makes a file with the copy's content; it is closed to others until it is complete.
fn write(temporary: &Temporary<'_>, copy: &FileCopy) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(temporary.directory, &temporary.name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&copy.content)?;
    copy.dress(&file)?;
    file.sync_all()?;
    Ok(file)
}

fn overwrite(directory: &OwnedFd, name: &CString, copy: &FileCopy) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::empty())?);
    file.write_all(&copy.content)?;
    file.set_len(copy.content.len() as u64)?;
    copy.dress(&file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf, Copy) {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        fs::write(&path, "good").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let copy = Copy::take(&path).unwrap().unwrap();
        (directory, path, copy)
    }

    /// Nothing else may be in the directory afterwards but the file, and `more`.
    fn check(path: &Path, copy: &Copy, more: usize) {
        assert_eq!(Copy::take(path).unwrap().as_ref(), Some(copy));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1 + more);
    }

    #[test]
    fn whatever_took_the_place_of_the_file_it_comes_back() {
        let (_directory, path, copy) = place();
        let tampers: [&dyn Fn(); 4] = [
            &|| fs::write(&path, "tampered").unwrap(),
            &|| fs::remove_file(&path).unwrap(),
            &|| {
                fs::remove_file(&path).unwrap();
                symlink("/etc/hostname", &path).unwrap();
            },
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap(),
        ];
        for tamper in tampers {
            tamper();
            assert_eq!(restore(&path, &copy).unwrap(), None);
            check(&path, &copy, 0);
        }
    }

    #[test]
    fn a_directory_in_its_place_is_put_aside() {
        let (_directory, path, copy) = place();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "tampered").unwrap();
        let aside = restore(&path, &copy).unwrap().unwrap();
        assert_eq!(fs::read_to_string(aside.join("x")).unwrap(), "tampered");
        check(&path, &copy, 1);
    }

    #[test]
    fn another_name_of_the_file_is_not_written_through() {
        let (_directory, path, copy) = place();
        let alias = path.with_file_name("alias.js");
        fs::hard_link(&path, &alias).unwrap();
        fs::write(&alias, "tampered").unwrap();
        restore(&path, &copy).unwrap();
        check(&path, &copy, 1);
        assert_eq!(fs::read_to_string(&alias).unwrap(), "tampered");
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let (directory, path, copy) = place();
        let other = tempfile::tempdir().unwrap();
        let link = directory.path().join("way");
        symlink(other.path(), &link).unwrap();
        assert!(restore(&link.join("settings.js"), &copy).is_err());
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
        check(&path, &copy, 1);
    }

    #[test]
    fn a_link_comes_back_as_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(directory.path()).unwrap().join("settings.js");
        symlink("real.js", &path).unwrap();
        let copy = Copy::take(&path).unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "tampered").unwrap();
        restore(&path, &copy).unwrap();
        check(&path, &copy, 0);
    }
}
