#![no_main]

#[path = "../../tests/support/fuzzed/mod.rs"]
#[allow(dead_code, reason = "each target uses a part of it")]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::cel_csv(data));
