//! `[journal]` in the policy file.

use std::time::Duration;

use journal::Limits;
use policy::toml_reader::{Reader, Table, Value};

const MIB: u64 = 1 << 20;

/// Reads the table. Missing keys have their defaults.
pub(super) fn read(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(value) = value else { return limits };
    let Some(table) = value.get_ref().as_table() else {
        reader.fault(value.span().start, "`journal` must be a table: [journal]");
        return limits;
    };
    let mut table = Table::new(table, value.span().start);
    if let Some(value) = table.take("segment")
        && let Some(bytes) = reader.size(value, "`segment`")
    {
        if !(16 * MIB..=64 * MIB).contains(&bytes) {
            reader.fault(value.span().start, "`segment` is from 16MiB to 64MiB");
        }
        limits.segment_bytes = bytes;
    }
    if let Some(value) = table.take("max-size")
        && let Some(bytes) = reader.size(value, "`max-size`")
    {
        if bytes < 2 * limits.segment_bytes {
            reader.fault(value.span().start, "`max-size` must hold two segments at least");
        }
        limits.max_bytes = bytes;
    }
    if let Some(value) = table.take("max-age") {
        limits.max_age = age(reader, value);
    }
    reader.finish(&table);
    limits
}

/// A duration: `90days`, `12h`.
fn age(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Duration> {
    let text = reader.string(value, "`max-age`")?;
    match humantime::parse_duration(text) {
        Ok(age) if age >= Duration::from_hours(1) => Some(age),
        Ok(_) => {
            reader.fault(value.span().start, "`max-age` is 1h at least");
            None
        }
        Err(_) => {
            reader.fault(value.span().start, format!("`max-age` is a time like \"90days\" or \"12h\", not \"{text}\""));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const REST: &str = "[[instance]]\nname = \"a\"\nselect = [{ uid = 1001 }]\nuser-dir = \"/ud\"\n";

    #[test]
    fn limits_are_read() {
        let text =
            format!("version = 1\n[journal]\nsegment = \"16MiB\"\nmax-size = \"1GiB\"\nmax-age = \"90days\"\n{REST}");
        let expected =
            Limits { segment_bytes: 16 << 20, max_bytes: 1 << 30, max_age: Some(Duration::from_hours(90 * 24)) };
        assert_eq!(parse(&text).unwrap().journal, expected);
        assert_eq!(parse(&format!("version = 1\n{REST}")).unwrap().journal, Limits::default());
    }

    #[test]
    fn a_fault_has_its_place_and_a_mend() {
        for (line, fault) in [
            ("segment = \"1MiB\"", "line 3, column 11: `segment` is from 16MiB to 64MiB"),
            ("segment = 5", "line 3, column 11: `segment` must be a string, not integer"),
            ("max-size = \"9\"", "line 3, column 12: `max-size` is a size like \"64MiB\" or \"4GiB\", not \"9\""),
            ("max-size = \"20MiB\"", "line 3, column 12: `max-size` must hold two segments at least"),
            ("max-age = \"soon\"", "line 3, column 11: `max-age` is a time like \"90days\" or \"12h\", not \"soon\""),
            ("max-size = \"99999999999999GiB\"", "line 3, column 12: `max-size` is a size like"),
            ("segmnt = \"16MiB\"", "line 3, column 1: unknown key \"segmnt\"; did you mean \"segment\"?"),
        ] {
            let faults = parse(&format!("version = 1\n[journal]\n{line}\n{REST}")).unwrap_err();
            assert!(faults[0].to_string().starts_with(fault), "{line}: {}", faults[0]);
        }
    }
}
