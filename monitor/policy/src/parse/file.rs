//! Rules about files and programs, and their paths.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use monitor_common::{Access, name::NAME_LEN, policy::PATTERN_LEN};
use toml::de::DeTable;

use crate::{
    model::{FileRule, InstancePolicy, Names},
    toml_reader::{Reader, Table, Value, suggest},
};

/// Deepest path that a rule can name, in components.
pub(super) const MAX_DEPTH: usize = 24;

impl Reader<'_> {
    pub(super) fn file_rule(
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
    pub(super) fn plain_path(&mut self, path: &Path, at: usize) -> Option<PathBuf> {
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
}
