//! The fast backend: operations appended to a list, run by all threads as one parallel region.
//!
//! [`Cpu`] records ([`record`]) and runs what was recorded ([`run`]): [`ops`], each of which knows how to do one
//! thread's share of itself; [`arena`], [`cache`] and [`weight`] are the memory they work on.
//!
//! Why this is sound: values, pages and weights outlive the list (the arena never frees before the
//! backend is dropped, and the list keeps what it names), and they are touched only while
//! [`Backend::submit`](alti_tensor::Backend::submit) runs it, because the handles that safe code
//! holds give no access and cannot leave the thread. Within a run, what an operation reads was
//! written by the same thread, or before a barrier: [`fences`] derives the barriers from what
//! operations say they touch.

pub(crate) mod arena;
pub(crate) mod cache;
mod fences;
mod ops;
mod record;
mod run;
mod weight;

pub use arena::Tensor;
pub use cache::CpuCache;
pub use record::Cpu;
pub use weight::CpuWeight;
