//! Embeds the eBPF object that `cargo xtask build` made.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=FLOWWARDEN_BPF_OBJECT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object =
        env::var_os("FLOWWARDEN_BPF_OBJECT").map_or_else(|| root.join("../target/bpf/flowwarden.bpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("flowwarden.bpf.o");
    if let Err(error) = fs::copy(&object, &embedded) {
        println!("cargo::error={}: {error}; build the kernel programs first: cargo xtask build", object.display());
    }
}
