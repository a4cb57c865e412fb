//! TOML to [`Policy`]: strict, with line and column for everything that is wrong.

mod action;
mod file;
mod net;
mod select;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use monitor_common::{
    Access,
    name::NAME_LEN,
    policy::{Direction, MAX_INSTANCES},
    scope::MAX_SELECTORS,
};
use toml::de::DeTable;

use super::{
    model::{AuditLog, InstancePolicy, Policy, Select},
    peers::{self, MAX_PEERS},
};
use crate::toml_reader::{Fault, Reader, Table, Value};
use journal::text::terminal::is_hidden;

/// Parses a policy that has no other tables than its own. Returns every fault that one pass can find.
pub fn parse(text: &str) -> Result<Policy, Vec<Fault>> {
    parse_with(text, |_, _| ()).map(|(policy, ())| policy)
}

/// Parses a policy, with what else its file has: `others` takes the root's other tables. A key that is left is a fault.
pub fn parse_with<T: Default>(
    text: &str,
    others: impl FnOnce(&mut Reader<'_>, &mut Table<'_, '_>) -> T,
) -> Result<(Policy, T), Vec<Fault>> {
    let mut reader = Reader::new(text);
    let (root, mistakes) = DeTable::parse_recoverable(text);
    for mistake in &mistakes {
        reader.fault(mistake.span().map_or(0, |span| span.start), mistake.message());
    }
    // What else is wrong in the line follows from its first mistake.
    reader.faults.sort_by_key(|fault| (fault.line, fault.column));
    reader.faults.dedup_by_key(|fault| fault.line);
    // What a text with such mistakes means is a guess, and complaints about a guess only mislead.
    let parsed = if mistakes.is_empty() { reader.policy(root.get_ref(), others) } else { Default::default() };
    reader.faults.sort_by_key(|fault| (fault.line, fault.column));
    if reader.faults.is_empty() { Ok(parsed) } else { Err(reader.faults) }
}

impl Reader<'_> {
    fn policy<T>(
        &mut self,
        root: &DeTable<'_>,
        others: impl FnOnce(&mut Self, &mut Table<'_, '_>) -> T,
    ) -> (Policy, T) {
        let mut table = Table::new(root, 0);
        if let Some(version) = self.required(&mut table, "version")
            && version.get_ref().as_integer().map(toml::de::DeInteger::as_str) != Some("1")
        {
            self.fault(version.span().start, "this guard reads version = 1 only");
        }
        let enforce = match table.take("mode").and_then(|mode| Some((self.string(mode, "`mode`")?, mode.span().start)))
        {
            None | Some(("observe", _)) => false,
            Some(("enforce", _)) => true,
            Some((other, at)) => {
                self.fault(at, format!("`mode` is \"observe\" or \"enforce\", not \"{other}\""));
                false
            }
        };
        let mut policy = Policy { enforce, instances: Vec::new() };
        let others = others(self, &mut table);
        let mut names = BTreeSet::new();
        for (instance, at) in self.tables(table.take("instance"), "instance") {
            let instance = self.instance(instance, at);
            if !names.insert(instance.name.clone()) {
                self.fault(at, format!("there are two instances called \"{}\"; give each its own name", instance.name));
            }
            policy.instances.push(instance);
        }
        if policy.instances.is_empty() && self.faults.is_empty() {
            self.fault(0, "no [[instance]]: there is nothing to guard");
        }
        if policy.instances.len() > MAX_INSTANCES {
            self.fault(0, format!("{} instances; at most {MAX_INSTANCES} fit in one policy", policy.instances.len()));
        }
        let selectors: usize = policy.instances.iter().map(|instance| instance.select.len()).sum();
        if selectors > MAX_SELECTORS {
            self.fault(0, format!("{selectors} selectors; at most {MAX_SELECTORS} fit in one policy"));
        }
        let rules: usize = policy.instances.iter().map(|instance| instance.files.len() + instance.nets.len()).sum();
        if rules > usize::from(u16::MAX) {
            self.fault(0, format!("{rules} rules, one for each path; at most {} fit in one policy", u16::MAX));
        }
        let peers = peers::names(&policy).collect::<BTreeSet<_>>().len();
        if peers > MAX_PEERS {
            self.fault(0, format!("{peers} names in `from`; at most {MAX_PEERS} in one policy are looked up"));
        }
        self.finish(&table);
        (policy, others)
    }

    fn instance(&mut self, table: &DeTable<'_>, at: usize) -> InstancePolicy {
        let mut table = Table::new(table, at);
        let name = self.required(&mut table, "name").and_then(|value| self.name(value));
        let user_dir = self.required(&mut table, "user-dir").and_then(|value| {
            let text = self.string(value, "`user-dir`")?;
            if !Path::new(text).is_absolute() {
                self.fault(value.span().start, format!("`user-dir` must be absolute; \"{text}\" is not"));
                return None;
            }
            self.plain_path(Path::new(text), value.span().start)
        });
        let select_at = table.take("select");
        if select_at.is_none() {
            self.fault(at, "`select` is missing: say which processes belong to the instance, e.g. select = [{ unit = \"nodered.service\" }]");
        }
        if let Some(value) = select_at
            && value.get_ref().as_array().is_some_and(|array| array.is_empty())
        {
            self.fault(value.span().start, "`select` is empty: no process would belong to the instance");
        }
        let select: Vec<_> =
            self.tables(select_at, "select").into_iter().filter_map(|(select, at)| self.select(select, at)).collect();
        let defaults = self.defaults(table.take("default"));
        let audit_log = table.take("audit-log").and_then(|value| self.audit_log(value, &select));
        let mut instance = InstancePolicy {
            name: name.unwrap_or_default(),
            select,
            user_dir: user_dir.unwrap_or_else(|| PathBuf::from("/")),
            defaults,
            files: Vec::new(),
            nets: Vec::new(),
            resolvers: table.take("resolvers").map(|value| self.resolvers(value)).unwrap_or_default(),
            audit_log,
            at: self.at(at),
        };
        let mut ids = self.given_ids(table.keys);
        for (index, (rule, at)) in self.tables(table.take("files"), "files").into_iter().enumerate() {
            self.file_rule(rule, at, &mut instance, &mut ids, index, None);
        }
        for (index, (rule, at)) in self.tables(table.take("exec"), "exec").into_iter().enumerate() {
            self.file_rule(rule, at, &mut instance, &mut ids, index, Some(Access::EXEC));
        }
        for (key, end, direction) in [("egress", "to", Direction::Egress), ("ingress", "from", Direction::Ingress)] {
            for (index, (rule, at)) in self.tables(table.take(key), key).into_iter().enumerate() {
                if let Some(rule) = self.net_rule(rule, at, (key, end, direction), &mut ids, index) {
                    instance.nets.push(rule);
                }
            }
        }
        self.finish(&table);
        instance
    }

    fn name(&mut self, value: &Value<'_>) -> Option<String> {
        let text = self.string(value, "`name`")?;
        if text.is_empty() || text.len() >= NAME_LEN || text.chars().any(is_hidden) {
            self.fault(value.span().start, format!("`name` must have 1 to {} bytes of printable text", NAME_LEN - 1));
        }
        Some(text.to_owned())
    }

    fn audit_log(&mut self, value: &Value<'_>, select: &[Select]) -> Option<AuditLog> {
        let text = self.string(value, "`audit-log`")?;
        let at = value.span().start;
        if text == "journal" {
            if !select.is_empty() && !select.iter().any(Select::is_in_entries) {
                self.fault(
                    at,
                    "nothing in `select` says which entries of the journal are the instance's: name a unit, user, uid, container or cgroup",
                );
            }
            return Some(AuditLog::Journal);
        }
        if !Path::new(text).is_absolute() {
            self.fault(at, format!("`audit-log` must be \"journal\" or an absolute path; \"{text}\" is neither"));
            return None;
        }
        self.plain_path(Path::new(text), at).map(AuditLog::File)
    }
}
