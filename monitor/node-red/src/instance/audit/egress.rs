//! Rule 6: flows connect to declared targets only.

use std::collections::BTreeSet;

use monitor_common::{Verdict, policy::Class};

use super::{Finding, Fix, Status, Subject};
use policy::model::InstancePolicy;

const RULE: u8 = 6;
const CHECK: &str = "egress-limited";
/// Maximum number of targets listed as evidence.
const MAX_LISTED_TARGETS: usize = 20;

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
    let declared: Vec<_> = targets.into_iter().take(MAX_LISTED_TARGETS).collect();
    if subject.instance.unit_keys.contains_key("IPAddressDeny") {
        return vec![Finding::pass(CHECK, RULE, "the unit restricts addresses (IPAddressDeny=)").because(declared)];
    }
    let name = &subject.instance.name;
    let fix = [
        Fix::advice(format!("flowwarden init --preset strict writes a policy that allows {name} these targets only")),
        Fix::advice("start the guard with this policy: flowwarden run --config FILE --enforce"),
    ];
    let finding = match (subject.policy, instance_policy(subject)) {
        (None, _) => {
            Finding::new(CHECK, RULE, Status::Warn, "flows can connect to every address that this machine can reach")
                .because(["no policy was given; pass one with --policy FILE".to_owned()])
        }
        (Some(_), None) => {
            Finding::new(CHECK, RULE, Status::Fail, "flows can connect to every address that this machine can reach")
                .because(["the policy has no instance with this user directory".to_owned()])
        }
        (Some(policy), Some(instance)) => {
            let default = instance.defaults[Class::Egress as usize].verdict;
            match default {
                Verdict::Deny | Verdict::Kill if policy.enforce => {
                    let what = "the policy denies undeclared targets";
                    return vec![Finding::pass(CHECK, RULE, what).because(declared)];
                }
                Verdict::Deny | Verdict::Kill => Finding::new(
                    CHECK,
                    RULE,
                    Status::Warn,
                    "the policy denies undeclared targets, but is in observe mode",
                )
                .because(["mode = \"observe\"".to_owned()]),
                Verdict::Log => Finding::new(
                    CHECK,
                    RULE,
                    Status::Warn,
                    "the policy logs connections to undeclared targets, but does not deny them",
                ),
                _ => Finding::new(CHECK, RULE, Status::Fail, "the policy allows every address"),
            }
        }
    };
    vec![finding.because(declared).fix(fix)]
}

/// Returns the policy of this instance.
fn instance_policy<'a>(subject: &Subject<'a>) -> Option<&'a InstancePolicy> {
    let directory = subject.instance.host_user_dir.as_deref()?;
    subject.policy?.instances.iter().find(|instance| instance.user_dir == directory)
}
