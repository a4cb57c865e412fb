//! Which task belongs to which instance.

use crate::{opaque::Opaque, policy::MAX_INSTANCES, shared};

/// Most selectors in one policy.
pub const MAX_SELECTORS: usize = 64;
/// How far up the cgroup tree a task's ancestors are looked at.
pub const MAX_CGROUP_DEPTH: usize = 8;

/// The selector names a uid.
pub const SELECT_UID: u16 = 1;
/// The selector names a cgroup; the task is in it or below.
pub const SELECT_CGROUP: u16 = 1 << 1;
/// The selector wants node with an argument that names red.js or node-red.
pub const SELECT_EXEC: u16 = 1 << 2;

/// One way for a task to belong to an instance; all that it names must hold.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// cgroup v2 id, the inode number of the directory.
    pub cgroup: u64,
    /// Real uid.
    pub uid: u32,
    /// Slot of the instance.
    pub instance: u16,
    /// `SELECT_*`; 0 matches nothing.
    pub flags: u16,
}

/// How a task came into scope.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its own uid, cgroup or program.
    Selected = 1,
    /// An ancestor was in scope.
    Inherited = 2,
    /// It ran before the guard came.
    Scanned = 3,
}

impl Origin {
    /// The name that journals use.
    #[must_use]
    pub const fn name(raw: u8) -> &'static str {
        match raw {
            1 => "selected",
            2 => "inherited",
            3 => "scanned",
            _ => "unknown",
        }
    }
}

/// The mark of a process in scope, kept by tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskLabel {
    /// Slot of the instance.
    pub instance: u16,
    /// An [`Origin`].
    pub origin: u8,
    /// 1 when a cgroup program, which cannot send signals, wants the process killed; the next system call exit does it.
    pub kill: u8,
    /// Effective uid when the process was last looked at.
    pub euid: u32,
    /// Effective capabilities when the process was last looked at.
    pub caps: u64,
}

shared!(Selector = 16, TaskLabel = 16);

const _: () = assert!(MAX_INSTANCES <= u16::MAX as usize);

/// What is known about a task when its membership is decided.
#[derive(Clone, Copy, Debug)]
pub struct TaskFacts<'a> {
    /// Real uid.
    pub uid: u32,
    /// Its cgroup and that one's ancestors, zero where there is none.
    pub cgroups: &'a [u64; MAX_CGROUP_DEPTH],
    /// It runs node with an argument that names Node-RED.
    pub is_node_red: bool,
}

/// Whether `selector` selects the task.
#[inline(always)]
#[must_use]
pub fn selects(selector: &Selector, task: &TaskFacts<'_>) -> bool {
    let flags = selector.flags;
    if flags == 0 || (flags & SELECT_UID != 0 && selector.uid != task.uid) {
        return false;
    }
    if flags & SELECT_EXEC != 0 && !task.is_node_red {
        return false;
    }
    if flags & SELECT_CGROUP != 0 {
        for &cgroup in task.cgroups {
            if cgroup != 0 && cgroup == selector.cgroup {
                return true;
            }
        }
        return false;
    }
    true
}

/// Looks through argument bytes, NUL-separated as the kernel lays them out, for one that names Node-RED.
///
/// An argument does when its last path component is `red.js`, `node-red`, `node-red.js` or `node-red-pi`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArgvMatcher {
    /// The last eight bytes of the component, the newest lowest.
    tail: Opaque<u64>,
    /// Bytes in the component so far.
    len: Opaque<u32>,
    /// 1 when the first eight bytes of the component were `node-red`.
    head: Opaque<u32>,
    /// 1 once an argument was found.
    found: Opaque<u32>,
}

const RED_JS: u64 = u64::from_be_bytes(*b"\0\0red.js");
const NODE_RED: u64 = u64::from_be_bytes(*b"node-red");
const DOT_JS: u64 = u64::from_be_bytes(*b"\0\0\0\0\0.js");
const DASH_PI: u64 = u64::from_be_bytes(*b"\0\0\0\0\0-pi");

impl ArgvMatcher {
    /// Before the first byte.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.found.set(0);
        self.next();
    }

    #[inline(always)]
    fn next(&mut self) {
        self.tail.set(0);
        self.len.set(0);
        self.head.set(0);
    }

    /// Takes the next byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        if byte == 0 {
            let (tail, len) = (self.tail.get(), self.len.get());
            let ending = tail & 0x00ff_ffff;
            if (len == 6 && tail == RED_JS)
                || (len == 8 && tail == NODE_RED)
                || (len == 11 && self.head.get() != 0 && (ending == DOT_JS || ending == DASH_PI))
            {
                self.found.set(1);
            }
            self.next();
        } else if byte == b'/' {
            self.next();
        } else {
            let tail = self.tail.get() << 8 | u64::from(byte);
            self.tail.set(tail);
            self.len.set(self.len.get().wrapping_add(1));
            if self.len.get() == 8 && tail == NODE_RED {
                self.head.set(1);
            }
        }
    }

    /// Whether an argument that has ended names Node-RED.
    #[inline(always)]
    #[must_use]
    pub fn found(&self) -> bool {
        self.found.get() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_node_red(argv: &[u8]) -> bool {
        let mut matcher = ArgvMatcher::default();
        for &byte in argv {
            matcher.push(byte);
        }
        matcher.found()
    }

    #[test]
    fn argv_of_the_known_deployments() {
        for argv in [
            &b"node\0/usr/lib/node_modules/node-red/red.js\0-u\0/data\0"[..],
            b"node\0red.js\0",
            b"node\0--max-old-space-size=256\0/usr/bin/node-red\0",
            b"node\0/opt/node-red-pi\0",
            b"node\0node-red.js\0",
        ] {
            assert!(names_node_red(argv), "{argv:?}");
        }
    }

    #[test]
    fn argv_of_others() {
        for argv in [
            &b"node\0/srv/app/bored.js\0"[..],
            b"node\0/srv/node-red/server.js\0",
            b"node\0/srv/node-red/\0",
            b"node\0my-node-red\0",
            b"node\0red.jsx\0",
            b"node\0node-redder.js\0",
            b"",
        ] {
            assert!(!names_node_red(argv), "{argv:?}");
        }
    }

    #[test]
    fn all_parts_of_a_selector_must_hold() {
        let cgroups = [7, 5, 1, 0, 0, 0, 0, 0];
        let task = TaskFacts { uid: 1000, cgroups: &cgroups, is_node_red: false };
        let selector = |flags| Selector { cgroup: 5, uid: 1000, instance: 0, flags };
        assert!(!selects(&selector(0), &task));
        assert!(selects(&selector(SELECT_UID), &task));
        assert!(selects(&selector(SELECT_UID | SELECT_CGROUP), &task));
        assert!(!selects(&selector(SELECT_UID | SELECT_EXEC), &task));
        assert!(!selects(&Selector { cgroup: 0, ..selector(SELECT_CGROUP) }, &task));
        assert!(!selects(&Selector { uid: 1, ..selector(SELECT_UID) }, &task));
    }
}
