//! What a terminal may be shown: text that cannot move its cursor, colour it, or swap the order of letters.

use std::fmt::Write as _;

/// Longest text that is shown whole, in characters.
const MAX_SHOWN: usize = 160;

/// Characters that a terminal may obey instead of showing them, and those that are seen by nobody.
#[must_use]
pub fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text with every hidden character as `\u{..}` and every byte that is no UTF-8 as `\x..`.
#[must_use]
pub fn plain(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        // In pieces: hardly a name has anything to hide, and a storm has many names.
        let mut rest = chunk.valid();
        while let Some((at, char)) = rest.char_indices().find(|&(_, char)| is_hidden(char)) {
            out.push_str(&rest[..at]);
            let _ = write!(out, "{}", char.escape_unicode());
            rest = &rest[at + char.len_utf8()..];
        }
        out.push_str(rest);
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The same, and what is long is cut in the middle.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let out = plain(bytes);
    let count = out.chars().count();
    if count <= MAX_SHOWN {
        return out;
    }
    let head: String = out.chars().take(MAX_SHOWN / 2).collect();
    let tail: String = out.chars().skip(count - MAX_SHOWN / 2).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_seen_stays_and_what_acts_is_written_out() {
        assert_eq!(plain("größe 日本".as_bytes()), "größe 日本");
        assert_eq!(plain(b"a\x1b[2J\xff\n"), "a\\u{1b}[2J\\xff\\u{a}");
        assert_eq!(plain("\u{202e}fdp.exe\u{9b}".as_bytes()), "\\u{202e}fdp.exe\\u{9b}");
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!plain(&bytes).contains(is_hidden));
            prop_assert!(shown(&bytes).chars().count() <= MAX_SHOWN + 1);
        }
    }
}
