use std::fs;

use serde_json::json;

use super::*;
use journal::segment;
use policy::parse::parse;

const POLICY: &str = r#"version = 1
mode = "enforce"
[[instance]]
name = "plant-a"
select = [{ uid = 990 }]
user-dir = "/h/.node-red"
[[instance.files]]
id = "private-keys"
why = "keys are read by who declared them"
technique = "T1552.004"
path = "**/*.key"
access = ["read"]
verdict = "deny"
fallback = "kill"
[[instance.files]]
id = "palette"
path = "node_modules/**"
access = ["write"]
verdict = "deny"
maintenance = "palette"
[[instance.ingress]]
id = "proxy"
from = ["10.1.0.0/16", "proxy.lan"]
ports = [1880]
verdict = "allow"
"#;

fn source() -> Source {
    Source { path: "/etc/flowwarden/policy.toml".into(), policy: parse(POLICY).unwrap() }
}

/// A cat in an exec node.
fn theft() -> Value {
    json!({
        "time": 1_700_000_000_000_i64, "message": "instance plant-a: child cat tried to read /h/.node-red/other.key: killed by rule private-keys",
        "metadata": { "sequence": 4711, "uid": "run-4711" },
        "file": { "path": "/h/.node-red/other.key" },
        "actor": { "process": { "name": "cat", "pid": 12, "cmd_line": "cat other.key", "user": { "name": "nodered" },
            "parent_process": { "name": "sh", "pid": 11, "cmd_line": "/bin/sh -c cat other.key",
                "parent_process": { "name": "node", "pid": 10, "cmd_line": "node red.js", "parent_process": { "name": "systemd", "pid": 1 } } } } },
        "policy": { "name": "plant-a", "uid": "private-keys", "desc": "keys are read by who declared them (read of ...: deny)" },
        "attacks": [{ "technique": { "uid": "T1552" }, "sub_technique": { "uid": "T1552.004" } }],
        "unmapped": { "instance": "plant-a", "rule": "private-keys", "verdict": "kill", "wanted": "deny", "hook": "open",
            "sensor": "tracepoint", "access": ["read"], "flags": [] },
    })
}

#[test]
fn an_event_is_told_with_who_why_what_and_the_mend() {
    let text = event(&theft(), Some(&source()));
    for said in [
        "Event 4711, 2023-11-14T22:13:20Z",
        "cat (process 12): cat other.key\n    started by sh (process 11)",
        "as the user nodered",
        "a command line in a shell: an exec node",
        "private-keys, /etc/flowwarden/policy.toml line 7",
        "why: keys are read by who declared them",
        "killed: the sensor that saw it cannot refuse",
        "T1552.004 Unsecured Credentials: Private Keys",
        "No, and it is critical: it is named like a private key",
        "    path = \"/h/.node-red/other.key\"\n    access = [\"read\"]",
        "Look in the editor for exec nodes",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    assert!(!text.contains("systemd"), "what started Node-RED is not shown: {text}");
}

#[test]
fn what_the_policy_suggests_to_add_is_a_policy() {
    let mut other = theft();
    let mut check = |about: Value, expected: &str| {
        for (key, value) in about.as_object().unwrap() {
            other[key] = value.clone();
        }
        let text = event(&other, Some(&source()));
        let lines = text.lines().skip_while(|line| !line.contains("Add to the instance"));
        let lines: Vec<_> = lines.skip(1).take_while(|line| line.starts_with("    ")).map(str::trim).collect();
        let policy = format!("{}{}\n", POLICY, lines.join("\n"));
        let parsed = parse(&policy).unwrap_or_else(|faults| panic!("{faults:?}:\n{policy}"));
        assert!(policy.contains(expected), "{policy}");
        parsed
    };
    let unmapped = |hook: &str, rule: &str, access: &[&str]| json!({ "instance": "plant-a", "rule": rule, "verdict": "deny", "wanted": "deny", "hook": hook, "access": access, "flags": [] });
    check(json!({}), "[[instance.files]]");
    check(
        json!({ "file": null, "process": { "file": { "path": "/usr/bin/\"x\"" } }, "unmapped": unmapped("exec", "default-exec", &["exec"]) }),
        "[[instance.exec]]",
    );
    check(json!({ "process": null, "unmapped": unmapped("ptrace", "default-ptrace", &[]) }), "ptrace = \"allow\"");
    let net = json!({ "dst_endpoint": { "ip": "203.0.113.9", "port": 443 }, "connection_info": { "protocol_name": "tcp" }, "unmapped": unmapped("connect", "default-egress", &[]) });
    let parsed = check(net, "to = [\"203.0.113.9\"]");
    assert_eq!(parsed.instances[0].nets[0].ports, [(443, 443)]);
}

#[test]
fn what_a_window_opens_is_mended_by_a_window() {
    let mut install = theft();
    install["file"]["path"] = "/h/.node-red/node_modules/x/index.js".into();
    install["unmapped"]["rule"] = "palette".into();
    install["unmapped"]["access"] = json!(["write"]);
    let text = event(&install, Some(&source()));
    assert!(text.contains("maintenance open --for 15m --class palette --instance plant-a"), "{text}");
    assert!(text.contains("Yes: npm installs packages"), "{text}");
    install["unmapped"]["rule"] = "guard-files".into();
    assert!(event(&install, Some(&source())).contains("It cannot be allowed"));
}

#[test]
fn a_rule_is_told_with_whom_it_has_met() {
    let directory = tempfile::tempdir().unwrap();
    let mut second = theft();
    second["metadata"]["sequence"] = 4712.into();
    second["unmapped"]["verdict"] = "log".into();
    fs::write(segment::plain(directory.path(), 1), format!("{}\nbroken\n{second}\n", theft())).unwrap();
    let searched = met(directory.path(), "private-keys").unwrap();
    assert_eq!(searched.faults.count, 1);
    let text = rule("private-keys", Some(&source()), &searched.found).unwrap();
    for said in [
        "why: keys are read by who declared them",
        "against: T1552.004",
        "it refuses; where the kernel cannot refuse it kills",
        "about: read of what ends with .key anywhere below /h/.node-red",
        "from event 4711",
        "1 times killed",
        "2 times by cat",
        "flowwarden explain 4712",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    // Of a rule that is gone the journal still knows what it said.
    let gone = rule("private-keys", None, &searched.found).unwrap();
    assert!(gone.contains("In the journal it says: keys are read"), "{gone}");
    let none = met(directory.path(), "nothing").unwrap();
    assert!(rule("nothing", Some(&source()), &none.found).is_none());
    assert!(rule("default-egress", Some(&source()), &none.found).unwrap().contains("it says allow"));
    for id in ["4712", "run-4711"] {
        assert!(find(directory.path(), id).unwrap().found.is_some(), "{id}");
    }
    assert!(find(directory.path(), "9").unwrap().found.is_none());
}

#[test]
fn a_rule_about_traffic_is_told_with_its_names_and_addresses() {
    let none = met(tempfile::tempdir().unwrap().path(), "proxy").unwrap();
    let text = rule("proxy", Some(&source()), &none.found).unwrap();
    assert!(text.contains("about: connections from proxy.lan, 10.1.0.0/16, port 1880"), "{text}");
}

#[test]
fn nothing_that_an_event_says_reaches_the_terminal_as_a_command() {
    let mut hostile = theft();
    hostile["message"] = "\u{1b}[2Jx".into();
    hostile["file"]["path"] = "/h/\u{1b}]0;x\u{7}\u{202e}.key".into();
    let text = event(&hostile, Some(&source()));
    assert!(!text.chars().any(|char| char != '\n' && char.is_control()) && !text.contains('\u{202e}'), "{text}");
}
