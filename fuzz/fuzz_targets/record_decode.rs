//! No bytes make the record decoder panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::record::decode::decode;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode(bytes);
});
