//! Opening Hugging Face checkpoints: the configuration and the canonical layout of the weights.

use alti_formats::{Architecture, Checkpoint, Format, Part, RopeScaling, WeightName};
use alti_testkit::{GOLDENS, golden};
use safetensors::SafeTensors;

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(name)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_golden_model_opens_with_all_its_weights() {
    for name in GOLDENS {
        let model = open(name);
        assert_eq!(model.format(), Format::HuggingFace);
        let expected = model.config().weight_shapes();
        assert_eq!(model.weights().len(), expected.len(), "{name}");
        for (weight, shape) in expected {
            assert!(model.contains(&weight));
            assert_eq!(model.load(&weight).unwrap_or_else(|e| panic!("{e}")).shape, shape, "{name} {weight}");
        }
    }
}

#[test]
fn configurations_are_read() {
    let llama2 = open("llama2-mha");
    assert_eq!((llama2.config().heads, llama2.config().kv_heads, llama2.config().head_dim), (4, 4, 16));
    assert_eq!((llama2.config().rope.theta, &llama2.config().rope.scaling), (1e4, &RopeScaling::None));
    assert_eq!((llama2.config().bos, llama2.config().eos.as_slice()), (Some(1), [2].as_slice()));

    let tied = open("llama32-tied");
    assert!(tied.config().tied_embeddings);
    assert!(!tied.contains(&WeightName::global(Part::Output)));
    let scaling = RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original_context: 64 };
    assert_eq!(tied.config().rope.scaling, scaling);

    let maverick = open("llama4-maverick");
    let config = maverick.config();
    assert_eq!(config.architecture, Architecture::Llama4);
    assert!(!config.qk_norm && open("llama4-scout").config().qk_norm);
    assert_eq!((config.feed_forward_length, config.moe_layer_step()), (160, Some(2)));
    assert_eq!(config.experts.as_ref().map(|e| (e.count, e.used, e.feed_forward_length)), Some((4, 1, 96)));
    assert_eq!([2, 3].map(|layer| config.layer_chunk(layer)), [Some(8), None]);
    assert_eq!([2, 3].map(|layer| config.layer_uses_rope(layer)), [true, false]);
    assert_eq!(config.temperature.map(|t| (t.floor_scale, t.attention_scale)), Some((8.0, 0.1)));
}

/// The f32 values of one tensor of the golden model's own file.
fn stored(name: &str, tensor: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(golden(name).join("model.safetensors")).expect("golden is committed");
    let file = SafeTensors::deserialize(&bytes).expect("golden is a safetensors file");
    let view = file.tensor(tensor).expect("golden has the tensor");
    (view.shape().to_vec(), floats(view.data()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

#[test]
fn query_rows_are_interleaved_for_llama_and_left_alone_for_llama_4() {
    let model = open("llama3-gqa");
    let (shape, file) = stored("llama3-gqa", "model.layers.1.self_attn.k_proj.weight");
    let loaded = model.load(&WeightName::in_layer(1, Part::AttentionKey)).expect("key weight");
    let loaded = floats(&loaded.bytes);
    let (head_dim, columns) = (model.config().head_dim, shape[1]);
    for row in 0..shape[0] {
        let (head, pair, second) = (row / head_dim, row % head_dim / 2, row % 2);
        let source = head * head_dim + second * head_dim / 2 + pair;
        assert_eq!(loaded[row * columns..][..columns], file[source * columns..][..columns], "row {row}");
    }
    let (_, file) = stored("llama4-scout", "model.layers.1.self_attn.k_proj.weight");
    let scout = open("llama4-scout");
    let loaded = scout.load(&WeightName::in_layer(1, Part::AttentionKey)).expect("key weight");
    assert_eq!(floats(&loaded.bytes), file);
}

#[test]
fn fused_experts_are_three_tensors() {
    let model = open("llama4-scout");
    let (shape, file) = stored("llama4-scout", "model.layers.2.feed_forward.experts.gate_up_proj");
    let [experts, dim, double] = shape[..] else { panic!("experts are three-dimensional") };
    for (part, first) in [(Part::ExpertsGate, 0), (Part::ExpertsUp, double / 2)] {
        let loaded = model.load(&WeightName::in_layer(2, part)).expect("expert weight");
        let values = floats(&loaded.bytes);
        for (index, value) in values.iter().enumerate() {
            let (expert, row, column) = (index / (dim * double / 2), index / dim % (double / 2), index % dim);
            assert!(expert < experts);
            assert_eq!(*value, file[(expert * dim + column) * double + first + row]);
        }
    }
}
