//! Puts files through what [`alti_testkit::hostile`] does with them, one after the other, and says
//! for each how it ended, how long that took and how much memory: `hostile TARGET FILE...`. It is a
//! program so that a test can measure it and outlive it, and to see what a fuzzer's find does.
#![forbid(unsafe_code)]

use alti_testkit::hostile::{self, TARGETS};
use alti_testkit::memory;
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(target) = hostile::find(&name) else {
        let names = TARGETS.map(|target| target.name).join(", ");
        eprintln!("usage: hostile TARGET FILE...; targets: {names}");
        std::process::exit(2);
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let memory = memory::Peak::start();
    for file in arguments {
        println!("start\t{file}");
        let input = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let bytes = target.write(&input, folder.path());
        drop(input);
        memory.again();
        let start = Instant::now();
        let outcome = target.open(folder.path());
        let (took, grown) = (start.elapsed(), memory.grown());
        let outcome = outcome.map_or_else(|refusal| refusal, |()| "read".to_owned());
        println!("end\t{}\t{grown}\t{bytes}\t{outcome}", took.as_millis());
    }
}
