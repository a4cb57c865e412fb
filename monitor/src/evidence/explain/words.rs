//! Words for what records have short names for.

use monitor_common::policy::Class;

use crate::record::tunnel;
use policy::own;

/// ATT&CK techniques that rules of the presets name, by identifier (MITRE ATT&CK for Enterprise).
const TECHNIQUES: &[(&str, &str)] = &[
    ("T1003.008", "OS Credential Dumping: /etc/passwd and /etc/shadow"),
    ("T1021", "Remote Services"),
    ("T1041", "Exfiltration Over C2 Channel"),
    ("T1048", "Exfiltration Over Alternative Protocol"),
    ("T1053.003", "Scheduled Task/Job: Cron"),
    ("T1059", "Command and Scripting Interpreter"),
    ("T1071.004", "Application Layer Protocol: DNS"),
    ("T1090", "Proxy"),
    ("T1098.004", "Account Manipulation: SSH Authorized Keys"),
    ("T1105", "Ingress Tool Transfer"),
    ("T1190", "Exploit Public-Facing Application"),
    ("T1195.001", "Supply Chain Compromise: Compromise Software Dependencies and Development Tools"),
    (
        "T1222.002",
        "File and Directory Permissions Modification: Linux and Mac File and Directory Permissions Modification",
    ),
    ("T1543.002", "Create or Modify System Process: Systemd Service"),
    ("T1546", "Event Triggered Execution"),
    ("T1546.004", "Event Triggered Execution: Unix Shell Configuration Modification"),
    ("T1552", "Unsecured Credentials"),
    ("T1552.001", "Unsecured Credentials: Credentials In Files"),
    ("T1552.004", "Unsecured Credentials: Private Keys"),
    ("T1552.005", "Unsecured Credentials: Cloud Instance Metadata API"),
    ("T1554", "Compromise Host Software Binary"),
    ("T1557", "Adversary-in-the-Middle"),
    ("T1565.001", "Data Manipulation: Stored Data Manipulation"),
    ("T1574.006", "Hijack Execution Flow: Dynamic Linker Hijacking"),
    ("T1611", "Escape to Host"),
];

/// A technique with its name, where it is known here.
pub(super) fn technique(uid: &str) -> String {
    let name = TECHNIQUES.iter().find(|(known, _)| *known == uid).map(|(_, name)| format!(" {name}"));
    let page = uid.replace('.', "/");
    format!("{uid}{} (https://attack.mitre.org/techniques/{page}/)", name.unwrap_or_default())
}

/// What a class is about.
pub(super) fn class(class: Class) -> &'static str {
    match class {
        Class::Files => "files that no rule names",
        Class::Egress => "addresses that no rule names, to which the instance connects or sends",
        Class::Ingress => "ports that the instance listens on, and who connects to them",
        Class::Exec => "programs that no rule names",
        Class::Privilege => "becoming root, or gaining capabilities, as sudo does",
        Class::Ptrace => "tracing other processes and reaching into their memory",
        Class::Signal => "signals to processes that are not the instance's",
        Class::RawSocket => "raw sockets, by which traffic is forged and read",
        Class::Socket => "sockets of kinds whose addresses nothing judges",
        Class::Mount => "mounting and unmounting",
        Class::Namespace => "namespaces, by which a process gets another view of the system",
        Class::Kernel => "the kernel itself: BPF, modules",
        Class::ExecUnnamed => "programs that have no file any more, or never had one",
        Class::ExecWritable => "programs that Node-RED's user could have written",
    }
}

/// Whether every policy has a rule of this id.
pub(super) fn is_own(rule: &str) -> bool {
    rule.starts_with(own::PREFIX) || rule == tunnel::RULE
}

/// What one of the guard's own rules is about.
pub(super) fn own(rule: &str) -> &'static str {
    match rule {
        "guard-files" => "the guard's program, policy and process files must not be changed",
        "guard-secrets" => "the guard's journal, state and pins must not be read or changed",
        tunnel::RULE => {
            "queries for ever new names below one domain send data to the servers of that domain; this is \
             reported and not denied, unless the policy allows every name below the domain"
        }
        "guard-process" => "a watched process must not signal or trace the guard",
        _ => "a watched process must not access the guard's kernel programs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{
        model::Select,
        parse::parse,
        preset::{Found, Known, Neighbour, Preset, Target, text},
    };

    #[test]
    fn every_technique_that_a_preset_names_has_a_name_here() {
        let select = Select { uid: Some(990), ..Select::default() };
        let found = Found { name: "a".to_owned(), select, user_dir: "/h/.node-red".into() };
        let neighbours = vec![Neighbour { name: "b".to_owned(), user_dir: "/b".into(), ports: vec![1881] }];
        let host = "mqtt.example.com".to_owned();
        let targets = vec![Target { host, port: None, protocol: "tcp", by: "a flow".to_owned() }];
        let known = Known { targets, neighbours, ..Known::default() };
        let mut named = tunnel::TECHNIQUES.map(str::to_owned).to_vec();
        for preset in [Preset::Home, Preset::Standard, Preset::MultiTenant, Preset::Strict] {
            let instance = parse(&text(preset, &[(found.clone(), known.clone())], true)).unwrap().instances.remove(0);
            let files = instance.files.iter().map(|rule| &rule.action);
            named.extend(
                files.chain(instance.nets.iter().map(|rule| &rule.action)).flat_map(|it| it.techniques.clone()),
            );
        }
        assert!(named.len() > 50, "{named:?}");
        for uid in named {
            assert!(TECHNIQUES.iter().any(|(known, _)| *known == uid), "{uid}");
        }
    }
}
