//! The attacks, one line each.

use std::net::Ipv4Addr;

/// Where nothing leaves the machine.
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A way to do what a rule forbids.
pub(crate) struct Attack {
    /// What it is, in words.
    pub(crate) technique: &'static str,
    /// The rule that has to meet it.
    pub(crate) rule: &'static str,
    /// An operation of the program `actor`.
    pub(crate) operation: &'static str,
}

const fn on(rule: &'static str, technique: &'static str, operation: &'static str) -> Attack {
    Attack { technique, rule, operation }
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
    on("keys", "opened for reading", "read key.pem"),
    on("environment", "a file that was not there is made", "create environment"),
    on("docker", "connect(2) to a UNIX socket", "unix ../docker.sock"),
    on("egress", "connect(2) to an address", "connect TCP"),
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
