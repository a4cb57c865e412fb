//! Closed segments are compressed in the background.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use ring::digest::{Context, Digest, SHA256};

use super::{directory, segment};
use crate::durable;

/// A good ratio for little memory: 120 bytes of an event, with a window of 2 MiB.
const LEVEL: i32 = 3;
/// Read at once, in bytes.
const BLOCK: usize = 64 << 10;

/// The thread that compresses.
#[derive(Debug)]
pub(super) struct Compressor {
    orders: Option<Sender<u64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Starts the compressor on a directory. Failures are passed to `trouble`.
    pub(super) fn start(directory: &Path, trouble: impl Fn(String) + Send + 'static) -> io::Result<Self> {
        let (orders, receiver) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, directory) = (Arc::clone(&stop), directory.to_owned());
        let work = move || run(&directory, &receiver, &stopped, &trouble);
        let thread = thread::Builder::new().name("compress".to_owned()).spawn(work)?;
        Ok(Self { orders: Some(orders), stop, thread: Some(thread) })
    }

    /// Has a closed segment compressed.
    pub(super) fn order(&self, number: u64) {
        if let Some(orders) = &self.orders {
            // Without the thread segments stay plain, which harms nothing but the disk.
            let _ = orders.send(number);
        }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(directory: &Path, orders: &Receiver<u64>, stop: &AtomicBool, trouble: &impl Fn(String)) {
    // Guarding comes first. On Linux this is about the calling thread alone.
    let _ = rustix::process::setpriority_process(None, 15);
    while let Ok(number) = orders.recv() {
        match compress(directory, number, stop) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => trouble(format!("segment {number} cannot be compressed: {error}")),
            Ok(()) => {}
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Replaces a plain segment by a compressed one that was read back and found the same.
fn compress(directory: &Path, number: u64, stop: &AtomicBool) -> io::Result<()> {
    let (from, to) = (segment::plain(directory, number), segment::compressed(directory, number));
    let temporary = PathBuf::from(format!("{}.tmp", to.display()));
    let done = write(&from, &temporary, stop);
    if !matches!(done, Ok(true)) {
        let _ = fs::remove_file(&temporary);
        return done.map(drop);
    }
    fs::rename(&temporary, &to)?;
    directory::sync(directory).map_err(io::Error::other)?;
    match fs::remove_file(&from) {
        // It was removed meanwhile, and must not come back.
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(&to)?,
        removed => removed?,
    }
    directory::sync(directory).map_err(io::Error::other)
}

/// False after a stop request.
fn write(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<bool> {
    let source = durable::open(from)?;
    let time = source.metadata()?.modified()?;
    let mut source = segment::bounded(source);
    let target = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(to)?;
    let mut encoder = zstd::Encoder::new(target, LEVEL)?;
    encoder.include_checksum(true)?;
    let Some(digest) = each_block(&mut source, stop, |block| encoder.write_all(block))? else { return Ok(false) };
    let target = encoder.finish()?;
    target.set_modified(time)?;
    target.sync_all()?;
    let Some(back) = each_block(&mut zstd::Decoder::new(File::open(to)?)?, stop, |_| Ok(()))? else {
        return Ok(false);
    };
    if back.as_ref() != digest.as_ref() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what was written reads back differently"));
    }
    Ok(true)
}

/// SHA-256 of everything that was read; `None` after a stop request.
fn each_block(
    source: &mut dyn Read,
    stop: &AtomicBool,
    mut with: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Option<Digest>> {
    let (mut block, mut context) = (vec![0; BLOCK], Context::new(&SHA256));
    loop {
        let length = source.read(&mut block)?;
        let read = block.get(..length).unwrap_or_default();
        if read.is_empty() {
            return Ok(Some(context.finish()));
        }
        context.update(read);
        with(read)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_segment_is_the_same_after_and_keeps_its_mode_and_time() {
        let directory = tempfile::tempdir().unwrap();
        let plain = segment::plain(directory.path(), 1);
        fs::write(&plain, "line\n".repeat(100_000)).unwrap();
        let time = fs::metadata(&plain).unwrap().modified().unwrap();
        compress(directory.path(), 1, &AtomicBool::new(false)).unwrap();
        let meta = fs::metadata(segment::compressed(directory.path(), 1)).unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.modified().unwrap()), (0o600, time));
        assert!(!plain.exists() && meta.len() < 1000);
        let mut text = String::new();
        segment::list(directory.path()).unwrap()[0].open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\n".repeat(100_000));
    }

    #[test]
    fn one_that_was_told_to_stop_leaves_the_plain_segment() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(segment::plain(directory.path(), 1), "line\n".repeat(100_000)).unwrap();
        compress(directory.path(), 1, &AtomicBool::new(true)).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
