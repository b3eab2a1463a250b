//! A Jinja template: compiled, and rendered for a conversation with tools.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("chat_template", input));
