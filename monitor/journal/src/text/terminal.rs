//! What a terminal may be shown: text that cannot move its cursor, colour it, or swap the order of letters.

use std::{fmt::Write as _, path::Path};

/// Longest text that is shown whole, in characters.
const MAX_SHOWN: usize = 160;

/// Characters that a terminal may obey instead of showing them, and those that are invisible: the Unicode categories Cc, Cf,
/// Zl and Zp, and everything with `Bidi_Control`, `Default_Ignorable_Code_Point` or `Variation_Selector`. The only such list
/// in the program; a test compares it with the tables of a library.
#[must_use]
pub fn is_hidden(char: char) -> bool {
    if char.is_ascii() {
        return char.is_ascii_control();
    }
    // No block below U+2000 but a few single characters; no arms are joined, so that each can be looked up.
    matches!(char,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}'
        | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
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

/// A path as [`plain`] shows it.
#[must_use]
pub fn plain_path(path: &Path) -> String {
    plain(path.as_os_str().as_encoded_bytes())
}

/// Text of several lines, each of them as [`plain`] shows it.
#[must_use]
pub fn lines(text: &str) -> String {
    text.split('\n').map(|line| plain(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// The same as [`plain`], and what is long is cut in the middle.
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

    /// Every character, by the Unicode tables of a library.
    #[test]
    fn every_character_that_acts_or_is_not_seen_is_hidden() {
        let class =
            r"^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}\p{Variation_Selector}]$";
        let class = regex::Regex::new(class).unwrap();
        let wrong: Vec<_> = ('\0'..=char::MAX)
            .filter(|&char| is_hidden(char) != class.is_match(char.encode_utf8(&mut [0; 4])))
            .map(|char| format!("{:x}", u32::from(char)))
            .take(50)
            .collect();
        assert_eq!(wrong, [""; 0], "hidden here and not there, or there and not here");
    }

    #[test]
    fn lines_stay_lines_and_nothing_else_acts() {
        assert_eq!(lines("a\n\u{1b}[2Jb\u{2028}c\r\n"), "a\n\\u{1b}[2Jb\\u{2028}c\\u{d}\n");
        assert_eq!(lines("a\n\nb"), "a\n\nb");
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!plain(&bytes).contains(is_hidden));
            prop_assert!(shown(&bytes).chars().count() <= MAX_SHOWN + 1);
        }
    }
}
