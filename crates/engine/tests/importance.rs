//! What the importance of a model's columns is measured as: the mean squares of what its matrices meet.

use alti_engine::measure_importance;
use alti_formats::{Checkpoint, Importance};
use alti_models::Llama;
use alti_tensor::Reference;
use alti_testkit::golden;
use alti_testkit::parity::Golden;

fn measured(name: &str) -> (Checkpoint, Importance, usize) {
    let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
    let backend = Reference::<f32>::new();
    let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
    let sequences = Golden::read(name).sequences();
    let tokens = sequences.iter().map(Vec::len).sum();
    let chunks = sequences.iter().map(Vec::as_slice);
    let found = measure_importance(backend, &model, chunks, |_| true).expect("it runs");
    (checkpoint, found, tokens)
}

/// The squares of a row of RMSNorm's output sum to the columns, gains being 1 and epsilon small; so do
/// their means over rows. With gains the recorded hidden states say what the first layer meets.
#[test]
fn the_first_layer_meets_the_normalised_embeddings() {
    let name = "llama3-gqa";
    let (checkpoint, found, _) = measured(name);
    let columns = checkpoint.config().embedding_length;
    let golden = Golden::read(name);
    let hidden = golden.floats("hidden.0");
    let gain =
        checkpoint.load(&alti_formats::WeightName::from_gguf("blk.0.attn_norm.weight").expect("a name"));
    let gain: Vec<f32> =
        gain.expect("the gain").bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
    let mut expected = vec![0f64; columns];
    let rows = hidden.chunks_exact(columns);
    let count = rows.len() as f64;
    for row in rows {
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / columns as f64;
        let scale = 1.0 / (mean + f64::from(checkpoint.config().norm_epsilon)).sqrt();
        for ((sum, &x), &gain) in expected.iter_mut().zip(row).zip(&gain) {
            *sum += (f64::from(x) * scale * f64::from(gain)).powi(2) / count;
        }
    }
    for part in ["attn_q", "attn_k", "attn_v"] {
        let weight = format!("blk.0.{part}.weight");
        let means = found.means(&weight, 1, columns).expect("of this shape").expect("it was met");
        for (mean, expected) in means.iter().zip(&expected) {
            assert!((f64::from(*mean) - expected).abs() <= 1e-4 * expected.abs() + 1e-7, "{mean} {expected}");
        }
    }
    assert_eq!(found.means("output.weight", 1, columns), Ok(None));
    assert!(found.means("blk.0.attn_q.weight", 1, columns + 1).is_err());
}

#[test]
fn every_matrix_of_a_layer_is_met() {
    let (checkpoint, found, _) = measured("llama31-scaled");
    assert_eq!(found.len(), 7 * checkpoint.config().layers);
    assert_eq!(found.chunks, 2);
}

#[test]
fn experts_meet_the_rows_that_are_sent_to_them() {
    let (checkpoint, found, tokens) = measured("llama4-scout");
    let config = checkpoint.config();
    let experts = config.experts.as_ref().expect("it has experts");
    let layer = (0..config.layers).find(|&layer| config.layer_is_moe(layer)).expect("a layer of experts");
    let of = |part: &str| {
        found.means(&format!("blk.{layer}.{part}.weight"), experts.count, config.embedding_length)
    };
    assert_eq!(of("ffn_gate_exps"), of("ffn_up_exps"));
    assert!(of("ffn_gate_exps").expect("of this shape").is_some());
    assert_eq!(found.means(&format!("blk.{layer}.ffn_down_exps.weight"), 1, 1), Ok(None));
    let rows = found.rows(&format!("blk.{layer}.ffn_gate_exps.weight"));
    assert_eq!(rows.iter().sum::<u64>(), (tokens * experts.used) as u64);
}
