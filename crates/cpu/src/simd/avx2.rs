//! [`Simd`] in AVX2, FMA and F16C: a vector is two registers.

use super::{LANES, Simd, half_mask, pair_floats};
use std::arch::asm;
use std::arch::x86_64::*;

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have the features named above.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Calls intrinsics in a method.
macro_rules! with_features {
    ($($body:tt)*) => {{
        // SAFETY: the token proves that the machine has the features; memory is the caller's promise.
        unsafe { $($body)* }
    }};
}

/// Calls intrinsics once for each of the two registers, `$half` being 0 and 1.
macro_rules! halves {
    (|$half:ident| $($body:tt)*) => {
        // SAFETY: the token proves that the machine has the features; memory is the caller's promise.
        unsafe {
            [
                { let $half = 0usize; $($body)* },
                { let $half = 1usize; $($body)* },
            ]
        }
    };
}

/// All ones in the lowest `count` lanes.
#[inline(always)]
fn lowest(count: usize) -> [__m256i; 2] {
    halves!(|h| {
        let lanes =
            _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * h as i32));
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    })
}

/// 8 f32, rounded to bf16, which the upper halves of the result are; the lower ones are zeros.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn round_brain(value: __m256) -> __m256i {
    with_features!({
        let bits = _mm256_castps_si256(value);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let even = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        let rounded = _mm256_blendv_epi8(even, quiet, _mm256_castps_si256(nan));
        _mm256_and_si256(rounded, _mm256_set1_epi32(half_mask(false, true)))
    })
}

/// The upper halves of 8 lanes as 8 u16.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn high_halves(bits: __m256i) -> __m128i {
    with_features!({
        let high = _mm256_srli_epi32::<16>(bits);
        let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(high, high));
        _mm256_castsi256_si128(packed)
    })
}

/// `sum + codes[0] * x[0] + codes[1] * x[1]` in each i16, as two instructions that stay together: the compiler would
/// add up trees of products, for which there are not registers enough. Assembly wants the instruction set declared, which
/// `inline(always)` rules out; the compiler inlines two instructions all the same.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(mut sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    // SAFETY: only registers are touched, all of which are declared.
    unsafe {
        asm!(
            "vpmaddubsw {products}, {codes}, {x}",
            "vpaddw {sum}, {sum}, {products}",
            sum = inout(ymm_reg) sum,
            products = lateout(ymm_reg) _,
            codes = in(ymm_reg) codes,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `sum + w[0] * x[0] + ... + w[3] * x[3]` in each i32, given what `w` is without its sign; as above.
#[inline]
#[target_feature(enable = "avx2")]
fn add_wide_products(mut sum: __m256i, w: __m256i, magnitude: __m256i, x: __m256i) -> __m256i {
    // SAFETY: only registers are touched, all of which are declared.
    unsafe {
        asm!(
            // |w| * (x with the sign of w): 2 * 128 * 127 stays within i16.
            "vpsignb {products}, {x}, {w}",
            "vpmaddubsw {products}, {magnitude}, {products}",
            "vpmaddwd {products}, {products}, {ones}",
            "vpaddd {sum}, {sum}, {products}",
            sum = inout(ymm_reg) sum,
            products = out(ymm_reg) _,
            w = in(ymm_reg) w,
            magnitude = in(ymm_reg) magnitude,
            x = in(ymm_reg) x,
            ones = in(ymm_reg) _mm256_set1_epi16(1),
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `sum + high * x[1] + low * x[0]` in each lane, two roundings, as instructions that stay together: the compiler would
/// keep a tile's weights in registers, of which few are wanted at a time, and not its sums.
///
/// # Safety
/// `x` points to two floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_pair(mut sum: [__m256; 2], [low, high]: [[__m256; 2]; 2], x: *const f32) -> [__m256; 2] {
    // SAFETY: the caller's promise; all registers are declared.
    unsafe {
        asm!(
            "vbroadcastss {factor}, dword ptr [{x} + 4]",
            "vfmadd231ps {sum0}, {high0}, {factor}",
            "vfmadd231ps {sum1}, {high1}, {factor}",
            "vbroadcastss {factor}, dword ptr [{x}]",
            "vfmadd231ps {sum0}, {low0}, {factor}",
            "vfmadd231ps {sum1}, {low1}, {factor}",
            sum0 = inout(ymm_reg) sum[0],
            sum1 = inout(ymm_reg) sum[1],
            factor = out(ymm_reg) _,
            low0 = in(ymm_reg) low[0],
            low1 = in(ymm_reg) low[1],
            high0 = in(ymm_reg) high[0],
            high1 = in(ymm_reg) high[1],
            x = in(reg) x,
            options(pure, readonly, nostack),
        );
    }
    sum
}

impl Simd for Avx2 {
    type F32 = [__m256; 2];
    type I32 = [__m256i; 2];
    type Bytes = [__m256i; 2];
    /// 32 i16: 2 pairs of products in each lane.
    type Dots = [__m256i; 2];
    type Quants = *const i32;

    // 16 registers: one tall column for decode, low tiles of 3 columns for batches.
    const TALL_COLUMNS: usize = 1;
    const LOW_COLUMNS: usize = 3;
    const LOW_FLOAT_COLUMNS: usize = 4;
    // 4 x 1 or 2 x 2 sums of two registers each.
    const ATTENTION_LANES: usize = 4;
    const ATTENTION_VECTORS: usize = 2;
    const ATTENTION_SUMS: usize = 4;
    // A step adds two products to an i16: 2 * 15 * 127 fits eight times, 2 * 63 * 127 twice.
    const DOT_STEPS: [usize; 9] = [8, 8, 8, 8, 8, 4, 2, 1, 1]; // the last two are never used
    const WIDE_IS_UNSIGNED: bool = false;
    const KEEPS_BRAIN_FLOATS: bool = true;
    const READ_AHEAD: usize = 2 << 10;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        halves!(|_h| _mm256_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F32 {
        halves!(|h| _mm256_loadu_ps(from.add(8 * h)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F32) {
        with_features!({
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        })
    }
    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize, fill: f32) -> Self::F32 {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.load(from) };
        }
        let mask = lowest(count);
        halves!(|h| {
            let read = _mm256_maskload_ps(from.wrapping_add(8 * h), mask[h]);
            _mm256_blendv_ps(_mm256_set1_ps(fill), read, _mm256_castsi256_ps(mask[h]))
        })
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize, value: Self::F32) {
        // Stores with a mask are slow on some machines.
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.store(to, value) };
        }
        let mask = lowest(count);
        with_features!({
            _mm256_maskstore_ps(to, mask[0], value[0]);
            _mm256_maskstore_ps(to.wrapping_add(8), mask[1], value[1]);
        })
    }
    #[inline(always)]
    unsafe fn load_half(self, from: *const u16) -> Self::F32 {
        halves!(|h| _mm256_cvtph_ps(_mm_loadu_si128(from.add(8 * h).cast())))
    }
    #[inline(always)]
    unsafe fn load_brain(self, from: *const u16) -> Self::F32 {
        halves!(|h| {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8 * h).cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        })
    }
    #[inline(always)]
    unsafe fn store_brain(self, to: *mut u16, value: Self::F32) {
        let rounded: [__m128i; 2] = halves!(|h| high_halves(round_brain(value[h])));
        with_features!({
            _mm_storeu_si128(to.cast(), rounded[0]);
            _mm_storeu_si128(to.add(8).cast(), rounded[1]);
        })
    }
    #[inline(always)]
    unsafe fn store_brain_normal(self, to: *mut u16, value: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { self.store_brain(to, value) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> Self::I32 {
        halves!(|h| _mm256_loadu_si256(from.add(8 * h).cast()))
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::I32 {
        halves!(|h| _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8 * h).cast())))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I32) {
        with_features!({
            let words = _mm256_packs_epi32(value[0], value[1]);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes)
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_add_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_sub_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_mul_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_div_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_fmadd_ps(a[h], b[h], c[h]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_max_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_min_ps(a[h], b[h]))
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a[h]))
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        with_features!({
            let a = _mm256_add_ps(a[0], a[1]);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        })
    }
    #[inline(always)]
    fn largest(self, a: Self::F32) -> f32 {
        with_features!({
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        })
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        halves!(|_h| _mm256_set1_epi32(value))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        halves!(|h| _mm256_cvtepi32_ps(a[h]))
    }
    #[inline(always)]
    fn round_to_i32(self, a: Self::F32) -> Self::I32 {
        halves!(|h| _mm256_cvtps_epi32(a[h]))
    }
    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[h]))
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::I32) -> Self::F32 {
        halves!(|h| {
            let biased = _mm256_add_epi32(a[h], _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes {
        halves!(|h| _mm256_loadu_si256(from.add(32 * h).cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::Bytes) {
        with_features!({
            _mm256_storeu_si256(to.cast(), value[0]);
            _mm256_storeu_si256(to.add(32).cast(), value[1]);
        })
    }
    #[inline(always)]
    fn sub_bytes(self, a: Self::Bytes, value: u8) -> Self::Bytes {
        halves!(|h| _mm256_sub_epi8(a[h], _mm256_set1_epi8(value as i8)))
    }
    #[inline(always)]
    fn field(self, a: Self::Bytes, shift: u32, mask: u8) -> Self::Bytes {
        halves!(|h| {
            let count = _mm_cvtsi32_si128(shift as i32);
            let shifted = if shift == 0 { a[h] } else { _mm256_srl_epi16(a[h], count) };
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn or_shifted(self, a: Self::Bytes, b: Self::Bytes, shift: u32) -> Self::Bytes {
        halves!(|h| {
            let count = _mm_cvtsi32_si128(shift as i32);
            _mm256_or_si256(a[h], _mm256_sll_epi16(b[h], count))
        })
    }
    #[inline(always)]
    fn add_where(self, a: Self::Bytes, mask: u64, value: u8) -> Self::Bytes {
        halves!(|h| {
            // Byte i / 8 of the mask to byte i, then test bit i % 8 of it.
            let bits = _mm256_set1_epi32((mask >> (32 * h)) as i32);
            let spread =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let chosen = _mm256_and_si256(_mm256_shuffle_epi8(bits, spread), bit);
            let chosen = _mm256_cmpeq_epi8(chosen, bit);
            _mm256_add_epi8(a[h], _mm256_and_si256(chosen, _mm256_set1_epi8(value as i8)))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        halves!(|h| {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, a[h])
        })
    }

    #[inline(always)]
    fn round_to_brain(self, a: Self::F32) -> Self::F32 {
        halves!(|h| _mm256_castsi256_ps(round_brain(a[h])))
    }
    #[inline(always)]
    fn brain_floats(self, a: Self::Bytes) -> [Self::F32; 2] {
        let mask = half_mask(false, true);
        [
            halves!(|h| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a[h]))),
            halves!(|h| _mm256_castsi256_ps(_mm256_and_si256(a[h], _mm256_set1_epi32(mask)))),
        ]
    }
    #[inline(always)]
    fn keep_halves(self, a: Self::Bytes, low: bool, high: bool) -> Self::Bytes {
        halves!(|h| _mm256_and_si256(a[h], _mm256_set1_epi32(half_mask(low, high))))
    }

    #[inline(always)]
    unsafe fn load_quants(self, block: *const i8, _: usize) -> Self::Quants {
        block.cast()
    }
    #[inline(always)]
    unsafe fn first_dot(self, _: Self::I32, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::Dots {
        // SAFETY: the caller's promise.
        let x = unsafe { x.add(step).read_unaligned() };
        halves!(|h| _mm256_maddubs_epi16(codes[h], _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    unsafe fn dot(self, dots: Self::Dots, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::Dots {
        // SAFETY: the caller's promise.
        let x = unsafe { x.add(step).read_unaligned() };
        halves!(|h| add_products(dots[h], codes[h], _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    fn whole(self, dots: Self::Dots, start: Self::I32) -> Self::I32 {
        halves!(|h| _mm256_add_epi32(start[h], _mm256_madd_epi16(dots[h], _mm256_set1_epi16(1))))
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: Self::I32, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::I32 {
        // SAFETY: the caller's promise.
        let x = unsafe { x.add(step).read_unaligned() };
        halves!(|h| {
            let w = _mm256_xor_si256(codes[h], _mm256_set1_epi8(-128));
            add_wide_products(sum[h], w, _mm256_abs_epi8(w), _mm256_set1_epi32(x))
        })
    }
    #[inline(always)]
    fn dot_brain(self, sum: Self::F32, w: Self::Bytes, x: u32) -> Self::F32 {
        // SAFETY: both floats can be read.
        unsafe { self.dot_stored(sum, w, pair_floats(x).as_ptr(), 0) }
    }
    #[inline(always)]
    unsafe fn dot_stored(self, sum: Self::F32, w: Self::Bytes, from: *const f32, index: usize) -> Self::F32 {
        let w = self.brain_floats(w);
        // SAFETY: the token proves that the machine has the features; memory is the caller's promise.
        unsafe { add_pair(sum, w, from.add(2 * index)) }
    }

    #[inline(always)]
    fn prefetch_second(self, at: *const u8) {
        with_features!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        with_features!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}
