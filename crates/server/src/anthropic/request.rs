//! Anthropic's requests, and how they become what all APIs have in common.

use super::blocks::{Joined, content, text_of};
use super::turns::join_turns;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::{ChatRequest, Format, Options, ToolChoice, check_messages, response_format, sampling};
use crate::models::Lease;
use crate::openai::shared::{MessageContent, within};
use crate::route::Family;
use alti_text::{Content, Message};
use serde_json::{Map, Value, json};

crate::wire! {
    /// A request for a chat's next turn.
    pub struct MessagesRequest {
        required {
            /// The model's name.
            model: String,
            /// Most tokens of the answer.
            max_tokens: u32,
            /// The turns so far. A last one of the assistant's is gone on with.
            messages: Vec<MessageParam>,
        }
        optional {
            /// What the model is told first: text, or blocks of text.
            system: MessageContent,
            /// Strings that end the answer.
            stop_sequences: Vec<String>,
            /// 0 to 1.
            temperature: f32,
            /// 0 to 1.
            top_p: f32,
            /// Only so many of the most likely tokens.
            top_k: u32,
            /// Tools the model may call.
            tools: Vec<Value>,
            /// `{"type": "auto" | "any" | "tool" | "none"}`, with a `name` for `tool`.
            tool_choice: Map<String, Value>,
            /// `{"format": {"type": "json_schema", "schema": {...}}}`: what the answer has to obey.
            output_config: Map<String, Value>,
            /// The older form of `output_config.format`.
            output_format: Value,
            /// Whether the answer is streamed.
            stream: bool,
        }
        ignored {
            /// Who asks.
            metadata: Value,
            /// Whether the model thinks first.
            thinking: Value,
            /// Which tier.
            service_tier: String,
            /// What is cached: everything. Where it is anywhere in a request, cached tokens are told apart.
            cache_control: Value,
            /// Containers.
            container: Value,
            /// MCP servers.
            mcp_servers: Value,
            /// Edits of the context.
            context_management: Value,
        }
    }
    /// A chat whose tokens are to be counted.
    pub struct CountTokensRequest {
        required {
            /// The model's name.
            model: String,
            /// The turns so far.
            messages: Vec<MessageParam>,
        }
        optional {
            /// What the model is told first.
            system: MessageContent,
            /// Tools the model may call.
            tools: Vec<Value>,
            /// Whether and which tools are called.
            tool_choice: Map<String, Value>,
        }
        ignored {
            /// Whether the model thinks first.
            thinking: Value,
            /// What is cached: everything.
            cache_control: Value,
            /// What the answer has to obey.
            output_config: Value,
            /// The older form of `output_config.format`.
            output_format: Value,
        }
    }
    /// A turn.
    pub struct MessageParam {
        required {
            /// `user` or `assistant`.
            role: String,
            /// Text, or blocks of type `text`, `document` (of text), `search_result`, `tool_use`, `tool_result`, `thinking`.
            content: MessageContent,
        }
    }
}

impl MessagesRequest {
    /// Whether the request marks something to be cached: only then are cached tokens told apart from the others.
    pub(super) fn marks_cache(&self) -> bool {
        let is_marked = |block: &Value| block.get("cache_control").is_some_and(|mark| !mark.is_null());
        let in_blocks = |content: &MessageContent| match &content.0 {
            Content::Text(_) => false,
            Content::Parts(blocks) => blocks.iter().any(|block| {
                let inner = block["content"].as_array().into_iter().flatten();
                is_marked(block) || inner.into_iter().any(is_marked)
            }),
        };
        self.cache_control.is_some()
            || self.tools.iter().flatten().any(is_marked)
            || self.system.as_ref().is_some_and(in_blocks)
            || self.messages.iter().any(|message| in_blocks(&message.content))
    }

    /// The request as all APIs have it.
    ///
    /// # Errors
    /// A field out of range, a block that is not text.
    pub(super) fn into_common(self, model: &Lease, others: &Map<String, Value>) -> ApiResult<ChatRequest> {
        if self.max_tokens == 0 {
            return Err(ApiError::field("max_tokens", "max_tokens: it must be at least 1"));
        }
        within("temperature", self.temperature, 0.0, 1.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        let own = [
            ("max_tokens", json!(self.max_tokens)),
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
            ("stop", json!(self.stop_sequences)),
        ];
        let others = others.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let options = Options::new(sampling(&model.base_sampling(Family::Anthropic)?, others.chain(own))?);
        let format = format(self.output_config.as_ref(), self.output_format.as_ref())?;
        let count = CountTokensRequest {
            model: self.model,
            messages: self.messages,
            system: self.system,
            tools: self.tools,
            tool_choice: self.tool_choice,
            thinking: None,
            cache_control: None,
            output_config: None,
            output_format: None,
        };
        Ok(ChatRequest { format, ..count.into_common(options)? })
    }
}

impl CountTokensRequest {
    /// The request as all APIs have it.
    ///
    /// # Errors
    /// A block that is not text, a tool that is none.
    pub(super) fn into_common(self, options: Options) -> ApiResult<ChatRequest> {
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(Message::text("system", text(system.0, "system")?));
        }
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages: at least one message is required"));
        }
        let last = self.messages.len() - 1;
        for (index, message) in self.messages.into_iter().enumerate() {
            if !matches!(message.role.as_str(), "user" | "assistant" | "system") {
                let found = excerpt(&message.role);
                let text =
                    format!("messages.{index}.role: it is `{found}` and must be `user` or `assistant`");
                return Err(ApiError::field("messages", text));
            }
            if index != last || message.role != "assistant" {
                not_empty(index, &message.content.0)?;
            }
            turns(index, message, &mut messages)?;
        }
        let tools = self.tools.unwrap_or_default();
        let tools =
            tools.iter().enumerate().map(|(index, it)| tool(index, it)).collect::<ApiResult<Vec<_>>>()?;
        let choice = self.tool_choice.unwrap_or_default();
        Ok(ChatRequest {
            tools,
            tool_choice: tool_choice(&choice)?,
            parallel_tool_calls: choice.get("disable_parallel_tool_use") != Some(&Value::Bool(true)),
            call_id_prefix: "toolu_",
            ..ChatRequest::new(join_turns(check_messages(messages, "messages")?), options)
        })
    }
}

/// Refuses a model without a name: the server's default model is for APIs that let it out.
///
/// # Errors
/// When it is empty.
pub(super) fn has_model(name: &str) -> ApiResult<()> {
    if name.is_empty() {
        return Err(ApiError::field("model", "model: it must have at least 1 character"));
    }
    Ok(())
}

/// The text of what is text, or blocks of text.
fn text(content: Content, place: &str) -> ApiResult<String> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(blocks) => text_of(&blocks, place),
    }
}

/// Refuses a turn that says nothing, as Anthropic does: only a last one of the assistant's may.
fn not_empty(index: usize, content: &Content) -> ApiResult<()> {
    let place = match content {
        Content::Text(text) => text.is_empty().then(String::new),
        Content::Parts(blocks) if blocks.is_empty() => Some(String::new()),
        Content::Parts(blocks) => {
            let empty = blocks.iter().position(|block| block["type"] == "text" && block["text"] == "");
            empty.map(|number| format!(".{number}.text"))
        }
    };
    match place {
        None => Ok(()),
        Some(place) => {
            let message = format!(
                "messages.{index}.content{place}: it is empty: all messages must have non-empty content except for the \
                 optional final assistant message"
            );
            Err(ApiError::field("messages", message))
        }
    }
}

/// One of Anthropic's turns: its tool results are turns of their own elsewhere.
fn turns(index: usize, message: MessageParam, into: &mut Vec<Message>) -> ApiResult<()> {
    let blocks = match message.content.0 {
        Content::Text(text) => {
            into.push(Message::text(message.role, text));
            return Ok(());
        }
        Content::Parts(blocks) => blocks,
    };
    let mut text: Option<Joined> = None;
    let mut calls = Vec::new();
    for (number, block) in blocks.into_iter().enumerate() {
        let place = format!("messages.{index}.content.{number}");
        match block["type"].as_str().unwrap_or_default() {
            "tool_use" => {
                let function = json!({ "name": block["name"], "arguments": block["input"] });
                calls.push(json!({ "id": block["id"], "type": "function", "function": function }));
            }
            "tool_result" => into.push(tool_result(&block, &place)?),
            "thinking" | "redacted_thinking" => {}
            _ => text.get_or_insert_default().push(&block, &place)?,
        }
    }
    if text.is_some() || !calls.is_empty() || message.role == "assistant" {
        let content = text.map(|text| Content::Text(text.into_text()));
        into.push(Message { role: message.role, content, tool_calls: calls, extra: Map::new() });
    }
    Ok(())
}

fn tool_result(block: &Value, place: &str) -> ApiResult<Message> {
    let text = content(&block["content"], &format!("{place}.content"))?;
    let mut extra = Map::new();
    extra.insert("tool_call_id".into(), block["tool_use_id"].clone());
    Ok(Message { extra, ..Message::text("tool", text) })
}

/// A tool in OpenAI's shape.
fn tool(index: usize, tool: &Value) -> ApiResult<Value> {
    let Some(name) = tool["name"].as_str() else {
        return Err(ApiError::invalid(format!("tools.{index}.name: it must be a string")));
    };
    let schema = match &tool["input_schema"] {
        schema @ Value::Object(_) => schema.clone(),
        _ => {
            let message = format!(
                "tools.{index}.input_schema: it must be a JSON schema; tools that Anthropic runs itself are not here"
            );
            return Err(ApiError::invalid(message));
        }
    };
    let mut function = Map::new();
    function.insert("name".into(), json!(name));
    if let Some(description) = tool["description"].as_str() {
        function.insert("description".into(), json!(description));
    }
    function.insert("parameters".into(), schema);
    Ok(json!({ "type": "function", "function": function }))
}

/// What the answer has to obey.
///
/// # Errors
/// When it is no JSON schema.
fn format(config: Option<&Map<String, Value>>, older: Option<&Value>) -> ApiResult<Format> {
    let today = config.and_then(|config| config.get("format")).filter(|format| !format.is_null());
    let today = today.map(|format| ("output_config.format", format));
    let Some((place, format)) = today.or(older.map(|format| ("output_format", format))) else {
        return Ok(Format::Text);
    };
    if format["type"] != "json_schema" || !format["schema"].is_object() {
        let message = format!("{place}: it must be of type `json_schema`, with a `schema` that is an object");
        return Err(ApiError::field(place, message));
    }
    response_format(format)
}

fn tool_choice(choice: &Map<String, Value>) -> ApiResult<ToolChoice> {
    match (choice.get("type").and_then(Value::as_str), choice.get("name").and_then(Value::as_str)) {
        (None, _) if choice.is_empty() => Ok(ToolChoice::Auto),
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("any"), _) => Ok(ToolChoice::Required),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("tool"), Some(name)) => Ok(ToolChoice::Named(name.to_owned())),
        _ => Err(ApiError::invalid("tool_choice.type: it must be auto, any, none, or tool with a name")),
    }
}
