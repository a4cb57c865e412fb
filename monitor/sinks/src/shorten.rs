//! Events that are longer than a receiver takes.
//!
//! Who is watched chooses names and arguments: a long path of characters that JSON escapes is in an event several times, and
//! makes it longer than what some receivers take. Such an event goes without the ends of its long texts, so that it neither
//! stays away nor holds up what comes after it. The journal has it whole.

use serde_json::Value;

use journal::{chain, format::Format};

/// Most characters that are left of a text, tried in this order. A hash has 64.
const LEFT: [usize; 3] = [2048, 512, 128];

/// The event and its form, with long texts cut until the form has `most` bytes at most; it says that it was
/// (`metadata.is_truncated`). `None` when there is too much of it beside long texts.
pub(super) fn shorten(event: &Value, format: Format, most: usize) -> Option<(Value, Vec<u8>)> {
    LEFT.into_iter().find_map(|left| {
        let mut event = event.clone();
        cut(&mut event, left);
        if let Some(metadata) = event.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("is_truncated".to_owned(), true.into());
        }
        let text = format.render(chain::to_line(&event).as_bytes(), &event);
        (text.len() <= most).then_some((event, text))
    })
}

/// Leaves so many characters of each text.
fn cut(value: &mut Value, left: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(left) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| cut(value, left)),
        Value::Object(fields) => fields.values_mut().for_each(|value| cut(value, left)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_texts_lose_their_ends_and_nothing_else_is_lost() {
        let name = "\u{1}é".repeat(2000);
        let event = json!({ "metadata": { "uid": "a-b" }, "file": { "path": name }, "seen": [name, name, 7], "message": "short" });
        for (_, format) in Format::NAMES {
            let (short, text) = shorten(&event, format, 20_000).unwrap();
            assert!(text.len() <= 20_000, "{format:?}: {}", text.len());
            assert_eq!(short["metadata"], json!({ "uid": "a-b", "is_truncated": true }));
            assert_eq!((&short["message"], &short["seen"][2]), (&json!("short"), &json!(7)));
            let path = short["file"]["path"].as_str().unwrap();
            assert!(name.starts_with(path.strip_suffix('…').unwrap()), "{path}");
        }
    }

    #[test]
    fn what_is_long_without_long_texts_cannot_be_shortened() {
        let event = json!({ "seen": vec!["short"; 1000] });
        assert_eq!(shorten(&event, Format::Ocsf, 1000), None);
    }
}
