//! Log lines of the kernel programs, for developers (feature `trace`).
//!
//! `cargo xtask build --trace` compiles them into the programs and this module into the guard. A task drains them to
//! standard error while the guard runs; lines that do not fit into their ring buffer are dropped.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use journal::stdio::aside;
use log::{Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};

use super::error::{KernelError, Result};

/// Writes each line to standard error.
pub(super) struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        aside(&format_args!("{}: {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// The ring buffer of log lines. It stays open as long as programs are loaded.
pub(super) type Logger = EbpfLogger<Stderr>;

/// Opens the ring buffer of log lines.
pub(super) fn open(ebpf: &mut Ebpf) -> Result<Logger> {
    EbpfLogger::init_with_logger(ebpf, Stderr).map_err(|error| match error {
        aya_log::Error::MapNotFound => KernelError::NoTrace,
        error => KernelError::Trace(io::Error::other(error)),
    })
}

/// Starts the task that drains the lines. Needs a runtime.
pub(super) fn drain(logger: Logger) -> Result<()> {
    // SAFETY: the logger owns the map's descriptor, and keeps it open until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut lines = registered.map_err(|error| KernelError::Trace(error.into_parts().1))?;
    tokio::spawn(async move {
        while let Ok(mut ready) = lines.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
