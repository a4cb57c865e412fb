//! Everything that touches the running kernel: what it can do, where it keeps things, loading and attaching.

pub mod abi;
pub mod btf;
pub mod census;
pub mod enforcer;
pub mod inbound;
mod inherit;
mod install;
mod link;
pub mod load;
pub mod pin;
pub mod rights;
pub mod security;
pub mod table;
mod watches;
