//! The words of a JavaScript file, one after the other, without understanding them.
//!
//! A lexer never recurses, so no nesting of the file can exhaust the stack, and it never fails: what is cut short ends
//! where the file does.

/// One word of the language.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier or keyword.
    Name(&'a str),
    /// A string, or a template without substitutions.
    Text(String),
    /// A template with substitutions.
    Template,
    /// A number; NaN where it is none that is understood.
    Number(f64),
    /// A regular expression.
    Regex,
    /// Punctuation.
    Mark(&'a str),
}

/// Punctuation of several characters that must not be taken apart; the longest first.
const MARKS: [&str; 17] =
    ["...", "===", "!==", "**=", "||=", "&&=", "??=", "=>", "==", "!=", "<=", ">=", "||", "&&", "??", "?.", "**"];
/// Keywords after which a `/` begins a regular expression.
const BEFORE_VALUE: [&str; 10] = ["return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "else"];

/// Where in the text the lexer is. A copy of it is a place to come back to.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// The word before ends a value, so that a `/` divides.
    after_value: bool,
    /// A line ended between the word before and this one.
    pub(super) new_line: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let at = if text.starts_with("#!") { text.find('\n').unwrap_or(text.len()) } else { 0 };
        Self { text, at, after_value: false, new_line: true }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Where the lexer is, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// How many lines end between two places, and before the first word that stands at the second or after it.
    pub(super) fn lines_between(&self, from: usize, to: usize) -> usize {
        let mut ahead = Self { at: to, ..self.clone() };
        ahead.skip_space();
        let between = self.text.as_bytes().get(from..ahead.at).unwrap_or_default();
        between.split(|&byte| byte == b'\n').count() - 1
    }

    /// The next word; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        self.skip_space();
        let rest = self.rest();
        let first = rest.chars().next()?;
        let token = match first {
            '"' | '\'' => Token::Text(self.string(first)),
            '`' => self.template(),
            '0'..='9' => self.number(),
            '.' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => self.number(),
            '/' if !self.after_value => self.regex(),
            _ if is_name(first) => {
                let len = rest.find(|next: char| !is_name(next)).unwrap_or(rest.len());
                self.at += len;
                Token::Name(&rest[..len])
            }
            _ => {
                let mark = MARKS.iter().find(|mark| rest.starts_with(**mark));
                let len = mark.map_or(first.len_utf8(), |mark| mark.len());
                self.at += len;
                Token::Mark(&rest[..len])
            }
        };
        self.after_value = match &token {
            Token::Name(name) => !BEFORE_VALUE.contains(name),
            Token::Mark(mark) => matches!(*mark, ")" | "]" | "}"),
            _ => true,
        };
        Some(token)
    }

    /// The word after this place.
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    fn skip_space(&mut self) {
        self.new_line = self.at == 0;
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(|next: char| next.is_whitespace() || next == '\u{feff}');
            let mut skipped = rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                skipped += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if let Some(comment) = trimmed.strip_prefix("/*") {
                skipped += comment.find("*/").map_or(trimmed.len(), |end| end + 4);
            }
            if skipped == 0 {
                return;
            }
            self.new_line |= rest[..skipped].contains('\n');
            self.at += skipped;
        }
    }

    /// A quoted string with its escapes undone.
    fn string(&mut self, quote: char) -> String {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                _ if char == quote => {
                    self.at += at + 1;
                    return text;
                }
                // A string ends with its line: this one is broken.
                '\n' if quote != '`' => {
                    self.at += at;
                    return text;
                }
                '\\' => match chars.next().map(|(_, escaped)| escaped) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some('0') => text.push('\0'),
                    Some('b') => text.push('\u{8}'),
                    Some('f') => text.push('\u{c}'),
                    Some('v') => text.push('\u{b}'),
                    Some(kind @ ('x' | 'u')) => text.push(escape(&mut chars, kind)),
                    // A line that goes on below.
                    Some('\n') | None => {}
                    Some(other) => text.push(other),
                },
                _ => text.push(char),
            }
        }
        self.at = self.text.len();
        text
    }

    /// A template; what its substitutions hold is skipped, whatever is nested in them.
    fn template(&mut self) -> Token<'a> {
        let start = self.at;
        let mut substitutions = false;
        // For each template that is open, how many braces are open in its substitution; 0 outside of one.
        let mut open = vec![0_u32];
        self.at += 1;
        while let Some(braces) = open.last_mut() {
            let rest = self.rest();
            let Some(char) = rest.chars().next() else { break };
            let step = char.len_utf8();
            match (char, *braces) {
                ('\\', 0) => self.at += step + rest[step..].chars().next().map_or(0, char::len_utf8),
                ('`', 0) => {
                    self.at += 1;
                    open.pop();
                }
                ('$', 0) if rest.starts_with("${") => {
                    substitutions = true;
                    *braces = 1;
                    self.at += 2;
                }
                (_, 0) => self.at += step,
                ('`', _) => {
                    self.at += 1;
                    open.push(0);
                }
                ('"' | '\'', _) => drop(self.string(char)),
                ('/', _) if rest.starts_with("//") || rest.starts_with("/*") => self.skip_space(),
                ('{', _) => {
                    *braces += 1;
                    self.at += 1;
                }
                ('}', _) => {
                    *braces -= 1;
                    self.at += 1;
                }
                _ => self.at += step,
            }
        }
        if substitutions {
            return Token::Template;
        }
        self.at = start;
        Token::Text(self.string('`'))
    }

    fn number(&mut self) -> Token<'a> {
        let rest = self.rest();
        let mut before = '0';
        let len = rest
            .find(|next: char| {
                let exponent = matches!(next, '+' | '-') && matches!(before, 'e' | 'E') && !rest.starts_with("0x");
                before = next;
                !(next.is_ascii_alphanumeric() || matches!(next, '.' | '_') || exponent)
            })
            .unwrap_or(rest.len());
        self.at += len;
        let digits = rest[..len].replace('_', "");
        let radix = |prefix: &str, radix| {
            let digits = digits.strip_prefix(prefix)?;
            u32::from_str_radix(digits, radix).ok().map(f64::from)
        };
        let number = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2));
        Token::Number(number.or_else(|| digits.parse().ok()).unwrap_or(f64::NAN))
    }

    fn regex(&mut self) -> Token<'a> {
        let rest = self.rest();
        let (mut escaped, mut class) = (false, false);
        let end = rest.char_indices().skip(1).find(|&(_, char)| {
            let ends = char == '\n' || (char == '/' && !escaped && !class);
            match char {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' => class = true,
                ']' => class = false,
                _ => {}
            }
            ends
        });
        // Flags belong to it too.
        let flags = |at: usize| rest[at..].find(|next: char| !is_name(next)).map_or(rest.len(), |len| at + len);
        self.at += end.map_or(rest.len(), |(at, char)| if char == '/' { flags(at + 1) } else { at });
        Token::Regex
    }
}

fn is_name(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '_' | '$')
}

/// `\xHH`, `\uHHHH` or `\u{H}`.
fn escape(chars: &mut (impl Iterator<Item = (usize, char)> + Clone), kind: char) -> char {
    let braced = kind == 'u' && chars.clone().next().is_some_and(|(_, next)| next == '{');
    if braced {
        chars.next();
    }
    let most = match kind {
        'x' => 2,
        _ if braced => 7,
        _ => 4,
    };
    let mut code = 0_u32;
    for _ in 0..most {
        let Some(digit) = chars.clone().next().and_then(|(_, next)| next.to_digit(16)) else { break };
        code = code.wrapping_mul(16).wrapping_add(digit);
        chars.next();
    }
    if braced && chars.clone().next().is_some_and(|(_, next)| next == '}') {
        chars.next();
    }
    char::from_u32(code).unwrap_or('\u{fffd}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        std::iter::from_fn(|| lexer.next()).collect()
    }

    fn text(content: &str) -> Token<'static> {
        Token::Text(content.to_owned())
    }

    #[test]
    fn comments_and_what_looks_like_them_are_told_apart() {
        assert_eq!(tokens("// 'a\n'//b' /* 'c' */ \"/*d*/\""), [text("//b"), text("/*d*/")]);
        assert_eq!(tokens("#!/usr/bin/env node\n/* open"), []);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(
            tokens(
                r#"'a\'b\x41\u0042\u{43}\
c' "\n" `d\`e`"#
            ),
            [text("a'bABCc"), text("\n"), text("d`e")]
        );
    }

    #[test]
    fn a_slash_divides_after_a_value_and_begins_an_expression_elsewhere() {
        use Token::{Mark, Name, Number, Regex};
        assert_eq!(tokens("a / 2 / b"), [Name("a"), Mark("/"), Number(2.0), Mark("/"), Name("b")]);
        assert_eq!(tokens("= /[/'\"]\\/'/gi ; x"), [Mark("="), Regex, Mark(";"), Name("x")]);
        assert_eq!(tokens("return /'/"), [Name("return"), Regex]);
    }

    #[test]
    fn a_template_ends_where_it_ends_whatever_is_inside() {
        assert_eq!(tokens("`a${ {b: `c${'}`'}`} /* } */ }d` e"), [Token::Template, Token::Name("e")]);
        assert_eq!(tokens("`a\nb`"), [text("a\nb")]);
    }

    #[test]
    fn numbers_are_read_as_javascript_writes_them() {
        let numbers = tokens("1880 0x758 1_880 1e3 .5 0b11");
        assert_eq!(numbers, [1880.0, 1880.0, 1880.0, 1000.0, 0.5, 3.0].map(Token::Number));
    }

    #[test]
    fn what_is_cut_short_ends_with_the_file() {
        for cut in ["'abc", "`abc", "`a${", "`a${'", "/abc", "/*abc", "\"a\\", "'\\u{1", "`\\"] {
            assert!(tokens(cut).len() <= 1, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_stand_still(text in "\\PC*") {
            prop_assert!(tokens(&text).len() <= text.len());
        }

        #[test]
        fn no_javascript_like_text_makes_it_panic(text in "([`'\"/\\\\{}$()\\[\\]*\n]|[a-z]|[0-9]|\\$\\{){0,60}") {
            prop_assert!(tokens(&text).len() <= text.len());
        }
    }
}
