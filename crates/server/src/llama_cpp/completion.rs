//! `POST /completion` and `POST /infill`.

use super::answer::{Probabilities, Telling, answer};
use super::prompts::{Prompt, Prompts};
use super::settings::settings;
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::{Options, encode_plain, fill_in_prompt, is_setting, with_text};
use crate::models::Lease;
use crate::route::Call;
use alti_text::Specials;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Declares a request for text: its own fields, and those that all such requests have.
macro_rules! request_for_text {
    ($(#[doc = $about:literal])+ $name:ident { $($required:tt)* } { $($own:tt)* }) => {
        crate::wire! {
            $(#[doc = $about])+
            pub struct $name {
                required { $($required)* }
                optional {
                    $($own)*
                    /// The model's name; the server's default model where none is given.
                    model: String,
                    /// Whether the answer is streamed.
                    stream: bool,
                    /// How many of the most likely tokens are told with each.
                    n_probs: u32,
                    /// Whether probabilities are told as such (`prob`, `top_probs`) and not as logarithms. They are the
                    /// model's own, before samplers; at temperature 0, where the most likely token is always taken, its is 1.
                    post_sampling_probs: bool,
                    /// Whether the answer's tokens are told.
                    return_tokens: bool,
                    /// The only fields of the answer that are told, by name; `a/b` is the field `b` of `a`. None is all.
                    response_fields: Vec<String>,
                    /// Whether the prefix cache is used.
                    cache_prompt: bool,
                    /// Whether the model's end-of-answer tokens are ignored.
                    ignore_eos: bool,
                    /// GBNF that the answer has to obey.
                    grammar: String,
                    /// JSON schema that the answer has to obey.
                    json_schema: Value,
                    /// The number under which the text is remembered, for `/slots/{slot}`; -1 is none.
                    id_slot: i64,
                    /// How much of each adapter is wanted (`id`, `scale`), those that are not named at 0: refused where that
                    /// is not so already, as by `POST /lora-adapters`.
                    lora: Vec<Value>,
                    /// Milliseconds from the first token on, after which the answer ends once it has a new line; 0 is no limit.
                    t_max_predict_ms: i64,
                }
                ignored {
                    /// Tokens that are kept when the context is full: it ends the answer here.
                    n_keep: i64,
                    /// Whether timings come with each token.
                    timings_per_token: bool,
                }
            }
        }

        impl $name {
            /// How the text is to be written.
            ///
            /// # Errors
            /// Settings that make no sense, a slot that is none, adapters that the model is not used with.
            fn options(&self, model: &Lease, others: &Map<String, Value>) -> ApiResult<Options> {
                if let Some(wanted) = &self.lora {
                    super::state::check_scales(model, "lora", wanted)?;
                }
                let mut constraints = Map::new();
                constraints.insert("grammar".into(), json!(self.grammar));
                constraints.insert("json_schema".into(), json!(self.json_schema));
                Ok(Options {
                    logprobs: self.n_probs.filter(|&count| count > 0).map(|count| count.min(100) as usize),
                    cache_prompt: self.cache_prompt.unwrap_or(true),
                    ignore_end: self.ignore_eos.unwrap_or(false),
                    grammar: super::grammar_fields(&constraints)?.grammar(),
                    slot: super::slots::named(model, self.id_slot)?,
                    time_limit: self
                        .t_max_predict_ms
                        .and_then(|most| u64::try_from(most).ok())
                        .filter(|&most| most > 0)
                        .map(std::time::Duration::from_millis),
                    ..Options::new(settings(model, others)?)
                })
            }

            /// How the answer is to be told.
            fn telling(&self) -> Telling {
                Telling {
                    streams: self.stream == Some(true),
                    tokens: self.return_tokens == Some(true),
                    probabilities: match (self.n_probs, self.post_sampling_probs) {
                        (None | Some(0), _) => Probabilities::None,
                        (_, Some(true)) => Probabilities::Plain,
                        _ => Probabilities::Logarithms,
                    },
                    fields: self.response_fields.clone().unwrap_or_default(),
                }
            }
        }
    };
}

request_for_text! {
    /// A request for a text's continuation. Sampler settings may be given as further fields.
    LlamaCompletionRequest {
        /// A text, its tokens, both mixed, or a list of such prompts.
        prompt: Prompts,
    } {}
}

request_for_text! {
    /// A request for what belongs between two texts. Sampler settings may be given as further fields.
    InfillRequest {
        /// The text before.
        input_prefix: String,
        /// The text after.
        input_suffix: String,
    } {
        /// The beginning of the middle.
        prompt: String,
        /// Other files: `{"filename": ..., "text": ...}`, put in front.
        input_extra: Vec<Value>,
    }
}

/// `POST /completion`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (LlamaCompletionRequest, _) = call.json(is_setting).await?;
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let (options, telling) = (request.options(&model, &others)?, request.telling());
    let prompts = request.prompt.into_list();
    if prompts.is_empty() {
        return Err(ApiError::field("prompt", "`prompt` is empty"));
    }
    let bytes = prompts.iter().map(Prompt::text_bytes).sum();
    let tokens = |prompt: &Prompt| prompt.tokens(&model.tokenizer, "prompt", Specials::Parse);
    let prompts = with_text(bytes, || prompts.iter().map(tokens).collect::<ApiResult<_>>())?;
    answer(&call, model, prompts, options, telling).await
}

/// `POST /infill`.
pub(super) async fn infill(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, others): (InfillRequest, _) = call.json(is_setting).await?;
    let extra = extra_texts(request.input_extra.as_deref().unwrap_or_default())?;
    let model = Arc::new(call.state.models().acquire(request.model.as_deref(), None).await?);
    let (options, telling) = (request.options(&model, &others)?, request.telling());
    let prefix = extra.into_iter().chain([request.input_prefix.as_str()]).collect::<Vec<_>>().join("\n");
    let prompt = fill_in_prompt(&model.tokenizer, &prefix, &request.input_suffix);
    // Which is all that can be wrong with it.
    let mut prompt = prompt.map_err(|error| ApiError { kind: ErrorKind::NotSupported, ..error })?;
    let text = request.prompt.as_deref().unwrap_or_default();
    prompt.extend(encode_plain(&model.tokenizer, text, Specials::AsText));
    answer(&call, model, vec![prompt], options, telling).await
}

/// The texts of `input_extra`.
///
/// # Errors
/// An entry without one.
fn extra_texts(files: &[Value]) -> ApiResult<Vec<&str>> {
    let texts = files.iter().enumerate().map(|(index, file)| {
        let wrong = |field: &str, what: &str| {
            let place = format!("input_extra[{index}].{field}");
            ApiError::field(place.clone(), format!("`{place}` must be {what}"))
        };
        if !matches!(file["filename"], Value::Null | Value::String(_)) {
            return Err(wrong("filename", "a string, if it is there"));
        }
        file["text"].as_str().ok_or_else(|| wrong("text", "a string"))
    });
    texts.collect()
}
