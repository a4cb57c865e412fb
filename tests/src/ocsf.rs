//! Whether an event is what OCSF 1.8.0 says that it is.

use std::sync::OnceLock;

use anyhow::{Result, bail, ensure};
use jsonschema::Validator;

use crate::record::Record;

/// The schemas of the classes that the journal uses.
const SCHEMAS: [(u64, &str); 6] = [
    (1001, include_str!("../../monitor/journal/tests/ocsf/1001.json")),
    (1007, include_str!("../../monitor/journal/tests/ocsf/1007.json")),
    (2004, include_str!("../../monitor/journal/tests/ocsf/2004.json")),
    (4001, include_str!("../../monitor/journal/tests/ocsf/4001.json")),
    (6002, include_str!("../../monitor/journal/tests/ocsf/6002.json")),
    (7002, include_str!("../../monitor/journal/tests/ocsf/7002.json")),
];

/// Fails when an event is not as OCSF 1.8.0 has it.
pub(crate) fn valid(record: &Record) -> Result<()> {
    static VALIDATORS: OnceLock<Vec<(u64, Validator)>> = OnceLock::new();
    let event = record.json();
    let number = |key: &str| event[key].as_u64().unwrap_or_default();
    let (class, activity) = (number("class_uid"), number("activity_id"));
    let validators = VALIDATORS.get_or_init(|| {
        let schemas = SCHEMAS.iter().filter_map(|(class, schema)| {
            let schema = serde_json::from_str(schema).ok()?;
            Some((*class, jsonschema::validator_for(&schema).ok()?))
        });
        schemas.collect()
    });
    let Some((_, validator)) = validators.iter().find(|(known, _)| *known == class) else {
        bail!("an event of class {class}, of which there is no schema: {event:#}");
    };
    let errors: Vec<_> =
        validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "an event is no valid OCSF: {errors:#?}\n{event:#}");
    // The schema itself does not ask for these.
    ensure!(number("type_uid") == class * 100 + activity, "a wrong type_uid: {event:#}");
    ensure!(number("category_uid") == class / 1000, "a wrong category_uid: {event:#}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_there_and_refuses_what_is_wrong() {
        let good = r#"{"class_uid":6002,"category_uid":6,"activity_id":3,"type_uid":600203,"time":1,"severity_id":1,
            "metadata":{"version":"1.8.0","product":{"name":"x","vendor_name":"y"},"profiles":["host","security_control"]},
            "app":{"name":"x","vendor_name":"y"}}"#;
        valid(&Record::parse(good).unwrap()).unwrap();
        for (old, new) in [("600203", "600204"), ("\"severity_id\":1", "\"severity\":1"), ("6002,", "6003,")] {
            assert!(valid(&Record::parse(&good.replace(old, new)).unwrap()).is_err(), "{new}");
        }
        for (class, _) in SCHEMAS {
            let event = format!("{{\"class_uid\":{class}}}");
            let error = valid(&Record::parse(&event).unwrap()).unwrap_err().to_string();
            assert!(error.contains("no valid OCSF"), "{error}");
        }
    }
}
