//! Makes files searchable: reads them, cuts them, has their vectors computed when there is nothing more urgent, and stores
//! all of it at once.

use super::chunks::Chunking;
use crate::accounts;
use crate::auth::{Principal, off_the_runtime};
use crate::error::{ApiError, ApiResult, ErrorKind};
use crate::generate::encode_plain;
use crate::models::Lease;
use crate::resources::ask;
use crate::resources::embedding::embed;
use crate::route::{Call, Errand};
use crate::state::AppState;
use alti_engine::serving::Priority;
use alti_store::{NewChunk, VectorStoreFile};
use alti_text::Specials;
use axum::body::Body;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the largest file that is made searchable.
const MOST_BYTES: u64 = 64 << 20;

/// Makes all files searchable that wait for it.
pub(in crate::resources) async fn ingest_all(state: AppState) {
    loop {
        let waiting = match ask(&state, |store| store.vector_stores().files_in_progress()).await {
            Ok(waiting) if waiting.is_empty() => return,
            Ok(waiting) => waiting,
            Err(error) => return tracing::error!(%error, "files to be made searchable cannot be listed"),
        };
        let mut is_later = false;
        for file in waiting {
            if state.is_draining() {
                return;
            }
            let (id, name) = (file.vector_store.clone(), file.id.clone());
            match ingest(&state, &file).await {
                Ok(()) => {}
                // Others need the model now, or the disk is full: the file waits for the next round.
                Err(error) if is_passing(&error) => {
                    tracing::warn!(file = name, %error, "a file is made searchable later");
                    is_later = true;
                }
                Err(error) => {
                    let code = error.code.filter(|code| CODES.contains(code)).unwrap_or("server_error");
                    let told = json!({ "code": code, "message": error.message });
                    let failed = ask(&state, move |store| store.vector_stores().fail_file(&id, &name, &told));
                    if let Err(error) = failed.await {
                        return tracing::error!(%error, "a file that cannot be made searchable cannot be told so");
                    }
                }
            }
        }
        if is_later {
            return;
        }
    }
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
    let mut chunks = Vec::with_capacity(texts.len());
    for text in texts {
        let tokens = encode_plain(&model.tokenizer, &text, Specials::AsText);
        let vector = embed_patiently(&call, &model, tokens).await?;
        chunks.push(NewChunk { text, vector });
    }
    let (id, name, model) = (file.vector_store.clone(), file.id.clone(), model.facts.name.clone());
    ask(state, move |store| store.vector_stores().complete_file(&id, &name, &model, &chunks)).await?;
    Ok(())
}

/// Waits while the queue is full: nobody waits for this.
async fn embed_patiently(call: &Call, model: &Lease, tokens: Vec<u32>) -> ApiResult<Vec<f32>> {
    loop {
        match embed(call, model, tokens.clone()).await {
            Err(error) if error.kind == ErrorKind::RateLimit && !call.state.is_draining() => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome,
        }
    }
}

/// The call that the work on a file is billed as.
async fn errand(state: &AppState, file: &VectorStoreFile) -> ApiResult<Call> {
    let key = match file.key.clone() {
        id if id.is_empty() => None,
        id => ask(state, move |store| store.keys().get(&id)).await.ok().and_then(accounts::usable),
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
