//! `params.json` and up to three `consolidated.NN.pth`, as one input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("meta", input));
