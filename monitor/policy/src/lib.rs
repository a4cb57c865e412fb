//! The policy: a TOML file becomes a validated [`model::Policy`], and that becomes map entries.
//!
//! [`parse`] knows the format and nothing of the machine, [`host`] what only the machine can tell (users, cgroups,
//! who may write the file), [`compile`] the tree of nodes that [`monitor_common::decide`] walks.

pub mod compile;
pub mod host;
pub mod limit;
pub mod machine;
pub mod model;
pub mod name;
pub mod own;
pub mod parse;
pub mod peers;
pub mod preset;
pub mod settle;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod toml_reader;

use model::Policy;

use crate::toml_reader::Fault;

/// Whether the policy fits into the kernel's tables, whatever the files are.
pub fn fits(policy: &Policy, host: &dyn host::Host) -> Result<(), Fault> {
    let slots = policy.instances.iter().map(|instance| instance.name.clone()).zip(0..).collect();
    compile::compile(policy, 1, &slots, host, &mut |_| None).map(drop)
}
