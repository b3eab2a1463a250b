//! Meta's `tokenizer.model`: tiktoken ranks or a SentencePiece protocol buffer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("tokenizer_model", input));
