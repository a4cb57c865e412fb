//! `cargo xtask vm`: the tests inside other kernels, under QEMU.
//!
//! A machine has nothing but an initramfs: an init, the tests as one static program, the guard, and the program that plays
//! the attacks. One boot runs them all.

pub(crate) mod apt;
pub(crate) mod architecture;
mod boot;
mod catalogue;
mod initramfs;
mod kernels;
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

use anyhow::{Result, bail};
use architecture::Architecture;
use catalogue::Answers;
use clap::Args;
use flowwarden_tests::needs;
use initramfs::Archive;
use kernels::{KERNELS, Kernel};
use programs::Programs;

use crate::{build, setup};

/// How many machines run at a time.
const AT_A_TIME: usize = 2;

/// What `cargo xtask vm` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Boot only this kernel; may be given more than once
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
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
        for Kernel { name, package, suite, sensor, .. } in KERNELS {
            println!("{name:<14} {package} of {suite}, best sensor {sensor}");
        }
        return Ok(());
    }
    if let Some(unknown) = options.kernel.iter().find(|name| KERNELS.iter().all(|kernel| kernel.name != **name)) {
        bail!("there is no kernel `{unknown}`: `cargo xtask vm --list` names them");
    }
    let chosen = KERNELS
        .iter()
        .filter(|kernel| options.kernel.is_empty() || options.kernel.iter().any(|name| name == kernel.name));
    let toolchain = setup::kernel_toolchain()?;
    build::kernel(&toolchain)?;
    let answers = all(&chosen.collect::<Vec<_>>(), options.sensors.as_deref(), &options.filter)?;
    if options.kernel.is_empty() && options.sensors.is_none() && options.filter.is_empty() {
        catalogue::write(&answers)?;
    }
    Ok(())
}

/// Everything, as `cargo xtask test` does it, with what was built already.
pub(crate) fn matrix(filter: &[String]) -> Result<()> {
    all(&KERNELS.iter().collect::<Vec<_>>(), None, filter).map(drop)
}

/// Finds what the machines need, and installs what is missing.
pub(crate) fn tools() -> Result<()> {
    setup::vm_tools(&architectures(&KERNELS.iter().collect::<Vec<_>>()))
}

/// What kernels run on, each once.
fn architectures(kernels: &[&Kernel]) -> Vec<Architecture> {
    let mut all: Vec<_> = kernels.iter().map(|kernel| kernel.architecture).collect();
    all.dedup();
    all
}

/// Boots kernels, some at a time, and tells how each has fared.
fn all(kernels: &[&'static Kernel], sensors: Option<&str>, filter: &[String]) -> Result<Vec<Answers>> {
    let architectures = architectures(kernels);
    setup::vm_tools(&architectures)?;
    let place = needs::target().join("vm");
    fs::create_dir_all(&place)?;
    let programs = architectures.into_iter().map(Programs::build).collect::<Result<Vec<_>>>()?;
    let mut images = Vec::new();
    for kernel in kernels {
        images.push(fetch(kernel, &place)?);
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let answered = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(kernel), Some(image)) = (kernels.get(index), images.get(index)) else { break };
                    let built = programs.iter().find(|programs| programs.architecture == kernel.architecture);
                    let Some(programs) = built else { break };
                    let start = Instant::now();
                    let done = boot(kernel, image, programs, sensors, filter, &place);
                    let took = start.elapsed().as_secs();
                    let version = version(image);
                    match done {
                        Ok(text) => {
                            println!("== {} ({version}, {took} s) ==\n{}", kernel.name, text.trim());
                            let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                            answered.push((index, Answers { kernel, version, text }));
                        }
                        Err(error) => {
                            println!("== {} ({version}, {took} s) FAILED ==\n{error:#}", kernel.name);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(kernel.name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("the tests failed on {}", failed.join(", "));
    }
    let mut answered = answered.into_inner().unwrap_or_else(PoisonError::into_inner);
    answered.sort_by_key(|&(index, _)| index);
    Ok(answered.into_iter().map(|(_, answers)| answers).collect())
}

/// The version of a kernel's image, by its own name or that of its directory.
fn version(image: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let own = name(image);
    own.strip_prefix("vmlinuz-").map_or_else(|| image.parent().map(name).unwrap_or_default(), str::to_owned)
}

/// Fetches a kernel that is not there yet; gives back its image.
fn fetch(kernel: &Kernel, place: &Path) -> Result<PathBuf> {
    let unpacked = place.join("kernels").join(format!("{}-{}", kernel.package, kernel.suite));
    if let Ok(image) = image(&unpacked) {
        return Ok(image);
    }
    let suite = apt::Suite::open(&place.join("apt"), kernel.suite, kernel.architecture)?;
    let mut packages = suite.depends(kernel.package, &["linux-image-"]);
    if packages.is_empty() {
        bail!("{} of {} depends on no kernel", kernel.package, kernel.suite);
    }
    // From 7.x on the image is a package of its own.
    packages
        .extend(packages.clone().iter().flat_map(|package| suite.depends(package, &["linux-binary-", "linux-base-"])));
    let partial = place.join("kernels/partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    suite.unpack(&packages, &partial)?;
    let _ = fs::remove_dir_all(&unpacked);
    fs::rename(&partial, &unpacked)?;
    image(&unpacked)
}

/// The image among what was unpacked: in /boot, or beside the modules.
fn image(unpacked: &Path) -> Result<PathBuf> {
    if let Ok(image) = apt::first_in(&unpacked.join("boot"), "vmlinuz-") {
        return Ok(image);
    }
    let modules = apt::first_in(&unpacked.join("usr/lib/modules"), "")?;
    apt::first_in(&modules, "vmlinuz")
}

fn boot(
    kernel: &Kernel,
    image: &Path,
    programs: &Programs,
    sensors: Option<&str>,
    filter: &[String],
    place: &Path,
) -> Result<String> {
    let mut archive = Archive::default();
    for directory in ["dev", "etc", "proc", "run", "sys", "tmp", "var", "var/tmp"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.file("etc/passwd", b"root:x:0:0::/:/sbin/nologin\n");
    archive.file("init", &programs.init);
    archive.file("tests", &programs.tests);
    archive.file("actor", &programs.actor);
    archive.file("flowwarden", &programs.guard);
    // The init takes these as they are.
    let sensor = sensors.map_or(kernel.sensor, |sensors| sensors.split(',').next().unwrap_or_default());
    let mut environment = format!("FLOWWARDEN_EXPECT={sensor}\n");
    if let Some(sensors) = sensors {
        environment = format!("{environment}FLOWWARDEN_SENSORS={sensors}\n");
    }
    archive.file("etc/environment", environment.as_bytes());
    archive.file("etc/filter", filter.join("\n").as_bytes());
    let file = place.join(format!("{}.cpio", kernel.name));
    fs::write(&file, archive.finish())?;
    let parameters = kernel.lsm.map_or_else(String::new, |lsm| format!("lsm={lsm}"));
    let log = place.join(format!("{}.log", kernel.name));
    boot::boot(&boot::Machine { kernel, image, initramfs: &file, parameters: &parameters }, &log)
}
