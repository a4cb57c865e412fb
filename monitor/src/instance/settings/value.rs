//! What a settings file assigns to `module.exports`, read without running it.
//!
//! Values that stand there are taken; `process.env.X` is looked up where the environment is known; constants, string
//! concatenation, `path.join` and `readFileSync` are followed. Everything else is [`Value::Computed`], which says what
//! stands there instead. Nesting and the number of values are bounded, whatever the file holds.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::lexer::{Lexer, Token};

/// Deepest nesting of objects and lists that is followed.
const MAX_DEPTH: usize = 32;
/// Most values of one file; a default file has about sixty.
const MAX_VALUES: usize = 20_000;
/// Most files that a settings file is found to read.
const MAX_READS: usize = 64;
/// Most assignments to single keys that are followed.
const MAX_CHANGES: usize = 1000;

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
    entries: BTreeMap<String, Value>,
    /// Why there may be keys that are not known.
    open: Option<String>,
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
    fn set(&mut self, path: &[String], value: Value) {
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

    fn size(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Self::Table(table) => 1 + table.entries.values().map(Self::size).sum::<usize>(),
            _ => 1,
        }
    }
}

/// A file that the settings read when they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// The property that takes its content (`key`, `cert`), if it stands beside one.
    pub(super) role: Option<String>,
    /// The file; relative to the directory that Node-RED was started in.
    pub(super) path: PathBuf,
}

/// The environment that Node-RED has or will have, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// What is known to be set.
    pub set: BTreeMap<String, String>,
    /// Nothing else is set.
    pub complete: bool,
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
    let mut reader = Reader {
        lexer: Lexer::new(text),
        directory: file.parent().unwrap_or(Path::new("/")).to_owned(),
        environment,
        constants: BTreeMap::new(),
        exports: None,
        changes: Vec::new(),
        opened: None,
        alias: None,
        budget: MAX_VALUES,
        counted: Cell::default(),
    };
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

impl Reader<'_> {
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

    /// A value, up to what ends an expression, which is left.
    fn expression(&mut self, depth: usize, statement: bool) -> Value {
        let line = self.lexer.offset();
        let Some(budget) = self.budget.checked_sub(1).filter(|_| depth < MAX_DEPTH) else {
            self.skip_expression(statement);
            return Value::Computed("nested too deeply, or too many values".to_owned());
        };
        self.budget = budget;
        let mut value = self.operand(depth);
        loop {
            if self.ends(statement) {
                return value;
            }
            value = match self.lexer.peek() {
                Some(Token::Mark("+")) => {
                    self.lexer.next();
                    concatenate(value, self.operand(depth))
                }
                Some(Token::Mark(mark @ ("||" | "??"))) => {
                    self.lexer.next();
                    let other = self.operand(depth);
                    let taken = if mark == "??" {
                        match value {
                            Value::Undefined | Value::Null => Some(false),
                            Value::Computed(_) => None,
                            _ => Some(true),
                        }
                    } else {
                        value.truth()
                    };
                    match (taken, value, other) {
                        (Some(true), value, _) => value,
                        // Which of the two it is shows when it runs.
                        (None, Value::Computed(why), _) => Value::Computed(why),
                        (_, _, other) => other,
                    }
                }
                _ => {
                    let seen = self.skip_expression(statement);
                    return match value {
                        // An arrow function that began like something else.
                        _ if seen.arrow => Value::Function,
                        Value::Computed(why) => Value::Computed(why),
                        _ => Value::Computed(format!("an expression{}", self.in_line(line))),
                    };
                }
            };
        }
    }

    fn in_line(&self, start: usize) -> String {
        format!(" in line {}", self.line_of(start))
    }

    /// The line of the first word at an offset or after it, from 1.
    fn line_of(&self, offset: usize) -> usize {
        // Counting from the last place that was asked for keeps a file with a question in each line cheap.
        let (from, lines) = Some(self.counted.get()).filter(|&(from, _)| from <= offset).unwrap_or_default();
        let lines = lines + self.lexer.lines_between(from, offset);
        let plain = self.lexer.lines_between(offset, offset);
        self.counted.set((offset, lines - plain));
        lines + 1
    }

    /// Whether an expression ends here.
    fn ends(&self, statement: bool) -> bool {
        match self.lexer.peek() {
            None | Some(Token::Mark("," | ";" | "}" | "]" | ")")) => true,
            // Where no semicolon is written, a word that begins a line begins a statement.
            Some(Token::Name(_)) => statement && self.starts_a_line(),
            _ => false,
        }
    }

    /// Skips the rest of an expression.
    fn skip_expression(&mut self, statement: bool) -> Seen {
        let mut depth = 0_usize;
        let mut seen = Seen::default();
        let mut open_operator = true;
        while let Some(token) = self.lexer.peek() {
            if depth == 0 {
                let ends = matches!(token, Token::Mark("," | ";" | "}" | "]" | ")"));
                let line = statement && !open_operator && matches!(token, Token::Name(_)) && self.starts_a_line();
                if ends || line {
                    return seen;
                }
                seen.arrow |= token == Token::Mark("=>");
            }
            match token {
                Token::Mark("(" | "[" | "{") => depth += 1,
                Token::Mark(")" | "]" | "}") => depth -= 1,
                _ => {}
            }
            open_operator = matches!(token, Token::Mark(mark) if !matches!(mark, ")" | "]" | "}"));
            self.lexer.next();
        }
        seen
    }

    /// One operand.
    fn operand(&mut self, depth: usize) -> Value {
        let start = self.lexer.offset();
        match self.lexer.peek() {
            Some(Token::Text(text)) => {
                self.lexer.next();
                Value::Text(text)
            }
            Some(Token::Number(number)) => {
                self.lexer.next();
                Value::Number(number)
            }
            Some(Token::Mark("!")) => {
                self.lexer.next();
                // `!0` and `!1` are what minifiers write.
                match self.lexer.peek() {
                    Some(Token::Number(number)) => {
                        self.lexer.next();
                        Value::Bool(number == 0.0)
                    }
                    _ => Value::Computed(format!("an expression{}", self.in_line(start))),
                }
            }
            Some(Token::Mark("{")) => self.table(depth),
            Some(Token::Mark("[")) => self.list(depth),
            Some(Token::Mark("(")) => self.parenthesis(depth),
            Some(Token::Template) => {
                self.lexer.next();
                Value::Computed(format!("a template{}", self.in_line(start)))
            }
            Some(Token::Name(name)) => self.named(name, depth),
            _ => Value::Computed(format!("an expression{}", self.in_line(start))),
        }
    }

    /// `(value)`, or the parameters of an arrow function.
    fn parenthesis(&mut self, depth: usize) -> Value {
        self.lexer.next();
        let value = self.expression(depth + 1, false);
        let mut alone = true;
        while !self.skip_mark(")") {
            alone = false;
            self.skip_expression(false);
            if self.lexer.peek().is_none() || (!self.skip_mark(",") && self.lexer.next().is_none()) {
                break;
            }
        }
        if self.lexer.peek() == Some(Token::Mark("=>")) || !alone {
            return Value::Computed("a function or a list of expressions".to_owned());
        }
        value
    }

    fn table(&mut self, depth: usize) -> Value {
        self.lexer.next();
        let mut table = Table::default();
        loop {
            let key = match self.lexer.peek() {
                None | Some(Token::Mark("}")) => {
                    self.lexer.next();
                    return Value::Table(table);
                }
                Some(Token::Mark(",")) => {
                    self.lexer.next();
                    continue;
                }
                Some(Token::Mark("...")) => {
                    let line = self.line_of(self.lexer.offset());
                    self.lexer.next();
                    if let Value::Table(inner) = self.expression(depth + 1, false) {
                        table.open = inner.open.or(table.open);
                        table.entries.extend(inner.entries);
                    } else {
                        // It may set anything that stands before it.
                        let why = format!("keys are taken from elsewhere in line {line}");
                        table.entries.values_mut().for_each(|value| *value = Value::Computed(why.clone()));
                        table.open = Some(why);
                    }
                    continue;
                }
                Some(Token::Name(name)) => name.to_owned(),
                Some(Token::Text(text)) => text,
                Some(Token::Number(number)) => number.to_string(),
                Some(_) => {
                    // `[computed]: value`, or no JavaScript at all.
                    let line = self.line_of(self.lexer.offset());
                    table.open = Some(format!("a key is computed in line {line}"));
                    if self.lexer.peek() != Some(Token::Mark("[")) {
                        self.lexer.next();
                    }
                    self.skip_expression(false);
                    if matches!(self.lexer.peek(), Some(Token::Mark("]" | ")" | ";"))) {
                        self.lexer.next();
                    }
                    continue;
                }
            };
            self.lexer.next();
            let value = match self.lexer.peek() {
                Some(Token::Mark(":")) => {
                    self.lexer.next();
                    self.expression(depth + 1, false)
                }
                // Shorthand: `{ uiPort }`.
                None | Some(Token::Mark("," | "}")) => self.constant(&key),
                // A method, a getter, an `async` method.
                Some(Token::Mark("(")) => {
                    self.skip_expression(false);
                    Value::Function
                }
                _ => {
                    let name = match self.lexer.next() {
                        Some(Token::Name(name)) if matches!(key.as_str(), "get" | "set" | "async") => Some(name),
                        _ => None,
                    };
                    self.skip_expression(false);
                    let why = if key == "async" { Value::Function } else { Value::Computed("a getter".to_owned()) };
                    if let Some(name) = name {
                        table.entries.insert(name.to_owned(), why);
                        continue;
                    }
                    Value::Computed("no value is written here".to_owned())
                }
            };
            // What ends an enclosing pair here belongs to nothing: the file is broken.
            if matches!(self.lexer.peek(), Some(Token::Mark("]" | ")" | ";"))) {
                self.lexer.next();
            }
            table.entries.insert(key, value);
        }
    }

    fn list(&mut self, depth: usize) -> Value {
        self.lexer.next();
        let mut items = Vec::new();
        loop {
            match self.lexer.peek() {
                None | Some(Token::Mark("]")) => {
                    self.lexer.next();
                    return Value::List(items);
                }
                Some(Token::Mark("," | ";" | "}" | ")")) => {
                    self.lexer.next();
                }
                Some(Token::Mark("...")) => {
                    self.lexer.next();
                    match self.expression(depth + 1, false) {
                        Value::List(inner) => items.extend(inner),
                        _ => items.push(Value::Computed("items are taken from elsewhere".to_owned())),
                    }
                }
                Some(_) => {
                    let item = self.expression(depth + 1, false);
                    items.push(item);
                }
            }
        }
    }

    /// The value of a top-level constant.
    fn constant(&mut self, name: &str) -> Value {
        let Some(value) = self.constants.get(name) else {
            return Value::Computed(format!("`{}` is computed", short(name)));
        };
        // A constant that is used often must not grow without bound.
        match self.budget.checked_sub(value.size()) {
            Some(budget) => {
                self.budget = budget;
                value.clone()
            }
            None => Value::Computed("too many values".to_owned()),
        }
    }

    /// An operand that begins with a name.
    fn named(&mut self, name: &str, depth: usize) -> Value {
        let line = self.lexer.offset();
        self.lexer.next();
        match name {
            "true" | "false" => return Value::Bool(name == "true"),
            "null" => return Value::Null,
            "undefined" => return Value::Undefined,
            "__dirname" => return Value::Text(self.directory.display().to_string()),
            "function" | "async" => {
                self.skip_function();
                return Value::Function;
            }
            _ => {}
        }
        // `fs.promises.readFile`, `process.env["X"]`, `require("path").join`.
        let mut path = vec![name.to_owned()];
        let mut module = None;
        loop {
            if self.skip_mark(".") || self.skip_mark("?.") {
                let Some(Token::Name(key)) = self.lexer.peek() else { break };
                self.lexer.next();
                path.push(key.to_owned());
            } else if path == ["process", "env"] && self.lexer.peek() == Some(Token::Mark("[")) {
                self.lexer.next();
                let Some(Token::Text(key)) = self.lexer.next() else { break };
                if !self.skip_mark("]") {
                    break;
                }
                path.push(key);
            } else if path == ["require"] && self.lexer.peek() == Some(Token::Mark("(")) {
                match self.arguments(depth).as_slice() {
                    [Value::Text(name)] => {
                        path = vec![name.strip_prefix("node:").unwrap_or(name).to_owned()];
                        module = Some(path[0].clone());
                    }
                    _ => return Value::Computed(format!("a module that is computed{}", self.in_line(line))),
                }
            } else {
                break;
            }
        }
        let parts: Vec<_> = path.iter().map(String::as_str).collect();
        let called = self.lexer.peek() == Some(Token::Mark("("));
        match parts.as_slice() {
            ["process", "env", name] if !called => self.variable(name),
            [.., "readFileSync"] if called => match self.arguments(depth).into_iter().next() {
                Some(Value::Text(file)) => Value::File(PathBuf::from(file)),
                _ => Value::Computed(format!("a file whose name is computed{}", self.in_line(line))),
            },
            [.., function @ ("join" | "resolve")] if called => {
                let arguments = self.arguments(depth);
                join(&arguments, *function == "resolve")
                    .unwrap_or_else(|| Value::Computed(format!("a path that is computed{}", self.in_line(line))))
            }
            [_] if !called && module.is_some() => Value::Module(module.unwrap_or_default()),
            [name] if !called && self.lexer.peek() != Some(Token::Mark("=>")) => self.constant(name),
            [first, rest @ ..] if !called && self.constants.contains_key(*first) => {
                let mut value = self.constant(first);
                for key in rest {
                    value = value.get(key);
                }
                value
            }
            ["module", "exports"] if self.lexer.peek() == Some(Token::Mark("=")) => {
                self.lexer.next();
                let value = self.expression(depth + 1, true);
                self.exports = Some(value.clone());
                value
            }
            _ => Value::Computed(format!("`{}`{}", short(&path.join(".")), self.in_line(line))),
        }
    }

    /// What an environment variable holds.
    fn variable(&self, name: &str) -> Value {
        match self.environment.set.get(name) {
            Some(value) => Value::Text(value.clone()),
            None if self.environment.complete => Value::Undefined,
            None => Value::Computed(format!("the environment variable {}", short(name))),
        }
    }

    /// The arguments of a call.
    fn arguments(&mut self, depth: usize) -> Vec<Value> {
        self.lexer.next();
        let mut arguments = Vec::new();
        loop {
            match self.lexer.peek() {
                None | Some(Token::Mark(")")) => {
                    self.lexer.next();
                    return arguments;
                }
                Some(Token::Mark("," | ";" | "}" | "]")) => {
                    self.lexer.next();
                }
                Some(_) => {
                    let argument = self.expression(depth + 1, false);
                    arguments.push(argument);
                }
            }
        }
    }

    /// The rest of a function: up to the end of its body.
    fn skip_function(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.lexer.peek() {
            match token {
                Token::Mark("(" | "[" | "{") => depth += 1,
                Token::Mark("," | ";" | "}" | "]" | ")") if depth == 0 => return,
                Token::Mark("}") if depth == 1 => {
                    self.lexer.next();
                    return;
                }
                Token::Mark(")" | "]" | "}") => depth -= 1,
                _ => {}
            }
            self.lexer.next();
        }
    }
}

/// What came up in an expression that was skipped.
#[derive(Clone, Copy, Default)]
struct Seen {
    arrow: bool,
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
                let mut reader = Reader {
                    lexer: lexer.clone(),
                    directory: directory.to_owned(),
                    environment: &environment,
                    constants: BTreeMap::new(),
                    exports: None,
                    changes: Vec::new(),
                    opened: None,
                    alias: None,
                    budget: 64,
                    counted: Cell::default(),
                };
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

fn concatenate(first: Value, second: Value) -> Value {
    match (first, second) {
        (Value::Number(first), Value::Number(second)) => Value::Number(first + second),
        (Value::Computed(why), _) | (_, Value::Computed(why)) => Value::Computed(why),
        (first, second) => match (plain(&first), plain(&second)) {
            (Some(first), Some(second)) => Value::Text(first + &second),
            _ => Value::Computed("a sum".to_owned()),
        },
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `path.join` and `path.resolve` of strings.
fn join(arguments: &[Value], resolve: bool) -> Option<Value> {
    let mut joined = PathBuf::new();
    for argument in arguments {
        let Value::Text(part) = argument else { return None };
        let part = if resolve {
            part.as_str()
        } else {
            part.trim_start_matches(if joined.as_os_str().is_empty() { '\0' } else { '/' })
        };
        joined.push(part);
    }
    Some(Value::Text(joined.display().to_string()))
}

/// So much of a name as an answer should repeat.
fn short(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(40).collect()
}
