//! [`Simd`] in AVX-512: a vector is one register, an operation mostly one instruction.

use super::{Simd, half_mask};
use std::arch::x86_64::*;

/// Proof that the machine has AVX-512 F, BW, VL, DQ, VNNI, BF16, VBMI and GFNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
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

/// The lowest `count` lanes.
#[inline(always)]
fn lowest(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// The matrix over bits by which `vgf2p8affineqb` computes `(byte >> shift) & mask`: row 7 - i of it, the
/// lowest byte first, selects what becomes bit i.
#[inline(always)]
const fn bit_matrix(shift: u32, mask: u8) -> i64 {
    let mut matrix = 0u64;
    let mut bit = 0;
    while bit + shift < 8 {
        if mask >> bit & 1 == 1 {
            matrix |= 1 << (bit + shift) << (8 * (7 - bit));
        }
        bit += 1;
    }
    matrix as i64
}

impl Simd for Avx512 {
    type F32 = __m512;
    type I32 = __m512i;
    type Bytes = __m512i;
    type Dots = Self::I32;
    type Quants = *const i32;

    // 2 x 6 integer and 2 x 6 float sums fill 24 of the 32 registers.
    const TALL_COLUMNS: usize = 6;
    // 2 x 12 sums: as many products under way as two units take in the time of one.
    const TALL_FLOAT_COLUMNS: usize = 12;
    const LOW_COLUMNS: usize = 0;
    // Six of the registers are for activations.
    const SPLITS_BYTES_AT_ONCE: bool = true;
    // 6 x 4 sums and 4 keys or values.
    const ATTENTION_LANES: usize = 6;
    const ATTENTION_VECTORS: usize = 4;
    const ATTENTION_SUMS: usize = 24;
    const WIDE_IS_UNSIGNED: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        with_features!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        with_features!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m512) {
        with_features!(_mm512_storeu_ps(to, value))
    }
    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize, fill: f32) -> __m512 {
        with_features!(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), lowest(count), from))
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize, value: __m512) {
        with_features!(_mm512_mask_storeu_ps(to, lowest(count), value))
    }
    #[inline(always)]
    unsafe fn load_half(self, from: *const u16) -> __m512 {
        with_features!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_brain(self, from: *const u16) -> __m512 {
        with_features!({
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }
    #[inline(always)]
    unsafe fn store_brain(self, to: *mut u16, value: __m512) {
        with_features!({
            // Not vcvtneps2bf16, which flushes denormals: add half of the last place, ties to even.
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
            let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen));
            _mm256_storeu_si256(to.cast(), high)
        })
    }
    #[inline(always)]
    unsafe fn store_brain_normal(self, to: *mut u16, value: __m512) {
        with_features!({
            // SAFETY: both types are 32 plain bytes.
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value));
            _mm256_storeu_si256(to.cast(), rounded)
        })
    }
    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512i {
        with_features!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512i {
        with_features!(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: __m512i) {
        with_features!(_mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(value)))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn add_flushed(self, a: __m512, b: __m512) -> __m512 {
        with_features!({
            let (sum, sign) = (_mm512_castps_si512(_mm512_add_ps(a, b)), _mm512_set1_epi32(i32::MIN));
            let smallest = _mm512_set1_epi32(f32::MIN_POSITIVE.to_bits() as i32);
            let small = _mm512_cmplt_epu32_mask(_mm512_andnot_si512(sign, sum), smallest);
            _mm512_castsi512_ps(_mm512_mask_and_epi32(sum, small, sum, sign))
        })
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with_features!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        with_features!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        with_features!({
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        })
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        with_features!({
            let a = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        })
    }

    #[inline(always)]
    fn largest_magnitude(self, a: __m512, b: __m512) -> f32 {
        // Without the sign, the bits of floats are ordered as integers, with infinity and NaN on top.
        with_features!({
            let magnitude = _mm512_set1_epi32(i32::MAX);
            let [a, b] = [_mm512_castps_si512(a), _mm512_castps_si512(b)];
            let a = _mm512_max_epu32(_mm512_and_si512(a, magnitude), _mm512_and_si512(b, magnitude));
            let a = _mm256_max_epu32(_mm512_castsi512_si256(a), _mm512_extracti32x8_epi32::<1>(a));
            let a = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epu32(a, _mm_shuffle_epi32::<0b00_00_11_10>(a));
            let a = _mm_max_epu32(a, _mm_shuffle_epi32::<0b00_00_00_01>(a));
            f32::from_bits(_mm_cvtsi128_si32(a) as u32)
        })
    }

    #[inline(always)]
    fn sums(self, a: __m512i, b: __m512i) -> [i32; 2] {
        // Both at once: those of `a` in the lower half of a register, those of `b` in the upper.
        with_features!({
            let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
            let sums = _mm512_add_epi32(low, _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b));
            let sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2::<0b10_11_00_01>(sums, sums));
            let sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32::<0b10_11_00_01>(sums));
            let second = _mm512_extracti32x4_epi32::<2>(sums);
            [_mm_cvtsi128_si32(_mm512_castsi512_si128(sums)), _mm_cvtsi128_si32(second)]
        })
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        with_features!(_mm512_set1_epi32(value))
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        with_features!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn round_to_i32(self, a: __m512) -> __m512i {
        with_features!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        with_features!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn times_power_of_two(self, a: __m512, power: __m512) -> __m512 {
        with_features!(_mm512_scalef_ps(a, power))
    }
    #[inline(always)]
    fn power_of_two(self, a: __m512i) -> __m512 {
        with_features!({
            let biased = _mm512_add_epi32(a, _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        with_features!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: __m512i) {
        with_features!(_mm512_storeu_si512(to.cast(), value))
    }
    #[inline(always)]
    fn sub_bytes(self, a: __m512i, value: u8) -> __m512i {
        with_features!(_mm512_sub_epi8(a, _mm512_set1_epi8(value as i8)))
    }
    #[inline(always)]
    fn field(self, a: __m512i, shift: u32, mask: u8) -> __m512i {
        with_features!(match shift {
            0 => _mm512_and_si512(a, _mm512_set1_epi8(mask as i8)),
            // One product of bits instead of a shift, which knows no bytes, and a mask.
            _ => _mm512_gf2p8affine_epi64_epi8::<0>(a, _mm512_set1_epi64(bit_matrix(shift, mask))),
        })
    }
    #[inline(always)]
    fn or_shifted(self, a: __m512i, b: __m512i, shift: u32) -> __m512i {
        with_features!({
            let count = _mm_cvtsi32_si128(shift as i32);
            _mm512_or_si512(a, _mm512_sll_epi16(b, count))
        })
    }
    #[inline(always)]
    fn add_where(self, a: __m512i, mask: u64, value: u8) -> __m512i {
        with_features!(_mm512_mask_add_epi8(a, mask, a, _mm512_set1_epi8(value as i8)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], a: __m512i) -> __m512i {
        with_features!({
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, a)
        })
    }

    #[inline(always)]
    fn brain_floats(self, a: __m512i) -> [__m512; 2] {
        with_features!({
            let high = _mm512_and_si512(a, _mm512_set1_epi32(half_mask(false, true)));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)), _mm512_castsi512_ps(high)]
        })
    }
    #[inline(always)]
    fn keep_halves(self, a: __m512i, low: bool, high: bool) -> __m512i {
        with_features!(_mm512_and_si512(a, _mm512_set1_epi32(half_mask(low, high))))
    }

    #[inline(always)]
    unsafe fn load_quants(self, block: *const i8, _: usize) -> Self::Quants {
        block.cast()
    }
    #[inline(always)]
    unsafe fn first_dot(
        self,
        start: Self::I32,
        codes: Self::Bytes,
        x: Self::Quants,
        step: usize,
    ) -> Self::I32 {
        // SAFETY: the caller's promise.
        unsafe { self.dot(start, codes, x, step) }
    }
    #[inline(always)]
    fn whole(self, dots: Self::I32, _: Self::I32) -> Self::I32 {
        dots
    }
    #[inline(always)]
    unsafe fn dot(self, sum: __m512i, codes: __m512i, x: Self::Quants, step: usize) -> __m512i {
        with_features!({
            let x = x.add(step).read_unaligned();
            _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x))
        })
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: __m512i, codes: __m512i, x: Self::Quants, step: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { self.dot(sum, codes, x, step) }
    }
    #[inline(always)]
    fn dot_brain(self, sum: __m512, w: __m512i, x: u32) -> __m512 {
        with_features!({
            let x = _mm512_set1_epi32(x as i32);
            // SAFETY: both types are 64 plain bytes.
            let (w, x) =
                (std::mem::transmute::<__m512i, __m512bh>(w), std::mem::transmute::<__m512i, __m512bh>(x));
            _mm512_dpbf16_ps(sum, w, x)
        })
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        with_features!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    fn prefetch_second(self, at: *const u8) {
        with_features!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
}
