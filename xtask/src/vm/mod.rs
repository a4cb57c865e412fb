//! `cargo xtask vm`: the tests inside other kernels, under QEMU.
//!
//! A machine has an initramfs (an init, the tests as one program, the guard, and the program that plays the attacks)
//! and a disk, which is empty or has a Node-RED on it. One boot runs all tests.

pub(crate) mod apt;
pub(crate) mod architecture;
mod boot;
mod catalogue;
mod disk;
mod initramfs;
mod kernels;
mod modules;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use architecture::Architecture;
use clap::{Args, ValueEnum};
use flowwarden_tests::needs;
use initramfs::Archive;
use kernels::{KERNELS, Kernel};
use programs::Programs;

use crate::{build, setup};

/// How many machines run at a time.
const AT_A_TIME: usize = 2;

/// Tests that run inside a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tests {
    /// Every attack, by a stand-in
    Kernel,
    /// A real Node-RED
    NodeRed,
    /// Figures
    Bench,
}

impl Tests {
    /// What cargo calls them.
    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::NodeRed => "node_red",
            Self::Bench => "bench",
        }
    }
}

/// One machine's answers.
pub(crate) struct Answers {
    /// The kernel.
    pub(crate) kernel: &'static Kernel,
    /// Its version.
    pub(crate) version: String,
    /// What the tests printed.
    pub(crate) text: String,
}

/// One machine and what it runs.
#[derive(Clone, Copy)]
struct Job {
    kernel: &'static Kernel,
    tests: Tests,
}

impl Job {
    fn name(&self) -> String {
        match self.tests {
            Tests::Kernel => self.kernel.name.to_owned(),
            Tests::NodeRed => format!("{}-node-red", self.kernel.name),
            Tests::Bench => format!("{}-bench", self.kernel.name),
        }
    }
}

/// What `cargo xtask vm` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Boot only this kernel; may be given more than once
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Run only these tests
    #[arg(long, value_enum, value_name = "TESTS")]
    tests: Option<Tests>,
    /// Only list the kernels
    #[arg(long)]
    list: bool,
    /// Sensors that the guard may use, as for `flowwarden run`
    #[arg(long, value_name = "SENSOR,...")]
    sensors: Option<String>,
    /// Filter for the names of tests, after `--`
    #[arg(last = true)]
    filter: Vec<String>,
}

/// `cargo xtask vm`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for Kernel { name, package, suite, sensor, node_red, .. } in KERNELS {
            let more = if *node_red { ", Node-RED" } else { "" };
            println!("{name:<14} {package} of {suite}, best sensor {sensor}{more}");
        }
        return Ok(());
    }
    if let Some(unknown) = options.kernel.iter().find(|name| KERNELS.iter().all(|kernel| kernel.name != **name)) {
        bail!("there is no kernel `{unknown}`: `cargo xtask vm --list` names them");
    }
    let of_kind = if options.tests == Some(Tests::Bench) { benches() } else { jobs() };
    let is_chosen =
        |kernel: &Kernel| options.kernel.is_empty() || options.kernel.iter().any(|name| name == kernel.name);
    let chosen =
        of_kind.into_iter().filter(|job| is_chosen(job.kernel) && options.tests.is_none_or(|it| it == job.tests));
    let toolchain = setup::kernel_toolchain()?;
    build::kernel(&toolchain)?;
    let answers = all(&chosen.collect::<Vec<_>>(), options.sensors.as_deref(), &options.filter)?;
    let is_whole = options.kernel.is_empty() && options.tests.is_none_or(|tests| tests == Tests::Kernel);
    let attacks = options.filter.is_empty() || options.filter.iter().any(|filter| filter == FAST_TESTS[0]);
    if is_whole && options.sensors.is_none() && attacks {
        catalogue::write(&answers)?;
    }
    Ok(())
}

/// The tests of `cargo xtask test` in a machine: those that a guard is started for once. An emulated processor takes ten
/// seconds and more for each start.
const FAST_TESTS: [&str; 2] = ["every_attack", "an_older"];

/// Tests that start the guard again and again, or for one thing each.
const RESTARTING: [&str; 6] = ["clock::", "healing::", "outlive::", "reloads::", "windows::", "young::"];

/// What `cargo xtask test` boots: kernels for this machine's own programs. To build them for another architecture would
/// take longer than everything else.
fn fast() -> Vec<Job> {
    let is_fast =
        |job: &Job| job.kernel.fast && job.kernel.architecture == Architecture::OWN && job.tests == Tests::Kernel;
    jobs().into_iter().filter(is_fast).collect()
}

/// Everything there is: what takes longest comes first, or it would be waited for at the end.
fn jobs() -> Vec<Job> {
    let job = |tests| move |kernel| Job { kernel, tests };
    let node_red = KERNELS.iter().filter(|kernel| kernel.node_red).map(job(Tests::NodeRed));
    node_red.chain(KERNELS.iter().map(job(Tests::Kernel))).collect()
}

/// The machines of `cargo xtask test`, with what was built already. What they answer has to be what the catalogue says.
pub(crate) fn matrix(filter: &[String]) -> Result<()> {
    let chosen: Vec<_> = FAST_TESTS.iter().map(ToString::to_string).collect();
    let answers = all(&fast(), None, if filter.is_empty() { &chosen } else { filter })?;
    if filter.is_empty() { catalogue::compare(&answers) } else { Ok(()) }
}

/// Every sensor runs there.
const RACING: &str = "6.1";

/// The figures of other kernels, with what was built already: every sensor's race on one that has all of them, and what
/// the verifiers say. Ten thousand writers take an emulated processor a while.
pub(crate) fn bench() -> Result<Vec<Answers>> {
    let (racing, others): (Vec<_>, Vec<_>) = benches().into_iter().partition(|job| job.kernel.name == RACING);
    let mut answers = all(&racing, None, &[])?;
    answers.extend(all(&others, None, &["programs".to_owned()])?);
    Ok(answers)
}

fn benches() -> Vec<Job> {
    let whole = KERNELS.iter().filter(|kernel| kernel.only.is_none());
    whole.map(|kernel| Job { kernel, tests: Tests::Bench }).collect()
}

/// What the machines emulate, each once.
fn architectures(jobs: &[Job]) -> Vec<Architecture> {
    let all = [Architecture::Amd64, Architecture::Arm64];
    all.into_iter().filter(|wanted| jobs.iter().any(|job| job.kernel.architecture == *wanted)).collect()
}

/// Boots machines, some at a time, and tells how each has fared.
fn all(jobs: &[Job], sensors: Option<&str>, filter: &[String]) -> Result<Vec<Answers>> {
    let architectures = architectures(jobs);
    setup::vm_tools(&architectures)?;
    let place = needs::target().join("vm");
    fs::create_dir_all(&place)?;
    let wanted = |architecture| {
        let of_it =
            |tests: &Tests| jobs.iter().any(|job| job.kernel.architecture == architecture && job.tests == *tests);
        Tests::value_variants().iter().copied().filter(of_it).collect::<Vec<_>>()
    };
    let build = |architecture| Programs::build(architecture, &wanted(architecture));
    let programs = architectures.into_iter().map(build).collect::<Result<Vec<_>>>()?;
    let mut machines = Vec::new();
    for job in jobs {
        let programs = programs.iter().find(|programs| programs.architecture == job.kernel.architecture);
        machines.push(Prepared {
            programs: programs.context("the programs are built for another architecture")?,
            job,
            unpacked: fetch(job.kernel, &place)?,
            disk: match job.tests {
                Tests::NodeRed => Some(disk::make(job.kernel.architecture, &place)?),
                Tests::Kernel => Some(disk::bare(&place, job.kernel.file_system)?),
                Tests::Bench => None,
            },
        });
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let answered = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(machine) = machines.get(index) else { break };
                    let start = Instant::now();
                    let done = machine.run(sensors, filter, &place);
                    let (took, name) = (start.elapsed().as_secs(), machine.job.name());
                    let version = machine.version();
                    match done {
                        Ok(text) => {
                            println!("== {name} ({version}, {took} s) ==\n{}", text.trim());
                            let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                            if machine.job.tests != Tests::NodeRed {
                                answered.push((index, Answers { kernel: machine.job.kernel, version, text }));
                            }
                        }
                        Err(error) => {
                            println!("== {name} ({version}, {took} s) FAILED ==\n{error:#}");
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                        }
                    }
                }
            });
        }
    });
    println!("{} machines in {} s", jobs.len(), start.elapsed().as_secs());
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("the tests failed on {}", failed.join(", "));
    }
    let mut answered = answered.into_inner().unwrap_or_else(PoisonError::into_inner);
    answered.sort_by_key(|&(index, _)| index);
    Ok(answered.into_iter().map(|(_, answers)| answers).collect())
}

/// Fetches a kernel that is not there yet; gives back the directory that it was unpacked to.
fn fetch(kernel: &Kernel, place: &Path) -> Result<PathBuf> {
    let unpacked = place.join("kernels").join(format!("{}-{}", kernel.package, kernel.suite));
    if image(&unpacked).is_ok() {
        return Ok(unpacked);
    }
    let suite = apt::Suite::open(&place.join("apt"), kernel.suite, kernel.architecture)?;
    let mut packages = suite.depends(kernel.package, &["linux-image-"]);
    if packages.is_empty() {
        bail!("{} of {} depends on no kernel", kernel.package, kernel.suite);
    }
    // From 7.x on the image and the modules are packages of their own.
    let parts = ["linux-binary-", "linux-base-", "linux-modules-"];
    packages.extend(packages.clone().iter().flat_map(|package| suite.depends(package, &parts)));
    suite.unpack(&packages, &unpacked)?;
    image(&unpacked).map(|_| unpacked)
}

/// The image among what was unpacked: in /boot, or beside the modules.
fn image(unpacked: &Path) -> Result<PathBuf> {
    if let Ok(image) = apt::first_in(&unpacked.join("boot"), "vmlinuz-") {
        return Ok(image);
    }
    let modules = apt::first_in(&unpacked.join("usr/lib/modules"), "")?;
    apt::first_in(&modules, "vmlinuz")
}

/// A machine that can be booted.
struct Prepared<'a> {
    job: &'a Job,
    programs: &'a Programs,
    /// The kernel.
    unpacked: PathBuf,
    disk: Option<PathBuf>,
}

impl Prepared<'_> {
    /// The kernel's version, by the name of its image or of the directory of its modules.
    fn version(&self) -> String {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Ok(image) = image(&self.unpacked) else { return String::new() };
        let own = name(&image);
        own.strip_prefix("vmlinuz-").map_or_else(|| image.parent().map(name).unwrap_or_default(), str::to_owned)
    }

    fn run(&self, sensors: Option<&str>, filter: &[String], place: &Path) -> Result<String> {
        let (kernel, name) = (self.job.kernel, self.job.name());
        let initramfs = place.join(format!("{name}.cpio"));
        fs::write(&initramfs, self.initramfs(sensors, filter)?)?;
        let parameters = kernel.lsm.map_or_else(String::new, |lsm| format!("lsm={lsm}"));
        let machine = boot::Machine {
            kernel,
            image: &image(&self.unpacked)?,
            initramfs: &initramfs,
            disk: self.disk.as_deref(),
            parameters: &parameters,
        };
        boot::boot(&machine, &place.join(format!("{name}.log")))
    }

    fn initramfs(&self, sensors: Option<&str>, filter: &[String]) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["dev", "disk", "etc", "modules", "proc", "run", "sys", "tmp", "var", "var/tmp"] {
            archive.directory(directory);
        }
        archive.device("dev/console", 5, 1);
        archive.file("etc/passwd", b"root:x:0:0::/:/sbin/nologin\n");
        archive.file("init", &self.programs.init);
        archive.file("tests", self.programs.tests(self.job.tests));
        archive.file("actor", &self.programs.actor);
        archive.file("flowwarden", &self.programs.guard);
        for (path, content) in &self.programs.libraries {
            archive.file_with_directories(path, content);
        }
        if self.disk.is_some() {
            for (name, content) in modules::read(&self.unpacked)? {
                archive.file(&format!("modules/{name}"), &content);
            }
        }
        // The init takes these as they are.
        let kernel = self.job.kernel;
        let sensors = sensors.or(kernel.only);
        let sensor = sensors.map_or(kernel.sensor, |sensors| sensors.split(',').next().unwrap_or_default());
        let mut environment = format!("FLOWWARDEN_EXPECT={sensor}\nFLOWWARDEN_CACHE={}\n", disk::CACHE);
        if self.disk.is_some() {
            // Of the disk, and not of memory.
            environment.push_str("TMPDIR=/var/tmp\n");
        } else {
            environment.push_str("FLOWWARDEN_TMP=/tmp\n");
        }
        if let Some(sensors) = sensors {
            environment = format!("{environment}FLOWWARDEN_SENSORS={sensors}\n");
        }
        archive.file("etc/environment", environment.as_bytes());
        let skipped: &[&str] = if kernel.restarts || !filter.is_empty() { &[] } else { &RESTARTING };
        let filter = filter.iter().map(String::as_str).chain(skipped.iter().flat_map(|name| ["--skip", name]));
        archive.file("etc/filter", filter.collect::<Vec<_>>().join("\n").as_bytes());
        Ok(archive.finish())
    }
}
