//! An answer as a stream: each API renders the same events in its own way.

use super::{Event, Parts};
use crate::error::{ApiError, ApiResult};
use crate::respond;
use crate::route;
use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::convert::Infallible;
use std::time::Duration;

/// How an API writes events.
pub trait Renderer: Send + 'static {
    /// Writes what comes before the first event.
    fn begin(&mut self, into: &mut String);
    /// Writes an event of the `job`th of the request's jobs.
    fn event(&mut self, job: usize, event: Event, into: &mut String);
    /// Writes that the job failed; nothing comes after it.
    fn fail(&mut self, error: &ApiError, into: &mut String);
    /// What has to be done between the last event and the end, and fails the answer if it fails. Asked for once more
    /// only if there was nothing to do.
    fn before_end(&mut self) -> Option<BoxFuture<'static, ApiResult<()>>> {
        None
    }
    /// Writes what comes after the last event.
    fn end(&mut self, into: &mut String);
}

/// Pieces that are longer than this are sent before more is looked for.
const LARGE_PIECE_BYTES: usize = 16 << 10;

struct Streaming<R> {
    /// Jobs run side by side and are told one after the other.
    parts: Parts,
    job: usize,
    renderer: R,
    /// What has to be done before the end: it goes on where it was when its wait was cut.
    ending: Option<BoxFuture<'static, ApiResult<()>>>,
    began: bool,
    done: bool,
}

impl<R: Renderer> Streaming<R> {
    /// Does what has to be done before the end.
    async fn settle(&mut self) -> ApiResult<()> {
        if self.ending.is_none() {
            self.ending = self.renderer.before_end();
        }
        match &mut self.ending {
            Some(ending) => ending.await,
            None => Ok(()),
        }
    }

    /// Waits for the next event and renders it with those that are there already: one write for all.
    async fn piece(&mut self, into: &mut String) {
        if !std::mem::replace(&mut self.began, true) {
            self.renderer.begin(into);
            return;
        }
        let generation = match self.parts.front().await {
            Ok(Some(generation)) => generation,
            Ok(None) => {
                match self.settle().await {
                    Ok(()) => self.renderer.end(into),
                    Err(error) => self.renderer.fail(&error, into),
                }
                self.done = true;
                return;
            }
            Err(error) => {
                self.renderer.fail(&error, into);
                self.done = true;
                return;
            }
        };
        let mut next = generation.next().await;
        loop {
            match next {
                Ok(Some(event)) => self.renderer.event(self.job, event, into),
                Ok(None) => {
                    self.parts.pop();
                    self.job += 1;
                    return;
                }
                Err(error) => {
                    self.renderer.fail(&error, into);
                    self.done = true;
                    return;
                }
            }
            if into.len() > LARGE_PIECE_BYTES {
                return;
            }
            next = match generation.try_next() {
                Ok(None) => return,
                other => other,
            };
        }
    }
}

/// The response that streams the answers to a request's jobs.
pub fn stream<R: Renderer>(
    parts: impl Into<Parts>,
    renderer: R,
    kind: route::Stream,
    keep_alive: Duration,
) -> Response<Body> {
    let streaming =
        Streaming { parts: parts.into(), job: 0, renderer, ending: None, began: false, done: false };
    let pieces = futures_util::stream::unfold(streaming, move |mut streaming| async move {
        while !streaming.done {
            let mut text = String::new();
            if tokio::time::timeout(keep_alive, streaming.piece(&mut text)).await.is_err() {
                // A comment: it tells the client that somebody is there, and us if the client is not.
                match kind {
                    route::Stream::Events => text.push_str(": waiting\n\n"),
                    route::Stream::Lines => continue,
                }
            }
            if !text.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(text)), streaming));
            }
        }
        None
    });
    respond::stream(kind, pieces)
}
