//! Developer commands (`cargo xtask ...`) and the tables that the workspace's own tests read.
//!
//! They are Rust and not shell scripts so that they run wherever the project builds, need nothing installed, and are
//! held to the same lints as everything else. The rules of the house that a compiler cannot see (which crate may
//! depend on which, where `unsafe` may live) are data here; `xtask/tests/` enforces them.
#![forbid(unsafe_code)]

pub mod aarch64;
pub mod bench_peers;
pub mod bench_serve;
pub mod chart;
pub mod clients;
pub mod commands;
pub mod contestants;
pub mod crate_map;
pub mod default_model;
pub mod fuzz;
pub mod machine;
pub mod peers;
pub mod process;
pub mod quality;
pub mod random_model;
pub mod soak_serve;
pub mod source_rules;
pub mod source_text;
pub mod test_suite;
pub mod workspace;
