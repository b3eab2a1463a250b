//! What can go wrong in the CPU backend, in words for a user.

use alti_tensor::DType;

/// An error of the CPU backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// An instruction set was named that is unknown, or that this machine lacks.
    #[error("instruction set `{name}` is not available on this machine; choose one of: {available}")]
    Isa {
        /// The name asked for.
        name: String,
        /// The names that work here.
        available: String,
    },
    /// A worker thread panicked; the step it took part in has no result.
    #[error("thread {thread} of the CPU backend panicked: {message}")]
    WorkerPanicked {
        /// The worker's number, 0 for the calling thread.
        thread: usize,
        /// Its panic message.
        message: String,
    },
    /// The system refused a thread.
    #[error("cannot start thread {thread} of the CPU backend: {reason}; ask for fewer threads")]
    Spawn {
        /// The number of the thread that could not be started.
        thread: usize,
        /// What the system said.
        reason: String,
    },
    /// The system refused memory.
    #[error("out of memory: cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
    /// A tensor that is no matrix was to be packed.
    #[error("a {dtype} tensor of shape {shape:?} is not a matrix: {reason}")]
    NotAMatrix {
        /// Its dtype.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
        /// What does not fit.
        reason: &'static str,
    },
}
