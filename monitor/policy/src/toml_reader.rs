//! Typed access to the values of a TOML document. Collects every fault with its line and column.

use std::{fmt, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use journal::text::terminal::{plain, plain_path};

/// A fault of a file and its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct Fault {
    /// Line from 1; 0 for a fault of the file as a whole.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
    /// What is wrong and how to fix it.
    pub what: String,
}

/// A fault with its file, as `FILE:LINE:COLUMN: WHAT`.
pub struct Located<'a>(pub &'a Path, pub &'a Fault);

impl fmt::Display for Located<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, fault) = self;
        // Control characters of names are escaped, so that a fault is one line. A fault of the whole file is at 1:1.
        let (line, column) = (fault.line.max(1), fault.column.max(1));
        write!(to, "{}:{line}:{column}: {}", plain_path(path), plain(fault.what.as_bytes()))
    }
}

impl Located<'_> {
    /// The same as a warning, in the format of compilers.
    #[must_use]
    pub fn warning(&self) -> String {
        let Self(path, Fault { line, column, what }) = self;
        let what = format!("warning: {what}");
        Located(path, &Fault { line: *line, column: *column, what }).to_string()
    }
}

/// A position in a file: line and column from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

/// A value with its position in the text.
pub type Value<'a> = Spanned<DeValue<'a>>;

/// Reads values and collects their faults.
pub struct Reader<'a> {
    text: &'a str,
    /// Offset of each line.
    lines: Vec<usize>,
    /// The faults found so far.
    pub faults: Vec<Fault>,
}

/// A table whose keys are taken one by one. A key that is left at the end is unknown.
pub struct Table<'a, 'i> {
    /// All keys and values.
    pub keys: &'a DeTable<'i>,
    known: Vec<&'static str>,
    /// Keys are not checked, since the keys of this kind of table are not known.
    unknown: bool,
    /// Offset of the table.
    pub at: usize,
}

impl<'a, 'i> Table<'a, 'i> {
    /// A table at an offset of the text.
    #[must_use]
    pub fn new(keys: &'a DeTable<'i>, at: usize) -> Self {
        Self { keys, known: Vec::new(), unknown: false, at }
    }

    /// Accepts every key from now on.
    pub fn forgive(&mut self) {
        self.unknown = true;
    }

    /// The value of a key, which is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.push(key);
        self.keys.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }
}

impl<'a> Reader<'a> {
    /// A reader of a text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { text, lines, faults: Vec::new() }
    }

    /// The position of an offset.
    #[must_use]
    pub fn at(&self, offset: usize) -> At {
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        At { line, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }

    /// Adds a fault at an offset.
    pub fn fault(&mut self, offset: usize, what: impl Into<String>) {
        let At { line, column } = self.at(offset);
        self.faults.push(Fault { line, column, what: what.into() });
    }

    /// Adds a fault for each key that was not taken.
    pub fn finish(&mut self, table: &Table<'_, '_>) {
        for (name, _) in table.keys {
            let key = name.get_ref().as_ref();
            if !table.unknown && !table.known.contains(&key) {
                let hint = suggest(key, table.known.iter().copied());
                self.fault(name.span().start, format!("unknown key \"{key}\"{hint}"));
            }
        }
    }

    /// A string; `what` names the key in the fault.
    pub fn string<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.fault(value.span().start, format!("{what} must be a string, not {}", value.get_ref().type_str()));
        }
        text
    }

    /// The value of a key that the table must have.
    pub fn required<'v, 'i>(&mut self, table: &mut Table<'v, 'i>, key: &'static str) -> Option<&'v Value<'i>> {
        let value = table.take(key);
        if value.is_none() {
            self.fault(table.at, format!("`{key}` is missing"));
        }
        value
    }

    /// A string or an array of strings.
    pub fn strings<'v>(&mut self, value: &'v Value<'_>, what: &str) -> Vec<(&'v str, usize)> {
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

    /// The tables of an array, with their offsets; none without a value.
    pub fn tables<'v, 'i>(&mut self, value: Option<&'v Value<'i>>, key: &str) -> Vec<(&'v DeTable<'i>, usize)> {
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
    pub fn size(&mut self, value: &Value<'_>, what: &str) -> Option<u64> {
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

/// `; did you mean "..."?` if a known word differs in at most two characters.
#[must_use]
pub fn suggest(text: &str, known: impl Iterator<Item = &'static str>) -> String {
    // No known word is as long.
    let text: String = text.chars().take(64).collect();
    known
        .map(|word| (strsim::levenshtein(&text, word), word))
        .filter(|&(distance, word)| distance <= 2 && distance < word.len())
        .min()
        .map(|(_, word)| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default()
}
