//! A model that serves many at once: continuous batching over paged keys and values.
//!
//! [`Engine`] is the handle that callers share; one thread owns the model and takes step after step. A step computes
//! the next token of every running answer and, in what is left of its budget of tokens, parts of prompts. What callers
//! ask is a [`Job`]; what they hear are [`Output`]s.

mod control;
mod draft;
mod draft_model;
mod engine;
mod job;
mod kv;
mod pages;
mod prefix;
mod saved;
mod sequence;
mod slots;
mod step;
mod teller;
mod turns;
mod worker;

pub use engine::{Engine, EngineSettings, ModelAndDraft, Ticket};
pub use job::{
    CacheDomain, EmbeddingJob, Job, Output, Pooling, Priority, Rejected, Sink, SlotStatus, Status,
    TokenOutput, Usage,
};
pub use slots::{SlotAction, SlotName};
pub use turns::Turns;
