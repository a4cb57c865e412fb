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
    /// What sees it.
    pub(crate) seen: Seen,
    /// By a stand-in that has become root.
    pub(crate) as_root: bool,
    /// Not every kernel has this: where it fails without a guard there is nothing to guard against.
    pub(crate) optional: bool,
    /// The caller gets no error.
    pub(crate) silent: bool,
}

/// What sees an attack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Every sensor.
    Everywhere,
    /// Not by the tracepoint sensor, for this reason.
    OnSecurityHooks(&'static str),
    /// There is no security hook on its way.
    OnSystemCalls,
}

const fn on(rule: &'static str, technique: &'static str, operation: &'static str) -> Attack {
    Attack { technique, rule, operation, seen: Seen::Everywhere, as_root: false, optional: false, silent: false }
}

const fn unseen_by_tracepoints(reason: &'static str, attack: Attack) -> Attack {
    Attack { seen: Seen::OnSecurityHooks(reason), ..attack }
}

const fn unseen_by_security_hooks(attack: Attack) -> Attack {
    Attack { seen: Seen::OnSystemCalls, ..attack }
}

const fn by_root(attack: Attack) -> Attack {
    Attack { as_root: true, ..attack }
}

const fn where_it_works(attack: Attack) -> Attack {
    Attack { optional: true, ..attack }
}

const fn silently(attack: Attack) -> Attack {
    Attack { silent: true, ..attack }
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
    on("settings-js", "unlink(2), its name in a page never touched", "unlink-unread settings.js"),
    on("settings-js", "rename(2), its names in pages never touched", "rename-unread other.js settings.js"),
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
    on("settings-js", "vmsplice(2) and splice(2)", "vmsplice settings.js"),
    on("settings-js", "another thread exchanges the name during the call", "swap-name flows.json settings.js"),
    where_it_works(on("settings-js", "zeroed by fallocate(2)", "zero settings.js")),
    where_it_works(on("settings-js", "FICLONE", "clone-file other.js settings.js")),
    where_it_works(by_root(on("settings-js", "RENAME_WHITEOUT", "whiteout settings.js away.js"))),
    by_root(on("settings-js", "opened below chroot(2)", "chroot-write settings.js")),
    where_it_works(on("settings-js", "opened and written by a 32-bit program", "write-32 settings.js")),
    on("keys", "opened for reading", "read key.pem"),
    on("certificates", "opened for reading, named by a pattern", "read cert.pem"),
    on("keys", "read through a symbolic link", "symlink-read key.pem alias"),
    on("keys", "read through a new hard link", "link-read key.pem alias"),
    on("keys", "renamed, then read", "rename-read key.pem alias"),
    on("keys", "hard link from before the guard", "read old-link"),
    on("keys", "/proc/self/root", "root-read KEY"),
    on("keys", "O_PATH and /proc/self/fd", "path-read key.pem"),
    on("keys", "copy_file_range(2) from it", "copy-range key.pem flows.json"),
    on("keys", "read by a setuid and setgid program", "run-to ROOTED read KEY"),
    on("keys", "read through a bind mount", "bind-read key.pem"),
    where_it_works(unseen_by_tracepoints(
        "the file that is opened is the overlay's own: what lies below it is opened by the kernel, within the call",
        by_root(on("keys", "read through an overlay over it", "overlay-read key.pem")),
    )),
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
    where_it_works(on("docker", "connect(2) by a 32-bit program", "unix-32 ../docker.sock")),
    where_it_works(unseen_by_tracepoints(
        "the arguments are in memory that can change during the call; on TCP and UDP the cgroup programs judge it",
        on("docker", "socketcall(2) by a 32-bit program", "unix-socketcall ../docker.sock"),
    )),
    unseen_by_tracepoints(
        "the address names a socket in memory that can change during the call, and nothing is left behind that would tell whom it reached",
        on("syslog", "sendto(2) to a UNIX datagram socket", "send-unix ../syslog.sock"),
    ),
    on("programs", "execve(2)", "run ./rogue"),
    on("programs", "execve(2) of /proc/self/fd", "run-by-number rogue"),
    on("programs", "execve(2) of a new hard link", "link-run rogue ./alias"),
    on("programs", "execve(2) of a symbolic link", "symlink-run rogue ./alias"),
    on("default-exec-unnamed", "memfd_create(2) and execve(2)", "run-unnamed PROGRAM"),
    on("default-exec-unnamed", "a program that was deleted", "run-deleted PROGRAM"),
    on("default-exec-writable", "a program that the user has written", "run ./rogue"),
    on("egress", "connect(2) to an address", "connect TCP"),
    on("egress", "connect(2) to a v4-mapped address", "connect-mapped TCP"),
    on("egress", "sendto(2) of a datagram", "udp UDP"),
    on("egress", "sendto(2) to a v4-mapped address", "udp-mapped UDP"),
    on("egress", "connected datagram socket", "send-connected UDP"),
    on("egress", "sendmmsg(2)", "sendmmsg UDP"),
    on("egress", "TCP Fast Open", "fast-open TCP"),
    on("settings-js", "sendfile(2)", "sendfile other.js settings.js"),
    on("settings-js", "splice(2)", "splice other.js settings.js"),
    on("settings-js", "a descriptor from another process", "receive-write ../give-settings.sock"),
    where_it_works(by_root(on("settings-js", "open_by_handle_at(2)", "by-handle settings.js"))),
    unseen_by_tracepoints(
        "a file without the header of a swap file is refused, and what the kernel refuses for what is in it leaves no record; one that has it is met by its name",
        by_root(on("settings-js", "swapon(2)", "swapon settings.js")),
    ),
    unseen_by_tracepoints(
        "a mount changes nothing about the file below it; the default for mounts, `default-mount`, is seen",
        on("settings-js", "another file mounted over it", "bind-mount other.js settings.js"),
    ),
    where_it_works(unseen_by_tracepoints(
        "a mount changes nothing about the file below it; the default for mounts, `default-mount`, is seen",
        on("settings-js", "move_mount(2) over it", "move-mount other.js settings.js"),
    )),
    where_it_works(on("settings-js", "io_uring, opened and written", "uring-write settings.js")),
    where_it_works(on(
        "settings-js",
        "io_uring, opened without a descriptor and written",
        "uring-write-direct settings.js",
    )),
    where_it_works(on("settings-js", "io_uring, opened with O_TRUNC", "uring-truncate settings.js")),
    where_it_works(on("settings-js", "io_uring, IORING_OP_UNLINKAT", "uring-unlink settings.js")),
    where_it_works(on("settings-js", "io_uring, IORING_OP_RENAMEAT", "uring-rename other.js settings.js")),
    where_it_works(on("settings-js", "io_uring, IORING_OP_LINKAT", "uring-link settings.js alias.js")),
    where_it_works(on("keys", "io_uring, opened and read", "uring-read key.pem")),
    unseen_by_tracepoints(
        "a descriptor that comes with a message is read without being opened; the tracepoints look at the first write through each, not at each read",
        on("keys", "a descriptor from another process", "receive-read ../give-key.sock"),
    ),
    where_it_works(on("environment", "io_uring, IORING_OP_MKDIRAT", "uring-mkdir environment")),
    on("environment", "O_TMPFILE and linkat(2)", "tmpfile environment"),
    on("egress", "io_uring, IORING_OP_CONNECT", "uring-connect TCP"),
    on("egress", "io_uring, IORING_OP_SENDMSG", "uring-send UDP"),
    by_root(on("default-raw-socket", "raw socket", "raw-socket")),
    by_root(on("default-raw-socket", "packet socket", "packet-socket")),
    on("default-socket", "generic netlink (AF_NETLINK)", "socket 16 3 16"),
    where_it_works(on("default-socket", "UDP-Lite (RFC 3828)", "socket 2 2 136")),
    where_it_works(on("default-socket", "SCTP (RFC 9260)", "socket 2 1 132")),
    where_it_works(on("default-socket", "ICMP echo (ping)", "socket 2 2 1")),
    where_it_works(on("default-socket", "virtual machine sockets (AF_VSOCK)", "socket 40 1 0")),
    where_it_works(on("default-socket", "the kernel's cryptography (AF_ALG)", "socket 38 5 0")),
    where_it_works(by_root(on("default-socket", "AF_XDP", "socket 44 3 0"))),
    by_root(on("default-kernel", "bpf(2)", "bpf")),
    where_it_works(by_root(on("default-kernel", "init_module(2)", "init_module"))),
    where_it_works(by_root(on("default-kernel", "finit_module(2)", "finit_module other.js"))),
    where_it_works(unseen_by_tracepoints(
        "the kernel asks for the module by itself, in the middle of another call",
        silently(by_root(on("default-kernel", "a module asked for by an interface's name", "name-interface"))),
    )),
    where_it_works(on("default-kernel", "io_uring, IORING_OP_URING_CMD", "uring-command /dev/null")),
    by_root(on("default-signal", "kill(2) of a neighbour", "kill NEIGHBOUR 18")),
    by_root(on("default-ptrace", "ptrace(2) of a neighbour", "ptrace NEIGHBOUR")),
    by_root(on("default-ptrace", "pidfd_getfd(2) from a neighbour", "getfd NEIGHBOUR")),
    by_root(on("default-ptrace", "process_vm_readv(2) of a neighbour", "process_vm_readv NEIGHBOUR")),
    unseen_by_tracepoints(
        "the name is one of many for the same memory, and no rule is about it",
        by_root(on("default-ptrace", "/proc/PID/mem of a neighbour", "memory NEIGHBOUR")),
    ),
    where_it_works(by_root(on("disk", "the disk's own device opened", "open-disk SETTINGS"))),
    by_root(on("guard-process", "kill(2) of the guard", "kill GUARD 18")),
    by_root(on("guard-process", "ptrace(2) of the guard", "ptrace GUARD")),
    by_root(on("guard-files", "/proc/PID/mem of the guard", "memory GUARD")),
    by_root(on("guard-files", "the guard's policy opened for writing", "append PLACE/policy.toml")),
    by_root(on("guard-files", "a second name for the guard's policy", "link PLACE/policy.toml PLACE/other.toml")),
    by_root(on("guard-secrets", "a file made beside the guard's journal", "create PLACE/journal/rogue")),
    by_root(on("guard-secrets", "a directory made in the guard's state", "mkdir PLACE/state/rogue")),
    by_root(on("guard-programs", "bpf(2), a map by its number", "bpf-by-id")),
    on("default-namespace", "unshare(2), a user namespace", "unshare"),
    on("default-namespace", "clone(2), a user namespace", "clone-user"),
    unseen_by_security_hooks(by_root(on("default-namespace", "unshare(2), a mount namespace", "unshare-mounts"))),
    unseen_by_security_hooks(by_root(on("default-namespace", "setns(2)", "setns /proc/self/ns/mnt"))),
    on("default-privilege", "a setuid program", "run ROOTED"),
    by_root(on("default-privilege", "setresuid(2) back to root", "setresuid UID")),
    by_root(on("default-privilege", "capset(2) of what was laid down", "capset")),
    on("default-mount", "mount(2), a new file system", "mount lib"),
    on("default-mount", "mount(2), a directory bound to another", "bind-mount lib lib"),
    where_it_works(on("default-mount", "open_tree(2) and move_mount(2)", "move-mount lib lib")),
    by_root(on("default-mount", "pivot_root(2)", "pivot-root ROOM")),
    by_root(on("default-mount", "umount2(2)", "unmount ROOM")),
    on("egress", "connect(2) to 0.0.0.0", "connect-unspecified TCP"),
    on("egress", "sendto(2) to 0.0.0.0", "udp-unspecified UDP"),
    on("egress", "sendto(2) to ::", "udp-unspecified-6 UDP"),
    on("egress", "sendto(2) to ::ffff:0.0.0.0", "udp-unspecified-mapped UDP"),
    where_it_works(on("settings-js", "an access control list", "acl settings.js")),
    where_it_works(on("settings-js", "io_uring, IORING_OP_SETXATTR", "uring-setxattr settings.js")),
    where_it_works(on(
        "settings-js",
        "io_uring, opened through a symbolic link without a descriptor and written",
        "uring-symlink-write settings.js alias.js",
    )),
    where_it_works(on(
        "settings-js",
        "io_uring, IORING_OP_SPLICE, a descriptor from another process",
        "uring-splice ../give-settings.sock",
    )),
    on("settings-js", "io_submit(2), a descriptor from another process", "receive-submit ../give-settings.sock"),
    on(
        "settings-js",
        "a descriptor from another process, mapped and made writable by mprotect(2)",
        "receive-map-late ../give-settings.sock",
    ),
    where_it_works(on("environment", "io_uring, IORING_OP_SYMLINKAT", "uring-symlink other.js environment")),
    where_it_works(on("docker", "io_uring, IORING_OP_CONNECT", "uring-unix ../docker.sock")),
    on("dropped", "40 directories below the rule's", "run-deep PROGRAM drop"),
    unseen_by_tracepoints(
        "a name does not tell that it is a directory's, and what is in it",
        on(
            "private-keys",
            "read after its directory was moved out of the pattern's reach",
            "take-along certs ../out/certs server.key",
        ),
    ),
    by_root(on("default-signal", "F_SETOWN and F_SETSIG, a neighbour", "signal-owner NEIGHBOUR 18")),
    by_root(on("guard-process", "F_SETOWN and F_SETSIG, the guard", "signal-owner GUARD 18")),
    where_it_works(by_root(on("default-ptrace", "prlimit64(2) of a neighbour", "limit NEIGHBOUR"))),
    where_it_works(by_root(on("guard-process", "prlimit64(2) of the guard", "limit GUARD"))),
    by_root(on("guard-process", "setpriority(2) of the guard", "nice GUARD")),
    by_root(on("guard-process", "sched_setaffinity(2) of the guard", "affinity GUARD")),
    on("scripts", "execve(2) of a script", "run ./script"),
    unseen_by_tracepoints(
        "symbolic links in a name are not followed",
        on("scripts", "execve(2) of a script by a symbolic link", "symlink-run script ./alias"),
    ),
    unseen_by_tracepoints(
        "the process is the interpreter, and who may write the script its name does not tell",
        on("default-exec-writable", "a script that the user has written", "run ./script"),
    ),
    where_it_works(on("environment", "io_uring, opened with O_CREAT and written", "uring-create environment")),
    where_it_works(on("environment", "io_uring, opened with O_CREAT and O_EXCL", "uring-create-new environment")),
    where_it_works(on("environment", "io_uring, opened for reading with O_CREAT", "uring-create-to-read environment")),
    where_it_works(on("environment", "io_uring, IORING_OP_OPENAT2 with O_CREAT", "uring-create-2 environment")),
    where_it_works(on(
        "environment",
        "io_uring, opened with O_CREAT without a descriptor and written",
        "uring-create-directly environment",
    )),
    where_it_works(on("environment", "io_uring, O_TMPFILE and IORING_OP_LINKAT", "uring-tmpfile environment")),
    where_it_works(on("environment", "io_uring, IORING_OP_LINKAT", "uring-link other.js environment")),
    where_it_works(on("environment", "io_uring, IORING_OP_RENAMEAT", "uring-rename other.js environment")),
    where_it_works(on("settings-js", "io_uring, opened with O_CREAT and O_TRUNC", "uring-creat settings.js")),
    where_it_works(on("settings-js", "FS_IOC_SETFLAGS", "set-flags settings.js")),
    where_it_works(on("settings-js", "FS_IOC32_SETFLAGS by a 32-bit program", "set-flags-32 settings.js")),
    where_it_works(on("settings-js", "FS_IOC_FSSETXATTR", "set-xflags settings.js")),
    where_it_works(on("settings-js", "file_setattr(2)", "set-attributes settings.js")),
    where_it_works(on("settings-js", "FS_IOC_SETVERSION", "set-generation settings.js")),
    where_it_works(on(
        "settings-js",
        "FS_IOC_UNRESVSP64, a descriptor from another process",
        "receive-unreserve ../give-settings.sock",
    )),
    where_it_works(on(
        "settings-js",
        "FICLONE, a descriptor from another process",
        "receive-clone-file ../give-settings.sock other.js",
    )),
    where_it_works(by_root(on("settings-js", "acct(2)", "acct settings.js"))),
];

/// What no rule names.
pub(crate) const HARMLESS: &[&str] = &[
    "write flows.json",
    "read settings.js",
    "rename flows.json flows.bak",
    "create new.js",
    "mkdir more",
    "run PROGRAM",
    "socket 1 1 0",
    "socket 2 1 6",
    "socket 10 2 17",
    "socket 16 3 0",
    "unix ../harmless.sock",
];
