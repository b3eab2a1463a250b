//! Formats whose 4-bit quants index a table: `IQ4_NL`, `IQ4_XS` and `MXFP4`. They are read only.

use super::half_at;

/// The 16 levels of `IQ4_NL` and `IQ4_XS`: denser near zero, where weights are.
const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of E2M1, the OCP 4-bit float, so that they are integers. Source: OCP
/// Microscaling Formats (MX) Specification 1.0, section 5.3.3.
const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Weight `i` is `scale * table[quant]`: low nibbles first, then the high ones.
fn look_up(table: &[i8; 16], scale: f32, nibbles: &[u8], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(nibbles.len());
    for ((&byte, low), high) in nibbles.iter().zip(low).zip(high) {
        *low = scale * f32::from(table[usize::from(byte & 15)]);
        *high = scale * f32::from(table[usize::from(byte >> 4)]);
    }
}

pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    look_up(&NON_LINEAR, half_at(block, 0), &block[2..], out);
}

/// Layout: f16 scale, 8 x 2 high bits of the group scales, 8 x 4 low bits, 8 x 16 bytes of quants.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    let scales_high = u16::from_le_bytes([block[2], block[3]]);
    let scales_low = &block[4..8];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = scales_low[group / 2] >> (4 * (group % 2)) & 15;
        let high = (scales_high >> (2 * group) & 3) as u8;
        let group_scale = i16::from(low | high << 4) - 32;
        look_up(&NON_LINEAR, scale * f32::from(group_scale), &block[8 + 16 * group..][..16], out);
    }
}

pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    look_up(&E2M1_DOUBLED, half_of_e8m0(block[0]), &block[1..], out);
}

/// Half of `2^(exponent - 127)`, the block scale, because the table holds doubled values. Exponents
/// 0 and 1 give the denormals `2^-128` and `2^-127`.
fn half_of_e8m0(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}
