//! A GGUF model, or both files of a split one: every weight, its tokenizer, its chat template.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("gguf", input));
