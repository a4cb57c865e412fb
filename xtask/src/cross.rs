//! Building for the architecture of a virtual machine.
//!
//! For the machine's own architecture everything is built already, linked with the C library of this machine. For another
//! one Rust's standard library is needed, and the programs are linked statically. There are two ways to the library:
//!
//! - **rustup**: `rustup target add`, to the toolchain that runs `xtask`;
//! - **Debian**: the library from Debian's package for that architecture, unpacked beside the compiler that
//!   `setup` links into rustup as `bpf`, and of the same version. Nothing of a foreign architecture is
//!   installed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use flowwarden_tests::{
    needs,
    tools::{self, Step},
};

use crate::{
    build, cargo, setup, shell,
    vm::{apt, architecture::Architecture},
};

/// The package with the standard library of Debian's compiler.
const PACKAGE: &str = "libstd-rust-web-dev";
/// The C compiler that links for arm64.
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// What tests are compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Where the standard library is.
#[derive(Clone, Debug)]
pub(crate) enum Std {
    /// What this machine's programs are built with.
    Own,
    /// In the toolchain that runs `xtask`.
    Rustup,
    /// Debian's, in this directory, for the toolchain `bpf`.
    Debian(PathBuf),
}

impl Std {
    /// Finds the library for an architecture, and gets it when there is none.
    pub(crate) fn find(architecture: Architecture) -> Result<Self> {
        if architecture == Architecture::OWN {
            return Ok(Self::Own);
        }
        setup::install(&tools::missing(&[Step::Foreign]))?;
        if has_std(&mut rustc(), architecture) {
            return Ok(Self::Rustup);
        }
        let debian = sysroot(architecture);
        if let Some(found) = debian.as_deref().filter(|sysroot| is_whole(sysroot, architecture)) {
            return Ok(Self::Debian(found.to_owned()));
        }
        println!("setup: no standard library for {}; trying rustup", architecture.target());
        let mut add = cargo::plain("rustup");
        add.args(["target", "add", architecture.target()]);
        if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
            add.arg("--toolchain").arg(toolchain);
        }
        if shell::run(&mut add).is_ok() && has_std(&mut rustc(), architecture) {
            return Ok(Self::Rustup);
        }
        println!("setup: rustup cannot fetch it here; unpacking that of Debian's {PACKAGE} for {architecture}");
        let sysroot = debian.with_context(|| {
            format!(
                "and Debian's compiler is not here, whose library would do: let rustup reach its server for `rustup \
                 target add {}`",
                architecture.target()
            )
        })?;
        unpack(&sysroot, architecture)?;
        Ok(Self::Debian(sysroot))
    }

    /// In words.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Own => "this machine's",
            Self::Rustup => "from rustup",
            Self::Debian(_) => "from Debian's package, unpacked, for the toolchain `bpf`",
        }
    }

    /// Builds the guard; answers where it is.
    pub(crate) fn guard(&self, architecture: Architecture) -> Result<PathBuf> {
        if matches!(self, Self::Own) {
            build::guard()?;
            return Ok(cargo::flowwarden());
        }
        shell::run(self.cargo("build", architecture).args([cargo::RELEASE, "--package", "monitor"]))?;
        Ok(self.built(architecture, Profile::Release).join("flowwarden"))
    }

    /// `cargo` that builds the tests that it is given, and the programs that they start, and runs nothing.
    pub(crate) fn tests(&self, architecture: Architecture, profile: Profile) -> Command {
        let mut cargo = self.cargo("test", architecture);
        cargo.args(cargo::CRATES).arg("--no-run");
        cargo.args((profile == Profile::Release).then_some(cargo::RELEASE));
        cargo
    }

    fn cargo(&self, subcommand: &str, architecture: Architecture) -> Command {
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
        let mut cargo = match self {
            Self::Own | Self::Rustup => cargo::user(subcommand),
            Self::Debian(sysroot) => {
                flags.push(format!("--sysroot={}", sysroot.join("usr").display()));
                let mut cargo = cargo::plain("rustup");
                cargo.args(["run", "bpf", "cargo", subcommand]);
                cargo.env("FLOWWARDEN_BPF_OBJECT", cargo::bpf_object());
                // Another compiler's work is kept apart.
                cargo.arg("--target-dir").arg(self.target_directory());
                cargo
            }
        };
        if !matches!(self, Self::Own) {
            cargo.args(["--target", architecture.target()]);
            cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
            cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        }
        cargo
    }

    /// Where cargo leaves the programs of [`Self::tests`].
    pub(crate) fn built(&self, architecture: Architecture, profile: Profile) -> PathBuf {
        let place = match self {
            Self::Own => needs::target(),
            _ => self.target_directory().join(architecture.target()),
        };
        place.join(match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        })
    }

    fn target_directory(&self) -> PathBuf {
        match self {
            Self::Own | Self::Rustup => needs::target(),
            Self::Debian(_) => needs::target().join("debian"),
        }
    }

    /// The libraries that programs built with it look for when they start, by their paths.
    pub(crate) fn libraries(&self, programs: &[&PathBuf]) -> Result<BTreeSet<PathBuf>> {
        let mut libraries = BTreeSet::new();
        if matches!(self, Self::Own) {
            for program in programs {
                let list = shell::ask(cargo::plain("ldd").arg(program));
                let list = list.with_context(|| format!("`ldd {}` names no libraries", program.display()))?;
                libraries.extend(list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
            }
        }
        Ok(libraries)
    }
}

/// The compiler that runs `xtask`.
fn rustc() -> Command {
    let mut rustc = cargo::plain("rustc");
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        rustc.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    rustc
}

fn has_std(rustc: &mut Command, architecture: Architecture) -> bool {
    let libraries = shell::ask(rustc.args(["--print", "target-libdir", "--target", architecture.target()]));
    libraries.is_some_and(|directory| holds_std(Path::new(&directory)))
}

fn holds_std(libraries: &Path) -> bool {
    let mut files = fs::read_dir(libraries).into_iter().flatten().flatten();
    files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Where Debian's library is unpacked to; its version is that of the compiler. `None` when that is not here.
fn sysroot(architecture: Architecture) -> Option<PathBuf> {
    let version = compiler_version()?;
    Some(needs::target().join("vm").join(format!("std-{architecture}-{version}")))
}

fn compiler_version() -> Option<String> {
    let version = shell::ask(cargo::plain("dpkg-query").args(["--show", "--showformat=${Version}", PACKAGE]))?;
    (!version.is_empty()).then_some(version)
}

fn is_whole(sysroot: &Path, architecture: Architecture) -> bool {
    holds_std(&sysroot.join("usr/lib/rustlib").join(architecture.target()).join("lib"))
}

fn unpack(sysroot: &Path, architecture: Architecture) -> Result<()> {
    let version = compiler_version().unwrap_or_default();
    let suite = apt::Suite::own(&needs::target().join("vm/apt"), architecture)?;
    suite.unpack(&[format!("{PACKAGE}={version}")], sysroot).with_context(|| {
        format!(
            "Debian's archive has no {PACKAGE} {version} for {architecture} any more: type `apt-get upgrade rustc-web`"
        )
    })
}
