//! Prometheus' text format 0.0.4.

use std::fmt::Write as _;

/// What kind of number a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page of figures.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// One figure, with a sample for each set of labels.
#[derive(Debug)]
pub(super) struct Figure<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Page {
    /// Begins a figure. `help` is plain text on one line.
    pub(super) fn figure(&mut self, name: &'static str, kind: Kind, help: &str) -> Figure<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Figure { name, text: &mut self.text }
    }

    /// The page.
    pub(super) fn text(self) -> String {
        self.text
    }
}

impl Figure<'_> {
    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        for (number, (key, label)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{key}=\"");
            for char in label.chars() {
                match char {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    _ => self.text.push(char),
                }
            }
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out() {
        let mut page = Page::default();
        page.figure("x_total", Kind::Counter, "Help.").sample(&[("a", "q\"\\\n"), ("b", "é")], 1.5e12);
        assert_eq!(
            page.text(),
            "# HELP x_total Help.\n# TYPE x_total counter\nx_total{a=\"q\\\"\\\\\\n\",b=\"é\"} 1500000000000\n"
        );
    }
}
