#![forbid(unsafe_code)]
//! One running model: from a request's tokens to the answer's.
//!
//! [`mod@generate`] makes one answer: a [`session`] keeps the context in the model's memory; [`sampling`] draws tokens, [`stop`] ends an
//! answer. What the model computes is `alti-models`, what text is `alti-text`.

pub mod adapters;
mod error;
pub mod generate;
pub mod grammar;
pub mod importance;
pub mod sampling;
pub mod serving;
pub mod session;
pub mod stop;
mod writer;

pub use error::EngineError;
pub use generate::{Answer, Event, Request, Timings, WhenFull, generate};
pub use importance::measure_importance;
pub use session::{Session, SessionSettings, Shift};
