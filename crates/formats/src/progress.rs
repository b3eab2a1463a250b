//! How far a long write is; whoever asked for it shows it.

/// One step of writing a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Bytes of tensor data written so far.
    pub done: u64,
    /// Bytes of tensor data in all.
    pub total: u64,
    /// The tensor being written now; empty at the end.
    pub tensor: &'a str,
}
