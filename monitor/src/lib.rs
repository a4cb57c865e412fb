//! Userspace of Flowwarden.
//!
//! Data enters at the kernel and leaves at a sink, and never turns back: [`policy`] is compiled and loaded by
//! [`kernel`]; records come back through the [`pipeline`] into the [`journal`], from where the [`sinks`] take them;
//! what belongs together is one [`incident`]; [`agent`] is the event loop, and suspends rules while a [`maintenance`] window is
//! open; [`control`] serves the commands that ask the running guard; [`evidence`] reads the journal back.
//!
//! Features: `email` and `kafka` are sinks; `trace` prints the log lines of kernel programs that `cargo xtask build --trace` built.
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod agent;
pub mod config;
pub mod control;
pub mod evidence;
pub mod heal;
pub mod incident;
pub mod kernel;
pub mod maintenance;
pub mod metrics;
pub mod pipeline;
pub mod record;
