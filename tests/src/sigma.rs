//! As much of Sigma as the rules in `contrib/` need, read from its specification: which events a rule picks.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::Value;

/// A rule's detection.
#[derive(Debug)]
pub struct Rule {
    parts: Vec<(String, Value)>,
    condition: Vec<String>,
}

impl Rule {
    /// Reads a rule.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let documents = Yaml::load_from_str(&text)?;
        let detection = documents.first().and_then(|rule| rule.as_mapping_get("detection")).and_then(Yaml::as_mapping);
        let (mut parts, mut condition) = (Vec::new(), String::new());
        for (key, value) in detection.context("a rule without a detection")? {
            let key = key.as_str().context("a part without a name")?;
            match value.as_str().filter(|_| key == "condition") {
                Some(text) => condition = text.replace('(', " ( ").replace(')', " ) "),
                None => parts.push((key.to_owned(), json(value)?)),
            }
        }
        Ok(Self { parts, condition: condition.split_whitespace().map(str::to_owned).collect() })
    }

    /// Whether it picks an event.
    pub fn picks(&self, event: &Value) -> Result<bool> {
        let mut rest = self.condition.iter().map(String::as_str).peekable();
        let picked = self.any(&mut rest, event)?;
        if let Some(word) = rest.next() {
            bail!("{word} in a condition");
        }
        Ok(picked)
    }

    fn any<'a>(&self, rest: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, event: &Value) -> Result<bool> {
        let mut picked = self.all(rest, event)?;
        while rest.next_if_eq(&"or").is_some() {
            picked |= self.all(rest, event)?;
        }
        Ok(picked)
    }

    fn all<'a>(&self, rest: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, event: &Value) -> Result<bool> {
        let mut picked = self.one(rest, event)?;
        while rest.next_if_eq(&"and").is_some() {
            picked &= self.one(rest, event)?;
        }
        Ok(picked)
    }

    fn one<'a>(&self, rest: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, event: &Value) -> Result<bool> {
        match rest.next() {
            Some("not") => Ok(!self.one(rest, event)?),
            Some("(") => {
                // What is in parentheses is no deeper than one level in our rules, and is read as the whole is.
                let inner: Vec<_> = rest.by_ref().take_while(|word| *word != ")").collect();
                self.any(&mut inner.into_iter().peekable(), event)
            }
            Some(name) => {
                let part = self.parts.iter().find(|(known, _)| known == name);
                fits(&part.with_context(|| format!("no part {name}"))?.1, event)
            }
            None => bail!("a condition that has no end"),
        }
    }
}

/// YAML as JSON, as far as rules have it.
fn json(yaml: &Yaml<'_>) -> Result<Value> {
    if let Some(map) = yaml.as_mapping() {
        let pairs = map.iter().map(|(key, value)| Ok((key.as_str().context("a key")?.to_owned(), json(value)?)));
        return Ok(Value::Object(pairs.collect::<Result<_>>()?));
    }
    if let Some(list) = yaml.as_sequence() {
        return list.iter().map(json).collect();
    }
    let scalar = yaml.as_str().map(Value::from).or(yaml.as_bool().map(Value::from));
    scalar.or(yaml.as_integer().map(Value::from)).with_context(|| format!("{yaml:?}"))
}

/// A list: one of it fits. A map: every field does.
fn fits(part: &Value, event: &Value) -> Result<bool> {
    match part {
        Value::Array(list) => any(list, |part| fits(part, event)),
        Value::Object(fields) => {
            let other = |(key, wanted): (&String, _)| Ok(!has(event, key, wanted)?);
            Ok(!any(fields, other)?)
        }
        other => bail!("{other}"),
    }
}

/// Whether a field has one of the values.
fn has(event: &Value, key: &str, wanted: &Value) -> Result<bool> {
    let (name, modifier) = key.split_once('|').unwrap_or((key, ""));
    let found = event.pointer(&format!("/{}", name.replace('.', "/"))).unwrap_or(&Value::Null);
    // Sigma's texts have no case.
    let low = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    match (modifier, wanted) {
        (_, Value::Array(list)) => any(list, |wanted| has(event, key, wanted)),
        ("", Value::String(_)) => Ok(low(found) == low(wanted)),
        ("", wanted) => Ok(found == wanted),
        ("endswith", wanted) => Ok(low(found).ends_with(&low(wanted))),
        ("startswith", wanted) => Ok(low(found).starts_with(&low(wanted))),
        ("gt", wanted) => Ok(found.as_i64().zip(wanted.as_i64()).is_some_and(|(found, wanted)| found > wanted)),
        (other, _) => bail!("the modifier {other}"),
    }
}

fn any<T>(items: impl IntoIterator<Item = T>, mut is_one: impl FnMut(T) -> Result<bool>) -> Result<bool> {
    items.into_iter().try_fold(false, |found, item| Ok(found || is_one(item)?))
}
