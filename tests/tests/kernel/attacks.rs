//! The attacks, one line each.

use std::net::Ipv4Addr;

/// Where nothing leaves the machine.
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A way to do what a rule forbids.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// What it is, in words.
    pub(crate) technique: &'static str,
    /// The rule that has to meet it.
    pub(crate) rule: &'static str,
    /// An operation of the program `actor`.
    pub(crate) operation: &'static str,
    /// The system call tells nothing that the tracepoint sensor could judge.
    pub(crate) needs_security_hooks: bool,
}

const fn on(rule: &'static str, technique: &'static str, operation: &'static str) -> Attack {
    Attack { technique, rule, operation, needs_security_hooks: false }
}

const fn unseen_by_tracepoints(attack: Attack) -> Attack {
    Attack { needs_security_hooks: true, ..attack }
}

/// Everything that is tried.
pub(crate) const ATTACKS: &[Attack] = &[
    on("settings-js", "opened for writing", "write settings.js"),
    on("settings-js", "opened for appending", "append settings.js"),
    on("settings-js", "opened for writing with O_TRUNC", "cut-open settings.js"),
    on("settings-js", "opened for reading with O_TRUNC", "cut-read settings.js"),
    on("settings-js", "truncate(2)", "truncate settings.js"),
    on("settings-js", "shared writable mapping", "map settings.js"),
    on("settings-js", "shared mapping made writable by mprotect(2)", "map-late settings.js"),
    on("settings-js", "copy_file_range(2)", "copy-range other.js settings.js"),
    on("settings-js", "hole punched by fallocate(2)", "punch settings.js"),
    on("settings-js", "unlink(2)", "unlink settings.js"),
    on("settings-js", "renamed away", "rename settings.js away.js"),
    on("settings-js", "another file renamed over it", "rename other.js settings.js"),
    on("settings-js", "RENAME_EXCHANGE", "exchange other.js settings.js"),
    on("settings-js", "hard link", "link settings.js alias.js"),
    on("settings-js", "written through a new hard link", "link-write settings.js alias.js"),
    on("settings-js", "written through a symbolic link", "symlink-write settings.js alias.js"),
    on("settings-js", "/proc/self/root", "root-write SETTINGS"),
    on("settings-js", "O_PATH and /proc/self/fd", "path-write settings.js"),
    on("settings-js", "chmod(2)", "chmod settings.js"),
    on("settings-js", "utimensat(2)", "touch settings.js"),
    on("settings-js", "opened with O_CREAT and O_TRUNC", "creat settings.js"),
    on("settings-js", "linkat(2) of /proc/self/fd", "link-by-number settings.js alias.js"),
    on("settings-js", "chown(2) to its own group", "chown settings.js"),
    on("settings-js", "chmod(2) of /proc/self/fd", "chmod-by-number settings.js"),
    on("settings-js", "a symbolic link renamed over it", "rename link.js settings.js"),
    on("keys", "opened for reading", "read key.pem"),
    on("certificates", "opened for reading, named by a pattern", "read cert.pem"),
    on("keys", "read through a symbolic link", "symlink-read key.pem alias"),
    on("keys", "read through a new hard link", "link-read key.pem alias"),
    on("keys", "renamed, then read", "rename-read key.pem alias"),
    on("keys", "/proc/self/root", "root-read KEY"),
    on("keys", "O_PATH and /proc/self/fd", "path-read key.pem"),
    on("keys", "copy_file_range(2) from it", "copy-range key.pem flows.json"),
    on("keys", "hard link from before the guard", "read old-link"),
    on("environment", "made by an open", "create environment"),
    on("environment", "made by mkdir(2)", "mkdir environment"),
    on("environment", "made by mknod(2), a pipe", "mknod environment"),
    on("environment", "made by mknod(2), a file", "mknod-file environment"),
    on("environment", "made by symlink(2)", "symlink other.js environment"),
    on("environment", "made by link(2)", "link other.js environment"),
    on("environment", "made by rename(2)", "rename other.js environment"),
    on("environment", "made by bind(2) of a UNIX socket", "bind-unix environment"),
    on("docker", "connect(2) to a UNIX socket", "unix ../docker.sock"),
    on("docker", "connect(2) through a symbolic link", "unix docker-link"),
    unseen_by_tracepoints(on("syslog", "sendto(2) to a UNIX datagram socket", "send-unix ../syslog.sock")),
    on("programs", "execve(2)", "run ./evil"),
    on("programs", "execve(2) of /proc/self/fd", "run-by-number evil"),
    on("programs", "execve(2) of a new hard link", "link-run evil ./alias"),
    on("programs", "execve(2) of a symbolic link", "symlink-run evil ./alias"),
    on("egress", "connect(2) to an address", "connect TCP"),
    on("egress", "connect(2) to a v4-mapped address", "connect-mapped TCP"),
    on("egress", "sendto(2) of a datagram", "udp UDP"),
    on("egress", "sendto(2) to a v4-mapped address", "udp-mapped UDP"),
    on("egress", "connected datagram socket", "send-connected UDP"),
    on("egress", "sendmmsg(2)", "sendmmsg UDP"),
    on("egress", "TCP Fast Open", "fast-open TCP"),
];

/// What no rule names.
pub(crate) const HARMLESS: &[&str] = &[
    "write flows.json",
    "read settings.js",
    "rename flows.json flows.bak",
    "create new.js",
    "mkdir lib",
    "run PROGRAM",
];
