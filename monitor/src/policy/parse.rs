//! TOML to [`Policy`]: strict, with line and column for everything that is wrong.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use ipnet::IpNet;
use monitor_common::{
    Access, Verdict,
    decide::map_v4,
    name::NAME_LEN,
    policy::{Class, Direction, MAX_INSTANCES, Maintenance, PATTERN_LEN},
    scope::MAX_SELECTORS,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{journal, metrics, pipeline::tunnel, sinks};

use super::{
    Fault, limit,
    model::{
        Action, At, AuditLog, ClassDefault, FileRule, InstancePolicy, KillScope, Names, NetRule, Policy, Prefix, Select,
    },
    name::DnsName,
    own,
};

/// Deepest path that a rule can name, in components.
const MAX_DEPTH: usize = 24;

/// Most resolvers of an instance.
const MAX_RESOLVERS: usize = 16;

/// Longest reason of a rule, in bytes.
const MAX_WHY: usize = 200;

/// A value with its place in the text.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// Parses a policy. Every fault that can be found in one pass comes back.
pub fn parse(text: &str) -> Result<Policy, Vec<Fault>> {
    let mut reader = Reader::new(text);
    let (root, mistakes) = DeTable::parse_recoverable(text);
    for mistake in &mistakes {
        reader.fault(mistake.span().map_or(0, |span| span.start), mistake.message());
    }
    // What else is wrong in the line follows from its first mistake.
    reader.faults.sort_by_key(|fault| (fault.line, fault.column));
    reader.faults.dedup_by_key(|fault| fault.line);
    // What a text with such mistakes means is a guess, and complaints about a guess only mislead.
    let policy = if mistakes.is_empty() { reader.policy(root.get_ref()) } else { Policy::default() };
    reader.faults.sort_by_key(|fault| (fault.line, fault.column));
    if reader.faults.is_empty() { Ok(policy) } else { Err(reader.faults) }
}

/// Reads values, and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    faults: Vec<Fault>,
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
pub(crate) struct Table<'a, 'i> {
    keys: &'a DeTable<'i>,
    known: Vec<&'static str>,
    /// Nobody can say which keys it may have.
    unknown: bool,
    /// Where it begins.
    pub(crate) at: usize,
}

impl<'a, 'i> Table<'a, 'i> {
    pub(crate) fn new(keys: &'a DeTable<'i>, at: usize) -> Self {
        Self { keys, known: Vec::new(), unknown: false, at }
    }

    /// From here on every key is taken for a good one.
    #[cfg(not(all(feature = "email", feature = "kafka")))]
    pub(crate) fn forgive(&mut self) {
        self.unknown = true;
    }

    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.push(key);
        self.keys.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { text, lines, faults: Vec::new() }
    }

    fn at(&self, offset: usize) -> At {
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        At { line, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }

    pub(crate) fn fault(&mut self, offset: usize, what: impl Into<String>) {
        let At { line, column } = self.at(offset);
        self.faults.push(Fault { line, column, what: what.into() });
    }

    /// Complains about keys that nobody took.
    pub(crate) fn finish(&mut self, table: &Table<'_, '_>) {
        for (name, _) in table.keys {
            let key = name.get_ref().as_ref();
            if !table.unknown && !table.known.contains(&key) {
                let hint = suggest(key, table.known.iter().copied());
                self.fault(name.span().start, format!("unknown key \"{key}\"{hint}"));
            }
        }
    }

    pub(crate) fn string<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.fault(value.span().start, format!("{what} must be a string, not {}", value.get_ref().type_str()));
        }
        text
    }

    pub(crate) fn required<'v, 'i>(&mut self, table: &mut Table<'v, 'i>, key: &'static str) -> Option<&'v Value<'i>> {
        let value = table.take(key);
        if value.is_none() {
            self.fault(table.at, format!("`{key}` is missing"));
        }
        value
    }

    /// A string or an array of strings.
    pub(crate) fn strings<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Vec<(&'v str, usize)> {
        match value.get_ref() {
            DeValue::String(text) => vec![(text.as_ref(), value.span().start)],
            DeValue::Array(array) => {
                if array.is_empty() {
                    self.fault(value.span().start, format!("{what} is empty: a rule about nothing; remove it"));
                }
                array.iter().filter_map(|item| Some((self.string(item, what)?, item.span().start))).collect()
            }
            other => {
                self.fault(
                    value.span().start,
                    format!("{what} must be a string or an array of strings, not {}", other.type_str()),
                );
                Vec::new()
            }
        }
    }

    pub(crate) fn tables<'v, 'i>(&mut self, value: Option<&'v Value<'i>>, key: &str) -> Vec<(&'v DeTable<'i>, usize)> {
        let Some(value) = value else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.fault(value.span().start, format!("`{key}` must be an array of tables"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array {
            match item.get_ref().as_table() {
                Some(table) => tables.push((table, item.span().start)),
                None => self
                    .fault(item.span().start, format!("`{key}` must hold tables, not {}", item.get_ref().type_str())),
            }
        }
        tables
    }

    fn policy(&mut self, root: &DeTable<'_>) -> Policy {
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
        let mut policy = Policy { enforce, instances: Vec::new(), ..Policy::default() };
        policy.journal = journal::config::read(self, table.take("journal"));
        policy.sinks = sinks::config::read(self, table.take("sink"));
        policy.metrics = metrics::config::read(self, table.take("metrics"));
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
        self.finish(&table);
        policy
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
        if text.is_empty() || text.len() >= NAME_LEN || text.chars().any(char::is_control) {
            self.fault(value.span().start, format!("`name` must have 1 to {} bytes of printable text", NAME_LEN - 1));
        }
        Some(text.to_owned())
    }

    fn select(&mut self, table: &DeTable<'_>, at: usize) -> Option<Select> {
        let mut table = Table::new(table, at);
        let mut select = Select { at: self.at(at), ..Select::default() };
        let mut text = |reader: &mut Self, key: &'static str| {
            let value = table.take(key)?;
            let text = reader.string(value, &format!("`{key}`"))?;
            let why = match key {
                _ if text.is_empty() => Some(format!("`{key}` is empty")),
                "unit" => wrong_unit(text),
                "container" => wrong_container(text),
                "cgroup" => wrong_cgroup(text),
                "exec" if text != "node-red" => Some(format!(
                    "`exec` knows \"node-red\" only (node with an argument that names red.js or node-red), not \"{text}\""
                )),
                _ => None,
            };
            if let Some(why) = why {
                reader.fault(value.span().start, why);
            }
            Some(text.to_owned())
        };
        select.user = text(self, "user");
        select.unit = text(self, "unit");
        select.container = text(self, "container");
        select.cgroup = text(self, "cgroup");
        select.exec = text(self, "exec").is_some();
        if let Some(uid) = table.take("uid") {
            select.uid =
                uid.get_ref().as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
            if select.uid.is_none_or(|uid| uid == u32::MAX) {
                self.fault(uid.span().start, "`uid` must be a number from 0 to 4294967294");
            }
        }
        self.finish(&table);
        if select.user.is_some() && select.uid.is_some() {
            self.fault(at, "`user` and `uid` in one selector: name one of them");
        }
        let cgroups = [&select.unit, &select.container, &select.cgroup].into_iter().flatten().count();
        if cgroups > 1 {
            self.fault(at, "`unit`, `container` and `cgroup` each name a cgroup: use one of them in a selector");
        }
        if cgroups == 0 && !select.exec && select.user.is_none() && select.uid.is_none() {
            self.fault(at, "an empty selector selects nothing; name a user, uid, unit, container, cgroup or exec");
            return None;
        }
        Some(select)
    }

    fn defaults(&mut self, value: Option<&Value<'_>>) -> [ClassDefault; Class::COUNT] {
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
    fn given_ids(&mut self, instance: &DeTable<'_>) -> BTreeSet<String> {
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
    fn action(
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
            } else if text == tunnel::RULE {
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

    fn file_rule(
        &mut self,
        table: &DeTable<'_>,
        at: usize,
        instance: &mut InstancePolicy,
        ids: &mut BTreeSet<String>,
        index: usize,
        fixed: Option<Access>,
    ) {
        let mut table = Table::new(table, at);
        let (path, paths) = (table.take("path"), table.take("paths"));
        let mut texts = Vec::new();
        match (path, paths) {
            (Some(path), None) => texts.extend(self.string(path, "`path`").map(|text| (text, path.span().start))),
            (None, Some(paths)) => texts = self.strings(paths, "`paths`"),
            (None, None) => self.fault(at, "`path` is missing"),
            (Some(_), Some(paths)) => self.fault(paths.span().start, "`path` and `paths` in one rule: use one of them"),
        }
        let access = match fixed {
            Some(access) => access,
            None => self.required(&mut table, "access").map_or(Access::NONE, |value| self.access(value)),
        };
        let heal = if fixed.is_none() { table.take("heal") } else { None };
        let action = self.action(&mut table, if fixed.is_some() { "exec" } else { "files" }, ids, index);
        self.finish(&table);
        let heals = heal.is_some_and(|value| self.heal(value, access));
        let Some(action) = action else { return };
        for (text, at) in texts {
            if let Some((path, names)) = self.pattern(text, &instance.user_dir, at) {
                if heals && names != Names::Itself {
                    self.fault(at, format!("\"{text}\": only single files can be healed; name each of them"));
                }
                let (heal, at_once) = (heals, false);
                instance.files.push(FileRule { path, names, access, heal, at_once, action: action.clone() });
            }
        }
    }

    /// Whether a rule heals what it protects.
    fn heal(&mut self, value: &Value<'_>, access: Access) -> bool {
        let at = value.span().start;
        let Some(heal) = value.get_ref().as_bool() else {
            self.fault(at, "`heal` is true or false");
            return false;
        };
        let changes = [Access::WRITE, Access::DELETE, Access::RENAME];
        if heal && !changes.into_iter().any(|change| access.contains(change)) {
            self.fault(at, "`heal` needs a rule about changes: write, delete or rename");
        }
        heal
    }

    fn access(&mut self, value: &Value<'_>) -> Access {
        let mut access = Access::NONE;
        for (text, at) in self.strings(value, "`access`") {
            if text == "all" {
                access = Access::ALL;
            } else if let Some(one) = Access::by_name(text) {
                access = access.union(one);
            } else {
                let hint = suggest(text, Access::NAMES.into_iter().map(|(name, _)| name));
                self.fault(
                    at,
                    format!(
                        "\"{text}\" is no access: read, write, create, delete, rename, link, attr, exec or all{hint}"
                    ),
                );
            }
        }
        access
    }

    /// Splits a path of a rule into its literal part and what is meant below it.
    fn pattern(&mut self, text: &str, user_dir: &Path, at: usize) -> Option<(PathBuf, Names)> {
        if text.is_empty() {
            self.fault(at, "an empty path; write \".\" for the user directory itself");
            return None;
        }
        if text == "~" || text.starts_with("~/") {
            self.fault(at, format!("\"{text}\": `~` is not expanded; write the home directory out"));
            return None;
        }
        let root = if text.starts_with('/') { Path::new("/") } else { user_dir };
        let (dir, last) = text.rsplit_once('/').unwrap_or(("", text));
        let (dir, below) = match dir.strip_suffix("/**") {
            Some(dir) => (dir, true),
            None if dir == "**" => ("", true),
            None => (dir, false),
        };
        if dir.contains(['*', '?', '[']) || last.contains(['?', '[']) {
            self.fault(
                at,
                format!(
                    "\"{text}\": wildcards are `dir/*`, `dir/**`, and one `*` at the beginning or end of the last name"
                ),
            );
            return None;
        }
        let names = match (last, below) {
            ("**", false) | ("*", true) => Names::Below,
            ("*", false) => Names::Children,
            (name, below) => {
                let suffix = name.strip_prefix('*');
                let prefix = name.strip_suffix('*');
                match (suffix, prefix, below) {
                    (None, None, false) if !name.contains('*') => {
                        return Some((self.plain_path(&root.join(text), at)?, Names::Itself));
                    }
                    (Some(literal), None, below) if !literal.contains('*') => {
                        self.pattern_fits(text, literal, at)?;
                        if below {
                            Names::BelowSuffix(literal.to_owned())
                        } else {
                            Names::ChildSuffix(literal.to_owned())
                        }
                    }
                    (None, Some(literal), below) if !literal.contains('*') => {
                        self.pattern_fits(text, literal, at)?;
                        if below {
                            Names::BelowPrefix(literal.to_owned())
                        } else {
                            Names::ChildPrefix(literal.to_owned())
                        }
                    }
                    (None, None, true) if !name.contains('*') => {
                        self.fault(
                            at,
                            format!("\"{text}\": a whole name at any depth cannot be matched; write `**/*{name}`"),
                        );
                        return None;
                    }
                    _ => {
                        self.fault(
                            at,
                            format!("\"{text}\": one `*` at the beginning or the end of the last name, no more"),
                        );
                        return None;
                    }
                }
            }
        };
        Some((self.plain_path(&root.join(dir), at)?, names))
    }

    fn pattern_fits(&mut self, text: &str, literal: &str, at: usize) -> Option<()> {
        if literal.len() > PATTERN_LEN {
            self.fault(at, format!("\"{text}\": at most {PATTERN_LEN} bytes beside the `*` are compared"));
            return None;
        }
        Some(())
    }

    /// Refuses what cannot be a path in the tree: `..`, names that do not fit, too many of them.
    fn plain_path(&mut self, path: &Path, at: usize) -> Option<PathBuf> {
        let mut plain = PathBuf::from("/");
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) if name.len() < NAME_LEN => plain.push(name),
                Component::Normal(name) => {
                    self.fault(at, format!("the name \"{}\" is longer than {} bytes", name.display(), NAME_LEN - 1));
                    return None;
                }
                Component::ParentDir | Component::Prefix(_) => {
                    self.fault(at, format!("\"{}\": `..` is not followed; write the path out", path.display()));
                    return None;
                }
            }
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            self.fault(at, "a path cannot hold a zero byte");
            return None;
        }
        if plain.components().count() > MAX_DEPTH {
            self.fault(at, format!("more than {MAX_DEPTH} directories deep"));
            return None;
        }
        Some(plain)
    }

    fn net_rule(
        &mut self,
        table: &DeTable<'_>,
        at: usize,
        (kind, end, direction): (&str, &'static str, Direction),
        ids: &mut BTreeSet<String>,
        index: usize,
    ) -> Option<NetRule> {
        let mut table = Table::new(table, at);
        let (mut prefixes, mut names) = (Vec::new(), Vec::new());
        if let Some(value) = self.required(&mut table, end) {
            for (text, at) in self.strings(value, &format!("`{end}`")) {
                if let Some(name) = self.party(text, at, &mut prefixes) {
                    if matches!(direction, Direction::Ingress) {
                        self.fault(at, format!("\"{text}\": who connects is known by address only; write addresses"));
                    }
                    names.push(name);
                }
            }
        }
        let mut ports = Vec::new();
        if let Some(value) = table.take("ports") {
            self.ports(value, &mut ports);
        }
        let protocol = match table
            .take("protocol")
            .and_then(|value| Some((self.string(value, "`protocol`")?, value.span().start)))
        {
            None | Some(("any", _)) => 0,
            Some(("tcp", _)) => 6,
            Some(("udp", _)) => 17,
            Some((other, at)) => {
                self.fault(at, format!("`protocol` is \"tcp\", \"udp\" or \"any\", not \"{other}\""));
                0
            }
        };
        let action = self.action(&mut table, kind, ids, index);
        let bound = limit::read(self, &mut table, direction, action.as_ref().map(|action| action.verdict));
        self.finish(&table);
        Some(NetRule { direction, prefixes, names, ports, protocol, bound, action: action? })
    }

    /// Addresses, or else a name.
    fn party(&mut self, text: &str, at: usize, prefixes: &mut Vec<Prefix>) -> Option<DnsName> {
        if let Some(&(_, group)) = GROUPS.iter().find(|&&(name, _)| name == text) {
            prefixes.extend(group.iter().filter_map(|cidr| cidr.parse().ok()).map(prefix));
            return None;
        }
        if let Ok(net) = text.parse::<IpNet>() {
            if net.network() != net.addr() {
                self.fault(at, format!("\"{text}\" has bits beyond its prefix; did you mean \"{}\"?", net.trunc()));
            }
            prefixes.push(prefix(net));
            return None;
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            prefixes.push(prefix(IpNet::from(address)));
            return None;
        }
        let hint = suggest(text, GROUPS.iter().map(|&(name, _)| name));
        if !hint.is_empty() || text.contains(['/', ':']) {
            self.fault(
                at,
                format!(
                    "\"{text}\" is no address, CIDR, name or group (any, loopback, private, link-local, metadata){hint}"
                ),
            );
            return None;
        }
        DnsName::parse(text).map_err(|why| self.fault(at, why)).ok()
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

    fn resolvers(&mut self, value: &Value<'_>) -> Vec<IpAddr> {
        let mut resolvers = Vec::new();
        for (text, at) in self.strings(value, "`resolvers`") {
            match text.parse() {
                Ok(address) => resolvers.push(address),
                Err(_) => self.fault(at, format!("\"{text}\" is no address of a resolver, such as \"192.0.2.53\"")),
            }
        }
        if resolvers.len() > MAX_RESOLVERS {
            self.fault(value.span().start, format!("more than {MAX_RESOLVERS} resolvers of one instance"));
        }
        resolvers
    }

    fn ports(&mut self, value: &Value<'_>, ports: &mut Vec<(u16, u16)>) {
        let items = match value.get_ref() {
            DeValue::Array(array) => {
                if array.is_empty() {
                    self.fault(
                        value.span().start,
                        "`ports` is empty: a rule about nothing; leave it out to mean every port",
                    );
                }
                array.iter().collect()
            }
            _ => vec![value],
        };
        for item in items {
            let range = match item.get_ref() {
                DeValue::Integer(number) => {
                    u16::from_str_radix(number.as_str(), number.radix()).ok().map(|port| (port, port))
                }
                DeValue::String(text) => match text.split_once('-') {
                    Some((first, last)) => first.trim().parse().ok().zip(last.trim().parse().ok()),
                    None => text.trim().parse().ok().map(|port| (port, port)),
                },
                _ => None,
            };
            match range {
                Some((first, last)) if first <= last => ports.push((first, last)),
                _ => self.fault(item.span().start, "a port is a number up to 65535, a range is \"FIRST-LAST\""),
            }
        }
    }
}

/// Groups of addresses that have a name.
const GROUPS: &[(&str, &[&str])] = &[
    ("any", &["::/0"]),
    ("loopback", &["127.0.0.0/8", "::1/128"]),
    ("private", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]),
    ("link-local", &["169.254.0.0/16", "fe80::/10"]),
    ("metadata", &["169.254.169.254/32", "fd00:ec2::254/128"]),
];

/// A prefix of the one tree: IPv4 as v4-mapped IPv6.
fn prefix(net: IpNet) -> Prefix {
    match net.trunc() {
        IpNet::V4(net) => Prefix { address: map_v4(net.addr().octets()), bits: 96 + net.prefix_len() },
        IpNet::V6(net) => Prefix { address: net.addr().octets(), bits: net.prefix_len() },
    }
}

/// Endings of the names of units that have a cgroup.
const UNITS: [&str; 5] = [".service", ".scope", ".slice", ".socket", ".mount"];

fn wrong_unit(text: &str) -> Option<String> {
    if text.contains('/') {
        return Some(format!("\"{text}\" is no unit; a path below the cgroup mount goes with `cgroup`"));
    }
    let whole = UNITS.iter().any(|ending| text.ends_with(ending));
    (!whole).then(|| format!("\"{text}\" is no whole name of a unit; did you mean \"{text}.service\"?"))
}

fn wrong_container(text: &str) -> Option<String> {
    let id = (12..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (!id).then(|| {
        format!("`container` is the id or its beginning, 12 to 64 of 0-9 and a-f; \"{text}\" is not (see `docker ps`)")
    })
}

fn wrong_cgroup(text: &str) -> Option<String> {
    if !text.starts_with('/') {
        Some(format!("`cgroup` is a path below the cgroup mount and begins with `/`; write \"/{text}\""))
    } else if text.split('/').any(|name| name == "..") {
        Some(format!("\"{text}\": `..` is not followed; write the path out"))
    } else if text.split('/').all(|name| matches!(name, "" | ".")) {
        Some("the root cgroup is the whole machine; name the one that Node-RED runs in".to_owned())
    } else {
        None
    }
}

/// `; did you mean "..."?` when a known word is near.
pub(crate) fn suggest(text: &str, known: impl Iterator<Item = &'static str>) -> String {
    known
        .map(|word| (distance(text, word), word))
        .filter(|&(distance, word)| distance <= 2 && distance < word.len())
        .min()
        .map(|(_, word)| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default()
}

/// Edit distance, for words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate().take(64) {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let found = faults(
            "[[instance.files]]\npath = \"x\"\n  acess = [\"write\"]\naccess = [\"write\"]\nverdict = \"kill\"\n",
        );
        assert_eq!(
            found,
            [Fault { line: 9, column: 3, what: "unknown key \"acess\"; did you mean \"access\"?".into() }]
        );
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
            (
                "[[instance.files]]\npath = \"a/../b\"\naccess = [\"write\"]\nverdict = \"kill\"\n",
                "`..` is not followed",
            ),
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
            parse("version = 2\n[[instance]]\n")
                .unwrap_err()
                .iter()
                .any(|fault| fault.what.contains("version = 1 only"))
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
        let rule =
            |id: &str| format!("[[instance.files]]\npath = \"x\"\naccess = [\"read\"]\n{id}verdict = \"kill\"\n");
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
        let many: String =
            (0..=MAX_INSTANCES).map(|index| instance.replace("\"a\"", &format!("\"a{index}\""))).collect();
        assert!(
            parse(&format!("version = 1\n{many}")).unwrap_err().iter().any(|fault| fault.what.contains("65 instances"))
        );
        let long = "n".repeat(NAME_LEN);
        assert!(parse(&HEAD.replace("\"a\"", &format!("{long:?}"))).is_err());
        assert!(parse(&HEAD.replace("\"a\"", &format!("{:?}", &long[1..]))).is_ok());
        let path = |name: &str| {
            format!("{HEAD}[[instance.files]]\npath = {name:?}\naccess = [\"read\"]\nverdict = \"kill\"\n")
        };
        assert!(parse(&path(&long)).is_err());
        assert!(parse(&path(&long[1..])).is_ok());
        let paths = vec!["\"x\""; 65536].join(",");
        let rule = format!("{HEAD}[[instance.files]]\npaths = [{paths}]\naccess = [\"read\"]\nverdict = \"kill\"\n");
        assert!(parse(&rule).unwrap_err()[0].what.contains("65536 rules"));
    }

    #[test]
    fn numbers_are_read_as_toml_writes_them() {
        let text = format!(
            "{HEAD}[[instance.egress]]\nto = [\"any\"]\nports = [0x1bb, 8_080, \" 1 - 2 \"]\nverdict = \"deny\"\n"
        );
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
}
