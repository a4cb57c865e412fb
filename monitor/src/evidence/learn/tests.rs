use std::{fs, slice};

use serde_json::{Value, json};

use super::*;
use crate::{
    evidence::bare::Bare,
    journal::segment,
    policy::{
        model::Select,
        parse::parse,
        preset::{self, Found, Known},
    },
};

const UD: &str = "/h/a/.node-red";

fn found() -> (Found, Known) {
    let select = Select { uid: Some(990), ..Select::default() };
    (Found { name: "plant-a".to_owned(), select, user_dir: UD.into() }, Known::default())
}

fn event(number: u64, hook: &str, about: &Value, unmapped: &Value) -> Value {
    let mut event = json!({
        "time": 1000, "message": hook, "metadata": { "sequence": number }, "actor": { "process": { "name": "node" } },
        "unmapped": {
            "instance": "plant-a", "rule": "default-files", "verdict": "log", "wanted": "log", "hook": hook,
            "sensor": "lsm", "access": [], "flags": [],
        },
    });
    for (into, from) in [(None, about), (Some("unmapped"), unmapped)] {
        for (key, value) in from.as_object().into_iter().flatten() {
            match into {
                Some(into) => event[into][key] = value.clone(),
                None => event[key] = value.clone(),
            }
        }
    }
    event
}

fn file(number: u64, path: &str, access: &[&str]) -> Value {
    let flags = i32::from(access.contains(&"write"));
    event(number, "open", &json!({ "file": { "path": path } }), &json!({ "access": access, "open_flags": flags }))
}

/// A day of a plain instance.
fn day() -> Vec<Value> {
    let exec = |number, path: &str, detail: u64| {
        event(
            number,
            "exec",
            &json!({ "process": { "file": { "path": path } } }),
            &json!({ "access": ["exec"], "rule": "default-exec", "detail": detail }),
        )
    };
    let connect = |number, ip: &str, port: u16| {
        event(
            number,
            "connect",
            &json!({ "dst_endpoint": { "ip": ip, "port": port }, "connection_info": { "protocol_num": 6 } }),
            &json!({}),
        )
    };
    let bind = json!({ "dst_endpoint": { "ip": "0.0.0.0", "port": 1880 }, "connection_info": { "protocol_num": 6 } });
    let accept = json!({ "src_endpoint": { "ip": "127.0.0.1", "port": 5000 }, "dst_endpoint": { "port": 1880 }, "connection_info": { "protocol_num": 6 } });
    vec![
        file(1, "/usr/lib/x.so", &["read"]),
        file(2, &format!("{UD}/settings.js"), &["read"]),
        file(3, &format!("{UD}/flows.json.$$$"), &["create"]),
        file(4, &format!("{UD}/flows.json.$$$"), &["write"]),
        event(
            5,
            "rename",
            &json!({ "file": { "path": format!("{UD}/flows.json") } }),
            &json!({ "access": ["create", "rename"], "detail": 2 }),
        ),
        file(6, &format!("{UD}/context/a1/flow.json"), &["write"]),
        file(7, &format!("{UD}/context/b2/flow.json"), &["write"]),
        exec(8, "/usr/bin/date", 0),
        exec(9, "/bin/bash", 0),
        connect(10, "10.0.0.7", 1883),
        connect(11, "127.0.0.1", 1883),
        event(12, "bind", &bind, &json!({})),
        event(13, "accept", &accept, &json!({})),
        event(14, "listen", &json!({}), &json!({})),
        // Nobody should get used to these.
        file(20, &format!("{UD}/settings.js"), &["write"]),
        file(21, &format!("{UD}/other.key"), &["read"]),
        file(22, "/etc/shadow", &["read"]),
        connect(23, "169.254.169.254", 80),
        event(24, "ptrace", &json!({}), &json!({ "rule": "default-ptrace" })),
        event(25, "unix_connect", &json!({ "file": { "path": "/run/docker.sock" } }), &json!({ "access": ["write"] })),
        exec(26, "/tmp/miner", 0),
        exec(27, "/usr/bin/x", 2),
        event(
            28,
            "open",
            &json!({ "file": { "path": "/var/log/flowwarden/x" } }),
            &json!({ "access": ["read"], "rule": "guard-secrets", "wanted": "deny" }),
        ),
    ]
}

fn journal(events: &[Value]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
    fs::write(segment::plain(directory.path(), 1), lines.concat()).unwrap();
    directory
}

fn learnt_from(text: &str, events: &[Value], critical: bool) -> (Learnt, Draft) {
    let directory = journal(events);
    let policy = parse(text).unwrap();
    let learnt = learn(&policy, &Bare, directory.path(), None, critical).unwrap().unwrap();
    let draft = draft(text, &policy, &learnt).unwrap_or_else(|error| panic!("{error}"));
    (learnt, draft)
}

/// Numbers of the events that a policy would stop.
fn stopped(text: &str, events: &[Value]) -> Vec<u64> {
    let mut judge = Judge::new(&parse(text).unwrap(), &Bare).unwrap();
    let is_stopped = |event: &&Value| {
        let judged = judge.judge(&Line::read(event.to_string().as_bytes()).unwrap());
        matches!(judged, Judged::Clear(_, opinion) if opinion.wanted >= Verdict::Deny)
    };
    events.iter().filter(is_stopped).map(|event| event["metadata"]["sequence"].as_u64().unwrap()).collect()
}

#[test]
fn what_was_seen_is_allowed_and_everything_else_is_closed() {
    let (learnt, draft) = learnt_from(&base(&[found()]), &day(), false);
    assert_eq!(stopped(&draft.text, &day()), [20, 21, 22, 23, 24, 25, 26, 27, 28], "{}", draft.text);
    let others = [
        file(1, &format!("{UD}/evil.js"), &["write"]),
        file(2, "/home/other/x", &["read"]),
        file(3, "/usr/lib/x.so", &["write"]),
        file(4, "/etc/ssh/sshd_config", &["read"]),
    ];
    assert_eq!(stopped(&draft.text, &others), [1, 2, 3, 4], "{}", draft.text);
    assert_eq!((learnt.operations, learnt.refused("plant-a").len()), (23, 9), "{:?}", learnt.refused("plant-a"));
    for said in [
        "\"*.$$$\", \"context/**\", \"flows*\"] # the user directory's: 5 times, event 3, by node",
        "\"/bin/bash\", # 1 times, event 9, by node; a shell",
        "    { ports = [1883], protocol = \"tcp\", verdict = \"allow\", to = [\"10.0.0.7\", \"loopback\"] }, # 2 times, event 10, by node",
    ] {
        assert!(draft.text.contains(said), "{said}:\n{}", draft.text);
    }
    // A person can read it aloud.
    let lines = draft.text.lines().filter(|line| !line.is_empty()).count();
    assert!(lines < 60, "{lines}: {}", draft.text);
}

#[test]
fn rules_for_addresses_are_a_line_each_and_go_to_where_such_rules_are() {
    let connect = |number: u64, ip: &str| {
        let about = json!({ "dst_endpoint": { "ip": ip, "port": 1883 }, "connection_info": { "protocol_num": 6 } });
        event(number, "connect", &about, &json!({}))
    };
    let (_, first) = learnt_from(&base(&[found()]), &[connect(1, "10.0.0.7")], false);
    let rules = |text: &str| parse(text).unwrap().instances.remove(0).nets.len();
    assert_eq!(rules(&first.text), 2, "{}", first.text);
    // What was learnt before is added to, a list of many too.
    let more: Vec<_> = (1..5).map(|number| connect(number, &format!("10.0.1.{number}"))).collect();
    let (_, second) = learnt_from(&first.text, &more, false);
    assert!(second.text.contains("to = [\n        \"10.0.1.1\", # 1 times, event 1, by node\n"), "{}", second.text);
    assert!(stopped(&second.text, &[&more[..], &[connect(9, "10.0.0.7")]].concat()).is_empty(), "{}", second.text);
    assert_eq!(second.text.matches("egress = [").count(), 1, "{}", second.text);
    assert_eq!(second.text.matches("learnt-closed").count(), 1, "{}", second.text);
    assert!(second.diff.lines().all(|line| !line.starts_with('-') || line.starts_with("-default")), "{}", second.diff);
    // Tables stay tables.
    let table = "\n[[instance.egress]]\nto = [\"10.0.0.7\"]\nverdict = \"allow\"\n";
    let (_, third) = learnt_from(&(base(&[found()]) + table), &more, false);
    assert!(stopped(&third.text, &more).is_empty(), "{}", third.text);
    assert_eq!(third.text.matches("[[instance.egress]]").count(), 2, "{}", third.text);
}

#[test]
fn an_address_that_was_asked_for_by_name_is_learnt_as_that_name() {
    let connect = |number: u64, ip: &str, name: &str| {
        let end = json!({ "ip": ip, "port": 8883, "hostname": name });
        event(number, "connect", &json!({ "dst_endpoint": end, "connection_info": { "protocol_num": 6 } }), &json!({}))
    };
    let day = [connect(1, "203.0.113.7", "mqtt.example.com"), connect(2, "203.0.113.8", "MQTT.example.com")];
    let (_, draft) = learnt_from(&base(&[found()]), &day, false);
    assert!(draft.text.contains("to = [\"mqtt.example.com\"] }, # 2 times, event 1, by node"), "{}", draft.text);
    let next = [connect(3, "203.0.113.9", "mqtt.example.com"), connect(4, "203.0.113.7", "evil.example")];
    assert_eq!(stopped(&draft.text, &next), [4], "{}", draft.text);
    // What is critical is so by any name, and this machine is this machine.
    let day = [connect(5, "169.254.169.254", "meta.example"), connect(6, "127.0.0.1", "me.example")];
    let (learnt, draft) = learnt_from(&base(&[found()]), &day, false);
    assert!(
        learnt.refused("plant-a")[0].contains("critical") && draft.text.contains("to = [\"loopback\"]"),
        "{}",
        draft.text
    );
}

#[test]
fn whoever_insists_learns_what_is_critical_but_never_what_rules_forbid() {
    let (learnt, draft) = learnt_from(&base(&[found()]), &day(), true);
    // The rules for settings.js and keys stay, and the guard is nobody's.
    assert_eq!(stopped(&draft.text, &day()), [20, 21, 22, 28], "{}", draft.text);
    let refused = learnt.refused("plant-a").join("\n");
    assert!(refused.contains("the rule settings-js of the present policy forbids it"), "{refused}");
    assert!(refused.contains("the guard is nobody's who is watched"), "{refused}");
    assert!(draft.text.contains("# ptrace is allowed: 1 times, event 24"), "{}", draft.text);
}

#[test]
fn projects_are_taken_as_a_whole_without_the_hooks_that_git_runs_by_itself() {
    let of = |name: &str| format!("{UD}/projects/plant/{name}");
    let work = [
        file(1, &of("flows.json"), &["write"]),
        file(2, &of(".git/index"), &["write"]),
        file(3, &of(".git/hooks/pre-commit.sample"), &["write"]),
    ];
    let hook = file(4, &of(".git/hooks/post-commit"), &["write"]);
    let (_, draft) = learnt_from(&base(&[found()]), &work, false);
    assert!(stopped(&draft.text, &work).is_empty(), "{}", draft.text);
    assert_eq!(stopped(&draft.text, slice::from_ref(&hook)), [4], "{}", draft.text);
    // Not even who writes one all day, unless somebody insists.
    let day = [&work[..], slice::from_ref(&hook)].concat();
    for (critical, numbers) in [(false, &[4][..]), (true, &[])] {
        let (learnt, draft) = learnt_from(&base(&[found()]), &day, critical);
        assert_eq!(stopped(&draft.text, &day), numbers, "{}", draft.text);
        assert_eq!(learnt.refused("plant-a").len(), numbers.len(), "{:?}", learnt.refused("plant-a"));
    }
    let home = preset::text(preset::Preset::Home, &[found()], false);
    assert!(critical::HOOKS.iter().all(|name| home.contains(&format!("/**/*{name}\""))), "{home}");
}

#[test]
fn rules_that_are_there_stay_and_only_lines_are_added() {
    let present = format!(
        "# ours\nversion = 1\nmode = \"enforce\"\n\n[[instance]]\nname = \"plant-a\" # the first\nselect = [{{ uid = 990 }}]\nuser-dir = \"{UD}\"\n\n\
         # keep this\n[instance.default]\negress = \"log\"\nkernel = {{ verdict = \"deny\", fallback = \"kill\" }}\n\n\
         [[instance.files]]\nid = \"learnt-closed\"\npath = \"x\"\naccess = [\"read\"]\nverdict = \"deny\"\n\n\
         [[instance]]\nname = \"plant-b\"\nselect = [{{ uid = 991 }}]\nuser-dir = \"/h/b\"\n\n[journal]\nsegment = \"32MiB\"\n"
    );
    let (_, draft) = learnt_from(&present, &day(), false);
    for kept in ["# ours\n", "# the first", "# keep this", "mode = \"enforce\"", "segment = \"32MiB\"", "path = \"x\""]
    {
        assert!(draft.text.contains(kept), "{kept}:\n{}", draft.text);
    }
    assert!(draft.text.contains("id = \"learnt-closed-2\""), "{}", draft.text);
    assert!(draft.text.contains("kernel = { verdict = \"deny\", fallback = \"kill\" }"), "{}", draft.text);
    let removed: Vec<_> = draft.diff.lines().filter(|line| line.starts_with('-')).collect();
    assert_eq!(removed.len(), 3, "{}", draft.diff);
    let policy = parse(&draft.text).unwrap();
    // Nothing was seen of the other one, so nothing is known.
    assert_eq!(policy.instances[1].defaults[Class::Files as usize].verdict, Verdict::Allow);
    assert_eq!(policy.instances[0].defaults[Class::Files as usize].verdict, Verdict::Deny);
}

#[test]
fn what_cannot_be_added_to_is_left_alone() {
    let present = format!(
        "version = 1\n[[instance]]\nname = \"plant-a\"\nselect = [{{ uid = 990 }}]\nuser-dir = \"{UD}\"\ndefault = {{ files = \"log\",\n exec = \"log\" }}\n"
    );
    let Ok(policy) = parse(&present) else { return };
    let directory = journal(&day());
    let learnt = learn(&policy, &Bare, directory.path(), None, false).unwrap().unwrap();
    assert!(draft(&present, &policy, &learnt).is_err_and(|error| error.to_string().contains("goes on after its line")));
}

#[test]
fn a_policy_to_learn_from_logs_all_and_sends_nothing_away() {
    let present = format!(
        "version = 1\nmode = \"enforce\"\n[[instance]]\nname = \"plant-a\"\nselect = [{{ uid = 990 }}]\nuser-dir = \"{UD}\"\n\
         default = {{ kernel = \"kill\" }}\n[metrics]\nlisten = \"127.0.0.1:9\"\n[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\nverdict = \"deny\"\n"
    );
    let policy = parse(&present).unwrap_or_else(|faults| panic!("{faults:?}"));
    let text = observing(&present, &policy).unwrap();
    let observing = parse(&text).unwrap();
    assert_eq!(observing.metrics, None, "{text}");
    let defaults = &observing.instances[0].defaults;
    assert!(defaults.iter().all(|default| default.verdict >= Verdict::Log), "{text}");
    assert_eq!(defaults[Class::Kernel as usize].verdict, Verdict::Kill);
    assert_eq!(observing.instances[0].files.len(), 1, "{text}");
}

#[test]
fn both_names_of_a_rename_are_learnt_from_one_event() {
    let about = json!({ "file": { "path": format!("{UD}/flows.json.$$$") } });
    let unmapped =
        json!({ "access": ["rename"], "detail": 1, "flags": ["by_name"], "other": format!("{UD}/flows.json") });
    let renamed = event(1, "rename", &about, &unmapped);
    let (_, draft) = learnt_from(&base(&[found()]), &[renamed], false);
    let over = json!({ "file": { "path": format!("{UD}/flows.json") } });
    let over = event(2, "rename", &over, &json!({ "access": ["rename", "create"], "detail": 2 }));
    assert!(stopped(&draft.text, &[over]).is_empty(), "{}", draft.text);
    // What settings.js is moved over is no flow's business either way.
    let about = json!({ "file": { "path": format!("{UD}/x.$$$") } });
    let unmapped =
        json!({ "access": ["rename"], "detail": 1, "flags": ["by_name"], "other": format!("{UD}/environment") });
    let (_, draft) = learnt_from(&base(&[found()]), &[event(1, "rename", &about, &unmapped)], false);
    assert!(!draft.text.contains("\"environment\", #"), "{}", draft.text);
}

#[test]
fn a_corrupt_line_is_told_and_the_others_are_learnt() {
    let directory = journal(&day());
    let path = segment::plain(directory.path(), 1);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{{\"time\": \n{text}")).unwrap();
    let policy = parse(&base(&[found()])).unwrap();
    let learnt = learn(&policy, &Bare, directory.path(), None, false).unwrap().unwrap();
    assert_eq!((learnt.faults.count, learnt.operations), (1, 23));
    assert!(learnt.faults.to_string().starts_with("journal-00000001, byte 0: no event"));
}

#[test]
fn nothing_that_an_event_says_leaves_its_comment_or_string() {
    let mut hostile = file(1, "/srv/\"\n[[instance]]\nname = \"evil\"", &["write"]);
    hostile["actor"]["process"]["name"] = "x\nverdict = \"allow\"".into();
    let (_, draft) = learnt_from(&base(&[found()]), &[hostile], false);
    let policy = parse(&draft.text).unwrap();
    assert_eq!(policy.instances.len(), 1, "{}", draft.text);
    let mut quotes = file(1, "/srv/a\"\n# b", &["write"]);
    quotes["actor"]["process"]["name"] = "x\nverdict = \"allow\"".into();
    let (_, draft) = learnt_from(&base(&[found()]), &[quotes.clone()], false);
    assert!(stopped(&draft.text, &[quotes]).is_empty(), "{}", draft.text);
}
