//! Names of files cannot forge evidence: in every format an event is one line without control characters.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{cef, flows::js, guard::Guard, needs, policy::Policy, scene::Scene};
use serde_json::Value;

/// What a terminal, a parser or a table could stumble over.
const NAMES: [&[u8]; 10] = [
    b"two\nlines",
    b"carriage\rreturn",
    b"\"}]}\n{\"message\":\"forged\"}",
    b"\x1b[2J\x1b]0;title\x07",
    b"\xc2\x9b31m",
    "\u{202e}fdp.exe\u{2028}\u{2029}".as_bytes(),
    b"not \xff\xfe UTF-8",
    b"a=b|c\\d cs1=forged",
    b"; rm -rf $(x) `y` ' %s {{.}} ${message}",
    b"\x01\x02\x7f",
];
const FORMATS: [&str; 4] = ["jsonl", "ocsf", "ecs", "cef"];

/// Whether a terminal may obey it, or swap letters for it.
fn is_hidden(char: char) -> bool {
    char.is_control() || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The lines of a text, none of which holds anything but what is shown.
fn lines<'a>(what: &str, text: &'a [u8]) -> Result<Vec<&'a str>> {
    let text = std::str::from_utf8(text).with_context(|| format!("{what} is no UTF-8"))?;
    for line in text.lines() {
        ensure!(!line.chars().any(is_hidden), "{what}: {line:?}");
    }
    Ok(text.lines().collect())
}

#[test]
fn no_name_breaks_a_line_a_table_or_a_terminal() -> Result<()> {
    let scene = Scene::empty()?;
    let directory = scene.node_red.home().user_dir().join("names");
    fs::create_dir(&directory)?;
    let longest = "é".repeat(127) + "x";
    ensure!(longest.len() == 255);
    let names: Vec<&[u8]> = NAMES.iter().copied().chain([longest.as_bytes()]).collect();
    for name in &names {
        fs::write(directory.join(OsStr::from_bytes(name)), "x")?;
    }
    let out = tempfile::tempdir()?;
    let mut policy = Policy::enforce(&scene.node_red).file("names/**", &["read"], "log", "names");
    for format in FORMATS {
        let path = out.path().join(format);
        policy = policy.sink(&format!(
            "name = \"{format}\"\ntype = \"file\"\npath = \"{}\"\nformat = \"{format}\"\nown-events = false\nevents = \"single\"",
            path.display()
        ));
    }
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let script = format!(
        "const fs = require('fs'), dir = Buffer.from({}); for (const name of fs.readdirSync(dir, 'buffer')) \
         fs.closeSync(fs.openSync(Buffer.concat([dir, Buffer.from('/'), name])));",
        js(&directory)
    );
    let status = scene.node_red.confinement().spawn(Command::new("node").arg("-e").arg(script))?.wait()?;
    ensure!(status.success(), "the reader did not finish: {status}");
    let (journal, console) = (guard.journal_directory(), guard.console().clone());
    let mut guard = guard;
    guard.end()?;

    let console = console.text();
    lines("the console", console.as_bytes())?;
    let mut paths = Vec::new();
    for format in FORMATS {
        let text = fs::read(out.path().join(format))?;
        let found = lines(format, &text)?;
        let found: Vec<_> = found.into_iter().filter(|line| line.contains("names")).collect();
        ensure!(found.len() == names.len(), "{format}: {} lines for {} files: {found:#?}", found.len(), names.len());
        let pointer = if format == "cef" { "/f/Extensions/filePath" } else { "/file/path" };
        let events = if format == "cef" {
            cef::parse(found.iter().copied())?
        } else {
            found.iter().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?
        };
        ensure!(events.len() == names.len(), "{format}: {} of {} lines are understood", events.len(), names.len());
        let mut reported: Vec<_> = events
            .iter()
            .map(|event: &Value| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned())
            .collect();
        reported.sort();
        ensure!(
            !reported.iter().any(|path| path == "forged") && reported.iter().all(|path| path.contains("/names/")),
            "{reported:#?}"
        );
        paths.push(reported);
        // The forged text is not a key.
        ensure!(events.iter().all(|event| event.pointer("/f/Extensions/cs1").is_none_or(|value| value == "plant-a")));
    }
    ensure!(paths[0] == paths[1] && paths[1] == paths[2], "{paths:#?}");
    for path in &paths[0] {
        let plain = !path.chars().any(is_hidden);
        // CEF has names for line ends alone: what else is hidden is written out.
        ensure!(!plain || paths[3].contains(path), "{path:?} is not among {:#?}", paths[3]);
    }
    // The table, and every export.
    let run = |arguments: &[&str]| -> Result<Vec<u8>> {
        let mut command = Command::new(needs::flowwarden()?);
        let output = command.arg("journal").args(arguments).arg("--journal").arg(&journal).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    let table = run(&["query", "--rule", "names", "--verdict", "log"])?;
    ensure!(lines("the table", &table)?.len() == names.len(), "{}", String::from_utf8_lossy(&table));
    for format in FORMATS {
        let text = run(&["export", "--format", format, "--rule", "names", "--verdict", "log"])?;
        ensure!(lines(format, &text)?.len() == names.len(), "{format}: {}", String::from_utf8_lossy(&text));
    }
    Ok(())
}
