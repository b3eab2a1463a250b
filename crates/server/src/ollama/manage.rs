//! Models: listed, described, fetched, named, removed.

use super::modelfile;
use super::shared::{details, moment};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::models::{Alias, LoadError, LoadedModel, ModelFacts, PullProgress, load_error, tagged};
use crate::respond;
use crate::route::{Call, Family, Stream};
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
            /// Files to make a model from: refused, since models come from the store.
            files: Map<String, Value>,
            /// Files to make adapters from: refused; an adapter is named in a Modelfile.
            adapters: Map<String, Value>,
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

/// The model's name, in whichever of its fields it is.
///
/// # Errors
/// When it is in none.
pub(super) fn name(model: Option<String>, name: Option<String>) -> ApiResult<String> {
    let name = model.filter(|name| !name.is_empty()).or(name).filter(|name| !name.is_empty());
    name.ok_or_else(|| ApiError::field("model", "`model` is missing"))
}

/// When a model came.
pub(super) fn created(facts: &ModelFacts) -> String {
    moment(UNIX_EPOCH + Duration::from_secs(facts.created.min(1 << 36)))
}

/// `GET /api/tags`.
pub(super) async fn tags(call: Call) -> ApiResult<Response<Body>> {
    let models = call.state.models().list().await?;
    let told = models.iter().map(|facts| {
        let name = tagged(&facts.name);
        json!({
            "name": name,
            "model": name,
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
    let loaded = call.state.models().loaded();
    let told = loaded.iter().flat_map(|loaded| {
        // Apps look for the name they asked for.
        let names = std::iter::once(&loaded.model.facts.name).chain(&loaded.aliases);
        names.map(|name| running(&tagged(name), loaded))
    });
    Ok(respond::json(&json!({ "models": told.collect::<Vec<_>>() })))
}

/// A model in memory, under one of its names.
fn running(name: &str, loaded: &LoadedModel) -> Value {
    let facts = &loaded.model.facts;
    // Ollama's clients want a date where a model stays for ever, too.
    let never = || SystemTime::now() + Duration::from_secs(100 * 365 * 24 * 3600);
    json!({
        "name": name,
        "model": name,
        "size": loaded.model.memory_bytes,
        "digest": facts.digest,
        "details": details(facts, ""),
        "expires_at": moment(loaded.expires.unwrap_or_else(never)),
        "size_vram": 0,
        "context_length": loaded.model.inference.context(),
    })
}

/// `GET /api/version`.
pub(super) fn version() -> Response<Body> {
    respond::json(
        &json!({ "version": OLLAMA_VERSION, "server": concat!("alti ", env!("CARGO_PKG_VERSION")) }),
    )
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
    for (field, name) in [("source", &request.source), ("destination", &request.destination)] {
        if name.is_empty() {
            return Err(ApiError::field(field, format!("`{field}` is empty: it must be a model's name")));
        }
    }
    let alias = Alias { from: request.source, created: ids::unix_seconds(), ..Alias::default() };
    call.state.models().create(&request.destination, alias).await?;
    Ok(respond::json(&json!({})))
}

/// `POST /api/create`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (CreateRequest, _) = call.json(|_| false).await?;
    let streams = request.stream.unwrap_or(true);
    let name = name(request.model, request.name)?;
    no_files(request.files.as_ref(), request.adapters.as_ref())?;
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

/// Refuses files: whoever sends them believes that they are uploaded.
fn no_files(files: Option<&Map<String, Value>>, adapters: Option<&Map<String, Value>>) -> ApiResult<()> {
    let is_given = |files: Option<&Map<String, Value>>| files.is_some_and(|files| !files.is_empty());
    if is_given(files) {
        let message =
            "`files` are not taken: fetch the model with `alti pull` or /api/pull, and name it in `from`";
        return Err(ApiError::field("files", message));
    }
    if is_given(adapters) {
        let message = "`adapters` are not taken: put the adapter in a folder of the setting server.adapter_folders, \
                       and name it in a Modelfile's ADAPTER";
        return Err(ApiError::field("adapters", message));
    }
    Ok(())
}

/// `POST /api/pull`.
pub(super) async fn pull(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (PullRequest, _) = call.json(|_| false).await?;
    let name = name(request.model, request.name)?;
    let pool = call.state.models().clone();
    // A client that reads slowly slows the telling, not the download: what does not fit is left out.
    let (sender, receiver) = channel::<Pulled>(64);
    tokio::task::spawn_blocking(move || {
        let told = sender.clone();
        let outcome = pool.pull(&name, &mut |progress| {
            let progress = Pulled::Progress(progress);
            !matches!(told.try_send(progress), Err(tokio::sync::mpsc::error::TrySendError::Closed(_)))
        });
        // Nobody listens any more, then.
        let _nobody_listens = sender.blocking_send(Pulled::Ended(outcome));
    });
    if request.stream.unwrap_or(true) {
        return Ok(pull_stream(receiver));
    }
    let mut receiver = receiver;
    loop {
        match receiver.recv().await {
            Some(Pulled::Progress(_)) => {}
            Some(Pulled::Ended(outcome)) => {
                outcome.map_err(load_error)?;
                return Ok(respond::json(&json!({ "status": "success" })));
            }
            None => return Err(broken_off()),
        }
    }
}

/// What is told of a download.
enum Pulled {
    Progress(PullProgress),
    Ended(Result<(), LoadError>),
}

/// A download that ended without a word.
fn broken_off() -> ApiError {
    ApiError::internal("a download broke off without an outcome")
}

fn pull_stream(receiver: Receiver<Pulled>) -> Response<Body> {
    let lines = futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        let failed = |error: ApiError| error.body(Family::Ollama);
        let (line, rest) = match receiver.recv().await {
            Some(Pulled::Progress(progress)) => (progress_line(&progress), Some(receiver)),
            Some(Pulled::Ended(Ok(()))) => (json!({ "status": "success" }), None),
            Some(Pulled::Ended(Err(error))) => (failed(load_error(error)), None),
            None => (failed(broken_off()), None),
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
