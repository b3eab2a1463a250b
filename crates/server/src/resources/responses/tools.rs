//! The tools of a request: which of them are here, and which of these may be called.

use super::request::CreateResponseRequest;
use super::search::FileSearch;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::ToolChoice;
use crate::mcp::OfferedTool;
use crate::resources::fields;
use crate::route::Call;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Kinds of tools that OpenAI has and this server does not. A request that brings one is answered without it: its other
/// tools are worth something.
const NOT_HERE: [&str; 16] = [
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "custom",
    "image_generation",
    "local_shell",
    "namespace",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
];

/// What may be called for a response.
pub(super) struct Tools {
    /// In the shape that templates read; those of MCP servers are among them.
    pub(super) functions: Vec<Value>,
    pub(super) search: Option<FileSearch>,
    pub(super) mcp: Vec<OfferedTool>,
    /// Most calls to tools of MCP servers: what the search leaves of all calls.
    pub(super) most_calls: usize,
    pub(super) choice: ToolChoice,
}

impl Tools {
    /// Reads a request's tools, and asks MCP servers for theirs: also for calls that were approved (`approves`), which the
    /// model has made already.
    ///
    /// # Errors
    /// What is wrong with the tools, or with the choice among them.
    pub(super) async fn read(
        call: &Call,
        request: &CreateResponseRequest,
        approves: bool,
    ) -> ApiResult<Tools> {
        let given = request.tools.clone().unwrap_or_default();
        fields::check_depth(&Value::Array(given.clone()), "tools")?;
        let (functions, search) = tools_of(&given)?;
        let most_calls = request.max_tool_calls.map_or(usize::MAX, |most| most as usize);
        let mut tools = Tools { functions, search, mcp: Vec::new(), most_calls, choice: ToolChoice::Auto };
        let may_call = request.tool_choice != Some(json!("none")) && most_calls > 0;
        if may_call || approves {
            let name = |function: &Value| function["function"]["name"].as_str().map(str::to_owned);
            let taken: Vec<String> = tools.functions.iter().filter_map(name).collect();
            tools.mcp = call.state.mcp().offer(&given, &taken).await?;
        }
        if may_call {
            tools.functions.extend(tools.mcp.iter().map(OfferedTool::to_value));
        }
        tools.choose(request.tool_choice.as_ref(), &given)?;
        tools.search = tools.search.filter(|_| may_call);
        // The search is always made, and is a call like any other.
        tools.most_calls = most_calls.saturating_sub(usize::from(tools.search.is_some()));
        if tools.most_calls == 0 {
            let names: HashSet<String> = tools.mcp.iter().map(|tool| tool.name.clone()).collect();
            tools.leave(|name| !names.contains(name));
        }
        Ok(tools)
    }

    /// Reads `tool_choice`, and leaves only what it allows.
    fn choose(&mut self, choice: Option<&Value>, given: &[Value]) -> ApiResult<()> {
        self.choice = match choice {
            None => ToolChoice::Auto,
            Some(Value::String(mode)) => self.mode(mode)?,
            Some(choice) => match choice["type"].as_str().unwrap_or_default() {
                "allowed_tools" => self.allow(choice, given)?,
                "file_search" if self.search.is_some() => ToolChoice::None,
                "file_search" => return Err(refused("names file_search, which is not among the tools")),
                "function" => {
                    self.search = None;
                    ToolChoice::Named(self.function(choice)?)
                }
                "mcp" => self.server(choice, given)?,
                kind if NOT_HERE.contains(&kind) => {
                    return Err(refused(&format!("names `{kind}`, a tool that this server does not have")));
                }
                _ => return Err(refused(CHOICES)),
            },
        };
        Ok(())
    }

    fn mode(&self, mode: &str) -> ApiResult<ToolChoice> {
        match mode {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            // A search is a call, and it is always made.
            "required" if self.search.is_some() => Ok(ToolChoice::Auto),
            "required" if self.functions.is_empty() => {
                Err(refused("is `required`, and there are no tools that this server could call"))
            }
            "required" => Ok(ToolChoice::Required),
            _ => Err(refused(CHOICES)),
        }
    }

    /// The name of a function that a choice names.
    fn function(&self, choice: &Value) -> ApiResult<String> {
        let name = choice["name"].as_str().or(choice["function"]["name"].as_str());
        let known = |name: &&str| self.functions.iter().any(|function| function["function"]["name"] == *name);
        let name = name.filter(known).map(str::to_owned);
        name.ok_or_else(|| refused("names a function that is not among the tools"))
    }

    /// Leaves the tools of the MCP server that a choice names, or the one of them that it names: it has to be called.
    fn server(&mut self, choice: &Value, given: &[Value]) -> ApiResult<ToolChoice> {
        if !given.iter().any(|tool| is_server(tool, &choice["server_label"])) {
            return Err(refused("names an MCP server that is not among the tools"));
        }
        let mut names = self.names_at(choice);
        self.search = None;
        match names.len() {
            0 => Err(refused("names a tool of an MCP server that may not be called here")),
            1 => Ok(ToolChoice::Named(names.remove(0))),
            _ => {
                self.leave(|name| names.iter().any(|it| it == name));
                Ok(ToolChoice::Required)
            }
        }
    }

    /// Leaves the functions whose names are wanted.
    fn leave(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.functions.retain(|function| function["function"]["name"].as_str().is_some_and(&is_wanted));
    }

    /// Leaves the tools that a choice of `allowed_tools` lists. What this server does not have is passed over there as
    /// it is in `tools`.
    fn allow(&mut self, choice: &Value, given: &[Value]) -> ApiResult<ToolChoice> {
        let Some(listed) = choice["tools"].as_array() else {
            return Err(refused("of type `allowed_tools` needs a list of `tools`"));
        };
        let Some(mode @ ("auto" | "required")) = choice["mode"].as_str() else {
            return Err(refused("of type `allowed_tools` needs a `mode`: auto or required"));
        };
        let (mut names, mut searches) = (HashSet::new(), false);
        for tool in listed {
            match tool["type"].as_str().unwrap_or_default() {
                "function" => {
                    names.insert(self.function(tool)?);
                }
                "file_search" if self.search.is_some() => searches = true,
                "mcp" if given.iter().any(|it| is_server(it, &tool["server_label"])) => {
                    names.extend(self.names_at(tool));
                }
                kind if NOT_HERE.contains(&kind) => {}
                kind => {
                    let message = format!("allows `{}`, which is not among the tools", excerpt(kind));
                    return Err(refused(&message));
                }
            }
        }
        self.leave(|name| names.contains(name));
        self.search = self.search.take().filter(|_| searches);
        self.mode(mode)
    }

    /// The names of an MCP server's tools: of all, or of the one that a choice names.
    fn names_at(&self, choice: &Value) -> Vec<String> {
        let is_offered = |tool: &&OfferedTool| {
            self.functions.iter().any(|function| function["function"]["name"] == tool.name.as_str())
        };
        let here = self.mcp.iter().filter(|tool| choice["server_label"] == tool.server).filter(is_offered);
        let named = here.filter(|tool| choice["name"].as_str().is_none_or(|name| name == tool.tool));
        named.map(|tool| tool.name.clone()).collect()
    }
}

/// What `tool_choice` may be.
const CHOICES: &str =
    "must be none, auto, required, or an object that names a function, mcp, file_search or allowed_tools";

fn refused(message: &str) -> ApiError {
    ApiError::field("tool_choice", format!("`tool_choice` {message}"))
}

/// Whether a tool is the MCP server with this label.
fn is_server(tool: &Value, label: &Value) -> bool {
    tool["type"] == "mcp" && tool["server_label"] == *label
}

/// What a function tool says: the chat API has it one level deeper.
fn inner(tool: &Value) -> &Value {
    if tool["function"].is_object() { &tool["function"] } else { tool }
}

/// The functions, in the shape that templates read, and the search in files.
fn tools_of(tools: &[Value]) -> ApiResult<(Vec<Value>, Option<FileSearch>)> {
    let (mut functions, mut search) = (Vec::new(), None);
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        match tool["type"].as_str().unwrap_or_default() {
            "function" => functions.push(function(inner(tool), &path)?),
            "file_search" if search.is_none() => search = Some(FileSearch::read(tool, &path)?),
            "file_search" => {
                return Err(ApiError::field(
                    path,
                    "there is more than one `file_search`: name all stores in one",
                ));
            }
            // What they offer is asked for later.
            "mcp" => {}
            kind if NOT_HERE.contains(&kind) => {}
            kind => {
                let kind = excerpt(kind);
                let message =
                    format!("`{path}.type` is `{kind}`: this server has `function`, `file_search` and `mcp`");
                return Err(ApiError::field(format!("{path}.type"), message));
            }
        }
    }
    Ok((functions, search))
}

fn function(given: &Value, path: &str) -> ApiResult<Value> {
    if given["name"].as_str().is_none_or(str::is_empty) {
        return Err(ApiError::field(format!("{path}.name"), format!("`{path}.name` is missing")));
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        if let Some(value) = given.get(name).filter(|value| !value.is_null()) {
            function.insert(name.into(), value.clone());
        }
    }
    Ok(json!({ "type": "function", "function": function }))
}

/// The tools as the response object has them: those that are not here too, and functions with every field that typed
/// clients read.
pub(super) fn echoed(tools: &[Value]) -> Vec<Value> {
    let echo = |tool: &Value| {
        if tool["type"] != "function" {
            return tool.clone();
        }
        let mut flat = inner(tool).clone();
        flat["type"] = json!("function");
        for name in ["description", "parameters", "strict"] {
            if flat.get(name).is_none() {
                flat[name] = Value::Null;
            }
        }
        flat
    };
    tools.iter().map(echo).collect()
}
