//! Reads values of a TOML file one by one, and collects every fault with its line and column.

use std::{fmt, path::Path};

use crate::text::terminal::{plain, plain_path};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One thing that is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct Fault {
    /// From 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and the mend.
    pub what: String,
}

/// A fault with its file, as an editor can jump to it.
pub struct Located<'a>(pub &'a Path, pub &'a Fault);

impl fmt::Display for Located<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, fault) = self;
        // One line, whatever the names in it are. What is about the file as a whole is shown at its beginning.
        let (line, column) = (fault.line.max(1), fault.column.max(1));
        write!(to, "{}:{line}:{column}: {}", plain_path(path), plain(fault.what.as_bytes()))
    }
}

impl Located<'_> {
    /// The same as a warning, in the form of compilers.
    #[must_use]
    pub fn warning(&self) -> String {
        let Self(path, Fault { line, column, what }) = self;
        let what = format!("warning: {what}");
        Located(path, &Fault { line: *line, column: *column, what }).to_string()
    }
}

/// Where in the file something stands: line and column from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

/// A value with its place in the text.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// Reads values, and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    pub(crate) faults: Vec<Fault>,
}

/// A table whose keys are taken one by one; what is left at the end is unknown.
pub(crate) struct Table<'a, 'i> {
    pub(crate) keys: &'a DeTable<'i>,
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
    pub(crate) fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { text, lines, faults: Vec::new() }
    }

    pub(crate) fn at(&self, offset: usize) -> At {
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

    /// A size in bytes: `64KiB`, `32MiB`, `4GiB`.
    pub(crate) fn size(&mut self, value: &Value<'_>, what: &str) -> Option<u64> {
        let text = self.string(value, what)?;
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let bytes = units.iter().find_map(|(unit, shift)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(1 << shift)
        });
        if bytes.is_none() {
            self.fault(value.span().start, format!("{what} is a size like \"64MiB\" or \"4GiB\", not \"{text}\""));
        }
        bytes
    }
}

/// `; did you mean "..."?` when a known word is near.
pub(crate) fn suggest(text: &str, known: impl Iterator<Item = &'static str>) -> String {
    // A longer text is near to no word.
    let text: String = text.chars().take(64).collect();
    known
        .map(|word| (strsim::levenshtein(&text, word), word))
        .filter(|&(distance, word)| distance <= 2 && distance < word.len())
        .min()
        .map(|(_, word)| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default()
}
