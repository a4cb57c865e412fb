//! Somebody who does what Node-RED could be made to do, on a machine that has no Node-RED: a kernel that was booted for
//! nothing but the tests.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{cgroup::Cgroup, needs, place::Place, policy::Policy, user};

/// What settings.js says before anybody has touched it.
pub const SETTINGS: &[u8] = b"module.exports = {}\n";

/// A uid with a user directory, a settings.js and a program that does one thing at a time.
#[derive(Debug)]
pub struct StandIn {
    /// Of this stand-in alone.
    pub uid: u32,
    /// Sockets are judged below this one.
    pub cgroup: Arc<Cgroup>,
    directory: Place,
    actor: PathBuf,
}

impl StandIn {
    /// `built` is where cargo has put the program `actor`.
    pub fn new(built: Option<&str>) -> Result<Self> {
        needs::root()?;
        let uid = user::free_uid()?;
        let directory = Place::new()?;
        let actor = directory.path().join("actor");
        fs::copy(needs::actor(built)?, &actor)?;
        fs::set_permissions(&actor, fs::Permissions::from_mode(0o755))?;
        let rooted = directory.path().join("rooted");
        fs::copy(&actor, &rooted)?;
        fs::set_permissions(&rooted, fs::Permissions::from_mode(0o6755))?;
        let stand_in = Self { uid, cgroup: Cgroup::new()?, directory, actor };
        fs::create_dir(stand_in.directory.path().join("kept"))?;
        fs::set_permissions(stand_in.directory.path().join("kept"), fs::Permissions::from_mode(0o700))?;
        stand_in.directory(&stand_in.user_dir())?;
        stand_in.restore()?;
        Ok(stand_in)
    }

    /// Its directory.
    #[must_use]
    pub fn user_dir(&self) -> PathBuf {
        self.directory.path().join("ud")
    }

    /// Makes a directory that belongs to it.
    pub fn directory(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).with_context(|| format!("{} cannot be made", path.display()))?;
        self.own(path)
    }

    /// Its settings.js.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.user_dir().join("settings.js")
    }

    /// Makes settings.js as it was, and nothing else in the directory.
    pub fn restore(&self) -> Result<()> {
        for entry in fs::read_dir(self.user_dir())?.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else if !self.is_kept(&path) && path != self.settings() {
                match fs::remove_file(path) {
                    // The guard is healing, and has moved its copy to its place.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        self.file("settings.js", SETTINGS, 0o644)
    }

    /// Makes a file in its directory that belongs to it. Made again, it is the same file: a second name for it is kept out
    /// of reach.
    pub fn file(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let (path, kept) = (self.user_dir().join(name), self.kept(name));
        if path == self.settings() && kept.exists() && !self.is_kept(&path) && self.is_healed() {
            // The guard has made another file of it, and has looked at that one since.
            fs::remove_file(&kept)?;
            return Ok(fs::hard_link(&path, &kept)?);
        }
        if !kept.exists() {
            fs::write(&kept, content).with_context(|| format!("{} cannot be made", kept.display()))?;
        }
        if fs::read(&kept)? != content {
            fs::write(&kept, content)?;
        }
        fs::set_permissions(&kept, fs::Permissions::from_mode(mode))?;
        fs::File::options().append(true).open(&kept)?.set_modified(SystemTime::now())?;
        self.own(&kept)?;
        if !self.is_kept(&path) {
            // At no time is there no file: who heals it would make one.
            let link = self.kept("link");
            fs::hard_link(&kept, &link)?;
            fs::rename(&link, &path)?;
        }
        Ok(())
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.directory.path().join("kept").join(name)
    }

    /// Whether what has this name is the file that was made for it.
    fn is_kept(&self, path: &Path) -> bool {
        let identity = |path: &Path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        let kept = path.file_name().map(|name| self.kept(&name.to_string_lossy()));
        identity(path).is_some_and(|found| kept.and_then(|kept| identity(&kept)) == Some(found))
    }

    fn own(&self, path: &Path) -> Result<()> {
        Ok(chown(path, Some(self.uid), Some(self.uid))?)
    }

    /// The program that acts for it.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.actor
    }

    /// The same program with root's setuid and setgid bits.
    #[must_use]
    pub fn rooted(&self) -> PathBuf {
        self.directory.path().join("rooted")
    }

    /// Whether settings.js is what it was, where it was, with the mode and the names that it had, and not older.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let settings = self.settings();
        let same = fs::symlink_metadata(&settings).is_ok_and(|meta| {
            // One name is in the directory, one is kept.
            meta.permissions().mode() & 0o7777 == 0o644 && meta.nlink() == 2 && meta.mtime() != 0
        });
        same && fs::read(&settings).is_ok_and(|content| content == SETTINGS)
    }

    /// Whether settings.js says what it said, and has the mode that it had; it may be another file.
    #[must_use]
    pub fn is_healed(&self) -> bool {
        let settings = self.settings();
        let mode = fs::symlink_metadata(&settings).map(|meta| meta.permissions().mode() & 0o7777);
        mode.is_ok_and(|mode| mode == 0o644) && fs::read(&settings).is_ok_and(|content| content == SETTINGS)
    }

    /// A policy for it without rules.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::for_user(self.uid, &self.user_dir())
    }

    /// Has it do one thing in its directory: an operation of `actor` and its arguments, parted by spaces. Answers with its
    /// pid and how it ended.
    pub fn does(&self, what: &str) -> Result<(u32, ExitStatus)> {
        self.act(what, self.uid)
    }

    /// The same for a stand-in that has become root: its real uid is still its own.
    pub fn does_as_root(&self, what: &str) -> Result<(u32, ExitStatus)> {
        self.act(what, 0)
    }

    fn act(&self, what: &str, effective: u32) -> Result<(u32, ExitStatus)> {
        let mut child = self.begin(what, effective)?;
        Ok((child.id(), child.wait()?))
    }

    /// Has it begin something, in its directory, that does not end by itself.
    pub fn begins(&self, what: &str) -> Result<Running> {
        Ok(Running(self.begin(what, self.uid)?))
    }

    fn begin(&self, what: &str, effective: u32) -> Result<Child> {
        let (uid, effective) = (Uid::from_raw(self.uid), Uid::from_raw(effective));
        let gid = Gid::from_raw(self.uid);
        let entrance = self.cgroup.entrance()?;
        let mut command = Command::new(&self.actor);
        command.args(what.split(' ')).current_dir(self.user_dir());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let become_it = move || -> io::Result<()> {
            rustix::io::write(&entrance, b"0")?;
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            Ok(set_thread_res_uid(uid, effective, effective)?)
        };
        // SAFETY: bare system calls with values from before the fork.
        let command = unsafe { command.pre_exec(become_it) };
        command.spawn().with_context(|| format!("{} cannot be started", self.actor.display()))
    }
}

/// Something that a stand-in does until this goes away.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended; `None` while it goes on.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
