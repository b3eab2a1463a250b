//! From a request to what is to be done: everything that can be wrong with it is found here, before anything begins.

use super::approvals;
use super::request::CreateResponseRequest;
use super::search::FileSearch;
use super::tools::Tools;
use super::write::renamed;
use crate::error::{ApiError, ApiResult, ErrorKind, excerpt};
use crate::generate::{self, ChatRequest, Format, Options, ToolCall, ToolChoice, check_messages};
use crate::mcp::OfferedTool;
use crate::models::Lease;
use crate::openai::shared::within;
use crate::resources::{ask, fields, items, tenant};
use crate::route::{Call, Family};
use crate::{ids, resources::citations};
use alti_store::Hit;
use alti_text::Message;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// What `include` may ask for that changes something here.
pub(super) const RESULTS: &str = "file_search_call.results";
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
    /// Most of these calls.
    pub(super) most_calls: usize,
    /// Calls that were approved, to be made before the answer. Their ids are those of the approval requests.
    pub(super) approved: Vec<ToolCall>,
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
    if let Some(text) = &mut request.text {
        // Clients send null for what they leave out.
        text.retain(|_, value| !value.is_null());
        text.iter().try_for_each(|(_, value)| fields::check_depth(value, "text"))?;
    }
    request.tool_choice.as_ref().map_or(Ok(()), |choice| fields::check_depth(choice, "tool_choice"))?;
    let include = request.include.clone().unwrap_or_default();
    let conversation = conversation_id(&request)?;
    let (history, input) = said(call, &mut request, conversation.as_deref()).await?;
    let approved = approvals::read(&history, &input, conversation.is_some())?;
    let tools = Tools::read(call, &request, !approved.is_empty()).await?;
    let approved = approved.iter().map(|approved| approved.call(&tools.mcp)).collect::<ApiResult<_>>()?;
    let options = options(model, &request, others, include.iter().any(|it| it == LOGPROBS))?;
    let format = match request.text.as_ref().and_then(|text| text.get("format")) {
        None => Format::Text,
        Some(format) => generate::response_format(format).map_err(renamed)?,
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
        search: tools.search,
        tells_results: include.iter().any(|it| it == RESULTS),
        options,
        mcp: tools.mcp,
        most_calls: tools.most_calls,
        approved,
        functions: tools.functions,
        tool_choice: tools.choice,
        format,
        request,
    })
}

impl Plan {
    /// The chat for the model, with passages that were found, and without calls that have yet to be made.
    ///
    /// # Errors
    /// Turns that the model cannot read.
    pub(super) fn chat(&self, hits: &[Hit]) -> ApiResult<ChatRequest> {
        let mut messages = Vec::new();
        let mut system: Vec<String> = self.request.instructions.iter().cloned().collect();
        if !hits.is_empty() {
            system.push(citations::instructions(hits));
        }
        let items = self.history.iter().chain(&self.input);
        let items: Vec<Value> = items.filter(|item| !self.is_to_be_made(item)).cloned().collect();
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

    /// Whether an item asks for a call that was approved and is to be made now, or approves it.
    fn is_to_be_made(&self, item: &Value) -> bool {
        let id = match item["type"].as_str() {
            Some("mcp_approval_request") => &item["id"],
            Some("mcp_approval_response") => &item["approval_request_id"],
            _ => return false,
        };
        self.approved.iter().any(|call| *id == call.id.as_str())
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
    within("temperature", request.temperature, 0.0, 2.0)?;
    within("top_p", request.top_p, 0.0, 1.0)?;
    within("presence_penalty", request.presence_penalty, -2.0, 2.0)?;
    within("frequency_penalty", request.frequency_penalty, -2.0, 2.0)?;
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
        (Some(id), _) => previous_items(call, id).await?,
        (None, Some(id)) => {
            let history = ask(&call.state, move |store| store.conversations().all_items(&whose, &id));
            history.await.map_err(|error| error.param("conversation"))?
        }
        (None, None) => Vec::new(),
    };
    let elsewhere = stored_items(call, &input, &history).await?;
    let input = items::resolve(input, |id| {
        history.iter().find(|item| item["id"] == id).or_else(|| elsewhere.get(id)).cloned()
    })?;
    if input.is_empty() && history.is_empty() {
        return Err(ApiError::field("input", "`input` is missing: there is nothing to answer"));
    }
    Ok((history, input))
}

/// What was said up to and with a response.
async fn previous_items(call: &Call, id: String) -> ApiResult<Vec<Value>> {
    let (whose, previous) = (tenant(call), id.clone());
    let history = ask(&call.state, move |store| {
        // First: what is finished has all of its output.
        let finished = store.responses().get(&whose, &previous)?.is_finished();
        Ok((finished, store.responses().history(&whose, &previous)?))
    });
    let (finished, history) = history.await.map_err(|error| match error.kind {
        // It is the request that is wrong, as OpenAI sees it: clients that keep ids look for this word.
        ErrorKind::NotFound => {
            let message =
                format!("the previous response `{}` cannot be continued: {}", excerpt(&id), error.message);
            ApiError::field("previous_response_id", message).code("previous_response_not_found")
        }
        _ => error.param("previous_response_id"),
    })?;
    if !finished {
        let id = excerpt(&id);
        let message =
            format!("the previous response `{id}` is still in progress: wait for its end, or cancel it");
        return Err(ApiError::field("previous_response_id", message));
    }
    Ok(history)
}

/// What references of the input mean that are not to the history: items of any response or conversation of the
/// tenant's, by id.
async fn stored_items(call: &Call, input: &[Value], history: &[Value]) -> ApiResult<HashMap<String, Value>> {
    let known: HashSet<&str> = history.iter().filter_map(|item| item["id"].as_str()).collect();
    let references = input.iter().filter(|item| item["type"] == "item_reference");
    let wanted = references.filter_map(|item| item["id"].as_str()).filter(|id| !known.contains(id));
    let wanted: HashSet<String> = wanted.map(str::to_owned).collect();
    // A server without a database has kept nothing.
    if wanted.is_empty() || call.state.store().is_err() {
        return Ok(HashMap::new());
    }
    let whose = tenant(call);
    ask(&call.state, move |store| store.responses().find_items(&whose, &wanted)).await
}
