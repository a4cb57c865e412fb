//! Every policy in the documentation passes `flowwarden check`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod pages;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

/// What stands before a fragment of a policy.
const VERSION: &str = "version = 1\n";
const INSTANCE: &str = "[[instance]]\nname = \"a\"\nselect = [{ unit = \"nodered.service\" }]\n\
                        user-dir = \"/home/nodered/.node-red\"\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks of TOML of a page with the line on which each begins. Those in a list are indented.
fn examples(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut open) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match &mut open {
            None if trimmed == "```toml" => open = Some((number + 2, String::new())),
            Some(_) if trimmed == "```" => found.extend(open.take()),
            Some((_, block)) => {
                block.push_str(trimmed);
                block.push('\n');
            }
            None => {}
        }
    }
    found
}

#[test]
fn every_policy_of_the_documentation_passes_check() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("policy.toml");
    let mut all = vec![root().join("README.md")];
    pages::below(&root().join("docs"), &mut all);
    let (mut count, mut faults) = (0, Vec::new());
    for page in all {
        for (line, example) in examples(&fs::read_to_string(&page).unwrap()) {
            let before = match example {
                _ if example.contains("version = ") => String::new(),
                _ => format!("{VERSION}{INSTANCE}"),
            };
            fs::write(&file, before + &example).unwrap();
            let check = Command::new(env!("CARGO_BIN_EXE_flowwarden")).arg("check").arg(&file).output().unwrap();
            if !check.status.success() {
                faults.push(format!("{}:{line}: {}", page.display(), String::from_utf8_lossy(&check.stderr)));
            }
            count += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.concat());
    assert!(count >= 10, "{count} examples: are they still marked as TOML?");
}
