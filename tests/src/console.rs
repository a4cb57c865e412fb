//! What a process prints, line by line, while it runs.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read, Write},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::wait;

/// Somewhere else that the lines go to.
#[derive(Default)]
struct Copy(Option<Box<dyn Write + Send>>);

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Copy").field(&self.0.is_some()).finish()
    }
}

/// The lines of a process's standard output and error, in order of arrival. Clones see the same lines.
#[derive(Clone, Debug, Default)]
pub struct Console {
    lines: Arc<Mutex<Vec<String>>>,
    /// What gets the same.
    copy: Arc<Mutex<Copy>>,
}

impl Console {
    /// Follows what `child` prints, after what other children have printed; both streams must be piped.
    pub fn follow(&self, child: &mut Child) {
        if let Some(stream) = child.stdout.take() {
            self.read(stream);
        }
        if let Some(stream) = child.stderr.take() {
            self.read(stream);
        }
    }

    /// Reads to the end of the stream, which comes with the end of the last process that holds it.
    fn read(&self, stream: impl Read + Send + 'static) {
        let console = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if let Some(copy) = &mut console.copy.lock().unwrap_or_else(PoisonError::into_inner).0 {
                    // A test that misses it says so.
                    let _ = copy.write_all(&[&line[..], b"\n"].concat());
                }
                console.lines().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }

    /// Writes what comes from now on to something else too, as systemd does with `StandardOutput=`: a file that is opened to
    /// be appended to, a stream of journald's.
    pub fn copy_to(&self, to: impl Write + Send + 'static) {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Box::new(to));
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines there are: a mark for [`Self::since`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lines().len()
    }

    /// The lines after `mark`.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<String> {
        self.lines().get(mark..).unwrap_or_default().to_vec()
    }

    /// The first line after `mark` that `wanted` picks.
    pub fn find(&self, mark: usize, wanted: impl Fn(&str) -> bool) -> Option<String> {
        self.since(mark).into_iter().find(|line| wanted(line))
    }

    /// Waits for a line after `mark` that contains `text`.
    pub fn wait_for(&self, mark: usize, text: &str, timeout: Duration) -> Result<String> {
        wait::until(&format!("a line with {text:?}"), timeout, || Ok(self.find(mark, |line| line.contains(text))))
    }

    /// Everything, for an error message.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }
}
