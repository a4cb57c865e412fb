//! Rule 6: flows connect to what was declared.

use std::collections::BTreeSet;

use monitor_common::{Verdict, policy::Class};

use super::{Finding, Fix, Status, Subject};
use policy::model::InstancePolicy;

const RULE: u8 = 6;
const CHECK: &str = "egress-limited";
/// Most targets that are listed.
const MOST: usize = 20;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let targets: BTreeSet<String> = subject
        .instance
        .flows
        .iter()
        .flat_map(|flows| &flows.targets)
        .map(|target| {
            let port = target.port.map_or_else(String::new, |port| format!(" port {port}"));
            format!("declared by a {} node: {}{port}", target.node, target.host)
        })
        .collect();
    let declared: Vec<_> = targets.into_iter().take(MOST).collect();
    if subject.instance.unit_keys.contains_key("IPAddressDeny") {
        return vec![Finding::pass(CHECK, RULE, "the unit limits addresses (IPAddressDeny=)").because(declared)];
    }
    let name = &subject.instance.name;
    let fix = [
        Fix::advice(format!("flowwarden init --preset strict writes a policy in which {name} connects to these alone")),
        Fix::advice("start the guard with it: flowwarden run --config FILE --enforce"),
    ];
    let finding = match (subject.policy, guarding(subject)) {
        (None, _) => {
            Finding::new(CHECK, RULE, Status::Warn, "flows connect to every address that this machine reaches")
                .because(["no policy was given to look at (--policy FILE)".to_owned()])
        }
        (Some(_), None) => {
            Finding::new(CHECK, RULE, Status::Fail, "flows connect to every address that this machine reaches")
                .because(["the policy has no instance with this user directory".to_owned()])
        }
        (Some(policy), Some(instance)) => {
            let default = instance.defaults[Class::Egress as usize].verdict;
            match default {
                Verdict::Deny | Verdict::Kill if policy.enforce => {
                    let what = "the policy denies what it does not declare";
                    return vec![Finding::pass(CHECK, RULE, what).because(declared)];
                }
                Verdict::Deny | Verdict::Kill => Finding::new(
                    CHECK,
                    RULE,
                    Status::Warn,
                    "the policy would deny what it does not declare, but observes only",
                )
                .because(["mode = \"observe\"".to_owned()]),
                Verdict::Log => Finding::new(
                    CHECK,
                    RULE,
                    Status::Warn,
                    "connections to what is not declared are logged, not denied",
                ),
                _ => Finding::new(CHECK, RULE, Status::Fail, "the policy allows every address"),
            }
        }
    };
    vec![finding.because(declared).fix(fix)]
}

/// The part of the policy that is about this instance.
fn guarding<'a>(subject: &Subject<'a>) -> Option<&'a InstancePolicy> {
    let directory = subject.instance.host_user_dir.as_deref()?;
    subject.policy?.instances.iter().find(|instance| instance.user_dir == directory)
}
