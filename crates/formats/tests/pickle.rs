//! What a malicious `.pth` file can try: naming functions, cycles, bombs.

use alti_formats::Checkpoint;
use std::path::Path;
use std::time::{Duration, Instant};

/// An archive with one stored entry after another.
fn archive(entries: &[(&str, &[u8])], method: u16) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut common = vec![0; 22];
        common[2..4].copy_from_slice(&method.to_le_bytes());
        common[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        common[16..20].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        common[20..22].copy_from_slice(&(name.len() as u16).to_le_bytes());
        let offset = file.len() as u32;
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(&common);
        directory.extend([0; 12]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04\0\0");
        file.extend(&common);
        file.extend([0; 2]);
        file.extend(name.as_bytes());
        file.extend(*bytes);
    }
    let start = file.len() as u32;
    let size = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend(size.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn open(file: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("temporary folder");
    let params = br#"{"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 40}"#;
    std::fs::write(folder.path().join("params.json"), params).expect("file can be written");
    std::fs::write(folder.path().join("consolidated.00.pth"), file).expect("file can be written");
    let start = Instant::now();
    let error = Checkpoint::open(Path::new(folder.path())).expect_err("refused").to_string();
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    assert!(!error.contains('\n') && error.len() < 1000, "{error:?}");
    error
}

#[track_caller]
fn check(pickle: &[u8], expected: &str) {
    let error = open(&archive(&[("x/data.pkl", pickle)], 0));
    assert!(error.contains(expected), "{error}");
}

#[test]
fn functions_are_refused_by_name() {
    check(b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.", "wants to use os.system; only tensors");
    check(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "wants to use builtins.eval");
    check(b"\x80\x02ctorch.serialization\nload\n.", "wants to use torch.serialization.load");
    check(b"\x80\x02ctorch\nload\n.", "wants to use torch.load");
    check(b"(S'id'\nios\nsystem\n.", "pickle instruction 0x53");
    // A storage is not a function either.
    check(b"\x80\x02ctorch\nFloatStorage\n)R.", "cannot be called");
}

/// A tensor of four numbers in storage `key`, remembered as value 1.
fn remembered_tensor(key: &str) -> Vec<u8> {
    let mut program =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n".to_vec();
    program.push(b'X');
    program.extend((key.len() as u32).to_le_bytes());
    program.extend(key.as_bytes());
    program.extend(b"X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89}tRq\x01");
    program
}

/// A dictionary of `entries`, where value 0 is a string of `name` bytes and value 1 a tensor.
fn dictionary(name: usize, entries: &[u8]) -> Vec<u8> {
    let mut program = b"X".to_vec();
    program.extend((name as u32).to_le_bytes());
    program.resize(5 + name, b'n');
    program.extend(b"q\0");
    [&program, &remembered_tensor("0")[..], b"}(", entries, b"u."].concat()
}

#[test]
fn one_long_string_cannot_be_multiplied() {
    check(&dictionary(500_000, &b"h\0h\x01".repeat(125_000)), "a key of 500000 bytes");
    check(&dictionary(4096, &b"h\0h\x01".repeat(125_000)), "is there twice");
    check(&dictionary(4, b"h\0h\x01h\0h\x01"), "nnnn is there twice");
    let long = [&b"}X\x01\0\0\0w"[..], &remembered_tensor(&"0".repeat(65)), b"s."].concat();
    check(&long, "a persistent id that is not a storage");
}

#[test]
fn cycles_and_bombs_end() {
    // A list in itself, a dictionary in itself.
    check(b"]q\0h\0a.", "not a dictionary");
    check(b"}q\0X\x01\0\0\0ah\0s.", "is a dictionary, not a tensor");
    // Every tuple holds the previous one twice: two to the power of thousands of leaves.
    let mut laughs = b"K\x01q\0".to_vec();
    (0..10_000).for_each(|_| laughs.extend(b"h\0h\0\x86q\0"));
    check(&[&laughs[..], b"."].concat(), "not a dictionary");
    // A million tuples within each other.
    let mut deep = b")".to_vec();
    deep.resize(1 << 20, 0x85);
    check(&deep, "more than 131072 objects");
    check(&vec![b'('; 1 << 20], "ends within an instruction");
    check(&vec![b'.'; (1 << 20) + 1], "longer than");
    check(b"", "ends within an instruction");
    check(b"X\xff\xff\xff\xff.", "ends within an instruction");
    check(b"\x8a\xff.", "more than 64 bits");
    check(b"t.", "a mark where there is none");
    check(b"r\0\0\0\0.", "remembers a value where there is none");
}

/// A dictionary with one tensor of that shape and those strides in a storage of `count` elements.
fn tensor(count: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let number = |value: u64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
    let tuple = |values: &[u64]| {
        let inner: Vec<u8> = values.iter().flat_map(|&value| number(value)).collect();
        [b"(", &inner[..], b"t"].concat()
    };
    [
        b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
            .to_vec(),
        b"X\x01\0\0\x000X\x03\0\0\0cpu".to_vec(),
        number(count),
        b"tQK\0".to_vec(),
        tuple(shape),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn tensors_stay_within_their_storage() {
    let check = |pickle: Vec<u8>, expected: &str| {
        let error = open(&archive(&[("x/data.pkl", &pickle), ("x/data/0", &[0; 16])], 0));
        assert!(error.contains(expected), "{error}");
    };
    check(tensor(4, &[2, 2], &[2, 1]), "tok_embeddings.weight: is missing");
    check(tensor(4, &[2, 3], &[3, 1]), "in a storage of 4 elements");
    check(tensor(4, &[2, 2], &[3, 1]), "in a storage of 4 elements");
    // One number that pretends to be a terabyte.
    check(tensor(4, &[1 << 40], &[0]), "in a storage of 4 elements");
    check(tensor(4, &[1 << 62, 1 << 62], &[1 << 62, 1]), "in a storage of 4 elements");
    // Nothing at all, of a shape that would overflow what is computed from it.
    check(tensor(4, &[0, 1 << 62, 1 << 62], &[1, 1, 1]), "in a storage of 4 elements");
    // A storage that says more than its entry has.
    check(tensor(5, &[2, 2], &[2, 1]), "storage 0, which is missing or too short");
    check(tensor(1 << 62, &[2, 2], &[2, 1]), "storage 0, which is missing or too short");
}

#[test]
fn archives_are_not_unpacked() {
    let error = open(&archive(&[("x/data.pkl", b"}.")], 8));
    assert!(error.contains("compressed"), "{error}");
    let error = open(&archive(&[("x/data.pkl", b"}."), ("x/data.pkl", b"}.")], 0));
    assert!(error.contains("occurs twice"), "{error}");
    let error = open(&archive(&[("x/other", b"}.")], 0));
    assert!(error.contains("without data.pkl"), "{error}");
    let error = open(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.");
    assert!(error.contains("before 1.6"), "{error}");
}
