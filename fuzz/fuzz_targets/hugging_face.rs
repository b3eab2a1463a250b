//! `config.json`, `model.safetensors` and an index, as one input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("hugging_face", input));
