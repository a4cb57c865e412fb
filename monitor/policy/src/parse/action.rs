//! What a rule, or a default, does.

use std::collections::BTreeSet;

use monitor_common::{
    Verdict,
    policy::{Class, Maintenance},
};
use toml::de::DeTable;

use crate::{
    model::{Action, ClassDefault, KillScope},
    own,
    toml_reader::{Reader, Table, Value, suggest},
};

/// Longest reason of a rule, in bytes.
const MAX_WHY: usize = 200;

impl Reader<'_> {
    pub(super) fn defaults(&mut self, value: Option<&Value<'_>>) -> [ClassDefault; Class::COUNT] {
        let mut defaults = [ClassDefault::ALLOW; Class::COUNT];
        let Some(value) = value else { return defaults };
        let Some(table) = value.get_ref().as_table() else {
            self.fault(value.span().start, "`default` must be a table, e.g. default = { egress = \"log\" }");
            return defaults;
        };
        let mut table = Table::new(table, value.span().start);
        for (name, class) in Class::NAMES {
            if let Some(value) = table.take(name)
                && let Some(default) = self.class_default(value)
            {
                defaults[class as usize] = default;
            }
        }
        self.finish(&table);
        defaults
    }

    /// A verdict, or one with what is done where no sensor can deny: `{ verdict = "deny", fallback = "kill" }`.
    fn class_default(&mut self, value: &Value<'_>) -> Option<ClassDefault> {
        let Some(table) = value.get_ref().as_table() else {
            return Some(ClassDefault { verdict: self.verdict(value)?, ..ClassDefault::ALLOW });
        };
        let at = value.span().start;
        let mut table = Table::new(table, at);
        let (verdict, fallback, scope) = (table.take("verdict"), table.take("fallback"), table.take("scope"));
        self.finish(&table);
        let Some(verdict) = verdict else {
            self.fault(at, "a default needs a `verdict`: allow, log, deny or kill");
            return None;
        };
        let verdict = self.verdict(verdict)?;
        let fallback = self.fallback(fallback, Some(verdict));
        let scope = self.scope(scope, Some(verdict), fallback);
        Some(ClassDefault { verdict, fallback, scope })
    }

    fn verdict(&mut self, value: &Value<'_>) -> Option<Verdict> {
        let text = self.string(value, "a verdict")?;
        let verdict = Verdict::by_name(text);
        if verdict.is_none() {
            let hint = suggest(text, ["allow", "log", "deny", "kill"].into_iter());
            self.fault(value.span().start, format!("\"{text}\" is no verdict: allow, log, deny or kill{hint}"));
        }
        verdict
    }

    /// What is done where a sensor cannot deny.
    fn fallback(&mut self, value: Option<&Value<'_>>, verdict: Option<Verdict>) -> Verdict {
        let Some(value) = value else { return Verdict::Unset };
        let Some(fallback) = self.verdict(value) else { return Verdict::Unset };
        if verdict != Some(Verdict::Deny) {
            self.fault(
                value.span().start,
                "`fallback` says what to do where a sensor cannot deny; it goes with verdict = \"deny\" only",
            );
        } else if !matches!(fallback, Verdict::Log | Verdict::Kill) {
            self.fault(value.span().start, "`fallback` is \"log\" or \"kill\"");
        }
        fallback
    }

    /// Who dies where somebody is killed.
    fn scope(&mut self, value: Option<&Value<'_>>, verdict: Option<Verdict>, fallback: Verdict) -> KillScope {
        let Some(value) = value else { return KillScope::Process };
        let Some(text) = self.string(value, "`scope`") else { return KillScope::Process };
        let scope = KillScope::by_name(text);
        if scope.is_none() {
            let hint = suggest(text, KillScope::NAMES.into_iter().map(|(name, _)| name));
            self.fault(value.span().start, format!("\"{text}\" is no scope: process, tree or instance{hint}"));
        } else if verdict.is_some_and(|verdict| verdict != Verdict::Kill) && fallback != Verdict::Kill {
            self.fault(
                value.span().start,
                "`scope` says who is killed; it goes with verdict or fallback = \"kill\" only",
            );
        }
        scope.unwrap_or_default()
    }

    /// The ids that rules of an instance give themselves.
    pub(super) fn given_ids(&mut self, instance: &DeTable<'_>) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        let rules = ["files", "exec", "egress", "ingress"]
            .into_iter()
            .filter_map(|key| instance.get(key)?.get_ref().as_array());
        for rule in rules.flatten() {
            if let Some(value) = rule.get_ref().as_table().and_then(|rule| rule.get("id"))
                && let Some(id) = value.get_ref().as_str()
                && !ids.insert(id.to_owned())
            {
                self.fault(
                    value.span().start,
                    format!("two rules with the id \"{id}\" in one instance; give each its own"),
                );
            }
        }
        ids
    }

    /// What a rule does; every kind of rule has it.
    pub(super) fn action(
        &mut self,
        table: &mut Table<'_, '_>,
        kind: &str,
        ids: &mut BTreeSet<String>,
        index: usize,
    ) -> Option<Action> {
        let verdict = self.required(table, "verdict").and_then(|value| self.verdict(value));
        let fallback = self.fallback(table.take("fallback"), verdict);
        let scope = self.scope(table.take("scope"), verdict, fallback);
        let id = if let Some(value) = table.take("id") {
            let text = self.string(value, "`id`")?;
            if text.is_empty()
                || !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            {
                self.fault(value.span().start, "`id` may hold lower-case letters, digits and `-`");
            } else if text == own::DNS_TUNNEL {
                self.fault(value.span().start, format!("every policy has a rule `{text}`; choose another id"));
            } else if text.starts_with(own::PREFIX) {
                self.fault(
                    value.span().start,
                    format!("ids that begin with `{}` are those of the guard's own rules; choose another", own::PREFIX),
                );
            }
            text.to_owned()
        } else {
            let mut id = format!("{kind}-{}", index + 1);
            while !ids.insert(id.clone()) {
                id += "-2";
            }
            id
        };
        let maintenance = table.take("maintenance").and_then(|value| self.maintenance(value, verdict));
        let why = table.take("why").and_then(|value| self.sentence(value));
        let techniques = table.take("technique").map(|value| self.techniques(value)).unwrap_or_default();
        Some(Action { id, verdict: verdict?, fallback, scope, maintenance, why, techniques, at: self.at(table.at) })
    }

    /// What has to be worked on for the rule to be lifted.
    fn maintenance(&mut self, value: &Value<'_>, verdict: Option<Verdict>) -> Option<Maintenance> {
        let text = self.string(value, "`maintenance`")?;
        let maintenance = Maintenance::by_name(text);
        if maintenance.is_none() {
            let hint = suggest(text, Maintenance::NAMES.into_iter().map(|(name, _)| name));
            self.fault(value.span().start, format!("\"{text}\" is no maintenance: palette, settings or files{hint}"));
        } else if verdict.is_some_and(|verdict| verdict < Verdict::Deny) {
            self.fault(
                value.span().start,
                "`maintenance` says when a rule only logs; it goes with verdict = \"deny\" or \"kill\" only",
            );
        }
        maintenance
    }

    /// Why a rule is there: one line that a record can carry.
    fn sentence(&mut self, value: &Value<'_>) -> Option<String> {
        let text = self.string(value, "`why`")?;
        if text.is_empty() || text.len() > MAX_WHY || text.chars().any(char::is_control) {
            self.fault(value.span().start, format!("`why` is one line of 1 to {MAX_WHY} bytes"));
        }
        Some(text.to_owned())
    }

    /// Identifiers of MITRE ATT&CK: `T1552`, `T1552.004`.
    fn techniques(&mut self, value: &Value<'_>) -> Vec<String> {
        let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_technique = |text: &str| {
            let Some(number) = text.strip_prefix('T') else { return false };
            let (technique, sub) = number.split_once('.').map_or((number, None), |(number, sub)| (number, Some(sub)));
            digits(technique, 4) && sub.is_none_or(|sub| digits(sub, 3))
        };
        let mut techniques = Vec::new();
        for (text, at) in self.strings(value, "`technique`") {
            if !is_technique(text) {
                self.fault(at, format!("\"{text}\" is no ATT&CK technique; they look like T1552 or T1552.004"));
            }
            techniques.push(text.to_owned());
        }
        techniques
    }
}
