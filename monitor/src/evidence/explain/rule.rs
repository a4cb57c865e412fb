//! One rule in plain words.

use std::fmt::Write as _;

use monitor_common::{
    Verdict,
    policy::{Class, Direction},
};

use super::{Found, Met, Page, Source, words};
use crate::record::tunnel;
use journal::format::rfc3339_seconds;
use policy::model::{KillScope, Names};

/// A rule of the policy, or one that only the journal has; `None` when neither has it.
#[must_use]
pub fn rule(id: &str, source: Option<&Source>, met: &Met) -> Option<String> {
    let mut page = Page::default();
    let class = id.strip_prefix("default-").and_then(|name| Class::NAMES.iter().find(|(known, _)| *known == name));
    let found: Vec<_> = source.map_or_else(Vec::new, |source| source.rules(None, id).collect());
    page.heading(&format!("Rule {id}"));
    if words::is_own(id) {
        page.line(&format!("Every policy has it: {}.", words::own(id)));
        if id != tunnel::RULE {
            page.line("It cannot be lifted.");
        }
    } else if let Some(&(name, class)) = class {
        page.line(&format!("The default for {name}: {}.", words::class(class)));
        for instance in source.iter().flat_map(|source| &source.policy.instances) {
            let default = instance.defaults[class as usize];
            page.line(&format!("In the instance \"{}\" it says {}.", instance.name, default.verdict.name()));
        }
    } else if let Some(source) = source.filter(|_| !found.is_empty()) {
        let mut last = None;
        for found in &found {
            let here = (&found.instance.name, found.action.at.line);
            if last != Some(here) {
                about(&mut page, source, found);
            }
            protects(&mut page, found);
            last = Some(here);
        }
    } else if let Some(says) = &met.says {
        page.line("The policy does not have it (any more), or none was given as --policy.");
        page.line(&format!("In the journal it says: {says}"));
    } else {
        return None;
    }
    met_whom(&mut page, met);
    Some(page.end())
}

fn about(page: &mut Page, source: &Source, found: &Found<'_>) {
    let Found { instance, action, .. } = found;
    page.line(&format!("{} line {}, instance \"{}\"", source.path.display(), action.at.line, instance.name));
    let why = action.why.as_deref().unwrap_or("the policy does not say why");
    page.line(&format!("why: {why}"));
    for technique in &action.techniques {
        page.line(&format!("against: {}", words::technique(technique)));
    }
    page.line(&format!(
        "from whom: every process of \"{}\", flows and installed nodes included, and all that they start",
        instance.name
    ));
    let mut does = match action.verdict {
        Verdict::Allow => "it allows, and makes an exception from wider rules".to_owned(),
        Verdict::Log => "it lets through and writes it into the journal".to_owned(),
        Verdict::Deny => {
            "it refuses; where the kernel cannot refuse it ".to_owned()
                + if action.fallback == Verdict::Kill { "kills" } else { "only logs" }
        }
        _ => "it kills".to_owned(),
    };
    if action.scope != KillScope::Process {
        let _ = write!(does, ", and where it kills then the whole {}", action.scope.name());
    }
    if !source.policy.enforce && action.verdict > Verdict::Log {
        does += "; but the policy only observes, so that it only logs";
    }
    page.line(&format!("what it does: {does}"));
    if let Some(maintenance) = action.maintenance {
        page.line(&format!("opened by: sudo flowwarden maintenance open --for 15m --class {}", maintenance.name()));
    }
}

fn protects(page: &mut Page, found: &Found<'_>) {
    if let Some(rule) = found.files {
        let directory = rule.path.display().to_string();
        let directory = directory.trim_end_matches('/');
        let path = match &rule.names {
            Names::Itself => rule.path.display().to_string(),
            Names::Children => format!("everything directly in {directory}"),
            Names::Below => format!("everything below {directory}"),
            Names::ChildSuffix(end) => format!("what ends with {end} in {directory}"),
            Names::ChildPrefix(begin) => format!("what begins with {begin} in {directory}"),
            Names::BelowSuffix(end) => format!("what ends with {end} anywhere below {directory}"),
            Names::BelowPrefix(begin) => format!("what begins with {begin} anywhere below {directory}"),
        };
        let access: Vec<_> = rule.access.names().collect();
        let healed = if rule.heal { "; put back when it came to harm" } else { "" };
        page.line(&format!("about: {} of {path}{healed}", access.join(", ")));
    }
    if let Some(rule) = found.net {
        let names = rule.names.iter().map(ToString::to_string);
        let who: Vec<_> = names.chain(rule.prefixes.iter().map(ToString::to_string)).collect();
        let ports: Vec<_> = rule
            .ports
            .iter()
            .map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        let ports = if ports.is_empty() { "any port".to_owned() } else { format!("port {}", ports.join(", ")) };
        let what = if rule.direction == Direction::Egress { "traffic to" } else { "connections from" };
        page.line(&format!("about: {what} {}, {ports}", who.join(", ")));
    }
}

fn met_whom(page: &mut Page, met: &Met) {
    page.heading("Matches in the journal");
    let (Some((first, first_time)), Some((last, last_time))) = (met.first, met.last) else {
        page.line("none");
        return;
    };
    let (from, to) = (rfc3339_seconds(first_time), rfc3339_seconds(last_time));
    page.line(&format!("from event {first}, {from}, to event {last}, {to}"));
    for (done, count) in &met.verdicts {
        page.line(&format!("{count} times {done}"));
    }
    if met.lifted > 0 {
        page.line(&format!("{} of them in maintenance windows", met.lifted));
    }
    let mut actors: Vec<_> = met.actors.iter().collect();
    actors.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (name, count) in actors.into_iter().take(10) {
        let name = if name.is_empty() { "(no name)" } else { name };
        page.line(&format!("{count} times by {name}"));
    }
    page.line(&format!("last: {}", met.example));
    page.line(&format!("more: flowwarden explain {last}"));
}
