//! Remediation of incidents: what to do if the operation was not wanted, and if it was.

use monitor_common::policy::Class;

use super::{Incident, OVERFLOW, Outcome};
use crate::record::tunnel;
use journal::text::terminal::shown;

/// The remediation as two or three sentences.
#[must_use]
pub fn remediation(incident: &Incident) -> String {
    if incident.rule == OVERFLOW {
        return "Too many rules matched at once, so the events of the last ones are counted together. Read them with `flowwarden \
                journal query` and look for what they have in common."
            .to_owned();
    }
    if incident.rule.starts_with("guard-") {
        return "A process of this instance accessed the guard itself, which no flow needs. Treat the instance as compromised, and \
                find the flow or package that started this process."
            .to_owned();
    }
    if incident.rule == tunnel::RULE {
        let domain = incident.objects.iter().next().map_or("...", String::as_str);
        return format!(
            "If this was not wanted: find the flow or package that queries these names and remove it; the data has left through \
             your resolvers: find out what was sent, and block {domain} there. If this was wanted: allow the domain in the \
             policy ([[instance.egress]] to = [\"*.{domain}\"], verdict = \"allow\"; for instance {}), `flowwarden \
             check` it, and `flowwarden reload`.",
            shown(incident.instance.as_bytes())
        );
    }
    if incident.outcome == Outcome::Exempted {
        return "A maintenance window allowed it. If it was part of the work, no action is needed. If not, close the window \
                (`flowwarden maintenance close`) and read its report (`flowwarden maintenance report`)."
            .to_owned();
    }
    format!("If this was not wanted: {}. If this was wanted: {}.", unwanted(incident), wanted(incident))
}

/// What to check, and what may be compromised.
fn unwanted(incident: &Incident) -> String {
    let who = "find the flow or package that started this process and remove it";
    let through = incident.outcome != Outcome::Stopped;
    let after = match incident.class {
        Some(Class::Files | Class::Mount) if through => {
            "; it was not denied: compare the file with a backup, and replace the keys and passwords in it"
        }
        Some(Class::Exec | Class::ExecUnnamed | Class::ExecWritable) if through => {
            "; the program ran: check what else it did (`flowwarden journal query`)"
        }
        Some(Class::Egress) if through => "; the connection was made: find out what was sent",
        Some(Class::Ingress) => "; bind the editor to 127.0.0.1 (`uiHost`), or close the port in the firewall",
        Some(Class::Privilege | Class::Kernel | Class::Namespace) if through => {
            "; it was not denied: treat the whole machine as compromised"
        }
        _ => "",
    };
    format!("{who}{after}")
}

/// How to allow it: in a maintenance window, or by a rule.
fn wanted(incident: &Incident) -> String {
    let instance = shown(incident.instance.as_bytes());
    if let Some(maintenance) = incident.maintenance {
        let class = maintenance.name();
        return format!(
            "`flowwarden maintenance open --for 15m --class {class} --instance {instance}`, then repeat it in the window"
        );
    }
    let object = incident.objects.iter().next().map_or("...", String::as_str);
    let rule = match incident.class {
        Some(Class::Files) => format!("[[instance.files]] path = \"{object}\", with the `access` it needs"),
        Some(Class::Exec) => format!("[[instance.exec]] path = \"{object}\""),
        Some(Class::Egress) => format!("[[instance.egress]] {}", ends("to", object)),
        Some(Class::Ingress) => format!("[[instance.ingress]] {}", ends("from", object)),
        Some(class) => {
            let name = Class::NAMES.iter().find(|(_, known)| *known == class).map_or("", |(name, _)| name);
            return format!(
                "set `default = {{ {name} = \"log\" }}` for the instance in the policy, `flowwarden check` it, and \
                 `flowwarden reload`"
            );
        }
        None => "a rule".to_owned(),
    };
    format!(
        "allow it in the policy ({rule}, verdict = \"allow\"; for instance {instance}), `flowwarden check` it, and `flowwarden \
         reload`"
    )
}

/// Address and port as keys of a rule.
fn ends(key: &str, object: &str) -> String {
    let Some((address, port)) = object.rsplit_once(':') else { return format!("{key} = [\"...\"]") };
    let address = address.trim_matches(['[', ']']);
    format!("{key} = [\"{address}\"], ports = [{port}]")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use monitor_common::{Verdict, policy::Maintenance};

    use super::*;
    use crate::{
        incident::{Incidents, tests::event},
        record::activity::Activity,
    };

    fn of(rule: u16, verdict: Verdict, path: &str, change: impl FnOnce(&mut Incident)) -> String {
        let mut incidents = Incidents::default();
        let event = event(rule, verdict, path, 443);
        incidents.note(&event, &Activity::new(&event, "x"), Instant::now());
        let mut incident = incidents.close().remove(0).1;
        change(&mut incident);
        remediation(&incident)
    }

    #[test]
    fn a_rule_with_a_window_is_remediated_by_a_window() {
        let said = of(1, Verdict::Deny, "settings.js", |it| it.maintenance = Some(Maintenance::Settings));
        assert!(said.contains("maintenance open --for 15m --class settings --instance plant-0"), "{said}");
        assert!(!said.contains("it was not denied"), "{said}");
    }

    #[test]
    fn the_remediation_of_an_address_is_a_rule_to_copy() {
        let said = of(0, Verdict::Log, "", |_| ());
        assert!(said.contains("[[instance.egress]] to = [\"203.0.1.187\"], ports = [443]"), "{said}");
        assert!(said.contains("find out what was sent"), "{said}");
    }

    #[test]
    fn an_operation_that_was_not_denied_needs_more_steps() {
        let said = of(1, Verdict::Log, "id_rsa", |_| ());
        assert!(said.contains("replace the keys") && said.contains("path = \"/id_rsa\""), "{said}");
    }

    #[test]
    fn access_to_the_guard_is_never_allowed() {
        let said = of(1, Verdict::Kill, "x", |it| it.rule = "guard-secrets".to_owned());
        assert!(said.contains("compromised") && !said.contains("allow"), "{said}");
    }
}
