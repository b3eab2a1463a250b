//! Makes files searchable: reads them, cuts them, has their vectors computed when there is nothing more urgent, and stores
//! all of it at once.

use super::chunks::Chunking;
use crate::accounts;
use crate::auth::{Principal, off_the_runtime};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::encode_plain;
use crate::models::Lease;
use crate::resources::ask;
use crate::resources::embedding::embed_all;
use crate::route::{Call, Errand};
use crate::state::AppState;
use alti_engine::serving::Priority;
use alti_store::{NewChunk, Store, VectorStoreFile};
use alti_text::Specials;
use axum::body::Body;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the largest file that is made searchable.
const MOST_BYTES: u64 = 64 << 20;

/// How long something may be missing (a model that does not load) before the files that need it fail.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long files rest for which something is missing.
const REST: Duration = Duration::from_secs(30);

/// Makes all files searchable that wait for it. Some may have to wait: it returns when none does, or the server goes down.
pub(in crate::resources) async fn ingest_all(state: AppState) {
    let mut missing = Missing::default();
    loop {
        let waiting = match ask(&state, |store| store.vector_stores().files_in_progress()).await {
            Ok(waiting) if waiting.is_empty() => return,
            Ok(waiting) => waiting,
            Err(error) => return tracing::error!(%error, "files to be made searchable cannot be listed"),
        };
        missing.keep(&waiting);
        let mut is_later = false;
        for file in waiting {
            if state.is_draining() {
                return;
            }
            let Err(error) = ingest(&state, &file).await else { continue };
            let is_missing = error.kind == ErrorKind::Unavailable && !state.is_draining();
            // Others need the model now, or the disk is full: the file waits for the next round.
            let is_over = missing.is_over(&file, is_missing, Instant::now());
            if is_passing(&error) && !is_over {
                tracing::warn!(file = file.id, %error, "a file is made searchable later");
                is_later = true;
            } else if let Err(error) = fail(&state, file, error).await {
                return tracing::error!(%error, "a file that cannot be made searchable cannot be told so");
            }
        }
        if is_later {
            // More files, or a while: whichever comes first.
            let _ = tokio::time::timeout(REST, state.work().files.notified()).await;
        }
    }
}

/// Since when something has been missing for a file, by its store and its id.
#[derive(Default)]
struct Missing(HashMap<(String, String), Instant>);

impl Missing {
    fn name(file: &VectorStoreFile) -> (String, String) {
        (file.vector_store.clone(), file.id.clone())
    }

    /// Forgets files that do not wait any more.
    fn keep(&mut self, waiting: &[VectorStoreFile]) {
        let waiting: HashSet<_> = waiting.iter().map(Missing::name).collect();
        self.0.retain(|name, _| waiting.contains(name));
    }

    /// Whether something is missing now, and has been for so long that it will not come.
    fn is_over(&mut self, file: &VectorStoreFile, is_missing: bool, now: Instant) -> bool {
        if !is_missing {
            self.0.remove(&Missing::name(file));
            return false;
        }
        let since = *self.0.entry(Missing::name(file)).or_insert(now);
        now.duration_since(since) >= PATIENCE
    }
}

async fn fail(state: &AppState, file: VectorStoreFile, error: ApiError) -> ApiResult<()> {
    let code = error.code.filter(|code| CODES.contains(code)).unwrap_or("server_error");
    let told = json!({ "code": code, "message": error.message });
    let fail = move |store: &Store| store.vector_stores().fail_file(&file.vector_store, &file.id, &told);
    ask(state, fail).await.map(drop)
}

/// What OpenAI calls what is wrong with a file.
const CODES: [&str; 3] = ["server_error", "unsupported_file", "invalid_file"];

fn is_passing(error: &ApiError) -> bool {
    let passing = [ErrorKind::RateLimit, ErrorKind::Quota, ErrorKind::Unavailable, ErrorKind::StorageFull];
    passing.contains(&error.kind)
}

async fn ingest(state: &AppState, file: &VectorStoreFile) -> ApiResult<()> {
    let text = {
        let (tenant, id) = (file.tenant.clone(), file.id.clone());
        let bytes = ask(state, move |store| store.files().content(&tenant, &id, MOST_BYTES)).await?;
        text_of(bytes)?
    };
    let owner = {
        let (tenant, id) = (file.tenant.clone(), file.vector_store.clone());
        ask(state, move |store| store.vector_stores().get(&tenant, &id)).await?
    };
    // Vectors of one store are of one model: the one of its first file.
    let model = Arc::new(state.models().acquire(owner.model.as_deref(), None).await?);
    let texts = cut(&model, Chunking::read(Some(&file.chunking))?, text).await?;
    let call = errand(state, file).await?;
    let (texts, tokens) = with_tokens(&model, texts).await?;
    let vectors = embed_patiently(&call, &model, tokens).await?;
    let chunks: Vec<NewChunk> =
        texts.into_iter().zip(vectors).map(|(text, vector)| NewChunk { text, vector }).collect();
    let (id, name, model) = (file.vector_store.clone(), file.id.clone(), model.facts.name.clone());
    ask(state, move |store| store.vector_stores().complete_file(&id, &name, &model, &chunks)).await?;
    Ok(())
}

/// Waits while the queue is full: nobody waits for this.
async fn embed_patiently(call: &Call, model: &Lease, texts: Vec<Vec<u32>>) -> ApiResult<Vec<Vec<f32>>> {
    loop {
        match embed_all(call, model, texts.clone()).await {
            Err(error) if error.kind == ErrorKind::RateLimit && !call.state.is_draining() => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome,
        }
    }
}

/// The call that the work on a file is billed as.
///
/// # Errors
/// When the key that added it may do nothing any more: nobody would pay for the work.
async fn errand(state: &AppState, file: &VectorStoreFile) -> ApiResult<Call> {
    let key = match file.key.clone() {
        id if id.is_empty() => None,
        id => {
            let key = accounts::usable(ask(state, move |store| store.keys().get(&id)).await?);
            let message = "the key that added this file was revoked or has expired";
            Some(key.ok_or_else(|| ApiError::new(ErrorKind::Permission, message))?)
        }
    };
    let path = "/v1/vector_stores/{store}/files";
    let route = super::ROUTES.iter().find(|route| route.path == path).copied();
    let route = crate::routes::table().iter().find(|own| Some(own.path) == route.map(|route| route.path));
    let route = route.ok_or_else(|| ApiError::internal("the route that files are added by is gone"))?;
    let errand = Errand { priority: Priority::Batch, receipts: None };
    Ok(Call::errand(state.clone(), route, Principal::acting_for(key), Body::empty(), errand))
}

fn text_of(bytes: Vec<u8>) -> ApiResult<String> {
    let unsupported = |message: &str| Err(ApiError::invalid(message).code("unsupported_file"));
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => return unsupported("the file is not text in UTF-8, and nothing else can be searched here"),
    };
    if text.contains('\0') {
        return unsupported("the file is not text");
    }
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    if text.trim().is_empty() {
        return Err(ApiError::invalid("the file is empty").code("invalid_file"));
    }
    Ok(text.replace("\r\n", "\n"))
}

/// Texts, and the tokens of each.
async fn with_tokens(model: &Arc<Lease>, texts: Vec<String>) -> ApiResult<(Vec<String>, Vec<Vec<u32>>)> {
    let model = model.clone();
    off_the_runtime(move || {
        let tokens = |text: &String| encode_plain(&model.tokenizer, text, Specials::AsText);
        let tokens = texts.iter().map(tokens).collect();
        Ok((texts, tokens))
    })
    .await
}

/// Cuts a text, no longer than the model can read at once.
async fn cut(model: &Arc<Lease>, chunking: Chunking, text: String) -> ApiResult<Vec<String>> {
    let model = model.clone();
    off_the_runtime(move || {
        let most = model.inference.context().saturating_sub(2).max(1);
        let size = chunking.size.min(most);
        let chunking = Chunking { size, overlap: chunking.overlap.min(size / 2) };
        Ok(chunking.cut(&text, |piece| model.tokenizer.encode(piece, Specials::AsText).len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use alti_store::{Attributes, FileStatus};

    #[test]
    fn what_is_missing_is_waited_for_a_while() {
        let file = |id: &str| VectorStoreFile {
            id: id.to_owned(),
            vector_store: "vs_1".to_owned(),
            tenant: String::new(),
            key: String::new(),
            created_at: 0,
            status: FileStatus::InProgress,
            error: None,
            attributes: Attributes::new(),
            chunking: json!({}),
            bytes: 0,
        };
        let (mut missing, start) = (Missing::default(), Instant::now());
        assert!(!missing.is_over(&file("a"), true, start));
        assert!(!missing.is_over(&file("a"), true, start + PATIENCE / 2));
        assert!(missing.is_over(&file("a"), true, start + PATIENCE));
        assert!(!missing.is_over(&file("b"), true, start + PATIENCE), "each file has its own time");
        assert!(!missing.is_over(&file("a"), false, start + PATIENCE), "others need everything");
        assert!(!missing.is_over(&file("a"), true, start + PATIENCE), "from then on anew");
        missing.keep(&[file("a")]);
        assert_eq!(missing.0.len(), 1);
    }

    #[test]
    fn only_text_is_read() {
        assert_eq!(text_of("\u{feff}a\r\nb".into()).unwrap(), "a\nb");
        for (bytes, code) in
            [(&b"\xff\xfe"[..], "unsupported_file"), (b"a\0b", "unsupported_file"), (b" \n", "invalid_file")]
        {
            assert_eq!(text_of(bytes.to_vec()).unwrap_err().code, Some(code));
        }
    }
}
