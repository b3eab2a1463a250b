//! Chat completions that are kept: those whose request says `store`. `/v1/chat/completions` hands their answers to a
//! [`Keeper`]; the routes here list, show, label and delete them.

use super::{ask, deleted, fields, listed, listed_by, page, tenant};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::told;
use crate::openai::chat::{ChatCompletion, ChatCompletionRequest};
use crate::respond;
use crate::route::{Call, Family, Route, Scope};
use crate::state::AppState;
use alti_engine::sampling::SamplerSettings;
use alti_store::{ChatCompletion as Stored, ChatCompletionFilter};
use axum::body::Body;
use axum::http::Response;
use serde_json::{Map, Value, json};

const OPENAI: Family = Family::OpenAi;

/// Most bytes of a request whose answer is kept: a page of them is shown at once.
const LARGEST_KEPT: usize = 1 << 20;

crate::wire! {
    /// What is to be changed of a chat completion that is kept.
    pub struct UpdateChatCompletionRequest {
        optional {
            /// Up to 16 pairs of strings, in the place of those there were; none takes these away.
            metadata: Value,
        }
    }
}

/// The routes.
pub const ROUTES: &[Route] = &[
    Route::get(
        "/v1/chat/completions",
        OPENAI,
        Scope::Inference,
        "Lists the answers that were kept, by `model` and `metadata[...]` if wanted.",
        |call| Box::pin(list(call)),
    ),
    Route::get(
        "/v1/chat/completions/{completion}",
        OPENAI,
        Scope::Inference,
        "An answer that was kept.",
        |call| Box::pin(show(call)),
    )
    .gives(ChatCompletion::OBJECT),
    Route::post(
        "/v1/chat/completions/{completion}",
        OPENAI,
        Scope::Inference,
        "Changes the metadata of an answer that was kept.",
        |call| Box::pin(update(call)),
    )
    .takes(UpdateChatCompletionRequest::OBJECT)
    .gives(ChatCompletion::OBJECT),
    Route::delete(
        "/v1/chat/completions/{completion}",
        OPENAI,
        Scope::Inference,
        "Deletes an answer that was kept.",
        |call| Box::pin(delete(call)),
    ),
    Route::get(
        "/v1/chat/completions/{completion}/messages",
        OPENAI,
        Scope::Inference,
        "Lists the turns that an answer was given to.",
        |call| Box::pin(messages(call)),
    ),
];

/// What is kept beside an answer.
pub(crate) struct Keeper {
    state: AppState,
    tenant: String,
    metadata: Value,
    messages: Vec<Value>,
    /// What was asked for, as far as the answer does not say it.
    asked: Map<String, Value>,
}

impl Keeper {
    /// For the answer to a request; nothing if it is not to be kept.
    ///
    /// # Errors
    /// Metadata that are none, turns that cannot be stored, a server without a database.
    pub(crate) fn of(call: &Call, request: &ChatCompletionRequest) -> ApiResult<Option<Keeper>> {
        if request.store != Some(true) {
            return Ok(None);
        }
        call.state.store()?;
        let metadata = fields::metadata(request.metadata.clone())?;
        let asked = json!({
            "request_id": call.id,
            "seed": request.seed,
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            "response_format": request.response_format,
            "input_user": request.user,
        });
        let messages: Vec<Value> = request.messages.iter().map(|message| json!(message)).collect();
        for (name, value) in [
            ("messages", &json!(messages)),
            ("tools", &asked["tools"]),
            ("tool_choice", &asked["tool_choice"]),
            ("response_format", &asked["response_format"]),
        ] {
            fields::check_depth(value, name)?;
        }
        let bytes = json!([messages, asked]).to_string().len();
        if bytes > LARGEST_KEPT {
            let message = format!(
                "the request takes {bytes} bytes, and answers to at most {LARGEST_KEPT} are kept: leave `store` out"
            );
            return Err(ApiError::new(ErrorKind::TooLarge, message).param("store"));
        }
        Ok(Some(Keeper {
            state: call.state.clone(),
            tenant: tenant(call),
            metadata: metadata.unwrap_or_else(|| json!({})),
            messages,
            asked: asked.as_object().cloned().unwrap_or_default(),
        }))
    }

    /// The same, with how tokens are drawn: what was not asked for has the model's values.
    pub(crate) fn drawing(mut self, sampling: &SamplerSettings) -> Keeper {
        let names = ["temperature", "top_p", "presence_penalty", "frequency_penalty"];
        let told = told(sampling).into_iter().filter(|(name, _)| names.contains(&name.as_str()));
        self.asked.extend(told);
        self
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) async fn keep(self, completion: ChatCompletion) -> ApiResult<()> {
        let Keeper { state, tenant, metadata, messages, asked } = self;
        let mut body = json!(completion);
        asked.into_iter().for_each(|(name, value)| body[name] = value);
        let ChatCompletion { id, model, .. } = completion;
        let messages: Vec<Value> =
            messages.into_iter().enumerate().map(|(index, message)| turn(&id, index, message)).collect();
        let stored = Stored { id, model, metadata, body };
        ask(&state, move |store| store.chat_completions().create(&tenant, &stored, &messages)).await
    }
}

/// A turn as it is shown: its text, and its parts if it came in parts.
fn turn(completion: &str, index: usize, mut message: Value) -> Value {
    let content = message["content"].take();
    let text = match &content {
        Value::Array(parts) => Value::String(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        content => content.clone(),
    };
    message["id"] = json!(format!("{completion}-{index}"));
    message["content"] = text;
    // What OpenAI's clients want to be there.
    message["refusal"] = Value::Null;
    message["content_parts"] = if content.is_array() { content } else { Value::Null };
    message
}

fn completion_object(stored: &Stored) -> Value {
    let mut object = stored.body.clone();
    object["metadata"] = stored.metadata.clone();
    object
}

/// The tenant and the answer that a call names.
fn named(call: &Call) -> (String, String) {
    (tenant(call), call.path("completion").to_owned())
}

/// `GET /v1/chat/completions`.
async fn list(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, page) = (tenant(&call), page(&call, 20, 100, true)?);
    let wanted = call.query().into_iter().filter_map(|(name, value)| {
        let key = name.strip_prefix("metadata[")?.strip_suffix(']')?.to_owned();
        Some((key, Value::String(value)))
    });
    let wanted = Value::Object(wanted.collect());
    let metadata = fields::metadata(Some(wanted))?;
    let filter = ChatCompletionFilter { model: call.query_value("model"), metadata };
    let found = ask(&call.state, move |store| store.chat_completions().list(&tenant, &filter, &page)).await?;
    Ok(respond::json(&listed_by(found, completion_object)))
}

async fn show(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let found = ask(&call.state, move |store| store.chat_completions().get(&tenant, &id)).await?;
    Ok(respond::json(&completion_object(&found)))
}

async fn update(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _) = call.json::<UpdateChatCompletionRequest>(|_| false).await?;
    let metadata = fields::metadata(request.metadata)?.unwrap_or_else(|| json!({}));
    let (tenant, id) = named(&call);
    let changed =
        ask(&call.state, move |store| store.chat_completions().set_metadata(&tenant, &id, metadata)).await?;
    Ok(respond::json(&completion_object(&changed)))
}

async fn delete(call: Call) -> ApiResult<Response<Body>> {
    let (tenant, id) = named(&call);
    let answer = deleted(&id, "chat.completion.deleted");
    ask(&call.state, move |store| store.chat_completions().delete(&tenant, &id)).await?;
    Ok(respond::json(&answer))
}

/// `GET /v1/chat/completions/{completion}/messages`.
async fn messages(call: Call) -> ApiResult<Response<Body>> {
    let ((tenant, id), page) = (named(&call), page(&call, 20, 100, true)?);
    let found = ask(&call.state, move |store| store.chat_completions().messages(&tenant, &id, &page)).await?;
    Ok(respond::json(&listed(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_its_text_and_its_parts() {
        let plain = turn("chatcmpl-1", 0, json!({ "role": "user", "content": "hello" }));
        assert_eq!(
            plain,
            json!({
                "role": "user",
                "content": "hello",
                "content_parts": null,
                "refusal": null,
                "id": "chatcmpl-1-0",
            })
        );
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        let turn = turn("chatcmpl-1", 1, json!({ "role": "user", "content": parts }));
        assert_eq!((&turn["content"], &turn["content_parts"]), (&json!("ab"), &parts));
    }
}
