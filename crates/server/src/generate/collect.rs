//! An answer as a whole: its events put together.

use super::{Ended, Event, Generation, ToolCall};
use crate::error::ApiResult;
use alti_engine::serving::{TokenOutput, Usage};

/// All answers to a request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The prompt's tokens, where they were asked for.
    pub prompt: Vec<TokenOutput>,
    /// The answers.
    pub choices: Vec<Choice>,
    /// What they took together.
    pub usage: Usage,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its text, calls of tools left out.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<TokenOutput>,
    /// The tools it calls.
    pub calls: Vec<ToolCall>,
    /// Why it ended.
    pub ended: Ended,
    /// The seed it was drawn with.
    pub seed: i64,
}

/// Adds what another choice took.
pub(crate) fn add_usage(sum: &mut Usage, usage: &Usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.cached_tokens += usage.cached_tokens;
    sum.generated_tokens += usage.generated_tokens;
    sum.drafted_tokens += usage.drafted_tokens;
    sum.accepted_tokens += usage.accepted_tokens;
    sum.queue_seconds = sum.queue_seconds.max(usage.queue_seconds);
    sum.prefill_seconds = sum.prefill_seconds.max(usage.prefill_seconds);
    sum.decode_seconds = sum.decode_seconds.max(usage.decode_seconds);
    sum.cpu_seconds += usage.cpu_seconds;
}

/// Waits for all answers.
///
/// # Errors
/// When the job failed.
pub async fn collect(mut generation: Generation) -> ApiResult<Answer> {
    let mut answer = Answer::default();
    while let Some(event) = generation.next().await? {
        answer.add(event);
    }
    Ok(answer)
}

impl Answer {
    fn choice(&mut self, index: u32) -> &mut Choice {
        let none = Choice {
            text: String::new(),
            tokens: Vec::new(),
            calls: Vec::new(),
            ended: Ended::Cancelled,
            seed: 0,
        };
        if self.choices.len() <= index as usize {
            self.choices.resize(index as usize + 1, none);
        }
        &mut self.choices[index as usize]
    }

    /// Adds what is told next.
    pub(crate) fn add(&mut self, event: Event) {
        match event {
            Event::Prompt(tokens) => self.prompt = tokens,
            Event::Text { choice, text, tokens } => {
                let choice = self.choice(choice);
                choice.text.push_str(&text);
                choice.tokens.extend(tokens);
            }
            Event::CallBegin { choice, id, name, .. } => {
                self.choice(choice).calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Event::CallArguments { choice, index, arguments } => {
                if let Some(call) = self.choice(choice).calls.get_mut(index) {
                    call.arguments.push_str(&arguments);
                }
            }
            Event::Finished { choice, ended, seed, usage } => {
                let choice = self.choice(choice);
                (choice.ended, choice.seed) = (ended, seed);
                add_usage(&mut self.usage, &usage);
            }
        }
    }
}
