//! `cargo xtask build`: the eBPF object, then the `flowwarden` program that embeds it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::Args;
use flowwarden_tests::{needs, tools::Step};

use crate::{cargo, links, setup, setup::Toolchain, shell};

/// What `cargo xtask build` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Only the eBPF object
    #[arg(long, hide = true)]
    object: bool,
    /// Compile log lines into the kernel programs, and print them while the guard runs
    #[arg(long)]
    trace: bool,
}

/// The feature of `monitor-ebpf` and of `monitor` with which programs log and the guard prints the lines.
const TRACE: [&str; 2] = ["--features", "trace"];

/// `cargo xtask build`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = setup::kernel_toolchain()?;
    let features = if options.trace { &TRACE[..] } else { &[] };
    kernel_with(&toolchain, features)?;
    if options.object { Ok(()) } else { guard_with(features) }
}

/// Installs what these steps need as well, and then builds everything with the programs that a build may use.
pub(crate) fn before(steps: &[Step]) -> Result<()> {
    setup::prepare(&[&[Step::Build], steps].concat())?;
    shell::succeed(&mut links::command(Step::Build, &[], &["build"])?, "cargo xtask build")
}

/// Builds the eBPF object with the programs that a build may use.
pub(crate) fn object() -> Result<()> {
    shell::succeed(&mut links::command(Step::Build, &[], &["build", "--object"])?, "cargo xtask build --object")
}

/// Builds everything with `toolchain` for the kernel crate.
pub(crate) fn build(toolchain: &Toolchain) -> Result<()> {
    kernel(toolchain)?;
    guard()
}

/// Builds the `flowwarden` program around an eBPF object that is there.
pub(crate) fn guard() -> Result<()> {
    guard_with(&[])
}

fn guard_with(features: &[&str]) -> Result<()> {
    shell::run(cargo::user("build").args(["--release", "--package", "monitor"]).args(features))?;
    copy_if_changed(&needs::target().join("release/flowwarden"), &cargo::flowwarden())
}

/// Builds the eBPF object and puts it where `monitor` embeds it from.
pub(crate) fn kernel(toolchain: &Toolchain) -> Result<()> {
    kernel_with(toolchain, &[])
}

fn kernel_with(toolchain: &Toolchain, features: &[&str]) -> Result<()> {
    shell::run(cargo::kernel(toolchain, "build").args(features)).with_context(|| match toolchain {
        Toolchain::Nightly(_) => {
            "if the linker could not read the compiler's bitcode, bpf-linker's LLVM is older than nightly's: install a \
             newer bpf-linker"
        }
        Toolchain::Debian => "if the compiler is the cause, `cargo xtask setup` tells which one is used",
    })?;
    let built = cargo::bpf_target().join("bpfel-unknown-none/bpf/flowwarden-bpf");
    let stripped = built.with_extension("stripped");
    // The linker makes BTF of the compiler's debug information and leaves that in: four fifths of the object, which the
    // guard would carry about and read at its start.
    shell::run(cargo::plain(&setup::objcopy(toolchain)?).arg("--strip-debug").args([&built, &stripped]))?;
    copy_if_changed(&stripped, &cargo::bpf_object())
}

/// Leaves `to` alone when nothing has changed, so that `monitor` is not built again for a new time stamp; and replaces it
/// as a whole, since it may be running.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let built = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == built) {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    let place = |()| {
        fs::copy(from, &partial)?;
        fs::rename(&partial, to)
    };
    let made = to.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(place).with_context(|| format!("{} cannot be written", to.display()))
}
