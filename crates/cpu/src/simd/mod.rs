//! The few vector operations that every kernel is written in.
//!
//! A vector has 16 lanes of 32 bits on every machine: one register with AVX-512, two with AVX2, four
//! with NEON, an array in scalar code. Because the number of lanes never varies, neither does the order in which
//! a kernel adds: the same kernel gives the same bits on every instruction set, and the scalar
//! instance is the specification of the others. The exceptions are [`Simd::dot_brain`] and
//! [`Simd::store_brain_normal`], see there, and tile registers ([`tiles`]), which are no vectors.
//!
//! Methods are `inline(always)` and compile to few instructions inside [`Isa::run`](crate::Isa).
//! Kernels must not hand vectors to closures or to functions that are not `inline(always)`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, prefetch};
pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

/// Asks for the cache line at `at`, which may lie anywhere, for the second cache; outside of kernels.
pub(crate) fn prefetch_second(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is a hint, which changes nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    neon::prefetch_second(at);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// The bits of a lane that [`Simd::keep_halves`] keeps.
#[inline(always)]
const fn half_mask(low: bool, high: bool) -> i32 {
    (u16::MAX as u32 * (low as u32 | (high as u32) << 16)) as i32
}

/// The bf16 of a pair as f32, exact: the lower half first.
#[inline(always)]
pub(crate) fn pair_floats(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// A token for an instruction set, and its operations.
///
/// # Safety
///
/// Pointers need no alignment. Every `unsafe` method wants its pointer valid for what its name
/// says: 16 elements of the type named (`count` in a partial one), or 64 bytes.
pub(crate) trait Simd: Copy {
    /// 16 f32.
    type F32: Copy;
    /// 16 i32.
    type I32: Copy;
    /// 64 bytes: 4 in each of 16 lanes.
    type Bytes: Copy;
    /// What [`Simd::dot`] adds to: 16 i32, unless an instruction set multiplies 8 bits into sums of 16.
    type Dots: Copy;
    /// 16 i8, 4 for each of 4 steps: what the lanes of [`Simd::dot`] have in common. Instruction
    /// sets that multiply by what lies in memory keep its address.
    type Quants: Copy;

    /// Most columns of a matmul tile that is 32 rows high.
    const TALL_COLUMNS: usize;
    /// Most columns of a matmul tile that is 16 rows high (0 where tall tiles serve all widths).
    const LOW_COLUMNS: usize;
    /// The same of tiles that have no integers beside their sums.
    const TALL_FLOAT_COLUMNS: usize = Self::TALL_COLUMNS;
    /// As above, 16 rows high.
    const LOW_FLOAT_COLUMNS: usize = Self::LOW_COLUMNS;
    /// Most lanes of an attention tile.
    const ATTENTION_LANES: usize;
    /// Most vectors of an attention tile: 1, 2 or 4.
    const ATTENTION_VECTORS: usize;
    /// Most sums, lanes times vectors, of an attention tile.
    const ATTENTION_SUMS: usize;
    /// How many bytes before its use a panel that is read only once is asked for: as far as the machines were fastest
    /// with (`matmul_speed` shows a single row beside a plain read).
    const READ_AHEAD: usize = 8 << 10;
    /// Steps that dots of codes of so many bits, up to 6, hold before they must be made [`Simd::whole`]: a power of two.
    const DOT_STEPS: [usize; 9] = [8; 9];
    /// Whether a tile takes the two codes of 4 bits that share a byte one after the other, so that it keeps no bytes
    /// for later; otherwise it takes steps that share activations ([`Simd::load_quants`]) together.
    const SPLITS_BYTES_AT_ONCE: bool = false;
    /// Whether [`Simd::dot_wide`] reads its bytes as unsigned, so that the sum starts at
    /// `-128 * sum(x)`, or takes 128 off each byte itself.
    const WIDE_IS_UNSIGNED: bool;
    /// Whether bf16 is multiplied as f32, so that values which were rounded to it are kept as f32. Scalar code, which
    /// specifies both, keeps pairs.
    const KEEPS_BRAIN_FLOATS: bool = false;

    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::F32;
    /// All lanes the f16 of these bits.
    #[inline(always)]
    fn splat_half(self, bits: u16) -> Self::F32 {
        self.splat(half::f16::from_bits(bits).to_f32())
    }
    /// 16 f32 from memory.
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// 16 f32 to memory.
    unsafe fn store(self, to: *mut f32, value: Self::F32);
    /// `count <= 16` f32 from memory, `fill` in the lanes above.
    unsafe fn load_partial(self, from: *const f32, count: usize, fill: f32) -> Self::F32;
    /// The lowest `count <= 16` lanes to memory.
    unsafe fn store_partial(self, to: *mut f32, count: usize, value: Self::F32);
    /// 16 f16 from memory, exact.
    unsafe fn load_half(self, from: *const u16) -> Self::F32;
    /// 16 bf16 from memory, exact.
    unsafe fn load_brain(self, from: *const u16) -> Self::F32;
    /// 16 bf16 to memory, rounded to nearest even (NaN stays NaN).
    unsafe fn store_brain(self, to: *mut u16, value: Self::F32);
    /// As [`Simd::store_brain`] for zeros and normal numbers.
    unsafe fn store_brain_normal(self, to: *mut u16, value: Self::F32);
    /// 16 i32 from memory.
    #[cfg(target_arch = "x86_64")] // only what comes of tile registers is loaded so
    unsafe fn load_i32(self, from: *const i32) -> Self::I32;
    /// 16 i8 from memory.
    unsafe fn load_i8(self, from: *const i8) -> Self::I32;
    /// Lanes within -128..=127 to 16 i8 in memory.
    unsafe fn store_i8(self, to: *mut i8, value: Self::I32);

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a + b` of lanes that are not denormal; where the sum is, a zero of its sign.
    #[cfg(target_arch = "x86_64")] // as tile registers add
    #[inline(always)]
    fn add_flushed(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        let mut lanes = [0f32; LANES];
        // SAFETY: an array of 16, here and below.
        unsafe { self.store(lanes.as_mut_ptr(), self.add(a, b)) };
        for lane in lanes.iter_mut().filter(|lane| lane.is_subnormal()) {
            *lane *= 0.0;
        }
        // SAFETY: as above.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger: `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller: `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Without the sign.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The sum of all lanes: lane i + lane i + 8, then i + 4, i + 2, i + 1.
    fn sum(self, a: Self::F32) -> f32;
    /// The largest lane, by the same tree as [`Simd::sum`].
    fn largest(self, a: Self::F32) -> f32;

    /// The largest magnitude in two vectors; where a lane is not finite, infinity or a NaN, whichever is easier.
    #[inline(always)]
    fn largest_magnitude(self, a: Self::F32, b: Self::F32) -> f32 {
        // Infinity and NaN times zero are NaN, and stay it in the sum.
        let zero = self.splat(0.0);
        let finite = self.sum(self.mul_add(a, zero, self.mul(b, zero))) == 0.0;
        if finite { self.largest(self.max(self.abs(a), self.abs(b))) } else { f32::NAN }
    }

    /// All lanes `value`.
    fn splat_i32(self, value: i32) -> Self::I32;
    /// The sums of the lanes of each. Sums of any of the lanes must be within 2^24, where f32 is exact.
    #[inline(always)]
    fn sums(self, a: Self::I32, b: Self::I32) -> [i32; 2] {
        [self.sum(self.to_f32(a)) as i32, self.sum(self.to_f32(b)) as i32]
    }
    /// Converted, rounded to nearest even.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// Rounded to nearest even; lanes must be within the range of i32.
    fn round_to_i32(self, a: Self::F32) -> Self::I32;
    /// To the nearest integer, ties to even, of magnitudes below 2^31; a zero has either sign.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `a * 2^power`, where the power is an integer from -126 to 127, and `a` and the result are normal numbers.
    #[inline(always)]
    fn times_power_of_two(self, a: Self::F32, power: Self::F32) -> Self::F32 {
        self.mul(a, self.power_of_two(self.round_to_i32(power)))
    }
    /// 2^a for `-126 <= a <= 127`, 0 for -127: the exponent field of a float, set.
    fn power_of_two(self, a: Self::I32) -> Self::F32;

    /// 64 bytes from memory.
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes;
    /// 64 bytes to memory.
    unsafe fn store_bytes(self, to: *mut u8, value: Self::Bytes);
    /// `value` taken off each byte, wrapping.
    fn sub_bytes(self, a: Self::Bytes, value: u8) -> Self::Bytes;
    /// Each byte shifted right by `shift`, then what `mask` keeps of it; both are constants.
    /// `mask` keeps none of the bits that come from another byte.
    fn field(self, a: Self::Bytes, shift: u32, mask: u8) -> Self::Bytes;
    /// `a | b << shift`, where the shift moves no bit out of its byte.
    fn or_shifted(self, a: Self::Bytes, b: Self::Bytes, shift: u32) -> Self::Bytes;
    /// `value` added to the bytes whose bit of `mask` is set.
    fn add_where(self, a: Self::Bytes, mask: u64, value: u8) -> Self::Bytes;
    /// `table[byte]` for bytes below 16.
    fn lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes;

    /// Rounded to bf16, as [`Simd::store_brain`] rounds.
    #[inline(always)]
    fn round_to_brain(self, a: Self::F32) -> Self::F32 {
        let mut rounded = [0u16; LANES];
        // SAFETY: an array of 16.
        unsafe {
            self.store_brain(rounded.as_mut_ptr(), a);
            self.load_brain(rounded.as_ptr())
        }
    }
    /// The lower and the upper bf16 of each lane as f32, exact.
    fn brain_floats(self, a: Self::Bytes) -> [Self::F32; 2];
    /// The lower and the upper half of each lane, where wanted, zeros elsewhere.
    fn keep_halves(self, a: Self::Bytes, low: bool, high: bool) -> Self::Bytes;

    /// The i8 of the 4 steps from `first` (0 or 4) on, of a block of 32 in memory, which must outlive
    /// what is returned.
    unsafe fn load_quants(self, block: *const i8, first: usize) -> Self::Quants;
    /// Dots that start at `start`, and the products of a first step, as [`Simd::dot`] adds them.
    unsafe fn first_dot(
        self,
        start: Self::I32,
        codes: Self::Bytes,
        x: Self::Quants,
        step: usize,
    ) -> Self::Dots;
    /// Lane by lane `dots + codes[0] * x[0] + ... + codes[3] * x[3]`, exact, for codes of at most
    /// 6 bits and no more steps than [`Simd::DOT_STEPS`], the first included; `x` are the 4 of `step`, a constant, one of
    /// those that were loaded. What is in between is the instruction set's own affair.
    unsafe fn dot(self, dots: Self::Dots, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::Dots;
    /// What dots that started at `start`, the same as then, have come to.
    fn whole(self, dots: Self::Dots, start: Self::I32) -> Self::I32;
    /// As [`Simd::dot`] for codes of 8 bits that stand for their value + 128; see
    /// [`Simd::WIDE_IS_UNSIGNED`]. `x` must not hold -128.
    unsafe fn dot_wide(self, sum: Self::I32, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::I32;
    /// Lane by lane `sum + w[1] * x[1] + w[0] * x[0]` of bf16 pairs, the upper half of a lane
    /// first, two roundings. `vdpbf16ps` flushes denormal inputs and results to zero, the other
    /// instruction sets keep them; everything else is the same bit by bit.
    fn dot_brain(self, sum: Self::F32, w: Self::Bytes, x: u32) -> Self::F32;
    /// 16 f32, rounded to bf16, to memory as pairs `8 vector ..`, for [`Simd::dot_stored`]; `NORMAL` says that they are
    /// zeros and normal numbers. A pair takes no more than two floats' room, which may be where the 16 were: there must be
    /// room for `16 (vector + 1)` floats.
    #[inline(always)]
    unsafe fn store_pairs<const NORMAL: bool>(self, to: *mut f32, vector: usize, value: Self::F32) {
        // SAFETY: the caller's promise: 8 pairs of 4 or of 8 bytes.
        unsafe {
            if Self::KEEPS_BRAIN_FLOATS {
                return self.store(to.add(vector * LANES), self.round_to_brain(value));
            }
            let to = to.cast::<u16>().add(vector * LANES);
            if NORMAL { self.store_brain_normal(to, value) } else { self.store_brain(to, value) }
        }
    }
    /// As [`Simd::dot_brain`] with pair `index` of those that [`Simd::store_pairs`] wrote.
    #[inline(always)]
    unsafe fn dot_stored(self, sum: Self::F32, w: Self::Bytes, from: *const f32, index: usize) -> Self::F32 {
        if Self::KEEPS_BRAIN_FLOATS {
            let [low, high] = self.brain_floats(w);
            // SAFETY: the caller's promise.
            let [x_low, x_high] = unsafe { [*from.add(2 * index), *from.add(2 * index + 1)] };
            return self.mul_add(low, self.splat(x_low), self.mul_add(high, self.splat(x_high), sum));
        }
        // SAFETY: the caller's promise.
        self.dot_brain(sum, w, unsafe { from.cast::<u32>().add(index).read_unaligned() })
    }

    /// Asks for the cache line at `at`, which may lie anywhere.
    fn prefetch(self, at: *const u8);

    /// The same, but for the second cache: for a stream that is used later than what fits into the first beside what is
    /// in use, and of which more lines may be under way at once.
    #[inline(always)]
    fn prefetch_second(self, at: *const u8) {
        self.prefetch(at);
    }
}
