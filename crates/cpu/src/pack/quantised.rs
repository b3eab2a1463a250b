//! Rows of block formats into panels and back out of them.

use super::PANEL_ROWS;
use super::blocks::Fields;
use super::layout::{BLOCK, GroupScales, QuantLayout, quant_layout};
use alti_tensor::DType;
use half::{bf16, f16};

/// Rows of half a panel: the lanes of a vector.
const HALF_ROWS: usize = PANEL_ROWS / 2;
/// Words of 4 codes in a block.
const STEPS: usize = BLOCK / 4;

/// Writes a stored row of `dtype` into lane `lane` of a panel that is zero there.
pub(super) fn write_row(dtype: DType, stored: &[u8], lane: usize, panel: &mut [u8]) {
    /// Instantiates the body per format, so that its layout is known when it is compiled.
    macro_rules! per_format {
        ($($format:ident)*) => {
            match dtype {
                $(DType::$format => write_row_as(
                    DType::$format,
                    const { &quant_layout(DType::$format).expect("a block format") },
                    stored,
                    lane,
                    panel,
                ),)*
                DType::F32 | DType::F16 | DType::BF16 => unreachable!("plain floats have no blocks"),
            }
        };
    }
    per_format!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4)
}

#[inline(always)]
fn write_row_as(dtype: DType, layout: &QuantLayout, stored: &[u8], lane: usize, panel: &mut [u8]) {
    let mut fields = Fields::default();
    let supers = panel.chunks_exact_mut(layout.super_bytes());
    for (block, out) in stored.chunks_exact(dtype.block_bytes()).zip(supers) {
        fields.read(dtype, block);
        write_header(layout, &fields, lane, out);
        for index in 0..layout.blocks() {
            let half = 2 * index + lane / HALF_ROWS;
            let planes = &mut out[layout.codes_at() + half * layout.half_bytes()..];
            let planes = &mut planes[..layout.half_bytes()];
            for step in 0..STEPS {
                put_codes(layout, planes, lane % HALF_ROWS, step, fields.codes[STEPS * index + step]);
            }
        }
    }
}

#[inline(always)]
fn write_header(layout: &QuantLayout, fields: &Fields, lane: usize, out: &mut [u8]) {
    let mut put = |at: usize, bits: u16| out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    put(2 * lane, fields.scale);
    if layout.minima {
        put(layout.minimum_at() + 2 * lane, fields.minimum);
    }
    if layout.groups != GroupScales::None {
        for group in 0..layout.blocks() * layout.groups_per_block() {
            let at = group * PANEL_ROWS + lane;
            out[layout.group_scales_at() + at] = fields.group_scales[group] as u8;
            if layout.minima {
                out[layout.group_minima_at() + at] = fields.group_minima[group] as u8;
            }
        }
    }
}

/// ORs a word of 4 codes into the planes of a half.
#[inline(always)]
fn put_codes(layout: &QuantLayout, planes: &mut [u8], lane: usize, step: usize, codes: u32) {
    let mut or_word = |at: usize, bits: u32| {
        let word = &mut planes[at + 4 * lane..at + 4 * lane + 4];
        let old = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        word.copy_from_slice(&(old | bits).to_le_bytes());
    };
    if let Some(at) = layout.plane(8) {
        or_word(at + 64 * step, codes);
    }
    if let Some(at) = layout.plane(4) {
        or_word(at + 64 * (step % 4), (codes & 0x0f0f_0f0f) << (4 * (step / 4)));
    }
    let above = if layout.plane(4).is_some() { codes >> 4 } else { codes };
    if let Some(at) = layout.plane(2) {
        or_word(at + 64 * (step / 4), (above & 0x0303_0303) << (2 * (step % 4)));
    }
    if let Some(at) = layout.plane(1) {
        let top = if layout.plane(2).is_some() { above >> 2 } else { above };
        // One bit of each byte, gathered: byte p to bit 24 + p of the product.
        let bits = ((top & 0x0101_0101).wrapping_mul(0x0102_0408) >> 24) as u8 & 15;
        planes[at + 8 * step + lane / 2] |= bits << (4 * (lane % 2));
    }
}

/// The word that `put_codes` took.
fn take_codes(layout: &QuantLayout, planes: &[u8], lane: usize, step: usize) -> u32 {
    let word = |at: usize| {
        let at = at + 4 * lane;
        u32::from_le_bytes([planes[at], planes[at + 1], planes[at + 2], planes[at + 3]])
    };
    let mut codes = 0;
    let mut shift = 0;
    if let Some(at) = layout.plane(8) {
        codes = word(at + 64 * step);
    }
    if let Some(at) = layout.plane(4) {
        codes = word(at + 64 * (step % 4)) >> (4 * (step / 4)) & 0x0f0f_0f0f;
        shift = 4;
    }
    if let Some(at) = layout.plane(2) {
        codes |= (word(at + 64 * (step / 4)) >> (2 * (step % 4)) & 0x0303_0303) << shift;
        shift += 2;
    }
    if let Some(at) = layout.plane(1) {
        let bits = planes[at + 8 * step + lane / 2] >> (4 * (lane % 2));
        for byte in 0..4 {
            codes |= u32::from(bits >> byte & 1) << (8 * byte + shift);
        }
    }
    codes
}

/// Reads lane `lane` of a panel back as floats, with the operations of the `gguf` Python package's
/// `quants.py` in their order, so that every bit agrees.
pub(super) fn read_row(layout: &QuantLayout, panel: &[u8], lane: usize, out: &mut [f32]) {
    let supers = panel.chunks_exact(layout.super_bytes());
    for (packed, out) in supers.zip(out.chunks_exact_mut(layout.blocks() * BLOCK)) {
        for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let half = 2 * index + lane / HALF_ROWS;
            let planes = &packed[layout.codes_at() + half * layout.half_bytes()..];
            for (step, out) in out.chunks_exact_mut(4).enumerate() {
                let group = index * layout.groups_per_block() + step * layout.groups_per_block() / STEPS;
                let (scale, minimum) = group_floats(layout, packed, lane, group);
                let codes = take_codes(layout, planes, lane % HALF_ROWS, step);
                for (code, out) in codes.to_le_bytes().into_iter().zip(out) {
                    let value = layout.table.map_or(code, |table| table[usize::from(code)]);
                    *out = scale * (i32::from(value) - layout.offset) as f32;
                    if layout.minima {
                        *out += minimum;
                    }
                }
            }
        }
    }
}

/// Scale and minimum of a group of a superblock.
fn group_floats(layout: &QuantLayout, packed: &[u8], lane: usize, group: usize) -> (f32, f32) {
    let bits = |at: usize| u16::from_le_bytes([packed[at + 2 * lane], packed[at + 2 * lane + 1]]);
    let mut scale = match layout.brain_scale {
        true => bf16::from_bits(bits(0)).to_f32(),
        false => f16::from_bits(bits(0)).to_f32(),
    };
    let mut minimum = match layout.minima {
        true => f16::from_bits(bits(layout.minimum_at())).to_f32(),
        false => 0.0,
    };
    if layout.groups != GroupScales::None {
        let at = group * PANEL_ROWS + lane;
        scale *= f32::from(packed[layout.group_scales_at() + at] as i8);
        if layout.minima {
            minimum *= f32::from(packed[layout.group_minima_at() + at] as i8);
        }
    }
    (scale, minimum)
}
