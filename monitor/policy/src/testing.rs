//! What tests of several crates use: machines made of files.
#![expect(clippy::missing_panics_doc, clippy::unwrap_used, reason = "tests alone use it")]

use std::fs;

use crate::machine::root::Root;

/// A root with these files. They exist as long as the directory is kept.
#[must_use]
pub fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let root = Root::at(directory.path()).unwrap();
    (directory, root)
}
