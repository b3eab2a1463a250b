//! What a handle sends to the thread that owns the model.

use super::job::{Job, Pooling, Sink};
use super::saved::SavedText;
use super::sequence::Drawing;
use super::slots::SlotName;
use crate::EngineError;
use crate::adapters::Lease;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// A request, checked, with all that could be prepared on the caller's thread.
pub(super) struct Submission {
    pub(super) id: u64,
    pub(super) job: Job,
    pub(super) sink: Sink,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) submitted: Instant,
    /// What draws each choice's tokens.
    pub(super) drawings: Vec<Drawing>,
    /// How states become a vector, where one is wanted and no text.
    pub(super) pooling: Option<Pooling>,
}

/// An order.
pub(super) enum Command {
    /// Do this, too.
    Submit(Box<Submission>),
    /// Write the prefix cache of the model of this name to a file; answers how many tokens are in it.
    SavePrefixes(PathBuf, String, Sender<Result<usize, EngineError>>),
    /// Take a file's prefixes in; answers how many tokens came of it.
    LoadPrefixes(PathBuf, String, Sender<Result<usize, EngineError>>),
    /// Answer a slot's text, for the model of this name.
    ReadSlot(SlotName, String, Sender<Result<SavedText, EngineError>>),
    /// Make a text out of a file, for the model of this name, a slot's; answers how many tokens it has.
    WriteSlot(SlotName, Box<SavedText>, PathBuf, String, Sender<Result<usize, EngineError>>),
    /// Forget a slot's text; answers how many tokens it had.
    EraseSlot(SlotName, Sender<usize>),
    /// Take this adapter in under its lease's name; answers the lease.
    LoadAdapter(Lease, Box<alti_formats::Adapter>, Sender<Result<Lease, EngineError>>),
    /// Let go of adapters that nobody can ask for.
    ReleaseAdapters,
    /// Finish, at the latest by then.
    Close(Instant, Sender<()>),
}
