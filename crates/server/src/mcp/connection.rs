//! One server: connected when needed, asked within limits.

use super::McpServerSettings;
use crate::error::{ApiError, ApiResult, ErrorKind};
use rmcp::model::{CallToolRequestParams, CallToolResult, ContentBlock};
use rmcp::service::{Peer, RoleClient, RunningService};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{ServiceExt, serve_client};
use serde_json::{Map, Value};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

/// No server offers more tools.
const MAX_TOOLS: usize = 256;
/// For as long as it took to find out that a server could not be connected to everybody is told so before that is tried
/// again, but at least and at most for so long.
const FAILURE_IS_TOLD: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(15)];
/// No message of a server is longer, in bytes.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// What a server can do.
#[derive(Clone, Debug, PartialEq)]
pub struct McpTool {
    /// The tool's name on its server.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
    /// Whether its server says that it changes nothing (`readOnlyHint`).
    pub is_read_only: bool,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpResult {
    /// The result as text, or what went wrong.
    pub text: String,
    /// Whether something went wrong.
    pub is_error: bool,
}

impl McpResult {
    fn error(problem: impl std::fmt::Display) -> Self {
        Self { text: format!("error: {problem}"), is_error: true }
    }
}

pub(super) struct Connection {
    settings: McpServerSettings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Until when everybody is told that connecting failed, and why.
    failure: Option<(Instant, String)>,
}

struct Open {
    service: RunningService<RoleClient, ()>,
    tools: Arc<Vec<McpTool>>,
}

impl Connection {
    pub(super) fn new(settings: McpServerSettings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// The address, of a server that has one.
    pub(super) fn url(&self) -> Option<&str> {
        self.settings.url.as_deref()
    }

    fn failed(&self, problem: impl std::fmt::Display) -> ApiError {
        let text = format!("MCP server `{}`: {problem}", self.settings.name);
        ApiError::new(ErrorKind::Unavailable, text)
    }

    pub(super) async fn tools(&self) -> ApiResult<Vec<McpTool>> {
        let (_, tools) = self.open().await?;
        Ok(tools.to_vec())
    }

    /// The connection, made now if there is none. Whoever comes meanwhile waits for it, no longer than for a connection of
    /// its own, and is told if it fails: a server that hangs does not keep those who wait for it one after the other.
    async fn open(&self) -> ApiResult<(Peer<RoleClient>, Arc<Vec<McpTool>>)> {
        let limit = self.settings.timeout();
        let deadline = Instant::now() + limit;
        let late = || format!("it did not answer within {} s", limit.as_secs());
        let mut state = timeout_at(deadline, self.state.lock()).await.map_err(|_| self.failed(late()))?;
        if let Some(open) = state.open.as_ref().filter(|open| !open.service.is_transport_closed()) {
            return Ok((open.service.peer().clone(), open.tools.clone()));
        }
        let began = Instant::now();
        if let Some((_, problem)) = state.failure.as_ref().filter(|(until, _)| began < *until) {
            return Err(self.failed(problem));
        }
        (state.open, state.failure) = (None, None);
        match timeout_at(deadline, self.connect_and_list()).await.unwrap_or_else(|_| Err(late())) {
            Ok(open) => {
                let connected = (open.service.peer().clone(), open.tools.clone());
                state.open = Some(open);
                Ok(connected)
            }
            Err(problem) => {
                let [least, most] = FAILURE_IS_TOLD;
                state.failure = Some((Instant::now() + began.elapsed().clamp(least, most), problem.clone()));
                Err(self.failed(problem))
            }
        }
    }

    async fn connect_and_list(&self) -> Result<Open, String> {
        let service = self.connect().await?;
        let tools = service.peer().list_all_tools().await.map_err(|error| error.to_string())?;
        let tools = tools.into_iter().take(MAX_TOOLS).map(|tool| McpTool {
            name: tool.name.into_owned(),
            description: tool.description.unwrap_or_default().into_owned(),
            parameters: Value::Object((*tool.input_schema).clone()),
            is_read_only: tool.annotations.and_then(|hints| hints.read_only_hint).unwrap_or(false),
        });
        let tools = Arc::new(tools.filter(|tool| self.settings.allows(&tool.name)).collect());
        Ok(Open { service, tools })
    }

    /// Ends a program that does not answer, unless it was ended already: it may read nothing more until it is done with
    /// what was given up, and its next caller would wait in vain. A server with an address answers others meanwhile.
    async fn give_up(&self, tools: &Arc<Vec<McpTool>>) {
        if self.settings.command.is_none() {
            return;
        }
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.tools, tools)) {
            state.open = None;
        }
    }

    async fn connect(&self) -> Result<RunningService<RoleClient, ()>, String> {
        match (&self.settings.command, &self.settings.url) {
            (Some(command), _) => {
                let mut program = tokio::process::Command::new(command);
                program.args(&self.settings.args).envs(&self.settings.env).kill_on_drop(true);
                let (transport, _) = TokioChildProcess::builder(program)
                    .stderr(Stdio::null())
                    .spawn()
                    .map_err(|error| format!("`{command}` cannot be started: {error}"))?;
                ().serve(transport).await.map_err(|error| error.to_string())
            }
            (None, Some(url)) => {
                // Whoever set up another provider of cryptography before has that one.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                    .max_json_response_size(MAX_MESSAGE_BYTES)
                    .max_sse_event_size(MAX_MESSAGE_BYTES);
                if let Some(token) = &self.settings.token {
                    config = config.auth_header(token);
                }
                let transport = StreamableHttpClientTransport::from_config(config);
                serve_client((), transport).await.map_err(|error| error.to_string())
            }
            (None, None) => Err("neither command nor url is set".into()),
        }
    }

    /// Calls a tool. A call is never made twice: whether the first had an effect is not known.
    pub(super) async fn call(&self, tool: &str, arguments: Map<String, Value>) -> McpResult {
        let (peer, tools) = match self.open().await {
            Ok(open) => open,
            Err(error) => return McpResult::error(error),
        };
        if tools.iter().all(|known| known.name != tool) {
            return McpResult::error(format!("`{}` has no tool `{tool}`", self.settings.name));
        }
        let request = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let limit = self.settings.timeout();
        match timeout(limit, peer.call_tool(request)).await {
            Err(_) => {
                self.give_up(&tools).await;
                McpResult::error(format!("the tool did not answer within {} s", limit.as_secs()))
            }
            Ok(Err(error)) => McpResult::error(error),
            Ok(Ok(result)) => self.result(&result),
        }
    }

    fn result(&self, result: &CallToolResult) -> McpResult {
        let mut parts: Vec<String> = result.content.iter().map(describe).collect();
        if parts.is_empty()
            && let Some(value) = &result.structured_content
        {
            parts.push(value.to_string());
        }
        let text = shortened(parts.join("\n"), self.settings.max_result_bytes);
        McpResult { text, is_error: result.is_error.unwrap_or(false) }
    }
}

/// A part of a result as text.
fn describe(part: &ContentBlock) -> String {
    match part {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => format!("[image: {}]", image.mime_type),
        ContentBlock::Audio(audio) => format!("[audio: {}]", audio.mime_type),
        // Resources carry text or refer to one: the model reads what the server wrote.
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn shortened(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let left_out = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("\n[{left_out} bytes left out]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_results_are_cut_between_characters() {
        assert_eq!(shortened("abc".into(), 3), "abc");
        assert_eq!(shortened("aéé".into(), 2), "a\n[4 bytes left out]");
        assert_eq!(shortened("é".into(), 1), "\n[2 bytes left out]");
    }
}
