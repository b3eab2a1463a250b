//! What a user sees when a real model runs: chats in a terminal and in a pipe, single answers, measurements,
//! and every command of the documentation. The binary runs in a process of its own, with the default model
//! that `cargo xtask test` keeps for tests; without that model these tests fail and say so.
//!
//! One program for all of them, because linking it takes longer than most of its tests.

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod docs;
mod packed;
mod quality;
mod run;
mod serve;
mod soak;
mod store;
