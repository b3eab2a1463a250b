//! How each block format lies in a panel: the table that packing and kernels share.
//!
//! Every block format is the same idea: integer codes, a scale for a group of them, perhaps a
//! minimum. So there is one packed form with a few parameters, [`QuantLayout`], and one kernel:
//!
//! `weight = scale * (value(code) - offset) + minimum`
//!
//! where `value` is the code itself or an entry of a table, and scale and minimum are a float of
//! the block times, in the K-quants, a small integer of the group. All of these are kept as the file
//! has them, so packing loses nothing.

use super::PANEL_ROWS;
use alti_tensor::DType;

/// Weights of a row that a kernel takes in one step: one block of activations.
pub(crate) const BLOCK: usize = 32;

/// How the integer scales of a superblock are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupScales {
    /// None: the block's float is the scale of its 32 weights.
    None,
    /// One for 32 weights, in superblocks of 256.
    Per32,
    /// One for 16 weights, in superblocks of 256.
    Per16,
}

/// The packed form of a block format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantLayout {
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    pub(crate) bits: u32,
    /// What value stands for zero.
    pub(crate) offset: i32,
    /// The value of each 4-bit code where it is not the code itself (offset by 128).
    pub(crate) table: Option<&'static [u8; 16]>,
    /// Whether the float scale is a bf16 (it is an f16 otherwise).
    pub(crate) brain_scale: bool,
    /// The integer scales.
    pub(crate) groups: GroupScales,
    /// Whether there are minima, spaced as the scales.
    pub(crate) minima: bool,
}

/// The 16 levels of IQ4_NL, offset by 128.
/// <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>, `kvalues_iq4nl`.
static NON_LINEAR: [u8; 16] =
    offset_table([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);

/// Twice the values of E2M1 (OCP Microscaling Formats 1.0, 5.3.3), offset by 128.
static E2M1: [u8; 16] = offset_table([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);

const fn offset_table(values: [i8; 16]) -> [u8; 16] {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        table[index] = (values[index] as i16 + 128) as u8;
        index += 1;
    }
    table
}

const fn row(bits: u32, offset: i32, groups: GroupScales, minima: bool) -> QuantLayout {
    QuantLayout { bits, offset, table: None, brain_scale: false, groups, minima }
}

const fn with_table(table: &'static [u8; 16], groups: GroupScales) -> QuantLayout {
    QuantLayout { table: Some(table), ..row(4, WIDE_OFFSET, groups, false) }
}

/// The offset of 8-bit codes and of tables.
pub(crate) const WIDE_OFFSET: i32 = 128;

/// The packed form of `dtype`, if it is a block format.
pub(crate) const fn quant_layout(dtype: DType) -> Option<QuantLayout> {
    use GroupScales::{Per16, Per32};
    const SINGLE: GroupScales = GroupScales::None;
    Some(match dtype {
        DType::F32 | DType::F16 | DType::BF16 => return None,
        DType::Q4_0 => row(4, 8, SINGLE, false),
        DType::Q4_1 => row(4, 0, SINGLE, true),
        DType::Q5_0 => row(5, 16, SINGLE, false),
        DType::Q5_1 => row(5, 0, SINGLE, true),
        DType::Q8_0 => row(8, WIDE_OFFSET, SINGLE, false),
        DType::Q2_K => row(2, 0, Per16, true),
        DType::Q3_K => row(3, 4, Per16, false),
        DType::Q4_K => row(4, 0, Per32, true),
        DType::Q5_K => row(5, 0, Per32, true),
        DType::Q6_K => row(6, 32, Per16, false),
        DType::IQ4_NL => with_table(&NON_LINEAR, SINGLE),
        DType::IQ4_XS => with_table(&NON_LINEAR, Per32),
        DType::MXFP4 => QuantLayout { brain_scale: true, ..with_table(&E2M1, SINGLE) },
    })
}

/// The geometry of a superblock: 32 rows of a panel, over as many weights as a block of the format.
///
/// ```text
/// scale   [32 rows] f16 or bf16
/// minimum [32 rows] f16, negated where the format subtracts it      (with minima)
/// scales  [blocks x groups of a block][32 rows] i8                  (with integer scales)
/// minima  [blocks x groups of a block][32 rows] i8                  (with both)
/// codes   [blocks][2 halves of 16 rows] planes
/// ```
/// where the planes of a half, of 32 weights by 16 rows, are those whose bits add up:
/// ```text
/// 8 bits: 8 vectors; vector i holds step i
/// 4 bits: 4 vectors; vector i holds step i in the low, step i + 4 in the high nibbles
/// 2 bits: 2 vectors; vector i holds step 4i + j in bits 2j and 2j + 1
/// 1 bit:  8 masks of 64 bits; mask i holds step i
/// ```
/// Step `i` is weights `4i .. 4i + 4` of each row, a vector has 4 bytes for each of 16 rows.
impl QuantLayout {
    /// Groups of a block that have their own integer scale.
    pub(crate) const fn groups_per_block(&self) -> usize {
        match self.groups {
            GroupScales::Per16 => 2,
            GroupScales::None | GroupScales::Per32 => 1,
        }
    }

    /// Blocks of 32 weights in a superblock.
    pub(crate) const fn blocks(&self) -> usize {
        match self.groups {
            GroupScales::None => 1,
            GroupScales::Per16 | GroupScales::Per32 => 8,
        }
    }

    /// Where the floats of the minima start.
    pub(crate) const fn minimum_at(&self) -> usize {
        2 * PANEL_ROWS
    }

    /// Where the integer scales start.
    pub(crate) const fn group_scales_at(&self) -> usize {
        if self.minima { 4 * PANEL_ROWS } else { 2 * PANEL_ROWS }
    }

    /// Bytes of the integer scales (and as many of the integer minima).
    const fn group_scale_bytes(&self) -> usize {
        match self.groups {
            GroupScales::None => 0,
            GroupScales::Per16 | GroupScales::Per32 => self.blocks() * self.groups_per_block() * PANEL_ROWS,
        }
    }

    /// Where the integer minima start.
    pub(crate) const fn group_minima_at(&self) -> usize {
        self.group_scales_at() + self.group_scale_bytes()
    }

    /// Where the codes start.
    pub(crate) const fn codes_at(&self) -> usize {
        let kinds = if self.minima { 2 } else { 1 };
        self.group_scales_at() + kinds * self.group_scale_bytes()
    }

    /// Whether a code or a scale is put together of several pieces, or looked up.
    pub(crate) const fn is_costly(&self) -> bool {
        let plain = (self.bits == 4 || self.bits == 8) && self.table.is_none();
        !plain || !matches!(self.groups, GroupScales::None)
    }

    /// Bytes of the codes of 16 rows by 32 weights.
    pub(crate) const fn half_bytes(&self) -> usize {
        self.bits as usize * BLOCK * PANEL_ROWS / 2 / 8
    }

    /// Bytes of a superblock: a multiple of a cache line.
    pub(crate) const fn super_bytes(&self) -> usize {
        self.codes_at() + self.blocks() * 2 * self.half_bytes()
    }

    /// Whether the codes have a plane of `bits` bits, and where it starts in a half.
    pub(crate) const fn plane(&self, bits: u32) -> Option<usize> {
        // 8 stands alone; else the bits of a code say which planes there are, the widest first.
        let present = self.bits & bits != 0;
        if !present {
            return None;
        }
        let wider = self.bits & !(2 * bits - 1);
        Some(wider as usize * BLOCK * PANEL_ROWS / 2 / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_whole_cache_lines_and_hardly_larger_than_the_file() {
        for info in DType::TABLE {
            let Some(layout) = quant_layout(info.dtype) else { continue };
            let packed = layout.super_bytes();
            assert_eq!(packed % 64, 0, "{}", info.name);
            assert_eq!(layout.blocks() * BLOCK, info.block_len, "{}", info.name);
            let stored = PANEL_ROWS * info.block_bytes;
            assert!(packed >= stored && packed * 4 <= stored * 5, "{}: {packed}", info.name);
        }
    }
}
