//! A Node-RED in a container of Podman: a real image, layers, namespaces and a cgroup of its own, in a storage of the
//! test's. Of the machine's own containers nothing is seen or touched.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::mount::{MountFlags, mount, mount_bind};
use serde_json::Value;

use crate::{cgroup, cgroup::Cgroup, mounts, needs, netns::NetNs, own, place::Place};

/// What the image is called.
const IMAGE: &str = "localhost/nodered/node-red:test";
/// The container's name for the user directory, as in the official image.
pub const USER_DIR: &str = "/data";
/// Where Node-RED is in the container.
const NODE_RED: &str = "/opt/node-red";

/// A container that is not there yet, or has run; removed with all that belongs to it.
#[derive(Debug)]
pub struct Podman {
    directory: Place,
    name: String,
    cgroup: Arc<Cgroup>,
    /// More arguments of `podman run`.
    flags: Vec<String>,
    /// The first arguments of the container's command.
    wrapper: Vec<String>,
}

impl Podman {
    /// Makes an image that has only directories: programs and Node-RED are mounted. The container's cgroup will be in this
    /// one.
    pub fn new(cgroup: &Arc<Cgroup>) -> Result<Self> {
        let directory = Place::new()?;
        let cgroup = cgroup.child("podman")?;
        let podman = Self { directory, name: own::name(), cgroup, flags: Vec::new(), wrapper: Vec::new() };
        let image = podman.path("image");
        for place in ["usr", "etc", "tmp", "proc", "dev", "sys", "root", "run", "var", "opt", "data"] {
            fs::create_dir_all(image.join(place))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(Path::new("usr").join(link), image.join(link))?;
        }
        fs::write(image.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnode-red:x:1000:1000::/data:/bin/sh\n")?;
        fs::create_dir_all(podman.path("lib/containers"))?;
        let archive = podman.path("image.tar");
        needs::run(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&archive).arg("."))?;
        podman.run(&["import", &archive.display().to_string(), IMAGE])?;
        Ok(podman)
    }

    /// More arguments of `podman run`.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// The first process of the container is this program with these arguments, and those of Node-RED after them.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(ToString::to_string));
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts Node-RED in the container, as `podman run` in the foreground: what it prints comes from that.
    pub fn start(&self, uid: u32, network: &NetNs, user_dir: &Path, red_js: &Path, port: u16) -> Result<Child> {
        // Of a container that has run nothing may be left.
        self.remove();
        let package = red_js.ancestors().nth(3).context("red.js is in no package")?;
        let mut command = self.command()?;
        command.args(["run", "--name", &self.name, "--pids-limit=-1"]);
        // Not above the limit of a machine without privileges to raise it.
        command.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
        command.arg(format!("--network=ns:/run/netns/{}", network.name()));
        command.arg(format!("--cgroup-parent=/{}", self.cgroup.path().strip_prefix(cgroup::mount()?)?.display()));
        command.arg(format!("--user={uid}:{uid}")).arg("--volume=/usr:/usr:ro");
        command.arg(format!("--volume={}:{NODE_RED}:ro", package.display()));
        command.arg(format!("--volume={}:{USER_DIR}", user_dir.display()));
        command.args(&self.flags).arg(IMAGE).args(&self.wrapper);
        command.arg(needs::executed("node")?).arg(format!("{NODE_RED}/node_modules/node-red/red.js"));
        command.args(["--userDir", USER_DIR, "--port", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside(|| command.spawn().with_context(|| format!("{command:?} cannot be started")))
    }

    /// Its id.
    pub fn id(&self) -> Result<String> {
        Ok(self.run(&["inspect", "--format", "{{.Id}}", &self.name])?.trim().to_owned())
    }

    /// The pid of its first process, as the machine has it.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.run(&["inspect", "--format", "{{.State.Pid}}", &self.name])?.trim().parse()?)
    }

    /// What `flowwarden discover` knows of it, on a machine where Podman's storage is this one's.
    pub fn discover(&self) -> Result<Value> {
        let id = self.id()?;
        let library = self.path("lib");
        let output = inside(|| {
            mount_bind(&library, "/var/lib").context("/var/lib cannot be another for one thread")?;
            Ok(Command::new(needs::flowwarden()?).args(["discover", "--json"]).output()?)
        })?;
        ensure!(output.status.success(), "{output:?}");
        let survey: Value = serde_json::from_slice(&output.stdout)?;
        let mut instances = survey["instances"].as_array().into_iter().flatten();
        let found = instances.find(|instance| instance["container"] == *id).cloned();
        found.with_context(|| format!("container {id} was not found: {survey:#}"))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command()?;
        command.args(arguments);
        inside(|| needs::run(&mut command))
    }

    fn remove(&self) {
        // There may be none.
        let _ = self.run(&["rm", "--force", "--time=0", &self.name]);
    }

    /// Podman with everything of its own, and the runtime that asks the machine for least.
    fn command(&self) -> Result<Command> {
        let mut command = Command::new(needs::program("podman")?);
        command.arg("--runtime").arg(needs::program("runc")?);
        command.arg("--root").arg(self.path("lib/containers/storage"));
        command.arg("--runroot").arg(self.path("run")).arg("--tmpdir").arg(self.path("tmp"));
        command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"]);
        Ok(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Runs `work` on a thread for which cgroup v2 is where container engines look for it.
fn inside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        mounts::part()?;
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None)
            .context("cgroup2 cannot be mounted")?;
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread with its own mounts panicked"))?
}
