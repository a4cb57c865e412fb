//! Common Event Format as others read it: liblognorm, which is in rsyslog.

use std::{fs, process::Command};

use anyhow::Result;
use serde_json::Value;

use crate::needs;

/// Lines of CEF: each is an object `f` with the parts of the header and the `Extensions`. What is none is left out.
pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let (rules, input) = (directory.path().join("rules"), directory.path().join("input"));
    fs::write(&rules, "version=2\nrule=:%f:cef%\n")?;
    fs::write(&input, lines.flat_map(|line| [line, "\n"]).collect::<String>())?;
    let mut command = Command::new(needs::program("lognormalizer")?);
    let output = command.arg("-r").arg(rules).args(["-e", "json"]).stdin(fs::File::open(input)?).output()?;
    let said = String::from_utf8(output.stdout)?;
    let events: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter(|event| event["f"].is_object()).collect())
}
