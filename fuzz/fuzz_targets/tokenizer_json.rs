//! `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, as one input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("tokenizer_json", input));
