//! Pages of the documentation that are generated from the code.

use std::{env, fs, path::PathBuf};

/// Compares a page of `docs/` with what the code says, or writes it if `FLOWWARDEN_BLESS` is set.
pub(crate) fn compare(page: &str, wanted: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    if env::var_os("FLOWWARDEN_BLESS").is_some() {
        fs::write(&path, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == wanted {
        return;
    }
    let line = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = line.unwrap_or_else(|| found.lines().count().min(wanted.lines().count()));
    panic!(
        "docs/{page} is out of date: run the test with FLOWWARDEN_BLESS=1. Line {} should be:\n{}",
        line + 1,
        wanted.lines().nth(line).unwrap_or("the end of the file")
    );
}
