//! Processes of the instance that do one thing, and strangers beside them.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{cgroup, confine::Confinement, guard::Guard, policy::Policy, record::Record, scene::Scene};

pub(crate) const SIGKILL: i32 = 9;

/// Runs a command as the instance under a policy.
pub(crate) fn act(scene: &Scene, policy: &Policy, command: &mut Command) -> Result<(ExitStatus, Vec<Record>)> {
    let guard = Guard::start(Some(policy), &scene.cgroup, &[])?;
    let status = run(scene, command)?;
    Ok((status, guard.stop()?))
}

/// Runs a command as the instance, without input and output.
pub(crate) fn run(scene: &Scene, command: &mut Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(scene.node_red.confinement().spawn(command)?.wait()?)
}

/// A command line for the shell.
pub(crate) fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
}

/// That there is a record of this operation with this verdict.
pub(crate) fn saw<'a>(records: &'a [Record], hook: &str, verdict: &str) -> Result<&'a Record> {
    let found = records.iter().find(|record| record.hook() == hook && record.verdict() == verdict);
    found.with_context(|| format!("no {verdict} for {hook} in {records:#?}"))
}

/// A copy of a program in the instance's home: where it was built may be closed to other users.
pub(crate) fn copy(scene: &Scene, program: &Path, mode: u32) -> Result<PathBuf> {
    let name = program.file_name().context("a program without a name")?;
    let copy = scene.node_red.home().path().join(format!("{mode:o}-{}", name.display()));
    let _ = fs::remove_file(&copy);
    fs::copy(program, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(mode))?;
    Ok(copy)
}

/// The stand-in, without its operation.
pub(crate) struct Actor(PathBuf);

impl Actor {
    /// As the user who runs it.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        copy(scene, Path::new(env!("CARGO_BIN_EXE_actor")), 0o755).map(Self)
    }

    /// As root (setuid).
    pub(crate) fn root(scene: &Scene) -> Result<Self> {
        copy(scene, Path::new(env!("CARGO_BIN_EXE_actor")), 0o4755).map(Self)
    }

    /// The same for a shell that is the instance's before it runs the program.
    pub(crate) fn does_in_shell(&self, what: &str) -> Command {
        shell(&format!("exec '{}' {what}", self.0.display()))
    }

    /// An operation and its arguments, parted by spaces.
    pub(crate) fn does(&self, what: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.args(what.split(' '));
        command
    }
}

/// A process of the same uid that is not the instance's, which [`by_cgroup`] selects. Ended when it is dropped.
pub(crate) struct Neighbour {
    process: Child,
    _cgroup: Arc<cgroup::Cgroup>,
}

impl Neighbour {
    /// Does nothing for a while, in a process group of its own.
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        Self::inside(scene, scene.cgroup.child("neighbour")?)
    }

    /// The same, but in the instance's cgroup and so no stranger.
    pub(crate) fn companion(scene: &Scene) -> Result<Self> {
        Self::inside(scene, Arc::clone(&scene.node_red.confinement().cgroup))
    }

    /// As another user, with something in its environment, for as long as a long test takes.
    pub(crate) fn with_secret(scene: &Scene, uid: u32, secret: &str) -> Result<Self> {
        let cgroup = scene.cgroup.child(&format!("neighbour-{uid}"))?;
        Self::spawn(scene, uid, cgroup, Command::new("sleep").arg("900").env("SECRET", secret))
    }

    fn inside(scene: &Scene, cgroup: Arc<cgroup::Cgroup>) -> Result<Self> {
        Self::spawn(scene, scene.node_red.confinement().uid, cgroup, Command::new("sleep").arg("900"))
    }

    fn spawn(scene: &Scene, uid: u32, cgroup: Arc<cgroup::Cgroup>, command: &mut Command) -> Result<Self> {
        let confinement = Confinement { uid, cgroup: Arc::clone(&cgroup), ..scene.node_red.confinement().clone() };
        let process = confinement.spawn(command.process_group(0))?;
        Ok(Self { process, _cgroup: cgroup })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// That it was ended by this signal.
    pub(crate) fn died_of(&mut self, signal: i32) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.signal() == Some(signal), "the neighbour ended otherwise: {status}");
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same policy, for the processes in the instance's cgroup.
pub(crate) fn by_cgroup(scene: &Scene, policy: Policy) -> Result<Policy> {
    let cgroup = scene.node_red.confinement().cgroup.path();
    let inside = cgroup.strip_prefix(cgroup::mount()?)?;
    Ok(policy.select(&format!("{{ cgroup = \"/{}\" }}", inside.display())))
}
