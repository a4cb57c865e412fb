//! Remediation of findings, as steps that can be executed as they are.

use std::path::Path;

use serde::Serialize;

/// A step of a remediation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "text", rename_all = "kebab-case")]
pub enum Fix {
    /// A shell command to run as root.
    Shell(String),
    /// Lines for settings.js.
    Settings(String),
    /// A systemd drop-in. The first line is a comment with its path.
    Systemd(String),
    /// Advice that requires a decision by the administrator.
    Advice(String),
}

impl Fix {
    pub(super) fn shell(line: impl Into<String>) -> Self {
        Self::Shell(line.into())
    }

    pub(super) fn settings(lines: impl Into<String>) -> Self {
        Self::Settings(lines.into())
    }

    pub(super) fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }

    /// A drop-in for a unit, and the command that applies it.
    pub(super) fn drop_in(unit: &str, name: &str, lines: &str) -> [Self; 2] {
        let text = format!("# /etc/systemd/system/{unit}.d/{name}.conf\n[Service]\n{lines}");
        [Self::Systemd(text), Self::Shell(format!("systemctl daemon-reload && systemctl restart {}", quoted(unit)))]
    }
}

/// Quotes a word for the shell.
pub(super) fn quoted(text: &str) -> String {
    let plain =
        |char: char| char.is_ascii_alphanumeric() || matches!(char, '/' | '.' | '-' | '_' | ':' | '@' | '+' | ',');
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Quotes a path for the shell.
pub(super) fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_comes_out_of_the_shell_as_it_went_in() {
        for text in ["/a/b.js", "a b", "it's", "$(reboot)", "`x`", "a\nb", "-rf", "", "\\", "\"", "ä*"] {
            let line = format!("printf %s {}", quoted(text));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{line}");
        }
    }
}
