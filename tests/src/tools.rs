//! The external programs that `xtask` and the tests start, in one table: which package has a program, and which steps of
//! `cargo xtask` run it.
//!
//! `cargo xtask test` and `demo` run each step with a `PATH` that is one directory of links to the programs declared for
//! that step, so that an undeclared program fails on every machine, also on one that has it. A script of the shell, an
//! exec node and a program that is started by a program through `PATH` count as well: `cc` looks for `as` and `ld` there.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Set by `cargo xtask` to the directory of links that is a step's whole `PATH`.
pub const LINKS: &str = "FLOWWARDEN_TOOLS";

/// The packages that a machine needs before anything of `cargo xtask` runs, as the README says. The rest is installed.
pub const REQUIRED: [&str; 4] = ["ca-certificates", "gcc", "git", "libc6-dev"];

/// Where Debian keeps programs.
pub const DEBIAN: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What of `cargo xtask` runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Finding and installing what the other steps need.
    Setup,
    /// The eBPF object and the guard.
    Build,
    /// Formatting.
    Fmt,
    /// Lints of the user crates.
    Clippy,
    /// Lints of the kernel crate.
    ClippyKernel,
    /// Documentation.
    Doc,
    /// Tests without a kernel.
    Unit,
    /// Other kernels of this machine's architecture.
    Vm,
    /// Kernels of the other architecture.
    Foreign,
    /// The attacks on this machine's kernel.
    Kernel,
    /// A real Node-RED.
    Promises,
    /// Figures.
    Bench,
    /// The demo.
    Demo,
    /// The bare root.
    Fresh,
    /// Licences and advisories.
    Deny,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// rustup: the toolchain that runs `xtask`, or rustup itself.
    Rustup,
    /// `cargo install`, which `xtask` explains or does where it needs the program.
    Cargo,
    /// This package of Debian. Its own program comes before another one of that name on `PATH`, which may be a script
    /// that starts more.
    Debian(&'static str),
    /// The first one on `PATH`, or this package of Debian: users have their own Node.js.
    Own(&'static str),
    /// This package of Debian, in a directory that is on no `PATH`.
    Hidden(&'static str, &'static str),
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name.
    pub program: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// The steps that run it.
    pub steps: &'static [Step],
}

/// A file that is no program, such as a module of Python.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its path below a directory of [`Self::top`]; Debian keeps libraries by architecture.
    pub file: &'static str,
    /// See [`Self::file`].
    pub top: &'static str,
    /// The package that has it.
    pub package: &'static str,
    /// The steps that need it.
    pub steps: &'static [Step],
}

use Source::{Cargo, Debian, Hidden, Own, Rustup};
use Step::{
    Bench, Build, Clippy, ClippyKernel, Demo, Deny, Doc, Fmt, Foreign, Fresh, Kernel, Promises, Setup, Unit, Vm,
};

/// Steps that compile.
const COMPILE: &[Step] = &[Setup, Build, Clippy, ClippyKernel, Doc, Unit, Vm, Kernel, Promises, Bench];
/// Steps that run cargo.
const CARGO: &[Step] = &[Setup, Build, Fmt, Clippy, ClippyKernel, Doc, Unit, Vm, Kernel, Promises, Bench, Deny];
/// Steps that `xtask` starts as a process of their own.
const STARTED: &[Step] =
    &[Build, Fmt, Clippy, ClippyKernel, Doc, Unit, Vm, Kernel, Promises, Bench, Demo, Fresh, Foreign];
/// Steps that boot machines.
const MACHINES: &[Step] = &[Vm, Foreign, Bench];
const SETUP: &[Step] = &[Setup];
const PROMISES: &[Step] = &[Promises];
/// Steps that run a Node-RED.
const NODE_RED: &[Step] = &[Demo, Promises];
const EMULATED: (&[Step], &[Step]) =
    if cfg!(target_arch = "aarch64") { (&[Foreign], &[Vm, Bench]) } else { (&[Vm, Bench], &[Foreign]) };

const fn tool(program: &'static str, source: Source, steps: &'static [Step]) -> Tool {
    Tool { program, source, steps }
}

/// Every program.
pub const TOOLS: &[Tool] = &[
    // Compilers. rustc links with `cc`, which looks for `as` and `ld` on PATH; crates with C in them want `ar`.
    tool("rustup", Rustup, CARGO),
    tool("cargo", Rustup, CARGO),
    tool("rustc", Rustup, COMPILE),
    tool("rustdoc", Rustup, &[Doc, Unit]),
    tool("cargo-fmt", Rustup, &[Fmt]),
    tool("rustfmt", Rustup, &[Fmt]),
    tool("cargo-clippy", Rustup, &[Clippy, ClippyKernel]),
    tool("clippy-driver", Rustup, &[Clippy, ClippyKernel]),
    tool("bpf-linker", Cargo, &[Build, ClippyKernel]),
    tool("cargo-binstall", Cargo, SETUP),
    tool("cargo-deny", Cargo, &[Deny]),
    tool("cc", Debian("gcc"), COMPILE),
    tool("as", Debian("binutils"), COMPILE),
    tool("ld", Debian("binutils"), COMPILE),
    tool("ar", Debian("binutils"), COMPILE),
    tool("llvm-objcopy", Hidden("llvm-22", "/usr/lib/llvm-22/bin"), SETUP),
    tool("aarch64-linux-gnu-gcc", Debian("gcc-aarch64-linux-gnu"), &[Foreign]),
    // Debian's archive.
    tool("apt-get", Debian("apt"), &[Setup, Vm, Foreign]),
    tool("apt-cache", Debian("apt"), &[Setup, Vm, Foreign]),
    tool("apt-config", Debian("apt"), &[Fresh]),
    tool("dpkg-query", Debian("dpkg"), &[Setup, Vm, Foreign]),
    tool("dpkg-deb", Debian("dpkg"), &[Setup, Vm, Foreign, Bench]),
    tool("update-ca-certificates", Debian("ca-certificates"), &[]),
    tool("mmdebstrap", Debian("mmdebstrap"), &[Fresh]),
    // How `xtask` becomes root, and starts what ends with it.
    tool("sudo", Debian("sudo"), SETUP),
    tool("setpriv", Debian("util-linux"), STARTED),
    tool("nice", Debian("coreutils"), STARTED),
    // Other kernels.
    tool("qemu-system-x86_64", Debian("qemu-system-x86"), EMULATED.0),
    tool("qemu-system-aarch64", Debian("qemu-system-arm"), EMULATED.1),
    tool("mke2fs", Debian("e2fsprogs"), MACHINES),
    tool("mkfs.btrfs", Debian("btrfs-progs"), MACHINES),
    tool("xz", Debian("xz-utils"), MACHINES),
    tool("ldd", Debian("libc-bin"), MACHINES),
    tool("du", Debian("coreutils"), MACHINES),
    // Node-RED: npm and what it installs start `node` and `sh`.
    tool("node", Own("nodejs"), &[Demo, Promises, Vm, Foreign]),
    tool("npm", Own("npm"), &[Demo, Promises, Vm, Foreign]),
    tool("sh", Debian("dash"), &[Demo, Promises, Unit, Vm, Foreign]),
    tool("chmod", Debian("coreutils"), &[Demo, Promises, Unit, Vm, Foreign]),
    // Users and networks of a test's own.
    tool("useradd", Debian("passwd"), NODE_RED),
    tool("userdel", Debian("passwd"), &[Demo, Kernel, Promises]),
    tool("ip", Debian("iproute2"), &[Demo, Kernel, Promises]),
    tool("iptables", Debian("iptables"), PROMISES),
    // What flows, attacks and scripts run.
    tool("curl", Debian("curl"), NODE_RED),
    tool("bash", Debian("bash"), PROMISES),
    tool("cat", Debian("coreutils"), PROMISES),
    tool("cp", Debian("coreutils"), &[Promises, Vm, Foreign, Fresh]),
    tool("date", Debian("coreutils"), PROMISES),
    tool("dd", Debian("coreutils"), PROMISES),
    tool("install", Debian("coreutils"), PROMISES),
    tool("mkdir", Debian("coreutils"), PROMISES),
    tool("mkfifo", Debian("coreutils"), &[Unit]),
    tool("mv", Debian("coreutils"), PROMISES),
    tool("rm", Debian("coreutils"), PROMISES),
    tool("seq", Debian("coreutils"), PROMISES),
    tool("sleep", Debian("coreutils"), &[Promises, Unit]),
    tool("tac", Debian("coreutils"), PROMISES),
    tool("tee", Debian("coreutils"), PROMISES),
    tool("timeout", Debian("coreutils"), PROMISES),
    tool("touch", Debian("coreutils"), PROMISES),
    tool("tr", Debian("coreutils"), PROMISES),
    tool("chown", Debian("coreutils"), PROMISES),
    tool("chroot", Debian("coreutils"), PROMISES),
    tool("mount", Debian("mount"), PROMISES),
    tool("setsid", Debian("util-linux"), PROMISES),
    tool("unshare", Debian("util-linux"), PROMISES),
    tool("tar", Debian("tar"), &[Promises, Setup, Vm, Foreign, Bench]),
    tool("gzip", Debian("gzip"), PROMISES),
    tool("git", Debian("git"), &[Promises, Fresh]),
    tool("ssh-keygen", Debian("openssh-client"), PROMISES),
    tool("strace", Debian("strace"), &[Unit]),
    // What tests judge by.
    tool("lognormalizer", Debian("liblognorm-utils"), &[Promises, Kernel]),
    tool("promtool", Debian("prometheus"), PROMISES),
    tool("openssl", Debian("openssl"), PROMISES),
    tool("python3", Debian("python3"), PROMISES),
    // Receivers of alerts, and their clients.
    tool("rsyslogd", Debian("rsyslog"), PROMISES),
    tool("prometheus-alertmanager", Debian("prometheus-alertmanager"), PROMISES),
    tool("mosquitto", Debian("mosquitto"), PROMISES),
    tool("mosquitto_passwd", Debian("mosquitto"), PROMISES),
    tool("mosquitto_sub", Debian("mosquitto-clients"), PROMISES),
    tool("mosquitto_pub", Debian("mosquitto-clients"), PROMISES),
    tool("nats-server", Debian("nats-server"), PROMISES),
    tool("dnsmasq", Debian("dnsmasq-base"), PROMISES),
    tool("socat", Debian("socat"), PROMISES),
    tool("systemd-journald", Hidden("systemd", "/usr/lib/systemd"), PROMISES),
    tool("journalctl", Debian("systemd"), PROMISES),
    tool("podman", Debian("podman"), PROMISES),
    tool("runc", Debian("runc"), PROMISES),
];

/// Every file that is no program.
pub const PARTS: &[Part] = &[
    Part { top: "/usr/include", file: "pthread.h", package: "libc6-dev", steps: COMPILE },
    Part { top: "/usr/lib", file: "rsyslog/lmnsd_gtls.so", package: "rsyslog-gnutls", steps: PROMISES },
    Part { top: "/usr/lib/python3", file: "aiosmtpd/smtp.py", package: "python3-aiosmtpd", steps: PROMISES },
    Part { top: "/usr/lib/python3", file: "pip/__init__.py", package: "python3-pip", steps: PROMISES },
    Part { top: "/usr/aarch64-linux-gnu", file: "lib/libc.a", package: "libc6-dev-arm64-cross", steps: &[Foreign] },
];

/// What the table says of a program.
#[must_use]
pub fn declared(program: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.program == program)
}

/// The programs of these steps.
pub fn of(steps: &[Step]) -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().filter(|tool| tool.steps.iter().any(|step| steps.contains(step)))
}

/// The packages that these steps miss, each once.
#[must_use]
pub fn missing(steps: &[Step]) -> Vec<&'static str> {
    let programs = of(steps).filter(|tool| tool.find().is_none()).filter_map(Tool::package);
    let parts = PARTS.iter().filter(|part| part.steps.iter().any(|step| steps.contains(step)) && !part.is_there());
    let mut packages: Vec<_> = programs.chain(parts.map(|part| part.package)).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

impl Tool {
    /// The package of Debian that has it.
    #[must_use]
    pub fn package(&self) -> Option<&'static str> {
        match self.source {
            Debian(package) | Own(package) | Hidden(package, _) => Some(package),
            Rustup | Cargo => None,
        }
    }

    /// Where it is on this machine.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        let path = || env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let debian = || DEBIAN.map(PathBuf::from).to_vec();
        let directories = match self.source {
            Rustup | Cargo => [path(), cargo_home()].concat(),
            Debian(_) => [debian(), path()].concat(),
            Own(_) => [path(), debian()].concat(),
            Hidden(_, directory) => vec![directory.into()],
        };
        directories.iter().map(|directory| directory.join(self.program)).find(|file| is_executable(file))
    }
}

impl Part {
    fn is_there(&self) -> bool {
        let top = Path::new(self.top);
        let below = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
        below.chain([top.to_owned()]).any(|directory| directory.join(self.file).is_file())
    }
}

/// Where cargo and rustup keep programs that a root shell may not list.
fn cargo_home() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    home.map(|home| home.join("bin")).into_iter().collect()
}

/// Whether this is a program.
#[must_use]
pub fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::mem;

    use super::*;

    /// What the code may name by an absolute path: in this file, this text, for this reason.
    const NAMED: &[(&str, &str, &str)] = &[
        ("tests/src/user.rs", "/usr/sbin/nologin", "the shell of an account, which is never started"),
        ("tests/src/podman.rs", "/bin/sh", "the shell of accounts in the image"),
        ("tests/tests/promises/audit.rs", "/bin/sh", "the shell of accounts in a made-up passwd"),
        ("monitor/tests/cli.rs", "/bin/sh", "the shell of accounts in a made-up passwd"),
        ("xtask/src/vm/disk.rs", "/sbin/nologin", "the shell of an account in the machine"),
        ("xtask/src/vm/mod.rs", "/sbin/nologin", "the shell of an account in the machine"),
        ("tests/tests/promises/contrib.rs", "/usr/bin/tac", "a rule of a policy"),
        ("tests/tests/promises/git.rs", "/bin/sh", "the first line of a script"),
        ("tests/tests/promises/containers.rs", "/bin/sh", "what a container runs, in its own root"),
        ("tests/src/bin/vm_init.rs", "/tests", "a file of the machine, which has nothing else"),
        ("tests/src/bin/racer.rs", "/proc/self/exe", "itself"),
        ("xtask/src/links.rs", "/proc/self/exe", "itself"),
    ];

    /// Calls whose first literal is the name of a program.
    const STARTERS: [&str; 11] = [
        "Command::new(",
        "needs::program(",
        "needs::executed(",
        "plain(",
        "shell::find(",
        "self.apt(",
        ".client(",
        "setuid_copy(scene,",
        "as_root(scene,",
        "program(",
        "executed(",
    ];

    /// A literal of a source file, with the code right before it.
    #[derive(Debug)]
    struct Literal {
        file: String,
        line: usize,
        before: String,
        text: String,
    }

    /// Whether a source is part of the guard.
    fn is_product(file: &str) -> bool {
        file.starts_with("monitor/") && file.contains("/src/")
    }

    /// The sources whose programs the table has to have.
    fn literals() -> Vec<Literal> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (mut found, mut open) =
            (Vec::new(), ["xtask/src", "tests/src", "tests/tests", "monitor"].map(|place| root.join(place)).to_vec());
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().display().to_string();
                if file != "tests/src/tools.rs" {
                    found.extend(scan(&file, &fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found
    }

    /// Every string literal outside of comments.
    fn scan(file: &str, source: &str) -> Vec<Literal> {
        let (mut found, mut code, mut rest) = (Vec::new(), String::new(), source);
        let literal = |rest: &str, code: &mut String, text: &str| Literal {
            file: file.to_owned(),
            line: source[..source.len() - rest.len()].matches('\n').count() + 1,
            before: mem::take(code),
            text: text.to_owned(),
        };
        while let Some(first) = rest.chars().next() {
            let hashes = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
            let is_word = code.ends_with(|last: char| last.is_alphanumeric() || last == '_') && !code.ends_with('b');
            if rest.starts_with("//") {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            } else if rest.starts_with("/*") {
                rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
            } else if let Some(count) = hashes.filter(|&count| !is_word && rest[1 + count..].starts_with('"')) {
                let (start, end) = (2 + count, format!("\"{}", "#".repeat(count)));
                let length = rest[start..].find(&end).unwrap();
                found.push(literal(rest, &mut code, &rest[start..][..length]));
                rest = &rest[start + length + end.len()..];
            } else if first == '"' {
                let (mut length, text) = (0, &rest.as_bytes()[1..]);
                while text[length] != b'"' {
                    length += if text[length] == b'\\' { 2 } else { 1 };
                }
                found.push(literal(rest, &mut code, &rest[1..][..length]));
                rest = &rest[length + 2..];
            } else if let Some(quoted) =
                ["'\"'", "'\\\"'", "'\\''", "b'\"'"].iter().find(|quoted| rest.starts_with(**quoted))
            {
                rest = &rest[quoted.len()..];
            } else {
                if !first.is_whitespace() {
                    code.push(first);
                }
                rest = &rest[first.len_utf8()..];
            }
        }
        found
    }

    fn is_named(literal: &Literal, path: &str) -> bool {
        NAMED.iter().any(|(file, text, _)| *file == literal.file && *text == path)
    }

    /// The absolute paths in a text: what follows a slash at its start, or after something that ends a word.
    fn paths(text: &str) -> impl Iterator<Item = &str> {
        let is_part = |char: char| char.is_alphanumeric() || "/._-+@".contains(char);
        text.split(move |char| !is_part(char)).filter(|word| word.starts_with('/'))
    }

    /// A path into a directory of programs.
    fn is_program(path: &str) -> bool {
        let places = ["/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/"];
        let hidden = ["/lib/systemd/systemd-", "/usr/lib/systemd/systemd-", "/usr/libexec/"];
        places.iter().chain(&hidden).any(|place| path.strip_prefix(place).is_some_and(|name| !name.is_empty()))
    }

    #[test]
    fn literals_are_found_and_comments_are_not() {
        let source =
            "// \"no\"\nlet a = 'x'; f(\"o\\\"ne\"); /* \"no\" */ g('\"', r#\"two \"x\" \"#, b\"three\");\n h(\"\")";
        let found: Vec<_> = scan("x", source).into_iter().map(|it| (it.line, it.text)).collect();
        let texts = [(2, "o\\\"ne"), (2, "two \"x\" "), (2, "three"), (3, "")];
        assert_eq!(found, texts.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(scan("x", "Command::new(\n  \"sh\")")[0].before, "Command::new(");
        assert_eq!(paths("cp '/bin/a' x/bin/b {0}/bin/c").collect::<Vec<_>>(), ["/bin/a", "/bin/c"]);
    }

    #[test]
    fn every_program_that_is_started_is_declared() {
        let (mut faults, mut seen) = (Vec::new(), 0);
        for literal in literals() {
            // The guard has functions of its own by the other names.
            let starters = if is_product(&literal.file) { &STARTERS[..1] } else { &STARTERS[..] };
            if !starters.iter().any(|starter| literal.before.ends_with(starter)) {
                continue;
            }
            seen += 1;
            if declared(&literal.text).is_none() && !is_named(&literal, &literal.text) {
                faults.push(format!("{}:{}: `{}`", literal.file, literal.line, literal.text));
            }
        }
        assert!(seen > 50, "the sources were not read: {seen}");
        assert!(faults.is_empty(), "declare them in tests/src/tools.rs:\n{}", faults.join("\n"));
    }

    #[test]
    fn no_program_is_named_by_an_absolute_path() {
        let mut faults = Vec::new();
        // The guard itself names what root runs by its path, and policies name what others run.
        for literal in literals().into_iter().filter(|literal| !is_product(&literal.file)) {
            let programs = paths(&literal.text).filter(|path| is_program(path) && !is_named(&literal, path));
            faults.extend(programs.map(|path| format!("{}:{}: {path}", literal.file, literal.line)));
        }
        assert!(faults.is_empty(), "name them as `PATH` has them, or say why not:\n{}", faults.join("\n"));
    }

    #[test]
    fn each_exception_is_still_needed() {
        let literals = literals();
        for (file, text, reason) in NAMED {
            let is_there = |literal: &Literal| literal.file == *file && paths(&literal.text).any(|path| path == *text);
            assert!(literals.iter().any(is_there), "{file} does not name {text} ({reason})");
        }
    }

    #[test]
    fn a_program_is_declared_once_and_the_demo_needs_nothing_that_only_tests_have() {
        for (at, tool) in TOOLS.iter().enumerate() {
            assert!(TOOLS[..at].iter().all(|other| other.program != tool.program), "{} is there twice", tool.program);
        }
        let demo: Vec<_> = of(&[Demo]).map(|tool| tool.program).collect();
        assert_eq!(demo, ["setpriv", "nice", "node", "npm", "sh", "chmod", "useradd", "userdel", "ip", "curl"]);
    }

    #[test]
    fn what_is_missing_is_named_by_its_package_once() {
        let gone = Tool { program: "fw-is-not-there", source: Debian("nothing"), steps: &[] };
        assert!(gone.find().is_none() && gone.package() == Some("nothing"));
        assert!(declared("sh").and_then(Tool::find).is_some());
        assert!(!missing(&[Fmt]).contains(&"dash"));
    }
}
