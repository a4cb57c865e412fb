//! One file for each kind of operation.

mod exec;
mod identify;
mod open;
mod scope;
mod syscalls;
