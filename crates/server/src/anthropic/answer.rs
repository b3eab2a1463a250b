//! Anthropic's answers, whole and as events.

use crate::error::ApiError;
use crate::generate::{Answer, Ended, Event, Generation, Renderer, arguments_object};
use crate::ids;
use crate::models::Lease;
use crate::wire::Nullable;
use alti_engine::serving::Usage;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;

crate::wire! {
    /// A chat's next turn.
    pub struct MessageAnswer {
        required {
            /// The answer's id.
            id: String,
            /// Always `message`.
            r#type: String,
            /// Always `assistant`.
            role: String,
            /// The model, as it was asked for.
            model: String,
            /// Blocks of type `text` and `tool_use`.
            content: Vec<Value>,
            /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
            stop_reason: Nullable<String>,
            /// The stop string that ended it.
            stop_sequence: Nullable<String>,
            /// What it took.
            usage: MessageUsage,
        }
    }
    /// What an answer took.
    pub struct MessageUsage {
        required {
            /// Tokens of the prompt, without those that are told as cached.
            input_tokens: usize,
            /// Tokens generated.
            output_tokens: usize,
            /// Tokens of the prompt that were cached; 0 where the request has no `cache_control`.
            cache_read_input_tokens: usize,
            /// Always 0: caching is not charged.
            cache_creation_input_tokens: usize,
        }
    }
    /// How long a chat is.
    pub struct TokenCount {
        required {
            /// Tokens of the prompt.
            input_tokens: usize,
        }
    }
}

/// What an answer took. Cached tokens are told apart only where the request marks what is to be cached: all others count on
/// `input_tokens` being all of the prompt.
fn usage(usage: &Usage, marks_cache: bool) -> MessageUsage {
    let cached = if marks_cache { usage.cached_tokens } else { 0 };
    MessageUsage {
        input_tokens: usage.prompt_tokens.saturating_sub(cached),
        output_tokens: usage.generated_tokens,
        cache_read_input_tokens: cached,
        cache_creation_input_tokens: 0,
    }
}

/// Anthropic's word for why an answer ended, and the stop string that did it.
fn stop(ended: &Ended) -> (&'static str, Option<String>) {
    match ended {
        Ended::Stop => ("end_turn", None),
        Ended::StopString(text) => ("stop_sequence", Some(text.clone())),
        Ended::Length | Ended::ContextFull | Ended::Cancelled => ("max_tokens", None),
        Ended::ToolCalls => ("tool_use", None),
    }
}

/// The whole answer.
pub(super) fn message(model: &Lease, mut answer: Answer, marks_cache: bool) -> MessageAnswer {
    let mut content = Vec::new();
    let mut ended = Ended::Cancelled;
    if let Some(choice) = answer.choices.pop() {
        if !choice.text.is_empty() || choice.calls.is_empty() {
            content.push(json!({ "type": "text", "text": choice.text }));
        }
        for call in choice.calls {
            let input = arguments_object(&call.arguments);
            content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
        }
        ended = choice.ended;
    }
    let (reason, sequence) = stop(&ended);
    MessageAnswer {
        id: ids::new("msg_"),
        r#type: "message".into(),
        role: "assistant".into(),
        model: model.requested.clone(),
        content,
        stop_reason: Some(reason.to_owned()).into(),
        stop_sequence: sequence.into(),
        usage: usage(&answer.usage, marks_cache),
    }
}

/// Writes events as Anthropic's.
pub(super) struct Events {
    model: Arc<Lease>,
    prompt_tokens: usize,
    /// Whether the request marks what is to be cached.
    marks_cache: bool,
    /// The block that is open: its number, and whether it is text.
    open: Option<(usize, bool)>,
    blocks: usize,
    ended: Ended,
    usage: Usage,
}

impl Events {
    pub(super) fn new(generation: &Generation, marks_cache: bool) -> Events {
        Events {
            model: generation.model.clone(),
            prompt_tokens: generation.prompt.len(),
            marks_cache,
            open: None,
            blocks: 0,
            ended: Ended::Cancelled,
            usage: Usage::default(),
        }
    }

    fn write(name: &str, mut fields: Value, into: &mut String) {
        let mut data = Map::new();
        data.insert("type".into(), name.into());
        if let Value::Object(fields) = &mut fields {
            data.append(fields);
        }
        // Writing to a string cannot fail.
        let _cannot_fail = write!(into, "event: {name}\ndata: {}\n\n", Value::Object(data));
    }

    fn close(&mut self, into: &mut String) {
        if let Some((index, _)) = self.open.take() {
            Self::write("content_block_stop", json!({ "index": index }), into);
        }
    }

    fn start(&mut self, block: Value, is_text: bool, into: &mut String) {
        self.close(into);
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some((index, is_text));
        Self::write("content_block_start", json!({ "index": index, "content_block": block }), into);
    }

    fn delta(&self, delta: Value, into: &mut String) {
        if let Some((index, _)) = self.open {
            Self::write("content_block_delta", json!({ "index": index, "delta": delta }), into);
        }
    }
}

impl Renderer for Events {
    fn begin(&mut self, into: &mut String) {
        let usage = Usage { prompt_tokens: self.prompt_tokens, ..Usage::default() };
        let message = MessageAnswer {
            stop_reason: Nullable(None),
            content: Vec::new(),
            usage: self::usage(&usage, self.marks_cache),
            ..message(&self.model, Answer::default(), self.marks_cache)
        };
        Self::write("message_start", json!({ "message": message }), into);
        Self::write("ping", json!({}), into);
    }

    fn event(&mut self, _job: usize, event: Event, into: &mut String) {
        match event {
            Event::Text { text, .. } if !text.is_empty() => {
                if !self.open.is_some_and(|(_, is_text)| is_text) {
                    self.start(json!({ "type": "text", "text": "" }), true, into);
                }
                self.delta(json!({ "type": "text_delta", "text": text }), into);
            }
            Event::CallBegin { id, name, .. } => {
                self.start(json!({ "type": "tool_use", "id": id, "name": name, "input": {} }), false, into);
            }
            Event::CallArguments { arguments, .. } => {
                self.delta(json!({ "type": "input_json_delta", "partial_json": arguments }), into);
            }
            Event::Finished { ended, usage, .. } => (self.ended, self.usage) = (ended, usage),
            Event::Text { .. } | Event::Prompt(_) => {}
        }
    }

    fn fail(&mut self, error: &ApiError, into: &mut String) {
        let body = error.body(crate::route::Family::Anthropic);
        Self::write("error", json!({ "error": body["error"] }), into);
    }

    fn end(&mut self, into: &mut String) {
        if self.blocks == 0 {
            self.start(json!({ "type": "text", "text": "" }), true, into);
        }
        self.close(into);
        let (reason, sequence) = stop(&self.ended);
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        let usage = usage(&self.usage, self.marks_cache);
        Self::write("message_delta", json!({ "delta": delta, "usage": usage }), into);
        Self::write("message_stop", json!({}), into);
    }
}
