//! No text makes the policy parser panic, and every fault has a place in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::policy::parse::parse;

fuzz_target!(|text: &str| {
    if let Err(faults) = parse(text) {
        assert!(!faults.is_empty());
        let lines = text.matches('\n').count() + 1;
        assert!(faults.iter().all(|fault| fault.line <= lines));
    }
});
