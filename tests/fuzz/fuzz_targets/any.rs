//! The target that this binary is called after, over bytes that the fuzzer makes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ullage_tests::fuzz::TARGETS;

fuzz_target!(|bytes: &[u8]| {
    let target = TARGETS.iter().find(|t| t.name == env!("CARGO_BIN_NAME")).expect("a target of the list");
    (target.run)(bytes);
});
