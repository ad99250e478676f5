//! libFuzzer target; see `targets.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| constellation_programs_fuzz::targets::run("renewal", bytes));
