use std::{fs, slice};

use serde_json::{Value, json};

use super::*;
use crate::{config, evidence::bare::Bare};
use journal::segment;
use policy::{
    model::Select,
    preset::{self, Found, Known},
    toml_reader::Fault,
};

/// The policy of a whole file.
fn parse(text: &str) -> Result<Policy, Vec<Fault>> {
    config::parse(text).map(|config| config.policy)
}

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
        // Critical operations.
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

/// What a guard says at its start about a policy.
fn start(text: &str) -> Value {
    let logged = parse(text).unwrap().logged();
    json!({ "time": 500, "message": "Flowwarden started", "class_uid": 6002, "unmapped": { "logged": logged } })
}

/// The events of a guard that logged everything.
fn journal(events: &[Value]) -> tempfile::TempDir {
    let names: Vec<_> = Class::NAMES.iter().map(|&(name, _)| name).collect();
    let logged = format!("plant-a: {}", names.join(", "));
    let start = json!({ "time": 500, "message": "Flowwarden started", "unmapped": { "logged": [logged] } });
    journal_of(&[&[start][..], events].concat())
}

fn journal_of(events: &[Value]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
    fs::write(segment::plain(directory.path(), 1), lines.concat()).unwrap();
    directory
}

fn learnt_from(text: &str, events: &[Value], critical: bool) -> (Learnt, Draft) {
    learnt_in(text, &journal(events), critical)
}

fn learnt_in(text: &str, directory: &tempfile::TempDir, critical: bool) -> (Learnt, Draft) {
    let policy = parse(text).unwrap();
    let learnt = learn(&policy, &Bare, directory.path(), None, critical, Logged::AsJournaled).unwrap().unwrap();
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
        file(1, &format!("{UD}/new.js"), &["write"]),
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
    let next = [connect(3, "203.0.113.9", "mqtt.example.com"), connect(4, "203.0.113.7", "attacker.example")];
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
    // The rules for settings.js and keys remain, and access to the guard is not allowed.
    assert_eq!(stopped(&draft.text, &day()), [20, 21, 22, 28], "{}", draft.text);
    let refused = learnt.refused("plant-a").join("\n");
    assert!(refused.contains("the rule settings-js of the present policy forbids it"), "{refused}");
    assert!(refused.contains("no rule may allow access to the guard"), "{refused}");
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
    assert_eq!(removed, ["-egress = \"log\""], "{}", draft.diff);
    let policy = parse(&draft.text).unwrap();
    // Nothing was seen of the other one, so nothing is known.
    assert_eq!(policy.instances[1].defaults[Class::Files as usize].verdict, Verdict::Allow);
    assert_eq!(policy.instances[0].defaults[Class::Files as usize].verdict, Verdict::Deny);
}

/// The journal of the preset `home`, which logs no default: nothing but ten attacks, and none of them by a default.
#[test]
fn nothing_is_closed_that_the_journals_policy_did_not_log() {
    let home = preset::text(preset::Preset::Home, &[found()], false);
    let attacks: Vec<_> = (1..=10)
        .map(|number| {
            let mut event = file(number, &format!("{UD}/other{number}.key"), &["read"]);
            event["unmapped"]["rule"] = "private-keys".into();
            event
        })
        .collect();
    // With the journal's own policy, and with another one.
    for (policy, events) in [
        (&home, [&[start(&home)][..], &attacks].concat()),
        (&home, attacks.clone()),
        (&base(&[found()]), [&[start(&home)][..], &attacks].concat()),
        (&base(&[found()]), attacks.clone()),
    ] {
        let (learnt, draft) = learnt_in(policy, &journal_of(&events), false);
        assert_eq!((&draft.text, draft.diff.as_str()), (policy, ""));
        // What the preset logs where no rule speaks.
        let unlogged = learnt.unlogged("plant-a");
        assert!(!learnt.is_about("plant-a") && unlogged.len() >= Class::COUNT - 1, "{unlogged:?}");
    }
}

#[test]
fn classes_that_were_not_logged_stay_as_they_are() {
    let policy = base(&[found()]);
    let logged = |classes: &str, at: i64| json!({ "time": at, "message": "Flowwarden started", "unmapped": { "logged": [format!("plant-a: {classes}")] } });
    let verdict =
        |draft: &Draft, class: Class| parse(&draft.text).unwrap().instances[0].defaults[class as usize].verdict;
    let mut accept = day().into_iter().find(|event| event["message"] == "accept").unwrap();
    accept["unmapped"]["rule"] = "own-editor".into();
    let seen = [file(1, "/usr/lib/x.so", &["read"]), accept];
    // Files by what the guard has said, and by the event of a default alone.
    for events in [[&[logged("files", 1)][..], &seen].concat(), seen.to_vec()] {
        let (learnt, draft) = learnt_in(&policy, &journal_of(&events), false);
        let closed: Vec<_> = Class::NAMES.iter().filter(|&&(_, it)| verdict(&draft, it) == Verdict::Deny).collect();
        assert_eq!(closed, [&("files", Class::Files)], "{}", draft.text);
        assert!(!learnt.unlogged("plant-a").contains(&"files") && learnt.unlogged("plant-a").len() == Class::COUNT - 1);
        // Ports are closed by a rule, and what another rule has logged is no whole picture.
        assert!(!draft.text.contains("learnt-closed") && !draft.text.contains("1880"), "{}", draft.text);
    }
    // What was logged before `since` counts only when it was still so.
    let since = std::time::UNIX_EPOCH + std::time::Duration::from_millis(600);
    for (first, second, expected) in [("files", "exec", "exec"), ("", "exec", "exec"), ("exec", "", "")] {
        let later = json!({ "time": 700, "message": "x", "unmapped": {} });
        let journal = journal_of(&[logged(first, 400), logged(second, 500), later]);
        let learnt = learn(&parse(&policy).unwrap(), &Bare, journal.path(), Some(since), false, Logged::AsJournaled);
        let found = learnt.unwrap().unwrap().instances["plant-a"].logged.clone();
        let expected: Vec<_> =
            Class::NAMES.iter().filter(|(name, _)| *name == expected).map(|&(_, class)| class as usize).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected, "{first}, {second}");
    }
    let all = learn(&parse(&policy).unwrap(), &Bare, journal_of(&[]).path(), None, false, Logged::Everything);
    assert_eq!(all.unwrap().unwrap().unlogged("plant-a"), [""; 0]);
}

/// How defaults are written, and what would confuse an editor of lines.
const FORMS: [&str; 9] = [
    "",
    "default = { kernel = \"kill\" } # {",
    "default = { egress = \"log\", kernel = { verdict = \"deny\", fallback = \"kill\", scope = \"tree\" } } # }} [x]",
    "default = {\n    # why\n    files = \"log\", # [[instance]]\n    exec = \"log\" # {\n}",
    "default.files = \"log\" # dotted\ndefault.kernel.verdict = \"kill\"",
    "\"default\" = { 'egress' = \"log\" }",
    "# keep\n[instance.default] # here\negress = \"log\" # and here\n# there\nkernel = { verdict = \"deny\", fallback = \"kill\" }",
    "[ instance . default ]\negress = 'log'\n[instance.default.kernel] # deep\nverdict = \"deny\"\nfallback = \"log\"",
    "[instance.default]",
];

/// Rules as they stand in an instance.
const RULES: [&str; 7] = [
    "",
    "egress = [{ to = [\"10.0.0.9\"], verdict = \"allow\" }]",
    "egress = [\n    { to = [\"10.0.0.9\"], verdict = \"allow\" }, # the [broker]\n    # more to come\n]",
    "egress = [\n    { to = [\"10.0.0.9\"], verdict = \"allow\" } # no comma\n]\ningress = [] # none",
    "files = [{ path = \"x\", access = [\"read\"], verdict = \"deny\" }]\nexec = [{ path = \"/bin/x\", verdict = \"log\" }] # inline",
    "[[instance.files]] # a file\nid = \"learnt-closed\"\npath = \"x\"\naccess = [\"read\"] # [\nverdict = \"deny\"\n# end",
    "[[ instance.egress ]]\nto = [\"10.0.0.9\"]\nverdict = \"allow\"\n[[instance.exec]]\npath = \"/bin/x\"\nverdict = \"log\"",
];

/// What stands beside the instances.
const AROUND: [&str; 4] = [
    "",
    "[[sink]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\ntemplate = '''\n[\n[[instance]]\n[instance.default]\n'''\n",
    "# about size\n[journal] # [[instance]]\nsegment = \"32MiB\"\n",
    "[metrics]\nlisten = \"127.0.0.1:9\"\n\n[[sink]]\nname = \"f\"\ntype = \"file\"\npath = \"/x\"\n",
];

/// A policy without its places and without what learning changes; and how many rules it has.
fn rest(text: &str) -> (String, usize, usize) {
    let mut policy = parse(text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    let at = regex::Regex::new(r"At \{ line: \d+, column: \d+ \}").unwrap();
    let (mut files, mut nets) = (0, 0);
    for instance in &mut policy.instances {
        instance.defaults = [ClassDefault::ALLOW; Class::COUNT];
        files += instance.files.len();
        nets += instance.nets.len();
        instance.files.retain(|rule| rule.path.ends_with("x"));
        instance.nets.retain(|rule| rule.prefixes.iter().any(|prefix| prefix.address.ends_with(&[10, 0, 0, 9])));
    }
    (at.replace_all(&format!("{policy:?}"), "").into_owned(), files, nets)
}

fn comments(text: &str) -> Vec<&str> {
    let ends = |line: &str| line.rsplit_once('#').map_or(0, |(before, _)| before.len());
    text.lines()
        .filter(|line| line.contains('#') && !line.contains("times, event") && !line.ends_with("# everything else"))
        .map(|line| &line[ends(line)..])
        .collect()
}

#[test]
fn a_policy_that_is_edited_stays_what_it_was_but_for_what_is_learnt() {
    for number in 0..FORMS.len() * RULES.len() * AROUND.len() * 2 {
        let (form, number) = (FORMS[number % FORMS.len()], number / FORMS.len());
        let (rules, number) = (RULES[number % RULES.len()], number / RULES.len());
        let (around, at_the_end) = (AROUND[number % AROUND.len()], number / AROUND.len() == 1);
        // Keys come before tables.
        let is_table = |text: &&str| text.starts_with('[') || text.contains("\n[");
        let (tables, keys): (Vec<_>, Vec<_>) = [form, rules].into_iter().partition(is_table);
        let inside = [keys, tables].concat().join("\n");
        let [before, after] = if at_the_end { ["", around] } else { [around, ""] };
        let text = format!(
            "# ours\nversion = 1\nmode = \"observe\"\n{before}\n[[ instance ]] # the first\nname = \"plant-a\"\n\
             select = [{{ uid = 990 }}]\nuser-dir = \"{UD}\"\n{inside}\n\n[[\"instance\"]]\nname = \"plant-b\"\n\
             select = [{{ uid = 991 }}]\nuser-dir = \"/h/b\"\n{after}\n# last\n"
        );
        let policy = parse(&text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        let observing = observing(&text, &policy).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let parsed = config::parse(&observing).unwrap();
        let logs = |instance: &InstancePolicy| instance.defaults.iter().all(|default| default.verdict >= Verdict::Log);
        assert!(parsed.policy.instances.iter().all(logs), "{observing}");
        assert!(parsed.sinks.is_empty() && parsed.metrics.is_none(), "{observing}");
        let kernel = |policy: &Policy| policy.instances[0].defaults[Class::Kernel as usize];
        if kernel(&policy).verdict != Verdict::Allow {
            assert_eq!(kernel(&parsed.policy), kernel(&policy), "{observing}");
        }

        let (_, draft) = learnt_from(&text, &day(), false);
        let ((old, files, nets), (new, more_files, more_nets)) = (rest(&text), rest(&draft.text));
        assert_eq!(old, new, "{text}\n----\n{}", draft.text);
        assert!(more_files > files && more_nets > nets, "{text}\n----\n{}", draft.text);
        assert_eq!(comments(&text), comments(&draft.text), "{text}\n----\n{}", draft.text);
        assert_eq!(stopped(&draft.text, &day()).first(), Some(&20), "{text}\n----\n{}", draft.text);
    }
}

#[test]
fn every_preset_can_be_learnt_with() {
    use preset::Preset;
    for preset in [Preset::Home, Preset::Standard, Preset::MultiTenant, Preset::Strict] {
        let text = preset::text(preset, &[found()], false);
        let policy = parse(&text).unwrap();
        let observing = observing(&text, &policy).unwrap();
        let (_, draft) = learnt_from(&text, &day(), false);
        assert_eq!(comments(&observing), comments(&text));
        assert_eq!(comments(&draft.text), comments(&text));
        let [old, new] = [&text, &draft.text].map(|text| parse(text).unwrap().instances.remove(0));
        let ids = |instance: &InstancePolicy| {
            let nets = instance.nets.iter().map(|rule| rule.action.id.clone());
            instance.files.iter().map(|rule| rule.action.id.clone()).chain(nets).collect::<Vec<_>>()
        };
        let (old, new) = (ids(&old), ids(&new));
        assert!(new.len() > old.len() && old.iter().all(|id| new.contains(id)), "{old:?} {new:?}");
    }
}

#[test]
fn instances_in_an_array_are_edited_too() {
    let instance = format!("{{ name = \"plant-a\", select = [{{ uid = 990 }}], user-dir = \"{UD}\" }}");
    let text = format!("version = 1\ninstance = [{instance}]\n");
    let policy = parse(&text).unwrap();
    let parsed = parse(&observing(&text, &policy).unwrap()).unwrap();
    assert!(parsed.instances[0].defaults.iter().all(|default| default.verdict == Verdict::Log));
    let (_, draft) = learnt_from(&text, &day()[..14], false);
    assert!(stopped(&draft.text, &day()[..14]).is_empty(), "{}", draft.text);
}

#[test]
fn a_policy_to_learn_from_logs_all_and_sends_nothing_away() {
    let present = format!(
        "version = 1\nmode = \"enforce\"\n[[instance]]\nname = \"plant-a\"\nselect = [{{ uid = 990 }}]\nuser-dir = \"{UD}\"\n\
         default = {{ kernel = \"kill\" }}\n[metrics]\nlisten = \"127.0.0.1:9\"\n[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\nverdict = \"deny\"\n"
    );
    let config = config::parse(&present).unwrap_or_else(|faults| panic!("{faults:?}"));
    let text = observing(&present, &config.policy).unwrap();
    let observing = config::parse(&text).unwrap();
    assert_eq!(observing.metrics, None, "{text}");
    let defaults = &observing.policy.instances[0].defaults;
    assert!(defaults.iter().all(|default| default.verdict >= Verdict::Log), "{text}");
    assert_eq!(defaults[Class::Kernel as usize].verdict, Verdict::Kill);
    assert_eq!(observing.policy.instances[0].files.len(), 1, "{text}");
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
    let learnt = learn(&policy, &Bare, directory.path(), None, false, Logged::AsJournaled).unwrap().unwrap();
    assert_eq!((learnt.faults.count, learnt.operations), (1, 23));
    assert!(learnt.faults.to_string().starts_with("journal-00000001, byte 0: no event"));
}

#[test]
fn nothing_that_an_event_says_leaves_its_comment_or_string() {
    let mut hostile = file(1, "/srv/\"\n[[instance]]\nname = \"other\"", &["write"]);
    hostile["actor"]["process"]["name"] = "x\nverdict = \"allow\"".into();
    let (_, draft) = learnt_from(&base(&[found()]), &[hostile], false);
    let policy = parse(&draft.text).unwrap();
    assert_eq!(policy.instances.len(), 1, "{}", draft.text);
    let mut quotes = file(1, "/srv/a\"\n# b", &["write"]);
    quotes["actor"]["process"]["name"] = "x\nverdict = \"allow\"".into();
    let (_, draft) = learnt_from(&base(&[found()]), &[quotes.clone()], false);
    assert!(stopped(&draft.text, &[quotes]).is_empty(), "{}", draft.text);
}
