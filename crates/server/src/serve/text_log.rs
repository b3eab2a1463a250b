//! What is posted and what is answered, in the log: where the owner wants it there (`log_text`), and nowhere else.

use crate::router::REQUEST_ID;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper::body::{Body as Stream, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Bytes of a body that are told: what is longer is cut, lest a log grow by every picture and every book.
const MOST: usize = 32 << 10;

/// The router, which tells the log what is posted to it and what it answers.
pub(super) fn with_text(router: Router) -> Router {
    router.layer(from_fn(told))
}

async fn told(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let asked = Excerpt::default();
    let copied = asked.clone();
    let request = request.map(|body| Body::new(Overheard { body, copied, at_the_end: None }));
    let response = next.run(request).await;
    // The router has given it one, if the client had none.
    let id = response.headers().get(REQUEST_ID).map(HeaderValue::to_str).and_then(Result::ok);
    let id = id.unwrap_or_default().to_owned();
    asked.tell(|bytes, text| tracing::info!(request = id, path, bytes, text, "asked"));
    let answer = Excerpt::default();
    let copied = answer.clone();
    let tell = move || answer.tell(|bytes, text| tracing::info!(request = id, bytes, text, "said"));
    response.map(|body| Body::new(Overheard { body, copied, at_the_end: Some(Box::new(tell)) }))
}

/// The beginning of a body, and how long it was. Clones share it.
#[derive(Clone, Default)]
struct Excerpt(Arc<Mutex<(Vec<u8>, u64)>>);

impl Excerpt {
    fn add(&self, data: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(kept.0.len());
        kept.0.extend_from_slice(&data[..data.len().min(room)]);
        kept.1 += data.len() as u64;
    }

    /// Tells how many bytes came, and their text as far as it was kept.
    fn tell(&self, tell: impl FnOnce(u64, &str)) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is uploaded may be anything.
        match kept.0.contains(&0) {
            true => tell(kept.1, "(no text)"),
            false => tell(kept.1, &String::from_utf8_lossy(&kept.0)),
        }
    }
}

/// A body of which a copy is kept as it passes.
struct Overheard {
    body: Body,
    copied: Excerpt,
    /// Called when nobody takes more of it: it is over, or the client has hung up.
    at_the_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Stream for Overheard {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.copied.add(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Overheard {
    fn drop(&mut self) {
        if let Some(tell) = self.at_the_end.take() {
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::post;
    use http_body_util::BodyExt;
    use std::io::Write;
    use tower::ServiceExt;

    /// Where a log is written to.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn echo(body: Bytes) -> impl axum::response::IntoResponse {
        ([(REQUEST_ID, "req_7")], body)
    }

    /// What is logged of a request with that body, which is answered by it.
    async fn logged(method: Method, body: &[u8]) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let router = with_text(Router::new().route("/echo", post(echo).get(echo)));
        let request = Request::builder().method(method).uri("/echo").body(Body::from(body.to_vec())).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, body, "nothing of it is lost");
        drop(guard);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[tokio::test]
    async fn what_is_posted_and_answered_is_told_with_its_request() {
        let log = logged(Method::POST, "say \"räv\"\nERROR all is lost".as_bytes()).await;
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "a text makes no lines of its own: {log}");
        for (line, word) in lines.iter().zip(["asked", "said"]) {
            assert!(line.contains(word) && line.contains("request=\"req_7\""), "{line}");
            assert!(line.contains("bytes=28") && line.contains(r#"say \"räv\"\nERROR"#), "{line}");
        }
        assert!(lines[0].contains("path=\"/echo\""), "{log}");
    }

    #[tokio::test]
    async fn what_is_long_is_cut_and_what_is_no_text_is_left_out() {
        let log = logged(Method::POST, "a".repeat(MOST + 100).as_bytes()).await;
        assert_eq!(log.matches(&format!("bytes={}", MOST + 100)).count(), 2);
        assert!(log.contains(&"a".repeat(MOST)) && !log.contains(&"a".repeat(MOST + 1)));
        let log = logged(Method::POST, b"\x89PNG\0\0").await;
        assert_eq!(log.matches("bytes=6 text=\"(no text)\"").count(), 2, "{log}");
        assert!(logged(Method::GET, b"asked for").await.is_empty());
    }
}
