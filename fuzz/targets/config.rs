//! See `cases.rs`.

#![no_main]

#[path = "../cases.rs"]
#[allow(dead_code, reason = "each target runs one case")]
mod cases;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cases::config(bytes));
