//! Reading one block of each GGML format into the fields that panels are made of.
//!
//! The formats differ in how they squeeze codes and scales into bytes; what they mean is
//! [`quant_layout`](super::layout::quant_layout)'s. Layouts:
//! <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h> and `ggml-quants.c` there.

#![allow(clippy::needless_range_loop)] // indices are those of the formats' descriptions

use alti_tensor::DType;

/// One block of one row: at most 256 weights.
pub(crate) struct Fields {
    /// 4 codes a word, the first weight in the lowest byte.
    pub(crate) codes: [u32; 64],
    /// The bits of the float scale: f16, or bf16 where the layout says so.
    pub(crate) scale: u16,
    /// The bits of the f16 minimum, negated where the format subtracts it.
    pub(crate) minimum: u16,
    /// The integer scales of the groups.
    pub(crate) group_scales: [i8; 16],
    /// The integer minima of the groups.
    pub(crate) group_minima: [i8; 16],
}

impl Default for Fields {
    fn default() -> Self {
        Self { codes: [0; 64], scale: 0, minimum: 0, group_scales: [0; 16], group_minima: [0; 16] }
    }
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const F16_SIGN: u16 = 0x8000;

/// Word `index` of `bytes`.
#[inline(always)]
fn word(bytes: &[u8], index: usize) -> u32 {
    let at = 4 * index;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn half_word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The lowest 4 bits of `bits`, one to each byte of a word.
#[inline(always)]
fn spread(bits: u32) -> u32 {
    (bits & 0xf).wrapping_mul(0x0020_4081) & 0x0101_0101
}

impl Fields {
    /// Reads a block of `dtype`, a block format.
    #[inline(always)]
    pub(crate) fn read(&mut self, dtype: DType, block: &[u8]) {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("plain floats have no blocks"),
            DType::Q4_0 | DType::IQ4_NL => {
                self.scale = half_word(block, 0);
                self.nibbles(&block[2..]);
            }
            DType::Q4_1 => {
                self.scale = half_word(block, 0);
                self.minimum = half_word(block, 2);
                self.nibbles(&block[4..]);
            }
            DType::Q5_0 => {
                self.scale = half_word(block, 0);
                self.nibbles(&block[6..]);
                self.fifth_bits(word(&block[2..], 0));
            }
            DType::Q5_1 => {
                self.scale = half_word(block, 0);
                self.minimum = half_word(block, 2);
                self.nibbles(&block[8..]);
                self.fifth_bits(word(&block[4..], 0));
            }
            DType::Q8_0 => {
                self.scale = half_word(block, 0);
                for index in 0..8 {
                    self.codes[index] = word(&block[2..], index) ^ 0x8080_8080;
                }
            }
            DType::MXFP4 => {
                self.scale = half_e8m0(block[0]);
                self.nibbles(&block[1..]);
            }
            DType::Q2_K => self.read_q2_k(block),
            DType::Q3_K => self.read_q3_k(block),
            DType::Q4_K | DType::Q5_K => self.read_q4_k(dtype, block),
            DType::Q6_K => self.read_q6_k(block),
            DType::IQ4_XS => self.read_iq4_xs(block),
        }
    }

    /// 16 bytes: weights 0 to 15 in the low nibbles, 16 to 31 in the high ones.
    #[inline(always)]
    fn nibbles(&mut self, bytes: &[u8]) {
        for index in 0..4 {
            let packed = word(bytes, index);
            self.codes[index] = packed & NIBBLES;
            self.codes[index + 4] = packed >> 4 & NIBBLES;
        }
    }

    /// Bit `k` of `bits` is bit 4 of code `k`.
    #[inline(always)]
    fn fifth_bits(&mut self, bits: u32) {
        for index in 0..8 {
            self.codes[index] |= spread(bits >> (4 * index)) << 4;
        }
    }

    /// `scales[16]` (4-bit scale, 4-bit minimum), `codes[64]`, scale, minimum.
    fn read_q2_k(&mut self, block: &[u8]) {
        for group in 0..16 {
            self.group_scales[group] = (block[group] & 15) as i8;
            self.group_minima[group] = (block[group] >> 4) as i8;
        }
        self.two_bits(&block[16..80]);
        self.scale = half_word(block, 80);
        self.minimum = half_word(block, 82) ^ F16_SIGN;
    }

    /// In each half of the block, byte `l` of 32 holds weights `l`, `32 + l`, `64 + l`, `96 + l`.
    fn two_bits(&mut self, bytes: &[u8]) {
        for index in 0..64 {
            let (half, part, at) = (index / 32, index % 32 / 8, index % 8);
            self.codes[index] = word(bytes, 8 * half + at) >> (2 * part) & 0x0303_0303;
        }
    }

    /// `high[32]` (bit `i` of byte `l`: weight `32 i + l`), `low[64]`, `scales[12]`, scale.
    fn read_q3_k(&mut self, block: &[u8]) {
        self.two_bits(&block[32..96]);
        for index in 0..64 {
            let high = word(block, index % 8) >> (index / 8) & 0x0101_0101;
            self.codes[index] |= high << 2;
        }
        let scales = &block[96..108];
        for group in 0..16 {
            let low = scales[group % 8] >> (4 * (group / 8)) & 15;
            let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            self.group_scales[group] = (low | high << 4) as i8 - 32;
        }
        self.scale = half_word(block, 108);
    }

    /// Scale, minimum, `scales[12]`, in Q5_K `high[32]` (bit `i` of byte `l`: weight `32 i + l`),
    /// `low[128]`: byte `l` of 32 holds weights `l` and `32 + l` of 64.
    fn read_q4_k(&mut self, dtype: DType, block: &[u8]) {
        self.scale = half_word(block, 0);
        self.minimum = half_word(block, 2) ^ F16_SIGN;
        self.six_bit_scales(&block[4..16]);
        let low = &block[dtype.block_bytes() - 128..];
        for index in 0..64 {
            let (pair, part, at) = (index / 16, index % 16 / 8, index % 8);
            self.codes[index] = word(low, 8 * pair + at) >> (4 * part) & NIBBLES;
            if dtype == DType::Q5_K {
                let high = word(&block[16..48], at) >> (index / 8) & 0x0101_0101;
                self.codes[index] |= high << 4;
            }
        }
    }

    /// 8 scales and 8 minima of 6 bits in 12 bytes: the first 4 of each whole, the last 4 in parts.
    fn six_bit_scales(&mut self, bytes: &[u8]) {
        for group in 0..4 {
            let (scale, minimum, last) = (bytes[group], bytes[group + 4], bytes[group + 8]);
            self.group_scales[group] = (scale & 63) as i8;
            self.group_minima[group] = (minimum & 63) as i8;
            self.group_scales[group + 4] = (last & 15 | scale >> 6 << 4) as i8;
            self.group_minima[group + 4] = (last >> 4 | minimum >> 6 << 4) as i8;
        }
    }

    /// `low[128]`, `high[64]`, `scales[16]`, scale. In each half of the block, bytes of 64 hold the
    /// low bits of weights `l` and `64 + l`, bytes of 32 the high bits of `32 i + l`.
    fn read_q6_k(&mut self, block: &[u8]) {
        let (low, high) = (&block[..128], &block[128..192]);
        for index in 0..64 {
            let (half, at) = (index / 32, index % 32);
            let nibbles = word(low, 16 * half + at % 16) >> (4 * (at / 16)) & NIBBLES;
            let top = word(high, 8 * half + at % 8) >> (2 * (at / 8)) & 0x0303_0303;
            self.codes[index] = nibbles | top << 4;
        }
        for group in 0..16 {
            self.group_scales[group] = block[192 + group] as i8;
        }
        self.scale = half_word(block, 208);
    }

    /// Scale, `high: u16` (2 bits a group), `low[4]` (4 bits a group), `codes[128]`: each 16 bytes
    /// as in IQ4_NL.
    fn read_iq4_xs(&mut self, block: &[u8]) {
        self.scale = half_word(block, 0);
        let high = half_word(block, 2);
        for group in 0..8 {
            let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
            let top = (high >> (2 * group) & 3) as u8;
            self.group_scales[group] = (low | top << 4) as i8 - 32;
            for index in 0..4 {
                let packed = word(&block[8 + 16 * group..], index);
                self.codes[8 * group + index] = packed & NIBBLES;
                self.codes[8 * group + index + 4] = packed >> 4 & NIBBLES;
            }
        }
    }
}

/// Half the value of an E8M0 exponent, `2^(e - 128)`, as a bf16: its table counts in halves.
#[inline(always)]
fn half_e8m0(exponent: u8) -> u16 {
    match exponent {
        0 => 0x0020,
        1 => 0x0040,
        e => u16::from(e - 1) << 7,
    }
}
