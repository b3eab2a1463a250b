//! Every seed of the fuzz targets, as it is and with seeded damage: refused in a line that names the
//! file, or read; without a panic, within a second, in no more memory than the file's size and 64
//! MiB. Each kind runs in a process of its own, which is measured and may die.

use alti_testkit::hostile::TARGETS;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Milliseconds that one file may take.
const LONGEST: u64 = 1000;
/// Bytes that may be used beyond the size of the files.
const MEMORY: u64 = 64 << 20;
/// Damaged copies of each seed.
const COPIES: u64 = 4;

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths
}

/// A generator of the test's own, so that a failure can be repeated.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Flips bits, overwrites numbers, repeats and cuts, as a fuzzer does.
fn damage(input: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..1 + random(state) % 4 {
        let length = input.len() as u64;
        if length == 0 {
            return;
        }
        let at = (random(state) % length) as usize;
        match random(state) % 5 {
            0 => input[at] ^= 1 << (random(state) % 8),
            1 => input[at] = random(state) as u8,
            2 => {
                let number = [u64::MAX, 1 << 63, 1 << 62, 1 << 32, 0][(random(state) % 5) as usize];
                let end = (at + 8).min(input.len());
                input[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            3 => {
                let end = (at + random(state) as usize % 64).min(input.len());
                let repeated = input[at..end].to_vec();
                input.splice(at..at, repeated);
            }
            _ => input.truncate(at),
        }
    }
}

fn survives(files: &[PathBuf], target: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_hostile"))
        .arg(target)
        .args(files)
        .output()
        .expect("the program starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = printed.lines().rfind(|line| line.starts_with("start\t")).unwrap_or_default();
    assert!(output.status.success(), "{target}: {last}: {}\n{errors}", output.status);
    let ends: Vec<&str> = printed.lines().filter(|line| line.starts_with("end\t")).collect();
    assert_eq!(ends.len(), files.len(), "one line for each file");
    for (file, end) in files.iter().zip(ends) {
        let numbers: Vec<u64> = end.split('\t').filter_map(|field| field.parse().ok()).collect();
        let [took, grown, bytes] = numbers[..] else { panic!("{end:?}") };
        let what = format!("{target}: {}: {took} ms, {grown} bytes of memory: {end}", file.display());
        assert!(took <= LONGEST, "too slow: {what}");
        assert!(grown <= bytes + MEMORY, "too much memory: {what}");
    }
}

#[test]
fn every_seed_is_read_or_refused() {
    for target in TARGETS {
        survives(&seeds(target.name), target.name);
    }
}

#[test]
fn every_damaged_seed_is_read_or_refused() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for target in TARGETS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut files = Vec::new();
        for seed in seeds(target.name) {
            for copy in 0..COPIES {
                let mut input = fs::read(&seed).expect("a seed can be read");
                damage(&mut input, &mut state);
                let name = format!("{}-{copy}", seed.file_name().unwrap_or_default().to_string_lossy());
                files.push(folder.path().join(name));
                fs::write(&files[files.len() - 1], input).expect("a file can be written");
            }
        }
        survives(&files, target.name);
    }
}
