//! Tool calls: how the models of the Llama family write them, read while they are written, and made sure of.
//!
//! A model was taught one notation, its [`ToolDialect`]; the chat template shows which. [`ToolCallParser`] reads an
//! answer as it streams: what is ordinary text passes on, what is a call becomes a name and JSON arguments, and what
//! only looked like a call is ordinary text again, to the last character. [`tool_grammar`] writes a grammar that an
//! answer has to obey, where calls are required or must be well-formed.

mod dialect;
mod event;
mod forms;
mod grammar;
mod json;
mod parser;
mod python;

pub use dialect::ToolDialect;
pub use event::{ToolCall, ToolEvent, ToolOutput};
pub use grammar::{ToolGrammar, tool_grammar, unwritable};
pub use parser::ToolCallParser;

use serde_json::Value;

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments, an object's; none where nothing is said about them.
    pub parameters: Option<Value>,
    /// Whether all of the schema is promised; else what a grammar cannot check of it is passed over.
    pub strict: bool,
}

impl Tool {
    /// The function of a tool as chat APIs describe it, `{"type": "function", "function": {"name": ..., "parameters":
    /// ...}}`, or bare. None where there is no name.
    pub fn from_value(value: &Value) -> Option<Self> {
        let function = value.get("function").unwrap_or(value);
        let name = function.get("name")?.as_str()?.to_owned();
        let parameters = function.get("parameters").filter(|parameters| parameters.is_object()).cloned();
        let strict = function.get("strict") == Some(&Value::Bool(true));
        Some(Self { name, parameters, strict })
    }
}

/// Whether a model calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It does not.
    None,
    /// As it sees fit.
    #[default]
    Auto,
    /// It must.
    Required,
    /// It must call this one.
    Named(String),
}
