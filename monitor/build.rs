//! Embeds the eBPF object that `cargo xtask build` made, or an empty one where there is none.

use std::{env, fs, io, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=FLOWWARDEN_BPF_OBJECT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let given = env::var_os("FLOWWARDEN_BPF_OBJECT").map(PathBuf::from);
    // An object that is named has to be there: a build for release or CI must not embed an empty one unnoticed.
    let required = given.is_some();
    let object = given.unwrap_or_else(|| root.join("../target/bpf/flowwarden.bpf.o"));
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("flowwarden.bpf.o");
    let result = match fs::read(&object) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
            println!("cargo::warning=built without kernel programs: `flowwarden run` needs `cargo xtask build`");
            fs::write(&embedded, [])
        }
        Err(error) => Err(error),
        Ok(bytes) => fs::write(&embedded, bytes),
    };
    if let Err(error) = result {
        println!("cargo::error={}: {error}; build the kernel programs first: cargo xtask build", object.display());
    }
}
