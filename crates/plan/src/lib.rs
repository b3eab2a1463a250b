//! The compute planner: pure functions from a workload and hardware to time, memory, power and money.
//!
//! Nothing here reads a file, a clock, an environment or a terminal: catalogues are texts, answers are values. The
//! constants that are fitted to measurements are the fields of [`calibration::Calibration`], and `cargo run -p alti-plan
//! --example calibrate` fits them and shows how far the predictions are from what was published.
#![forbid(unsafe_code)]

pub mod calibration;
pub mod error;
pub mod hardware;
pub mod kernel;
pub mod layout;
pub mod memory;
pub mod model;
pub mod network;
pub mod power;
pub mod published;
pub mod stack;
pub mod step;
pub mod units;

pub use error::PlanError;
