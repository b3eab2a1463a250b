//! LoRA adapters as PEFT and llama.cpp write them (`crates/testkit/adapters` says how these were made), and files that
//! are refused in a line that says why.

use alti_formats::gguf::{TensorPlan, Value, WriteOptions, write_gguf};
use alti_formats::{Adapter, Checkpoint, ModelConfig, Part, WeightName};
use alti_tensor::DType;
use alti_testkit::{adapter, golden};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

fn model(name: &str) -> ModelConfig {
    Checkpoint::open(&golden(name)).unwrap_or_else(|e| panic!("{e}")).config().clone()
}

fn open(path: &Path, model: &ModelConfig) -> Adapter {
    Adapter::open(path, model).unwrap_or_else(|e| panic!("{e}"))
}

/// The values of A and B of every matrix, with its scale.
fn values(adapter: &Adapter) -> Vec<(WeightName, f32, [Vec<f32>; 2])> {
    let plain = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect();
    let of = |matrix| {
        let weights = adapter.load(matrix).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!([weights.down.dtype, weights.up.dtype], [DType::F32; 2]);
        [plain(&weights.down.bytes), plain(&weights.up.bytes)]
    };
    adapter.matrices().iter().map(|matrix| (matrix.name, matrix.scale, of(matrix))).collect()
}

#[test]
fn peft_and_gguf_files_of_one_adapter_are_the_same() {
    let model = model("llama3-gqa");
    let folder = adapter("llama3-plain");
    let peft = open(&folder, &model);
    assert_eq!(peft.matrices().len(), 3 * 7);
    assert!(peft.matrices().iter().all(|matrix| matrix.rank == 4 && matrix.scale == 2.0));
    let gguf = open(&folder.join("adapter-f32.gguf"), &model);
    assert_eq!(values(&peft), values(&gguf));
    assert_eq!(peft.fingerprint().unwrap(), gguf.fingerprint().unwrap());
    let by_file = open(&folder.join("adapter_model.safetensors"), &model);
    assert_eq!(values(&by_file), values(&peft));
}

#[test]
fn scales_follow_patterns_and_rank_stabilisation() {
    let peft = open(&adapter("llama3-patterns"), &model("llama3-gqa"));
    let scale = |name: WeightName| {
        let matrix = peft.matrices().iter().find(|matrix| matrix.name == name).expect("it is adapted");
        (matrix.rank, matrix.scale)
    };
    let in_layer = |layer, part| scale(WeightName::in_layer(layer, part));
    let root = |rank: f64| rank.sqrt();
    assert_eq!(in_layer(0, Part::AttentionQuery), (4, 3.0));
    assert_eq!(in_layer(2, Part::AttentionQuery), (4, 1.5), "alpha_pattern of a whole path");
    assert_eq!(in_layer(0, Part::AttentionValue), (6, (6.0 / root(6.0)) as f32), "rank_pattern");
    assert_eq!(in_layer(0, Part::Down), (4, 3.0));
    assert_eq!(in_layer(1, Part::Down), (2, (6.0 / root(2.0)) as f32), "rank_pattern of one layer");
    assert_eq!(scale(WeightName::global(Part::Output)), (4, 2.5), "alpha_pattern");
    let other = open(&adapter("llama3-plain"), &model("llama3-gqa"));
    assert_ne!(peft.fingerprint().unwrap(), other.fingerprint().unwrap());
}

/// What a copy of the plain adapter is refused with when its configuration has this field.
#[track_caller]
fn check_config(field: &str, value: Json, expected: &str) {
    let (folder, source) = (tempfile::tempdir().expect("a temporary folder"), adapter("llama3-plain"));
    let text = fs::read(source.join("adapter_config.json")).expect("the configuration reads");
    let mut config: Json = serde_json::from_slice(&text).expect("the configuration is JSON");
    config[field] = value;
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).expect("a file can be written");
    fs::copy(source.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))
        .expect("a file can be copied");
    let error = Adapter::open(folder.path(), &model("llama3-gqa")).expect_err("it is refused").to_string();
    let named = error.contains("adapter_config.json") && error.contains(field);
    assert!(named && error.contains(expected), "{field}: {error}");
}

#[test]
fn what_would_change_the_result_and_is_not_computed_is_refused() {
    check_config("peft_type", json!("IA3"), "only LORA");
    check_config("use_dora", json!(true), "DoRA");
    check_config("bias", json!("lora_only"), "only none");
    check_config("lora_bias", json!(true), "biases");
    check_config("fan_in_fan_out", json!(true), "transposed");
    check_config("modules_to_save", json!(["embed_tokens"]), "merge it");
    check_config("trainable_token_indices", json!([1, 2]), "merge it");
    check_config("alora_invocation_tokens", json!([7]), "switched on");
    check_config("init_lora_weights", json!("pissa_niter_4"), "path_initial_model_for_weight_conversion");
    check_config("layer_replication", json!([[0, 2], [1, 3]]), "several times");
    check_config("alpha_pattern", json!({".*q_proj|k_proj": 3}), "regular expressions");
    check_config("r", json!(5), "has rank 4");
    check_config("r", json!(null), "is missing");
    check_config("lora_alpha", json!("eight"), "must be a number");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let error = Adapter::open(&adapter("llama3-plain"), &model("llama2-mha")).expect_err("another shape");
    assert!(error.to_string().contains("another model's"), "{error}");
    let error = Adapter::open(&adapter("llama4-scout"), &model("llama3-gqa")).expect_err("other modules");
    assert!(error.to_string().contains("another model's"), "{error}");
    let error = Adapter::open(&golden("llama3-gqa"), &model("llama3-gqa")).expect_err("a model");
    assert!(error.to_string().contains("not a PEFT adapter"), "{error}");
}

/// A GGUF adapter of one matrix with this metadata in place of its own, and these tensors.
fn written(
    folder: &Path,
    changed: &[(&str, Value)],
    tensors: &[(&str, DType, [usize; 2])],
) -> std::path::PathBuf {
    let text = |text: &str| Value::String(text.to_owned());
    let mut metadata = vec![
        ("general.architecture".to_owned(), text("llama")),
        ("general.type".to_owned(), text("adapter")),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), Value::F32(16.0)),
    ];
    for (key, value) in changed {
        metadata.retain(|(own, _)| own != key);
        metadata.push(((*key).to_owned(), value.clone()));
    }
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|&(name, dtype, shape)| TensorPlan { name: name.to_owned(), dtype, shape: shape.to_vec() })
        .collect();
    let bytes = |index: usize| {
        let TensorPlan { dtype, shape, .. } = &plans[index];
        Ok(vec![0u8; dtype.bytes_for(shape.iter().product()).expect("whole blocks")].into())
    };
    let path = folder.join("adapter.gguf");
    write_gguf(
        &path,
        &metadata,
        &plans,
        bytes,
        WriteOptions { replace: true, ..WriteOptions::default() },
        &mut |_| (),
    )
    .unwrap_or_else(|e| panic!("{e}"));
    path
}

const A: &str = "blk.0.attn_q.weight.lora_a";
const B: &str = "blk.0.attn_q.weight.lora_b";

#[test]
fn gguf_adapters_may_be_quantised_and_are_decoded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model("llama3-gqa");
    let path = written(folder.path(), &[], &[(A, DType::Q8_0, [32, 96]), (B, DType::BF16, [96, 32])]);
    let opened = open(&path, &model);
    assert_eq!(opened.matrices()[0].scale, 0.5);
    assert_eq!(values(&opened)[0].2.each_ref().map(Vec::len), [32 * 96, 96 * 32]);
    let silent = [("adapter.lora.alpha", Value::F32(0.0))];
    let path = written(folder.path(), &silent, &[(A, DType::F32, [4, 96]), (B, DType::F32, [96, 4])]);
    assert_eq!(open(&path, &model).matrices()[0].scale, 1.0, "as llama.cpp takes it");
}

#[test]
fn gguf_files_that_are_no_adapter_of_the_model_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model("llama3-gqa");
    let pair = [(A, DType::F32, [4, 96]), (B, DType::F32, [96, 4])];
    let check = |changed: &[(&str, Value)], tensors: &[(&str, DType, [usize; 2])], expected: &str| {
        let path = written(folder.path(), changed, tensors);
        let error = Adapter::open(&path, &model).expect_err("it is refused").to_string();
        assert!(error.contains("adapter.gguf") && error.contains(expected), "{expected}: {error}");
    };
    let text = |text: &str| Value::String(text.to_owned());
    check(&[("general.type", text("model"))], &pair, "must be adapter");
    check(&[("adapter.type", text("controlvector"))], &pair, "must be lora");
    check(&[("general.architecture", text("llama4"))], &pair, "another kind of model");
    check(&[("adapter.alora.invocation_tokens", Value::u32s([1]))], &pair, "switched on");
    check(&[("adapter.lora.alpha", Value::F32(f32::INFINITY))], &pair, "scale of inf");
    check(&[], &pair[..1], "other half");
    check(&[], &[(A, DType::F32, [4, 96]), (B, DType::F32, [96, 5])], "no rank in common");
    check(&[], &[(A, DType::F32, [4, 64]), (B, DType::F32, [96, 4])], "another model's");
    check(&[], &[pair[0], pair[1], ("token_embd.weight", DType::F32, [4, 4])], "neither lora_a nor lora_b");
    check(
        &[],
        &[
            ("token_embd.weight.lora_a", DType::F32, [4, 96]),
            ("token_embd.weight.lora_b", DType::F32, [256, 4]),
        ],
        "cannot be adapted",
    );
    let far = [
        ("blk.3.attn_q.weight.lora_a", DType::F32, [4, 96]),
        ("blk.3.attn_q.weight.lora_b", DType::F32, [96, 4]),
    ];
    check(&[], &far, "the model does not have");
}
