//! Lines in a file, for agents that read files (Filebeat, Wazuh, Splunk).

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use super::{Failure, Message, Receiver, config::FileTarget, later};

/// Most lines that are put on the disk at once.
const MOST: usize = 1000;

/// A file that lines are added to.
pub(super) struct File {
    target: FileTarget,
    open: Option<fs::File>,
}

impl File {
    pub(super) fn new(target: FileTarget) -> Self {
        Self { target, open: None }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.rotate(text.len() as u64)?;
        let file = self.file()?;
        let before = file.metadata()?.len();
        // Half a batch must not stay: it comes again as a whole.
        file.write_all(text).and_then(|()| file.sync_data()).inspect_err(|_| drop(file.set_len(before)))
    }

    /// The open file; opened again when somebody has moved it away.
    fn file(&mut self) -> io::Result<&mut fs::File> {
        if let Some(file) = &self.open {
            let here = fs::metadata(&self.target.path);
            let same = here.is_ok_and(|here| file.metadata().is_ok_and(|open| open.ino() == here.ino()));
            if !same {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open = Some(open(&self.target.path)?);
        }
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Moves the file away when it would grow too large.
    fn rotate(&mut self, more: u64) -> io::Result<()> {
        let length = match fs::symlink_metadata(&self.target.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            meta => meta?.len(),
        };
        if length == 0 || length + more <= self.target.max_bytes {
            return Ok(());
        }
        self.open = None;
        let numbered = |number: u32| {
            let mut name = OsString::from(&self.target.path);
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.target.keep).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.target.keep > 0 {
            fs::rename(&self.target.path, numbered(1))
        } else {
            fs::remove_file(&self.target.path)
        }
    }
}

/// A line that a crash cut short must not swallow the next one.
fn open(path: &std::path::Path) -> io::Result<fs::File> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

impl Receiver for File {
    fn most(&self) -> usize {
        MOST
    }

    fn deliver(&mut self, batch: &[Message]) -> Result<(), Failure> {
        let text: Vec<u8> =
            batch.iter().flat_map(|message| [message.text.as_slice(), b"\n"]).collect::<Vec<_>>().concat();
        self.write(&text).map_err(|error| {
            self.open = None;
            later(0, &self.target.path.display().to_string(), &error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Value;

    use super::*;

    fn message(text: &str) -> Message {
        Message { event: Value::Null, text: text.as_bytes().to_vec() }
    }

    #[test]
    fn lines_are_added_and_a_full_file_is_moved_away_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        let mut file = File::new(FileTarget { path: path.clone(), max_bytes: 10, keep: 2 });
        for text in ["one", "two", "three", "four", "five", "six"] {
            file.deliver(&[message(text)]).unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        // The oldest two are gone: two moved files are kept.
        assert_eq!([read("out.json"), read("out.json.1"), read("out.json.2")], ["six\n", "four\nfive\n", "three\n"]);
        for name in ["out.json", "out.json.1"] {
            assert_eq!(fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_again_and_a_torn_line_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        fs::write(&path, "half").unwrap();
        let mut file = File::new(FileTarget { path: path.clone(), max_bytes: 1000, keep: 2 });
        file.deliver(&[message("one")]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\none\n");
        fs::rename(&path, directory.path().join("moved")).unwrap();
        file.deliver(&[message("two")]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_directory_that_is_not_there_may_come() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/out.json");
        let mut file = File::new(FileTarget { path: path.clone(), max_bytes: 1000, keep: 2 });
        assert!(matches!(file.deliver(&[message("one")]), Err(Failure::Later { taken: 0, .. })));
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.deliver(&[message("one")]).unwrap();
    }
}
