//! Reading files of somebody who is not trusted, inside the root directory that he sees.
//!
//! Names are resolved by the kernel with this directory as `/` (openat2): a symbolic link in a container leads to the
//! container's file, never to the host's. What is no regular file is never opened: a FIFO would block, and opening a
//! device can do things.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A directory that counts as `/`.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    directory: OwnedFd,
}

/// A place inside a root, found but not opened.
#[derive(Debug)]
pub struct Place {
    handle: File,
    /// What is there.
    pub metadata: Metadata,
}

impl Root {
    /// The host's own root.
    pub fn host() -> io::Result<Self> {
        Self::at(Path::new("/"))
    }

    /// The root that a process sees; needs the right to trace it.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(Path::new("/proc").join(pid.to_string()).join("root"))
    }

    /// This directory.
    pub fn at(path: &Path) -> io::Result<Self> {
        Self::open(fs::canonicalize(path)?)
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        let directory = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path, directory })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds a path, following symbolic links.
    pub fn find(&self, path: &Path) -> io::Result<Place> {
        self.place(path, OFlags::empty())
    }

    /// Finds a path, not following a symbolic link at its end.
    pub fn find_link(&self, path: &Path) -> io::Result<Place> {
        self.place(path, OFlags::NOFOLLOW)
    }

    fn place(&self, path: &Path, flags: OFlags) -> io::Result<Place> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let handle = File::from(rustix::fs::openat2(&self.directory, inside, flags, Mode::empty(), resolve)?);
        let metadata = handle.metadata()?;
        Ok(Place { handle, metadata })
    }

    /// Whether there is something, at the end of all links.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    /// The place at the end of all links, as it is named inside the root.
    pub fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let named = self.find(path)?.link()?;
        // What a process in another mount namespace sees is named as it is named there.
        Ok(named.strip_prefix(&self.path).map(|inside| Path::new("/").join(inside)).unwrap_or(named))
    }

    /// The content of a regular file of at most `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.find(path)?.read(limit)
    }

    /// The text of a regular file of at most `limit` bytes; what is no UTF-8 is replaced.
    pub fn text(&self, path: &Path, limit: u64) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path, limit)?).into_owned())
    }

    /// The names in a directory, sorted; at most `most` of them.
    pub fn list(&self, path: &Path, most: usize) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.find(path)?.by_descriptor())?;
        let mut names: Vec<_> =
            entries.flatten().take(most).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }
}

impl Place {
    /// Opens it for reading; a directory, a device, a socket or a FIFO is refused.
    pub fn open(&self) -> io::Result<File> {
        if !self.metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        File::open(self.by_descriptor())
    }

    /// Its content, when that has at most `limit` bytes.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // The size may lie or grow, so it is the bytes that are counted.
        self.open()?.take(limit + 1).read_to_end(&mut content)?;
        if u64::try_from(content.len()).unwrap_or(u64::MAX) > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
        }
        Ok(content)
    }

    /// The descriptor, for what can be asked of a descriptor only.
    #[must_use]
    pub fn handle(&self) -> &File {
        &self.handle
    }

    /// A name that leads to just this place, whatever becomes of its path.
    #[must_use]
    pub fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }

    fn link(&self) -> io::Result<PathBuf> {
        fs::read_link(self.by_descriptor())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing::root;

    #[test]
    fn a_link_never_leads_out_of_the_root() {
        let (directory, root) = root(&[]);
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", directory.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", directory.path().join("relative")).unwrap();
        symlink("/etc/hostname", directory.path().join("nowhere")).unwrap();
        for link in ["/absolute", "/relative"] {
            assert_eq!(root.text(Path::new(link), 100).unwrap(), "inside", "{link}");
            assert_eq!(root.real(Path::new(link)).unwrap(), Path::new("/etc/passwd"));
        }
        assert!(root.read(Path::new("/nowhere"), 100).is_err());
        assert!(root.find_link(Path::new("/nowhere")).unwrap().metadata.is_symlink());
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let (directory, root) = root(&[]);
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), Mode::RUSR).unwrap();
        for path in ["/fifo", "/"] {
            assert_eq!(root.read(Path::new(path), 100).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert!(Root::host().unwrap().read(Path::new("/dev/zero"), 100).is_err());
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_whole() {
        let (directory, root) = root(&[]);
        fs::write(directory.path().join("file"), "12345").unwrap();
        assert_eq!(root.read(Path::new("/file"), 5).unwrap(), b"12345");
        assert_eq!(root.read(Path::new("/file"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
