//! Facts about this machine, or about another root directory: accounts, files, devices, mounts, processes.

pub mod account;
pub mod device;
pub mod memory;
pub mod procs;
pub mod root;
pub mod scan;
