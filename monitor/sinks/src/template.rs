//! Texts with `${/json/pointer}` in them.

use serde_json::Value;

/// Whether every `${` of a template is closed and holds a JSON pointer.
pub(super) fn check(template: &str) -> Result<(), String> {
    let mut rest = template;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((pointer, next)) = after.split_once('}') else {
            return Err("a `${` in the template is not closed by `}`".to_owned());
        };
        if !pointer.starts_with('/') {
            return Err(format!("\"${{{pointer}}}\": a JSON pointer begins with `/`, like \"${{/message}}\""));
        }
        rest = next;
    }
    Ok(())
}

/// The template with the event's values in it, as JSON: texts come with their quotes, what is not there is `null`.
pub(super) fn fill(template: &str, event: &Value) -> String {
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((pointer, next)) = after.split_once('}') else {
            rest = after;
            break;
        };
        out.push_str(&event.pointer(pointer).unwrap_or(&Value::Null).to_string());
        rest = next;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_go_in_as_json_and_cannot_break_out() {
        let event = json!({ "message": "a \"b\", ${/x}\n", "n": 5 });
        let filled = fill(r#"{"text": ${/message}, "n": ${/n}, "m": ${/missing}}"#, &event);
        let back: Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(back, json!({ "text": event["message"], "n": 5, "m": null }));
    }

    #[test]
    fn a_faulty_template_is_told() {
        assert!(check("${/message").unwrap_err().contains("not closed"));
        assert!(check("${message}").unwrap_err().contains("begins with"));
        assert_eq!(check("{\"a\": ${/a/b}}"), Ok(()));
    }
}
