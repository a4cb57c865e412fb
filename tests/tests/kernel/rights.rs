//! A guard that may not do what it has to.

use std::process::Command;

use anyhow::{Result, ensure};
use flowwarden_tests::{cli, confine::limited, needs};

/// What `doctor`, which brings the programs in as `run` does, says with these capabilities and so much locked memory.
fn doctor(kept: &[&str], memory: Option<u64>) -> Result<cli::Answer> {
    cli::run(limited(Command::new(needs::flowwarden()?).arg("doctor"), kept, memory))
}

#[test]
fn capabilities_that_are_lacking_are_named() -> Result<()> {
    let answer = doctor(&["CAP_NET_ADMIN"], None)?;
    ensure!(answer.code == Some(1) && answer.errors.contains("root lacks CAP_BPF, CAP_PERFMON here"), "{answer:?}");
    Ok(())
}

#[test]
fn locked_memory_is_named_where_it_counts() -> Result<()> {
    let rights = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"];
    let answer = doctor(&rights, Some(64 * 1024))?;
    // Since 5.11 maps count for the cgroup.
    if rustix::system::uname().release().to_bytes().starts_with(b"5.10.") {
        ensure!(answer.code == Some(1) && answer.errors.contains("LimitMEMLOCK=infinity"), "{answer:?}");
    } else {
        ensure!(answer.code == Some(0), "{answer:?}");
    }
    Ok(())
}
