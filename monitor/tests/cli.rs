//! The commands of `flowwarden` as users run them: with closed pipes and full disks.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fs,
    fs::File,
    io::ErrorKind,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    sync::RwLock,
    thread,
    time::{Duration, Instant},
};

use journal::{Durability, Journal, Limits, text::terminal::is_hidden};
use monitor::config::parse;
use sinks::Sinks;
use tempfile::TempDir;

const POLICY: &str = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ unit = \"nodered.service\" }]\n\
                      user-dir = \"/srv/no/such/place\"\n";

/// A directory with a policy that raises a warning, and a userDir of Node-RED under `root`.
fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = place.path().join("root/home/a/.node-red");
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(place.path().join("root/etc")).unwrap();
    fs::write(place.path().join("root/etc/passwd"), "a:x:1000:1000::/home/a:/bin/sh\n").unwrap();
    fs::write(home.join("settings.js"), "module.exports = {}\n").unwrap();
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    place
}

fn flowwarden(place: &Path, arguments: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowwarden"));
    command.args(arguments).current_dir(place).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let child = {
        let _forking = FORKS.read().unwrap();
        command.spawn().unwrap()
    };
    let mut output = child.wait_with_output().unwrap();
    // What a guard has left in the kernel of this machine is reported as well, and is no matter of these tests.
    let is_others = |line: &[u8]| line.windows(UNGUARDED.len()).any(|part| part == UNGUARDED);
    output.stderr = output
        .stderr
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| !is_others(line))
        .flatten()
        .copied()
        .collect();
    output
}

/// In each line about programs that run without a guard.
const UNGUARDED: &[u8] = b" enforce without a guard";

/// Held for writing while a program is written: a child between fork and exec would have it open, and it could not be run.
static FORKS: RwLock<()> = RwLock::new(());

/// A pipe without a reader.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// Commands that print something, wherever they run.
const TALKING: [&[&str]; 7] = [
    &["check", "policy.toml"],
    &["discover", "--root", "root"],
    &["discover", "--root", "root", "--json"],
    &["audit", "--root", "root"],
    &["audit", "--root", "root", "--json"],
    &["init", "--root", "root"],
    &["explain", "guard-files"],
];

#[test]
fn whoever_reads_may_have_seen_enough() {
    let place = place();
    for command in TALKING {
        let whole = flowwarden(place.path(), command, Stdio::piped(), Stdio::piped());
        assert!(!whole.stdout.is_empty() && whole.status.code() != Some(101), "{command:?}: {whole:?}");
        let cut = flowwarden(place.path(), command, closed(), Stdio::piped());
        assert_eq!((cut.status, cut.stderr), (whole.status, whole.stderr), "{command:?}");
    }
}

#[test]
fn what_cannot_be_printed_is_told_and_fails() {
    let place = place();
    for command in TALKING {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let answer = flowwarden(place.path(), command, full, Stdio::piped());
        let errors = String::from_utf8(answer.stderr).unwrap();
        let reported = errors.ends_with("flowwarden: the standard output: No space left on device (os error 28)\n");
        assert!(reported && answer.status.code() == Some(1), "{command:?}: {errors}");
    }
}

#[test]
fn errors_that_nobody_reads_are_errors() {
    let place = place();
    for (command, code) in [(&["check", "missing.toml"][..], 2), (&["journal", "query", "--journal", "missing"], 1)] {
        let answer = flowwarden(place.path(), command, Stdio::piped(), closed());
        assert_eq!(answer.status.code(), Some(code), "{command:?}");
    }
}

#[test]
fn a_missing_file_is_one_error_with_its_fix() {
    let place = place();
    fs::create_dir(place.path().join("empty")).unwrap();
    fs::write(place.path().join("binary.toml"), b"version = 1\n\xff\xfe").unwrap();
    let none = "flowwarden: empty: no journal here; pass its directory with --journal\n";
    for (command, code, message) in [
        (&["check", "missing.toml"][..], 2, "flowwarden: missing.toml: No such file or directory (os error 2)\n"),
        (&["check", "empty"], 2, "flowwarden: empty: it is a directory\n"),
        (&["check", "/dev/zero"], 2, "flowwarden: /dev/zero: it is not a regular file\n"),
        (&["check", "binary.toml"], 2, "binary.toml:2:1: invalid UTF-8; is this a policy file?\n"),
        (&["journal", "query", "--journal", "empty"], 1, none),
        (&["journal", "export", "--journal", "empty", "--format", "ecs"], 1, none),
        (&["journal", "verify", "--journal", "empty"], 1, none),
        (&["simulate", "--journal", "empty", "--policy", "policy.toml"], 1, none),
        (&["learn", "--journal", "empty", "--policy", "policy.toml"], 1, none),
        (&["explain", "4711", "--journal", "empty"], 1, none),
    ] {
        let answer = flowwarden(place.path(), command, Stdio::piped(), Stdio::piped());
        assert_eq!(String::from_utf8_lossy(&answer.stderr), message, "{command:?}");
        assert_eq!((answer.status.code(), answer.stdout.len()), (Some(code), 0), "{command:?}");
    }
}

#[test]
fn each_fault_of_a_policy_is_a_line_that_an_editor_can_jump_to() {
    let place = place();
    fs::write(place.path().join("faulty.toml"), format!("{POLICY}acess = 1\nmode = 2\n\"x\\n\\u202Ey\" = 3\n"))
        .unwrap();
    let expected = "faulty.toml:6:1: unknown key \"acess\"\n\
                    faulty.toml:7:1: unknown key \"mode\"\n\
                    faulty.toml:8:1: unknown key \"x\\u{a}\\u{202e}y\"\n";
    for command in [&["check", "faulty.toml"][..], &["audit", "--root", "root", "--policy", "faulty.toml"]] {
        let answer = flowwarden(place.path(), command, Stdio::piped(), Stdio::piped());
        assert_eq!(String::from_utf8_lossy(&answer.stderr), expected, "{command:?}");
        assert_eq!(answer.status.code(), Some(2), "{command:?}");
    }
    let answer = flowwarden(place.path(), &["check", "policy.toml"], Stdio::piped(), Stdio::piped());
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(said.lines().any(|line| line.starts_with("policy.toml:2:1: warning: user-dir ")), "{said}");
}

/// What other people have named, as commands show it.
#[test]
fn no_name_acts_on_the_terminal_or_begins_a_line_of_its_own() {
    let place = place();
    let name = "x\u{1b}[2J\u{61c}\u{2028}\u{feff}\u{e0041}\u{fe0f}\n  user       root";
    let home = place.path().join("root/home").join(name);
    fs::create_dir_all(home.join(".node-red")).unwrap();
    fs::write(home.join(".node-red/settings.js"), "module.exports = {}\n").unwrap();
    let passwd = format!("a:x:1000:1000::/home/{}:/bin/sh\n", name.replace('\n', ""));
    fs::write(place.path().join("root/etc/passwd"), passwd).unwrap();
    fs::rename(home, place.path().join("root/home").join(name.replace('\n', ""))).unwrap();
    fs::write(place.path().join(name), "x").unwrap();
    for command in [
        &["discover", "--root", "root"][..],
        &["audit", "--root", "root", "--all"],
        &["init", "--root", "root"],
        &["check", name],
        &["journal", "verify", "--journal", name],
        &["explain", name],
        &["simulate", "--journal", name, "--policy", name],
        &["sink", "test", "siem", "--config", name],
    ] {
        let answer = flowwarden(place.path(), command, Stdio::piped(), Stdio::piped());
        let said = String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap();
        let bad: Vec<_> = said.chars().filter(|&char| char != '\n' && is_hidden(char)).collect();
        assert!(said.contains('x') && bad.is_empty(), "{command:?}: {bad:?}\n{}", said.escape_debug());
        let forged =
            said.lines().any(|line| line.trim_start().starts_with("user       root") && !line.starts_with("   "));
        assert!(!forged, "{command:?}: {said}");
    }
}

#[test]
fn a_policy_is_written_where_there_is_no_directory_yet() {
    let place = place();
    let command = ["init", "--root", "root", "--output", "etc/flowwarden/policy.toml"];
    let answer = flowwarden(place.path(), &command, Stdio::piped(), Stdio::piped());
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(place.path().join("etc/flowwarden/policy.toml").metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn check_looks_up_the_hosts_that_connect() {
    let place = place();
    let policy = format!("{POLICY}[[instance.ingress]]\nfrom = [\"host.invalid\"]\nverdict = \"allow\"\n");
    fs::write(place.path().join("named.toml"), policy).unwrap();
    let answer = flowwarden(place.path(), &["check", "named.toml"], Stdio::piped(), Stdio::piped());
    let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(answer.status.success() && errors.contains("host.invalid cannot be resolved"), "{errors}");
}

#[test]
fn what_only_root_may_do_is_not_tried_by_others() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = place();
    let program = place.path().join("flowwarden");
    {
        let _writing = FORKS.write().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_flowwarden"), &program).unwrap();
    }
    for command in
        ["accept policy.toml", "restore policy.toml", "detach", "learn --for 1h", "run", "maintenance status"]
    {
        let mut other = Command::new(&program);
        other.args(command.split(' ')).current_dir(place.path()).stdin(Stdio::null()).uid(65534).gid(65534);
        let answer = other.output().unwrap();
        let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(errors.contains("Try: sudo flowwarden") && errors.lines().count() == 1, "{command}: {errors}");
        assert_eq!((answer.status.code(), answer.stdout.len()), (Some(1), 0), "{command}");
    }
}

#[test]
fn verify_says_by_its_code_what_a_journal_lacks() {
    let place = place();
    let directory = place.path().join("journal");
    let mut journal = Journal::open(&directory, Limits::default()).unwrap();
    for number in 0..20 {
        journal.append(serde_json::json!({ "message": number.to_string() }), Durability::Grouped);
    }
    journal.close().unwrap();
    let code = || {
        let arguments = ["journal", "verify", "--journal", directory.to_str().unwrap()];
        flowwarden(place.path(), &arguments, Stdio::piped(), Stdio::piped()).status.code()
    };
    assert_eq!(code(), Some(0));
    let segment = directory.join("journal-00000001.jsonl");
    let whole = fs::read_to_string(&segment).unwrap();
    let mut codes = BTreeSet::from([0, 1, 2]);
    let last = whole.trim_end().rfind('\n').unwrap();
    for (what, text) in [
        ("a changed line", whole.replace("\"message\":\"7\"", "\"message\":\"8\"")),
        ("a line that is gone at the end", whole[..=last].to_owned()),
    ] {
        fs::write(&segment, text).unwrap();
        assert!(codes.insert(code().unwrap()), "{what}: {:?} says the same", code());
    }
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(code(), Some(1));
}

/// What a sink has written, once it has all events of the journal.
fn arrived(file: &Path, events: usize) -> String {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.matches('\n').count() >= events {
            return text;
        }
        assert!(Instant::now() < end, "{}: {text}", file.display());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn verify_takes_a_checkpoint_from_the_file_of_any_sink() {
    let place = place();
    let directory = place.path().join("journal");
    let write = |count: u64| {
        let journal = Journal::open(&directory, Limits::default()).unwrap();
        for number in 0..count {
            journal.append(serde_json::json!({ "message": number.to_string() }), Durability::Grouped);
        }
        journal
    };
    write(20).close().unwrap();
    let verify = |against: &str| {
        let arguments = ["journal", "verify", "--journal", "journal", "--against", against];
        let answer = flowwarden(place.path(), &arguments, Stdio::piped(), Stdio::piped());
        (answer.status.code(), String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap())
    };
    let formats = ["jsonl", "ocsf", "ecs", "cef"];
    let sinks: Vec<_> = formats
        .iter()
        .map(|format| {
            let path = place.path().join(format);
            format!(
                "[[sink]]\nname = \"{format}\"\ntype = \"file\"\npath = \"{}\"\nformat = \"{format}\"\nfrom = \"beginning\"\n",
                path.display()
            )
        })
        .collect();
    let policy =
        parse(&format!("version = 1\n{}{}", sinks.concat(), POLICY.trim_start_matches("version = 1\n"))).unwrap();
    // The checkpoint of the first run is not the last thing that a sink has.
    let mut journal = write(5);
    let running = Sinks::start(&policy.sinks, journal.spool());
    let texts = formats.map(|format| arrived(&place.path().join(format), 26));
    drop(running);
    journal.close().unwrap();
    for (format, text) in formats.into_iter().zip(texts) {
        let (code, said) = verify(format);
        assert_eq!(code, Some(0), "{format}: {said}\n{text}");
        // As rsyslog writes it.
        let syslog =
            format!("<134>1 2026-01-31T08:00:00.000Z plant flowwarden - - - {}\n", text.lines().nth(20).unwrap());
        fs::write(place.path().join("syslog"), syslog).unwrap();
        let (code, said) = verify("syslog");
        assert_eq!(code, Some(0), "{format} by syslog: {said}\n{text}");
    }
    // It is compared: a journal that was cut to before it is found out, by each of them.
    let segment = directory.join("journal-00000001.jsonl");
    let whole = fs::read_to_string(&segment).unwrap();
    let cut: String = whole.split_inclusive('\n').take(10).collect();
    fs::write(&segment, cut).unwrap();
    for file in directory.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "checkpoints") {
            fs::write(file, "").unwrap();
        }
    }
    for format in formats {
        let (code, said) = verify(format);
        assert!(code == Some(4) && said.contains("the checkpoint to compare with"), "{format}: {code:?} {said}");
    }
    fs::write(place.path().join("none"), "{\"message\":\"x\"}\nCEF:0|a|b|c|d|e|1|msg=x\n").unwrap();
    let (code, said) = verify("none");
    assert_eq!((code, said.as_str()), (Some(1), "flowwarden: none: no line in it has a checkpoint\n"));
}

#[test]
fn learn_closes_nothing_that_the_journals_policy_did_not_log() {
    let place = place();
    let mut journal = Journal::open(&place.path().join("journal"), Limits::default()).unwrap();
    let start = serde_json::json!({ "message": "Flowwarden started", "unmapped": { "logged": ["a: egress"] } });
    journal.append(start, Durability::Grouped);
    for number in 0..10 {
        let attack = serde_json::json!({
            "time": 1000, "message": "x", "file": { "path": format!("/srv/no/such/place/{number}.pem") },
            "unmapped": { "instance": "a", "rule": "private-keys", "verdict": "log", "wanted": "log", "hook": "open",
                          "sensor": "lsm", "access": ["read"], "flags": [] },
        });
        journal.append(attack, Durability::Grouped);
    }
    journal.close().unwrap();
    let command = ["learn", "--journal", "journal", "--policy", "policy.toml", "--write", "new.toml"];
    let answer = flowwarden(place.path(), &command, Stdio::piped(), Stdio::piped());
    let said = String::from_utf8(answer.stderr).unwrap();
    let error = said.lines().last().unwrap_or_default();
    let begins =
        error.starts_with("flowwarden: the policy of this journal did not log what no rule names (a: files, ingress, ");
    assert!(begins && error.contains("flowwarden learn --for 1h") && !error.contains(" egress, "), "{said}");
    assert_eq!((answer.status.code(), answer.stdout.len()), (Some(1), 0), "{said}");
    assert!(!place.path().join("new.toml").exists());
}

#[test]
fn nothing_is_sent_with_an_address_or_a_secret_that_is_none() {
    let place = place();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let secret = place.path().join("token");
    fs::write(&secret, "\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let sink = |url: &str| {
        let sink = format!(
            "[[sink]]\nname = \"siem\"\ntype = \"webhook\"\nurl = \"{url}\"\ntoken-file = \"{}\"\n",
            secret.display()
        );
        fs::write(place.path().join("sink.toml"), format!("{POLICY}{sink}")).unwrap();
    };
    let run = |command: &[&str]| {
        let answer = flowwarden(place.path(), command, Stdio::piped(), Stdio::piped());
        (answer.status.code(), String::from_utf8(answer.stderr).unwrap())
    };
    let test = ["sink", "test", "siem", "--config", "sink.toml"];
    sink("http://127.0.0.1:99999/");
    for command in [&["check", "sink.toml"][..], &test] {
        let (code, said) = run(command);
        assert!(code == Some(2) && said.starts_with("sink.toml:9:7: `url` is an address like "), "{command:?}: {said}");
    }
    sink(&format!("http://127.0.0.1:{port}/"));
    let (code, said) = run(&test);
    let expected = format!("flowwarden: sink siem: {}: the secret is empty", secret.display());
    assert!(code == Some(1) && said.starts_with(&expected), "{said}");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "a connection was made");
}
