//! `cargo xtask fresh`: the demo and the tests on a machine that has nothing, as before a release.
//!
//! The machine is a bare root of Debian, with the packages that the README asks for and a clone of what is committed.
//! From outside come the toolchains of rustup, and caches of packages. What runs there has mounts of its own, so that
//! nothing stays mounted however this ends; processes, network and kernel are the machine's, as the guard wants them.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use flowwarden_tests::{
    cgroup::Cgroup,
    mounts, needs, own,
    tools::{self, Step},
    wait,
};
use rustix::{
    fs::CWD,
    mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount},
    process::{Pid, Signal, chdir, kill_process, pivot_root},
};

use crate::{cargo, links, setup, shell, signals, vm::apt};

/// The release of Debian.
const SUITE: &str = "bookworm";
/// The home of root.
const HOME: &str = "root";
/// Where the checkout is, below [`HOME`].
const CHECKOUT: &str = "flowwarden";
/// What tells programs how this machine reaches the network, and whom they may trust there.
const CONFIGURATION: [&str; 5] =
    ["/etc/hosts", "/etc/npmrc", "/etc/pip.conf", "/etc/resolv.conf", "/usr/local/share/ca-certificates"];
/// The same in the environment: how such variables end, and how they begin.
const VARIABLES: ([&str; 6], [&str; 6]) = (
    ["_proxy", "_ca_bundle", "_ca_certs", "_cert", "_cert_file", "_cert_dir"],
    ["npm_config_", "pip_", "rustup_", "cargo_http_", "cargo_net_", "cargo_registries_"],
);
/// What cargo has fetched, below its home, and the locks of that: another cargo may be at work there.
const CRATES: ([&str; 2], [&str; 2]) = (["registry", "git"], [".package-cache", ".package-cache-mutate"]);
/// How long one that was interrupted may clean up.
const CLEANING_UP: Duration = Duration::from_secs(20);
/// How long what was killed may go on writing.
const LAST_WRITES: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// How long one command may take.
const LIMIT: Duration = Duration::from_hours(3);

/// What `cargo xtask fresh` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only this; may be given more than once
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<Part>,
    /// Leave the root behind, to look at it
    #[arg(long)]
    keep: bool,
    /// Run the command after `--` in this root
    #[arg(long, hide = true, value_name = "ROOT")]
    inside: Option<PathBuf>,
    /// The command for `--inside`
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
}

/// A command of the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test --quick`
    Quick,
    /// `cargo xtask test`
    Test,
}

impl Part {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Demo => &["xtask", "demo"],
            Self::Quick => &["xtask", "test", "--quick"],
            Self::Test => &["xtask", "test"],
        }
    }
}

/// `cargo xtask fresh`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(root) = &options.inside {
        return inside(root, &options.command);
    }
    needs::root()?;
    setup::install(&tools::missing(&[Step::Fresh]))?;
    signals::end_waits()?;
    let chosen = |part: &Part| options.only.is_empty() || options.only.contains(part);
    let root = Root::make(options.keep)?;
    let mut times = Vec::new();
    for part in Part::value_variants().iter().copied().filter(chosen) {
        println!("\n== fresh: cargo {} ==", part.arguments().join(" "));
        let start = Instant::now();
        root.run(&PathBuf::from("/").join(HOME).join(CHECKOUT), "cargo", part.arguments())?;
        times.push((part, start.elapsed()));
    }
    println!();
    for (part, time) in times {
        println!("fresh: cargo {:<20} passed in {:>7.1} s", part.arguments().join(" "), time.as_secs_f64());
    }
    Ok(())
}

/// A bare root of Debian, which is removed with this.
struct Root {
    directory: PathBuf,
    /// The environment of what runs there.
    environment: BTreeMap<OsString, OsString>,
    keep: bool,
    /// Held as long as the root is there.
    _lock: fs::File,
}

impl Root {
    fn make(keep: bool) -> Result<Self> {
        let place = links::place("fresh");
        // rustup's proxies may be started by other users than root, as by tests; nothing below is a secret.
        fs::create_dir_all(&place).with_context(|| format!("{} cannot be made", place.display()))?;
        let lock = fs::File::create(place.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another `cargo xtask fresh` of this checkout is running: wait for its end");
        }
        let root = Self { directory: place.join("root"), environment: environment(), keep, _lock: lock };
        root.clear()?;
        root.install(&place)?;
        root.configure()?;
        root.rust(&place)?;
        root.clone_checkout()?;
        Ok(root)
    }

    /// Has mmdebstrap make it from the archive that the machine uses, by the ways that its apt takes.
    fn install(&self, place: &Path) -> Result<()> {
        let options = shell::ask(setup::apt("apt-config").arg("dump")).unwrap_or_default();
        let file = place.join("apt.conf");
        let ways = options.lines().filter(|line| line.starts_with("Acquire::"));
        fs::write(&file, ways.flat_map(|line| [line, "\n"]).collect::<String>())?;
        let mut mmdebstrap = setup::apt("mmdebstrap");
        mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase"]);
        mmdebstrap.arg(format!("--aptopt={}", file.display()));
        // The root is thrown away: nothing has to outlive a power failure.
        mmdebstrap.arg("--dpkgopt=force-unsafe-io");
        mmdebstrap.arg(format!("--include={}", tools::REQUIRED.join(",")));
        shell::run(mmdebstrap.arg(SUITE).arg(&self.directory).args(apt::sources(SUITE)?))
    }

    /// Gives it the machine's ways to the network.
    fn configure(&self) -> Result<()> {
        for file in CONFIGURATION.map(Path::new) {
            if file.exists() {
                let to = self.at(&file.display().to_string());
                let parent = to.parent().context("a file is nowhere")?;
                fs::create_dir_all(parent)?;
                shell::run(cargo::plain("cp").args(["--recursive", "--dereference"]).arg(file).arg(parent))?;
            }
        }
        self.run(Path::new("/"), "update-ca-certificates", &[])
    }

    /// Gives it rustup and nothing else that is in cargo's home.
    fn rust(&self, place: &Path) -> Result<()> {
        let (home, bin) = (cargo_home()?, self.at(HOME).join(".cargo/bin"));
        let rustup = shell::find("rustup").context("rustup is missing: install it as https://rustup.rs says")?;
        let is_rustup = |file: &Path| {
            let identity = |file: &Path| fs::metadata(file).map(|meta| (meta.dev(), meta.ino())).ok();
            identity(file).is_some() && identity(file) == identity(&rustup)
        };
        for directory in CRATES.0 {
            fs::create_dir_all(home.join(directory))?;
            fs::create_dir_all(self.at(HOME).join(".cargo").join(directory))?;
        }
        for lock in CRATES.1 {
            for home in [&home, &self.at(HOME).join(".cargo")] {
                fs::File::options().append(true).create(true).open(home.join(lock))?;
            }
        }
        fs::create_dir_all(&bin)?;
        fs::copy(&rustup, bin.join("rustup"))?;
        for entry in fs::read_dir(rustup.parent().context("rustup is nowhere")?)?.flatten() {
            if entry.file_name() != "rustup" && is_rustup(&entry.path()) {
                symlink("rustup", bin.join(entry.file_name()))?;
            }
        }
        if home.join("config.toml").is_file() {
            fs::copy(home.join("config.toml"), self.at(HOME).join(".cargo/config.toml"))?;
        }
        fs::create_dir_all(self.at(HOME).join(".rustup"))?;
        // What rustup adds in there is forgotten.
        for directory in ["rustup/changed", "rustup/work"] {
            let _ = fs::remove_dir_all(place.join(directory));
            fs::create_dir_all(place.join(directory))?;
        }
        Ok(())
    }

    /// Gives it what is committed.
    fn clone_checkout(&self) -> Result<()> {
        let changed = shell::ask(cargo::plain("git").args(["status", "--porcelain"])).unwrap_or_default();
        if !changed.is_empty() {
            println!("fresh: what is not committed is left out");
        }
        let mut clone = cargo::plain("git");
        clone.args(["clone", "--quiet", "--no-hardlinks"]).arg(cargo::root());
        shell::run(clone.arg(self.at(HOME).join(CHECKOUT)))
    }

    /// Runs a program there to its end, and ends all that it leaves behind.
    fn run(&self, directory: &Path, program: &str, arguments: &[&str]) -> Result<()> {
        let cgroup = Cgroup::new()?;
        let entrance = cgroup.entrance()?;
        let root = self.directory.display().to_string();
        let mut command = Command::new("setpriv");
        // By its own name there may be another by now.
        command.args(["--pdeathsig", "TERM", &format!("/proc/{}/exe", std::process::id())]);
        command.args(["fresh", "--inside", &root, "--", program]).args(arguments);
        command.env_clear().envs(&self.environment).env("PWD", directory);
        let enter = move || Ok(rustix::io::write(&entrance, b"0").map(drop)?);
        // SAFETY: a bare system call, with a descriptor from before the fork.
        let mut child = Running(unsafe { command.pre_exec(enter) }.spawn().context("setpriv cannot be started")?);
        let status = wait::until(program, LIMIT, || Ok(child.0.try_wait()?))?;
        ensure!(status.success(), "`{program} {}` failed in the bare root ({status})", arguments.join(" "));
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    fn clear(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match fs::remove_dir_all(&self.directory) {
                // What was killed a moment ago may still be writing.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && start.elapsed() < LAST_WRITES => {
                    thread::sleep(PAUSE);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(()),
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        own::sweep();
        if self.keep {
            println!("fresh: the root is {}", self.directory.display());
        } else if let Err(error) = self.clear() {
            eprintln!("fresh: {} cannot be removed: {error}", self.directory.display());
        }
    }
}

/// A child that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The polite way first: the demo and the tests clean up. What it has started goes with its cgroup.
        let start = Instant::now();
        if matches!(self.0.try_wait(), Ok(None))
            && let Some(pid) = Pid::from_raw(self.0.id().cast_signed())
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.0.try_wait(), Ok(None)) && start.elapsed() < CLEANING_UP {
            thread::sleep(PAUSE);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the machine says about its ways to the network, and what a login gives.
fn environment() -> BTreeMap<OsString, OsString> {
    let is_wanted = |name: &OsString| {
        let name = name.to_string_lossy().to_lowercase();
        let (ends, begins) = VARIABLES;
        ends.iter().any(|end| name.ends_with(end)) || begins.iter().any(|begin| name.starts_with(begin))
    };
    let mut environment: BTreeMap<_, _> = env::vars_os().filter(|(name, _)| is_wanted(name)).collect();
    for name in ["RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        environment.remove(&OsString::from(name));
    }
    let path = format!("/{HOME}/.cargo/bin:/usr/local/sbin:/usr/local/bin:{}", tools::DEBIAN.join(":"));
    for (name, value) in [("HOME", format!("/{HOME}")), ("PATH", path), ("TERM", "dumb".to_owned())] {
        environment.insert(name.into(), value.into());
    }
    // Where `inside` finds what it binds.
    for (name, value) in [("FLOWWARDEN_FRESH_CARGO", cargo_home()), ("FLOWWARDEN_FRESH_RUSTUP", rustup_home())] {
        environment.extend(value.ok().map(|value| (name.into(), value.into())));
    }
    environment
}

fn cargo_home() -> Result<PathBuf> {
    home_of("CARGO_HOME", ".cargo")
}

fn rustup_home() -> Result<PathBuf> {
    home_of("RUSTUP_HOME", ".rustup")
}

fn home_of(variable: &str, name: &str) -> Result<PathBuf> {
    let own = || env::home_dir().map(|home| home.join(name));
    env::var_os(variable).map(PathBuf::from).or_else(own).with_context(|| format!("{variable} is not set"))
}

/// Goes on as `command` in a root, with mounts that nothing else sees.
fn inside(root: &Path, command: &[OsString]) -> Result<()> {
    let [program, arguments @ ..] = command else { bail!("there is no command") };
    mounts::part()?;
    let to = |name: &str| root.join(name);
    let context = |name: &str| format!("{name} cannot be mounted in {}", root.display());
    // A root can only be a mount.
    mount_bind(root, root).with_context(|| context("the root"))?;
    mount("proc", to("proc"), "proc", MountFlags::empty(), None).with_context(|| context("/proc"))?;
    for name in ["sys", "dev"] {
        mount_bind_recursive(Path::new("/").join(name), to(name)).with_context(|| context(name))?;
    }
    let bpf = to("sys/fs/bpf");
    if bpf.is_dir() {
        mount("bpf", bpf, "bpf", MountFlags::empty(), None).with_context(|| context("bpf"))?;
    }
    let place = root.parent().context("the root is in no directory")?;
    for (name, at) in [("apt", "var/cache/apt/archives"), ("npm", "root/.npm"), ("pip", "root/.cache/pip")] {
        let cache = place.join("cache").join(name);
        fs::create_dir_all(&cache)?;
        fs::create_dir_all(to(at))?;
        mount_bind(cache, to(at)).with_context(|| context(at))?;
    }
    if let (Some(cargo), Some(rustup)) = (env::var_os("FLOWWARDEN_FRESH_CARGO"), env::var_os("FLOWWARDEN_FRESH_RUSTUP"))
        && to("root/.rustup").is_dir()
    {
        for name in CRATES.0.iter().chain(&CRATES.1) {
            mount_bind(Path::new(&cargo).join(name), to("root/.cargo").join(name)).with_context(|| context(name))?;
        }
        let layers = [("lowerdir", PathBuf::from(rustup)), ("upperdir", place.join("rustup/changed"))];
        let layers = layers.into_iter().chain([("workdir", place.join("rustup/work"))]);
        let layers = layers.map(|(name, path)| format!("{name}={}", path.display())).collect::<Vec<_>>().join(",");
        let layers = std::ffi::CString::new(layers)?;
        let toolchains = to("root/.rustup");
        mount("overlay", &toolchains, "overlay", MountFlags::empty(), layers.as_c_str())
            .with_context(|| context("rustup's toolchains"))?;
        forget_links(&toolchains.join("toolchains"))?;
    }
    chdir(root)?;
    pivot_root(".", ".").context("the root cannot be made the root")?;
    unmount(".", UnmountFlags::DETACH)?;
    let directory = env::var_os("PWD").unwrap_or_else(|| "/".into());
    chdir(Path::new(&directory)).with_context(|| format!("{} is not there", directory.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).env_remove("FLOWWARDEN_FRESH_CARGO").env_remove("FLOWWARDEN_FRESH_RUSTUP");
    Err(command.exec()).with_context(|| format!("{} cannot be started", program.display()))
}

/// Toolchains that are links are programs of the machine's.
fn forget_links(toolchains: &Path) -> io::Result<()> {
    for entry in fs::read_dir(toolchains)?.flatten() {
        if entry.file_type()?.is_symlink() {
            rustix::fs::unlinkat(CWD, entry.path(), rustix::fs::AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_asks_for_what_the_root_gets() {
        let readme = include_str!("../../README.md");
        for package in tools::REQUIRED {
            assert!(readme.contains(package), "README.md does not name {package}");
        }
    }

    #[test]
    fn the_environment_has_no_place_of_this_machine() {
        let environment = environment();
        assert_eq!(environment[&OsString::from("HOME")], "/root");
        assert!(!environment.contains_key(&OsString::from("CARGO_TARGET_DIR")));
        assert!(!environment.contains_key(&OsString::from("RUSTUP_TOOLCHAIN")));
    }
}
