//! When all memory of the programs is in use: there is some for four programs at a time on a CPU, and a
//! process with enough threads has more of them interrupted in the middle of one.

use std::{ffi::c_long, fs, net::TcpListener};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, stand_in::StandIn};

use super::{LOOPBACK, start};

/// Commands of `bpf(2)`.
const UPDATE: c_long = 2;
const DELETE: c_long = 3;
const MAP_BY_ID: c_long = 14;
const INFO: c_long = 15;

fn bpf<T>(command: c_long, attributes: &T) -> Result<i32> {
    // SAFETY: the attributes are what the command takes, and what they point to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    ensure!(answer >= 0, std::io::Error::last_os_error());
    Ok(i32::try_from(answer)?)
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// The guard's map of what is in use, and how much there is.
struct Held {
    map: u32,
    places: u32,
}

impl Held {
    fn of(guard: &Guard) -> Result<Self> {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", guard.pid()))?.flatten();
        let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let ids =
            texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok()));
        for id in ids.collect::<Vec<u32>>() {
            let map = bpf(MAP_BY_ID, &[id, 0, 0])?.cast_unsigned();
            let mut info = Info::default();
            let len = u64::try_from(size_of::<Info>())?;
            bpf(INFO, &[u64::from(map) | len << 32, (&raw mut info).expose_provenance() as u64])?;
            if info.name.starts_with(b"HELD\0") {
                return Ok(Self { map, places: info.max_entries });
            }
        }
        None.context("the guard has no map of that name")
    }

    /// Takes all of it, or gives it back.
    fn each(&self, command: c_long) {
        for place in 0..self.places {
            let (key, value) = (place, 1_u32);
            let at = |number: &u32| std::ptr::from_ref(number).expose_provenance() as u64;
            // What is in use already, or not any more, is as it should be.
            let value = if command == DELETE { 0 } else { at(&value) };
            let _ = bpf(command, &[u64::from(self.map), at(&key), value, 0]);
        }
    }
}

#[test]
fn without_memory_to_judge_in_what_is_forbidden_is_refused() -> Result<()> {
    let stand_in = StandIn::new(option_env!("CARGO_BIN_EXE_actor"))?;
    let policy = stand_in.policy().egress(&["127.0.0.0/8"], "deny", "egress");
    let guard = start(&stand_in, &policy, &[])?;
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    let held = Held::of(&guard)?;
    held.each(UPDATE);
    let (_, status) = stand_in.does(&format!("connect {}", listener.local_addr()?))?;
    held.each(DELETE);
    ensure!(!status.success(), "it goes through");
    let (pid, status) = stand_in.does(&format!("connect {}", listener.local_addr()?))?;
    ensure!(!status.success(), "it goes through when there is memory");
    guard.wait_for(flowwarden_tests::wait::PATIENCE, |record| {
        record.rule() == "egress" && record.pid() == Some(pid.into())
    })?;
    guard.stop().map(drop)
}
