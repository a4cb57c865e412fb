//! Colour, for a terminal only.

use std::{
    env,
    io::{IsTerminal as _, stdout},
};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    coloured: bool,
}

impl Paint {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { coloured: false };
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { coloured: true };

    /// For standard output: a terminal gets colour unless `NO_COLOR` is set.
    pub(crate) fn for_stdout() -> Self {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { coloured: is_coloured(stdout().is_terminal(), is_set("NO_COLOR"), is_dumb) }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn is_coloured(is_terminal: bool, no_color: bool, is_dumb: bool) -> bool {
    is_terminal && !no_color && !is_dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_and_no_color_get_no_colour() {
        assert!(is_coloured(true, false, false));
        for (is_terminal, no_color, is_dumb) in [(false, false, false), (true, true, false), (true, false, true)] {
            assert!(!is_coloured(is_terminal, no_color, is_dumb));
        }
        assert_eq!(Paint::PLAIN.green("x"), "x");
        assert_eq!(Paint::COLOURED.bold("x"), "\u{1b}[1mx\u{1b}[0m");
    }
}
