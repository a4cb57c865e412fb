//! What to do about an incident: when nobody wanted what happened, and when somebody did.

use monitor_common::policy::Class;

use super::{Incident, OVERFLOW, Outcome};
use crate::record::tunnel;
use journal::text::terminal::shown;

/// Two or three sentences for whoever is told.
#[must_use]
pub fn mend(incident: &Incident) -> String {
    if incident.rule == OVERFLOW {
        return "So many rules meet somebody at once that the events of the last ones are counted together: read them with \
                `flowwarden journal query`, and look for what they have in common."
            .to_owned();
    }
    if incident.rule.starts_with("guard-") {
        return "Somebody in this instance reaches for the guard itself, and nothing that is watched has business there: treat \
                the instance as taken over, and find out which flow or package began this process."
            .to_owned();
    }
    if incident.rule == tunnel::RULE {
        let domain = incident.objects.iter().next().map_or("...", String::as_str);
        return format!(
            "If nobody wanted it: find the flow or package that asks for these names, and remove it; what was sent has left \
             through your resolvers: find out what it was, and let them refuse {domain}. If it was wanted: let the policy \
             trust the domain ([[instance.egress]] to = [\"*.{domain}\"], verdict = \"allow\"; for instance {}), `flowwarden \
             check` it, and `flowwarden reload`.",
            shown(incident.instance.as_bytes())
        );
    }
    if incident.outcome == Outcome::Lifted {
        return "A maintenance window let it through. If it was part of the work there is nothing to do; if not, close the \
                window (`flowwarden maintenance close`), and read what was done in it (`flowwarden maintenance report`)."
            .to_owned();
    }
    format!("If nobody wanted it: {}. If it was wanted: {}.", unwanted(incident), wanted(incident))
}

/// What to look at, and what may be lost.
fn unwanted(incident: &Incident) -> String {
    let who = "find the flow or package that began this process, and remove it";
    let through = incident.outcome != Outcome::Stopped;
    let after = match incident.class {
        Some(Class::Files | Class::Mount) if through => {
            "; it was not stopped: compare the file with a copy, and replace keys and passwords that it held"
        }
        Some(Class::Exec | Class::ExecUnnamed | Class::ExecWritable) if through => {
            "; it ran: look at what else it did (`flowwarden journal query`)"
        }
        Some(Class::Egress) if through => "; it went out: find out what was sent there",
        Some(Class::Ingress) => "; let the editor listen on 127.0.0.1 (`uiHost`), or close the port in the firewall",
        Some(Class::Privilege | Class::Kernel | Class::Namespace) if through => {
            "; it was not stopped: treat the whole machine as taken over"
        }
        _ => "",
    };
    format!("{who}{after}")
}

/// How it is let through the next time: in a window, or by a rule.
fn wanted(incident: &Incident) -> String {
    let instance = shown(incident.instance.as_bytes());
    if let Some(maintenance) = incident.maintenance {
        let class = maintenance.name();
        return format!(
            "`flowwarden maintenance open --for 15m --class {class} --instance {instance}`, and do it again in the window"
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
                "give the instance `default = {{ {name} = \"log\" }}` in the policy, `flowwarden check` it, and \
                 `flowwarden reload`"
            );
        }
        None => "a rule".to_owned(),
    };
    format!(
        "let the policy say so ({rule}, verdict = \"allow\"; for instance {instance}), `flowwarden check` it, and `flowwarden \
         reload`"
    )
}

/// An address and a port as a rule has them.
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
        mend(&incident)
    }

    #[test]
    fn a_rule_with_a_window_is_mended_by_a_window() {
        let said = of(1, Verdict::Deny, "settings.js", |it| it.maintenance = Some(Maintenance::Settings));
        assert!(said.contains("maintenance open --for 15m --class settings --instance plant-0"), "{said}");
        assert!(!said.contains("it was not stopped"), "{said}");
    }

    #[test]
    fn an_address_is_mended_by_a_rule_that_can_be_copied() {
        let said = of(0, Verdict::Log, "", |_| ());
        assert!(said.contains("[[instance.egress]] to = [\"203.0.1.187\"], ports = [443]"), "{said}");
        assert!(said.contains("find out what was sent"), "{said}");
    }

    #[test]
    fn what_was_not_stopped_asks_for_more() {
        let said = of(1, Verdict::Log, "id_rsa", |_| ());
        assert!(said.contains("replace keys") && said.contains("path = \"/id_rsa\""), "{said}");
    }

    #[test]
    fn nothing_lets_anybody_at_the_guard() {
        let said = of(1, Verdict::Kill, "x", |it| it.rule = "guard-secrets".to_owned());
        assert!(said.contains("taken over") && !said.contains("allow"), "{said}");
    }
}
