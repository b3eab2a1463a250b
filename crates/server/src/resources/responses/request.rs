//! What a response is asked for with.

use serde_json::{Map, Value};

crate::wire! {
    /// A response to be made.
    pub struct CreateResponseRequest {
        optional {
            /// The model; the server's own choice, if there is none.
            model: String,
            /// A text, or items: messages, calls of functions and their outputs, approvals, references to items.
            input: Value,
            /// What the system says before everything else; not carried over to following responses.
            instructions: String,
            /// The response that this one continues.
            previous_response_id: String,
            /// The conversation that this response reads and is added to: an id, or an object with one.
            conversation: Value,
            /// Whether it is kept; it is, if not said otherwise.
            store: bool,
            /// Whether it goes on while nobody listens.
            background: bool,
            /// Whether it is told event by event.
            stream: bool,
            /// What is told besides: `file_search_call.results`, `message.output_text.logprobs`.
            include: Vec<String>,
            /// Tools: functions, `file_search`, and those of MCP servers (`mcp`).
            tools: Vec<Value>,
            /// Whether and which tools are called: `none`, `auto`, `required`, or one.
            tool_choice: Value,
            /// Whether several functions may be called at once.
            parallel_tool_calls: bool,
            /// What the text has to obey: `{"format": {...}}`.
            text: Map<String, Value>,
            /// How much chance there is.
            temperature: f32,
            /// How much of the likeliest is drawn from.
            top_p: f32,
            /// How much a token is held back for having been said.
            presence_penalty: f32,
            /// How much a token is held back each time it was said.
            frequency_penalty: f32,
            /// Most tokens.
            max_output_tokens: u32,
            /// Most calls that are made here: searches in files and tools of MCP servers together.
            max_tool_calls: u32,
            /// How many of the likeliest tokens are told with each.
            top_logprobs: u32,
            /// `auto` leaves out the oldest turns where all do not fit; `disabled` refuses.
            truncation: String,
            /// Up to 16 pairs of strings.
            metadata: Value,
        }
        ignored {
            /// A stored prompt.
            prompt: Value,
            /// How much the model thinks.
            reasoning: Value,
            /// Details of streaming.
            stream_options: Value,
            /// Who asks.
            user: String,
            /// Who asks, hashed.
            safety_identifier: String,
            /// Prefixes are cached by what they are.
            prompt_cache_key: String,
            /// There is one tier.
            service_tier: String,
        }
    }
}
