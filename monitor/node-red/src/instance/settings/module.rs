//! What a settings file assigns to `module.exports`, read without running it.
//!
//! Values that stand there are taken; `process.env.X` is looked up where the environment is known; constants, string
//! concatenation, `path.join` and `readFileSync` are followed. Everything else is [`Value::Computed`], which says what
//! stands there instead. Nesting and the number of values are bounded, whatever the file holds.

mod expression;

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    lexer::{Lexer, Token},
    value::{Environment, Table, Value},
};

/// Deepest nesting of objects and lists that is followed.
const MAX_DEPTH: usize = 32;
/// Most values of one file; a default file has about sixty.
const MAX_VALUES: usize = 20_000;
/// Most files that a settings file is found to read.
const MAX_READS: usize = 64;
/// Most values of a file's name.
const MAX_IN_READ: usize = 64;
/// Most assignments to single keys that are followed.
const MAX_CHANGES: usize = 1000;

/// A file that the settings read when they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// The property that takes its content (`key`, `cert`), if it stands beside one.
    pub(super) role: Option<String>,
    /// The file; relative to the directory that Node-RED was started in.
    pub(super) path: PathBuf,
}

/// A settings file as a whole.
#[derive(Debug)]
pub(super) struct Module {
    /// What it exports.
    pub(super) exports: Value,
    /// The files that it reads, wherever that is written.
    pub(super) reads: Vec<Read>,
}

/// Reads a settings file that stands at `file`.
pub(super) fn read(text: &str, file: &Path, environment: &Environment) -> Module {
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut reader = Reader::new(Lexer::new(text), directory, environment, MAX_VALUES);
    reader.file();
    let Reader { directory, exports, changes, opened, .. } = reader;
    let mut exports = exports.unwrap_or_else(|| Value::Computed("nothing is assigned to module.exports".to_owned()));
    match &mut exports {
        Value::Table(table) => changes.into_iter().for_each(|(path, value)| table.set(&path, value)),
        Value::Computed(_) => {}
        _ => exports = Value::Computed("module.exports is no object that is written out".to_owned()),
    }
    if let Some(why) = opened {
        exports = Value::Computed(why);
    }
    Module { exports, reads: reads(text, &directory) }
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    directory: PathBuf,
    environment: &'a Environment,
    /// What top-level constants and variables hold.
    constants: BTreeMap<String, Value>,
    exports: Option<Value>,
    /// Assignments to single keys of the exports, in their order.
    changes: Vec<(Vec<String>, Value)>,
    /// Why the exports as a whole may be others.
    opened: Option<String>,
    /// The variable that is exported as it is.
    alias: Option<String>,
    budget: usize,
    /// How many lines end before some offset.
    counted: Cell<(usize, usize)>,
}

impl<'a> Reader<'a> {
    /// One that has read nothing yet, and follows no more than `budget` values.
    fn new(lexer: Lexer<'a>, directory: PathBuf, environment: &'a Environment, budget: usize) -> Self {
        Self {
            lexer,
            directory,
            environment,
            constants: BTreeMap::new(),
            exports: None,
            changes: Vec::new(),
            opened: None,
            alias: None,
            budget,
            counted: Cell::default(),
        }
    }

    /// All statements of the file.
    fn file(&mut self) {
        while let Some(token) = self.lexer.peek() {
            match token {
                Token::Name("const" | "let" | "var") => self.declaration(),
                Token::Name(_) => self.statement(),
                _ => self.skip_statement(),
            }
            self.skip_mark(";");
        }
    }

    fn skip_mark(&mut self, mark: &str) -> bool {
        let found = self.lexer.peek() == Some(Token::Mark(mark));
        if found {
            self.lexer.next();
        }
        found
    }

    /// `const a = 1, b = 2`; what is taken apart (`const { a } = ...`) stays unknown.
    fn declaration(&mut self) {
        self.lexer.next();
        while let Some(Token::Name(name)) = self.lexer.peek() {
            self.lexer.next();
            if !self.skip_mark("=") {
                break;
            }
            let exported = self.exports_follow();
            let value = self.expression(0, true);
            if exported {
                self.alias = Some(name.to_owned());
            } else {
                self.constants.insert(name.to_owned(), value);
            }
            if !self.skip_mark(",") {
                return;
            }
        }
        self.skip_statement();
    }

    /// Whether `module.exports =` comes next, as in `const settings = module.exports = {...}`.
    fn exports_follow(&self) -> bool {
        let mut ahead = self.lexer.clone();
        let words = [Token::Name("module"), Token::Mark("."), Token::Name("exports"), Token::Mark("=")];
        words.into_iter().all(|word| ahead.next() == Some(word))
    }

    /// A statement that begins with a name: an assignment to the exports or a variable, or something to skip.
    fn statement(&mut self) {
        let start = self.lexer.clone();
        let target = self.target().filter(|_| self.skip_mark("="));
        let Some((constant, path)) = target else {
            self.lexer = start;
            return self.skip_statement();
        };
        // What is exported by its name may still be changed by it.
        let alias = match self.lexer.peek() {
            Some(Token::Name(name)) => self.constants.contains_key(name).then(|| name.to_owned()),
            _ => None,
        };
        let value = self.expression(0, true);
        match (constant, path.is_empty()) {
            (Some(name), whole) => match self.constants.get_mut(&name) {
                Some(Value::Table(table)) if !whole => table.set(&path, value),
                Some(constant) => *constant = value,
                None => {}
            },
            (None, true) => {
                self.alias = alias;
                self.exports = Some(value);
                self.changes.clear();
            }
            (None, false) => {
                self.exports.get_or_insert_with(|| Value::Table(Table::default()));
                if self.changes.len() < MAX_CHANGES {
                    self.changes.push((path, value));
                } else {
                    self.opened = Some("changed more often than is followed".to_owned());
                }
            }
        }
    }

    /// What is assigned to: a variable or, without one, the exports; and the keys after it.
    fn target(&mut self) -> Option<(Option<String>, Vec<String>)> {
        let Some(Token::Name(name)) = self.lexer.next() else { return None };
        let constant = match name {
            "module" => {
                let exports = self.skip_mark(".") && self.lexer.next() == Some(Token::Name("exports"));
                exports.then_some(None)?
            }
            "exports" => None,
            _ if self.alias.as_deref() == Some(name) => None,
            _ => Some(self.constants.contains_key(name).then(|| name.to_owned())?),
        };
        Some((constant, self.keys()?))
    }

    /// `.a`, `["b"]` and so on.
    fn keys(&mut self) -> Option<Vec<String>> {
        let mut path = Vec::new();
        while path.len() < MAX_DEPTH {
            if self.skip_mark(".") {
                let Some(Token::Name(key)) = self.lexer.next() else { return None };
                path.push(key.to_owned());
            } else if self.skip_mark("[") {
                let Some(Token::Text(key)) = self.lexer.next() else { return None };
                path.push(key);
                self.skip_mark("]").then_some(())?;
            } else {
                break;
            }
        }
        Some(path)
    }

    /// Skips a statement. An assignment to the exports inside of it may or may not take place.
    fn skip_statement(&mut self) {
        let mut depth = 0_usize;
        let mut ended = false;
        while let Some(token) = self.lexer.peek() {
            if depth == 0 && ended && self.starts_a_line() {
                return;
            }
            match token {
                Token::Mark("(" | "[" | "{") => depth += 1,
                Token::Mark(")" | "]" | "}") => depth = depth.saturating_sub(1),
                Token::Mark(";") if depth == 0 => return,
                Token::Name(name) if name == "module" || name == "exports" || self.is_settings(name) => {
                    self.conditional();
                }
                _ => {}
            }
            let block = token == Token::Mark("}");
            ended = !matches!(token, Token::Mark(mark) if !matches!(mark, ")" | "]" | "}"));
            self.lexer.next();
            if block && depth == 0 && !matches!(self.lexer.peek(), Some(Token::Name("else" | "catch" | "finally"))) {
                return;
            }
        }
    }

    /// Whether the next word stands first in its line.
    fn starts_a_line(&self) -> bool {
        let mut ahead = self.lexer.clone();
        ahead.next();
        ahead.new_line
    }

    /// Whether a variable is what is exported, or may become it.
    fn is_settings(&self, name: &str) -> bool {
        self.alias.as_deref() == Some(name) || matches!(self.constants.get(name), Some(Value::Table(_)))
    }

    /// Notes what happens to the exports somewhere inside a statement, which may or may not be reached.
    fn conditional(&mut self) {
        let start = self.lexer.clone();
        let Some(Token::Name(name)) = self.lexer.next() else { return };
        let named = match name {
            "module" => self.skip_mark(".") && self.lexer.next() == Some(Token::Name("exports")),
            _ => true,
        };
        let path = if named { self.keys() } else { None };
        let assigned = matches!(self.lexer.peek(),
            Some(Token::Mark(mark)) if mark.ends_with('=') && !matches!(mark, "==" | "===" | "!=" | "!==" | "<=" | ">="));
        let is_export = matches!(name, "module" | "exports") || self.alias.as_deref() == Some(name);
        if let Some(path) = path
            && self.changes.len() < MAX_CHANGES
            && (assigned || path.is_empty())
        {
            let why = format!("changed inside a statement in line {}", self.line_of(start.offset()));
            match (path.first(), is_export) {
                (Some(first), true) => self.changes.push((vec![first.clone()], Value::Computed(why))),
                (None, true) => self.opened = Some(why),
                (first, false) => {
                    if let Some(Value::Table(table)) = self.constants.get_mut(name) {
                        match first {
                            Some(first) => table.set(std::slice::from_ref(first), Value::Computed(why)),
                            None => *table = Table { entries: BTreeMap::new(), open: Some(why) },
                        }
                    }
                }
            }
        }
        self.lexer = start;
    }
}

/// Every `readFileSync(...)` and `readFile(...)` of the file with a name that is known, wherever it stands.
fn reads(text: &str, directory: &Path) -> Vec<Read> {
    let environment = Environment::default();
    let mut lexer = Lexer::new(text);
    let mut found = Vec::new();
    let mut role: Option<&str> = None;
    let mut before: Option<&str> = None;
    while let Some(token) = lexer.next() {
        match token {
            Token::Name(name @ ("readFileSync" | "readFile")) if lexer.peek() == Some(Token::Mark("(")) => {
                before = Some(name);
                let mut reader = Reader::new(lexer.clone(), directory.to_owned(), &environment, MAX_IN_READ);
                lexer.next();
                reader.lexer.next();
                if let Value::Text(path) = reader.expression(0, false)
                    && found.len() < MAX_READS
                {
                    found.push(Read { role: role.map(str::to_owned), path: PathBuf::from(path) });
                }
            }
            Token::Name(name) => before = Some(name),
            Token::Mark(":") => role = before.take(),
            Token::Mark("," | "{" | "}" | ";") => role = None,
            _ => {}
        }
    }
    found
}
