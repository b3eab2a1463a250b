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
