//! What is read, and what is refused.

use monitor_common::{
    Verdict,
    decide::map_v4,
    policy::{Class, Maintenance},
};
use proptest::prelude::*;

use super::*;
use crate::model::{FileRule, Names, Prefix};

const HEAD: &str =
    "version = 1\nmode = \"enforce\"\n[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";

fn faults(rest: &str) -> Vec<Fault> {
    parse(&format!("{HEAD}{rest}")).unwrap_err()
}

fn rule(path: &str) -> FileRule {
    let text = format!("{HEAD}[[instance.files]]\npath = \"{path}\"\naccess = [\"write\"]\nverdict = \"kill\"\n");
    parse(&text).unwrap().instances.remove(0).files.remove(0)
}

#[test]
fn patterns_are_split_into_a_literal_part_and_names() {
    for (text, path, names) in [
        ("settings.js", "/ud/settings.js", Names::Itself),
        ("/etc/shadow", "/etc/shadow", Names::Itself),
        ("lib/*", "/ud/lib", Names::Children),
        ("node_modules/**", "/ud/node_modules", Names::Below),
        ("*.pem", "/ud", Names::ChildSuffix(".pem".into())),
        ("**/*.pem", "/ud", Names::BelowSuffix(".pem".into())),
        ("/root/.ssh/id_*", "/root/.ssh", Names::ChildPrefix("id_".into())),
        ("/**", "/", Names::Below),
    ] {
        let rule = rule(text);
        assert_eq!((rule.path.to_str().unwrap(), &rule.names), (path, &names), "{text}");
    }
}

#[test]
fn a_fault_has_its_line_its_column_and_a_mend() {
    let found =
        faults("[[instance.files]]\npath = \"x\"\n  acess = [\"write\"]\naccess = [\"write\"]\nverdict = \"kill\"\n");
    assert_eq!(found, [Fault { line: 9, column: 3, what: "unknown key \"acess\"; did you mean \"access\"?".into() }]);
}

#[test]
fn the_log_of_the_console_is_a_file_or_the_journal_where_entries_can_be_told_apart() {
    let of =
        |log: &str| parse(&format!("{HEAD}audit-log = \"{log}\"\n")).map(|mut it| it.instances.remove(0).audit_log);
    assert_eq!(of("journal"), Ok(Some(AuditLog::Journal)));
    assert_eq!(of("/var/log/nodered.log"), Ok(Some(AuditLog::File("/var/log/nodered.log".into()))));
    assert!(of("journald").unwrap_err()[0].what.contains("must be \"journal\" or an absolute path"));
    let all = HEAD.replace("{ uid = 1001 }", "{ exec = \"node-red\" }");
    let found = parse(&format!("{all}audit-log = \"journal\"\n")).unwrap_err();
    assert!(found[0].line == 7 && found[0].what.contains("name a unit, user, uid"), "{found:?}");
}

#[test]
fn a_rule_names_the_maintenance_that_lifts_it() {
    let of = |line: &str| {
        format!("{HEAD}[[instance.files]]\npath = \"x\"\naccess = [\"write\"]\nverdict = \"deny\"\n{line}")
    };
    for (name, maintenance) in Maintenance::NAMES {
        let policy = parse(&of(&format!("maintenance = \"{name}\"\n"))).unwrap();
        assert_eq!(policy.instances[0].files[0].action.maintenance, Some(maintenance));
    }
    assert_eq!(parse(&of("")).unwrap().instances[0].files[0].action.maintenance, None);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (rest, part) in [
        ("[[instance.files]]\npath = \"a/../b\"\naccess = [\"write\"]\nverdict = \"kill\"\n", "`..` is not followed"),
        (
            "[[instance.files]]\npath = \"a\"\naccess = [\"write\"]\nverdict = \"deny\"\nmaintenance = \"pallete\"\n",
            "\"pallete\" is no maintenance: palette, settings or files; did you mean \"palette\"?",
        ),
        (
            "[[instance.files]]\npath = \"a\"\naccess = [\"write\"]\nverdict = \"log\"\nmaintenance = \"files\"\n",
            "it goes with verdict = \"deny\" or \"kill\" only",
        ),
        ("[[instance.files]]\npath = \"a*b\"\naccess = [\"write\"]\nverdict = \"kill\"\n", "one `*`"),
        ("[[instance.files]]\npath = \"*/b\"\naccess = [\"write\"]\nverdict = \"kill\"\n", "wildcards are"),
        ("[[instance.files]]\npath = \"b\"\naccess = [\"wirte\"]\nverdict = \"kill\"\n", "did you mean \"write\""),
        ("[[instance.files]]\npath = \"b\"\naccess = []\nverdict = \"kill\"\n", "is empty"),
        ("[[instance.files]]\npath = \"b\"\naccess = [\"read\"]\nverdict = \"kil\"\n", "did you mean \"kill\""),
        (
            "[[instance.files]]\npath = \"b\"\naccess = [\"read\"]\nverdict = \"kill\"\nfallback = \"log\"\n",
            "goes with verdict",
        ),
        ("[[instance.egress]]\nto = [\"10.0.0.1/8\"]\nverdict = \"deny\"\n", "did you mean \"10.0.0.0/8\""),
        ("[[instance.egress]]\nto = [\"10.0.0.300\"]\nverdict = \"deny\"\n", "no address either"),
        ("[[instance.ingress]]\nfrom = [\"*.plant.example\"]\nverdict = \"allow\"\n", "name each host"),
        ("[[instance.egress]]\nto = [\"any\"]\nports = [\"9-1\"]\nverdict = \"deny\"\n", "a port is"),
        ("[[instance.egress]]\nto = [\"any\"]\nprotocol = \"icmp\"\nverdict = \"deny\"\n", "`protocol` is"),
        ("[[instance.egress]]\nto = [\"any\"]\n", "`verdict` is missing"),
        ("default = { egres = \"log\" }\n", "did you mean \"egress\""),
        ("default = { mount = { verdict = \"kill\", fallback = \"log\" } }\n", "goes with verdict"),
        ("default = { mount = { fallback = \"log\" } }\n", "needs a `verdict`"),
        ("default = { mount = { verdict = \"log\", scope = \"tree\" } }\n", "`scope` says who is killed"),
        ("default = { mount = { verdict = \"kill\", scope = \"tee\" } }\n", "did you mean \"tree\"?"),
        (
            "[[instance.files]]\npath = \"b\"\naccess = [\"read\"]\nverdict = \"kill\"\nheal = true\n",
            "`heal` needs a rule about changes",
        ),
        (
            "[[instance.files]]\npath = \"b/**\"\naccess = [\"write\"]\nverdict = \"kill\"\nheal = true\n",
            "only single files can be healed",
        ),
        (
            "[[instance.files]]\nid = \"guard-x\"\npath = \"b\"\naccess = [\"read\"]\nverdict = \"kill\"\n",
            "those of the guard's own rules",
        ),
        ("default = { mount = { verdict = \"deny\", fall = \"log\" } }\n", "unknown key"),
    ] {
        let found = faults(rest);
        assert!(found.iter().any(|fault| fault.what.contains(part)), "{rest}: {found:?}");
    }
}

#[test]
fn a_default_may_have_a_fallback() {
    let rest = "default = { mount = { verdict = \"deny\", fallback = \"kill\" }, kernel = \"log\" }\n";
    let policy = parse(&format!("{HEAD}{rest}")).unwrap();
    let defaults = &policy.instances[0].defaults;
    let of = |class: Class| (defaults[class as usize].verdict, defaults[class as usize].fallback);
    assert_eq!(of(Class::Mount), (Verdict::Deny, Verdict::Kill));
    assert_eq!(of(Class::Kernel), (Verdict::Log, Verdict::Unset));
    assert_eq!(of(Class::Socket), (Verdict::Allow, Verdict::Unset));
}

#[test]
fn instances_are_checked_as_a_whole() {
    assert!(parse("version = 1\n").unwrap_err()[0].what.contains("no [[instance]]"));
    assert!(
        parse("version = 2\n[[instance]]\n").unwrap_err().iter().any(|fault| fault.what.contains("version = 1 only"))
    );
    let twice = format!("{HEAD}{}", HEAD.split_once("[[").map(|(_, rest)| format!("[[{rest}")).unwrap());
    assert!(parse(&twice).unwrap_err().iter().any(|fault| fault.what.contains("two instances")));
    let relative = HEAD.replace("/ud", "ud");
    assert!(parse(&relative).unwrap_err().iter().any(|fault| fault.what.contains("must be absolute")));
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let found = faults("colour = 1\n[[instance.files]]\npath = \"x\"\naccess = [\"rite\"]\nverdict = \"stop\"\n");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn v4_is_filed_as_v4_mapped() {
    let text = format!(
        "{HEAD}[[instance.egress]]\nto = [\"203.0.113.0/24\"]\nports = [\"443\", 80, \"8000-8100\"]\nverdict = \"deny\"\n"
    );
    let rule = parse(&text).unwrap().instances.remove(0).nets.remove(0);
    assert_eq!(rule.prefixes, [Prefix { address: map_v4([203, 0, 113, 0]), bits: 120 }]);
    assert_eq!(rule.ports, [(443, 443), (80, 80), (8000, 8100)]);
}

#[test]
fn what_would_silently_mean_something_else_is_refused() {
    for (rest, part) in [
        ("[[instance.egress]]\nto = [\"any\"]\nports = []\nverdict = \"deny\"\n", "`ports` is empty"),
        (
            "[[instance.files]]\npath = \"~/.ssh/id_rsa\"\naccess = [\"read\"]\nverdict = \"kill\"\n",
            "`~` is not expanded",
        ),
        ("[[instance.files]]\npath = \"\"\naccess = [\"read\"]\nverdict = \"kill\"\n", "empty path"),
        ("[[instance.files]]\npath = \"x\"\naccess = \"\"\nverdict = \"kill\"\n", "is no access"),
    ] {
        let found = faults(rest);
        assert!(found.iter().any(|fault| fault.what.contains(part)), "{rest}: {found:?}");
    }
}

#[test]
fn selectors_that_select_nothing_or_everything_are_refused() {
    for (select, part) in [
        ("", "`select` is empty"),
        ("{ unit = \"nodered\" }", "did you mean \"nodered.service\"?"),
        ("{ container = \"my-container\" }", "12 to 64"),
        ("{ container = \"0123\" }", "12 to 64"),
        ("{ cgroup = \"/\" }", "the whole machine"),
        ("{ cgroup = \"system.slice/x.service\" }", "begins with `/`"),
        ("{ cgroup = \"/system.slice/../x\" }", "`..`"),
        ("{ user = \"\" }", "is empty"),
        ("{ uid = -1 }", "`uid` must be"),
        ("{ exec = \"node\" }", "\"node-red\" only"),
    ] {
        let text = HEAD.replace("{ uid = 1001 }", select);
        let found = parse(&text).unwrap_err();
        assert!(found.iter().any(|fault| fault.what.contains(part)), "{select}: {found:?}");
    }
    for select in [
        "{ unit = \"nodered.service\" }",
        "{ container = \"0123456789ab\" }",
        "{ cgroup = \"/system.slice/x.service\" }",
    ] {
        parse(&HEAD.replace("{ uid = 1001 }", select)).unwrap();
    }
}

#[test]
fn every_mistake_of_syntax_is_told_too() {
    let found = parse("version = 1\nmode = enforce\nname == 1\n").unwrap_err();
    assert_eq!(found.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3], "{found:?}");
}

#[test]
fn a_repeated_id_is_shown_where_it_stands() {
    let rule = |id: &str| format!("[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\n{id}verdict = \"kill\"\n");
    let found = faults(&format!("{}{}", rule("id = \"a\"\n"), rule("id = \"a\"\n")));
    assert_eq!((found.len(), found[0].line, found[0].column), (1, 15, 6), "{found:?}");
    // An id that was given is never taken by a rule that has none.
    let policy = parse(&format!("{HEAD}{}{}", rule("id = \"files-2\"\n"), rule(""))).unwrap();
    let ids: Vec<_> = policy.instances[0].files.iter().map(|rule| rule.action.id.as_str()).collect();
    assert_eq!(ids, ["files-2", "files-2-2"]);
}

#[test]
fn wildcard_characters_in_the_user_directory_are_ordinary() {
    let text = HEAD.replace("\"/ud\"", "\"/srv/[a]*?/ud\"");
    let policy =
        parse(&format!("{text}[[instance.files]]\npath = \"*.pem\"\naccess = [\"read\"]\nverdict = \"kill\"\n"))
            .unwrap();
    let rule = &policy.instances[0].files[0];
    assert_eq!((rule.path.to_str().unwrap(), &rule.names), ("/srv/[a]*?/ud", &Names::ChildSuffix(".pem".into())));
}

#[test]
fn limits_are_those_of_the_tables() {
    let selects = vec!["{ uid = 7 }"; MAX_SELECTORS + 1].join(", ");
    assert!(parse(&HEAD.replace("{ uid = 1001 }", &selects)).unwrap_err()[0].what.contains("65 selectors"));
    let instance = HEAD.split_once("[[").map(|(_, rest)| format!("[[{rest}")).unwrap();
    let many: String = (0..=MAX_INSTANCES).map(|index| instance.replace("\"a\"", &format!("\"a{index}\""))).collect();
    assert!(
        parse(&format!("version = 1\n{many}")).unwrap_err().iter().any(|fault| fault.what.contains("65 instances"))
    );
    let from = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("h{number}.lan")).collect();
        format!("{HEAD}[[instance.ingress]]\nfrom = {names:?}\nverdict = \"allow\"\n")
    };
    assert!(parse(&from(MAX_PEERS)).is_ok());
    assert!(parse(&from(MAX_PEERS + 1)).unwrap_err()[0].what.contains("257 names in `from`"));
    let long = "n".repeat(NAME_LEN);
    assert!(parse(&HEAD.replace("\"a\"", &format!("{long:?}"))).is_err());
    assert!(parse(&HEAD.replace("\"a\"", &format!("{:?}", &long[1..]))).is_ok());
    let path =
        |name: &str| format!("{HEAD}[[instance.files]]\npath = {name:?}\naccess = [\"read\"]\nverdict = \"kill\"\n");
    assert!(parse(&path(&long)).is_err());
    assert!(parse(&path(&long[1..])).is_ok());
    let paths = vec!["\"x\""; 65536].join(",");
    let rule = format!("{HEAD}[[instance.files]]\npaths = [{paths}]\naccess = [\"read\"]\nverdict = \"kill\"\n");
    assert!(parse(&rule).unwrap_err()[0].what.contains("65536 rules"));
}

#[test]
fn numbers_are_read_as_toml_writes_them() {
    let text =
        format!("{HEAD}[[instance.egress]]\nto = [\"any\"]\nports = [0x1bb, 8_080, \" 1 - 2 \"]\nverdict = \"deny\"\n");
    assert_eq!(parse(&text).unwrap().instances[0].nets[0].ports, [(443, 443), (8080, 8080), (1, 2)]);
}

#[test]
fn a_rule_may_say_why_it_is_there() {
    let rule = "[[instance.egress]]\nto = [\"any\"]\nverdict = \"log\"\n";
    let good = format!("{HEAD}{rule}why = \"it's so\"\ntechnique = [\"T1041\", \"T1071.001\"]\n");
    let action = parse(&good).unwrap().instances.remove(0).nets.remove(0).action;
    assert_eq!((action.why.as_deref(), action.techniques.len()), (Some("it's so"), 2));
    let one = parse(&format!("{HEAD}{rule}technique = \"T1041\"\n")).unwrap();
    assert_eq!(one.instances[0].nets[0].action.techniques, ["T1041"]);
    for (keys, part) in [
        ("why = \"\"\n", "`why` is one line"),
        ("why = \"a\\nb\"\n", "`why` is one line"),
        ("why = 1\n", "`why` must be a string"),
        ("technique = \"1041\"\n", "is no ATT&CK technique"),
        ("technique = \"T1041.1\"\n", "is no ATT&CK technique"),
        ("technique = []\n", "is empty"),
    ] {
        let found = faults(&format!("{rule}{keys}"));
        assert!(found.iter().any(|fault| fault.what.contains(part)), "{keys}: {found:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_policy_like_text_makes_it_panic(rest in "(\\[\\[instance\\.(files|egress|exec)\\]\\]\n|(path|to|access|verdict|ports|id) = (\"[a-z*/.0-9-]{0,12}\"|\\[(\"[a-z*/.:0-9]{0,9}\",?)*\\]|[0-9]{1,6})\n){0,12}") {
        let _ = parse(&format!("{HEAD}{rest}"));
    }
}
