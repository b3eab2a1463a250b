//! Approvals: what somebody has decided about calls to MCP servers that an earlier response asked about.

use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::ToolCall;
use crate::mcp::OfferedTool;
use serde_json::Value;

/// A call that was approved and is to be made now.
#[derive(Debug)]
pub(super) struct Approved<'a> {
    /// The item that asked for the approval.
    request: &'a Value,
}

/// What a request approves. In a conversation that may have been said before the request.
///
/// # Errors
/// A decision about nothing that was asked, or about what was decided already.
pub(super) fn read<'a>(
    history: &'a [Value],
    input: &'a [Value],
    is_conversation: bool,
) -> ApiResult<Vec<Approved<'a>>> {
    let items: Vec<&Value> = history.iter().chain(input).collect();
    // What was decided before the model spoke last is done with.
    let mut first = items.iter().rposition(|item| is_models(item)).map_or(0, |place| place + 1);
    if !is_conversation {
        // So is what another response was asked with: it may have made its calls before it broke off.
        first = first.max(history.len());
    }
    let mut approved = Vec::new();
    for (place, item) in items.iter().enumerate().skip(first) {
        let (before, id) = (&items[..place], &item["approval_request_id"]);
        if item["type"] != "mcp_approval_response" || before.iter().any(|old| old["id"] == item["id"]) {
            continue;
        }
        match request(before, id) {
            Ok(request) if item["approve"] == true => approved.push(Approved { request }),
            Ok(_) => {}
            Err(problem) => {
                // What a conversation has of that is of no use, and does no harm.
                if let Some(index) = place.checked_sub(history.len()) {
                    let place = format!("input[{index}].approval_request_id");
                    let id = excerpt(id.as_str().unwrap_or_default());
                    return Err(ApiError::field(place, format!("the approval request `{id}` {problem}")));
                }
            }
        }
    }
    Ok(approved)
}

/// The item that asked for the approval with this id, if nobody has decided about it yet.
fn request<'a>(items: &[&'a Value], id: &Value) -> Result<&'a Value, &'static str> {
    let is_request = |item: &&Value| item["type"] == "mcp_approval_request" && item["id"] == *id;
    let request = items.iter().copied().find(is_request).ok_or(
        "is not there: continue the response or conversation that it is in, or send it with the input",
    )?;
    let decides = |item: &&Value| {
        matches!(item["type"].as_str(), Some("mcp_approval_response" | "mcp_call"))
            && item["approval_request_id"] == *id
    };
    match items.iter().any(decides) {
        true => Err("has been answered already"),
        false => Ok(request),
    }
}

/// Whether an item is something that the model has said or done; what it asks for is not done yet.
fn is_models(item: &Value) -> bool {
    match item["type"].as_str().unwrap_or_default() {
        "message" => item["role"] == "assistant",
        "mcp_approval_request" | "mcp_approval_response" => false,
        kind => !kind.ends_with("_output"),
    }
}

impl Approved<'_> {
    /// The call, under the name that the model knows its tool by.
    ///
    /// # Errors
    /// If the tool is none of those that are offered.
    pub(super) fn call(&self, offered: &[OfferedTool]) -> ApiResult<ToolCall> {
        let text = |name: &str| self.request[name].as_str().unwrap_or_default();
        let (server, tool) = (text("server_label"), text("name"));
        let Some(offered) = offered.iter().find(|it| it.server == server && it.tool == tool) else {
            let (server, tool) = (excerpt(server), excerpt(tool));
            let message = format!(
                "a call of `{tool}` of the MCP server `{server}` is approved, which is not among the tools: send the same \
                 tools again"
            );
            return Err(ApiError::field("tools", message));
        };
        Ok(ToolCall {
            id: text("id").to_owned(),
            name: offered.name.clone(),
            arguments: text("arguments").to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(id: &str) -> Value {
        json!({ "type": "mcp_approval_request", "id": id, "server_label": "s", "name": "f", "arguments": "{}" })
    }

    fn decided(id: &str, approve: bool) -> Value {
        json!({ "type": "mcp_approval_response", "id": format!("mcpa_{id}"), "approval_request_id": id, "approve": approve })
    }

    fn said(role: &str) -> Value {
        json!({ "type": "message", "id": role, "role": role })
    }

    /// The ids of what is approved, or where the mistake is.
    fn approved(history: &[Value], input: &[Value], is_conversation: bool) -> Result<Vec<String>, String> {
        match read(history, input, is_conversation) {
            Ok(approved) => {
                Ok(approved.iter().map(|it| it.request["id"].as_str().unwrap().to_owned()).collect())
            }
            Err(error) => Err(error.param.unwrap()),
        }
    }

    #[test]
    fn what_is_approved_now_is_made_and_nothing_else() {
        let ids = |ids: &[&str]| Ok(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        let (user, model) = (said("user"), said("assistant"));
        let made = json!({ "type": "mcp_call", "id": "mcp_1", "approval_request_id": "a" });
        let history = [user.clone(), asked("a"), asked("b")];
        assert_eq!(approved(&history, &[decided("a", true), decided("b", false)], false), ids(&["a"]));
        assert_eq!(
            approved(&history, &[decided("b", true), user.clone(), decided("a", true)], false),
            ids(&["b", "a"])
        );
        assert_eq!(approved(&history, std::slice::from_ref(&user), false), ids(&[]));
        // All of it as input, and once more when the model has gone on.
        let mut all = vec![user.clone(), asked("a"), decided("a", true), asked("b"), decided("b", true)];
        assert_eq!(approved(&[], &all, false), ids(&["a", "b"]));
        all.extend([made, model, user.clone()]);
        assert_eq!(approved(&[], &all, false), ids(&[]));
        // A response that broke off was asked with it; a conversation was only told.
        let history = [asked("a"), decided("a", true)];
        assert_eq!(approved(&history, std::slice::from_ref(&user), false), ids(&[]));
        assert_eq!(approved(&history, &[user], true), ids(&["a"]));
        assert_eq!(approved(&history, &[decided("a", true)], true), ids(&["a"]), "the same item once more");
    }

    #[test]
    fn decisions_about_nothing_and_second_ones_are_refused() {
        let place = |index: usize| Err(format!("input[{index}].approval_request_id"));
        assert_eq!(approved(&[], &[said("user"), decided("a", false)], false), place(1));
        assert_eq!(approved(&[], &[decided("a", true), asked("a")], false), place(0));
        let second = json!({ "type": "mcp_approval_response", "id": "mcpa_2", "approval_request_id": "a", "approve": true });
        assert_eq!(
            approved(&[asked("a"), decided("a", false)], std::slice::from_ref(&second), false),
            place(0)
        );
        assert_eq!(approved(&[asked("a")], &[decided("a", true), second], false), place(1));
        let made = json!({ "type": "mcp_call", "approval_request_id": "a" });
        assert_eq!(approved(&[asked("a"), made], &[decided("a", true)], false), place(0));
        assert_eq!(approved(&[decided("x", true)], &[said("user")], true), Ok(Vec::new()));
    }

    #[test]
    fn an_approved_call_needs_its_tool() {
        let item = asked("a");
        let approved = Approved { request: &item };
        let offered = OfferedTool {
            name: "s_f".into(),
            server: "s".into(),
            tool: "f".into(),
            description: String::new(),
            parameters: json!({}),
            needs_approval: true,
        };
        assert_eq!(approved.call(&[]).unwrap_err().param.as_deref(), Some("tools"));
        assert_eq!(approved.call(&[offered]).unwrap().name, "s_f");
    }
}
