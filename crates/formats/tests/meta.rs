//! Meta checkpoints as PyTorch writes them: several ranks, fused and renamed tensors, views of one
//! storage. `fixtures/make_meta.py` made them, with the expected canonical weights beside each.

use alti_formats::{Architecture, Checkpoint, Format, Part, RopeScaling, WeightName};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/meta").join(name)
}

#[track_caller]
fn check(name: &str) -> Checkpoint {
    let model = Checkpoint::open(&fixture(name)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.format(), Format::Meta);
    let expected = std::fs::read(fixture(name).join("expected.safetensors")).expect("fixture is committed");
    let expected = SafeTensors::deserialize(&expected).expect("a safetensors file");
    assert_eq!(model.weights().len(), expected.len(), "{name}");
    for (tensor, view) in expected.iter() {
        let weight = WeightName::from_gguf(tensor).expect("a canonical name");
        let loaded = model.load(&weight).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(loaded.shape, view.shape(), "{name} {tensor}");
        assert!(*loaded.bytes == *view.data(), "{name} {tensor}");
    }
    model
}

#[test]
fn llama_2_of_two_ranks() {
    let model = check("llama2-mp2");
    let config = model.config();
    assert_eq!((config.vocabulary_size, config.kv_heads, config.feed_forward_length), (40, 4, 48));
    assert_eq!((config.rope.theta, &config.rope.scaling), (1e4, &RopeScaling::None));
}

#[test]
fn llama_3_of_two_ranks() {
    let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192 };
    assert_eq!(check("llama3-mp2").config().rope.scaling, scaling);
}

#[test]
fn key_heads_repeated_over_ranks_are_taken_once() {
    for name in ["llama3-mp4-repeated", "llama3-mp4-counted"] {
        assert_eq!(check(name).config().kv_heads, 2, "{name}");
    }
}

#[test]
fn views_parameters_and_tied_storages() {
    let model = check("views-tied");
    assert!(model.config().tied_embeddings && !model.contains(&WeightName::global(Part::Output)));
}

#[test]
fn llama_4_with_fused_names() {
    let model = check("llama4-mp2-fused");
    let config = model.config();
    assert_eq!(config.architecture, Architecture::Llama4);
    assert_eq!(config.experts.as_ref().map(|e| (e.count, e.feed_forward_length)), Some((3, 24)));
    assert_eq!((config.layer_is_moe(0), config.layer_is_moe(1)), (false, true));
    assert_eq!((config.layer_chunk(0), config.layer_chunk(1)), (Some(8192), None));
    let scaling = RopeScaling::Llama3 { factor: 16.0, low: 1.0, high: 1.0, original_context: 8192 };
    assert_eq!(config.rope.scaling, scaling);
}
