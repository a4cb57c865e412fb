//! The values of a settings file.

use std::{collections::BTreeMap, path::PathBuf};

/// A value in a settings file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `undefined`.
    Undefined,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Table(Table),
    /// A function.
    Function,
    /// The content of a file.
    File(PathBuf),
    /// A module: `require("os")`.
    Module(String),
    /// Known only when Node-RED runs; the text says why.
    Computed(String),
}

/// An object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    /// What is written out.
    pub(super) entries: BTreeMap<String, Value>,
    /// Why there may be keys that are not known.
    pub(super) open: Option<String>,
}

impl Table {
    /// What stands under a key.
    pub(super) fn get(&self, key: &str) -> Value {
        match (self.entries.get(key), &self.open) {
            (Some(value), _) => value.clone(),
            (None, Some(why)) => Value::Computed(why.clone()),
            (None, None) => Value::Undefined,
        }
    }

    /// The keys that are written out, with their values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets what stands under the last of several keys.
    pub(super) fn set(&mut self, path: &[String], value: Value) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.entries.insert(first.clone(), value);
            return;
        }
        let entry = self.entries.entry(first.clone()).or_insert_with(|| Value::Table(Self::default()));
        match entry {
            Value::Table(table) => table.set(rest, value),
            other => *other = Value::Computed(format!("`{}` is changed after it was set", short(first))),
        }
    }
}

impl Value {
    /// What stands under a key of it.
    pub(super) fn get(&self, key: &str) -> Self {
        match self {
            Self::Table(table) => table.get(key),
            Self::Computed(why) => Self::Computed(why.clone()),
            _ => Self::Undefined,
        }
    }

    /// How JavaScript takes it as a condition; `None` when that is not known.
    pub(super) fn truth(&self) -> Option<bool> {
        match self {
            Self::Undefined | Self::Null => Some(false),
            Self::Bool(value) => Some(*value),
            Self::Number(number) => Some(*number != 0.0 && !number.is_nan()),
            Self::Text(text) => Some(!text.is_empty()),
            Self::List(_) | Self::Table(_) | Self::Function | Self::Module(_) | Self::File(_) => Some(true),
            Self::Computed(_) => None,
        }
    }

    /// How many values it is made of.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Self::Table(table) => 1 + table.entries.values().map(Self::size).sum::<usize>(),
            _ => 1,
        }
    }
}

/// The environment that Node-RED has or will have, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// What is known to be set.
    pub set: BTreeMap<String, String>,
    /// Nothing else is set.
    pub complete: bool,
}

/// So much of a name as an answer should repeat.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(40).collect()
}
