//! Items: what conversations are made of, and how they become the messages that templates read.

use super::fields::check_depth;
use super::responses::summary;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::ids;
use crate::mcp::{ToolRounds, told};
use alti_text::tools::ToolCall;
use alti_text::{Content, Message};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// Kinds of items, with the beginning of their ids. Those of tools that are only OpenAI's come with conversations that began
/// there.
const KINDS: [(&str, &str); 29] = [
    ("message", "msg_"),
    ("function_call", "fc_"),
    ("function_call_output", "fco_"),
    ("custom_tool_call", "ctc_"),
    ("custom_tool_call_output", "ctco_"),
    ("reasoning", "rs_"),
    ("compaction", "cmp_"),
    ("file_search_call", "fs_"),
    ("mcp_call", "mcp_"),
    ("mcp_list_tools", "mcpl_"),
    ("mcp_approval_request", "mcpr_"),
    ("mcp_approval_response", "mcpa_"),
    ("web_search_call", "ws_"),
    ("image_generation_call", "ig_"),
    ("code_interpreter_call", "ci_"),
    ("computer_call", "cu_"),
    ("computer_call_output", "cuo_"),
    ("local_shell_call", "lsh_"),
    ("local_shell_call_output", "lsho_"),
    ("shell_call", "sh_"),
    ("shell_call_output", "sho_"),
    ("apply_patch_call", "apc_"),
    ("apply_patch_call_output", "apco_"),
    ("tool_search_call", "tsc_"),
    ("tool_search_output", "tso_"),
    ("additional_tools", "at_"),
    ("program", "pg_"),
    ("program_output", "pgo_"),
    ("item_reference", ""),
];

/// What a summary in the place of turns begins with.
const SUMMARY: &str = "(Summary of our conversation so far.)";

/// Most items that one request may bring.
const MOST_ITEMS: usize = 10_000;

/// Reads `input` or `items`: a text, or a list of items, each brought into the shape in which it is stored: with its type,
/// an id, and parts instead of plain text. References to other items are left as they are.
///
/// # Errors
/// What is wrong with which item.
pub(super) fn read_items(input: Value, field: &str) -> ApiResult<Vec<Value>> {
    check_depth(&input, field)?;
    let items = match input {
        Value::String(text) => vec![json!({ "type": "message", "role": "user", "content": text })],
        Value::Array(items) => items,
        _ => return Err(ApiError::field(field, format!("`{field}` must be a string or a list of items"))),
    };
    if items.len() > MOST_ITEMS {
        return Err(ApiError::field(field, format!("`{field}` has more than {MOST_ITEMS} items")));
    }
    let mut ids = HashSet::new();
    let items = items.into_iter().enumerate().map(|(index, item)| {
        let path = format!("{field}[{index}]");
        let item = read_item(item, &path)?;
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        if !ids.insert(id) {
            return Err(ApiError::field(
                format!("{path}.id"),
                format!("`{path}.id` is that of an earlier item"),
            ));
        }
        Ok(item)
    });
    items.collect()
}

fn read_item(item: Value, path: &str) -> ApiResult<Value> {
    let Value::Object(mut item) = item else {
        return Err(ApiError::field(path, format!("`{path}` must be an object")));
    };
    item.retain(|_, value| !value.is_null());
    if !item.contains_key("type") {
        let kind = if item.contains_key("role") { "message" } else { "item_reference" };
        item.insert("type".into(), json!(kind));
    }
    let kind = item["type"].as_str().unwrap_or_default().to_owned();
    let Some((_, prefix)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let names = KINDS.map(|(name, _)| name).join(", ");
        let message = format!("`{path}.type` is `{}`: it must be one of {names}", excerpt(&kind));
        return Err(ApiError::field(format!("{path}.type"), message));
    };
    let own =
        item.get("id").map(|id| id.as_str().filter(|id| (1..=128).contains(&id.len())).map(str::to_owned));
    let id = match own {
        Some(Some(id)) => id,
        None if kind != "item_reference" => ids::new(prefix),
        _ => {
            let message = format!("`{path}.id` must be a string of 1 to 128 characters");
            return Err(ApiError::field(format!("{path}.id"), message));
        }
    };
    item.insert("id".into(), json!(id));
    let text = |name: &str| match item.get(name) {
        Some(Value::String(_)) => Ok(()),
        _ => Err(ApiError::field(format!("{path}.{name}"), format!("`{path}.{name}` must be a string"))),
    };
    match kind.as_str() {
        "message" => read_message(&mut item, path)?,
        "function_call" => ["call_id", "name", "arguments"].into_iter().try_for_each(text)?,
        "custom_tool_call" => ["call_id", "name", "input"].into_iter().try_for_each(text)?,
        "function_call_output" | "custom_tool_call_output" => {
            text("call_id")?;
            if !matches!(item.get("output"), Some(Value::String(_) | Value::Array(_))) {
                let message = format!("`{path}.output` must be a string or a list of parts");
                return Err(ApiError::field(format!("{path}.output"), message));
            }
        }
        "mcp_approval_request" => ["server_label", "name", "arguments"].into_iter().try_for_each(text)?,
        "mcp_approval_response" => {
            text("approval_request_id")?;
            if !item.get("approve").is_some_and(Value::is_boolean) {
                let message = format!("`{path}.approve` must be true or false");
                return Err(ApiError::field(format!("{path}.approve"), message));
            }
            if item.contains_key("reason") {
                text("reason")?;
            }
        }
        "compaction" => {
            let content = item.get("encrypted_content").and_then(Value::as_str).unwrap_or_default();
            if summary(content).is_none() {
                let place = format!("{path}.encrypted_content");
                let message =
                    format!("`{place}` is nothing that `/v1/responses/compact` of this server made");
                return Err(ApiError::field(place, message));
            }
        }
        _ => {}
    }
    if matches!(kind.as_str(), "message" | "function_call" | "function_call_output") {
        item.entry("status").or_insert(json!("completed"));
    }
    Ok(Value::Object(item))
}

/// Checks a message, and makes a part of a plain text.
fn read_message(item: &mut Map<String, Value>, path: &str) -> ApiResult<()> {
    let role = item.get("role").and_then(Value::as_str).unwrap_or_default();
    if !["user", "system", "developer", "assistant"].contains(&role) {
        let message = format!("`{path}.role` must be user, system, developer or assistant");
        return Err(ApiError::field(format!("{path}.role"), message));
    }
    let assistant = role == "assistant";
    match item.get("content") {
        Some(Value::String(text)) => {
            let part = match assistant {
                true => json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }),
                false => json!({ "type": "input_text", "text": text }),
            };
            item.insert("content".into(), json!([part]));
        }
        Some(Value::Array(parts)) => {
            for (index, part) in parts.iter().enumerate() {
                if !part.is_object() || !part["type"].is_string() {
                    let place = format!("{path}.content[{index}]");
                    return Err(ApiError::field(
                        &place,
                        format!("`{place}` must be an object with a `type`"),
                    ));
                }
            }
        }
        _ => {
            let message = format!("`{path}.content` must be a string or a list of parts");
            return Err(ApiError::field(format!("{path}.content"), message));
        }
    }
    Ok(())
}

/// Puts the items that are referred to in the place of the references.
///
/// # Errors
/// A reference to an item that `find` does not know.
pub(super) fn resolve(
    items: Vec<Value>,
    mut find: impl FnMut(&str) -> Option<Value>,
) -> ApiResult<Vec<Value>> {
    let items = items.into_iter().map(|item| {
        if item["type"] != "item_reference" {
            return Ok(item);
        }
        let id = item["id"].as_str().unwrap_or_default();
        find(id).ok_or_else(|| {
            ApiError::not_found(format!("no item with the id `{}`", excerpt(id))).param("input")
        })
    });
    items.collect()
}

/// The messages that templates read. Calls that follow one another are one turn of the assistant's; what cannot be said
/// to a model (reasoning, searches) is left out.
pub(super) fn messages(items: &[Value]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    let approvals = Approvals::of(items);
    for item in items {
        let text = |name: &str| item[name].as_str().unwrap_or_default();
        match text("type") {
            "message" => messages.push(Message {
                role: text("role").to_owned(),
                content: Some(Content::Parts(item["content"].as_array().cloned().unwrap_or_default())),
                ..Message::default()
            }),
            "function_call" | "custom_tool_call" => {
                names.insert(text("call_id"), text("name"));
                let call = function_call(item);
                match messages.last_mut().filter(|last| last.role == "assistant") {
                    Some(last) => last.tool_calls.push(call),
                    None => messages.push(Message {
                        role: "assistant".into(),
                        tool_calls: vec![call],
                        ..Message::default()
                    }),
                }
            }
            // What was said before, in few words. It stands where the assistant's turns stood.
            "compaction" => {
                let said = summary(text("encrypted_content")).unwrap_or_default();
                messages.push(Message::text("assistant", format!("{SUMMARY}\n\n{said}")));
            }
            // A call that was made here: what the model said and what it was told.
            "mcp_call" => push_call(&mut messages, &server_call(item), &outcome(item)),
            "mcp_approval_request" if approvals.is_unanswered(text("id")) => {
                push_call(&mut messages, &server_call(item), UNANSWERED);
            }
            "mcp_approval_response" => {
                if let Some(request) = approvals.unmade(text("approval_request_id")) {
                    push_call(&mut messages, &server_call(request), &decision(item));
                }
            }
            "function_call_output" | "custom_tool_call_output" => {
                messages.push(call_output(item, names.get(text("call_id")).copied()));
            }
            _ => {}
        }
    }
    if items.iter().any(|item| item["type"] == "compaction") {
        join_users(&mut messages);
    }
    messages
}

/// What a model is told of calls that nobody has approved yet, that were refused, and that were approved in a response which
/// broke off: whether one of the latter had an effect is not known.
const UNANSWERED: &str = "error: nobody has approved this call: it was not made";
const REFUSED: &str = "error: the user did not approve this call: it was not made";
const UNKNOWN: &str = "error: the user approved this call, but what came of it is not known";

/// What became of approvals that calls to MCP servers wait for.
struct Approvals<'a> {
    requests: HashMap<&'a str, &'a Value>,
    answered: HashSet<&'a str>,
    /// Those whose calls are there.
    made: HashSet<&'a str>,
}

impl<'a> Approvals<'a> {
    fn of(items: &'a [Value]) -> Approvals<'a> {
        let of_kind = |kind: &'static str, name: &'static str| {
            let items = items.iter().filter(move |item| item["type"] == kind);
            items.filter_map(move |item| Some((item[name].as_str()?, item)))
        };
        let ids = |kind| of_kind(kind, "approval_request_id").map(|(id, _)| id).collect();
        Approvals {
            requests: of_kind("mcp_approval_request", "id").collect(),
            answered: ids("mcp_approval_response"),
            made: ids("mcp_call"),
        }
    }

    fn is_unanswered(&self, request: &str) -> bool {
        !self.answered.contains(request) && !self.made.contains(request)
    }

    /// The request with this id, if its call is not there.
    fn unmade(&self, request: &str) -> Option<&'a Value> {
        self.requests.get(request).copied().filter(|_| !self.made.contains(request))
    }
}

/// What a model is told of a call that somebody has decided about, and that was not made as far as is known.
fn decision(response: &Value) -> String {
    match (response["approve"] == true, response["reason"].as_str()) {
        (true, _) => UNKNOWN.to_owned(),
        (false, None) => REFUSED.to_owned(),
        (false, Some(reason)) => format!("{REFUSED}. The reason is: {reason}"),
    }
}

/// A call to an MCP server, or the request to approve one.
fn server_call(item: &Value) -> ToolCall {
    let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
    ToolCall { id: text("id"), name: text("name"), arguments: text("arguments") }
}

/// Says a call to an MCP server and what came of it. It belongs to the turn that has just been the assistant's, if it was.
pub(super) fn push_call(messages: &mut Vec<Message>, call: &ToolCall, outcome: &str) {
    let turn = ToolRounds::turn("", std::slice::from_ref(call));
    match messages.last_mut().filter(|last| last.role == "assistant") {
        Some(last) => last.tool_calls.extend(turn.tool_calls),
        None => messages.push(turn),
    }
    messages.push(told(call, outcome));
}

/// A call as templates read it. What a custom tool is given is plain text: it is the one argument.
fn function_call(item: &Value) -> Value {
    let arguments = match item["type"] == "custom_tool_call" {
        true => json!({ "input": item["input"] }).to_string().into(),
        false => item["arguments"].clone(),
    };
    json!({
        "id": item["call_id"],
        "type": "function",
        "function": { "name": item["name"], "arguments": arguments },
    })
}

/// What a call of the function `name` returned.
fn call_output(item: &Value, name: Option<&str>) -> Message {
    let mut extra = Map::new();
    extra.insert("tool_call_id".into(), item["call_id"].clone());
    if let Some(name) = name {
        extra.insert("name".into(), json!(name));
    }
    let content = match &item["output"] {
        Value::Array(parts) => Content::Parts(parts.clone()),
        output => Content::Text(output.as_str().unwrap_or_default().to_owned()),
    };
    Message { role: "tool".to_owned(), content: Some(content), extra, ..Message::default() }
}

/// What came of a call to an MCP server. Errors of responses that were stored before they were objects are texts.
fn outcome(item: &Value) -> String {
    let error = &item["error"];
    let told = [&item["output"], error, &error["message"], &error["content"]];
    if let Some(text) = told.into_iter().find_map(Value::as_str) {
        return text.to_owned();
    }
    let parts = error["content"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Makes one turn of the user's turns that follow one another, as they do where a summary took the place of the answers:
/// templates of some models want turns to alternate.
fn join_users(messages: &mut Vec<Message>) {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages.drain(..) {
        match (joined.last_mut(), &message) {
            (
                Some(Message { role, content: Some(Content::Parts(before)), .. }),
                Message { role: next, content: Some(Content::Parts(parts)), .. },
            ) if role == "user" && next == "user" => {
                before.push(json!({ "type": "input_text", "text": "\n\n" }));
                before.extend(parts.iter().cloned());
            }
            _ => joined.push(message),
        }
    }
    *messages = joined;
}

/// The text of the last message of the user's: what is looked for in files.
pub(super) fn last_question(items: &[Value]) -> Option<String> {
    let message = items.iter().rev().find(|item| item["type"] == "message" && item["role"] == "user")?;
    let parts = message["content"].as_array()?;
    let text: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    Some(text.join("\n")).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_message_of_the_users() {
        let items = read_items(json!("hello"), "input").unwrap();
        assert_eq!(items[0]["content"], json!([{ "type": "input_text", "text": "hello" }]));
        assert!(items[0]["id"].as_str().unwrap().starts_with("msg_"));
        assert_eq!(last_question(&items).as_deref(), Some("hello"));
    }

    #[test]
    fn what_is_no_item_is_refused_with_its_place() {
        let place = |items: Value| read_items(items, "input").unwrap_err().param.unwrap_or_default();
        assert_eq!(place(json!(3)), "input");
        assert_eq!(place(json!(["x"])), "input[0]");
        assert_eq!(place(json!([{ "type": "dance" }])), "input[0].type");
        assert_eq!(place(json!([{ "role": "king", "content": "x" }])), "input[0].role");
        assert_eq!(place(json!([{ "role": "user" }])), "input[0].content");
        assert_eq!(place(json!([{ "role": "user", "content": [3] }])), "input[0].content[0]");
        assert_eq!(
            place(json!([{ "type": "function_call", "call_id": "a", "name": "b" }])),
            "input[0].arguments"
        );
        assert_eq!(place(json!([{ "type": "function_call_output", "call_id": "a" }])), "input[0].output");
        let answer = |approve: Value| json!([{ "type": "mcp_approval_response", "approval_request_id": "r", "approve": approve }]);
        assert_eq!(place(answer(Value::Null)), "input[0].approve");
        assert_eq!(place(answer(json!("yes"))), "input[0].approve");
        assert_eq!(
            place(json!([{ "type": "mcp_approval_request", "server_label": "s", "name": "f" }])),
            "input[0].arguments"
        );
        let twice = json!([{ "role": "user", "content": "", "id": "a" }, { "role": "user", "content": "", "id": "a" }]);
        assert_eq!(place(twice), "input[1].id");
        assert_eq!(place(json!([{ "type": "item_reference" }])), "input[0].id");
    }

    #[test]
    fn calls_and_their_outputs_become_turns() {
        let items = json!([
            { "role": "user", "content": "weather?" },
            { "type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}" },
            { "type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "c2", "output": "noon" },
            { "type": "reasoning", "summary": [] },
        ]);
        let messages = messages(&read_items(items, "input").unwrap());
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool"]);
        assert_eq!(messages[1].tool_calls.len(), 2);
        assert_eq!(messages[2].extra["name"], "time");
    }

    #[test]
    fn items_of_tools_that_are_not_here_are_taken() {
        let mut items = vec![
            json!({ "role": "user", "content": "patch it" }),
            json!({ "type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "+ line" }),
            json!({ "type": "custom_tool_call_output", "call_id": "c1", "output": "done" }),
        ];
        let silent = KINDS.iter().filter(|(kind, _)| {
            let heard = [
                "message",
                "function_call",
                "custom_tool_call",
                "compaction",
                "mcp_call",
                "mcp_approval_request",
                "mcp_approval_response",
                "item_reference",
            ];
            !heard.iter().any(|heard| *kind == *heard || **kind == format!("{heard}_output"))
        });
        items.extend(silent.map(|(kind, _)| json!({ "type": kind })));
        assert!(items.len() > 20);
        let messages = messages(&read_items(Value::Array(items), "input").unwrap());
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool"], "the model sees what it can be told");
        let call = &messages[1].tool_calls[0]["function"];
        assert_eq!((&call["name"], &call["arguments"]), (&json!("patch"), &json!("{\"input\":\"+ line\"}")));
        assert_eq!(
            (&messages[2].extra["name"], &messages[2].extra["tool_call_id"]),
            (&json!("patch"), &json!("c1"))
        );
    }

    #[test]
    fn what_came_of_a_call_to_a_server_is_told_in_every_form() {
        let error =
            json!({ "type": "mcp_tool_execution_error", "content": [{ "type": "text", "text": "no luck" }] });
        for (item, expected) in [
            (json!({ "output": "fine", "error": null }), "fine"),
            (json!({ "error": error }), "no luck"),
            (
                json!({ "error": { "type": "mcp_protocol_error", "code": -32600, "message": "what?" } }),
                "what?",
            ),
            (json!({ "error": "as it was stored before" }), "as it was stored before"),
            (json!({}), ""),
        ] {
            assert_eq!(outcome(&item), expected, "{item}");
        }
    }

    #[test]
    fn a_model_is_told_what_became_of_calls_that_wait_for_approval() {
        let user = json!({ "role": "user", "content": "go" });
        let request = json!({ "type": "mcp_approval_request", "id": "r", "server_label": "s", "name": "f", "arguments": "{}" });
        let answer = |approve: bool, reason: Value| json!({ "type": "mcp_approval_response", "approval_request_id": "r", "approve": approve, "reason": reason });
        let made = json!({ "type": "mcp_call", "approval_request_id": "r", "name": "f", "arguments": "{}", "output": "fine" });
        let yes = || answer(true, Value::Null);
        for (items, expected) in [
            (vec![user.clone(), request.clone()], vec![UNANSWERED.to_owned()]),
            (vec![request.clone(), answer(false, Value::Null)], vec![REFUSED.to_owned()]),
            (
                vec![request.clone(), answer(false, json!("no"))],
                vec![format!("{REFUSED}. The reason is: no")],
            ),
            (vec![request.clone(), yes(), user.clone()], vec![UNKNOWN.to_owned()]),
            (vec![request.clone(), yes(), made.clone()], vec!["fine".to_owned()]),
            (vec![request, made], vec!["fine".to_owned()]),
            (vec![yes()], vec![]),
        ] {
            let items = read_items(Value::Array(items), "input").unwrap();
            let messages = messages(&items);
            let told: Vec<String> = messages
                .iter()
                .filter(|message| message.role == "tool")
                .map(|message| match &message.content {
                    Some(Content::Text(text)) => text.clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn calls_to_servers_belong_to_the_turn_before_them() {
        let items = json!([
            { "role": "assistant", "content": "I look." },
            { "type": "mcp_call", "name": "f", "arguments": "{}", "output": "fine" },
            { "type": "mcp_call", "name": "g", "arguments": "{}", "output": "fine" },
        ]);
        let messages = messages(&read_items(items, "input").unwrap());
        let roles: Vec<(&str, usize)> =
            messages.iter().map(|message| (message.role.as_str(), message.tool_calls.len())).collect();
        assert_eq!(roles, [("assistant", 1), ("tool", 0), ("assistant", 1), ("tool", 0)]);
    }

    #[test]
    fn references_are_replaced_by_what_they_refer_to() {
        let items = read_items(json!([{ "id": "msg_1" }]), "input").unwrap();
        let known = json!({ "type": "message", "id": "msg_1" });
        let found = resolve(items.clone(), |id| (id == "msg_1").then(|| known.clone())).unwrap();
        assert_eq!(found, [known]);
        assert!(resolve(items, |_| None).is_err());
    }
}
