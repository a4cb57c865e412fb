//! Programs of the object by name, beside those of the security hooks ([`monitor_common::hooks`]).

use monitor_common::syscall::{HANDLERS_HALF, Handler};

/// The handler of system calls and the program that it is.
pub(super) const HANDLERS: &[(u32, &str)] = &[
    (HANDLERS_HALF + Handler::Open as u32, "open_exit"),
    (Handler::Descriptor as u32, "descriptor_enter"),
    (HANDLERS_HALF + Handler::Descriptor as u32, "descriptor_exit"),
    (Handler::Path as u32, "path_enter"),
    (Handler::SecondPath as u32, "path_enter_second"),
    (Handler::PathWalk as u32, "path_walk"),
    (Handler::UringWalk as u32, "io_uring_walk"),
    (Handler::ScriptWalk as u32, "exec_script_walk"),
    (HANDLERS_HALF + Handler::Path as u32, "path_exit"),
    (Handler::Mmap as u32, "mmap_enter"),
    (Handler::Close as u32, "close_enter"),
    (HANDLERS_HALF + Handler::Connect as u32, "connect_exit"),
    (HANDLERS_HALF + Handler::Accept as u32, "accept_exit"),
    (HANDLERS_HALF + Handler::Listen as u32, "listen_exit"),
    (HANDLERS_HALF + Handler::Socket as u32, "socket_exit"),
    (HANDLERS_HALF + Handler::Credentials as u32, "credentials_exit"),
    (Handler::Process as u32, "process_enter"),
    (Handler::System as u32, "system_enter"),
    (Handler::Requests as u32, "requests_enter"),
    (Handler::Control as u32, "control_enter"),
];

/// The program that judges what a setuid program gains.
pub(super) const EXEC_PRIVILEGE: &str = "exec_privilege";

/// The program that judges a script by its name.
pub(super) const EXEC_SCRIPT: &str = "exec_script";

/// Programs on other raw tracepoints, and the tracepoint each belongs to. Order matters: the scope comes first.
pub(super) const SCOPE: &[(&str, &str)] = &[
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("exec", "sched_process_exec"),
    (EXEC_PRIVILEGE, "sched_process_exec"),
    (EXEC_SCRIPT, "sched_process_exec"),
    ("process_moved", "cgroup_attach_task"),
    ("process_exit", "sched_process_exit"),
];
pub(super) const SYSCALLS: &[(&str, &str)] = &[("sys_enter", "sys_enter"), ("sys_exit", "sys_exit")];

/// Programs on requests of `io_uring`.
pub(super) const URING: &[&str] = &["io_uring_write", "io_uring_path", "io_uring_path_second", "io_uring_connect"];
/// Tracepoints of `io_uring` requests, the newest name first. `io_uring_submit_sqe` had other arguments before 6.0.
pub(super) const URING_TRACEPOINTS: [&str; 2] = ["io_uring_submit_req", "io_uring_submit_sqe"];

/// Programs on Internet sockets.
pub(super) const CGROUP: &[&str] = &["connect4", "connect6", "sendmsg4", "sendmsg6", "sock_create"];

/// Programs on packets: what resolvers are asked, and what they answer.
pub(super) const DNS: &[&str] = &["dns_query", "dns_answer"];

/// Programs on what comes in: those that note whose a socket is, and the one that drops.
pub(super) const INBOUND: &[&str] = &["inbound_bind4", "inbound_bind6", "inbound_packet"];

/// Programs that count what leaves.
pub(super) const VOLUME: &[&str] =
    &["volume_connect4", "volume_connect6", "volume_sendmsg4", "volume_sendmsg6", "volume_packet"];

/// The program that identifies files.
pub(super) const IDENTIFY: &str = "identify";

/// Every program that is not one of a security hook.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let handlers = HANDLERS.iter().map(|&(_, name)| name);
    let raw = SCOPE.iter().chain(SYSCALLS).map(|&(name, _)| name);
    handlers.chain(raw).chain([URING, CGROUP, DNS, INBOUND, VOLUME].concat()).chain([IDENTIFY])
}
