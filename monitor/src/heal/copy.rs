//! A file as it is at one moment: content, mode, owner and extended attributes, or where a symbolic link points.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Largest file of which a copy is kept.
pub const MAX_BYTES: u64 = 8 << 20;
/// Most bytes of one extended attribute, `XATTR_SIZE_MAX`, and of the list of their names, `XATTR_LIST_MAX`.
const MAX_ATTRIBUTE: usize = 65_536;

/// What is found in a file's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    /// A regular file.
    File(FileCopy),
    /// A symbolic link, and where it points.
    Link(Vec<u8>),
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCopy {
    /// Its content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes by name.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Copy {
    /// Takes a copy; `None` when there is nothing. Does not follow a link.
    ///
    /// An error for a file that is too large, and for what is no file.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if meta.is_symlink() {
            return Ok(Some(Self::Link(fs::read_link(path)?.into_os_string().into_encoded_bytes())));
        }
        // Whatever has come there meanwhile: a pipe is not waited for, a link not followed.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        FileCopy::of(&mut file).map(|copy| Some(Self::File(copy)))
    }

    /// SHA-256 of the content or the link's target, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        let bytes = match self {
            Self::File(file) => &file.content,
            Self::Link(target) => target,
        };
        HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
    }

    /// As bytes to be kept: a line of JSON, and the content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (head, content) = match self {
            Self::Link(target) => (json!({ "kind": "link" }), target),
            Self::File(file) => {
                let attributes: Vec<_> = file
                    .attributes
                    .iter()
                    .map(|(name, value)| json!([BASE64.encode(name), BASE64.encode(value)]))
                    .collect();
                let (mode, uid, gid) = (file.mode, file.uid, file.gid);
                let head = json!({ "kind": "file", "mode": mode, "uid": uid, "gid": gid, "attributes": attributes });
                (head, &file.content)
            }
        };
        let mut bytes = head.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(content);
        bytes
    }

    /// From what [`Copy::to_bytes`] gave; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let at = bytes.iter().position(|&byte| byte == b'\n')?;
        let (head, content) = (serde_json::from_slice::<Value>(&bytes[..at]).ok()?, bytes[at + 1..].to_vec());
        if head["kind"] == "link" {
            return Some(Self::Link(content));
        }
        let number = |key: &str| u32::try_from(head[key].as_u64()?).ok();
        let text = |value: &Value| BASE64.decode(value.as_str()?.as_bytes()).ok();
        let attributes = head["attributes"].as_array()?.iter().map(|pair| Some((text(&pair[0])?, text(&pair[1])?)));
        Some(Self::File(FileCopy {
            content,
            mode: number("mode")?,
            uid: number("uid")?,
            gid: number("gid")?,
            attributes: attributes.collect::<Option<_>>()?,
        }))
    }
}

impl FileCopy {
    fn of(file: &mut File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut content = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("it is larger than {} MiB", MAX_BYTES >> 20)));
        }
        let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        Ok(Self { content, mode, uid, gid, attributes: attributes(file)? })
    }

    /// Gives mode, owner and attributes to another file.
    pub fn dress(&self, file: &File) -> io::Result<()> {
        use rustix::fs::{Gid, Mode, Uid, XattrFlags, fchmod, fchown, fsetxattr};
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        for (name, value) in &self.attributes {
            fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty())?;
        }
        // Last: a change of the owner takes setuid bits away.
        Ok(fchmod(file, Mode::from_raw_mode(self.mode))?)
    }
}

/// All extended attributes; none where the file system has none.
fn attributes(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; MAX_ATTRIBUTE];
    let len = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    let mut value = vec![0; MAX_ATTRIBUTE];
    for name in names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value[..]) {
            Ok(len) => found.push((name.to_vec(), value[..len].to_vec())),
            // It went away meanwhile.
            Err(rustix::io::Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_is_of_all_that_makes_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.js");
        assert_eq!(Copy::take(&path).unwrap(), None);
        fs::write(&path, "a").unwrap();
        let first = Copy::take(&path).unwrap().unwrap();
        assert_eq!(Copy::take(&path).unwrap().unwrap(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let second = Copy::take(&path).unwrap().unwrap();
        assert_ne!(second, first);
        rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let third = Copy::take(&path).unwrap().unwrap();
        assert_ne!(third, second);
        assert_eq!(Copy::from_bytes(&third.to_bytes()), Some(third));
    }

    #[test]
    fn a_link_is_not_followed_and_a_pipe_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let (link, pipe) = (directory.path().join("link"), directory.path().join("pipe"));
        symlink("/etc/hostname", &link).unwrap();
        assert_eq!(Copy::take(&link).unwrap(), Some(Copy::Link(b"/etc/hostname".to_vec())));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(Copy::take(&pipe).unwrap_err().to_string().contains("no regular file"));
        assert!(Copy::take(directory.path()).unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(Copy::take(&path).unwrap_err().to_string().contains("larger than 8 MiB"));
    }

    proptest! {
        #[test]
        fn whatever_is_read_as_a_copy_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Copy::from_bytes(&bytes);
        }

        #[test]
        fn bytes_come_back(content in prop::collection::vec(any::<u8>(), 0..200), mode in 0_u32..0o10000) {
            let copy = Copy::File(FileCopy { content, mode, uid: 1, gid: 2, attributes: vec![(b"user.a".to_vec(), b"\xff\n".to_vec())] });
            prop_assert_eq!(Copy::from_bytes(&copy.to_bytes()), Some(copy));
        }
    }
}
