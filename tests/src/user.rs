//! Unused uids.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{needs, own};

const FIRST: u32 = 60_000;
const COUNT: u32 = 5_000;

/// A uid that no account and no running process has. No account is needed to run under it.
pub fn free_uid() -> Result<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let accounts = fs::read_to_string("/etc/passwd").context("/etc/passwd cannot be read")?;
    let running: Vec<u32> = fs::read_dir("/proc")
        .context("/proc is not mounted")?
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.uid())
        .collect();
    // Two harnesses at the same time begin at different places.
    (0..COUNT)
        .map(|_| process::id().wrapping_mul(16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
        .map(|number| FIRST + number % COUNT)
        .find(|uid| !running.contains(uid) && !accounts.contains(&format!(":{uid}:")))
        .with_context(|| format!("every uid from {FIRST} to {} is taken", FIRST + COUNT - 1))
}

/// An account, deleted when it is dropped.
#[derive(Debug)]
pub struct User {
    name: String,
    uid: u32,
}

impl User {
    /// Makes an account that cannot log in.
    pub fn create() -> Result<Self> {
        let (name, uid) = (own::name(), free_uid()?);
        let useradd = needs::program("useradd")?;
        let number = uid.to_string();
        let mut command = Command::new(useradd);
        command.args(["--no-create-home", "--no-log-init", "--no-user-group", "--shell", "/usr/sbin/nologin"]);
        needs::run(command.args(["--uid", &number, &name]))?;
        Ok(Self { name, uid })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for User {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Deletes the accounts whose name `is_ours`.
pub(crate) fn remove_where(is_ours: impl Fn(&str) -> bool) {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    accounts.lines().filter_map(|line| line.split(':').next()).filter(|name| is_ours(name)).for_each(delete);
}

fn delete(name: &str) {
    if let Ok(userdel) = needs::program("userdel") {
        let _ = needs::run(Command::new(userdel).arg(name));
    }
}
