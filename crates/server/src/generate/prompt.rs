//! From a conversation to a prompt.

use super::tools::{ToolChoice, ToolPlan};
use super::turns::one_call_each;
use super::{Format, Options};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::models::Lease;
use alti_text::{Content, Conversation, DateTime, Message, Prompt, Segment, Specials};
use serde_json::{Map, Value};

/// A chat, as far as all APIs say it.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The turns so far.
    pub messages: Vec<Message>,
    /// Tools, in OpenAI's shape: `{"type": "function", "function": {...}}`.
    pub tools: Vec<Value>,
    /// Whether and which tools are called.
    pub tool_choice: ToolChoice,
    /// Whether several may be called at once.
    pub parallel_tool_calls: bool,
    /// What the answer has to obey.
    pub format: Format,
    /// Variables for the template.
    pub variables: Map<String, Value>,
    /// How it is written.
    pub options: Options,
    /// What the ids of calls begin with.
    pub call_id_prefix: &'static str,
}

impl ChatRequest {
    /// A chat without tools.
    pub fn new(messages: Vec<Message>, options: Options) -> ChatRequest {
        ChatRequest {
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: true,
            format: Format::Text,
            variables: Map::new(),
            options,
            call_id_prefix: "call_",
        }
    }
}

/// Roles that conversations have, and what templates call them.
const ROLES: [(&str, &str); 6] = [
    ("system", "system"),
    ("developer", "system"),
    ("user", "user"),
    ("assistant", "assistant"),
    ("tool", "tool"),
    ("function", "tool"),
];

/// Checks turns and brings them into the shape that templates read: known roles, text.
///
/// # Errors
/// No turns, a role nobody knows, content that is not text; the field's path begins with `field`.
pub fn check_messages(messages: Vec<Message>, field: &str) -> ApiResult<Vec<Message>> {
    if messages.is_empty() {
        return Err(ApiError::field(field, format!("`{field}` is empty: send at least one message")));
    }
    messages.into_iter().enumerate().map(|(index, message)| check_message(message, field, index)).collect()
}

fn check_message(mut message: Message, field: &str, index: usize) -> ApiResult<Message> {
    let path = format!("{field}[{index}]");
    let role = ROLES.iter().find(|(role, _)| *role == message.role).ok_or_else(|| {
        let roles = ROLES.map(|(role, _)| role).join(", ");
        let found = crate::error::excerpt(&message.role);
        ApiError::field(
            format!("{path}.role"),
            format!("`{path}.role` is `{found}`: it must be one of {roles}"),
        )
    })?;
    message.role = role.1.to_owned();
    message.content = match message.content {
        Some(Content::Parts(parts)) => Some(Content::Text(parts_text(&parts, &path)?)),
        None if message.tool_calls.is_empty() => Some(Content::Text(String::new())),
        content => content,
    };
    Ok(message)
}

/// The text of parts, as all APIs call those that are text.
fn parts_text(parts: &[Value], path: &str) -> ApiResult<String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{path}.content[{index}]");
        let kind = match part {
            Value::String(part) => {
                text.push_str(part);
                continue;
            }
            part => part["type"].as_str().unwrap_or_default(),
        };
        let key = match kind {
            "text" | "input_text" | "output_text" => "text",
            "refusal" => "refusal",
            other => {
                let other = crate::error::excerpt(other);
                let message = format!("`{place}.type` is `{other}`: this model reads text parts only");
                return Err(ApiError::field(format!("{place}.type"), message));
            }
        };
        let part = part[key].as_str().ok_or_else(|| {
            ApiError::field(format!("{place}.{key}"), format!("`{place}.{key}` must be a string"))
        })?;
        text.push_str(part);
    }
    Ok(text)
}

/// The source of the template that a model's chats are rendered with, as far as there is one.
pub(crate) fn template_source(model: &Lease) -> &str {
    let own = model.alias.as_ref().and_then(|alias| alias.template.as_deref());
    own.or(model.template.as_ref().ok().map(|template| template.source())).unwrap_or_default()
}

/// The prompt of a chat for a model. A last turn of the assistant's is gone on with.
///
/// # Errors
/// A model without a chat template, or a conversation that its template refuses.
pub fn chat_prompt(model: &Lease, request: &ChatRequest, plan: &ToolPlan) -> ApiResult<Prompt> {
    let mut messages = request.messages.clone();
    if let Some(alias) = &model.alias {
        if let Some(system) = alias.system.as_ref().filter(|_| messages[0].role != "system") {
            messages.insert(0, Message::text("system", system));
        }
        let after_system = usize::from(messages[0].role == "system");
        messages.splice(after_system..after_system, alias.messages.iter().cloned());
    }
    let prefill = match messages.last() {
        Some(last) if last.role == "assistant" && last.tool_calls.is_empty() && messages.len() > 1 => {
            messages.pop().and_then(|message| match message.content {
                Some(Content::Text(text)) => Some(text),
                _ => None,
            })
        }
        _ => None,
    };
    plan.prepare(&mut messages);
    let conversation = Conversation {
        tools: plan.template_tools(),
        now: Some(DateTime::from_unix_seconds(ids::unix_seconds() as i64)),
        variables: request.variables.clone(),
        ..Conversation::new(messages)
    };
    let own = model.alias.as_ref().and_then(|alias| alias.template.as_ref());
    let own = own.map(|source| alti_text::ChatTemplate::new(source, &model.tokenizer)).transpose();
    let own = own.map_err(|error| ApiError::invalid(error.to_string()))?;
    let template = match (&own, &model.template) {
        (Some(own), _) => own,
        (None, Ok(template)) => template,
        (None, Err(problem)) => {
            let message =
                format!("the model `{}` has no chat template that can be used: {problem}", model.requested);
            return Err(ApiError::field("model", message));
        }
    };
    let prompt =
        template.render(&conversation).or_else(|error| match one_call_each(&conversation.messages) {
            // Several calls in a turn are more than some templates take, though their models may well make them.
            Some(messages) => {
                // If that is refused, too, it is for what the caller wrote.
                template.render(&Conversation { messages, ..conversation.clone() }).map_err(|_| error)
            }
            None => Err(error),
        });
    let prompt = prompt.map_err(|error| ApiError::field("messages", error.to_string()))?;
    Ok(match prefill {
        None => prompt,
        Some(text) => {
            let mut segments = prompt.segments().to_vec();
            segments.push(Segment { text, specials: Specials::AsText });
            Prompt::new(segments)
        }
    })
}
