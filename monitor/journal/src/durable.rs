//! Files that a crash leaves as they were or as they were to be, in directories that only the guard's user can reach.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// How long a guard that is about to end may still hold what is one guard's.
pub const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What others must not do to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// Write to it.
    Write,
    /// Enter it.
    Enter,
}

/// Why a directory is not safe, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsafe {
    pub(crate) why: String,
    pub(crate) fix: String,
}

/// Makes a directory that is closed to others, when it is not there.
pub fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a directory belongs to this process' user, and others cannot do what is forbidden.
pub(crate) fn check(path: &Path, meta: &Metadata, forbidden: Forbidden) -> Result<(), Unsafe> {
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own {
        let why = format!("the directory belongs to uid {}", meta.uid());
        return Err(Unsafe { why, fix: format!("chown {own} {}", path.display()) });
    }
    let (bits, why) = match forbidden {
        Forbidden::Write => (0o022, "group or others can write to the directory"),
        Forbidden::Enter => (0o077, "others can enter the directory"),
    };
    if meta.mode() & bits != 0 {
        return Err(Unsafe { why: why.to_owned(), fix: format!("chmod 0700 {}", path.display()) });
    }
    Ok(())
}

/// Opens a regular file for reading. Does not block on other kinds of files.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no regular file"));
    }
    Ok(file)
}

/// Reads a file of `most` bytes at most.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than the {most} bytes that it can have"),
        ));
    }
    Ok(bytes)
}

/// Locks a file for as long as it is open, and waits for that. `WouldBlock` when somebody else keeps it.
pub(crate) fn lock(file: &File, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < patience => thread::sleep(PAUSE),
            locked => return Ok(locked?),
        }
    }
}

/// Replaces a file as a whole: after a crash it is the old or the new one. Its mode is 0600.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    // What a crash has left there, whatever it is.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a"), directory.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, directory.path().join("a.tmp")).unwrap();
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&other).unwrap()), (b"2".to_vec(), b"other".to_vec()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_others_can_do_is_told_with_its_mend() {
        let directory = tempfile::tempdir().unwrap();
        let fix_for = |mode, forbidden| {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            check(directory.path(), &fs::metadata(directory.path()).unwrap(), forbidden).err().map(|found| found.fix)
        };
        let fix = Some(format!("chmod 0700 {}", directory.path().display()));
        assert_eq!((fix_for(0o700, Forbidden::Enter), fix_for(0o755, Forbidden::Write)), (None, None));
        assert_eq!((fix_for(0o755, Forbidden::Enter), fix_for(0o720, Forbidden::Write)), (fix.clone(), fix));
    }
}
