//! What a chat template is given: messages, tools and settings, in the shape every chat API uses.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::time::DateTime;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts with a `type`: `{"type": "text", "text": ...}`, `{"type": "image"}`, ...
    Parts(Vec<Value>),
}

impl Content {
    /// The parts' text put together, where all of them are text.
    fn flat_text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Parts(parts) => {
                parts.iter().map(|part| part.get("text").and_then(Value::as_str)).collect::<Option<String>>()
            }
        }
    }
}

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool` (or what else the model's template knows).
    pub role: String,
    /// What is said; none where an assistant only calls tools.
    #[serde(default)]
    pub content: Option<Content>,
    /// The assistant's calls: `{"type": "function", "function": {"name": ..., "arguments": {...}}}`. Arguments in a
    /// string, as OpenAI's API has them, are read as the JSON they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Further fields, passed on to the template (`name`, `tool_call_id`, `reasoning_content`, ...).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of text.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(text.into())), ..Self::default() }
    }

    fn to_value(&self, wants_parts: bool) -> Value {
        let content = match &self.content {
            None => Value::Null,
            Some(content) => match content.flat_text().filter(|_| !wants_parts) {
                Some(text) => Value::String(text),
                None => json!(content),
            },
        };
        let mut message = Map::new();
        message.insert("role".into(), json!(self.role));
        message.insert("content".into(), content);
        if !self.tool_calls.is_empty() {
            message.insert("tool_calls".into(), self.tool_calls.iter().map(with_parsed_arguments).collect());
        }
        message.extend(self.extra.clone());
        Value::Object(message)
    }
}

fn with_parsed_arguments(call: &Value) -> Value {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(parsed @ Value::Object(_)) =
            arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        *arguments = parsed;
    }
    call
}

/// Everything a prompt is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The turns so far.
    pub messages: Vec<Message>,
    /// Tools the model may call: `{"type": "function", "function": {"name": ..., "parameters": {...}}}`.
    pub tools: Vec<Value>,
    /// Whether the prompt ends with the opening of an assistant's turn.
    pub add_generation_prompt: bool,
    /// The time a template may print; without it templates fall back to a date of their own.
    pub now: Option<DateTime>,
    /// Further variables for the template (`date_string`, `enable_thinking`, ...).
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// A conversation that asks for an answer.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }

    /// The template's variables, by name.
    pub(super) fn to_values(&self, wants_parts: bool) -> Map<String, Value> {
        let tools = if self.tools.is_empty() { Value::Null } else { json!(self.tools) };
        let mut values = self.variables.clone();
        values.insert(
            "messages".into(),
            self.messages.iter().map(|message| message.to_value(wants_parts)).collect(),
        );
        values.insert("tools".into(), tools);
        values.entry("documents").or_insert(Value::Null);
        values.insert("add_generation_prompt".into(), json!(self.add_generation_prompt));
        values
    }
}
