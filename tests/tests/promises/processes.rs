//! What the instance does to other processes and to its own privileges.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Result, ensure};
use flowwarden_tests::{guard::Guard, policy::Policy, record::Record, scene::Scene};

use crate::stage::{Actor, Neighbour, SIGKILL, act, by_cgroup, run, saw};

const SIGTERM: i32 = 15;

/// The records of an operation by the system call that did it.
fn by_call<'a>(records: &'a [Record], hook: &str, call: &str) -> Vec<&'a Record> {
    records.iter().filter(|record| record.hook() == hook && record.syscall() == call).collect()
}

/// That one record tells of this call, and that it names the process.
fn told_once(records: &[Record], hook: &str, call: &str, pid: u32) -> Result<()> {
    let reported = by_call(records, hook, call);
    ensure!(reported.len() == 1, "{} records of {call}: {records:#?}", reported.len());
    ensure!(reported[0].number("/unmapped/detail") == Some(pid.into()), "{call} names another: {:#?}", reported[0]);
    Ok(())
}

/// A system call, and the operation of the [`Actor`] that does it to a process.
type Deed = (&'static str, fn(u32) -> String);

/// Each system call that sends a signal.
const SIGNALS: &[Deed] = &[
    ("kill", |pid| format!("kill {pid} {SIGTERM}")),
    ("tkill", |pid| format!("tkill {pid} {SIGTERM}")),
    ("tgkill", |pid| format!("tgkill {pid} {pid} {SIGTERM}")),
    ("rt_sigqueueinfo", |pid| format!("rt_sigqueueinfo {pid} {SIGTERM}")),
    ("rt_tgsigqueueinfo", |pid| format!("rt_tgsigqueueinfo {pid} {pid} {SIGTERM}")),
    ("pidfd_send_signal", |pid| format!("pidfd_send_signal {pid} {SIGTERM}")),
];

#[test]
fn a_signal_to_a_neighbour_is_told_whichever_call_sends_it() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::new(&scene)?;
    for (call, operation) in SIGNALS {
        let mut neighbour = Neighbour::new(&scene)?;
        let free = run(&scene, &mut actor.does(&operation(neighbour.pid())))?;
        ensure!(free.success(), "{call}: {free}");
        neighbour.died_of(SIGTERM)?;
    }
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).by_default("signal", "log"))?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let mut pids = Vec::new();
    for (_, operation) in SIGNALS {
        let (neighbour, companion) = (Neighbour::new(&scene)?, Neighbour::companion(&scene)?);
        run(&scene, &mut actor.does(&operation(companion.pid())))?;
        run(&scene, &mut actor.does(&operation(neighbour.pid())))?;
        pids.push(neighbour.pid());
    }
    let records = guard.stop()?;
    for ((call, _), pid) in SIGNALS.iter().zip(pids) {
        told_once(&records, "signal", call, pid)?;
    }
    Ok(())
}

#[test]
fn a_signal_to_a_group_is_told_when_a_neighbour_is_in_it() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::new(&scene)?;
    let (mut neighbour, companion) = (Neighbour::new(&scene)?, Neighbour::companion(&scene)?);
    ensure!(run(&scene, &mut actor.does(&format!("kill -{} {SIGTERM}", neighbour.pid())))?.success(), "no such group");
    neighbour.died_of(SIGTERM)?;
    drop(neighbour);
    let neighbour = Neighbour::new(&scene)?;
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).by_default("signal", "log"))?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    // SIGURG does nothing to who does not ask for it.
    run(&scene, &mut actor.does(&format!("kill -{} 23", companion.pid())))?;
    run(&scene, &mut actor.does(&format!("kill -{} 23", neighbour.pid())))?;
    // The group of the harness, from which the actor comes.
    run(&scene, &mut actor.does("kill 0 23"))?;
    run(&scene, &mut actor.does("kill -1 23"))?;
    let records = guard.stop()?;
    let reported: Vec<_> =
        by_call(&records, "signal", "kill").iter().map(|record| record.signed("/unmapped/detail")).collect();
    let harness = i64::from(rustix::process::getpgrp().as_raw_pid());
    ensure!(reported == [Some(-i64::from(neighbour.pid())), Some(-harness), Some(-1)], "{reported:?}: {records:#?}");
    Ok(())
}

#[test]
fn who_signals_a_neighbour_can_be_killed_for_it() -> Result<()> {
    let scene = Scene::empty()?;
    let neighbour = Neighbour::new(&scene)?;
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).by_default("signal", "kill"))?;
    let attack = format!("kill {} {SIGTERM}", neighbour.pid());
    let (status, records) = act(&scene, &policy, &mut Actor::new(&scene)?.does(&attack))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "signal", "kill")?;
    Ok(())
}

/// Each system call that reaches into another process.
const INTRUSIONS: &[Deed] = &[
    ("ptrace", |pid| format!("ptrace {pid}")),
    ("process_vm_readv", |pid| format!("process_vm_readv {pid}")),
    ("pidfd_getfd", |pid| format!("pidfd_getfd {pid} 0")),
];

#[test]
fn reaching_into_a_neighbour_is_told_whichever_call_does_it() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::new(&scene)?;
    let (neighbour, companion) = (Neighbour::new(&scene)?, Neighbour::companion(&scene)?);
    for (call, operation) in INTRUSIONS {
        let free = run(&scene, &mut actor.does(&operation(neighbour.pid())))?;
        ensure!(free.success(), "{call}: {free}");
    }
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).by_default("ptrace", "log"))?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    for (_, operation) in INTRUSIONS {
        run(&scene, &mut actor.does(&operation(companion.pid())))?;
        run(&scene, &mut actor.does(&operation(neighbour.pid())))?;
    }
    let records = guard.stop()?;
    for (call, _) in INTRUSIONS {
        told_once(&records, "ptrace", call, neighbour.pid())?;
    }
    Ok(())
}

#[test]
fn who_traces_a_neighbour_can_be_killed_for_it() -> Result<()> {
    let scene = Scene::empty()?;
    let neighbour = Neighbour::new(&scene)?;
    let policy = by_cgroup(&scene, Policy::enforce(&scene.node_red).by_default("ptrace", "kill"))?;
    let attack = format!("ptrace {}", neighbour.pid());
    let (status, records) = act(&scene, &policy, &mut Actor::new(&scene)?.does(&attack))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "ptrace", "kill")?;
    Ok(())
}

#[test]
fn a_setuid_program_is_killed_before_its_first_instruction() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::root(&scene)?;
    ensure!(
        run(&scene, &mut actor.does_in_shell("raw-socket"))?.success(),
        "the program is not root even without a guard"
    );
    let policy = Policy::enforce(&scene.node_red).by_default("privilege", "kill").by_default("raw-socket", "log");
    let (status, records) = act(&scene, &policy, &mut actor.does_in_shell("raw-socket"))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "privilege", "kill")?;
    ensure!(!records.iter().any(|record| record.hook() == "socket"), "it ran: {records:#?}");
    Ok(())
}

#[test]
fn gained_privilege_is_told_with_the_call_that_gave_it() -> Result<()> {
    let scene = Scene::empty()?;
    let uid = scene.node_red.confinement().uid;
    let (root, plain) = (Actor::root(&scene)?, Actor::new(&scene)?);
    let acts = [
        ("setresuid", root.does_in_shell(&format!("setresuid {uid}"))),
        ("capset", root.does_in_shell("capset")),
        ("unshare", plain.does("unshare")),
    ];
    let policy = Policy::enforce(&scene.node_red).by_default("privilege", "log");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let mut calls = Vec::new();
    for (call, mut command) in acts {
        let status = run(&scene, &mut command)?;
        ensure!(status.success(), "{call}: {status}");
        calls.push(call);
    }
    let records = guard.stop()?;
    for call in calls {
        let reported = by_call(&records, "privilege", call);
        ensure!(reported.len() == 1, "{} records of {call}: {records:#?}", reported.len());
    }
    let by_program = by_call(&records, "privilege", "");
    ensure!(by_program.len() == 2, "two programs were setuid: {by_program:#?}");
    Ok(())
}
