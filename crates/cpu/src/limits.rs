//! What this machine can physically do: how fast memory is read, and how fast its best instructions
//! multiply and add. Every speed of the backend is a fraction of one of these.
//!
//! They are measured, not looked up: clocks, memory and neighbours differ between machines of the
//! same name. The best of several passes counts, because everything that disturbs only slows.

use crate::pool::PoolOptions;
#[cfg(target_arch = "x86_64")]
use crate::simd::tiles::Tiles;
use crate::{AlignedBytes, CpuError, Pool};
use std::hint::black_box;
use std::time::Instant;

/// Passes of each measurement.
const PASSES: usize = 7;

/// Bytes a second read from a buffer of `bytes` by all of `threads` together, each reading a part of
/// its own again and again. From a buffer much larger than the caches this is the stream of memory.
///
/// # Errors
/// When the system has no memory or no threads.
pub fn read_bandwidth(bytes: usize, threads: usize) -> Result<f64, CpuError> {
    let mut buffer = AlignedBytes::zeroed(bytes)?;
    // Pages that nobody wrote are all the same page of zeros.
    buffer.as_mut_slice().fill(1);
    let lines = buffer.as_slice().as_chunks::<LINE>().0;
    let mut best = 0f64;
    for ahead in PREFETCHED_AHEAD {
        let seconds = fastest(threads, |thread, threads| {
            let part = lines.len().div_ceil(threads).max(1);
            black_box(read(lines.chunks(part).nth(thread).unwrap_or_default(), ahead));
        })?;
        best = best.max(size_of_val(lines) as f64 / seconds);
    }
    Ok(best)
}

/// Seconds of the fastest of several passes in which every thread of a pool runs `work`, which gets
/// the thread's number and how many there are.
fn fastest(threads: usize, work: impl Fn(usize, usize) + Sync) -> Result<f64, CpuError> {
    let mut pool = Pool::new(PoolOptions { threads, pin: true })?;
    let mut seconds = f64::INFINITY;
    for _ in 0..PASSES {
        let started = Instant::now();
        pool.run(|region| {
            work(region.thread(), region.threads());
            Ok(())
        })?;
        seconds = seconds.min(started.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cache lines that a reader asks for ahead; which distance is best differs between machines, and 0
/// leaves it to the machine.
const PREFETCHED_AHEAD: [usize; 4] = [0, 16, 64, 256];

type Sums = [u64; 32];

/// Reads all lines, in the widest vectors that the machine has.
fn read(lines: &[[u8; LINE]], ahead: usize) -> Sums {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the machine has just been seen to have the instructions.
            return unsafe { read_avx512(lines, ahead) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { read_avx2(lines, ahead) };
        }
    }
    add_all(lines, ahead)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(lines: &[[u8; LINE]], ahead: usize) -> Sums {
    add_all(lines, ahead)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(lines: &[[u8; LINE]], ahead: usize) -> Sums {
    add_all(lines, ahead)
}

/// Four lines at a time into sums of their own, so that no addition waits for another.
#[inline(always)]
fn add_all(lines: &[[u8; LINE]], ahead: usize) -> Sums {
    lines.as_chunks::<4>().0.iter().fold([0; 32], |mut sums, four| {
        if ahead > 0 {
            four.iter().for_each(|line| prefetch(line, ahead));
        }
        let words = four.as_flattened().as_chunks::<8>().0;
        sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(u64::from_ne_bytes(*word)));
        sums
    })
}

/// Asks for the line that comes `ahead` lines after this one.
#[inline(always)]
fn prefetch(line: &[u8; LINE], ahead: usize) {
    let address = line.as_ptr().wrapping_add(ahead * LINE);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it may name any address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    crate::simd::prefetch(address);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// What a [`Unit`] multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Codes of 4 bits with integers of 8, where they are multiplied faster than codes of 8: codes of few bits.
    Int4,
    /// Integers of 8 bits.
    Int8,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
}

impl Operand {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// One way of multiplying and adding that a machine may have.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// The instruction, as manuals spell it.
    pub instruction: &'static str,
    /// What it multiplies.
    pub operand: Operand,
    /// Multiplications and additions of one round.
    operations: u64,
    /// Whether the machine has it.
    available: fn() -> bool,
    /// Runs this many rounds.
    ///
    /// # Safety
    /// The machine must have the instruction.
    rounds: unsafe fn(u64),
}

impl Unit {
    /// Operations a second of `threads` threads that do nothing else; a multiplication and an
    /// addition are two. `None` where the machine lacks the instruction.
    ///
    /// # Errors
    /// When the system has no threads.
    pub fn peak(&self, threads: usize) -> Result<Option<f64>, CpuError> {
        // About the same work for every unit: a tenth of a second.
        self.rate(threads, 1 << 34)
    }

    /// [`Unit::peak`], over so many operations of a thread.
    fn rate(&self, threads: usize, operations: u64) -> Result<Option<f64>, CpuError> {
        if !(self.available)() {
            return Ok(None);
        }
        let rounds = operations.div_ceil(self.operations);
        let seconds = fastest(threads, |_, _| {
            // SAFETY: `available` has just said that the machine has the instruction.
            unsafe { (self.rounds)(rounds) }
        })?;
        Ok(Some((rounds * self.operations) as f64 * threads as f64 / seconds))
    }
}

/// The units that are measured, those of other machines included.
pub const UNITS: &[Unit] = &[
    #[cfg(target_arch = "x86_64")]
    Unit {
        // With the addition that follows.
        instruction: "vpmaddubsw ymm",
        operand: Operand::Int4,
        operations: 12 * 64,
        available: || is_x86_feature_detected!("avx2"),
        rounds: x86::avx_pairs,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        // Products of 8 bits do not fit into 16 twice: a code is two of 4 bits. What kernels do, move the sign to the
        // other factor and widen, is as many instructions, one more of which only two units of a core run.
        instruction: "vpmaddubsw ymm, twice",
        operand: Operand::Int8,
        operations: 12 * 32,
        available: || is_x86_feature_detected!("avx2"),
        rounds: x86::avx_pairs,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vpdpbusd ymm",
        operand: Operand::Int8,
        operations: 12 * 64,
        available: || is_x86_feature_detected!("avxvnni"),
        rounds: x86::avx_int8,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vpdpbusd zmm",
        operand: Operand::Int8,
        operations: 24 * 128,
        available: || is_x86_feature_detected!("avx512vnni"),
        rounds: x86::avx512_int8,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "tdpbusd tmm",
        operand: Operand::Int8,
        operations: 4 * 2 * 16 * 16 * 64,
        available: || Tiles::detect().is_some(),
        rounds: x86::tiles_int8,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vdpbf16ps zmm",
        operand: Operand::Bf16,
        operations: 24 * 64,
        available: || is_x86_feature_detected!("avx512bf16"),
        rounds: x86::avx512_bf16,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "tdpbf16ps tmm",
        operand: Operand::Bf16,
        operations: 4 * 2 * 16 * 16 * 32,
        available: || Tiles::detect().is_some(),
        rounds: x86::tiles_bf16,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vfmadd231ps ymm",
        operand: Operand::F32,
        operations: 12 * 16,
        available: || is_x86_feature_detected!("fma"),
        rounds: x86::avx_f32,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vfmadd231ps zmm",
        operand: Operand::F32,
        operations: 24 * 32,
        available: || is_x86_feature_detected!("avx512f"),
        rounds: x86::avx512_f32,
    },
    #[cfg(target_arch = "aarch64")]
    Unit {
        instruction: "sdot v.4s",
        operand: Operand::Int8,
        operations: 20 * 32,
        available: || std::arch::is_aarch64_feature_detected!("dotprod"),
        rounds: aarch64::dot_int8,
    },
    #[cfg(target_arch = "aarch64")]
    Unit {
        instruction: "smmla v.4s",
        operand: Operand::Int8,
        operations: 20 * 64,
        available: || std::arch::is_aarch64_feature_detected!("i8mm"),
        rounds: aarch64::matrix_int8,
    },
    #[cfg(target_arch = "aarch64")]
    Unit {
        instruction: "bfdot v.4s",
        operand: Operand::Bf16,
        operations: 20 * 16,
        available: || std::arch::is_aarch64_feature_detected!("bf16"),
        rounds: aarch64::dot_bf16,
    },
    #[cfg(target_arch = "aarch64")]
    Unit {
        instruction: "bfmmla v.4s",
        operand: Operand::Bf16,
        operations: 20 * 32,
        available: || std::arch::is_aarch64_feature_detected!("bf16"),
        rounds: aarch64::matrix_bf16,
    },
    #[cfg(target_arch = "aarch64")]
    Unit {
        instruction: "fmla v.4s",
        operand: Operand::F32,
        operations: 20 * 8,
        available: || std::arch::is_aarch64_feature_detected!("neon"),
        rounds: aarch64::multiply_f32,
    },
];

/// The units of integers, with all that a block of 32 codes needs in vectors besides its products: whole numbers made
/// floats, its scale times that of its activations, and the addition to the sum. Codes and activations are in registers:
/// products of block formats can come near these rates, and [`UNITS`]' they cannot.
pub const BLOCK_UNITS: &[Unit] = &[
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vpmaddubsw ymm",
        operand: Operand::Int4,
        operations: 6 * 2 * 8 * 32,
        available: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        rounds: x86::avx_blocks_int4,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vpmaddubsw ymm, widened each time",
        operand: Operand::Int8,
        operations: 6 * 2 * 8 * 32,
        available: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        rounds: x86::avx_blocks_int8,
    },
    #[cfg(target_arch = "x86_64")]
    Unit {
        instruction: "vpdpbusd zmm",
        operand: Operand::Int8,
        operations: 6 * 2 * 16 * 32,
        available: || is_x86_feature_detected!("avx512vnni"),
        rounds: x86::avx512_blocks_int8,
    },
];

/// As for x86: loops of nothing but one instruction.
#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::asm;

    /// The instruction on accumulators 4 to 7 and 16 to 31, which functions need not give back: more
    /// than hide its latency behind four a cycle.
    macro_rules! on_20 {
        ($start:literal, $operand:literal) => {
            on_20!(@ $start, $operand, "4" "5" "6" "7" "16" "17" "18" "19" "20" "21" "22" "23"
                "24" "25" "26" "27" "28" "29" "30" "31")
        };
        (@ $start:literal, $operand:literal, $($number:literal)*) => {
            concat!($($start, " v", $number, ".4s, v0.", $operand, ", v1.", $operand, "\n"),*)
        };
    }

    /// A function that runs rounds of instructions on registers, with zeros as operands.
    macro_rules! rounds {
        ($name:ident, $feature:literal, $start:literal, $operand:literal) => {
            /// # Safety
            /// The machine must have the instruction.
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(rounds: u64) {
                // SAFETY: only registers are touched, and all of them are declared; the caller knows
                // that the machine has the instruction.
                unsafe {
                    asm!(
                        "movi v0.2d, #0",
                        "movi v1.2d, #0",
                        "2:",
                        on_20!($start, $operand),
                        "subs x9, x9, #1",
                        "b.ne 2b",
                        inout("x9") rounds.max(1) => _,
                        clobber_abi("C"),
                        options(nomem, nostack),
                    );
                }
            }
        };
    }

    rounds!(dot_int8, "dotprod", "sdot", "16b");
    rounds!(matrix_int8, "i8mm", "smmla", "16b");
    rounds!(dot_bf16, "bf16", "bfdot", "8h");
    rounds!(matrix_bf16, "bf16", "bfmmla", "8h");
    rounds!(multiply_f32, "neon", "fmla", "4s");
}

/// Loops of nothing but one instruction. They are written in assembly because a compiler would see
/// that nothing comes of them, and because Rust has no names for tiles yet.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::simd::tiles::{TILE_ROW, TILE_ROWS, Tiles};
    use std::arch::asm;

    /// The instruction on accumulators 4 to 15: as many as hide its latency behind two a cycle.
    macro_rules! on_12 {
        ($start:literal, $register:literal) => {
            on_12!(@ $start, $register, "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15")
        };
        (@ $start:literal, $register:literal, $($number:literal)*) => {
            concat!($($start, " ", $register, $number, ", ", $register, "0, ", $register, "1\n"),*)
        };
    }

    /// The instruction on accumulators 4 to 27.
    macro_rules! on_24 {
        ($start:literal, $register:literal) => {
            concat!(
                on_12!($start, $register),
                on_12!(@ $start, $register,
                    "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27")
            )
        };
    }

    /// All registers are zero: `vzeroall` leaves 16 to 31 as they were.
    macro_rules! zero_32 {
        () => {
            zero_32!(@ "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27")
        };
        (@ $($number:literal)*) => {
            concat!("vzeroall\n", $("vpxord zmm", $number, ", zmm", $number, ", zmm", $number, "\n"),*)
        };
    }

    /// Pairs of products of 8 bits, added up in 16: the instruction multiplies, another one adds.
    macro_rules! pairs_on_12 {
        () => {
            pairs_on_12!(@ "4" "5" "6" "7" "8" "9" "10" "11" "12" "13" "14" "15")
        };
        (@ $($number:literal)*) => {
            concat!($(
                "vpmaddubsw ymm2, ymm0, ymm1\n",
                "vpaddw ymm", $number, ", ymm", $number, ", ymm2\n"
            ),*)
        };
    }

    /// A block of 32 codes for each of the sums 4 to 9: the first of eight steps, the others, what makes whole numbers of
    /// them; then the formula of block formats. Register 0 has codes, 1 activations, 3 the dot products, 10 and 11 scales,
    /// 12 the codes without their signs, 14 what the offset of codes adds, 15 ones of 16 bits: all zero here, which is no faster.
    macro_rules! on_6_blocks {
        ($register:literal, $first:literal, $step:literal, $last:literal) => {
            on_6_blocks!(@ $register, $first, $step, $last, "4" "5" "6" "7" "8" "9")
        };
        (@ $register:literal, $first:literal, $step:literal, $last:literal, $($sum:literal)*) => {
            concat!($(
                $first, $step, $step, $step, $step, $step, $step, $step, $last,
                "vcvtdq2ps ", $register, "3, ", $register, "3\n",
                "vmulps ", $register, "2, ", $register, "10, ", $register, "11\n",
                "vfmadd231ps ", $register, $sum, ", ", $register, "3, ", $register, "2\n"
            ),*)
        };
    }

    /// The same where one instruction multiplies and adds whole numbers, dot products in 16 to 21: it takes long until a sum
    /// can be added to again, so that all sums go step by step together.
    macro_rules! dots_on_6 {
        () => {
            dots_on_6!(@ "16" "4", "17" "5", "18" "6", "19" "7", "20" "8", "21" "9")
        };
        (@ $($dot:literal $sum:literal),*) => {
            concat!(
                $("vmovdqa64 zmm", $dot, ", zmm14\n",)*
                dots_on_6!(8 $($dot)*),
                $(
                    "vcvtdq2ps zmm3, zmm", $dot, "\n",
                    "vmulps zmm2, zmm10, zmm11\n",
                    "vfmadd231ps zmm", $sum, ", zmm3, zmm2\n",
                )*
            )
        };
        (8 $($dot:literal)*) => {
            concat!(dots_on_6!(4 $($dot)*), dots_on_6!(4 $($dot)*))
        };
        (4 $($dot:literal)*) => {
            concat!(dots_on_6!(2 $($dot)*), dots_on_6!(2 $($dot)*))
        };
        (2 $($dot:literal)*) => {
            concat!($("vpdpbusd zmm", $dot, ", zmm0, zmm1\n",)* $("vpdpbusd zmm", $dot, ", zmm0, zmm1\n",)*)
        };
    }

    /// A function that runs rounds of instructions on registers, with zeros as operands: no number
    /// is slower to add to than a denormal one.
    macro_rules! rounds {
        ($name:ident, $instructions:expr, $zero:expr) => {
            /// # Safety
            /// The machine must have the instruction.
            pub(super) unsafe fn $name(rounds: u64) {
                // SAFETY: only registers are touched, and all of them are declared; the caller knows
                // that the machine has the instruction.
                unsafe {
                    asm!(
                        $zero,
                        "2:",
                        $instructions,
                        "dec rcx",
                        "jnz 2b",
                        "vzeroupper",
                        inout("rcx") rounds.max(1) => _,
                        clobber_abi("sysv64"),
                        options(nomem, nostack),
                    );
                }
            }
        };
    }

    rounds!(avx_pairs, pairs_on_12!(), "vzeroall");
    rounds!(avx_int8, on_12!("{{vex}} vpdpbusd", "ymm"), "vzeroall");
    rounds!(avx_f32, on_12!("vfmadd231ps", "ymm"), "vzeroall");
    rounds!(avx512_int8, on_24!("vpdpbusd", "zmm"), zero_32!());
    rounds!(avx512_bf16, on_24!("vdpbf16ps", "zmm"), zero_32!());
    rounds!(avx512_f32, on_24!("vfmadd231ps", "zmm"), zero_32!());
    rounds!(
        avx_blocks_int4,
        on_6_blocks!(
            "ymm",
            "vpmaddubsw ymm3, ymm0, ymm1\n",
            "vpmaddubsw ymm2, ymm0, ymm1\nvpaddw ymm3, ymm3, ymm2\n",
            "vpmaddwd ymm3, ymm3, ymm15\nvpaddd ymm3, ymm3, ymm14\n"
        ),
        "vzeroall"
    );
    rounds!(
        avx_blocks_int8,
        on_6_blocks!(
            "ymm",
            "vpsignb ymm2, ymm1, ymm0\nvpmaddubsw ymm2, ymm12, ymm2\nvpmaddwd ymm3, ymm2, ymm15\n",
            "vpsignb ymm2, ymm1, ymm0\nvpmaddubsw ymm2, ymm12, ymm2\nvpmaddwd ymm2, ymm2, ymm15\n\
             vpaddd ymm3, ymm3, ymm2\n",
            ""
        ),
        "vzeroall"
    );
    rounds!(avx512_blocks_int8, dots_on_6!(), zero_32!());

    /// A function that multiplies two tiles by two others, as a matrix product does.
    macro_rules! tile_rounds {
        ($name:ident, $instruction:literal) => {
            /// # Safety
            /// The machine must have the instruction.
            pub(super) unsafe fn $name(rounds: u64) {
                let Some(tiles) = Tiles::detect() else { return };
                let _configured = tiles.configure([(TILE_ROWS, TILE_ROW); 8]);
                // SAFETY: only registers are touched: tiles, which are configured, and declared ones.
                unsafe {
                    asm!(
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "dec rcx",
                        "jnz 2b",
                        inout("rcx") rounds.max(1) => _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }

    tile_rounds!(tiles_int8, "tdpbusd");
    tile_rounds!(tiles_bf16, "tdpbf16ps");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_whatever_the_instructions_and_the_distance() {
        let lines: Vec<[u8; LINE]> = (0..64).map(|line| [line as u8; LINE]).collect();
        let total = |sums: Sums| sums.iter().fold(0u64, |total, sum| total.wrapping_add(*sum));
        let words = lines.as_flattened().as_chunks::<8>().0;
        let expected = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
        for ahead in PREFETCHED_AHEAD {
            assert_eq!(total(read(&lines, ahead)), expected);
            assert_eq!(total(add_all(&lines, ahead)), expected);
        }
    }

    #[test]
    fn what_the_machine_has_can_be_measured() {
        assert!(read_bandwidth(1 << 16, 2).unwrap() > 0.0);
        for unit in UNITS.iter().chain(BLOCK_UNITS) {
            // Few operations: an emulator takes its time for each.
            if let Some(peak) = unit.rate(1, 1 << 20).unwrap() {
                assert!(peak > 0.0, "{}", unit.instruction);
            }
        }
    }
}
