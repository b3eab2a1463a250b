//! The pickle of a `.pth` file without the archive around it, which would keep a fuzzer from getting far.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| alti_testkit::hostile::survive("pickle", input));
