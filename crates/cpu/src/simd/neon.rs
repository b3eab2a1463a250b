//! [`Simd`] in Advanced SIMD (NEON) with dot products: a vector is four registers.
//!
//! What Rust has no stable names for is written in assembly, one instruction at a time, so that the
//! compiler still chooses registers and order.

use super::{LANES, Simd, half_mask, pair_floats};
use std::arch::{aarch64::*, asm};

/// Proof that the machine has the dot products of 8-bit integers (FEAT_DotProd) and, where `BRAIN`,
/// bfloat16 (FEAT_BF16), too. Everything else here is in every 64-bit Arm processor.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const BRAIN: bool>(());

impl<const BRAIN: bool> Neon<BRAIN> {
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

/// Calls intrinsics once for each of the four registers, `$quarter` being 0 to 3.
macro_rules! quarters {
    (|$quarter:ident| $($body:tt)*) => {
        // SAFETY: the token proves that the machine has the features; memory is the caller's promise.
        unsafe {
            [
                { let $quarter = 0usize; $($body)* },
                { let $quarter = 1usize; $($body)* },
                { let $quarter = 2usize; $($body)* },
                { let $quarter = 3usize; $($body)* },
            ]
        }
    };
}

/// An instruction that turns one register into another.
macro_rules! convert {
    ($instruction:literal, $from:expr) => {{
        let to;
        asm!(
            $instruction,
            to = lateout(vreg) to,
            from = in(vreg) $from,
            options(pure, nomem, nostack, preserves_flags),
        );
        to
    }};
}

/// An instruction that adds the product of two registers to a third.
macro_rules! accumulate {
    ($instruction:literal, $sum:expr, $a:expr, $b:expr) => {{
        let mut sum = $sum;
        asm!(
            $instruction,
            sum = inout(vreg) sum,
            a = in(vreg) $a,
            b = in(vreg) $b,
            options(pure, nomem, nostack, preserves_flags),
        );
        sum
    }};
}

/// Each byte shifted right; `shift` is a constant, and only one of these is compiled.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn shift_right(bytes: uint8x16_t, shift: u32) -> uint8x16_t {
    with_features!(match shift {
        0 => bytes,
        1 => vshrq_n_u8::<1>(bytes),
        2 => vshrq_n_u8::<2>(bytes),
        3 => vshrq_n_u8::<3>(bytes),
        4 => vshrq_n_u8::<4>(bytes),
        5 => vshrq_n_u8::<5>(bytes),
        6 => vshrq_n_u8::<6>(bytes),
        7 => vshrq_n_u8::<7>(bytes),
        _ => unreachable!("a byte has 8 bits"),
    })
}

/// `a` where it is the larger, else `b`: neither FMAX nor FMAXNM, which know what a NaN is and which
/// of two zeros is the larger.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    with_features!(vbslq_f32(vcgtq_f32(a, b), a, b))
}

impl<const BRAIN: bool> Simd for Neon<BRAIN> {
    type F32 = [float32x4_t; 4];
    type I32 = [int32x4_t; 4];
    type Bytes = [uint8x16_t; 4];
    type Dots = Self::I32;
    type Quants = int8x16_t;

    // A column of 16 rows is 4 integer and 4 float sums. Decode has 1 column of 32 rows, all in
    // registers. Batches take 4 columns of 16 rows: while integers are summed up, 16 sums, 4 codes,
    // 4 activations and a mask are in registers, and some of the 16 float sums wait in memory, once
    // in 128 dot products. More columns would save little more of the unpacking of codes; fewer, or
    // tall tiles of the same area, would unpack more often.
    const TALL_COLUMNS: usize = 1;
    const LOW_COLUMNS: usize = 4;
    // 4 lanes (a usual group of query heads) of one vector: 16 sums, a vector of bf16 unpacked to 8
    // registers, and what it is multiplied by. One or two lanes take two vectors, so that additions
    // to one register need not wait for one another; four would no longer fit when unpacked.
    const ATTENTION_LANES: usize = 4;
    const ATTENTION_VECTORS: usize = 2;
    const ATTENTION_SUMS: usize = 4;
    const WIDE_IS_UNSIGNED: bool = false;
    const KEEPS_BRAIN_FLOATS: bool = !BRAIN;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        quarters!(|_q| vdupq_n_f32(value))
    }
    #[inline(always)]
    fn splat_half(self, bits: u16) -> Self::F32 {
        let value = with_features!(convert!("fcvtl {to:v}.4s, {from:v}.4h", vdup_n_u16(bits)));
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F32 {
        quarters!(|q| vld1q_f32(from.add(4 * q)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F32) {
        quarters!(|q| vst1q_f32(to.add(4 * q), value[q]));
    }
    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize, fill: f32) -> Self::F32 {
        // There are no masks; mostly all is wanted.
        with_features!({
            if count == LANES {
                return self.load(from);
            }
            let mut lanes = [fill; LANES];
            for (lane, value) in lanes.iter_mut().enumerate().take(count) {
                *value = from.add(lane).read_unaligned();
            }
            self.load(lanes.as_ptr())
        })
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize, value: Self::F32) {
        with_features!({
            if count == LANES {
                return self.store(to, value);
            }
            let mut lanes = [0.0; LANES];
            self.store(lanes.as_mut_ptr(), value);
            for (lane, value) in lanes.into_iter().enumerate().take(count) {
                to.add(lane).write_unaligned(value);
            }
        })
    }
    #[inline(always)]
    unsafe fn load_half(self, from: *const u16) -> Self::F32 {
        with_features!({
            let (first, second) = (vld1q_u16(from), vld1q_u16(from.add(8)));
            [
                convert!("fcvtl {to:v}.4s, {from:v}.4h", first),
                convert!("fcvtl2 {to:v}.4s, {from:v}.8h", first),
                convert!("fcvtl {to:v}.4s, {from:v}.4h", second),
                convert!("fcvtl2 {to:v}.4s, {from:v}.8h", second),
            ]
        })
    }
    #[inline(always)]
    unsafe fn load_brain(self, from: *const u16) -> Self::F32 {
        with_features!({
            let (first, second) = (vld1q_u16(from), vld1q_u16(from.add(8)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(first))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(first)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(second))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(second)),
            ]
        })
    }
    #[inline(always)]
    unsafe fn store_brain(self, to: *mut u16, value: Self::F32) {
        if BRAIN {
            return with_features!({
                for half in 0..2 {
                    let rounded: uint16x8_t;
                    asm!(
                        "bfcvtn {to:v}.4h, {low:v}.4s",
                        "bfcvtn2 {to:v}.8h, {high:v}.4s",
                        to = out(vreg) rounded,
                        low = in(vreg) value[2 * half],
                        high = in(vreg) value[2 * half + 1],
                        options(pure, nomem, nostack),
                    );
                    vst1q_u16(to.add(8 * half), rounded);
                }
            });
        }
        // Half of the last place is added, ties to even; NaN is made quiet instead.
        let rounded: [uint16x8_t; 4] = quarters!(|q| {
            let bits = vreinterpretq_u32_f32(value[q]);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let even = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            let number = vceqq_f32(value[q], value[q]);
            vreinterpretq_u16_u32(vbslq_u32(number, even, quiet))
        });
        // The upper halves are the odd ones of 16 bits.
        with_features!({
            vst1q_u16(to, vuzp2q_u16(rounded[0], rounded[1]));
            vst1q_u16(to.add(8), vuzp2q_u16(rounded[2], rounded[3]));
        })
    }
    #[inline(always)]
    unsafe fn store_brain_normal(self, to: *mut u16, value: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { self.store_brain(to, value) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::I32 {
        with_features!({
            let bytes = vld1q_s8(from);
            let (first, second) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vmovl_s16(vget_low_s16(first)),
                vmovl_high_s16(first),
                vmovl_s16(vget_low_s16(second)),
                vmovl_high_s16(second),
            ]
        })
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I32) {
        with_features!({
            // The even ones of 16 bits are the lower halves, and so are those of 8 bits of these.
            let [a, b, c, d] = value.map(|lanes| vreinterpretq_s16_s32(lanes));
            let (first, second) = (vuzp1q_s16(a, b), vuzp1q_s16(c, d));
            vst1q_s8(to, vuzp1q_s8(vreinterpretq_s8_s16(first), vreinterpretq_s8_s16(second)));
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| vaddq_f32(a[q], b[q]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| vsubq_f32(a[q], b[q]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| vmulq_f32(a[q], b[q]))
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| vdivq_f32(a[q], b[q]))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        quarters!(|q| vfmaq_f32(c[q], a[q], b[q]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| larger(a[q], b[q]))
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|q| vbslq_f32(vcltq_f32(a[q], b[q]), a[q], b[q]))
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        quarters!(|q| vabsq_f32(a[q]))
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        with_features!({
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            vpadds_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)))
        })
    }
    #[inline(always)]
    fn largest(self, a: Self::F32) -> f32 {
        with_features!({
            let a = larger(larger(a[0], a[2]), larger(a[1], a[3]));
            let a = larger(a, vextq_f32::<2>(a, a));
            vgetq_lane_f32::<0>(larger(a, vextq_f32::<1>(a, a)))
        })
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        quarters!(|_q| vdupq_n_s32(value))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        quarters!(|q| vcvtq_f32_s32(a[q]))
    }
    #[inline(always)]
    fn round_to_i32(self, a: Self::F32) -> Self::I32 {
        quarters!(|q| vcvtnq_s32_f32(a[q]))
    }
    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        quarters!(|q| vrndnq_f32(a[q]))
    }
    #[inline(always)]
    fn power_of_two(self, a: Self::I32) -> Self::F32 {
        quarters!(|q| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(a[q], vdupq_n_s32(127)))))
    }

    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written there")]
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes {
        // The compiler is not told that it knows this address: it would keep the codes of four steps for
        // the four that take other bits of them, in registers that it does not have, and store them
        // away for it. They are in the nearest cache as they are.
        let mut from = from;
        // SAFETY: nothing happens.
        unsafe { asm!("/* {0} */", inout(reg) from, options(nomem, nostack, preserves_flags)) };
        quarters!(|q| vld1q_u8(from.add(16 * q)))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::Bytes) {
        quarters!(|q| vst1q_u8(to.add(16 * q), value[q]));
    }
    #[inline(always)]
    fn sub_bytes(self, a: Self::Bytes, value: u8) -> Self::Bytes {
        quarters!(|q| vsubq_u8(a[q], vdupq_n_u8(value)))
    }
    #[inline(always)]
    fn field(self, a: Self::Bytes, shift: u32, mask: u8) -> Self::Bytes {
        quarters!(|q| vandq_u8(shift_right(a[q], shift), vdupq_n_u8(mask)))
    }
    #[inline(always)]
    fn or_shifted(self, a: Self::Bytes, b: Self::Bytes, shift: u32) -> Self::Bytes {
        quarters!(|q| vorrq_u8(a[q], vshlq_u8(b[q], vdupq_n_s8(shift as i8))))
    }
    #[inline(always)]
    fn add_where(self, a: Self::Bytes, mask: u64, value: u8) -> Self::Bytes {
        // Byte i / 8 of the mask to byte i, by doubling three times; then test bit i % 8 of it.
        let bytes = with_features!({
            let mask = vcombine_u8(vcreate_u8(mask), vcreate_u8(mask));
            let twice = vreinterpretq_u16_u8(vzip1q_u8(mask, mask));
            let low = vreinterpretq_u32_u16(vzip1q_u16(twice, twice));
            let high = vreinterpretq_u32_u16(vzip2q_u16(twice, twice));
            [vzip1q_u32(low, low), vzip2q_u32(low, low), vzip1q_u32(high, high), vzip2q_u32(high, high)]
        });
        quarters!(|q| {
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let chosen = vtstq_u8(vreinterpretq_u8_u32(bytes[q]), bit);
            vaddq_u8(a[q], vandq_u8(chosen, vdupq_n_u8(value)))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        quarters!(|q| vqtbl1q_u8(vld1q_u8(table.as_ptr()), a[q]))
    }

    #[inline(always)]
    fn brain_floats(self, a: Self::Bytes) -> [Self::F32; 2] {
        let high = half_mask(false, true) as u32;
        [
            quarters!(|q| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(a[q])))),
            quarters!(|q| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(a[q]), vdupq_n_u32(high)))),
        ]
    }
    #[inline(always)]
    fn keep_halves(self, a: Self::Bytes, low: bool, high: bool) -> Self::Bytes {
        let mask = half_mask(low, high) as u32;
        quarters!(|q| vandq_u8(a[q], vreinterpretq_u8_u32(vdupq_n_u32(mask))))
    }

    #[inline(always)]
    unsafe fn load_quants(self, block: *const i8, first: usize) -> int8x16_t {
        with_features!(vld1q_s8(block.add(4 * first)))
    }
    #[inline(always)]
    unsafe fn first_dot(self, start: Self::I32, codes: Self::Bytes, x: int8x16_t, step: usize) -> Self::I32 {
        // SAFETY: the caller's promise.
        unsafe { self.dot(start, codes, x, step) }
    }
    #[inline(always)]
    fn whole(self, dots: Self::I32, _: Self::I32) -> Self::I32 {
        dots
    }
    #[inline(always)]
    unsafe fn dot(self, sum: Self::I32, codes: Self::Bytes, x: int8x16_t, step: usize) -> Self::I32 {
        // Codes of at most 6 bits are the same with a sign. All rows take the same four activations,
        // which the instruction picks from a register itself.
        macro_rules! dots {
            ($instruction:literal) => {
                quarters!(|q| accumulate!($instruction, sum[q], codes[q], x))
            };
        }
        match step % 4 {
            0 => dots!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[0]"),
            1 => dots!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[1]"),
            2 => dots!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[2]"),
            3 => dots!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[3]"),
            _ => unreachable!("a register has the activations of four steps"),
        }
    }
    #[inline(always)]
    unsafe fn dot_wide(self, sum: Self::I32, codes: Self::Bytes, x: int8x16_t, step: usize) -> Self::I32 {
        let signed = quarters!(|q| veorq_u8(codes[q], vdupq_n_u8(0x80)));
        // SAFETY: the caller's promise.
        unsafe { self.dot(sum, signed, x, step) }
    }
    #[inline(always)]
    fn dot_brain(self, sum: Self::F32, w: Self::Bytes, x: u32) -> Self::F32 {
        if BRAIN {
            // Not BFDOT, which rounds otherwise: these two are fused multiplications and additions,
            // "top" meaning the upper halves.
            return quarters!(|q| {
                let (mut sum, x) = (sum[q], vdupq_n_u32(x));
                asm!(
                    "bfmlalt {sum:v}.4s, {w:v}.8h, {x:v}.8h",
                    "bfmlalb {sum:v}.4s, {w:v}.8h, {x:v}.8h",
                    sum = inout(vreg) sum,
                    w = in(vreg) w[q],
                    x = in(vreg) x,
                    options(pure, nomem, nostack),
                );
                sum
            });
        }
        let [low, high] = self.brain_floats(w);
        let [x_low, x_high] = pair_floats(x);
        quarters!(|q| {
            let sum = vfmaq_f32(sum[q], high[q], vdupq_n_f32(x_high));
            vfmaq_f32(sum, low[q], vdupq_n_f32(x_low))
        })
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch(at);
    }

    #[inline(always)]
    fn prefetch_second(self, at: *const u8) {
        prefetch_second(at);
    }
}

/// Asks for the cache line at `at`, which may lie anywhere.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read that anybody sees")]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: it is a hint, which changes nothing and never faults.
    unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags)) }
}

/// The same for the second cache.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read that anybody sees")]
pub(crate) fn prefetch_second(at: *const u8) {
    // SAFETY: as above.
    unsafe { asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags)) }
}
