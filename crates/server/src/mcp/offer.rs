//! What a model is offered: the tools of several servers, under names that tell them apart.

use super::McpServers;
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
    /// If a server is not one of the owner's, or cannot be reached; if calls would have to be asked about.
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
            let cleared = cleared(&tool["require_approval"])?;
            let wanted = wanted(&tool["allowed_tools"])?;
            let mut found = self.tools(label).await?;
            found.retain(|found| wanted.as_ref().is_none_or(|wanted| wanted.contains(&found.name)));
            let any = !found.is_empty();
            found.retain(|found| cleared.as_ref().is_none_or(|cleared| cleared.contains(&found.name)));
            if any && found.is_empty() {
                let text =
                    format!("`require_approval` clears no tool of `{label}` that is allowed: {UNASKED}");
                return Err(ApiError::field("tools", text));
            }
            offered.extend(found.into_iter().map(|found| OfferedTool {
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

/// What a request has to say of approvals.
const UNASKED: &str = "calls are not asked about here, so send `\"require_approval\": \"never\"`, or name the tools that may \
                       be called without: `{\"never\": {\"tool_names\": [...]}}`";

/// The tools that `require_approval` has called without asking: all, or those of these names. Nobody would be asked here:
/// whoever sends the request says that nobody need be.
fn cleared(approval: &Value) -> ApiResult<Option<Vec<String>>> {
    if approval == "never" {
        return Ok(None);
    }
    let names = |of: &str| {
        let names = approval[of]["tool_names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    };
    // Which tools only read is not known here, so that a filter by that would clear what it should not.
    let is_plain = |of: &str| approval[of]["read_only"].is_null();
    let asked = if approval["always"].is_null() { Some(Vec::new()) } else { names("always") };
    match (names("never"), asked) {
        (Some(mut cleared), Some(asked)) if is_plain("never") && is_plain("always") => {
            cleared.retain(|name| !asked.contains(name));
            Ok(Some(cleared))
        }
        _ => Err(ApiError::field("tools", UNASKED)),
    }
}

/// Names, or `{"tool_names": [...]}`.
fn wanted(allowed: &Value) -> ApiResult<Option<Vec<String>>> {
    let list = if allowed.is_object() { &allowed["tool_names"] } else { allowed };
    if list.is_null() {
        return Ok(None);
    }
    let names = list.as_array().and_then(|names| {
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    names.map(Some).ok_or_else(|| ApiError::field("tools", "`allowed_tools` is a list of names"))
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
        }
    }

    #[test]
    fn names_that_are_there_twice_get_their_servers() {
        let offered = vec![tool("a", "search"), tool("b", "search"), tool("b", "read"), tool("b", "mine")];
        let names: Vec<String> =
            told_apart(offered, &["mine".into()]).into_iter().map(|tool| tool.name).collect();
        assert_eq!(names, ["a_search", "b_search", "read", "b_mine"]);
    }

    #[test]
    fn only_what_needs_no_approval_is_cleared() {
        let clear = |approval: Value| cleared(&approval).map_err(|error| error.message);
        assert_eq!(clear(json!("never")), Ok(None));
        assert_eq!(clear(json!({"never": {"tool_names": ["a"]}})), Ok(Some(vec!["a".into()])));
        let both = json!({"never": {"tool_names": ["a", "b"]}, "always": {"tool_names": ["b"]}});
        assert_eq!(clear(both), Ok(Some(vec!["a".into()])));
        for refused in [
            Value::Null,
            json!("always"),
            json!({}),
            json!({"never": {}}),
            json!({"never": ["a"]}),
            json!({"never": {"tool_names": [1]}}),
            json!({"never": {"tool_names": ["a"], "read_only": true}}),
            json!({"always": {"tool_names": ["a"]}}),
        ] {
            assert_eq!(clear(refused), Err(UNASKED.to_owned()));
        }
    }

    #[test]
    fn allowed_tools_in_both_forms() {
        assert_eq!(wanted(&Value::Null), Ok(None));
        assert_eq!(wanted(&json!(["a"])), Ok(Some(vec!["a".into()])));
        assert_eq!(wanted(&json!({"tool_names": ["a"]})), Ok(Some(vec!["a".into()])));
        assert!(wanted(&json!([1])).is_err() && wanted(&json!("a")).is_err());
    }
}
