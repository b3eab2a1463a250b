//! The Hub over HTTP: asking a repository what it has, and fetching files of it.
//!
//! - [`client`]: one request, with its redirects, credentials and classification of failures
//! - [`api`]: what a repository has, under which licence
//! - [`partial`]: an unfinished file and the record of the bytes that are here
//! - [`download`]: a file over several connections, verified

pub(crate) mod api;
pub(crate) mod client;
pub(crate) mod download;
pub(crate) mod partial;

use crate::error::HubError;
use crate::progress::Observer;
use crate::settings::HubSettings;

/// Asks the Hub for one line of its list of models, to see whether it answers.
///
/// # Errors
/// [`HubError::Network`] when it does not, and whatever else stands in the way.
pub fn reach(settings: &HubSettings, observer: Observer<'_>) -> Result<(), HubError> {
    let client = client::Client::new(settings)?;
    let url = format!("{}/api/models?limit=1", client.endpoint());
    let subject = client::Subject { what: "list of models", page: client.endpoint() };
    let ask = || client.json::<serde::de::IgnoredAny>(&url, &subject, observer).map(drop);
    client.stoppable(observer, ask)
}
