//! What OpenAI's routes have in common: messages, usage, probabilities, ranges.

use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::{Format, response_format, shortest};
use crate::wire::{Described, Nullable};
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::{TokenOutput, Usage};
use alti_text::{Content, Message, Tokenizer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// What a message says: text, or a list of parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct MessageContent(pub Content);

impl<'de> Deserialize<'de> for MessageContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(MessageContent(Content::Text(text))),
            Value::Array(parts) => Ok(MessageContent(Content::Parts(parts))),
            other => {
                let found = crate::wire::kind(&other);
                Err(serde::de::Error::custom(format!(
                    "invalid type: {found}, expected a string or a list of parts"
                )))
            }
        }
    }
}

impl Described for MessageContent {
    fn schema() -> Value {
        json!({ "oneOf": [{ "type": "string" }, { "type": "array", "items": { "type": "object" } }] })
    }
}

crate::wire! {
    /// A turn of a conversation.
    pub struct ChatMessage {
        required {
            /// Who speaks: `system`, `developer`, `user`, `assistant`, `tool`, `function`.
            role: String,
        }
        optional {
            /// Text, or parts of type `text`. An assistant that only calls tools says nothing.
            content: MessageContent,
            /// The assistant's calls.
            tool_calls: Vec<Value>,
            /// Which call a tool's answer belongs to.
            tool_call_id: String,
            /// The speaker's name, for templates that read one.
            name: String,
            /// What the assistant thought, for templates that read it.
            reasoning_content: String,
            /// The assistant's call in the older form; its result is the next turn of `function`.
            function_call: Value,
        }
        ignored {
            /// Audio of an earlier answer.
            audio: Value,
            /// Why an earlier answer was refused.
            refusal: Value,
        }
    }
    /// What a request took.
    pub struct CompletionUsage {
        required {
            /// Tokens of the prompt.
            prompt_tokens: usize,
            /// Tokens generated.
            completion_tokens: usize,
            /// Both together.
            total_tokens: usize,
            /// More about the prompt.
            prompt_tokens_details: PromptTokensDetails,
            /// More about the answer.
            completion_tokens_details: CompletionTokensDetails,
        }
    }
    /// More about a prompt's tokens.
    pub struct PromptTokensDetails {
        required {
            /// Tokens whose computation was saved by the prefix cache.
            cached_tokens: usize,
        }
    }
    /// More about an answer's tokens.
    pub struct CompletionTokensDetails {
        required {
            /// Always 0: thoughts are not counted apart.
            reasoning_tokens: usize,
            /// Drafted tokens that were right (speculative decoding).
            accepted_prediction_tokens: usize,
            /// Drafted tokens that were not.
            rejected_prediction_tokens: usize,
        }
    }
    /// A token and how likely it was.
    pub struct TokenLogprob {
        required {
            /// The token's text; what is not UTF-8 on its own is U+FFFD.
            token: String,
            /// Natural logarithm of its probability, before any sampler.
            logprob: f64,
            /// The token's bytes.
            bytes: Vec<u32>,
            /// The most likely tokens in its place.
            top_logprobs: Vec<TopLogprob>,
        }
    }
    /// One of the most likely tokens.
    pub struct TopLogprob {
        required {
            /// The token's text.
            token: String,
            /// Natural logarithm of its probability.
            logprob: f64,
            /// The token's bytes.
            bytes: Vec<u32>,
        }
    }
    /// Probabilities of a choice's tokens.
    pub struct ChoiceLogprobs {
        required {
            /// The tokens of its text.
            content: Vec<TokenLogprob>,
            /// Always null.
            refusal: Nullable<String>,
        }
    }
}

/// A probability of zero, as OpenAI writes it: JSON has no infinity.
const NO_LOGPROB: f64 = -9999.0;

/// A log-probability that JSON can carry: the shortest decimal fraction that is this number, so that it reads the same
/// in a stream and in one piece.
pub(crate) fn finite(logprob: f32) -> f64 {
    if logprob.is_finite() { shortest(logprob) } else { NO_LOGPROB }
}

fn bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u32> {
    tokenizer.token_bytes(token).iter().map(|&byte| u32::from(byte)).collect()
}

/// Tokens with their probabilities.
pub(crate) fn logprobs(tokenizer: &Tokenizer, tokens: &[TokenOutput]) -> ChoiceLogprobs {
    let top = |&(token, logprob): &(u32, f32)| TopLogprob {
        token: tokenizer.token_text(token).into_owned(),
        logprob: finite(logprob),
        bytes: bytes(tokenizer, token),
    };
    let one = |token: &TokenOutput| TokenLogprob {
        token: tokenizer.token_text(token.token).into_owned(),
        logprob: token.logprob.map_or(NO_LOGPROB, finite),
        bytes: bytes(tokenizer, token.token),
        top_logprobs: token.top.iter().map(top).collect(),
    };
    ChoiceLogprobs { content: tokens.iter().map(one).collect(), refusal: Nullable(None) }
}

/// What answers took.
pub(crate) fn usage(usage: &Usage) -> CompletionUsage {
    CompletionUsage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.generated_tokens,
        total_tokens: usage.prompt_tokens + usage.generated_tokens,
        prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        completion_tokens_details: CompletionTokensDetails {
            reasoning_tokens: 0,
            accepted_prediction_tokens: usage.accepted_tokens,
            rejected_prediction_tokens: usage.drafted_tokens.saturating_sub(usage.accepted_tokens),
        },
    }
}

impl ChatMessage {
    /// The turn as templates read it.
    pub(crate) fn into_message(self) -> Message {
        let mut extra = Map::new();
        let fields = [
            ("tool_call_id", self.tool_call_id),
            ("name", self.name),
            ("reasoning_content", self.reasoning_content),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                extra.insert(name.into(), value.into());
            }
        }
        Message {
            role: self.role,
            content: self.content.map(|content| content.0),
            tool_calls: self.tool_calls.unwrap_or_default(),
            extra,
        }
    }
}

/// What an answer has to obey, by `response_format` or else by llama.cpp's fields; and the field that says it.
///
/// # Errors
/// A format that is none.
pub(super) fn format(
    given: Option<&Map<String, Value>>,
    others: &Map<String, Value>,
) -> ApiResult<(Format, &'static str)> {
    if let Some(given) = given {
        return Ok((response_format(&Value::Object(given.clone()))?, "response_format"));
    }
    let format = crate::llama_cpp::grammar_fields(others)?;
    let field = match &format {
        Format::Grammar(GrammarSource::Gbnf(_)) => "grammar",
        Format::Grammar(GrammarSource::Regex(_)) => "regex",
        _ => "json_schema",
    };
    Ok((format, field))
}

/// Checks that the biases of tokens are in the range that OpenAI documents.
///
/// # Errors
/// When one is outside.
pub(super) fn check_logit_bias(biases: Option<&Map<String, Value>>) -> ApiResult<()> {
    let outside = |bias: &Value| bias.as_f64().is_some_and(|bias| !(-100.0..=100.0).contains(&bias));
    match biases.into_iter().flatten().find(|(_, bias)| outside(bias)) {
        Some((token, bias)) => {
            let token = excerpt(token);
            let message = format!("`logit_bias` of token {token} is {bias}: it must be between -100 and 100");
            Err(ApiError::field("logit_bias", message))
        }
        None => Ok(()),
    }
}

/// Checks a number's range as OpenAI documents it.
///
/// # Errors
/// When it is outside.
pub(crate) fn within(name: &str, value: Option<f32>, least: f32, most: f32) -> ApiResult<()> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ApiError::field(name, format!("`{name}` is {value}: it must be between {least} and {most}")))
        }
        _ => Ok(()),
    }
}
