//! What no policy should learn to allow, however often it was seen.

use std::{net::IpAddr, path::Path};

use monitor_common::{Access, policy::Class};

/// What git runs by itself in a clone when it finds a program with this name among its hooks (githooks(5)).
pub const HOOKS: [&str; 12] = [
    "pre-commit",
    "pre-merge-commit",
    "post-commit",
    "commit-msg",
    "post-checkout",
    "post-merge",
    "post-rewrite",
    "pre-rebase",
    "pre-push",
    "pre-auto-gc",
    "post-index-change",
    "reference-transaction",
];

/// Whether git runs what is at a path by itself.
#[must_use]
pub fn is_hook(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/.git/hooks/") && HOOKS.contains(&name)
}

fn has(access: Access, any: Access) -> bool {
    access.bits() & any.bits() != 0
}

/// Why an access to a file is critical; the path is absolute.
#[must_use]
pub fn file(path: &str, access: Access, user_dir: &Path) -> Option<&'static str> {
    let place = Path::new(path);
    let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let inside = place.strip_prefix(user_dir).ok().and_then(Path::to_str);
    let changes = has(access, Access::CHANGES);
    let below = |places: &[&str]| places.iter().any(|it| place.starts_with(it));
    if changes && matches!(inside, Some("settings.js" | "environment")) {
        return Some("settings.js and environment decide what Node-RED is: change them in a maintenance window");
    }
    if changes && is_hook(path) {
        return Some("git runs it by itself at the next commit, pull or checkout");
    }
    // What npm and git bring along is public.
    let brought = inside.is_some_and(|inside| {
        ["node_modules/", "externalModules/"].iter().any(|place| inside.starts_with(place))
            || (inside.starts_with("projects/") && !inside.starts_with("projects/.sshkeys/"))
    });
    let is_public = place.extension().is_some_and(|end| end == "pub")
        || below(&["/etc/ssl/certs", "/usr"])
        || path.contains("/node_modules/");
    let is_key = [".pem", ".key", ".p12", ".pfx"].iter().any(|end| name.ends_with(end));
    if is_key && !brought && !is_public {
        return Some("it is named like a private key: declare it in a rule of its own");
    }
    // Projects makes keys of its own, in the editor.
    let of_projects = inside.is_some_and(|inside| inside.starts_with("projects/.sshkeys"));
    let in_ssh = !of_projects && place.iter().any(|part| part == ".ssh" || part == ".sshkeys");
    if in_ssh && (changes || name.starts_with("id_")) && !is_public {
        return Some("keys of SSH");
    }
    if below(&["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private"])
        || below(&["/etc/letsencrypt", "/root"])
    {
        return Some("keys and passwords of the host");
    }
    let sockets = ["docker.sock", "containerd.sock", "podman.sock", "crio.sock"];
    let engines =
        ["/run/containerd", "/run/podman", "/run/crio", "/run/k3s/containerd", "/run/buildkit", "/run/libvirt"];
    let of_containers = path.ends_with("/lxd/unix.socket") || path.ends_with("/incus/unix.socket");
    if sockets.contains(&name) || of_containers || below(&engines) {
        return Some("access to a container engine is access as root");
    }
    if changes && (name == "system_bus_socket" || below(&["/run/systemd/private"]) || path.ends_with("/bus")) {
        return Some("over D-Bus systemd starts programs that are not Node-RED's any more");
    }
    let starts_later = ["/etc/cron.d", "/etc/crontab", "/var/spool/cron", "/etc/systemd", "/etc/profile.d"];
    let of_login = [
        ".bashrc",
        ".bash_profile",
        ".bash_login",
        ".profile",
        ".zshrc",
        ".zshenv",
        ".zprofile",
        "authorized_keys",
        "ld.so.preload",
        ".gitconfig",
    ];
    let of_account = [
        "/.config/systemd/",
        "/.config/git/",
        "/.config/environment.d/",
        "/.local/share/systemd/",
        "/.local/share/dbus-1/",
    ];
    let of_account = of_account.iter().any(|place| path.contains(place));
    if changes && (below(&starts_later) || of_login.contains(&name) || of_account) {
        return Some("what is written here runs later, outside of Node-RED");
    }
    if changes && below(&["/etc", "/usr", "/bin", "/sbin", "/lib", "/boot", "/sys"]) {
        return Some("the system itself");
    }
    if has(access, Access::EXEC) && below(&["/tmp", "/var/tmp", "/dev/shm"]) {
        return Some("a program in a directory that everybody can write was brought, not installed");
    }
    let of_processes = ["mem", "environ", "root"];
    (path.starts_with("/proc/") && of_processes.contains(&name)).then_some("memory and secrets of processes")
}

/// Why traffic to an address is critical.
#[must_use]
pub fn egress(address: IpAddr) -> Option<&'static str> {
    let metadata: [IpAddr; 2] = [[169, 254, 169, 254].into(), [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into()];
    metadata.contains(&address.to_canonical()).then_some("this address hands out the credentials of a cloud machine")
}

/// Why connections from an address are critical.
#[must_use]
pub fn ingress(address: IpAddr) -> Option<&'static str> {
    let is_local = match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    (!is_local).then_some("the editor and what flows serve are not for the Internet")
}

/// Why an operation of a class is critical.
#[must_use]
pub fn class(class: Class) -> Option<&'static str> {
    match class {
        Class::Privilege => Some("privilege was gained: what root does is not limited by file permissions any more"),
        Class::Ptrace => Some("another process was traced, or its memory reached"),
        Class::Signal => Some("a process outside the instance was signalled"),
        Class::RawSocket => Some("raw sockets forge and read the traffic of others"),
        Class::Mount | Class::Namespace => Some("mounts and namespaces change what paths mean"),
        Class::Kernel => Some("the kernel itself was reached"),
        Class::ExecUnnamed => Some("a program without a file was run, as malware does"),
        Class::ExecWritable => Some("a program that Node-RED's user can write was run"),
        Class::Files | Class::Egress | Class::Ingress | Class::Exec | Class::Socket => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_critical_is_told_and_what_node_red_does_is_not() {
        let user_dir = Path::new("/h/.node-red");
        for (path, access, critical) in [
            ("/h/.node-red/settings.js", Access::WRITE, true),
            ("/h/.node-red/settings.js", Access::READ, false),
            ("/h/.node-red/certs/a.key", Access::READ, true),
            ("/h/.node-red/node_modules/a/test.pem", Access::READ, false),
            ("/h/.node-red/projects/.sshkeys/__default_plant", Access::READ, false),
            ("/h/.node-red/flows.json", Access::WRITE, false),
            ("/h/.node-red/projects/.sshkeys/__default_plant", Access::CREATE, false),
            ("/h/.node-red/projects/plant/.git/hooks/post-checkout", Access::CREATE, true),
            ("/h/.node-red/projects/plant/.git/hooks/post-checkout", Access::READ, false),
            ("/h/.node-red/projects/plant/.git/hooks/post-checkout.sample", Access::CREATE, false),
            ("/h/.ssh/id_ed25519", Access::READ, true),
            ("/h/.ssh/authorized_keys", Access::WRITE, true),
            ("/h/.ssh", Access::READ, false),
            ("/h/.ssh/id_ed25519.pub", Access::READ, false),
            ("/etc/shadow", Access::READ, true),
            ("/etc/passwd", Access::READ, false),
            ("/etc/passwd", Access::WRITE, true),
            ("/etc/ssl/certs/ca.pem", Access::READ, false),
            ("/run/docker.sock", Access::WRITE, true),
            ("/h/.bashrc", Access::READ, false),
            ("/h/.bashrc", Access::WRITE, true),
            ("/h/.gitconfig", Access::READ, false),
            ("/h/.gitconfig", Access::RENAME, true),
            ("/h/.config/git/config", Access::CREATE, true),
            ("/tmp/x", Access::EXEC, true),
            ("/usr/bin/date", Access::EXEC, false),
            ("/proc/1/environ", Access::READ, true),
            ("/proc/self/maps", Access::READ, false),
        ] {
            assert_eq!(file(path, access, user_dir).is_some(), critical, "{path} {access:?}");
        }
        for (address, critical) in [("169.254.169.254", true), ("::ffff:169.254.169.254", true), ("10.0.0.1", false)] {
            assert_eq!(egress(address.parse().unwrap()).is_some(), critical, "{address}");
        }
        for (address, critical) in [("203.0.113.9", true), ("192.168.1.5", false), ("0.0.0.0", false), ("::1", false)] {
            assert_eq!(ingress(address.parse().unwrap()).is_some(), critical, "{address}");
        }
    }
}
