//! From a request to what is to be done: everything that can be wrong with it is found here, before anything begins.

use super::request::CreateResponseRequest;
use super::search::FileSearch;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::{self, ChatRequest, Format, Options, ToolChoice, check_messages};
use crate::mcp::OfferedTool;
use crate::models::Lease;
use crate::resources::{ask, fields, items, tenant};
use crate::route::{Call, Family};
use crate::{ids, resources::citations};
use alti_store::Hit;
use alti_text::Message;
use serde_json::{Map, Value, json};

/// What `include` may ask for that changes something here.
const RESULTS: &str = "file_search_call.results";
const LOGPROBS: &str = "message.output_text.logprobs";

/// What is to be done for a response.
#[derive(Debug)]
pub(super) struct Plan {
    /// Its id.
    pub(super) id: String,
    pub(super) created_at: i64,
    /// The request as it came.
    pub(super) request: CreateResponseRequest,
    /// The model's name as it was asked for.
    pub(super) model: String,
    pub(super) store: bool,
    pub(super) background: bool,
    pub(super) conversation: Option<String>,
    /// What was said before.
    pub(super) history: Vec<Value>,
    /// What this request brings.
    pub(super) input: Vec<Value>,
    pub(super) search: Option<FileSearch>,
    /// Whether results of searches are told.
    pub(super) tells_results: bool,
    pub(super) options: Options,
    /// Tools of MCP servers: their calls are made here.
    pub(super) mcp: Vec<OfferedTool>,
    functions: Vec<Value>,
    tool_choice: ToolChoice,
    format: Format,
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn plan(
    call: &Call,
    model: &Lease,
    mut request: CreateResponseRequest,
    others: Map<String, Value>,
) -> ApiResult<Plan> {
    if request.prompt.is_some() {
        let message = "`prompt` refers to a prompt stored at OpenAI, and there are none here: send `input`";
        return Err(ApiError::field("prompt", message));
    }
    // A server without a database answers, and keeps nothing.
    let keeps = call.state.store().is_ok();
    let store = request.store.unwrap_or(keeps);
    let background = request.background.unwrap_or(false);
    if background && !store {
        return Err(ApiError::field(
            "background",
            "`background` needs `store`: who would find the response again?",
        ));
    }
    if store {
        call.state.store()?;
    }
    request.metadata = fields::metadata(request.metadata.take())?;
    for (value, name) in [(&request.text, "text"), (&request.tool_choice, "tool_choice")] {
        value.as_ref().map_or(Ok(()), |value| fields::check_depth(value, name))?;
    }
    let tools = request.tools.clone().unwrap_or_default();
    fields::check_depth(&Value::Array(tools.clone()), "tools")?;
    let (mut functions, search) = tools_of(&tools)?;
    let mut mcp = Vec::new();
    if request.tool_choice != Some(json!("none")) && request.max_tool_calls != Some(0) {
        let name = |function: &Value| function["function"]["name"].as_str().map(str::to_owned);
        let taken: Vec<String> = functions.iter().filter_map(name).collect();
        mcp = call.state.mcp().offer(&tools, &taken).await?;
        functions.extend(mcp.iter().map(OfferedTool::to_value));
    }
    let tool_choice = tool_choice(request.tool_choice.as_ref(), &functions, search.is_some())?;
    let search = search.filter(
        |_| !matches!(request.tool_choice.as_ref().map(|it| &it["type"]), Some(kind) if kind == "function"),
    );
    let search =
        search.filter(|_| request.tool_choice != Some(json!("none")) && request.max_tool_calls != Some(0));
    let include = request.include.clone().unwrap_or_default();
    let conversation = conversation_id(&request)?;
    let (history, input) = said(call, &mut request, conversation.as_deref()).await?;
    let options = options(model, &request, others, include.iter().any(|it| it == LOGPROBS))?;
    let format = match request.text.as_ref().and_then(|text| text.get("format")).filter(|it| !it.is_null()) {
        None => Format::Text,
        Some(format) => generate::response_format(format).map_err(|error| {
            let param = error.param.as_deref().map(|it| it.replace("response_format", "text.format"));
            ApiError { param, message: error.message.replace("response_format", "text.format"), ..error }
        })?,
    };
    if !matches!(request.truncation.as_deref(), None | Some("auto" | "disabled")) {
        return Err(ApiError::field("truncation", "`truncation` must be `auto` or `disabled`"));
    }
    Ok(Plan {
        id: ids::new("resp_"),
        created_at: alti_store::now(),
        model: model.requested.clone(),
        store,
        background,
        conversation,
        history,
        input,
        search,
        tells_results: include.iter().any(|it| it == RESULTS),
        options,
        mcp,
        functions,
        tool_choice,
        format,
        request,
    })
}

impl Plan {
    /// The chat for the model, with passages that were found.
    ///
    /// # Errors
    /// Turns that the model cannot read.
    pub(super) fn chat(&self, hits: &[Hit]) -> ApiResult<ChatRequest> {
        let mut messages = Vec::new();
        let mut system: Vec<String> = self.request.instructions.iter().cloned().collect();
        if !hits.is_empty() {
            system.push(citations::instructions(hits));
        }
        let items: Vec<Value> = self.history.iter().chain(&self.input).cloned().collect();
        let mut said = items::messages(&items);
        if !system.is_empty() {
            // Templates know one message of the system's, at the beginning.
            if said.first().is_some_and(|first| matches!(first.role.as_str(), "system" | "developer")) {
                let first = check_messages(vec![said.remove(0)], "input")?.remove(0);
                if let Some(alti_text::Content::Text(text)) = first.content {
                    let place = usize::from(self.request.instructions.is_some());
                    system.insert(place, text);
                }
            }
            messages.push(Message::text("system", system.join("\n\n")));
        }
        messages.append(&mut said);
        let mut request = ChatRequest::new(check_messages(messages, "input")?, self.options.clone());
        request.tools = self.functions.clone();
        request.tool_choice = self.tool_choice.clone();
        request.parallel_tool_calls = self.request.parallel_tool_calls.unwrap_or(true);
        request.format = self.format.clone();
        Ok(request)
    }
}

fn options(
    model: &Lease,
    request: &CreateResponseRequest,
    others: Map<String, Value>,
    logprobs: bool,
) -> ApiResult<Options> {
    if request.max_output_tokens == Some(0) {
        return Err(ApiError::field("max_output_tokens", "`max_output_tokens` must be at least 1"));
    }
    let named = [
        ("temperature", json!(request.temperature)),
        ("top_p", json!(request.top_p)),
        ("presence_penalty", json!(request.presence_penalty)),
        ("frequency_penalty", json!(request.frequency_penalty)),
        ("max_tokens", json!(request.max_output_tokens)),
    ];
    let given = others.iter().map(|(name, value)| (name.as_str(), value.clone())).chain(named);
    let mut options = Options::new(generate::sampling(&model.base_sampling(Family::OpenAi)?, given)?);
    let top = request.top_logprobs.unwrap_or(0);
    if top > 20 {
        return Err(ApiError::field("top_logprobs", "`top_logprobs` must be from 0 to 20"));
    }
    options.logprobs = (logprobs || top > 0).then_some(top as usize);
    Ok(options)
}

fn conversation_id(request: &CreateResponseRequest) -> ApiResult<Option<String>> {
    let Some(conversation) = &request.conversation else { return Ok(None) };
    if request.previous_response_id.is_some() {
        let message = "`conversation` and `previous_response_id` exclude each other: send one of them";
        return Err(ApiError::field("previous_response_id", message));
    }
    let id = conversation.as_str().or(conversation["id"].as_str());
    let message = "`conversation` must be an id, or an object with an `id`";
    id.map(|id| Some(id.to_owned())).ok_or_else(|| ApiError::field("conversation", message))
}

/// What was said before, and what the request says.
async fn said(
    call: &Call,
    request: &mut CreateResponseRequest,
    conversation: Option<&str>,
) -> ApiResult<(Vec<Value>, Vec<Value>)> {
    let input = match request.input.take() {
        None => Vec::new(),
        Some(input) => items::read_items(input, "input")?,
    };
    let (previous, conversation) = (request.previous_response_id.clone(), conversation.map(str::to_owned));
    let whose = tenant(call);
    let history = match (previous, conversation) {
        (Some(id), _) => {
            let history = ask(&call.state, {
                let id = id.clone();
                move |store| store.responses().history(&whose, &id)
            });
            history.await.map_err(|error| error.param("previous_response_id"))?
        }
        (None, Some(id)) => {
            let history = ask(&call.state, move |store| store.conversations().all_items(&whose, &id));
            history.await.map_err(|error| error.param("conversation"))?
        }
        (None, None) => Vec::new(),
    };
    let input = items::resolve(input, |id| history.iter().find(|item| item["id"] == id).cloned())?;
    if input.is_empty() && history.is_empty() {
        return Err(ApiError::field("input", "`input` is missing: there is nothing to answer"));
    }
    Ok((history, input))
}

/// The functions, in the shape that templates read, and the search in files.
fn tools_of(tools: &[Value]) -> ApiResult<(Vec<Value>, Option<FileSearch>)> {
    let (mut functions, mut search) = (Vec::new(), None);
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        match tool["type"].as_str() {
            Some("function") => {
                // The chat API has the function one level deeper.
                let inner = if tool["function"].is_object() { &tool["function"] } else { tool };
                if inner["name"].as_str().is_none_or(str::is_empty) {
                    return Err(ApiError::field(format!("{path}.name"), format!("`{path}.name` is missing")));
                }
                let mut function = Map::new();
                for name in ["name", "description", "parameters", "strict"] {
                    if let Some(value) = inner.get(name).filter(|value| !value.is_null()) {
                        function.insert(name.into(), value.clone());
                    }
                }
                functions.push(json!({ "type": "function", "function": function }));
            }
            Some("file_search") if search.is_none() => search = Some(FileSearch::read(tool, &path)?),
            // What they offer is asked for later.
            Some("mcp") => {}
            Some("file_search") => {
                return Err(ApiError::field(
                    path,
                    "there is more than one `file_search`: name all stores in one",
                ));
            }
            kind => {
                let kind = excerpt(kind.unwrap_or_default());
                let message =
                    format!("`{path}.type` is `{kind}`: this server has `function`, `file_search` and `mcp`");
                return Err(ApiError::field(format!("{path}.type"), message));
            }
        }
    }
    Ok((functions, search))
}

fn tool_choice(choice: Option<&Value>, functions: &[Value], search: bool) -> ApiResult<ToolChoice> {
    let refuse = |message: &str| Err(ApiError::field("tool_choice", format!("`tool_choice` {message}")));
    let known = |name: &str| functions.iter().any(|function| function["function"]["name"] == name);
    match choice {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            // A search is a call, and it is always made.
            "required" if search => Ok(ToolChoice::Auto),
            "required" if functions.is_empty() => refuse("is `required`, and there are no tools"),
            "required" => Ok(ToolChoice::Required),
            _ => refuse("must be none, auto, required, or an object that names a tool"),
        },
        Some(choice) => match choice["type"].as_str() {
            Some("file_search") if search => Ok(ToolChoice::None),
            Some("file_search") => refuse("names file_search, which is not among the tools"),
            Some("function") => {
                let name = choice["name"].as_str().or(choice["function"]["name"].as_str());
                match name.filter(|name| known(name)) {
                    Some(name) => Ok(ToolChoice::Named(name.to_owned())),
                    None => refuse("names a function that is not among the tools"),
                }
            }
            _ => refuse("must be none, auto, required, or an object that names a function or file_search"),
        },
    }
}
