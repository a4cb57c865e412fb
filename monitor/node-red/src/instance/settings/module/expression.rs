//! Expressions: what stands on the right of an assignment.

use std::path::PathBuf;

use super::{MAX_DEPTH, Reader};
use crate::instance::settings::{
    lexer::Token,
    value::{Table, Value, short},
};

impl Reader<'_> {
    /// A value, up to what ends an expression, which is left.
    pub(super) fn expression(&mut self, depth: usize, statement: bool) -> Value {
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
    pub(super) fn line_of(&self, offset: usize) -> usize {
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
