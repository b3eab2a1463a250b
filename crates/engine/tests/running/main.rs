//! What a session and an answer promise, on the tiny golden models and the reference backend.

mod generate;
mod session;

use alti_engine::{Session, SessionSettings};
use alti_formats::Checkpoint;
use alti_models::Llama;
use alti_tensor::{KvDType, Reference};
use alti_testkit::golden;
use std::sync::Arc;

/// A session of the golden model `name`, nothing in its context.
fn session(name: &str, context: usize, prefill_chunk: usize) -> Session<Reference<f32>> {
    let backend = Reference::<f32>::new();
    let checkpoint = Checkpoint::open(&golden(name)).expect("the golden model opens");
    let model = Llama::load(&backend, &checkpoint, |_, _| ()).expect("the golden model loads");
    let settings = SessionSettings { context, prefill_chunk, kv_dtype: KvDType::F32 };
    Session::new(backend, Arc::new(model), settings).expect("memory for a small context")
}

/// The logits behind `tokens`, bit by bit, from a session that has seen nothing else.
fn fresh(name: &str, tokens: &[u32]) -> Vec<u32> {
    let mut session = session(name, tokens.len(), tokens.len());
    bits(session.prefill(tokens, |_| true).expect("the tokens fit").expect("nothing cancels"))
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}
