use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::evidence::bare::Bare;
use journal::segment;
use policy::parse::parse;

const HEAD: &str = "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ uid = 990 }]\nuser-dir = \"/h/ud\"\n";

fn judge(rules: &str) -> Judge {
    Judge::new(&parse(&format!("{HEAD}{rules}")).unwrap(), &Bare).unwrap()
}

fn rule(path: &str, access: &str, verdict: &str) -> String {
    format!("[[instance.files]]\nid = \"r-{verdict}\"\npath = \"{path}\"\naccess = {access}\nverdict = \"{verdict}\"\n")
}

/// An operation that the journal's policy only logged.
fn event(hook: &str, about: Value) -> Value {
    let mut event = json!({
        "time": 1000, "message": hook, "metadata": { "sequence": 1 },
        "unmapped": {
            "instance": "a", "rule": "default-files", "verdict": "log", "wanted": "log", "hook": hook, "sensor": "lsm",
            "access": [], "flags": [],
        },
    });
    merge(&mut event, about);
    event
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn open(path: &str, access: &[&str], flags: u32) -> Value {
    event(
        "open",
        json!({ "file": { "path": path }, "unmapped": { "access": access, "open_flags": flags, "dev": "8:1", "ino": 5 } }),
    )
}

fn judged(judge: &mut Judge, event: &Value) -> Judged {
    judge.judge(&Line::read(event.to_string().as_bytes()).unwrap())
}

/// Verdict and rule of the policy, or the reason why it cannot be evaluated.
fn wanted(judge: &mut Judge, event: &Value) -> Result<(Verdict, String), Unclear> {
    match judged(judge, event) {
        Judged::Clear(_, opinion) => Ok((opinion.wanted, judge.name(opinion.decider, ""))),
        Judged::Unclear(_, why, _) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what may be unclear")]
fn by(verdict: Verdict, rule: &str) -> Result<(Verdict, String), Unclear> {
    Ok((verdict, rule.to_owned()))
}

#[test]
fn files_are_decided_as_the_rules_say() {
    let mut judge = judge(&(rule("settings.js", "[\"write\"]", "kill") + &rule("certs/*.pem", "[\"read\"]", "deny")));
    for (path, access, flags, expected) in [
        ("/h/ud/settings.js", "write", 1, by(Verdict::Kill, "r-kill")),
        ("/h/ud/settings.js", "read", 0, by(Verdict::Allow, "default-files")),
        ("/h/ud/certs/a.pem", "read", 0, by(Verdict::Deny, "r-deny")),
        ("/h/ud/certs/deep/a.pem", "read", 0, by(Verdict::Allow, "default-files")),
        ("/", "read", 0, by(Verdict::Allow, "default-files")),
    ] {
        assert_eq!(wanted(&mut judge, &open(path, &[access], flags)), expected, "{path}");
    }
    // What holds a protected file is held.
    let moved =
        event("rename", json!({ "file": { "path": "/h/ud" }, "unmapped": { "access": ["rename"], "detail": 1 } }));
    assert_eq!(wanted(&mut judge, &moved), by(Verdict::Kill, "r-kill"));
}

#[test]
fn what_cannot_deny_does_what_it_can() {
    let mut judge =
        judge(&(rule("x", "[\"read\"]", "deny") + "fallback = \"kill\"\n" + &rule("y", "[\"read\"]", "kill")));
    for (sensor, path, done) in
        [("lsm", "x", Verdict::Deny), ("tracepoint", "x", Verdict::Kill), ("tracepoint", "y", Verdict::Kill)]
    {
        let mut event = open(&format!("/h/ud/{path}"), &["read"], 0);
        event["unmapped"]["sensor"] = sensor.into();
        let Judged::Clear(_, opinion) = judged(&mut judge, &event) else { panic!("{path}") };
        assert_eq!(opinion.done, done, "{sensor} {path}");
        // A failed operation does no harm, and its process is not killed.
        event["unmapped"]["flags"] = json!(["failed"]);
        let Judged::Clear(_, opinion) = judged(&mut judge, &event) else { panic!("{path}") };
        assert_eq!(opinion.done, Verdict::Log);
    }
}

#[test]
fn an_address_is_decided_by_the_name_that_its_event_has() {
    let mut judge = judge(
        "default = { egress = \"deny\" }\n\
         [[instance.egress]]\nid = \"named\"\nto = [\"*.plant.example\"]\nports = [443]\nverdict = \"allow\"\n\
         [[instance.egress]]\nid = \"one\"\nto = [\"bad.plant.example\"]\nverdict = \"kill\"\n",
    );
    for (name, port, expected) in [
        ("mqtt.plant.example", 443, by(Verdict::Allow, "named")),
        ("MQTT.plant.example", 443, by(Verdict::Allow, "named")),
        ("mqtt.plant.example", 80, by(Verdict::Deny, "default-egress")),
        ("bad.plant.example", 443, by(Verdict::Kill, "one")),
        ("plant.example", 443, by(Verdict::Deny, "default-egress")),
        ("attacker.example", 443, by(Verdict::Deny, "default-egress")),
        ("no name", 443, by(Verdict::Deny, "default-egress")),
    ] {
        let end = json!({ "ip": "203.0.113.9", "port": port, "hostname": name });
        let event = event("connect", json!({ "dst_endpoint": end, "connection_info": { "protocol_num": 6 } }));
        assert_eq!(wanted(&mut judge, &event), expected, "{name} {port}");
    }
    let unnamed = json!({ "dst_endpoint": { "ip": "203.0.113.9", "port": 443 } });
    assert_eq!(wanted(&mut judge, &event("connect", unnamed)), by(Verdict::Deny, "default-egress"));
}

#[test]
fn addresses_and_ports_are_decided_in_both_directions() {
    let net = |direction: &str, key: &str, to: &str, ports: &str, verdict: &str| {
        format!(
            "[[instance.{direction}]]\nid = \"{direction}-{verdict}\"\n{key} = [\"{to}\"]\nports = [{ports}]\nverdict = \"{verdict}\"\n"
        )
    };
    let mut judge = judge(
        &("default = { egress = \"deny\", ingress = \"log\" }\n".to_owned()
            + &net("egress", "to", "10.0.0.0/8", "443", "allow")
            + &net("egress", "to", "10.1.0.0/16", "443", "kill")
            + &net("ingress", "from", "any", "1880", "deny")),
    );
    let connect = |ip: &str, port: u16| {
        event(
            "connect",
            json!({ "dst_endpoint": { "ip": ip, "port": port }, "connection_info": { "protocol_num": 6 } }),
        )
    };
    assert_eq!(wanted(&mut judge, &connect("10.0.0.1", 443)), by(Verdict::Allow, "egress-allow"));
    assert_eq!(wanted(&mut judge, &connect("10.1.0.1", 443)), by(Verdict::Kill, "egress-kill"));
    assert_eq!(wanted(&mut judge, &connect("10.0.0.1", 80)), by(Verdict::Deny, "default-egress"));
    assert_eq!(wanted(&mut judge, &connect("2001:db8::1", 443)), by(Verdict::Deny, "default-egress"));
    let accept = json!({ "src_endpoint": { "ip": "203.0.113.9", "port": 5 }, "dst_endpoint": { "port": 1880 } });
    assert_eq!(wanted(&mut judge, &event("accept", accept)), by(Verdict::Deny, "ingress-deny"));
    let bind = json!({ "dst_endpoint": { "ip": "0.0.0.0", "port": 1880 } });
    assert_eq!(wanted(&mut judge, &event("bind", bind)), by(Verdict::Deny, "ingress-deny"));
    assert_eq!(wanted(&mut judge, &event("listen", json!({}))), by(Verdict::Log, "default-ingress"));
    assert_eq!(wanted(&mut judge, &event("connect", json!({}))), Err(Unclear::Address));
}

#[test]
fn classes_decide_what_is_no_file() {
    let mut judge = judge(
        "default = { ptrace = \"kill\", kernel = \"deny\", raw-socket = \"deny\", exec-unnamed = \"kill\", exec-writable = \"deny\" }\n",
    );
    let raw = json!({ "unmapped": { "detail": 2_i64 << 32 | 3 << 16 | 1 } });
    for (hook, about, expected) in [
        ("ptrace", json!({}), by(Verdict::Kill, "default-ptrace")),
        ("signal", json!({}), by(Verdict::Allow, "default-signal")),
        ("bpf", json!({}), by(Verdict::Deny, "default-kernel")),
        ("socket", raw, by(Verdict::Deny, "default-raw-socket")),
    ] {
        assert_eq!(wanted(&mut judge, &event(hook, about)), expected, "{hook}");
    }
    let exec = |detail: u64, flags: &[&str]| {
        let unmapped = json!({ "access": ["exec"], "detail": detail, "flags": flags });
        event("exec", json!({ "process": { "file": { "path": "/usr/bin/date" } }, "unmapped": unmapped }))
    };
    assert_eq!(wanted(&mut judge, &exec(2, &[])), by(Verdict::Deny, "default-exec-writable"));
    assert_eq!(wanted(&mut judge, &exec(0, &["unlinked"])), by(Verdict::Kill, "default-exec-unnamed"));
    assert_eq!(wanted(&mut judge, &exec(0, &[])), Err(Unclear::Program));
}

#[test]
fn what_an_event_does_not_say_is_told() {
    let mut judge = judge(&rule("settings.js", "[\"write\"]", "kill"));
    let settings = "/h/ud/settings.js";
    // It was opened for reading and writing, and the verdict rested on the reading alone.
    assert_eq!(wanted(&mut judge, &open(settings, &["read"], 2)), Err(Unclear::Access));
    let mut cut = open(settings, &["write"], 1);
    cut["unmapped"]["flags"] = json!(["cut"]);
    assert_eq!(wanted(&mut judge, &cut), Err(Unclear::Path));
    let mut disk = open("/dev/vda", &["write"], 1);
    disk["file"]["type_id"] = BLOCK.into();
    assert_eq!(wanted(&mut judge, &disk), Err(Unclear::Disk));
    // A second name, made before the eyes of the guard.
    assert_eq!(wanted(&mut judge, &open("/h/ud/alias", &["write"], 1)), by(Verdict::Allow, "default-files"));
    let about = json!({ "file": { "path": settings }, "unmapped": { "access": ["link"], "detail": 1, "dev": "8:1", "ino": 5, "other": "/h/ud/alias" } });
    wanted(&mut judge, &event("link", about)).unwrap();
    assert_eq!(wanted(&mut judge, &open("/h/ud/alias", &["write"], 1)), Err(Unclear::OtherName));
}

/// [`crate::evidence::line::BLOCK_DEVICE`]
const BLOCK: u32 = 4;

#[test]
fn whoever_makes_a_protected_file_may_have_been_let_through() {
    let settings = "/h/ud/settings.js";
    let mut created = open(settings, &["create"], 0);
    created["unmapped"]["flags"] = json!(["created"]);
    let mut late = open(settings, &["write"], 1);
    late["time"] = 11_001.into();
    let mut young = judge(&rule("settings.js", "[\"write\"]", "kill"));
    wanted(&mut young, &created).unwrap();
    assert_eq!(wanted(&mut young, &open(settings, &["write"], 1)), Err(Unclear::Young));
    assert_eq!(wanted(&mut young, &late), by(Verdict::Kill, "r-kill"));
    // The guard says how long by itself.
    let mut settling = judge(&rule("settings.js", "[\"write\"]", "kill"));
    let tell = |message: &str| json!({ "time": 1, "message": message, "unmapped": { "path": settings } });
    judged(&mut settling, &tell("/h/ud/settings.js was just created: its creator may change it, for 10 s at most"));
    assert_eq!(wanted(&mut settling, &late), Err(Unclear::Young));
    judged(&mut settling, &tell("/h/ud/settings.js has settled: protected from now on"));
    assert_eq!(wanted(&mut settling, &late), by(Verdict::Kill, "r-kill"));
}

#[test]
fn windows_of_the_journal_lift_the_rules_of_the_new_policy() {
    let mut judge = judge(&(rule("x", "[\"write\"]", "deny") + "maintenance = \"palette\"\n"));
    let tell = |message: &str| json!({ "time": 1, "message": message, "unmapped": { "instance": "a", "maintenance": "palette", "until": "1970-01-01T00:00:02Z" } });
    let write = open("/h/ud/x", &["write"], 1);
    let mut lifted = write.clone();
    lifted["unmapped"]["flags"] = json!(["maintenance"]);
    assert_eq!(wanted(&mut judge, &write), by(Verdict::Deny, "r-deny"));
    assert_eq!(wanted(&mut judge, &lifted), Err(Unclear::Window));
    judged(&mut judge, &tell("maintenance: palette of instance a is open for 2 s, by root"));
    assert_eq!(wanted(&mut judge, &write), by(Verdict::Log, "r-deny"));
    let mut late = write.clone();
    late["time"] = 2000.into();
    assert_eq!(wanted(&mut judge, &late), by(Verdict::Deny, "r-deny"));
    judged(&mut judge, &tell("maintenance: palette of instance a is closed: by root"));
    assert_eq!(wanted(&mut judge, &write), by(Verdict::Deny, "r-deny"));
}

#[test]
fn what_has_left_is_held_against_the_bound_of_the_rule() {
    let mut judge = judge(
        "[[instance.egress]]\nid = \"r\"\nto = \"any\"\nverdict = \"log\"\nmax-bytes = \"1 MiB\"\nbeyond = \"deny\"\n",
    );
    for (bytes, expected) in [(1 << 20, Verdict::Allow), ((1 << 20) + 1, Verdict::Deny)] {
        let end = json!({ "ip": "203.0.113.9", "port": 443 });
        let event = event("volume", json!({ "dst_endpoint": end, "unmapped": { "bytes": bytes } }));
        assert_eq!(wanted(&mut judge, &event), Ok((expected, "r".to_owned())), "{bytes}");
    }
}

#[test]
fn a_report_counts_by_rule_and_keeps_an_example() {
    let directory = tempfile::tempdir().unwrap();
    let mut stranger = open("/x", &["read"], 0);
    stranger["unmapped"]["instance"] = "b".into();
    let lines = [
        open("/h/ud/settings.js", &["write"], 1),
        open("/h/ud/settings.js", &["write"], 1),
        open("/h/ud/flows.json", &["read"], 0),
        open("/h/ud/settings.js", &["read"], 2),
        stranger,
        json!({ "time": 5, "message": "Flowwarden started" }),
    ];
    let text: Vec<_> = lines.iter().map(ToString::to_string).collect();
    fs::write(segment::plain(directory.path(), 1), format!("{}\nbroken\n", text.join("\n"))).unwrap();
    let mut judge =
        judge(&("default = { files = \"log\" }\n".to_owned() + &rule("settings.js", "[\"write\"]", "kill")));
    let report = simulate(&mut judge, directory.path(), None).unwrap();
    assert_eq!((report.operations, report.strangers, report.faulty_lines), (4, 1, 1));
    let [stopped] = &report.stopped[..] else { panic!("{report:#?}") };
    assert_eq!((&*stopped.instance, &*stopped.rule, stopped.verdict, stopped.tally.count), ("a", "r-kill", "kill", 2));
    assert_eq!((stopped.tally.event, &*stopped.tally.example), (1, "open"));
    let [change] = &report.changes[..] else { panic!("{report:#?}") };
    assert_eq!(
        (&*change.old_rule, change.old, &*change.new_rule, change.new),
        ("default-files", "log", "r-kill", "kill")
    );
    let [unclear] = &report.unclear[..] else { panic!("{report:#?}") };
    assert_eq!((unclear.why, unclear.tally.count), (Unclear::Access.sentence(), 1));
}
