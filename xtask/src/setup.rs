//! `cargo xtask setup`: finds, or installs, what the build and the tests need.
//!
//! The eBPF object needs a Rust compiler with `core` for `bpfel-unknown-none` and a `bpf-linker` whose LLVM is at least as
//! new as the compiler's. Two ways lead there:
//!
//! - **nightly**: rustup's nightly with `rust-src`, and a `bpf-linker` that the user has, or that `cargo binstall` fetches;
//! - **Debian**: the matched set of packages (compiler, `core` for eBPF, LLVM), linked into rustup under the name `bpf`,
//!   and a `bpf-linker` built against that LLVM.
//!
//! Whatever is complete is used. When neither is, nightly is tried first, since it asks least of the machine; where rustup
//! cannot fetch it, Debian's set is installed.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use flowwarden_tests::{
    needs,
    tools::{self, Step},
};

use crate::{
    cargo,
    cross::Std,
    progress, shell,
    vm::{apt, architecture::Architecture},
};

/// Packages of Debian's matched set.
const COMPILER_PACKAGES: [&str; 6] =
    ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
/// The LLVM that Debian's compiler is built with.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
/// syslog-ng's program and modules.
const SYSLOG_NG: &str = "syslog-ng-core";
/// Node-RED 4 runs from this Node.js on.
const OLDEST_NODE: (u32, u32) = (18, 5);

/// What `cargo xtask setup` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Also install what the demo and the tests need (tests/src/tools.rs has the list), and unpack syslog-ng
    #[arg(long)]
    pub(crate) tests: bool,
    /// Also install what boots other kernels: QEMU, and what builds for arm64
    #[arg(long)]
    pub(crate) vm: bool,
}

/// A compiler that can build the kernel crate.
pub(crate) enum Toolchain {
    /// A rustup nightly with `rust-src`, by its name; `core` is built from source.
    Nightly(String),
    /// Debian's compiler, linked into rustup as `bpf`; `core` comes with it.
    Debian,
}

impl Toolchain {
    /// Its name in rustup.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Nightly(name) => name,
            Self::Debian => "bpf",
        }
    }
}

/// `cargo xtask setup`.
pub(crate) fn run(options: &Options) -> Result<()> {
    const TESTS: [Step; 4] = [Step::Demo, Step::Unit, Step::Kernel, Step::Promises];
    const MACHINES: [Step; 2] = [Step::Vm, Step::Foreign];
    let mut steps = vec![Step::Build, Step::Fmt, Step::Clippy, Step::ClippyKernel, Step::Doc];
    steps.extend(TESTS.iter().filter(|_| options.tests));
    steps.extend(MACHINES.iter().filter(|_| options.vm));
    let toolchain = prepare(&steps)?;
    println!("eBPF: {}, {LINKER} found", describe(&toolchain));
    if options.tests {
        syslog_ng()?;
        println!("tests: Node.js, npm and the other programs found");
    }
    if options.vm {
        vm_tools(&[Architecture::Amd64, Architecture::Arm64])?;
    }
    Ok(())
}

/// Finds what boots other kernels and builds for their processors, and installs what is missing.
pub(crate) fn vm_tools(architectures: &[Architecture]) -> Result<()> {
    for architecture in architectures {
        install(&tools::missing(&[architecture.step()]))?;
        let std = Std::find(*architecture)?;
        println!("{architecture}: {} found; standard library {}", architecture.emulator(), std.describe());
    }
    Ok(())
}

/// Installs a package that emulates a processor.
fn emulator(package: &str) -> Result<()> {
    if apt_install(&[package]).is_ok() {
        return Ok(());
    }
    // Parts of QEMU that are installed from backports already break those of the suite itself.
    let suite = format!("{}-backports", apt::codename());
    let place = needs::target().join("vm/backports");
    apt::with_suite(&place, &suite, |apt| {
        shell::run(apt.args(["install", "--yes", "--no-install-recommends", "--target-release", &suite, package]))
    })
    .with_context(|| format!("install {package} by hand, from {suite} where its parts conflict"))
}

/// Finds the compiler for the kernel crate, and installs it when there is none.
pub(crate) fn kernel_toolchain() -> Result<Toolchain> {
    prepare(&[Step::Build])
}

/// Finds what these steps need and the compiler for the kernel crate, and installs all that is missing at once.
pub(crate) fn prepare(steps: &[Step]) -> Result<Toolchain> {
    if shell::find("rustup").is_none() {
        bail!("rustup is missing: install it as https://rustup.rs says, then run this command again");
    }
    if steps.iter().any(|step| matches!(step, Step::Demo | Step::Promises)) {
        node_is_new_enough()?;
    }
    let mut packages = tools::missing(steps);
    let mut toolchain = complete_debian().or_else(complete_nightly);
    if toolchain.is_none() {
        println!("setup: no compiler for eBPF is complete; trying rustup's nightly");
        toolchain = install_nightly();
    }
    if toolchain.is_none() {
        println!(
            "setup: nightly with rust-src and {LINKER} cannot be had here; Debian's matched set is the other way (about \
             300 MB to fetch, 1.7 GB on disk)"
        );
        packages.extend(COMPILER_PACKAGES);
    }
    install(&packages)?;
    if let Some(toolchain) = toolchain {
        return Ok(toolchain);
    }
    link_debian()?;
    complete_debian().with_context(|| {
        format!(
            "setup finished, but no `core` for bpfel-unknown-none shows up: look at `rustup run bpf rustc -vV`, \
                 and reinstall {}",
            COMPILER_PACKAGES.join(" ")
        )
    })
}

/// LLVM's `objcopy`, as it comes with a toolchain.
pub(crate) fn objcopy(toolchain: &Toolchain) -> Result<String> {
    let name = "llvm-objcopy";
    let (place, fix) = match toolchain {
        Toolchain::Debian => (Path::new(LLVM_PREFIX).join("bin"), "apt-get install llvm-22".to_owned()),
        Toolchain::Nightly(nightly) => {
            let libraries = ask_rustc(nightly, &["--print", "target-libdir"]).unwrap_or_default();
            let fix = format!("rustup component add llvm-tools --toolchain {nightly}");
            (Path::new(&libraries).with_file_name("bin"), fix)
        }
    };
    let file = place.join(name);
    if !file.is_file() {
        bail!("{} is missing: run `{fix}`", file.display());
    }
    Ok(file.display().to_string())
}

/// Unpacks syslog-ng with those of its libraries that a machine may not have. Debian has one syslog server at a time
/// installed, and the tests talk to two.
pub(crate) fn syslog_ng() -> Result<()> {
    let place = needs::unpacked_to(SYSLOG_NG);
    if place.is_dir() {
        return Ok(());
    }
    let suite = apt::Suite::own(&needs::target().join("vm/apt"), Architecture::OWN)?;
    let mut packages = suite.depends(SYSLOG_NG, &["libglib", "libivykis", "libjson-c", "libnet", "libpcre", "libwrap"]);
    packages.push(SYSLOG_NG.to_owned());
    suite
        .unpack(&packages, &place)
        .with_context(|| format!("{SYSLOG_NG} comes from Debian's archive: see that apt reaches it"))
}

fn describe(toolchain: &Toolchain) -> String {
    match toolchain {
        Toolchain::Nightly(name) => format!("rustup's {name} with rust-src (core is built from source)"),
        Toolchain::Debian => "Debian's rustc (rustup toolchain `bpf`) with precompiled core".to_owned(),
    }
}

/// Debian's set counts as complete when its `core` for eBPF is there. It comes before nightly: that `bpf` is linked
/// means that setup has been here and that the linker matches it.
fn complete_debian() -> Option<Toolchain> {
    shell::find(LINKER)?;
    toolchains().iter().find(|name| *name == "bpf")?;
    let libraries = ask_rustc("bpf", &["--print", "target-libdir", "--target", "bpfel-unknown-none"])?;
    let mut files = fs::read_dir(libraries).ok()?.flatten();
    files.any(|file| file.file_name().to_string_lossy().starts_with("libcore-")).then_some(Toolchain::Debian)
}

fn complete_nightly() -> Option<Toolchain> {
    shell::find(LINKER)?;
    nightly_with_sources()
}

fn nightly_with_sources() -> Option<Toolchain> {
    let nightly = toolchains().into_iter().find(|name| name.starts_with("nightly"))?;
    let sysroot = ask_rustc(&nightly, &["--print", "sysroot"])?;
    let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    core.is_file().then_some(Toolchain::Nightly(nightly))
}

/// Names of rustup's toolchains.
fn toolchains() -> Vec<String> {
    let list = shell::ask(cargo::plain("rustup").args(["toolchain", "list"])).unwrap_or_default();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn ask_rustc(toolchain: &str, arguments: &[&str]) -> Option<String> {
    shell::ask(cargo::plain("rustup").args(["run", toolchain, "rustc"]).args(arguments))
}

/// Adds `rust-src` to nightly, and the linker when there is a way to get a finished one.
///
/// A linker compiled here would need the very LLVM of that nightly, which no distribution packages; so without a finished
/// one this way is closed.
fn install_nightly() -> Option<Toolchain> {
    // Without a linker the compiler would be fetched for nothing.
    if shell::find(LINKER).is_none() {
        shell::find("cargo-binstall")?;
    }
    let mut rustup = cargo::plain("rustup");
    if toolchains().iter().any(|name| name.starts_with("nightly")) {
        rustup.args(["component", "add", "rust-src", "clippy", "llvm-tools", "--toolchain", "nightly"]);
    } else {
        // The user's rustup itself is none of our business.
        rustup.args(["toolchain", "install", "nightly", "--no-self-update"]);
        rustup.args(["--profile", "minimal", "--component", "rust-src,clippy,llvm-tools"]);
    }
    shell::run(&mut rustup).ok()?;
    if shell::find(LINKER).is_none() {
        shell::run(cargo::plain("cargo").args(["binstall", "--no-confirm", LINKER])).ok()?;
    }
    nightly_with_sources()
}

/// Has rustup know Debian's set, which is installed, and builds the linker for it.
fn link_debian() -> Result<()> {
    shell::run(cargo::plain("rustup").args(["toolchain", "link", "bpf", "/usr"]))?;
    if shell::find(LINKER).is_some() {
        return Ok(());
    }
    // Without LLVM_PREFIX its build script takes whichever llvm-config comes first on PATH.
    let mut install = cargo::plain("cargo");
    install
        .args(["install", LINKER, "--version", LINKER_VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", LLVM_PREFIX)
        // Its own target directory: the workspace's must not hold somebody else's crates.
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(env::temp_dir());
    let what = format!("cargo builds {LINKER} {LINKER_VERSION} against {LLVM_PREFIX}");
    progress::noisy(&what, "about 4 min", || shell::run(&mut install))
}

/// Installs packages, of which those that emulate processors may be in the way of one another.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let emulators = packages.iter().filter(|package| package.starts_with("qemu-system-"));
    if !shell::is_root() {
        return apt_install(packages);
    }
    let others: Vec<_> = packages.iter().copied().filter(|package| !package.starts_with("qemu-system-")).collect();
    apt_install(&others)?;
    emulators.into_iter().try_for_each(|package| emulator(package))
}

/// Installs the packages that are not there yet; anybody but root gets the line to type.
fn apt_install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if shell::find("apt-get").is_none() {
        bail!("{} missing, and this system has no apt-get: install them by its own means", missing.join(", "));
    }
    if !shell::is_root() {
        bail!("packages are missing; as root, type:\n    apt-get update && {line}\nand run this command again");
    }
    let what = format!("apt-get installs {} packages", missing.len());
    progress::noisy(&what, "it prints what it has to fetch", || install_missing(&missing))
        .with_context(|| format!("fix what apt-get reports, then type `{line}`"))
}

fn install_missing(packages: &[&str]) -> Result<()> {
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    if packages.iter().any(|package| !is_known(package)) {
        shell::run(apt_get().arg("update"))?;
    } else if shell::run(&mut install).is_ok() {
        return Ok(());
    } else {
        // The usual cause: the lists are older than the archive.
        shell::run(apt_get().arg("update"))?;
    }
    shell::run(&mut install)
}

fn apt_get() -> Command {
    let mut apt = apt("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// A program of apt's. What it starts, such as gpgv, dpkg and the scripts of packages, is Debian's own.
pub(crate) fn apt(program: &str) -> Command {
    let mut apt = cargo::plain(program);
    apt.env("PATH", tools::DEBIAN.join(":"));
    apt
}

fn is_installed(package: &str) -> bool {
    shell::ask(cargo::plain("dpkg-query").args(["--show", "--showformat=${Status}", package]))
        .is_some_and(|status| status == "install ok installed")
}

fn is_known(package: &str) -> bool {
    shell::ask(apt("apt-cache").args(["show", "--no-all-versions", package])).is_some()
}

fn node_is_new_enough() -> Result<()> {
    match node_version() {
        Some(version) if version < OLDEST_NODE => bail!(
            "Node.js {}.{} is on PATH, and Node-RED needs {}.{} at least: update it, or take it off PATH to have Debian's \
             installed",
            version.0,
            version.1,
            OLDEST_NODE.0,
            OLDEST_NODE.1
        ),
        _ => Ok(()),
    }
}

fn node_version() -> Option<(u32, u32)> {
    let version = shell::ask(cargo::plain("node").arg("--version"))?;
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
