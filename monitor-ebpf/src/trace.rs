//! Log lines for developers: one for each family of hooks, for tasks in scope only.
//!
//! `cargo xtask build --trace` compiles them in (feature `trace`). They go through `aya-log` and a ring buffer of their
//! own, and `flowwarden run` prints them to standard error. Without the feature there is no such map and no such code.
//!
//! Each line is a global function: the macros of `aya-log` need some stack and many instructions, which the verifier then
//! checks once and not on each path of the caller.

/// Logs that a hook of a family was reached; arguments are evaluated only with the feature.
macro_rules! trace {
    ($line:ident, $detail:expr) => {
        #[cfg(feature = "trace")]
        $crate::trace::$line($detail);
    };
}
pub(crate) use trace;

#[cfg(feature = "trace")]
macro_rules! lines {
    ($($name:ident: $text:literal,)+) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(detail: u32) -> u32 {
            aya_log_ebpf::trace!((), target: "kernel", $text, detail);
            0
        }
    )+};
}

#[cfg(feature = "trace")]
lines! {
    fw_trace_security: "security hook {}",
    fw_trace_syscall: "system call {}",
    fw_trace_uring: "io_uring request of instance {}",
    fw_trace_exec: "exec in instance {}",
    fw_trace_script: "script in instance {}",
    fw_trace_privilege: "privilege gained, effective uid {}",
    fw_trace_fork: "fork of process {}",
    fw_trace_exit: "exit in instance {}",
    fw_trace_cgroup: "socket address, process {}",
    fw_trace_dns: "DNS question, instance {}",
    fw_trace_inbound: "packet to own port {}",
    fw_trace_volume: "packet to port {} counted",
}
