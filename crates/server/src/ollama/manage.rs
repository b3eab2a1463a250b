//! Models: listed, described, fetched, named, removed.

use super::modelfile;
use super::shared::{details, moment};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::models::{Alias, LoadError, ModelFacts, PullProgress};
use crate::respond;
use crate::route::{Call, Stream};
use crate::wire::OneOrMany;
use alti_text::Message;
use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{Receiver, channel};

/// The version of Ollama whose API is spoken: apps look at it to find out what they can ask for.
const OLLAMA_VERSION: &str = "0.12.0";

crate::wire! {
    /// Which model.
    pub struct ShowRequest {
        optional {
            /// The model's name.
            model: String,
            /// The older name of `model`.
            name: String,
            /// Whether long values are given, too.
            verbose: bool,
        }
    }
    /// Which model.
    pub struct DeleteRequest {
        optional {
            /// The model's name.
            model: String,
            /// The older name of `model`.
            name: String,
        }
    }
    /// Which model.
    pub struct PullRequest {
        optional {
            /// The model's name: of the catalogue, `owner/repository`, `hf.co/owner/repository`.
            model: String,
            /// The older name of `model`.
            name: String,
            /// Whether progress is streamed; yes if it does not say.
            stream: bool,
        }
        ignored {
            /// Whether connections without TLS are allowed: never.
            insecure: bool,
        }
    }
    /// A name for a model.
    pub struct CopyRequest {
        required {
            /// The model.
            source: String,
            /// Its further name.
            destination: String,
        }
    }
    /// A name for a model with settings of its own.
    pub struct CreateRequest {
        optional {
            /// The name to make.
            model: String,
            /// The older name of `model`.
            name: String,
            /// The model it is made from.
            from: String,
            /// A whole Modelfile; the other fields replace what it says.
            modelfile: String,
            /// What the model is told first.
            system: String,
            /// A Jinja template. One in Go's notation is left out: the model's own says the same.
            template: String,
            /// Sampler settings.
            parameters: Map<String, Value>,
            /// Turns in front of every conversation.
            messages: Vec<Message>,
            /// The licence.
            license: OneOrMany<String>,
            /// Whether progress is streamed; yes if it does not say.
            stream: bool,
        }
        ignored {
            /// A quantisation: `alti quantize` does that.
            quantize: String,
        }
    }
}

impl crate::wire::Described for Message {
    fn schema() -> Value {
        json!({ "type": "object" })
    }
}

fn name(model: Option<String>, name: Option<String>) -> ApiResult<String> {
    let name = model.filter(|name| !name.is_empty()).or(name).filter(|name| !name.is_empty());
    name.ok_or_else(|| ApiError::field("model", "`model` is missing"))
}

fn created(facts: &ModelFacts) -> String {
    moment(UNIX_EPOCH + Duration::from_secs(facts.created.min(1 << 36)))
}

/// `GET /api/tags`.
pub(super) async fn tags(call: Call) -> ApiResult<Response<Body>> {
    let models = call.state.models().list().await?;
    let told = models.iter().map(|facts| {
        json!({
            "name": facts.name,
            "model": facts.name,
            "modified_at": created(facts),
            "size": facts.size,
            "digest": facts.digest,
            "details": details(facts, ""),
        })
    });
    Ok(respond::json(&json!({ "models": told.collect::<Vec<_>>() })))
}

/// `GET /api/ps`.
pub(super) async fn ps(call: Call) -> ApiResult<Response<Body>> {
    let told = call.state.models().loaded().into_iter().map(|loaded| {
        let facts = &loaded.model.facts;
        // Ollama's clients want a date where a model stays for ever, too.
        let never = || SystemTime::now() + Duration::from_secs(100 * 365 * 24 * 3600);
        json!({
            "name": facts.name,
            "model": facts.name,
            "size": loaded.model.memory_bytes,
            "digest": facts.digest,
            "details": details(facts, ""),
            "expires_at": moment(loaded.expires.unwrap_or_else(never)),
            "size_vram": 0,
            "context_length": loaded.model.inference.context(),
        })
    });
    Ok(respond::json(&json!({ "models": told.collect::<Vec<_>>() })))
}

/// `GET /api/version`.
pub(super) fn version() -> Response<Body> {
    respond::json(
        &json!({ "version": OLLAMA_VERSION, "server": concat!("alti ", env!("CARGO_PKG_VERSION")) }),
    )
}

/// `POST /api/show`. It tells what is known without loading the model, and its template if it is loaded.
pub(super) async fn show(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (ShowRequest, _) = call.json(|_| false).await?;
    let (facts, alias) = call.state.models().facts(&name(request.model, request.name)?).await?;
    let alias = alias.unwrap_or_default();
    let base = if alias.from.is_empty() { &facts.name } else { &alias.from };
    let loaded = call.state.models().loaded().into_iter().find(|loaded| loaded.model.facts.name == *base);
    let own =
        loaded.and_then(|it| it.model.template.as_ref().ok().map(|template| template.source().to_owned()));
    let template = alias.template.clone().or(own).unwrap_or_default();
    let parameters: Vec<String> =
        alias.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let architecture = &facts.architecture;
    let mut info = json!({
        "general.architecture": architecture,
        "general.parameter_count": facts.parameters,
        "general.basename": base,
    });
    if let Some(context) = facts.context {
        info[format!("{architecture}.context_length")] = json!(context);
    }
    Ok(respond::json(&json!({
        "modelfile": to_modelfile(base, &alias),
        "parameters": parameters.join("\n"),
        "template": template,
        "system": alias.system.clone().unwrap_or_default(),
        "license": alias.license.clone().or(facts.license.clone()).unwrap_or_default(),
        "details": details(&facts, &alias.from),
        "model_info": info,
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": created(&facts),
    })))
}

fn to_modelfile(from: &str, alias: &Alias) -> String {
    let mut text = format!("FROM {from}\n");
    for (name, value) in &alias.parameters {
        let values = match value {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        values.iter().for_each(|value| text.push_str(&format!("PARAMETER {name} {value}\n")));
    }
    if let Some(system) = &alias.system {
        text.push_str(&format!("SYSTEM \"\"\"{system}\"\"\"\n"));
    }
    if let Some(template) = &alias.template {
        text.push_str(&format!("TEMPLATE \"\"\"{template}\"\"\"\n"));
    }
    text
}

/// `DELETE /api/delete`.
pub(super) async fn delete(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (DeleteRequest, _) = call.json(|_| false).await?;
    call.state.models().remove(&name(request.model, request.name)?).await?;
    Ok(respond::json(&json!({})))
}

/// `POST /api/copy`.
pub(super) async fn copy(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (CopyRequest, _) = call.json(|_| false).await?;
    let alias = Alias { from: request.source, created: ids::unix_seconds(), ..Alias::default() };
    call.state.models().create(&request.destination, alias).await?;
    Ok(respond::json(&json!({})))
}

/// `POST /api/create`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (CreateRequest, _) = call.json(|_| false).await?;
    let streams = request.stream.unwrap_or(true);
    let name = name(request.model, request.name)?;
    let mut alias = match &request.modelfile {
        Some(text) => modelfile::read(text)?,
        None => Alias::default(),
    };
    alias.from = request.from.unwrap_or(alias.from);
    if alias.from.is_empty() {
        return Err(ApiError::field("from", "`from` is missing: name the model that this one is made from"));
    }
    alias.system = request.system.or(alias.system);
    if let Some(template) = request.template {
        modelfile::set_template(&mut alias, template);
    }
    for (name, value) in request.parameters.unwrap_or_default() {
        modelfile::set_parameter(&mut alias.parameters, &name, value);
    }
    alias.messages = request.messages.unwrap_or(alias.messages);
    alias.license = request.license.map(|license| license.into_vec().join("\n")).or(alias.license);
    alias.created = ids::unix_seconds();
    modelfile::check(&alias)?;
    call.state.models().create(&name, alias).await?;
    let done = json!({ "status": "success" });
    Ok(match streams {
        false => respond::json(&done),
        true => respond::text(
            Stream::Lines.content_type(),
            format!("{}\n{done}\n", json!({ "status": "writing manifest" })),
        ),
    })
}

/// `POST /api/pull`.
pub(super) async fn pull(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (PullRequest, _) = call.json(|_| false).await?;
    let name = name(request.model, request.name)?;
    let pool = call.state.models().clone();
    // A client that reads slowly slows the telling, not the download: what does not fit is left out.
    let (sender, receiver) = channel::<Result<PullProgress, LoadError>>(64);
    tokio::task::spawn_blocking(move || {
        let told = sender.clone();
        let outcome = pool.pull(&name, &mut |progress| {
            !matches!(told.try_send(Ok(progress)), Err(tokio::sync::mpsc::error::TrySendError::Closed(_)))
        });
        if let Err(error) = outcome {
            // Nobody listens any more, then.
            let _nobody_listens = sender.blocking_send(Err(error));
        }
    });
    if request.stream.unwrap_or(true) {
        return Ok(pull_stream(receiver));
    }
    let mut receiver = receiver;
    while let Some(progress) = receiver.recv().await {
        progress.map_err(pull_error)?;
    }
    Ok(respond::json(&json!({ "status": "success" })))
}

fn pull_error(error: LoadError) -> ApiError {
    match error {
        LoadError::NotFound(name) => ApiError::model_not_found(&name),
        other => crate::models::load_error(other),
    }
}

fn pull_stream(receiver: Receiver<Result<PullProgress, LoadError>>) -> Response<Body> {
    let lines = futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        let (line, rest) = match receiver.recv().await {
            Some(Ok(progress)) => (progress_line(&progress), Some(receiver)),
            Some(Err(error)) => (json!({ "error": pull_error(error).message }), None),
            None => (json!({ "status": "success" }), None),
        };
        Some((Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))), rest))
    });
    respond::stream(Stream::Lines, lines)
}

fn progress_line(progress: &PullProgress) -> Value {
    let mut line = json!({ "status": progress.status });
    if let Some(digest) = &progress.digest {
        line["digest"] = json!(digest);
    }
    if let Some(total) = progress.total {
        line["total"] = json!(total);
    }
    if let Some(completed) = progress.completed {
        line["completed"] = json!(completed);
    }
    line
}
