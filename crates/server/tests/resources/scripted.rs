//! A model whose answers are known: it says what it was told to, or says the last question again.

use alti_engine::EngineError;
use alti_engine::adapters::Lease as AdapterLease;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{
    EmbeddingJob, Job, Output, Rejected, Sink, SlotAction, SlotName, Status, TokenOutput, Usage,
};
use alti_engine::stop::FinishReason;
use alti_server::models::{Cancel, Inference};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Answers `say X` with `X`, `forever` until it is cancelled, `slowly` with as many letters as it may in two seconds,
/// `break` with a failure, and anything else with itself.
pub struct Scripted;

impl Inference for Scripted {
    fn slot(&self, name: SlotName, _: SlotAction<'_>) -> Result<usize, EngineError> {
        Err(EngineError::EmptySlot { slot: name.slot })
    }

    fn submit(&self, job: Job, mut sink: Sink) -> Result<Cancel, Rejected> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let cancel = cancelled.clone();
        std::thread::spawn(move || {
            let prompt: Vec<u8> = job.prompt.iter().map(|token| *token as u8).collect();
            let prompt = String::from_utf8_lossy(&prompt).into_owned();
            let question = prompt.rsplit("user: ").next().unwrap_or_default();
            let question = question.split("\nassistant:").next().unwrap_or_default();
            if question == "break" {
                let error = EngineError::Stopped { what: "it was told to break".into() };
                sink(Output::Failed(error));
                return;
            }
            let slowly = question == "slowly";
            if slowly {
                std::thread::sleep(Duration::from_secs(2));
            }
            let forever = question == "forever";
            let answer = question.strip_prefix("say ").unwrap_or(question).to_owned();
            let most = usize::try_from(job.sampling.max_tokens).unwrap_or(usize::MAX);
            let (mut said, mut reason) = (0, FinishReason::StopToken(0));
            let letters: Vec<char> = answer.chars().collect();
            while forever || slowly || said < letters.len() {
                if cancelled.load(Ordering::Relaxed) {
                    reason = FinishReason::Cancelled;
                    break;
                }
                if said == most && !forever {
                    reason = FinishReason::Length;
                    break;
                }
                let letter = letters[said % letters.len()];
                let token = TokenOutput { token: letter as u32 & 0xff, logprob: Some(-0.5), top: Vec::new() };
                if !sink(Output::Token { choice: 0, token, text: letter.to_string() }) {
                    reason = FinishReason::Cancelled;
                    break;
                }
                said += 1;
                if forever {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            let usage = Usage { prompt_tokens: job.prompt.len(), generated_tokens: said, ..Usage::default() };
            sink(Output::Finished { choice: 0, text: String::new(), reason, seed: 0, usage });
        });
        Ok(Box::new(move || cancel.store(true, Ordering::Relaxed)))
    }

    /// Counts letters: texts with the same words are near to one another.
    fn embed(&self, job: EmbeddingJob, mut sink: Sink) -> Result<Cancel, Rejected> {
        let mut values = vec![0.01; 256];
        job.tokens.iter().for_each(|token| values[*token as usize % 256] += 1.0);
        let usage = Usage { prompt_tokens: job.tokens.len(), ..Usage::default() };
        sink(Output::Embedding { values, usage });
        Ok(Box::new(|| {}))
    }

    fn check_grammar(&self, _: &GrammarSource) -> Result<(), EngineError> {
        Ok(())
    }

    fn status(&self) -> Status {
        Status::default()
    }

    fn context(&self) -> usize {
        4096
    }

    fn max_running(&self) -> usize {
        8
    }

    fn embedding_length(&self) -> usize {
        256
    }

    fn load_adapter(&self, name: &str, _: &Path) -> Result<AdapterLease, EngineError> {
        Ok(AdapterLease::new(name, String::new()))
    }

    fn drop_adapter(&self, _: &str) -> bool {
        false
    }

    fn shutdown(&self, _: Duration) {}
}
