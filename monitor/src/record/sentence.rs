//! The message of an event: one sentence.

use std::fmt::Write as _;

use monitor_common::{
    Access, Verdict,
    event::{FLAG_BY_NAME, FLAG_CONFIRMED, FLAG_DAMAGED, FLAG_FAILED, FLAG_MAINTENANCE, FLAG_OBSERVED, Hook},
};

use crate::{kernel::table, record::enrich::Enriched};
use journal::{
    ocsf::{address, command_line},
    text::terminal::{plain, shown},
};
use policy::limit::{bytes, within};

/// For example: `instance plant-a: child curl (pid 812 <- node 640) tried to connect 203.0.113.9:443: denied by rule
/// egress-default`.
#[must_use]
pub fn sentence(enriched: &Enriched) -> String {
    let record = &enriched.record;
    let event = &record.event;
    let mut out = format!("instance {}: ", shown(enriched.instance.as_bytes()));
    let parent = enriched.parents.first();
    let is_child = parent.is_some_and(|parent| parent.program.is_some());
    if is_child {
        out.push_str("child ");
    }
    let _ = write!(out, "{} (pid {}", shown(enriched.name.as_bytes()), event.tgid);
    for parent in enriched.parents.iter().take_while(|parent| parent.program.is_some()).take(3) {
        let _ = write!(out, " <- {} {}", shown(parent.name.as_bytes()), parent.tgid);
    }
    let _ = write!(out, ") tried to {}: ", operation(enriched));
    let what = match record.verdict {
        Verdict::Kill => "killed",
        Verdict::Deny => "denied",
        _ if event.flags & FLAG_FAILED != 0 => "refused by the system, logged",
        _ if event.flags & FLAG_MAINTENANCE != 0 => "allowed in a maintenance window, logged",
        _ => "logged",
    };
    let _ = write!(out, "{what} by rule {}", shown(enriched.rule.as_bytes()));
    if event.flags & FLAG_OBSERVED != 0 {
        let _ = write!(out, " (only observing; would be: {})", record.wanted.name());
    }
    if event.flags & FLAG_DAMAGED != 0 {
        out.push_str("; the content had been cut by the open itself");
    }
    out
}

/// The operation, as text.
fn operation(enriched: &Enriched) -> String {
    let record = &enriched.record;
    let event = &record.event;
    let path = shown(&record.path);
    if event.flags & (FLAG_CONFIRMED | FLAG_BY_NAME) == FLAG_CONFIRMED {
        return format!("{} {path} by a name that is not its own", record.hook.name());
    }
    let access = Access::from_bits(event.access);
    let end = || {
        let port = if event.endpoint.port == 0 { event.endpoint.local_port } else { event.endpoint.port };
        let address = address(event.endpoint.address);
        let end = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        match &enriched.hostname {
            Some(name) => format!("{end} ({})", shown(name.as_bytes())),
            None => end,
        }
    };
    let other = || record.other.as_deref().map(shown).unwrap_or_default();
    match record.hook {
        Hook::Open if access.contains(Access::WRITE) => format!("open {path} for writing"),
        Hook::Open if access.contains(Access::CREATE) => format!("create {path}"),
        Hook::Open => format!("read {path}"),
        Hook::Read => format!("read {path} through an older descriptor"),
        Hook::Receive => format!("take a descriptor of {path} from another process"),
        // The kind of file is not known.
        Hook::IoUring | Hook::Write if record.path.is_empty() => "write to a file that no name tells".to_owned(),
        Hook::Write => format!("write to {path}"),
        Hook::WriteTotals => format!("write {} bytes in {} calls to {path}", event.bytes, event.count),
        Hook::Truncate => format!("cut {path}"),
        Hook::Mmap => format!("map {path} writable"),
        Hook::Rename => {
            let (from, to) = if event.detail == 2 { (other(), path) } else { (path, other()) };
            format!("move {from} to {to}")
        }
        Hook::Unlink => format!("delete {path}"),
        Hook::Rmdir => format!("remove the directory {path}"),
        Hook::Mkdir => format!("make the directory {path}"),
        Hook::Mknod => format!("make the device or pipe {path}"),
        Hook::Link => {
            let (from, to) = if event.detail == 2 { (other(), path) } else { (path, other()) };
            format!("link {from} as {to}")
        }
        Hook::Symlink => format!("make the symbolic link {path}"),
        Hook::Chmod => format!("change the mode of {path}"),
        Hook::Chown => format!("change the owner of {path}"),
        Hook::Utimes => format!("change the times of {path}"),
        Hook::Xattr => format!("change an attribute of {path}"),
        Hook::Ioctl if access.contains(Access::WRITE) => {
            format!("change the content of {path} by ioctl (command {:#x})", event.detail)
        }
        Hook::Ioctl => format!("change flags of {path} by ioctl (command {:#x})", event.detail),
        Hook::FileAttr => format!("change flags of {path}"),
        Hook::IoUring if access.contains(Access::CREATE) => {
            format!("create {path} by io_uring (opcode {})", event.detail)
        }
        Hook::IoUring => format!("reach {path} by io_uring (opcode {})", event.detail),
        Hook::Connect => format!("connect {}", end()),
        Hook::Send => format!("send to {}", end()),
        Hook::Volume => format!(
            "send {} to {} {}, more than {}",
            bytes(event.bytes),
            end(),
            within(event.count),
            bytes(event.detail)
        ),
        Hook::Bind => format!("bind {}", end()),
        Hook::Listen => format!("listen on port {}", event.endpoint.local_port),
        Hook::Accept => format!("accept a connection from {}", end()),
        Hook::Socket => {
            let (family, protocol) = (event.detail >> 32, event.detail & 0xffff);
            format!("make a socket of family {family} (type {}, protocol {protocol})", event.detail >> 16 & 0xffff)
        }
        Hook::UnixConnect => format!("connect to the socket {path}"),
        // Arguments are not readable before the exec.
        Hook::Exec if record.text.is_empty() => format!("run {path}"),
        Hook::Exec => format!("run {path} ({})", shown(command_line(&record.text).as_bytes())),
        Hook::Exit => "end".to_owned(),
        Hook::Fork => format!("start process {}", event.detail),
        Hook::Privilege => format!("gain privilege (effective uid {}, capabilities {:#x})", event.euid, event.detail),
        Hook::Ptrace => format!("trace, read the memory of or hold back process {}", event.detail),
        Hook::Mount => format!("mount something at {path}"),
        Hook::Unmount => format!("unmount {path}"),
        Hook::Namespace => format!("make or enter a namespace (flags {:#x})", event.detail),
        Hook::Bpf => format!("use the bpf system call (command {})", event.detail),
        Hook::Module if !record.text.is_empty() => format!("load the kernel module {}", shown(trimmed(&record.text))),
        Hook::Module => "load a kernel module".to_owned(),
        Hook::UringCommand => "hand a command to a driver by io_uring".to_owned(),
        Hook::Dns => match &enriched.tunnel {
            Some(tunnel) => plain(tunnel.words().as_bytes()),
            None => format!("ask the resolver {}", end()),
        },
        Hook::Signal => {
            let call =
                u32::try_from(event.syscall).ok().and_then(|number| table::name(number, false)).unwrap_or("kill");
            match event.detail.cast_signed() {
                -1 => format!("signal every process ({call})"),
                group @ ..0 => format!("signal process group {} ({call})", group.unsigned_abs()),
                pid => format!("signal process {pid} ({call})"),
            }
        }
    }
}

/// A text without its terminating zero byte.
fn trimmed(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
}

/// The sentence in the color of its verdict, for a terminal.
#[must_use]
pub fn coloured(verdict: Verdict, sentence: &str) -> String {
    let colour = match verdict {
        Verdict::Kill => "1;31",
        Verdict::Deny => "31",
        _ => "33",
    };
    format!("\x1b[{colour}m{sentence}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use monitor_common::event::{Ancestor, Endpoint, Event, FLAG_NO_PLACE};
    use proptest::prelude::*;

    use super::*;
    use crate::record::{
        decode::{decode, tests::bytes},
        enrich::{Enricher, Names, RuleName},
    };

    struct Plain;

    impl Names for Plain {
        fn rule(&self, _: u32, _: u16) -> RuleName {
            RuleName::new("egress-default", "")
        }
        fn instance(&self, _: u16) -> String {
            "plant-a".to_owned()
        }
    }

    fn said(event: &Event, path: &[u8], text: &[u8], exec: &[(u32, &[u8])]) -> String {
        let mut enricher = Enricher::new("/sys/fs/cgroup".into());
        for &(tgid, path) in exec {
            let event = Event { hook: Hook::Exec as u8, sensor: 1, tgid, ..Event::ZERO };
            enricher.observe(&decode(&bytes(event, path, b"")).unwrap());
        }
        let record = decode(&bytes(*event, path, text)).unwrap();
        sentence(&enricher.enrich(record, &Plain))
    }

    #[test]
    fn it_says_who_what_and_why() {
        let mut event =
            Event { hook: Hook::Connect as u8, sensor: 2, verdict: 3, wanted: 3, rule: 1, tgid: 812, ..Event::ZERO };
        event.ancestors[0] = Ancestor { tgid: 640, comm: [0; 16] };
        event.endpoint = Endpoint {
            address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9],
            port: 443,
            ..Endpoint::default()
        };
        let sentence = said(&event, b"", b"", &[(812, b"curl\0bin\0usr\0"), (640, b"node\0bin\0")]);
        assert_eq!(
            sentence,
            "instance plant-a: child curl (pid 812 <- node 640) tried to connect 203.0.113.9:443: denied by rule egress-default"
        );
    }

    #[test]
    fn a_program_that_was_refused_has_no_arguments_to_tell() {
        let event = Event { hook: Hook::Exec as u8, sensor: 3, verdict: 3, wanted: 3, rule: 1, ..Event::ZERO };
        let sentence = said(&event, b"id\0bin\0usr\0", b"", &[]);
        assert!(sentence.contains("tried to run /usr/bin/id: denied"), "{sentence}");
        let event = Event { flags: FLAG_NO_PLACE, ..event };
        let sentence = said(&event, b"memfd:program\0", b"", &[]);
        assert!(sentence.contains("tried to run memfd:program: denied"), "{sentence}");
        let sentence = said(&Event { sensor: 1, verdict: 4, ..event }, b"id\0bin\0", b"id\0-u\0", &[]);
        assert!(sentence.contains("(id -u): killed"), "{sentence}");
    }

    #[test]
    fn a_long_path_is_cut_in_the_middle() {
        let long = [b"a".repeat(400), b"\0".to_vec()].concat();
        let event = Event { hook: Hook::Open as u8, sensor: 1, verdict: 2, ..Event::ZERO };
        let sentence = said(&event, &long, b"", &[]);
        assert!(sentence.contains('…') && sentence.chars().count() < 300, "{sentence}");
    }

    proptest! {
        #[test]
        fn no_name_reaches_the_terminal_as_a_command(path in prop::collection::vec(1..=255_u8, 0..200), hook in prop::sample::select(&Hook::NAMES[..])) {
            let path = [path, vec![0]].concat();
            let event = Event { hook: hook.1 as u8, sensor: 1, verdict: 4, ..Event::ZERO };
            let sentence = said(&event, &path, b"a\0\x1b[2J\0", &[(0, b"\x1b]0;x\x07\0")]);
            prop_assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
        }
    }
}
