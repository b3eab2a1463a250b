//! The compute planner: pure functions from a workload and hardware to time, memory, power and money.
//!
//! Nothing here reads a file, a clock, an environment or a terminal: catalogues are texts, answers are values. The
//! constants that are fitted to measurements are the fields of [`calibration::Calibration`], and `cargo run -p alti-plan
//! --example calibrate` fits them and shows how far the predictions are from what was published.
#![forbid(unsafe_code)]

pub mod calibration;
pub mod config;
pub mod economics;
pub mod error;
pub mod explain;
pub mod fleet;
pub mod futures;
mod generation;
pub mod hardware;
pub mod inference;
pub mod kernel;
pub mod layout;
pub mod local;
pub mod memory;
pub mod model;
pub mod network;
pub mod power;
pub mod published;
pub mod queueing;
pub mod random;
pub mod ranking;
mod refusal;
pub mod reliability;
pub mod report;
pub mod roadmap;
pub mod scaling;
pub mod search;
pub mod serve;
pub mod settings;
pub mod stack;
pub mod step;
pub mod trace;
pub mod training;
pub mod units;

pub use error::PlanError;
