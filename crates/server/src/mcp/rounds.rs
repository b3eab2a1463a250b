//! Calls and results, back and forth between a model and its tools, with an end.

use super::{McpResult, McpServers, OfferedTool};
use alti_text::tools::ToolCall;
use alti_text::{Content, Message};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

/// Calls of one answer that are made; the rest is refused.
const MAX_CALLS: usize = 16;

/// What is to be done after an answer that calls tools.
#[derive(Clone, Debug, PartialEq)]
pub enum Round {
    /// All calls were made: the model goes on with these results.
    Results(Vec<CallResult>),
    /// Some calls were made, and some have to be approved first: the client goes on when somebody has.
    Approval {
        /// What came of those that were made, or could not be.
        made: Vec<CallResult>,
        /// Those that have to be approved.
        asked: Vec<ToolCall>,
    },
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

    /// Makes an answer's calls, all at once: the first ones, where there are more than may be made, and but for those that
    /// have to be approved.
    pub async fn next(&mut self, calls: &[ToolCall]) -> Round {
        if calls.iter().any(|call| self.tool(&call.name).is_none()) {
            return Round::Client;
        }
        if !self.is_open() {
            return Round::Exhausted;
        }
        self.left -= 1;
        let planned = self.plan(calls);
        let waits = |call: &Planned<'_>| call.needs_approval && call.arguments.is_ok();
        let (waiting, planned): (Vec<_>, Vec<_>) = planned.into_iter().partition(waits);
        let made = self.make(planned).await;
        match waiting.is_empty() {
            true => Round::Results(made),
            false => Round::Approval {
                made,
                asked: waiting.into_iter().map(|waiting| waiting.call.clone()).collect(),
            },
        }
    }

    /// Makes calls that were approved, as [`Self::next`] does, and which are no round of the model's.
    pub async fn approved(&mut self, calls: &[ToolCall]) -> Vec<CallResult> {
        let planned = self.plan(calls);
        self.make(planned).await
    }

    /// What is to be done with calls of what is offered: with which arguments they are made, or why they are not.
    fn plan<'a>(&mut self, calls: &'a [ToolCall]) -> Vec<Planned<'a>> {
        let most = self.calls_left;
        self.calls_left = most.saturating_sub(calls.len());
        let planned = calls.iter().enumerate().filter_map(|(index, call)| {
            let tool = self.tool(&call.name)?;
            let arguments = match serde_json::from_str(&call.arguments) {
                _ if index >= most => {
                    Err("there were as many calls as may be made: this one was not made".into())
                }
                _ if index >= MAX_CALLS => {
                    Err(format!("more than {MAX_CALLS} calls at once: this one was not made"))
                }
                Ok(Value::Object(arguments)) => Ok(arguments),
                _ => Err("the arguments are no JSON object".into()),
            };
            let (server, needs_approval) = (tool.server.clone(), tool.needs_approval);
            Some(Planned { call, server, tool: tool.tool.clone(), needs_approval, arguments })
        });
        planned.collect()
    }

    async fn make(&self, planned: Vec<Planned<'_>>) -> Vec<CallResult> {
        let results =
            planned.into_iter().map(async |Planned { call, server, tool, arguments, .. }| CallResult {
                call: call.clone(),
                result: match arguments {
                    Ok(arguments) => {
                        self.servers.call(&server, &tool, arguments).await.unwrap_or_else(failed)
                    }
                    Err(reason) => failed(reason),
                },
                server,
                tool,
            });
        join_all(results).await
    }
}

/// A call that is about to be made.
struct Planned<'a> {
    call: &'a ToolCall,
    server: String,
    tool: String,
    needs_approval: bool,
    arguments: Result<Map<String, Value>, String>,
}

/// What the model is told of a call that could not be made.
fn failed(reason: impl std::fmt::Display) -> McpResult {
    McpResult { text: format!("error: {reason}"), is_error: true }
}
