//! Which functions a chat may call: `tools` and `tool_choice`, and their older forms `functions` and `function_call`.

use super::chat::ChatCompletionRequest;
use super::shared::ChatMessage;
use crate::error::{ApiError, ApiResult, excerpt};
use crate::generate::ToolChoice;
use alti_text::Message;
use serde_json::{Value, json};

/// Reads `tool_choice`.
///
/// # Errors
/// When it is none of its forms.
pub(super) fn tool_choice(choice: Option<&Value>) -> ApiResult<ToolChoice> {
    let wrong = || {
        ApiError::field(
            "tool_choice",
            "`tool_choice` must be none, auto, required, or an object that names a function",
        )
    };
    match choice {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" | "any" => Ok(ToolChoice::Required),
            _ => Err(wrong()),
        },
        Some(choice) => {
            match (choice["type"].as_str(), choice["function"]["name"].as_str(), choice["name"].as_str()) {
                (Some("function") | None, Some(name), _) | (Some("function"), None, Some(name)) => {
                    Ok(ToolChoice::Named(name.to_owned()))
                }
                // One of several allowed tools must or may be called; see [`allowed`].
                (Some("allowed_tools"), ..) => match choice["allowed_tools"]["mode"].as_str() {
                    Some("required") => Ok(ToolChoice::Required),
                    _ => Ok(ToolChoice::Auto),
                },
                _ => Err(wrong()),
            }
        }
    }
}

/// The name of a tool, or of what refers to one.
fn name(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str().or_else(|| tool["name"].as_str())
}

/// The tools that `tool_choice` allows: all, if it does not list any.
///
/// # Errors
/// A list that is none, or names what is not among the tools.
pub(super) fn allowed(mut tools: Vec<Value>, choice: Option<&Value>) -> ApiResult<Vec<Value>> {
    let Some(choice) = choice.filter(|choice| choice["type"] == "allowed_tools") else { return Ok(tools) };
    let refuse = |message: String| Err(ApiError::field("tool_choice", message));
    let Some(listed) = choice["allowed_tools"]["tools"].as_array() else {
        return refuse("`tool_choice.allowed_tools.tools` must be a list of functions".into());
    };
    let mut names = Vec::new();
    for listed in listed {
        match name(listed) {
            Some(wanted) if tools.iter().any(|tool| name(tool) == Some(wanted)) => names.push(wanted),
            Some(wanted) => {
                let wanted = excerpt(wanted);
                return refuse(format!("`tool_choice` allows `{wanted}`, which is none of the tools"));
            }
            None => return refuse("`tool_choice.allowed_tools.tools` has an entry without a name".into()),
        }
    }
    tools.retain(|tool| name(tool).is_some_and(|own| names.contains(&own)));
    Ok(tools)
}

impl ChatCompletionRequest {
    /// Brings `functions` and `function_call` into today's form. Whether there were any: then the answer has the older
    /// form, too.
    ///
    /// # Errors
    /// Functions that are none, a choice of one that is not there, both forms at once.
    pub(super) fn modernize(&mut self) -> ApiResult<bool> {
        let call = self.function_call.take();
        let Some(functions) = self.functions.take() else {
            return match call {
                None => Ok(false),
                Some(_) => Err(ApiError::field("function_call", "`function_call` needs `functions`")),
            };
        };
        if self.tools.is_some() || self.tool_choice.is_some() {
            let message = "`functions` is the older form of `tools`: they exclude each other";
            return Err(ApiError::field("functions", message));
        }
        if let Some(index) = functions.iter().position(|function| !function["name"].is_string()) {
            let field = format!("functions[{index}].name");
            return Err(ApiError::field(&field, format!("`{field}` must be a string")));
        }
        self.tool_choice = call.map(|call| modern_choice(call, &functions)).transpose()?;
        let tool = |function| json!({ "type": "function", "function": function });
        self.tools = Some(functions.into_iter().map(tool).collect());
        // The older form has room for one call.
        self.parallel_tool_calls = Some(false);
        Ok(true)
    }
}

/// A `function_call` as a `tool_choice`.
fn modern_choice(call: Value, functions: &[Value]) -> ApiResult<Value> {
    let refuse = |message: String| Err(ApiError::field("function_call", message));
    match (call.as_str(), call["name"].as_str()) {
        (Some("none" | "auto"), _) => Ok(call),
        (_, Some(name)) if functions.iter().any(|function| function["name"] == name) => {
            Ok(json!({ "type": "function", "function": { "name": name } }))
        }
        (_, Some(name)) => {
            refuse(format!("`function_call` names `{}`, which is none of the functions", excerpt(name)))
        }
        _ => refuse("`function_call` must be none, auto, or an object that names a function".into()),
    }
}

/// The turns as templates read them. A call in the older form has no id: it gets one, and so does the result behind it.
///
/// # Errors
/// A call that is none.
pub(super) fn turns(messages: Vec<ChatMessage>) -> ApiResult<Vec<Message>> {
    let mut called = None;
    let turn = |(index, mut message): (usize, ChatMessage)| {
        if let Some(call) = message.function_call.take() {
            if !call["name"].is_string() || !call["arguments"].is_string() {
                let field = format!("messages[{index}].function_call");
                let message = format!("`{field}` must have a `name` and `arguments`, both strings");
                return Err(ApiError::field(field, message));
            }
            let id = format!("call_{index}");
            let calls = message.tool_calls.get_or_insert_default();
            calls.push(json!({ "id": id, "type": "function", "function": call }));
            called = Some(id);
        }
        if message.role == "function" && message.tool_call_id.is_none() {
            message.tool_call_id.clone_from(&called);
        }
        Ok(message.into_message())
    };
    messages.into_iter().enumerate().map(turn).collect()
}
