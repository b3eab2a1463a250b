//! Converting between the formats loses nothing: there and back, every tensor bit for bit.

use alti_formats::{Checkpoint, ConvertOptions, FloatType, Format, RopeScaling, convert};
use alti_testkit::{GOLDENS, golden};
use std::path::Path;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn converted(source: &Checkpoint, target: Format, out: &Path, options: &ConvertOptions) -> Checkpoint {
    let done = convert(source, target, out, options, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    open(&done.paths[0])
}

#[track_caller]
fn assert_same_weights(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.weights(), b.weights());
    for info in a.weights() {
        let (left, right) = (a.load(&info.name), b.load(&info.name));
        let (left, right) = (left.expect("left weight"), right.expect("right weight"));
        assert!(left.bytes == right.bytes, "{}: {} differs", a.path().display(), info.name);
    }
}

/// The tensors of a checkpoint's own files are the golden's, byte for byte.
#[track_caller]
fn assert_same_file(name: &str, folder: &Path) {
    let read = |path: &Path| std::fs::read(path.join("model.safetensors")).expect("file is there");
    let (golden, written) = (read(&golden(name)), read(folder));
    let golden = safetensors::SafeTensors::deserialize(&golden).expect("golden");
    let written = safetensors::SafeTensors::deserialize(&written).expect("written");
    assert_eq!(golden.len(), written.len());
    for (tensor, view) in golden.iter() {
        assert_eq!(written.tensor(tensor).expect("tensor was written"), view, "{name} {tensor}");
    }
}

#[test]
fn hugging_face_to_gguf_and_back() {
    for name in GOLDENS {
        let folder = tempfile::tempdir().expect("temporary folder");
        let source = open(&golden(name));
        let gguf = converted(&source, Format::Gguf, &folder.path().join("m.gguf"), &Default::default());
        assert_eq!(gguf.config(), source.config(), "{name}");
        assert_same_weights(&source, &gguf);
        let back = folder.path().join("back");
        let hugging_face = converted(&gguf, Format::HuggingFace, &back, &Default::default());
        assert_eq!(hugging_face.config(), source.config(), "{name}");
        assert_same_file(name, &back);
    }
}

#[test]
fn all_six_directions() {
    for name in GOLDENS {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |file: &str| folder.path().join(file);
        let source = open(&golden(name));
        let meta = converted(&source, Format::Meta, &at("meta"), &Default::default());
        assert_eq!(meta.format(), Format::Meta);
        assert_eq!(meta.config(), source.config(), "{name}");
        assert_same_weights(&source, &meta);
        let gguf = converted(&meta, Format::Gguf, &at("m.gguf"), &Default::default());
        assert_same_weights(&source, &gguf);
        let again = converted(&gguf, Format::Meta, &at("again"), &Default::default());
        assert_eq!(again.config(), source.config(), "{name}");
        let back = converted(&again, Format::HuggingFace, &at("back"), &Default::default());
        assert_eq!(back.config(), source.config(), "{name}");
        assert_same_file(name, &at("back"));
    }
}

#[test]
fn large_models_are_split_over_files() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = open(&golden("llama4-scout"));
    let options = ConvertOptions { max_file_bytes: Some(900_000), ..Default::default() };
    let done = convert(&source, Format::Gguf, &folder.path().join("m.gguf"), &options, &mut |_| {});
    let paths = done.unwrap_or_else(|e| panic!("{e}")).paths;
    assert!(paths.len() > 2 && paths[0].ends_with(format!("m-00001-of-{:05}.gguf", paths.len())));
    // Any file of the set finds the others.
    for path in &paths {
        assert_same_weights(&source, &open(path));
    }
    let sharded = converted(&source, Format::HuggingFace, &folder.path().join("hf"), &options);
    assert_same_weights(&source, &sharded);
    assert!(folder.path().join("hf/model.safetensors.index.json").is_file());
    std::fs::remove_file(&paths[1]).expect("file was written");
    let error = Checkpoint::open(&paths[0]).expect_err("a file is missing").to_string();
    assert!(error.contains("00002-of"), "{error}");
}

#[test]
fn types_can_be_changed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = open(&golden("llama3-gqa"));
    let narrow = ConvertOptions { float_type: FloatType::BF16, ..Default::default() };
    let gguf = converted(&source, Format::Gguf, &folder.path().join("m.gguf"), &narrow);
    // Gains stay in 32 bits, as llama.cpp wants; they go back to the matrices' type where they fit
    // it.
    let types: Vec<&str> = gguf.weights()[..3].iter().map(|info| info.dtype.name()).collect();
    assert_eq!(types, ["BF16", "F32", "BF16"]);
    let half = converted(&source, Format::HuggingFace, &folder.path().join("half"), &narrow);
    let keep = converted(&gguf, Format::HuggingFace, &folder.path().join("keep"), &Default::default());
    assert_eq!(half.weights()[2].dtype.name(), "BF16");
    assert_eq!(
        keep.load(&half.weights()[2].name).expect("weight").bytes,
        half.load(&half.weights()[2].name).expect("weight").bytes
    );
}

#[test]
fn progress_reaches_the_total_and_nothing_partial_is_left() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = open(&golden("llama2-mha"));
    let mut steps = Vec::new();
    convert(&source, Format::Gguf, &folder.path().join("m.gguf"), &Default::default(), &mut |step| {
        steps.push((step.done, step.total));
    })
    .unwrap_or_else(|e| panic!("{e}"));
    assert!(steps.is_sorted() && steps.last().is_some_and(|(done, total)| done == total));
    let missing = folder.path().join("nowhere/m.gguf");
    assert!(convert(&source, Format::Gguf, &missing, &Default::default(), &mut |_| {}).is_err());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("folder").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left, ["m.gguf"]);
    // A folder that holds something is not touched.
    let error = convert(&source, Format::HuggingFace, folder.path(), &Default::default(), &mut |_| {});
    assert!(error.expect_err("folder is not empty").to_string().contains("not empty"));
}

#[test]
fn llama_3_scaling_survives_as_divisors() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for name in ["llama31-scaled", "llama4-scout"] {
        let source = open(&golden(name));
        let path = folder.path().join(format!("{name}.gguf"));
        let gguf = converted(&source, Format::Gguf, &path, &Default::default());
        assert!(matches!(source.config().rope.scaling, RopeScaling::Llama3 { .. }));
        assert_eq!(gguf.config().rope, source.config().rope);
    }
}

/// llama.cpp computes YaRN's own factor, `0.1 ln(factor) + 1`, and multiplies by `attn_factor`:
/// `yarn_attn_factor` times the `mscale` of `rope_yarn`, 1.1386294 for a factor of 4.
#[test]
fn yarn_attention_factors_are_llama_cpp_s() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = folder.path().join("yarn");
    std::fs::create_dir(&source).expect("folder can be made");
    for entry in
        std::fs::read_dir(golden("llama31-scaled")).expect("golden").map(|e| e.expect("entry").path())
    {
        std::fs::copy(&entry, source.join(entry.file_name().expect("name"))).expect("file can be copied");
    }
    let config = std::fs::read(source.join("config.json")).expect("config");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["rope_parameters"] = serde_json::json!({"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
        "original_max_position_embeddings": 64, "attention_factor": 1.5});
    std::fs::write(source.join("config.json"), config.to_string()).expect("file can be written");
    let path = folder.path().join("yarn.gguf");
    let gguf = converted(&open(&source), Format::Gguf, &path, &Default::default());
    assert!((gguf.config().rope.attention_factor() - 1.5).abs() < 1e-6);
    let key = |name: &str| gguf.gguf().expect("GGUF").float(name).expect("a float");
    let written = key("llama.rope.scaling.attn_factor").expect("a factor");
    assert!((written - 1.317_373_6).abs() < 1e-6, "{written}");
    assert_eq!(key("llama.rope.scaling.yarn_attn_factor"), None);

    let mut file = std::fs::read(&path).expect("file");
    for (given, effective) in [(1.0f32, 1.138_629_4f32), (0.5, 0.569_314_7), (0.878_248_9, 1.0)] {
        let name = b"llama.rope.scaling.attn_factor";
        let at =
            file.windows(name.len()).position(|window| window == name).expect("the key") + name.len() + 4;
        file[at..at + 4].copy_from_slice(&given.to_le_bytes());
        std::fs::write(&path, &file).expect("file can be written");
        let found = open(&path).config().rope.attention_factor();
        assert!((found - effective).abs() < 1e-6, "{found} is not {effective}");
    }
}
