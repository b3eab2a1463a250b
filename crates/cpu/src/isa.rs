//! The run-time choice of an instruction set.
//!
//! One binary must run on any machine and use all of the one it runs on, so nothing here is decided
//! at compile time: an [`Isa`] is a proof, made once at start, that this machine has certain
//! instructions. A `Kernel` is generic over `Simd` and `Isa::run` instantiates it inside a
//! function compiled for these instructions.

use crate::CpuError;
use crate::pack::layout::quant_layout;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512, tiles::Tiles};
use crate::simd::{Scalar, Simd};
use alti_tensor::DType;
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;

/// An instruction set that this machine is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512, and tile registers for long prompts, BF16 weights and bf16 keys and values.
    #[cfg(target_arch = "x86_64")]
    Amx(Tiles),
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON, and instructions that multiply BF16.
    #[cfg(target_arch = "aarch64")]
    NeonBrain,
}

/// A computation written once, over any [`Simd`].
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; `inline(always)`, so that it is compiled for the caller's instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// What vectors say of themselves.
struct Traits {
    keeps_brain_floats: bool,
    read_ahead: usize,
}

struct Asked;

impl Kernel for Asked {
    type Output = Traits;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Traits {
        Traits { keeps_brain_floats: S::KEEPS_BRAIN_FLOATS, read_ahead: S::READ_AHEAD }
    }
}

impl Isa {
    /// Portable scalar code: on every machine.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// All that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                found.push(Isa(Level::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("gfni")
            {
                found.push(Isa(Level::Avx512));
                found.extend(Tiles::detect().map(|tiles| Isa(Level::Amx(tiles))));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod") {
            found.push(Isa(Level::Neon));
            if is_aarch64_feature_detected!("bf16") {
                found.push(Isa(Level::NeonBrain));
            }
        }
        found
    }

    /// The fastest that this machine has.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::SCALAR)
    }

    /// The instruction set with this name (`scalar`; `avx2`, `avx512`, `amx`; `neon`, `neon-bf16`).
    ///
    /// # Errors
    /// When no instruction set of this name is known here, or this machine lacks it.
    pub fn from_name(name: &str) -> Result<Isa, CpuError> {
        let available = Isa::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| CpuError::Isa {
            name: name.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The name by which a user forces it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx(_) => "amx",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonBrain => "neon-bf16",
        }
    }

    /// Whether panels of this type are worth unpacking once for many rows: where putting their codes together costs more
    /// than loading them. On AVX2 tiles have so few columns that even shifting plain codes of 4 bits apart counts.
    pub(crate) fn unpacks(self, dtype: DType) -> bool {
        let plain_counts = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => true,
            _ => false,
        };
        quant_layout(dtype).is_some_and(|layout| layout.is_costly() || plain_counts && layout.bits < 8)
    }

    /// [`Simd::KEEPS_BRAIN_FLOATS`] of its vectors.
    pub(crate) fn keeps_brain_floats(self) -> bool {
        self.run(Asked).keeps_brain_floats
    }

    /// [`Simd::READ_AHEAD`] of its vectors.
    pub(crate) fn read_ahead(self) -> usize {
        self.run(Asked).read_ahead
    }

    /// The tile registers of this instruction set, if it has them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(self) -> Option<Tiles> {
        match self.0 {
            Level::Amx(tiles) => Some(tiles),
            _ => None,
        }
    }

    /// Runs a kernel that wants tile registers, compiled for the vectors of the machines that have
    /// them and for no others: `None` where this instruction set has no tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run_tiled<K: Kernel>(self, kernel: impl FnOnce(Tiles) -> K) -> Option<K::Output> {
        let tiles = self.tiles()?;
        // SAFETY: an `Isa` with tiles is made only by `available`, on a machine that has AVX-512, too.
        Some(unsafe { run_avx512(kernel(tiles)) })
    }

    /// Runs `kernel`, compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Scalar => kernel.run(Scalar),
            // SAFETY: an `Isa` of this level is made only by `available`, which has just seen that
            // the machine has every feature that the function and its token stand for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx(_) => unsafe { run_avx512(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { run_neon(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::NeonBrain => unsafe { run_neon_brain(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx512vbmi,gfni,avx2,fma,f16c"
)]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { Avx512::new() })
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { Neon::<false>::new() })
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod,bf16")]
fn run_neon_brain<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { Neon::<true>::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_is_found_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()).unwrap(), isa);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_work() {
        let message = Isa::from_name("avx9000").unwrap_err().to_string();
        assert!(message.contains("avx9000") && message.contains("scalar"), "{message}");
    }
}
