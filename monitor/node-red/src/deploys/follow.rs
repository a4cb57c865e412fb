//! The console of an instance in systemd's journal, as `journalctl --follow` tells it.
//!
//! A program of its own, since the files of the journal are systemd's business: rotation, compression, name spaces. It is
//! started when a policy asks for it, started anew after a pause that widens when it ends, and ended with the value. When the
//! guard is killed its pipe is closed, and it exits by itself.

use std::{
    io::{self, BufRead, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::editor::Deploy;
use journal::stdio::complain;
use policy::{
    host::{Host, uid_of},
    model::Select,
};

/// No search path decides what root runs.
const PROGRAM: &str = "/usr/bin/journalctl";
/// The last entries that are there already are read too.
const PAST: &str = "--lines=1000";
/// Longest piece of an entry that is looked at, in bytes.
const MAX_LINE: u64 = 64 << 10;
/// How long to wait before it is started again,
const SHORTEST: Duration = Duration::from_secs(1);
/// when it has ended again and again.
const LONGEST: Duration = Duration::from_mins(10);

/// What picks the entries of an instance, as `journalctl` takes it: fields that journald itself fills in, and for a container
/// the one of Docker's and Podman's log drivers. Empty where no selector says anything that entries have.
#[must_use]
pub fn matches(selectors: &[Select], host: &dyn Host) -> Vec<String> {
    let mut all = Vec::new();
    for select in selectors {
        let mut fields = Vec::new();
        if let Some(id) = &select.container {
            // What a container prints is sent by the engine, which is no user of the instance's.
            fields.push(format!("CONTAINER_ID={}", id.get(..12).unwrap_or(id)));
        } else {
            fields.extend(select.unit.iter().map(|unit| format!("_SYSTEMD_UNIT={unit}")));
            fields.extend(select.cgroup.iter().map(|path| format!("_SYSTEMD_CGROUP={path}")));
            fields.extend(uid_of(select, host).map(|uid| format!("_UID={uid}")));
        }
        if !fields.is_empty() && !all.is_empty() {
            all.push("+".to_owned());
        }
        all.extend(fields);
    }
    all
}

/// What both threads know.
#[derive(Debug, Default)]
struct Shared {
    last: Mutex<Option<Deploy>>,
    child: Mutex<Option<Child>>,
}

/// Follows entries of the journal until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    shared: Arc<Shared>,
    /// The thread ends when this is gone.
    going_on: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows what `matches` picks; nothing when that is empty.
    pub(super) fn start(matches: &[String]) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        if matches.is_empty() {
            return Ok(Self { shared, going_on: None, thread: None });
        }
        let (going_on, ended) = mpsc::channel();
        let (of_thread, matches) = (Arc::clone(&shared), matches.to_vec());
        let work = move || follow(&matches, &of_thread, &ended);
        let thread = thread::Builder::new().name("journalctl".to_owned()).spawn(work)?;
        Ok(Self { shared, going_on: Some(going_on), thread: Some(thread) })
    }

    /// The last deploy that was reported.
    pub(super) fn last(&self) -> Option<Deploy> {
        lock(&self.shared.last).clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.going_on = None;
        if let Some(child) = &mut *lock(&self.shared.child) {
            // It may have ended.
            let _ = child.kill();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow(matches: &[String], shared: &Shared, ended: &Receiver<()>) {
    let mut pause = SHORTEST;
    loop {
        let began = Instant::now();
        match start(matches, shared) {
            // Either the drop of the follower finds the child, or this finds the stop.
            Ok(out) if ended.try_recv() == Err(TryRecvError::Empty) => read(BufReader::new(out), &shared.last),
            Ok(_) => {}
            Err(error) => {
                complain(&format_args!("{PROGRAM} cannot be started, so the journal is not followed: {error}"));
            }
        }
        if let Some(mut child) = lock(&shared.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        pause = if began.elapsed() > LONGEST { SHORTEST } else { pause };
        if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// What it complains about is said where the guard complains.
fn start(matches: &[String], shared: &Shared) -> io::Result<ChildStdout> {
    let mut command = Command::new(PROGRAM);
    // Units may have a journal of their own (`LogNamespace=`).
    command.args(["--follow", PAST, "--output=cat", "--all", "--quiet", "--no-pager", "--namespace=*"]).args(matches);
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let out = child.stdout.take();
    *lock(&shared.child) = Some(child);
    out.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}

/// Reads to the end, a line at a time; a longer one in pieces.
fn read(mut from: impl BufRead, last: &Mutex<Option<Deploy>>) {
    let mut line = Vec::new();
    while from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        if let Some(deploy) = Deploy::read(&String::from_utf8_lossy(&line)) {
            *lock(last) = Some(deploy);
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::host::System;

    #[test]
    fn selectors_become_matches_each_a_group_of_its_own() {
        let host = System::expected();
        let unit = Select { unit: Some("nodered.service".to_owned()), uid: Some(990), ..Select::default() };
        let container = Select { container: Some("0123456789abcdef".to_owned()), uid: Some(0), ..Select::default() };
        let cgroup = Select { cgroup: Some("/a.slice".to_owned()), exec: true, ..Select::default() };
        let exec = Select { exec: true, ..Select::default() };
        assert_eq!(
            matches(&[exec.clone(), unit, container, exec, cgroup], &host).join(" "),
            "_SYSTEMD_UNIT=nodered.service _UID=990 + CONTAINER_ID=0123456789ab + _SYSTEMD_CGROUP=/a.slice"
        );
        // A user that there is not has no entries: not those of everybody.
        let unknown = Select { user: Some("no-such-user".to_owned()), exec: true, ..Select::default() };
        assert!(unknown.is_in_entries() && matches(&[unknown], &host).is_empty());
        assert!(Follower::start(&[]).unwrap().thread.is_none());
    }

    #[test]
    fn lines_without_end_are_read_in_pieces_and_what_comes_after_them_too() {
        let line = b"[audit] {\"event\":\"flows.set\",\"user\":{\"username\":\"ann\"},\"timestamp\":1}\n";
        let text = [&vec![b'x'; 3 * (64 << 10)][..], b"\n\xff\n", line, b"[audit] {\"event\":\"flo"].concat();
        let last = Mutex::default();
        read(&text[..], &last);
        assert_eq!(lock(&last).clone().unwrap().user.as_deref(), Some("ann"));
    }
}
