//! LoRA adapters: a GGUF file, or PEFT's two files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("adapter", input));
