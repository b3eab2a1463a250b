//! Tools: the seam between the APIs and what `alti_text` knows of the dialects in which models call them.

use super::{ChatRequest, Event, Format};
use crate::error::ApiResult;
use crate::models::ServedModel;
use alti_engine::grammar::GrammarSource;
use alti_engine::serving::TokenOutput;
use alti_text::Message;
use serde_json::Value;
use std::collections::VecDeque;

/// Whether and which tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// The model decides.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// How a request's tools are told to the model and its calls are read.
#[derive(Debug)]
pub struct ToolPlan {
    tools: Vec<Value>,
}

impl ToolPlan {
    /// The plan for a request.
    ///
    /// # Errors
    /// Tools that are none, a choice of a tool that is not there.
    pub fn new(_model: &ServedModel, request: &ChatRequest) -> ApiResult<ToolPlan> {
        Ok(ToolPlan { tools: request.tools.clone() })
    }

    /// Changes the messages for models whose template knows no tools.
    pub fn prepare(&self, _messages: &mut Vec<Message>) {}

    /// The tools for the template.
    pub fn template_tools(&self) -> Vec<Value> {
        self.tools.clone()
    }

    /// What the answer has to obey, calls and format together.
    ///
    /// # Errors
    /// When they exclude each other.
    pub fn grammar(&self, format: Format) -> ApiResult<Option<GrammarSource>> {
        Ok(format.grammar())
    }

    /// Whether control tokens must be spelled out for the reader.
    pub fn spells_specials(&self) -> bool {
        false
    }

    /// What reads one answer.
    pub fn reader(&self) -> ToolReader {
        ToolReader::text_only()
    }
}

/// Tells text from calls while it comes.
#[derive(Debug)]
pub struct ToolReader {}

impl ToolReader {
    /// A reader that takes everything for text.
    pub fn text_only() -> ToolReader {
        ToolReader {}
    }

    /// Takes the next token and its text.
    pub fn push(
        &mut self,
        choice: u32,
        text: String,
        token: Option<TokenOutput>,
        into: &mut VecDeque<Event>,
    ) {
        if !text.is_empty() || token.is_some() {
            into.push_back(Event::Text { choice, text, tokens: token.into_iter().collect() });
        }
    }

    /// The answer has ended: what was held back comes now. Whether tools were called.
    pub fn finish(&mut self, _choice: u32, _into: &mut VecDeque<Event>) -> bool {
        false
    }
}
