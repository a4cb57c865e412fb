//! Changes to the text of a policy that leave everything else in it as it is, comments included.

use monitor_common::Verdict;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, TomlError, Value};

use policy::model::{ClassDefault, KillScope};

/// The tables with this name. An array of inline tables becomes one of tables, since rules are added below them.
pub(super) fn tables<'d>(document: &'d mut DocumentMut, name: &str) -> Option<&'d mut ArrayOfTables> {
    let item = document.get_mut(name)?;
    if item.is_array() {
        *item = std::mem::take(item).into_array_of_tables().map_or_else(|item| item, Item::ArrayOfTables);
    }
    item.as_array_of_tables_mut()
}

/// Sets the defaults of an instance. One that is the same already stays as it is written.
pub(super) fn set_defaults(instance: &mut Table, defaults: &[(&'static str, ClassDefault)]) {
    let there = instance.entry("default").or_insert_with(|| Item::Value(InlineTable::new().into()));
    let Some(table) = there.as_table_like_mut() else { return };
    for &(name, default) in defaults {
        match table.get_mut(name) {
            Some(old) => set_default(old, default),
            None if default == ClassDefault::ALLOW => {}
            None => drop(table.insert(name, Item::Value(value(default)))),
        }
    }
    // Keys that were added stand on the line of the others.
    if let Some(inline) = instance.get_mut("default").and_then(Item::as_inline_table_mut)
        && !is_commented(inline)
    {
        inline.fmt();
    }
}

/// Whether formatting it anew would lose a comment or a line.
fn is_commented(inline: &InlineTable) -> bool {
    inline.to_string().contains(['#', '\n'])
}

fn set_default(old: &mut Item, default: ClassDefault) {
    let verdict = default.verdict.name();
    if let Some(table) = old.as_table_like_mut() {
        set(table, "verdict", Some(verdict));
        let fallback = default.fallback;
        set(table, "fallback", (fallback != Verdict::Unset).then(|| fallback.name()));
        set(table, "scope", (default.scope != KillScope::default()).then(|| default.scope.name()));
    } else if let Some(old) = old.as_value_mut() {
        replace(old, value(default));
    }
}

/// Sets a key that has a word, or takes it out.
fn set(table: &mut dyn TableLike, key: &str, word: Option<&str>) {
    match (table.get_mut(key).and_then(Item::as_value_mut), word) {
        (Some(old), Some(word)) => replace(old, word.into()),
        (None, Some(word)) => drop(table.insert(key, Item::Value(word.into()))),
        (Some(_), None) => drop(table.remove(key)),
        (None, None) => {}
    }
}

/// Puts a value in the place of another one, whose comments stay.
fn replace(old: &mut Value, mut new: Value) {
    if old.as_str().is_some_and(|old| new.as_str() == Some(old)) {
        return;
    }
    new.decor_mut().clone_from(old.decor());
    *old = new;
}

fn value(default: ClassDefault) -> Value {
    let ClassDefault { verdict, fallback, scope } = default;
    if (fallback, scope) == (Verdict::Unset, KillScope::default()) {
        return verdict.name().into();
    }
    let mut table = InlineTable::new();
    table.insert("verdict", verdict.name().into());
    if fallback != Verdict::Unset {
        table.insert("fallback", fallback.name().into());
    }
    if scope != KillScope::default() {
        table.insert("scope", scope.name().into());
    }
    table.into()
}

/// Puts comments, a line each, before the defaults of an instance.
pub(super) fn comment_on_defaults(instance: &mut Table, comments: &[String]) {
    if comments.is_empty() {
        return;
    }
    let text: String = comments.iter().flat_map(|comment| [comment.as_str(), "\n"]).collect();
    let with = |old: Option<&toml_edit::RawString>| {
        let old = old.and_then(toml_edit::RawString::as_str).unwrap_or_default();
        format!("{old}{text}")
    };
    let is_dotted = |table: &Table| table.is_dotted();
    match instance.get_mut("default") {
        Some(Item::Table(table)) if !is_dotted(table) => {
            let prefix = with(table.decor().prefix());
            table.decor_mut().set_prefix(prefix);
        }
        Some(Item::Table(table)) => {
            // Keys such as `default.files`: before the first of them.
            let first = table.iter().next().map(|(key, _)| key.to_owned());
            if let Some(mut key) = first.and_then(|first| table.key_mut(&first)) {
                let prefix = with(key.leaf_decor().prefix());
                key.leaf_decor_mut().set_prefix(prefix);
            }
        }
        _ => {
            if let Some(mut key) = instance.key_mut("default") {
                let prefix = with(key.leaf_decor().prefix());
                key.leaf_decor_mut().set_prefix(prefix);
            }
        }
    }
}

/// Whether rules with this name are written as tables of their own.
pub(super) fn are_tables(instance: &Table, name: &str) -> bool {
    instance.get(name).is_some_and(Item::is_array_of_tables)
}

/// Adds a rule, given as the lines of its table, after the others of its name.
pub(super) fn add_table(instance: &mut Table, name: &str, lines: &[String]) -> Result<(), TomlError> {
    let mut rule = lines.join("\n").parse::<DocumentMut>()?.as_table().clone();
    if let Some(Item::Value(Value::Array(array))) = instance.get_mut(name) {
        // Comments have no place in what stands on a line.
        let mut rule = Value::InlineTable(rule.into_inline_table());
        bare(&mut rule);
        array.push(rule);
        return Ok(());
    }
    // After those that are there, wherever that is.
    rule.set_position(None);
    rule.decor_mut().set_prefix("\n");
    let there = instance.entry(name).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    if let Some(tables) = there.as_array_of_tables_mut() {
        tables.push(rule);
    }
    Ok(())
}

/// Takes all comments and lines out of a value.
fn bare(value: &mut Value) {
    match value {
        Value::Array(array) => {
            array.iter_mut().for_each(bare);
            array.set_trailing("");
            array.set_trailing_comma(false);
            array.fmt();
        }
        Value::InlineTable(table) => {
            table.iter_mut().for_each(|(_, value)| bare(value));
            table.fmt();
        }
        _ => {}
    }
    value.decor_mut().clear();
}

/// Adds rules to an array of them, given as lines of its elements; their comments are kept.
pub(super) fn add_elements(instance: &mut Table, name: &str, lines: &[String]) -> Result<(), TomlError> {
    let snippet = format!("x = [\n{}\n]\n", lines.join("\n")).parse::<DocumentMut>()?;
    let Some(Item::Value(Value::Array(new))) = snippet.get("x") else { return Ok(()) };
    match instance.get_mut(name).and_then(Item::as_array_mut) {
        Some(old) => join(old, new),
        None => drop(instance.insert(name, Item::Value(new.clone().into()))),
    }
    Ok(())
}

fn join(old: &mut Array, new: &Array) {
    let text =
        |raw: Option<&toml_edit::RawString>| raw.and_then(toml_edit::RawString::as_str).unwrap_or_default().to_owned();
    // What stands behind the last element stays there: without a comma it belongs to the element, and else to the array.
    let mut behind = String::new();
    let last = old.len().checked_sub(1).and_then(|last| old.get_mut(last));
    if let Some(last) = last {
        behind = text(last.decor().suffix());
        last.decor_mut().set_suffix("");
    }
    behind.push_str(&text(Some(old.trailing())));
    let behind = behind.trim_end_matches([' ', '\t']);
    let begin = if behind.ends_with('\n') { behind.to_owned() } else { format!("{}\n", behind.trim_end()) };
    for (index, value) in new.iter().enumerate() {
        let mut value = value.clone();
        if index == 0 {
            value.decor_mut().set_prefix(format!("{begin}    "));
        }
        old.push_formatted(value);
    }
    old.set_trailing(text(Some(new.trailing())));
    old.set_trailing_comma(true);
}
