//! Each kind of operation is seen, by a process of the instance's user that does just that.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, needs, policy::Policy, record::Record, scene::Scene};

use crate::stage::{SIGKILL, act, by_cgroup, copy, run, saw, shell};

/// Long enough to be overwritten in place.
const CONTENT: &str = "INTACT, AND LONG ENOUGH";

/// A scene with a file that the instance's user may write to.
fn scene() -> Result<(Scene, String)> {
    let scene = Scene::empty()?;
    let file = scene.node_red.home().user_dir().join("guarded.txt");
    fs::write(&file, CONTENT)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let file = file.to_str().context("a path that is no text")?.to_owned();
    Ok((scene, file))
}

fn guarded(scene: &Scene, access: &str, verdict: &str) -> Policy {
    Policy::enforce(&scene.node_red).file("guarded.txt", &[access], verdict, "guarded")
}

#[test]
fn a_program_is_killed_before_its_first_instruction() -> Result<()> {
    let (scene, file) = scene()?;
    let tee = needs::executed("tee")?;
    let policy = Policy::enforce(&scene.node_red).exec(&tee.to_string_lossy(), "kill", "no-tee");
    ensure!(run(&scene, Command::new(&tee).arg(&file))?.success(), "tee does not run without a guard");
    ensure!(fs::read(&file)?.is_empty(), "tee does nothing without a guard");
    fs::write(&file, "INTACT")?;
    let (status, records) = act(&scene, &policy, Command::new(&tee).arg(&file))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    ensure!(fs::read_to_string(&file)? == "INTACT", "it ran");
    saw(&records, "exec", "kill")?;
    Ok(())
}

/// What a process does to the file that it opened before the guard came: it says when the file is open and goes on when
/// it reads a line. Without a guard it leaves `mark`, with one it dies before.
fn with_an_older_descriptor(command: impl Fn(&Scene, &str) -> Result<Command>, mark: &str, hook: &str) -> Result<()> {
    let (scene, file) = scene()?;
    for watched in [false, true] {
        fs::write(&file, CONTENT)?;
        let mut command = command(&scene, &file)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = scene.node_red.confinement().spawn(&mut command)?;
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut String::new())?;
        let policy = guarded(&scene, "write", "kill");
        let guard = watched.then(|| Guard::start(Some(&policy), &scene.cgroup, &[])).transpose()?;
        child.stdin.take().context("no input")?.write_all(b"go\n")?;
        let status = child.wait()?;
        let text = fs::read_to_string(&file)?;
        let Some(guard) = guard else {
            ensure!(text.contains(mark), "the attack does no harm without a guard: {status}");
            continue;
        };
        ensure!(status.signal() == Some(SIGKILL), "{status}");
        ensure!(text == CONTENT, "{text}");
        saw(&guard.stop()?, hook, "kill")?;
    }
    Ok(())
}

#[test]
fn a_descriptor_from_before_the_guard_writes_nothing() -> Result<()> {
    let command =
        |_: &Scene, file: &str| Ok(shell(&format!("exec 3>>'{file}'; echo open; read go; echo TAMPERED >&3")));
    with_an_older_descriptor(command, "TAMPERED", "write")
}

#[test]
fn a_mapping_from_an_older_descriptor_is_killed_before_it_stores() -> Result<()> {
    let command = |scene: &Scene, file: &str| {
        let mut command = Command::new(copy(scene, Path::new(env!("CARGO_BIN_EXE_racer")), 0o755)?);
        command.arg("--map").arg(file);
        Ok(command)
    };
    with_an_older_descriptor(command, "OVERWRITTEN", "mmap")
}

/// The numbers of 32-bit system calls are others: a filter by number alone would let them pass.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_call_is_the_same_call() -> Result<()> {
    let (scene, file) = scene()?;
    let actor = copy(&scene, Path::new(env!("CARGO_BIN_EXE_actor")), 0o755)?;
    let attack = || {
        let mut command = Command::new(&actor);
        command.arg("write-32").arg(&file);
        command
    };
    let free = run(&scene, &mut attack())?;
    ensure!(free.success(), "32-bit calls do not work without a guard: {free}");
    fs::write(&file, "INTACT")?;
    let (status, records) = act(&scene, &guarded(&scene, "write", "kill"), &mut attack())?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    ensure!(fs::read_to_string(&file)? == "INTACT", "it wrote");
    saw(&records, "open", "kill")?;
    ensure!(records.iter().any(|record| record.has_flag("compat")), "{records:#?}");
    Ok(())
}

#[test]
fn a_logged_file_tells_its_totals_when_it_is_closed() -> Result<()> {
    let (scene, file) = scene()?;
    let mut command = shell(&format!("exec 3>>'{file}'; echo 12345 >&3; echo 12345 >&3; exec 3>&-"));
    let (status, records) = act(&scene, &guarded(&scene, "write", "log"), &mut command)?;
    ensure!(status.success(), "{status}");
    let first = records.iter().filter(|record| record.hook() == "write").count();
    ensure!(first == 1, "{first} records of a first write: {records:#?}");
    let totals = records.iter().find(|record| record.hook() == "write_totals").context("no totals")?;
    let (bytes, count) = (totals.number("/unmapped/bytes"), totals.number("/unmapped/count"));
    ensure!((bytes, count) == (Some(12), Some(2)), "{totals:#?}");
    Ok(())
}

#[test]
fn what_a_symbolic_link_hides_from_the_name_shows_in_the_file() -> Result<()> {
    let (scene, file) = scene()?;
    let home = scene.node_red.home().user_dir();
    std::os::unix::fs::symlink(&home, home.join("alias"))?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777))?;
    let attacks = [
        ("delete", "unlink", format!("rm -f '{}/alias/guarded.txt'", home.display())),
        ("delete", "unlink", format!("rm -f '/proc/self/root{file}'")),
        ("rename", "rename", format!("mv '{0}/alias/guarded.txt' '{0}/away'", home.display())),
        ("rename", "rename", format!("echo x >'{0}/new'; mv -f '{0}/new' '{0}/alias/guarded.txt'", home.display())),
    ];
    for (access, hook, script) in attacks {
        fs::write(&file, "INTACT")?;
        ensure!(run(&scene, &mut shell(&script))?.success(), "{script}: does not work without a guard");
        fs::write(&file, "INTACT")?;
        let (_, records) = act(&scene, &guarded(&scene, access, "kill"), &mut shell(&script))?;
        saw(&records, hook, "kill").context(script)?;
        let alert = records.iter().find(|record| record.is_alert()).context("no alert")?;
        ensure!(alert.has_flag("confirmed") && alert.has_flag("after"), "{alert:#?}");
        ensure!(alert.path() == file, "{alert:#?}");
    }
    Ok(())
}

#[test]
fn a_name_is_enough_and_the_file_confirms_it() -> Result<()> {
    let (scene, file) = scene()?;
    let (status, records) =
        act(&scene, &guarded(&scene, "delete", "kill"), &mut shell(&format!("exec rm -f '{file}'")))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    let alert = records.iter().find(|record| record.is_alert()).context("no alert")?;
    ensure!(alert.has_flag("by_name") && alert.has_flag("confirmed"), "{alert:#?}");
    Ok(())
}

#[test]
fn what_the_system_refuses_is_told_but_nobody_dies_for_it() -> Result<()> {
    let scene = Scene::empty()?;
    let policy = Policy::enforce(&scene.node_red).file("/etc/hostname", &["delete"], "kill", "host");
    let (status, records) = act(&scene, &policy, &mut shell("rm -f /etc/hostname"))?;
    ensure!(status.signal().is_none() && !status.success(), "{status}");
    saw(&records, "unlink", "log")?;
    ensure!(records.iter().any(|record| record.has_flag("failed")), "{records:#?}");
    Ok(())
}

#[test]
fn a_unix_socket_is_known_by_its_file() -> Result<()> {
    let scene = Scene::empty()?;
    let path = scene.node_red.home().user_dir().join("daemon.sock");
    let _listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let script = format!("require('net').connect({path:?}, () => process.exit(0)).on('error', () => process.exit(1))");
    ensure!(
        run(&scene, Command::new("node").arg("-e").arg(&script))?.success(),
        "the socket cannot be reached without a guard"
    );
    let policy = Policy::enforce(&scene.node_red).file("daemon.sock", &["write"], "kill", "daemon");
    let (status, records) = act(&scene, &policy, Command::new("node").arg("-e").arg(&script))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "unix_connect", "kill")?;
    Ok(())
}

#[test]
fn a_signal_to_a_stranger_is_seen_and_one_to_oneself_is_not() -> Result<()> {
    let scene = Scene::empty()?;
    let policy = Policy::enforce(&scene.node_red).by_default("signal", "log");
    let own = std::process::id();
    let (_, records) = act(&scene, &policy, &mut shell(&format!("sleep 9 & kill $!; kill -URG {own}; kill -0 {own}")))?;
    let seen = records.iter().filter(|record| record.hook() == "signal").count();
    ensure!(seen == 1, "{seen} signals: {records:#?}");
    Ok(())
}

#[test]
fn an_incoming_connection_names_its_peer() -> Result<()> {
    let mut scene = Scene::empty()?;
    scene.node_red.start()?;
    let policy = Policy::enforce(&scene.node_red).by_default("ingress", "log");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    scene.node_red.http("GET", "/settings", "")?;
    let records = guard.stop()?;
    let accept = records.iter().find(|record| record.hook() == "accept").context("no accept")?;
    let peer = accept.pointer_text("/src_endpoint/ip");
    ensure!(peer == "127.0.0.1", "{peer}: {accept:#?}");
    Ok(())
}

#[test]
fn an_instance_can_be_selected_by_its_cgroup_and_by_its_program() -> Result<()> {
    let (scene, file) = scene()?;
    let write = format!("echo TAMPERED >>'{file}'");
    let by_cgroup = by_cgroup(&scene, guarded(&scene, "write", "kill"))?;
    let (status, records) = act(&scene, &by_cgroup, &mut shell(&write))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "open", "kill")?;

    let uid = scene.node_red.confinement().uid;
    let by_program = guarded(&scene, "write", "kill").select(&format!("{{ uid = {uid}, exec = \"node-red\" }}"));
    let (status, records) = act(&scene, &by_program, &mut shell(&write))?;
    ensure!(
        status.success() && !records.iter().any(Record::is_alert),
        "a shell of the same user is not Node-RED: {status}"
    );
    let red = scene.node_red.home().user_dir().join("red.js");
    fs::write(&red, format!("require('child_process').execSync({write:?})"))?;
    let (_, records) = act(&scene, &by_program, Command::new("node").arg(&red))?;
    saw(&records, "open", "kill")?;
    Ok(())
}
