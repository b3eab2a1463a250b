//! The fast CPU backend: kernels per instruction set, a pinned thread pool, weights repacked at load.
//!
//! From the bottom up: [`isa`] chooses an instruction set at run time, `simd` is the handful of
//! vector operations kernels are written in, [`pack`] brings weights into panels, [`kernels`]
//! computes with them, [`pool`] runs a list of kernels on all threads as one parallel region, and
//! [`Cpu`] is the [`Backend`](alti_tensor::Backend) that makes such lists of model code.
//! This is the only inner crate with `unsafe` code: in `simd`, in the tiles, and where threads share
//! an output.

mod backend;
mod error;
pub mod isa;
pub mod kernels;
pub mod limits;
mod memory;
pub mod pack;
pub mod pool;
mod simd;

pub use backend::{Cpu, CpuCache, CpuWeight, Tensor};
pub use error::CpuError;
pub use isa::Isa;
pub use memory::AlignedBytes;
pub use pack::PackedMatrix;
pub use pool::Pool;
