//! What a user can rely on when models come and go, against a Hub of our own on 127.0.0.1 that
//! can be told to misbehave.

mod downloads;
mod fake_hub;
mod licenses;
mod local_files;
#[cfg(unix)]
mod packages;
mod processes;
mod repositories;
mod storage;
mod support;
