//! The specification of [`Simd`] in plain Rust, and what machines without a better one run.
//!
//! Its methods are calls: unrolled into the kernels of every format, 16 lanes at a time, they would
//! take longer to compile than all the rest of the workspace.

use super::{LANES, Simd, half_mask, pair_floats};
use half::{bf16, f16};

/// Plain Rust, on arrays.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Applies a function lane by lane.
macro_rules! lanes {
    (|$lane:ident| $value:expr) => {{
        let mut out = [Default::default(); LANES];
        for $lane in 0..LANES {
            out[$lane] = $value;
        }
        out
    }};
}

/// The tree of [`Simd::sum`] with another operation.
#[inline(always)]
fn tree(mut a: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            a[lane] = combine(a[lane], a[lane + half]);
        }
    }
    a[0]
}

impl Simd for Scalar {
    type F32 = [f32; LANES];
    type I32 = [i32; LANES];
    type Bytes = [[u8; 4]; LANES];
    type Dots = Self::I32;
    type Quants = *const i32;

    const TALL_COLUMNS: usize = 1;
    const LOW_COLUMNS: usize = 0;
    const ATTENTION_LANES: usize = 2;
    const ATTENTION_VECTORS: usize = 1;
    const ATTENTION_SUMS: usize = 2;
    const WIDE_IS_UNSIGNED: bool = true;

    #[inline(never)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(never)]
    unsafe fn load(self, from: *const f32) -> Self::F32 {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(never)]
    unsafe fn store(self, to: *mut f32, value: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(value) }
    }
    #[inline(never)]
    unsafe fn load_partial(self, from: *const f32, count: usize, fill: f32) -> Self::F32 {
        // SAFETY: the caller's promise, for the lanes below `count`.
        lanes!(|lane| if lane < count { unsafe { from.add(lane).read_unaligned() } } else { fill })
    }
    #[inline(never)]
    unsafe fn store_partial(self, to: *mut f32, count: usize, value: Self::F32) {
        for (lane, value) in value.into_iter().enumerate().take(count) {
            // SAFETY: the caller's promise, for the lanes below `count`.
            unsafe { to.add(lane).write_unaligned(value) }
        }
    }
    #[inline(never)]
    unsafe fn load_half(self, from: *const u16) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes!(|lane| f16::from_bits(bits[lane]).to_f32())
    }
    #[inline(never)]
    unsafe fn load_brain(self, from: *const u16) -> Self::F32 {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes!(|lane| f32::from_bits(u32::from(bits[lane]) << 16))
    }
    #[inline(never)]
    unsafe fn store_brain(self, to: *mut u16, value: Self::F32) {
        let bits: [u16; LANES] = lanes!(|lane| bf16::from_f32(value[lane]).to_bits());
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(never)]
    unsafe fn store_brain_normal(self, to: *mut u16, value: Self::F32) {
        // SAFETY: the caller's promise.
        unsafe { self.store_brain(to, value) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(never)]
    unsafe fn load_i32(self, from: *const i32) -> Self::I32 {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(never)]
    unsafe fn load_i8(self, from: *const i8) -> Self::I32 {
        // SAFETY: the caller's promise.
        let values = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        lanes!(|lane| i32::from(values[lane]))
    }
    #[inline(never)]
    unsafe fn store_i8(self, to: *mut i8, value: Self::I32) {
        let bytes: [i8; LANES] = lanes!(|lane| value[lane] as i8);
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(bytes) }
    }

    #[inline(never)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane] + b[lane])
    }
    #[inline(never)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane] - b[lane])
    }
    #[inline(never)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane] * b[lane])
    }
    #[inline(never)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane] / b[lane])
    }
    #[inline(never)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(never)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(never)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes!(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(never)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane].abs())
    }
    #[inline(never)]
    fn sum(self, a: Self::F32) -> f32 {
        tree(a, |x, y| x + y)
    }
    #[inline(never)]
    fn largest(self, a: Self::F32) -> f32 {
        tree(a, |x, y| if x > y { x } else { y })
    }

    #[inline(never)]
    fn splat_i32(self, value: i32) -> Self::I32 {
        [value; LANES]
    }
    #[inline(never)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        lanes!(|lane| a[lane] as f32)
    }
    #[inline(never)]
    fn round_to_i32(self, a: Self::F32) -> Self::I32 {
        lanes!(|lane| a[lane].round_ties_even() as i32)
    }
    #[inline(never)]
    fn round(self, a: Self::F32) -> Self::F32 {
        lanes!(|lane| a[lane].round_ties_even())
    }
    #[inline(never)]
    fn power_of_two(self, a: Self::I32) -> Self::F32 {
        lanes!(|lane| f32::from_bits((a[lane].wrapping_add(127) << 23) as u32))
    }

    #[inline(never)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::Bytes {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[[u8; 4]; LANES]>().read_unaligned() }
    }
    #[inline(never)]
    unsafe fn store_bytes(self, to: *mut u8, value: Self::Bytes) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[[u8; 4]; LANES]>().write_unaligned(value) }
    }
    #[inline(never)]
    fn sub_bytes(self, a: Self::Bytes, value: u8) -> Self::Bytes {
        lanes!(|lane| a[lane].map(|byte| byte.wrapping_sub(value)))
    }
    #[inline(never)]
    fn field(self, a: Self::Bytes, shift: u32, mask: u8) -> Self::Bytes {
        lanes!(|lane| a[lane].map(|byte| byte >> shift & mask))
    }
    #[inline(never)]
    fn or_shifted(self, a: Self::Bytes, b: Self::Bytes, shift: u32) -> Self::Bytes {
        let mut out = a;
        for (out, b) in out.iter_mut().flatten().zip(b.iter().flatten()) {
            *out |= b << shift;
        }
        out
    }
    #[inline(never)]
    fn add_where(self, a: Self::Bytes, mask: u64, value: u8) -> Self::Bytes {
        let mut out = a;
        for (index, byte) in out.iter_mut().flatten().enumerate() {
            *byte = byte.wrapping_add(value * (mask >> index & 1) as u8);
        }
        out
    }
    #[inline(never)]
    fn lookup(self, table: &[u8; 16], a: Self::Bytes) -> Self::Bytes {
        lanes!(|lane| a[lane].map(|byte| table[usize::from(byte & 15)]))
    }

    #[inline(never)]
    fn brain_floats(self, a: Self::Bytes) -> [Self::F32; 2] {
        let pairs: [[f32; 2]; LANES] = lanes!(|lane| pair_floats(u32::from_le_bytes(a[lane])));
        [lanes!(|lane| pairs[lane][0]), lanes!(|lane| pairs[lane][1])]
    }
    #[inline(never)]
    fn keep_halves(self, a: Self::Bytes, low: bool, high: bool) -> Self::Bytes {
        let mask = half_mask(low, high);
        lanes!(|lane| (i32::from_le_bytes(a[lane]) & mask).to_le_bytes())
    }

    #[inline(never)]
    unsafe fn load_quants(self, block: *const i8, _: usize) -> Self::Quants {
        block.cast()
    }
    #[inline(never)]
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
    #[inline(never)]
    fn whole(self, dots: Self::I32, _: Self::I32) -> Self::I32 {
        dots
    }
    #[inline(never)]
    unsafe fn dot(self, sum: Self::I32, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::I32 {
        // SAFETY: the caller's promise.
        let x = unsafe { x.add(step).read_unaligned() };
        let x = x.to_le_bytes().map(|byte| i32::from(byte as i8));
        let mut out = sum;
        for (out, codes) in out.iter_mut().zip(codes) {
            for (code, x) in codes.into_iter().zip(x) {
                *out += i32::from(code) * x;
            }
        }
        out
    }
    #[inline(never)]
    unsafe fn dot_wide(self, sum: Self::I32, codes: Self::Bytes, x: Self::Quants, step: usize) -> Self::I32 {
        // SAFETY: the caller's promise.
        unsafe { self.dot(sum, codes, x, step) }
    }
    #[inline(never)]
    fn dot_brain(self, sum: Self::F32, w: Self::Bytes, x: u32) -> Self::F32 {
        let [low, high] = self.brain_floats(w);
        let [x_low, x_high] = pair_floats(x);
        lanes!(|lane| low[lane].mul_add(x_low, high[lane].mul_add(x_high, sum[lane])))
    }

    #[inline(never)]
    fn prefetch(self, _at: *const u8) {}
}
