//! Any text as settings.js: an attacker may have written the file. Reading it must terminate and show no secret.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use node_red::instance::settings::{Environment, Settings};

fuzz_target!(|text: &str| {
    let environment = Environment { complete: text.len() % 2 == 0, ..Environment::default() };
    let settings = Settings::parse(text, Path::new("/ud/settings.js"), &environment, Some(Path::new("/work")));
    assert!(settings.unknown().iter().all(|line| line.len() < 400 && !line.contains('\0')));
});
