//! The pages of the documentation.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Adds the pages of Markdown below a directory.
pub(crate) fn below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}
