//! Ctrl-C, so that the demo and the tests clean up behind themselves.

use std::{mem, ptr};

use anyhow::{Result, bail};
use flowwarden_tests::wait;

/// From now on the first SIGINT or SIGTERM ends every wait of the harness with an error, and the guards on the way out clean
/// up; a second one ends the process as usual.
pub(crate) fn end_waits() -> Result<()> {
    extern "C" fn interrupt(_: libc::c_int) {
        wait::interrupt();
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: `sigaction` is plain data for which all zero is valid; the handler only stores to an atomic, which is
        // async-signal-safe, and has the signature that a handler without SA_SIGINFO has.
        let result = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if result != 0 {
            bail!("signal {signal} cannot be caught: {}", std::io::Error::last_os_error());
        }
    }
    Ok(())
}
