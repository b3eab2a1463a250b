//! Every operation on every instruction set of this machine, beside the scalar code that specifies it.

#![allow(clippy::needless_range_loop)] // indices are lanes

use super::{LANES, Simd};
use crate::isa::{Isa, Kernel};

/// Numbers at which instruction sets like to differ.
const SPECIAL: [f32; LANES] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MIN_POSITIVE,
    1e-40,
    -1e-40,
    f32::MAX,
    f32::MIN,
    2.5,
    3.5,
    -0.333_333_34,
    16_777_217.0,
];

/// Pseudo-random bits (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    /// Between -4 and 4, no denormals.
    fn floats(&mut self) -> [f32; LANES] {
        std::array::from_fn(|_| 1e-3 + (self.next() as i32) as f32 / (1u32 << 29) as f32)
    }

    /// Activations, which are never -128.
    fn quants(&mut self) -> [i8; 32] {
        self.bytes().map(|byte| (byte as i8).max(-127))
    }
}

/// What the operations gave; all NaN are one.
#[derive(Debug, Default, PartialEq)]
struct Seen(Vec<u32>);

impl Seen {
    fn number(&mut self, value: f32) {
        self.0.push(if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() });
    }

    #[inline(always)]
    fn floats<S: Simd>(&mut self, simd: S, value: S::F32) {
        let mut lanes = [0f32; LANES];
        // SAFETY: an array of 16.
        unsafe { simd.store(lanes.as_mut_ptr(), value) };
        lanes.into_iter().for_each(|lane| self.number(lane));
    }

    /// Each byte of 64, as its product with 1.
    #[inline(always)]
    fn bytes<S: Simd>(&mut self, simd: S, value: S::Bytes) {
        let start = simd.splat_i32(if S::WIDE_IS_UNSIGNED { -128 } else { 0 });
        for byte in 0..4 {
            let mut ones = [0i8; 32];
            ones[byte] = 1;
            // SAFETY: an array of 32, alive.
            let dots = unsafe { simd.dot_wide(start, value, simd.load_quants(ones.as_ptr(), 0), 0) };
            self.floats(simd, simd.to_f32(dots));
        }
    }
}

/// Runs a kernel on every instruction set and compares what it saw.
fn agree<K: Kernel<Output = Seen> + Copy>(kernel: K) {
    agree_on(kernel, |_| true);
}

/// The same on some of them.
fn agree_on<K: Kernel<Output = Seen> + Copy>(kernel: K, wanted: impl Fn(Isa) -> bool) {
    let expected = Isa::SCALAR.run(kernel);
    for isa in Isa::available().into_iter().filter(|&isa| wanted(isa)) {
        let seen = isa.run(kernel);
        let differs = seen.0.iter().zip(&expected.0).position(|(seen, expected)| seen != expected);
        assert!(seen == expected, "{}: value {differs:?}", isa.name());
    }
}

#[derive(Clone, Copy)]
struct Arithmetic([[f32; LANES]; 3]);

impl Kernel for Arithmetic {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        let [a, b, c] = &self.0;
        // SAFETY: arrays of 16.
        let (a, b, c) = unsafe { (simd.load(a.as_ptr()), simd.load(b.as_ptr()), simd.load(c.as_ptr())) };
        seen.floats(simd, simd.add(a, b));
        seen.floats(simd, simd.sub(a, b));
        seen.floats(simd, simd.mul(a, b));
        seen.floats(simd, simd.div(a, b));
        seen.floats(simd, simd.mul_add(a, b, c));
        seen.floats(simd, simd.max(a, b));
        seen.floats(simd, simd.min(a, b));
        seen.floats(simd, simd.abs(a));
        seen.floats(simd, simd.splat(self.0[0][3]));
        seen.number(simd.sum(a));
        seen.number(simd.largest(a));
        let magnitude = simd.largest_magnitude(a, b);
        seen.number(if magnitude.is_finite() { magnitude } else { f32::INFINITY });
        // Whole numbers of 8 bits, as sums are of.
        let whole = |x: S::F32| {
            // The constants second: they take the place of a NaN.
            simd.round_to_i32(simd.min(simd.max(x, simd.splat(-127.0)), simd.splat(127.0)))
        };
        seen.0.extend(simd.sums(whole(a), whole(c)).map(|sum| sum as u32));
        // The constants second, as above, and no zero keeps its sign.
        let power = simd.round(simd.min(simd.max(a, simd.splat(-120.0)), simd.splat(120.0)));
        seen.floats(simd, simd.add(power, simd.splat(0.0)));
        seen.floats(simd, simd.times_power_of_two(simd.splat(1.37), power));
        seen
    }
}

#[test]
fn arithmetic_has_the_same_bits() {
    let mut random = Random(1);
    for shift in 0..LANES {
        let mut turned = SPECIAL;
        turned.rotate_left(shift);
        agree(Arithmetic([SPECIAL, turned, random.floats()]));
        agree(Arithmetic([turned, random.floats(), SPECIAL]));
        agree(Arithmetic([random.floats(), random.floats(), random.floats()]));
    }
    // Sums without infinities, and vectors of which one lane alone is the larger.
    agree(Arithmetic([SPECIAL.map(|x| if x.abs() < 1e9 { x } else { 7.0 }), [3.5; LANES], SPECIAL]));
    for lane in 0..LANES {
        let mut a = [-1.0; LANES];
        a[lane] = 1.0;
        agree(Arithmetic([a, [0.0; LANES], a]));
        a[lane] = f32::NAN;
        agree(Arithmetic([a, [0.0; LANES], a]));
    }
}

#[derive(Clone, Copy)]
struct Conversions {
    floats: [f32; LANES],
    bits: [u16; LANES],
    small: [i8; LANES],
    exponents: i32,
}

impl Kernel for Conversions {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        let mut brains = [[0u16; LANES]; 2];
        let mut bytes = [0i8; LANES];
        // SAFETY: arrays of 16.
        unsafe {
            let value = simd.load(self.floats.as_ptr());
            simd.store_brain(brains[0].as_mut_ptr(), value);
            let normal = simd.max(simd.splat(-3e38), simd.min(simd.splat(3e38), value));
            let normal = simd.mul(simd.splat(1.0), simd.add(normal, simd.splat(1.0)));
            simd.store_brain_normal(brains[1].as_mut_ptr(), normal);
            seen.floats(simd, simd.load_half(self.bits.as_ptr()));
            seen.floats(simd, simd.load_brain(self.bits.as_ptr()));
            seen.floats(simd, simd.splat_half(self.bits[0]));
            let small = simd.load_i8(self.small.as_ptr());
            seen.floats(simd, simd.to_f32(small));
            simd.store_i8(bytes.as_mut_ptr(), small);
            let limited = simd.max(simd.splat(-2e9), simd.min(simd.splat(2e9), value));
            seen.floats(simd, simd.to_f32(simd.round_to_i32(limited)));
            seen.floats(simd, simd.power_of_two(simd.splat_i32(self.exponents)));
        }
        seen.0.extend(brains.as_flattened().iter().map(|&bits| u32::from(bits)));
        seen.0.extend(bytes.iter().map(|&byte| byte as u32));
        seen
    }
}

#[test]
fn conversions_have_the_same_bits() {
    let mut random = Random(2);
    for round in 0..1 << 12 {
        let floats = match round {
            // NaN is out of the range that `round_to_i32` is for.
            0 => SPECIAL.map(|x| if x.is_nan() { 0.5 } else { x }),
            // Ties of bf16 and of integers.
            _ if round % 3 == 0 => random.floats().map(|x| f32::from_bits(x.to_bits() & !0xffff | 0x8000)),
            _ if round % 3 == 1 => random.floats().map(|x| (x * 64.0).round() / 2.0),
            _ => random.floats(),
        };
        agree(Conversions {
            floats,
            // Every f16 and bf16 that there is.
            bits: std::array::from_fn(|lane| (round * LANES + lane) as u16),
            small: random.bytes().map(|byte| byte as i8),
            exponents: round as i32 % 255 - 127,
        });
    }
}

#[derive(Clone, Copy)]
struct Rounded([f32; LANES]);

impl Kernel for Rounded {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut brains = [0u16; LANES];
        // SAFETY: arrays of 16.
        unsafe { simd.store_brain(brains.as_mut_ptr(), simd.load(self.0.as_ptr())) };
        Seen(brains.iter().map(|&bits| u32::from(bits)).collect())
    }
}

#[test]
fn every_kind_of_number_is_rounded_to_the_same_brain_float() {
    let mut random = Random(3);
    agree(Rounded(SPECIAL));
    let not_numbers = [0x7f80_0001, 0x7fff_ffff, 0xff80_0001, 0xffff_ffff];
    agree(Rounded(std::array::from_fn(|lane| f32::from_bits(not_numbers[lane % 4]))));
    for _ in 0..1000 {
        agree(Rounded(std::array::from_fn(|_| f32::from_bits(random.next() as u32))));
    }
}

#[derive(Clone, Copy)]
struct Partial(usize);

impl Kernel for Partial {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        let mut to = [9f32; LANES + 1];
        // SAFETY: arrays of at least 16.
        unsafe {
            let value = simd.load_partial(SPECIAL.as_ptr(), self.0, -7.0);
            seen.floats(simd, value);
            simd.store_partial(to.as_mut_ptr(), self.0, simd.splat(4.0));
        }
        to.into_iter().for_each(|lane| seen.number(lane));
        seen
    }
}

#[test]
fn parts_of_a_vector_are_read_and_written_alone() {
    for count in 0..=LANES {
        agree(Partial(count));
        let seen = Isa::detect().run(Partial(count)).0;
        let written = seen[LANES..].iter().filter(|&&bits| bits == 4f32.to_bits()).count();
        assert_eq!(written, count);
    }
}

#[derive(Clone, Copy)]
struct Bytes {
    a: [u8; 64],
    b: [u8; 64],
    mask: u64,
    table: [u8; 16],
}

impl Kernel for Bytes {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        // SAFETY: arrays of 64 bytes.
        let (a, b) = unsafe { (simd.load_bytes(self.a.as_ptr()), simd.load_bytes(self.b.as_ptr())) };
        seen.bytes(simd, a);
        macro_rules! fields {
            ($($shift:literal, $mask:literal;)*) => {
                $(seen.bytes(simd, simd.field(a, $shift, $mask));)*
            };
        }
        fields!(0, 15; 4, 15; 0, 3; 2, 3; 4, 3; 6, 3; 1, 127; 3, 31; 5, 7; 7, 1;);
        let (low, bits) = (simd.field(a, 0, 15), simd.field(b, 0, 3));
        seen.bytes(simd, simd.or_shifted(low, bits, 4));
        seen.bytes(simd, simd.or_shifted(a, bits, 6));
        seen.bytes(simd, simd.sub_bytes(a, 8));
        let mut stored = [0u8; 64];
        // SAFETY: an array of 64 bytes.
        unsafe { simd.store_bytes(stored.as_mut_ptr(), b) };
        assert_eq!(stored, self.b);
        seen.bytes(simd, simd.add_where(low, self.mask, 16));
        seen.bytes(simd, simd.add_where(a, self.mask, 4));
        seen.bytes(simd, simd.lookup(&self.table, low));
        for (low, high) in [(false, false), (false, true), (true, false), (true, true)] {
            seen.bytes(simd, simd.keep_halves(a, low, high));
        }
        seen
    }
}

#[test]
fn bytes_are_taken_apart_in_the_same_way() {
    let mut random = Random(4);
    for _ in 0..200 {
        let mask = random.next();
        agree(Bytes { a: random.bytes(), b: random.bytes(), mask, table: random.bytes() });
    }
}

#[derive(Clone, Copy)]
struct Dots {
    codes: [u8; 64],
    quants: [i8; 32],
    start: i32,
}

impl Kernel for Dots {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        macro_rules! steps {
            ($($step:literal)*) => {
                $(
                    // SAFETY: an array of 64 bytes, and one of 32 that is alive.
                    unsafe {
                        let codes = simd.load_bytes(self.codes.as_ptr());
                        let x = simd.load_quants(self.quants.as_ptr(), $step / 4 * 4);
                        let narrow = simd.field(codes, 0, 63);
                        let start = simd.splat_i32(self.start);
                        let dots = simd.first_dot(start, narrow, x, $step);
                        seen.floats(simd, simd.to_f32(simd.whole(dots, start)));
                        let sum: i32 = self.quants[4 * $step..][..4].iter().map(|&x| i32::from(x)).sum();
                        let offset = if S::WIDE_IS_UNSIGNED { -128 * sum } else { 0 };
                        let dots = simd.dot_wide(simd.splat_i32(self.start + offset), codes, x, $step);
                        seen.floats(simd, simd.to_f32(dots));
                    }
                )*
            };
        }
        steps!(0 1 2 3 4 5 6 7);
        seen
    }
}

#[test]
fn integer_products_are_exact() {
    let mut random = Random(5);
    for round in 0..500 {
        let start = random.next() as i16;
        let mut dots = Dots { codes: random.bytes(), quants: random.quants(), start: start.into() };
        match round {
            0 => (dots.codes, dots.quants) = ([0; 64], [-127; 32]),
            1 => (dots.codes, dots.quants) = ([255; 64], [127; 32]),
            _ => {}
        }
        agree(dots);
    }
}

#[derive(Clone, Copy)]
struct LongDots {
    bits: u32,
    codes: [u8; 64],
    quants: [i8; 32],
}

impl Kernel for LongDots {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        let start = simd.splat_i32(-8 * 32 * 127);
        let mut total = start;
        let mut dots = None;
        macro_rules! steps {
            ($($step:literal)*) => {
                $(
                    // SAFETY: an array of 64 bytes, and one of 32 that is alive.
                    unsafe {
                        let codes = simd.field(simd.load_bytes(self.codes.as_ptr()), 0, (1 << self.bits) - 1);
                        let x = simd.load_quants(self.quants.as_ptr(), $step / 4 * 4);
                        dots = Some(match dots {
                            Some(dots) => simd.dot(dots, codes, x, $step),
                            None => simd.first_dot(total, codes, x, $step),
                        });
                    }
                    if ($step + 1) % S::DOT_STEPS[self.bits as usize] == 0 {
                        total = simd.whole(dots.take().unwrap(), total);
                    }
                )*
            };
        }
        steps!(0 1 2 3 4 5 6 7);
        seen.floats(simd, simd.to_f32(total));
        seen
    }
}

#[test]
fn integer_products_of_a_whole_block_are_exact() {
    let mut random = Random(6);
    for bits in 2..=6 {
        for quants in [[-127; 32], [127; 32], random.quants(), random.quants()] {
            agree(LongDots { bits, codes: [255; 64], quants });
            agree(LongDots { bits, codes: random.bytes(), quants });
        }
    }
}

#[derive(Clone, Copy)]
struct BrainDots {
    sum: [f32; LANES],
    weights: [u8; 64],
    x: u32,
}

impl Kernel for BrainDots {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        // SAFETY: arrays of 16 floats and 64 bytes.
        unsafe {
            let (sum, weights) = (simd.load(self.sum.as_ptr()), simd.load_bytes(self.weights.as_ptr()));
            seen.floats(simd, simd.dot_brain(sum, weights, self.x));
            for half in simd.brain_floats(weights) {
                seen.floats(simd, half);
            }
        }
        seen
    }
}

#[test]
fn products_of_brain_floats_have_the_same_bits() {
    let mut random = Random(6);
    let brain = |value: f32| half::bf16::from_f32(value).to_bits();
    for _ in 0..1000 {
        let (low, high) = (random.floats().map(brain), random.floats().map(brain));
        let mut weights = [0; 64];
        for (lane, bytes) in weights.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = (u32::from(low[lane]) | u32::from(high[lane]) << 16).to_le_bytes();
        }
        let x = u32::from(brain(random.floats()[0])) | u32::from(brain(random.floats()[0])) << 16;
        agree(BrainDots { sum: random.floats(), weights, x });
    }
}

#[derive(Clone, Copy)]
struct StoredPairs([f32; LANES]);

impl Kernel for StoredPairs {
    type Output = Seen;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Seen {
        let mut seen = Seen::default();
        let zero = simd.splat(0.0);
        // In the second half, then in the first.
        let mut stored = [0.0; 2 * LANES];
        // SAFETY: arrays of 16 or 32.
        unsafe {
            simd.store_pairs::<false>(stored.as_mut_ptr(), 1, simd.load(self.0.as_ptr()));
            simd.store_pairs::<false>(stored.as_mut_ptr(), 0, simd.splat(2.0));
            for index in 0..LANES {
                for ones in [0x0000_3f80_u32, 0x3f80_0000] {
                    let weights = [ones; LANES].map(u32::to_le_bytes);
                    let weights = simd.load_bytes(weights.as_flattened().as_ptr());
                    seen.floats(simd, simd.dot_stored(zero, weights, stored.as_ptr(), index));
                }
            }
        }
        seen
    }
}

#[test]
fn pairs_of_brain_floats_come_back_as_they_were_stored() {
    let mut random = Random(8);
    for _ in 0..300 {
        let mut values = random.floats();
        agree(StoredPairs(values));
        // Halfway between two bf16, and what is no number.
        values = values.map(|value| f32::from_bits(value.to_bits() & !0xffff | 0x8000));
        (values[3], values[6], values[9]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        agree(StoredPairs(values));
    }
}

/// Denormals are kept wherever the instructions are not those of AVX-512.
#[test]
fn products_of_denormal_brain_floats_have_the_same_bits() {
    let mut random = Random(7);
    for _ in 0..1000 {
        // Exponents of 0 to 7 and, for the other factor, of 120 to 135.
        let mut weights = random.bytes();
        for bytes in weights.as_chunks_mut::<2>().0 {
            *bytes = (u16::from_le_bytes(*bytes) & 0x83ff).to_le_bytes();
        }
        let x = random.next() as u32 & 0x87ff_87ff | 0x3c00_3c00;
        let sum = random.floats().map(|x| x * 1e-38);
        agree_on(BrainDots { sum, weights, x }, |isa| !["avx512", "amx"].contains(&isa.name()));
    }
}
