//! A machine for tests.

use std::path::{Path, PathBuf};

use policy::{
    host::{CanDeny, Host},
    model::Select,
};

/// A machine without links and users.
pub(super) struct Bare;

impl Host for Bare {
    fn uid(&self, _: &str) -> Option<u32> {
        None
    }
    fn login(&self, _: u32) -> Option<(String, String)> {
        None
    }
    fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
        Vec::new()
    }
    fn owner(&self, _: &Path) -> Option<(u32, u32)> {
        None
    }
    fn exists(&self, _: &Path) -> bool {
        true
    }
    fn link(&self, _: &Path) -> Option<PathBuf> {
        None
    }
    fn can_deny(&self) -> CanDeny {
        CanDeny::default()
    }
}
