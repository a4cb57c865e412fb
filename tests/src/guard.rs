//! `flowwarden run`, started for one test.

use std::{
    cell::RefCell,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    cli::{self, Answer},
    confine::as_service_without,
    console::Console,
    journal, needs,
    policy::Policy,
    record::Record,
    wait,
};

/// The guard says `ready: ...` when its programs are attached and its instances are found.
const READY: &str = "ready:";
/// The policy's file in the guard's directory.
const POLICY: &str = "policy.toml";
/// What it says of a file that was just created, after its path.
const YOUNG: &str = " was just created";
/// What it says, at the end, of such a file when the rules for it hold.
pub const MADE: &str = "protected from now on";
/// What it says, at the end, of such a file that is no more.
const GONE: &str = "was removed before it settled";

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// At this moment, in KiB.
    pub now_kib: u64,
    /// At the worst moment so far, in KiB.
    pub peak_kib: u64,
}

/// So many lines of its console a [`Guard`] prints when it is dropped.
const LAST_LINES: usize = 200;
/// So many events of its journal a [`Guard`] prints when it is dropped.
const LAST_EVENTS: usize = 20;

/// A running guard. It is stopped when it is dropped, but only [`Guard::stop`] checks how it ended.
///
/// When it is dropped it prints its console and the last events of its journal. The test harness keeps what a test prints
/// and shows it when the test fails, at an early `?` as at an assertion after [`Guard::stop`].
#[derive(Debug)]
pub struct Guard {
    child: Child,
    console: Console,
    directory: TempDir,
    following: RefCell<journal::Following>,
    /// Nothing is printed when it is dropped.
    quiet: bool,
}

impl Guard {
    /// Starts the guard with `policy`, or with the one it has built in, on the sockets of `cgroup`.
    pub fn start(policy: Option<&Policy>, cgroup: &Cgroup, flags: &[&str]) -> Result<Self> {
        Self::start_in(Self::new_directory()?, policy, cgroup, flags)
    }

    /// A directory that only root may enter, as the guard wants it for its policy.
    pub fn new_directory() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("fwguard-").tempdir()?)
    }

    /// The same with the policy and the journal in `directory`.
    pub fn start_in(directory: TempDir, policy: Option<&Policy>, cgroup: &Cgroup, flags: &[&str]) -> Result<Self> {
        if let Some(policy) = policy {
            fs::write(directory.path().join(POLICY), policy.text())?;
        }
        Self::launch(directory, cgroup, flags, &[])
    }

    /// The same in a directory of its own, without some of the capabilities that the unit grants.
    pub fn start_lacking(policy: &Policy, cgroup: &Cgroup, flags: &[&str], lacking: &[&str]) -> Result<Self> {
        let directory = Self::new_directory()?;
        fs::write(directory.path().join(POLICY), policy.text())?;
        Self::launch(directory, cgroup, flags, lacking)
    }

    /// Kills it by SIGKILL, and starts it again with its state.
    pub fn start_again(mut self, cgroup: &Cgroup, flags: &[&str]) -> Result<Self> {
        self.kill()?;
        // What is left of this one is not to be removed.
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir()?);
        Self::launch(directory, cgroup, flags, &[])
    }

    /// Has it stand still while `act` goes on, as on a machine that is busy.
    pub fn standing_still<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let pid = self.own_pid()?;
        self.stop_still()?;
        let done = act();
        kill_process(pid, Signal::CONT)?;
        done
    }

    /// Has it stand still until it gets SIGCONT; it does when this returns.
    fn stop_still(&self) -> Result<()> {
        let pid = self.own_pid()?;
        kill_process(pid, Signal::STOP)?;
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), look)?.context("the guard has ended")?;
        Ok(())
    }

    /// The directory with its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Kills it by SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.quiet |= !is_captured();
        Ok(())
    }

    fn launch(directory: TempDir, cgroup: &Cgroup, flags: &[&str], lacking: &[&str]) -> Result<Self> {
        let mut command = Command::new(needs::flowwarden()?);
        command.arg("run").arg("--journal").arg(directory.path().join("journal"));
        command.arg("--state").arg(directory.path().join("state"));
        command.arg("--cgroup-root").arg(cgroup.path()).args(flags);
        let policy = directory.path().join(POLICY);
        if policy.exists() {
            command.arg("--config").arg(policy);
        }
        // What the unit does not leave it, nothing that is tested may need.
        as_service_without(&mut command, lacking).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let console = Console::default();
        console.follow(&mut child);
        let mut guard = Self { child, console, directory, following: RefCell::default(), quiet: false };
        wait::until("the guard to be ready", wait::PATIENCE, || {
            if let Some(status) = guard.child.try_wait()? {
                bail!("the guard ended at its start ({status}):\n{}", guard.console.text());
            }
            Ok(guard.console.find(0, |line| line.trim_start().starts_with(READY)))
        })?;
        guard.wait_for_young_files()?;
        Ok(guard)
    }

    /// What came to be or was changed a moment ago, as in a scene that is set up, is let through until it is quiet.
    fn wait_for_young_files(&self) -> Result<()> {
        let young = || self.console.since(0).into_iter().enumerate().find(|(at, line)| self.is_young(*at, line));
        while let Some((at, line)) = young() {
            let ended = || Ok((!self.is_young(at, &line)).then_some(()));
            wait::until(&format!("the end of: {line}"), wait::PATIENCE, ended)?;
        }
        Ok(())
    }

    /// Whether the line at this place calls a file young, and none after it says what became of that.
    fn is_young(&self, at: usize, line: &str) -> bool {
        let Some((path, _)) = line.split_once(YOUNG) else { return false };
        let ended = |line: &str| line.starts_with(path) && (line.ends_with(MADE) || line.ends_with(GONE));
        self.console.find(at, ended).is_none()
    }

    /// What it has printed.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory with its policy, journal and state.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The policy's file; there is none when the guard uses the policy that is built in.
    #[must_use]
    pub fn policy_file(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    /// The journal's directory.
    #[must_use]
    pub fn journal_directory(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// Every finished line of the journal so far.
    pub fn journal(&self) -> Result<Vec<Record>> {
        Ok(self.following.borrow_mut().catch_up(&self.journal_directory())?.to_vec())
    }

    /// Waits for a record that `wanted` picks.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Record) -> bool) -> Result<Record> {
        let (directory, mut seen) = (self.journal_directory(), 0);
        wait::until("a record in the journal", timeout, || {
            let mut following = self.following.borrow_mut();
            let records = following.catch_up(&directory)?;
            let found = records.iter().skip(seen).find(|record| wanted(record)).cloned();
            seen = records.len();
            Ok(found)
        })
        .with_context(|| format!("the guard says:\n{}", self.console.text()))
    }

    /// Gives it another policy, and waits until it says what became of that, and until its rules hold.
    pub fn reload(&self, policy: &Policy) -> Result<String> {
        let mark = self.console.mark();
        self.ask_to_reload(policy)?;
        let answer = wait::until("an answer to a reload", wait::PATIENCE, || {
            ensure!(self.runs()?, "the guard has ended:\n{}", self.console.text());
            Ok(self.console.find(mark, |line| line.contains("reload: ")))
        })?;
        self.wait_for_young_files()?;
        Ok(answer)
    }

    /// Gives it another policy, and does not wait for its answer.
    pub fn ask_to_reload(&self, policy: &Policy) -> Result<()> {
        fs::write(self.directory.path().join(POLICY), policy.text())?;
        self.signal(Signal::HUP)
    }

    /// Whether it has not ended yet.
    fn runs(&self) -> Result<bool> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.own_pid()?), look)?.is_none())
    }

    /// `flowwarden maintenance` with its state: the command and its arguments, parted by spaces.
    pub fn maintenance(&self, what: &str) -> Result<Answer> {
        self.control(&format!("maintenance {what}"))
    }

    /// A command that asks the running guard, with its state: the command and its arguments, parted by spaces.
    pub fn control(&self, what: &str) -> Result<Answer> {
        let state = self.directory.path().join("state").display().to_string();
        let arguments: Vec<_> = what.split(' ').chain(["--state", &state]).collect();
        cli::flowwarden(&arguments)
    }

    /// Opens a window for a while, or closes one.
    pub fn asks(&self, what: &str) -> Result<String> {
        let answer = self.maintenance(what)?;
        if answer.code != Some(0) {
            bail!("{what}: {answer:?}\n{}", self.console.text());
        }
        Ok(answer.text)
    }

    /// How much memory it holds.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("the guard is gone")?;
        let kib = |key| {
            let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let memory = || Some(Memory { now_kib: kib("VmRSS:")?, peak_kib: kib("VmHWM:")? });
        memory().context("the guard has ended, so it holds no memory")
    }

    /// Stops it, and gives back what it has written; an error as of [`Self::end`].
    pub fn stop(mut self) -> Result<Vec<Record>> {
        self.end()
    }

    /// Stops it, gives back what it has written, and leaves its files to be read. An exit code other than 0 is an error, and
    /// so is a line that is no valid OCSF, ECS or CEF, or a journal that is not whole.
    pub fn end(&mut self) -> Result<Vec<Record>> {
        self.terminate()?;
        let records = journal::records(&self.journal_directory())?;
        journal::check(&self.journal_directory(), &records)?;
        Ok(records)
    }

    /// Stops it; an exit code other than 0 is an error. Does not validate the journal, and needs no other program.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = wait::until("the guard's end", wait::PATIENCE, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("the guard did not end well ({status}):\n{}", self.console.text());
        }
        // Without the capture of the test harness the report of every test that passes would be printed.
        self.quiet |= !is_captured();
        Ok(())
    }

    /// Prints nothing when it is dropped.
    pub fn be_quiet(&mut self) {
        self.quiet = true;
    }

    /// Its console and the last events of its journal.
    #[must_use]
    pub fn report(&self) -> String {
        let events = match journal::text(&self.journal_directory()) {
            Ok(text) => last(text.lines(), LAST_EVENTS, "events"),
            Err(error) => format!("{error:#}"),
        };
        let lines = self.console.since(0);
        let console = last(lines.iter().map(String::as_str), LAST_LINES, "lines");
        format!("console of the guard (pid {}):\n{console}\nlast events of its journal:\n{events}", self.pid())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.own_pid()?, signal).context("the guard is gone")
    }

    fn own_pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the guard has no pid")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SIGTERM first: it detaches its programs and closes its journal.
            let _ = self.signal(Signal::TERM);
            let ended = || self.child.try_wait().is_ok_and(|status| status.is_some());
            if !wait::while_cleaning_up(Duration::from_secs(5), ended) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if !self.quiet && !wait::is_interrupted() {
            eprintln!("{}", self.report());
        }
    }
}

/// Whether the test harness keeps what tests print.
fn is_captured() -> bool {
    !env::args().any(|argument| argument == "--nocapture" || argument == "--no-capture")
}

/// The last lines, indented, and how many others of `what` there are.
fn last<'a>(lines: impl Iterator<Item = &'a str>, most: usize, what: &str) -> String {
    let lines: Vec<_> = lines.collect();
    let before = lines.len().saturating_sub(most);
    let head = (before > 0).then(|| format!("    ({before} earlier {what})"));
    let shown = lines.iter().skip(before).map(|line| format!("    {line}"));
    head.into_iter().chain(shown).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_with_the_last_lines_and_counts_the_others() {
        assert_eq!(last(["a", "b"].into_iter(), 2, "events"), "    a\n    b");
        assert_eq!(last(["a", "b", "c", "d"].into_iter(), 2, "events"), "    (2 earlier events)\n    c\n    d");
        assert_eq!(last([].into_iter(), 2, "lines"), "");
    }
}
