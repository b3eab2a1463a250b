//! `/v1/responses`: answers that are kept, continued, written in the background, and told event by event.
//!
//! A response is written by a task of its own ([`write`], with what is said in [`answer`]), which tells its events to a [`Live`]; whoever waits, streams or
//! asks for it reads there. Who hangs up in the foreground ends it; in the background it goes on.

mod answer;
mod approvals;
mod body;
mod compact;
mod keep;
mod live;
mod plan;
mod request;
mod routes;
mod search;
mod tools;
mod write;
mod writer;

pub use compact::CompactRequest;
pub use request::CreateResponseRequest;
pub use routes::ROUTES;

pub(super) use compact::summary;
pub(super) use keep::recover;
pub(super) use live::Live;
