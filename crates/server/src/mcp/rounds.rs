//! Calls and results, back and forth between a model and its tools, with an end.

use super::{McpResult, McpServers, OfferedTool};
use alti_text::tools::ToolCall;
use alti_text::{Content, Message};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Calls of one answer that are made; the rest is refused.
const MAX_CALLS: usize = 16;

/// What is to be done after an answer that calls tools.
#[derive(Clone, Debug, PartialEq)]
pub enum Round {
    /// All calls were made: the model goes on with these results.
    Results(Vec<CallResult>),
    /// Some calls are the client's to make. None was made.
    Client,
    /// There were enough rounds or calls: the model has to answer without these tools.
    Exhausted,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct CallResult {
    /// The model's call.
    pub call: ToolCall,
    /// The server it went to.
    pub server: String,
    /// The tool's name there.
    pub tool: String,
    /// What came of it.
    pub result: McpResult,
}

impl CallResult {
    /// The message that tells the model.
    pub fn to_message(&self) -> Message {
        told(&self.call, &self.result.text)
    }
}

/// The message that tells a model what came of its call.
pub(crate) fn told(call: &ToolCall, outcome: &str) -> Message {
    let mut message = Message::text("tool", outcome);
    message.extra.insert("tool_call_id".into(), json!(call.id));
    message.extra.insert("name".into(), json!(call.name));
    message
}

/// The rounds of one request.
#[derive(Clone, Debug)]
pub struct ToolRounds {
    servers: McpServers,
    offered: Vec<OfferedTool>,
    left: usize,
    calls_left: usize,
}

impl ToolRounds {
    /// At most `rounds` answers' calls to what is offered.
    pub fn new(servers: McpServers, offered: Vec<OfferedTool>, rounds: usize) -> Self {
        Self { servers, offered, left: rounds, calls_left: usize::MAX }
    }

    /// The same, with at most `calls` calls in all rounds together.
    #[must_use]
    pub fn most_calls(self, calls: usize) -> Self {
        Self { calls_left: calls, ..self }
    }

    /// What the model is offered.
    pub fn offered(&self) -> &[OfferedTool] {
        &self.offered
    }

    /// The tool of this name, if it is one of them.
    pub fn tool(&self, name: &str) -> Option<&OfferedTool> {
        self.offered.iter().find(|tool| tool.name == name)
    }

    /// Whether there are rounds and calls left.
    pub fn is_open(&self) -> bool {
        self.left > 0 && self.calls_left > 0
    }

    /// The assistant's turn with its calls, as the conversation remembers it.
    pub fn turn(content: &str, calls: &[ToolCall]) -> Message {
        let calls = calls.iter().map(|call| {
            json!({"id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments}})
        });
        let content = Some(content).filter(|content| !content.is_empty());
        Message {
            role: "assistant".into(),
            content: content.map(|content| Content::Text(content.to_owned())),
            tool_calls: calls.collect(),
            ..Message::default()
        }
    }

    /// Makes an answer's calls, all at once: the first ones, where there are more than may be made.
    pub async fn next(&mut self, calls: &[ToolCall]) -> Round {
        let offered: Option<Vec<&OfferedTool>> =
            calls.iter().map(|call| self.offered.iter().find(|tool| tool.name == call.name)).collect();
        let Some(offered) = offered else { return Round::Client };
        if !self.is_open() {
            return Round::Exhausted;
        }
        self.left -= 1;
        let most = self.calls_left;
        self.calls_left = most.saturating_sub(calls.len());
        let results = calls.iter().zip(offered).enumerate().map(async |(index, (call, tool))| CallResult {
            call: call.clone(),
            server: tool.server.clone(),
            tool: tool.tool.clone(),
            result: match index < most {
                true => self.call(index, call, tool).await,
                false => failed("there were as many calls as may be made: this one was not made"),
            },
        });
        Round::Results(join_all(results).await)
    }

    async fn call(&self, index: usize, call: &ToolCall, tool: &OfferedTool) -> McpResult {
        if index >= MAX_CALLS {
            return failed(format!("more than {MAX_CALLS} calls at once: this one was not made"));
        }
        let arguments = match serde_json::from_str(&call.arguments) {
            Ok(Value::Object(arguments)) => arguments,
            _ => return failed("the arguments are no JSON object"),
        };
        match self.servers.call(&tool.server, &tool.tool, arguments).await {
            Ok(result) => result,
            Err(error) => failed(error),
        }
    }
}

/// What the model is told of a call that could not be made.
fn failed(reason: impl std::fmt::Display) -> McpResult {
    McpResult { text: format!("error: {reason}"), is_error: true }
}
