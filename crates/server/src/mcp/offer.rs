//! What a model is offered: the tools of several servers, under names that tell them apart.

use super::McpServers;
use super::filter::{Approval, ToolFilter};
use crate::error::{ApiError, ApiResult};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A tool of a server, as a model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedTool {
    /// The name that the model calls.
    pub name: String,
    /// The server.
    pub server: String,
    /// The tool's name there.
    pub tool: String,
    /// What it is for.
    pub description: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
    /// Whether each call has to be approved before it is made.
    pub needs_approval: bool,
}

impl OfferedTool {
    /// In the form that chat templates take.
    pub fn to_value(&self) -> Value {
        json!({"type": "function", "function":
            {"name": self.name, "description": self.description, "parameters": self.parameters}})
    }
}

impl McpServers {
    /// The tools that a request's tools of type `mcp` stand for: `{"type": "mcp", "server_label": ..., "allowed_tools":
    /// [...]}`. `taken` are the names of its other tools. Where a name is there twice, the server's comes before it.
    ///
    /// # Errors
    /// If a server is not one of the owner's, or cannot be reached; if it cannot be told which tools are meant.
    pub async fn offer(&self, tools: &[Value], taken: &[String]) -> ApiResult<Vec<OfferedTool>> {
        let mut offered = Vec::new();
        for tool in tools.iter().filter(|tool| tool["type"] == "mcp") {
            let label = tool["server_label"].as_str().ok_or_else(|| {
                ApiError::field("tools", "an `mcp` tool names its server in `server_label`")
            })?;
            if let Some(url) = tool["server_url"].as_str()
                && self.connection(label)?.url() != Some(url)
            {
                let text =
                    format!("`server_url` is not that of the MCP server `{label}` that is set up here");
                return Err(ApiError::field("tools", text));
            }
            let approval = Approval::read(&tool["require_approval"])?;
            let wanted = ToolFilter::of_allowed(&tool["allowed_tools"])?;
            let mut found = self.tools(label).await?;
            found.retain(|found| wanted.as_ref().is_none_or(|wanted| wanted.matches(found)));
            offered.extend(found.into_iter().map(|found| OfferedTool {
                needs_approval: approval.is_needed(&found),
                name: found.name.clone(),
                server: label.to_owned(),
                tool: found.name,
                description: found.description,
                parameters: found.parameters,
            }));
        }
        Ok(told_apart(offered, taken))
    }
}

fn told_apart(mut offered: Vec<OfferedTool>, taken: &[String]) -> Vec<OfferedTool> {
    let mut uses: HashMap<String, usize> = taken.iter().map(|name| (name.clone(), 1)).collect();
    for tool in &offered {
        *uses.entry(tool.name.clone()).or_default() += 1;
    }
    for tool in &mut offered {
        if uses[&tool.tool] > 1 {
            tool.name = format!("{}_{}", tool.server, tool.tool);
        }
    }
    offered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(server: &str, name: &str) -> OfferedTool {
        OfferedTool {
            name: name.into(),
            server: server.into(),
            tool: name.into(),
            description: String::new(),
            parameters: json!({}),
            needs_approval: false,
        }
    }

    #[test]
    fn names_that_are_there_twice_get_their_servers() {
        let offered = vec![tool("a", "search"), tool("b", "search"), tool("b", "read"), tool("b", "mine")];
        let names: Vec<String> =
            told_apart(offered, &["mine".into()]).into_iter().map(|tool| tool.name).collect();
        assert_eq!(names, ["a_search", "b_search", "read", "b_mine"]);
    }
}
