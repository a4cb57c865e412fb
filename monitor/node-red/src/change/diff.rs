//! Two versions of a text as a unified diff that can be shown: secrets masked, bounded in size and time.

use std::{fmt::Write as _, time::Duration};

use similar::TextDiff;

use super::mask::Masker;

/// Longest diff, in bytes.
pub const MAX_DIFF: usize = 16 << 10;
/// Longest line of it, in characters.
const MAX_LINE: usize = 400;
/// How long may be looked for the shortest one; then a longer one will do.
const PATIENCE: Duration = Duration::from_millis(100);
/// Lines around a change.
const CONTEXT: usize = 3;

/// What has changed from one text to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// Unified; ends with a remark when it was cut.
    pub text: String,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
}

/// Compares two texts.
#[must_use]
pub fn diff(old: &str, new: &str) -> Diff {
    let mut masker = Masker::default();
    let (old, new) = (masker.mask(old), masker.mask(new));
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&old, &new);
    let (mut added, mut removed) = (0, 0);
    for change in diff.iter_all_changes() {
        match change.tag() {
            similar::ChangeTag::Insert => added += 1,
            similar::ChangeTag::Delete => removed += 1,
            similar::ChangeTag::Equal => {}
        }
    }
    let mut text = String::new();
    // A missing line feed at the end is not reported.
    let mut unified = diff.unified_diff();
    let whole = unified.context_radius(CONTEXT).missing_newline_hint(false).header("before", "after").to_string();
    let mut lines = whole.lines();
    for line in lines.by_ref() {
        let shown: String = line.chars().take(MAX_LINE).collect();
        if text.len() + shown.len() + 1 > MAX_DIFF {
            // Writing to memory does not fail.
            let _ = writeln!(text, "… and {} more lines", lines.count() + 1);
            break;
        }
        text.push_str(&shown);
        text.push_str(if shown.len() < line.len() { "…\n" } else { "\n" });
    }
    Diff { text, added, removed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_changed_are_shown_with_those_around_them() {
        let old = "module.exports = {\n  uiPort: 1880,\n  // credentialSecret: \"old\",\n}\n";
        let new = "module.exports = {\n  uiPort: 1881,\n  credentialSecret: \"new-one\",\n}\n";
        let diff = diff(old, new);
        assert_eq!((diff.added, diff.removed), (2, 2));
        for line in
            ["-  uiPort: 1880,", "+  uiPort: 1881,", "-  // credentialSecret: [secret 1],", " module.exports = {"]
        {
            assert!(diff.text.lines().any(|found| found == line), "{line} in {}", diff.text);
        }
        assert!(!diff.text.contains("new-one"), "{}", diff.text);
    }

    #[test]
    fn whatever_changes_the_diff_is_bounded() {
        let many = "line\n".repeat(20_000);
        let long = "x ".repeat(100_000);
        for (old, new) in [("", many.as_str()), (many.as_str(), ""), ("", long.as_str())] {
            let diff = diff(old, new);
            assert!(diff.text.len() < MAX_DIFF + 100, "{}", diff.text.len());
            assert!(diff.text.contains('…'));
        }
        assert_eq!(diff("", &many).added, 20_000);
        assert_eq!(diff(&many, &many).text, "");
    }
}
