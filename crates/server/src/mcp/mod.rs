//! Tools of MCP servers (Model Context Protocol): the owner names servers in the settings, models are offered what they
//! can do, calls run here, and their results go back to the model.
//!
//! A server is a program that is started ([`McpServerSettings::command`]) or an address ([`McpServerSettings::url`]). It
//! is connected to when it is first needed, and again after it went away. Only servers of the settings can be used: a
//! request that could name an address would make this machine call it.

mod connection;
mod filter;
mod offer;
mod rounds;

pub use connection::{McpResult, McpTool};
pub use offer::OfferedTool;
pub(crate) use rounds::told;
pub use rounds::{CallResult, Round, ToolRounds};

use crate::error::{ApiError, ApiResult};
use connection::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One MCP server, as the owner describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpServerSettings {
    /// What requests call it (`server_label`).
    pub name: String,
    /// The program to start, which speaks on its standard input and output.
    pub command: Option<String>,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Environment variables for it, besides those of this server.
    pub env: BTreeMap<String, String>,
    /// Or the address of a server that speaks HTTP (`https://example.com/mcp`).
    pub url: Option<String>,
    /// The bearer token for it.
    pub token: Option<String>,
    /// The tools that may be used; none means all.
    pub allowed_tools: Option<Vec<String>>,
    /// Seconds that connecting, listing or a call may take.
    pub timeout_seconds: u64,
    /// Bytes of a result that the model is shown.
    pub max_result_bytes: usize,
}

impl Default for McpServerSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            url: None,
            token: None,
            allowed_tools: None,
            timeout_seconds: 30,
            max_result_bytes: 64 << 10,
        }
    }
}

impl McpServerSettings {
    /// The time that connecting, listing or a call may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    fn allows(&self, tool: &str) -> bool {
        self.allowed_tools.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == tool))
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let valid = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(valid) {
            return Err(format!("mcp server `{name}`: a name is up to 64 letters, digits, `_` and `-`"));
        }
        if self.command.is_some() == self.url.is_some() {
            return Err(format!("mcp server `{name}`: set either command or url"));
        }
        if self.url.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            return Err(format!("mcp server `{name}`: url must begin with https:// or http://"));
        }
        if self.timeout_seconds == 0 || self.max_result_bytes == 0 {
            return Err(format!(
                "mcp server `{name}`: timeout_seconds and max_result_bytes must be at least 1"
            ));
        }
        Ok(())
    }
}

/// The owner's MCP servers. Clones share the connections.
#[derive(Clone, Default)]
pub struct McpServers {
    connections: Arc<BTreeMap<String, Connection>>,
}

impl std::fmt::Debug for McpServers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("McpServers").field(&self.connections.keys()).finish()
    }
}

impl McpServers {
    /// The servers of the settings. Connects to none of them yet.
    ///
    /// # Errors
    /// The setting that is wrong and why.
    pub fn new(settings: Vec<McpServerSettings>) -> Result<Self, String> {
        let mut connections = BTreeMap::new();
        for settings in settings {
            settings.check()?;
            let name = settings.name.clone();
            if connections.insert(name.clone(), Connection::new(settings)).is_some() {
                return Err(format!("mcp server `{name}`: there are two of that name"));
            }
        }
        Ok(Self { connections: Arc::new(connections) })
    }

    /// The servers' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.connections.keys().map(String::as_str)
    }

    fn connection(&self, name: &str) -> ApiResult<&Connection> {
        self.connections.get(name).ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none are".to_owned() } else { known };
            ApiError::field("tools", format!("no MCP server `{name}` is set up here (set up: {known})"))
        })
    }

    /// What a server can do, of that what the owner allows.
    ///
    /// # Errors
    /// If there is no such server, or it cannot be reached.
    pub async fn tools(&self, server: &str) -> ApiResult<Vec<McpTool>> {
        self.connection(server)?.tools().await
    }

    /// Calls a tool. What goes wrong is a result, too: the model is told.
    ///
    /// # Errors
    /// If there is no such server.
    pub async fn call(
        &self,
        server: &str,
        tool: &str,
        arguments: serde_json::Map<String, serde_json::Value>,
    ) -> ApiResult<McpResult> {
        Ok(self.connection(server)?.call(tool, arguments).await)
    }
}
