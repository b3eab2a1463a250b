//! A response that is being written: its events so far, for any number of listeners.

use super::writer::show_open;
use crate::error::ApiError;
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;

/// A response that is being written.
#[derive(Debug)]
pub(in crate::resources) struct Live {
    /// Whose it is.
    pub(super) tenant: String,
    /// Whether it goes on while nobody listens.
    pub(super) background: bool,
    state: Mutex<State>,
    /// Events so far, and whether these are all.
    told: watch::Sender<(usize, bool)>,
    cancelled: watch::Sender<bool>,
    failure: OnceLock<ApiError>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Arc<Value>>,
    body: Value,
    /// What has been written of the last item of the output.
    open: String,
}

impl Live {
    pub(super) fn new(tenant: String, background: bool, body: Value) -> Live {
        Live {
            tenant,
            background,
            state: Mutex::new(State { body, ..State::default() }),
            told: watch::Sender::new((0, false)),
            cancelled: watch::Sender::new(false),
            failure: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an event; its number is the one of its place.
    pub(super) fn tell(&self, event: Value) {
        let mut state = self.state();
        state.events.push(Arc::new(event));
        let count = state.events.len();
        drop(state);
        self.told.send_modify(|told| told.0 = count);
    }

    /// How many events were told.
    pub(super) fn count(&self) -> usize {
        self.told.borrow().0
    }

    /// Says how the response looks now.
    pub(super) fn show(&self, body: Value) {
        let mut state = self.state();
        state.body = body;
        state.open.clear();
    }

    /// Says what else has been written of the last item of the output: to show the whole for every token would take longer
    /// than to write it.
    pub(super) fn grow(&self, delta: &str) {
        self.state().open.push_str(delta);
    }

    /// Says that no more events come.
    pub(super) fn finish(&self) {
        self.told.send_modify(|told| told.1 = true);
    }

    /// Says what went wrong.
    pub(super) fn fail(&self, error: ApiError) {
        let _ = self.failure.set(error);
    }

    /// What went wrong.
    pub(super) fn failure(&self) -> Option<&ApiError> {
        self.failure.get()
    }

    /// How the response looks, with what has been written of an item that is not done.
    pub(super) fn body(&self) -> Value {
        let state = self.state();
        let mut body = state.body.clone();
        let last = body["output"].as_array_mut().and_then(|output| output.last_mut());
        if let Some(item) = last.filter(|_| !state.open.is_empty()) {
            show_open(item, &state.open);
        }
        body
    }

    /// The next events from number `from` on, as soon as there are any; none when there will be no more.
    pub(super) async fn events(&self, from: usize) -> Vec<Arc<Value>> {
        let mut told = self.told.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = told.wait_for(|(count, all)| *count > from || *all).await;
        self.state().events.get(from..).map(<[_]>::to_vec).unwrap_or_default()
    }

    /// The events from number `from` on that are there already.
    pub(super) fn events_now(&self, from: usize) -> Vec<Arc<Value>> {
        self.state().events.get(from..).map(<[_]>::to_vec).unwrap_or_default()
    }

    /// Waits for the last event.
    pub(super) async fn finished(&self) {
        let _ = self.told.subscribe().wait_for(|(_, all)| *all).await;
    }

    /// Ends the response within one step.
    pub(super) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Waits until somebody ends it.
    pub(super) async fn cancelled(&self) {
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

/// Ends a response in the foreground when whoever waits for it goes away.
pub(super) struct Listener(pub(super) Arc<Live>);

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.0.background {
            self.0.cancel();
        }
    }
}
