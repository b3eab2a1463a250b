//! What is stored of a response, and when: its beginning, its end, and the end of one that nobody writes any more.

use super::live::Live;
use super::plan::Plan;
use super::writer::{Writer, fail};
use crate::error::{ApiResult, ErrorKind};
use crate::resources::{ask, tenant};
use crate::route::Call;
use crate::state::AppState;
use alti_store::{NewResponse, Store, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long is waited before what was refused is stored again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often is looked whether the server goes down while that is waited for.
const POLL: Duration = Duration::from_millis(100);

/// Stores a response that begins.
pub(super) async fn keep_new(call: &Call, plan: &Plan, live: &Live) -> ApiResult<()> {
    let body = live.body();
    let new = NewResponse {
        id: plan.id.clone(),
        status: body["status"].as_str().unwrap_or("in_progress").to_owned(),
        background: plan.background,
        previous: plan.request.previous_response_id.clone(),
        conversation: plan.conversation.clone(),
        body,
        input: plan.input.clone(),
    };
    let tenant = tenant(call);
    ask(&call.state, move |store| store.responses().create(&tenant, &new)).await
}

/// The events from number `from` on, with their numbers.
pub(super) fn numbered(live: &Live, from: usize) -> Vec<(u64, Value)> {
    let events = live.events_now(from);
    events.iter().enumerate().map(|(index, event)| ((from + index) as u64, (**event).clone())).collect()
}

/// The end of a response as it is stored: its object, its events if it was told by them, and its part of the conversation.
pub(super) struct Ending {
    id: String,
    /// Whether the response itself is stored.
    store: bool,
    tenant: String,
    conversation: Option<String>,
    body: Value,
    events: Vec<(u64, Value)>,
    said: Vec<Value>,
}

impl Ending {
    pub(super) fn new(call: &Call, plan: &Plan, writer: &Writer, live: &Live, last: &Value) -> Arc<Ending> {
        let mut events = Vec::new();
        if plan.store && (plan.background || plan.request.stream == Some(true)) {
            events = numbered(live, 0);
            events.push((events.len() as u64, last.clone()));
        }
        let body = writer.body().clone();
        let mut said = Vec::new();
        if plan.conversation.is_some() && matches!(body["status"].as_str(), Some("completed" | "incomplete"))
        {
            let is_new = |item: &&Value| plan.history.iter().all(|old| old["id"] != item["id"]);
            said.extend(plan.input.iter().filter(is_new).cloned());
            said.extend(writer.told()["output"].as_array().into_iter().flatten().cloned());
        }
        Arc::new(Ending {
            id: plan.id.clone(),
            store: plan.store,
            tenant: tenant(call),
            conversation: plan.conversation.clone(),
            body,
            events,
            said,
        })
    }

    /// Stores it.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(super) async fn keep(self: &Arc<Ending>, state: &AppState) -> ApiResult<()> {
        // A server without a database has nothing to say of that.
        if !self.store && self.said.is_empty() {
            return Ok(());
        }
        let ending = self.clone();
        ask(state, move |store| ending.write(store)).await
    }

    fn write(&self, store: &Store) -> alti_store::Result<()> {
        if self.store {
            let status = self.body["status"].as_str().unwrap_or("failed");
            store.responses().update(&self.id, status, &self.body, &self.events, &self.said)?;
        } else if let Some(conversation) = &self.conversation {
            match store.conversations().add_new_items(&self.tenant, conversation, &self.said) {
                // Who deletes a conversation while something is said in it wants none of it.
                Err(StoreError::NotFound { .. }) => {}
                kept => kept?,
            }
        }
        Ok(())
    }

    /// Stores it as soon as the store takes it again, or the server goes down: whoever asks for the response meanwhile
    /// must be told by somebody else how it ended.
    pub(super) async fn keep_later(self: &Arc<Ending>, state: &AppState) {
        let mut pause = PAUSES.0;
        while !state.is_draining() {
            rest(state, pause).await;
            match self.keep(state).await {
                Ok(()) => return tracing::info!(response = self.id, "a response could be stored after all"),
                // It has been deleted.
                Err(error) if error.kind == ErrorKind::NotFound => return,
                Err(error) => tracing::warn!(response = self.id, %error, "still a response is not stored"),
            }
            pause = PAUSES.1.min(pause * 2);
        }
    }
}

/// Waits, but not while the server goes down.
async fn rest(state: &AppState, pause: Duration) {
    let until = tokio::time::Instant::now() + pause;
    while !state.is_draining() && tokio::time::Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}

/// Ends what is not done and what nobody writes: a server that was killed left it, or a writer that broke. It cannot be
/// gone on with, because nobody knows how it would have.
///
/// # Errors
/// When the store cannot be read.
pub(in crate::resources) async fn recover(state: &AppState) -> ApiResult<()> {
    let unfinished = ask(state, |store| store.responses().unfinished()).await?;
    // Whoever writes one has said so before it was stored, and says that it is done after that was stored.
    let left: Vec<_> =
        unfinished.into_iter().filter(|response| state.work().live(&response.id).is_none()).collect();
    if left.is_empty() {
        return Ok(());
    }
    let ended = ask(state, move |store| {
        let ended = left.iter().filter(|response| match break_off(store, response) {
            Ok(changed) => changed,
            // Others may be luckier.
            Err(error) => {
                tracing::warn!(response = response.id, %error, "a response that was cut off could not be ended");
                false
            }
        });
        Ok(ended.count())
    })
    .await?;
    if ended > 0 {
        tracing::warn!(ended, "responses that were cut off have failed");
    }
    Ok(())
}

/// Has a response failed that nobody writes; whether it had not ended yet.
fn break_off(store: &Store, response: &alti_store::Response) -> alti_store::Result<bool> {
    let responses = store.responses();
    let mut body = response.body.clone();
    fail(&mut body, "server_error", CUT_OFF);
    let events = responses.events(&response.tenant, &response.id, None)?;
    let number = events.last().map_or(0, |(number, _)| number + 1);
    let event = json!({ "type": "response.failed", "sequence_number": number, "response": body });
    responses.update(&response.id, "failed", &body, &[(number, event)], &[])
}

/// What is said of a response that nobody writes any more.
pub(super) const CUT_OFF: &str = "the server was stopped, or broke off, before this response was done";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::work::Written;
    use crate::{LoadError, ModelFacts, ModelLoader, PullProgress, ServedModel, ServerSettings, Services};

    /// No models.
    struct Nothing;

    impl ModelLoader for Nothing {
        fn list(&self) -> Result<Vec<ModelFacts>, LoadError> {
            Ok(Vec::new())
        }

        fn find(&self, name: &str) -> Result<ModelFacts, LoadError> {
            Err(LoadError::NotFound(name.to_owned()))
        }

        fn load(&self, name: &str) -> Result<ServedModel, LoadError> {
            Err(LoadError::NotFound(name.to_owned()))
        }

        fn pull(
            &self,
            name: &str,
            _: &mut (dyn FnMut(PullProgress) -> bool + Send),
        ) -> Result<(), LoadError> {
            Err(LoadError::NotFound(name.to_owned()))
        }

        fn remove(&self, name: &str) -> Result<(), LoadError> {
            Err(LoadError::NotFound(name.to_owned()))
        }
    }

    #[tokio::test]
    async fn what_nobody_writes_has_failed_and_what_somebody_writes_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(&folder.path().join("alti.db"), alti_store::StoreSettings::default()).unwrap();
        let services = Services { store: Some(store.clone()), ..Services::default() };
        let state = AppState::with_services(ServerSettings::default(), Arc::new(Nothing), services);
        for id in ["left", "written"] {
            let new = NewResponse {
                id: id.to_owned(),
                status: "in_progress".to_owned(),
                background: true,
                previous: None,
                conversation: None,
                body: json!({ "id": id, "status": "in_progress" }),
                input: Vec::new(),
            };
            store.responses().create("t", &new).unwrap();
        }
        let live = Arc::new(Live::new("t".to_owned(), true, json!({})));
        let written = Written::begin(&state, "written", live);
        recover(&state).await.unwrap();
        let status = |id: &str| store.responses().get("t", id).unwrap().status;
        assert_eq!((status("left"), status("written")), ("failed".to_owned(), "in_progress".to_owned()));
        assert_eq!(store.responses().get("t", "left").unwrap().body["error"]["message"], CUT_OFF);
        // As when its writer breaks.
        drop(written);
        recover(&state).await.unwrap();
        assert_eq!(status("written"), "failed");
    }
}
