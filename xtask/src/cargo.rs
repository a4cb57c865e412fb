//! `cargo` for the two worlds of this workspace: userspace, and the kernel's virtual machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use flowwarden_tests::needs;

use crate::{setup::Toolchain, shell};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where the kernel crate is built, apart from userspace so that neither build throws the other's work away.
pub(crate) fn bpf_target() -> PathBuf {
    needs::target().join("bpf")
}

/// The finished eBPF object.
pub(crate) fn bpf_object() -> PathBuf {
    bpf_target().join("flowwarden.bpf.o")
}

/// The finished `flowwarden` program, built as users build it. What cargo builds for the tests of `monitor` has features that
/// only the dependencies of tests ask for.
pub(crate) fn flowwarden() -> PathBuf {
    needs::target().join("guard/flowwarden")
}

/// All user crates. Building some of them compiles shared crates again, with other features.
pub(crate) const CRATES: [&str; 3] = ["--workspace", "--exclude", "monitor-ebpf"];

/// `cargo` over all user crates, in the profile of tests.
pub(crate) fn all(subcommand: &str) -> Command {
    let mut cargo = user(subcommand);
    cargo.args(CRATES);
    cargo
}

/// The harness's programs, which cargo passes over unless they are named.
pub(crate) const HARNESS: [&str; 4] = ["bench", "kernel", "node_red", "promises"];

/// What is measured was compiled as users compile it.
pub(crate) const RELEASE: &str = "--release";

/// `cargo test` of one of the harness's programs against the finished `flowwarden`, with so many tests at a time; what
/// follows goes to the program.
pub(crate) fn harness(name: &str, at_a_time: u8) -> Command {
    let mut cargo = all("test");
    cargo.args(["--test", name, "--"]).arg(format!("--test-threads={at_a_time}")).env("FLOWWARDEN_BIN", flowwarden());
    cargo
}

/// `cargo` for userspace, in the toolchain that runs `xtask`, with the eBPF object that `monitor` embeds.
pub(crate) fn user(subcommand: &str) -> Command {
    let mut cargo = plain("cargo");
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    cargo.arg(subcommand).env("FLOWWARDEN_BPF_OBJECT", bpf_object());
    cargo
}

/// `cargo` for the kernel crate.
pub(crate) fn kernel(toolchain: &Toolchain, subcommand: &str) -> Command {
    /// `--btf` carries the types of maps and programs; `v3` is the instruction set that all kernels from 5.10 on run.
    const FLAGS: [&str; 2] = ["-Clink-arg=--btf", "-Ctarget-cpu=v3"];
    let mut cargo = plain("rustup");
    cargo
        .args(["run", toolchain.name(), "cargo", subcommand])
        .args(["--package", "monitor-ebpf", "--profile", "bpf", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(bpf_target())
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    match toolchain {
        Toolchain::Nightly(_) => cargo.args(["-Z", "build-std=core"]),
        // A stable compiler: aya-ebpf needs language features that only nightly gives without this.
        Toolchain::Debian => cargo.env("RUSTC_BOOTSTRAP", "1"),
    };
    cargo
}

/// `program` at the workspace's root, without what the cargo that runs `xtask` has left in the environment.
pub(crate) fn plain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", shell::search_path());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_BIN_") {
            command.env_remove(&name);
        }
    }
    for name in ["CARGO", "LD_LIBRARY_PATH", "RUSTC", "RUSTC_WRAPPER", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}
