//! Writing `Q4_K`, `Q5_K` and `Q6_K`: a search for the block with the smallest error.
//!
//! The groups of a block share one (two) half-precision scales, of which each takes an integer
//! multiple. First every group is fitted on its own; then the search alternates between the
//! multiples of every group (the neighbours of the current ones, with the error actually left by
//! the nearest quants) and the shared scales (linear regression over the whole block), as long as
//! the error falls. Because every step measures what a reader will decode, rounding to half
//! precision and to multiples is part of what is minimised.

use super::fit::{self, Affine, Minimum};
use super::k_read::SCALES_AND_MINIMA;
use super::{ScaleOverflow, half_at, half_bytes};

type Weights = [f32; 256];

/// Rounds of alternation at most.
const ROUNDS: usize = 8;

/// How far from its current multiples a group looks for better ones in one round.
const REACH: i32 = 2;

/// Largest multiple of a scale or minimum in `Q4_K` and `Q5_K`: 6 bits.
const LARGEST_MULTIPLE: i32 = 63;

/// A block of `Q4_K` or `Q5_K`: group `j` is `scale * multiples[j].0 * q - minimum * multiples[j].1`.
#[derive(Clone, Copy)]
struct AffineBlock {
    scale: f32,
    minimum: f32,
    multiples: [(i32, i32); 8],
    error: f32,
}

impl AffineBlock {
    /// The grid of a group with the given multiples.
    fn grid(&self, (scale, minimum): (i32, i32)) -> Affine {
        Affine { scale: self.scale * scale as f32, minimum: -(self.minimum * minimum as f32) }
    }
}

/// The half-precision number that will be stored for a scale `value`, which is not negative. One
/// that would vanish becomes the smallest there is: small multiples of it still tell weights apart.
fn stored(value: f32) -> Result<f32, ScaleOverflow> {
    let stored = half_at(&half_bytes(value)?, 0);
    Ok(if value > 0.0 { stored.max(half::f16::MIN_POSITIVE_SUBNORMAL.to_f32()) } else { stored })
}

fn search_affine(weights: &Weights, importance: &Weights, levels: u8) -> Result<AffineBlock, ScaleOverflow> {
    let groups = weights.as_chunks::<32>().0;
    let group_importance = importance.as_chunks::<32>().0;
    let fits: [Affine; 8] = std::array::from_fn(|group| {
        fit::affine(&groups[group], &group_importance[group], levels, Minimum::NotPositive)
    });
    let largest_scale = fits.iter().fold(0.0f32, |a, fit| a.max(fit.scale));
    let largest_minimum = fits.iter().fold(0.0f32, |a, fit| a.max(-fit.minimum));
    let mut block = AffineBlock {
        scale: stored(largest_scale / LARGEST_MULTIPLE as f32)?,
        minimum: stored(largest_minimum / LARGEST_MULTIPLE as f32)?,
        multiples: [(0, 0); 8],
        error: 0.0,
    };
    for (multiples, fit) in block.multiples.iter_mut().zip(&fits) {
        let multiple = |value: f32, unit: f32| {
            ((value * fit::inverse(unit)).round_ties_even() as i32).clamp(0, LARGEST_MULTIPLE)
        };
        *multiples = (multiple(fit.scale, block.scale), multiple(-fit.minimum, block.minimum));
    }
    improve_multiples(&mut block, groups, group_importance, levels);
    for _ in 0..ROUNDS {
        let mut next = block;
        if !refit_affine(&mut next, groups, group_importance, levels)? {
            break;
        }
        improve_multiples(&mut next, groups, group_importance, levels);
        if next.error >= block.error {
            break;
        }
        block = next;
    }
    Ok(block)
}

/// Moves every group to the best of its multiples and their neighbours, and adds up the error.
fn improve_multiples(block: &mut AffineBlock, groups: &[[f32; 32]], importance: &[[f32; 32]], levels: u8) {
    block.error = 0.0;
    for group in 0..groups.len() {
        let centre = block.multiples[group];
        let mut best = (f32::INFINITY, centre);
        for scale in centre.0 - REACH..=centre.0 + REACH {
            for minimum in centre.1 - REACH..=centre.1 + REACH {
                if [scale, minimum].iter().any(|multiple| !(0..=LARGEST_MULTIPLE).contains(multiple)) {
                    continue;
                }
                let grid = block.grid((scale, minimum));
                let error = fit::affine_error(&groups[group], &importance[group], grid, levels);
                if error < best.0 {
                    best = (error, (scale, minimum));
                }
            }
        }
        block.multiples[group] = best.1;
        block.error += best.0;
    }
}

/// The best shared scale and minimum for the quants and multiples as they are: regression of `x` on
/// `multiple·q` and `-multiple`. False where there is none better.
fn refit_affine(
    block: &mut AffineBlock,
    groups: &[[f32; 32]],
    importance: &[[f32; 32]],
    levels: u8,
) -> Result<bool, ScaleOverflow> {
    let [mut aa, mut ab, mut bb, mut ax, mut bx] = [0.0f64; 5];
    for (group, (x, w)) in groups.iter().zip(importance).enumerate() {
        let (scale, minimum) = block.multiples[group];
        let [q1, q2, xq, x1, w1] = fit::affine_moments(x, w, block.grid((scale, minimum)), levels);
        let (scale, minimum) = (f64::from(scale), -f64::from(minimum));
        aa += scale * scale * f64::from(q2);
        ab += scale * minimum * f64::from(q1);
        bb += minimum * minimum * f64::from(w1);
        ax += scale * f64::from(xq);
        bx += minimum * f64::from(x1);
    }
    let determinant = aa * bb - ab * ab;
    let (scale, minimum) = if determinant > 0.0 {
        ((ax * bb - bx * ab) / determinant, (bx * aa - ax * ab) / determinant)
    } else if aa > 0.0 {
        (ax / aa, 0.0)
    } else {
        return Ok(false);
    };
    if scale <= 0.0 || minimum < 0.0 {
        return Ok(false);
    }
    let (scale, minimum) = (stored(scale as f32)?, stored(minimum as f32)?);
    let changed = (scale, minimum) != (block.scale, block.minimum);
    (block.scale, block.minimum) = (scale, minimum);
    Ok(changed)
}

/// The inverse of [`unpack_scales`](super::k_read::unpack_scales).
fn pack_scales(multiples: &[(i32, i32); 8]) -> [u8; SCALES_AND_MINIMA] {
    let mut packed = [0; SCALES_AND_MINIMA];
    for low in 0..4 {
        let [first, second] = [multiples[low], multiples[low + 4]].map(|(s, m)| (s as u8, m as u8));
        packed[low] = first.0 | second.0 >> 4 << 6;
        packed[low + 4] = first.1 | second.1 >> 4 << 6;
        packed[low + 8] = second.0 & 15 | second.1 << 4;
    }
    packed
}

/// Writes the head and returns the quants.
fn write_affine<const BYTES: usize>(
    weights: &Weights,
    importance: &Weights,
    levels: u8,
    out: &mut [u8; BYTES],
) -> Result<[[u8; 32]; 8], ScaleOverflow> {
    let block = search_affine(weights, importance, levels)?;
    out[..2].copy_from_slice(&half_bytes(block.scale)?);
    out[2..4].copy_from_slice(&half_bytes(block.minimum)?);
    out[4..16].copy_from_slice(&pack_scales(&block.multiples));
    let groups = weights.as_chunks::<32>().0;
    Ok(std::array::from_fn(|group| {
        fit::affine_quants(&groups[group], block.grid(block.multiples[group]), levels)
    }))
}

/// Two groups share 32 bytes: the first has the low nibbles.
fn pack_group_pairs(quants: &[[u8; 32]; 8], out: &mut [u8]) {
    for (pair, bytes) in quants.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = pair[0][i] & 15 | pair[1][i] << 4;
        }
    }
}

pub(super) fn q4_k(
    weights: &Weights,
    importance: &Weights,
    out: &mut [u8; 144],
) -> Result<(), ScaleOverflow> {
    let quants = write_affine(weights, importance, 16, out)?;
    pack_group_pairs(&quants, &mut out[16..]);
    Ok(())
}

pub(super) fn q5_k(
    weights: &Weights,
    importance: &Weights,
    out: &mut [u8; 176],
) -> Result<(), ScaleOverflow> {
    let quants = write_affine(weights, importance, 32, out)?;
    for (i, byte) in out[16..48].iter_mut().enumerate() {
        *byte = quants.iter().rev().fold(0, |bits, group| bits << 1 | group[i] >> 4);
    }
    pack_group_pairs(&quants, &mut out[48..]);
    Ok(())
}

/// A block of `Q6_K`: group `j` is `scale * multiples[j] * q`.
#[derive(Clone, Copy)]
struct SymmetricBlock {
    scale: f32,
    multiples: [i32; 16],
    error: f32,
}

const Q6_LEVELS: u8 = 64;

fn search_symmetric(weights: &Weights, importance: &Weights) -> Result<SymmetricBlock, ScaleOverflow> {
    let groups = weights.as_chunks::<16>().0;
    let group_importance = importance.as_chunks::<16>().0;
    let fits: [f32; 16] =
        std::array::from_fn(|group| fit::symmetric(&groups[group], &group_importance[group], Q6_LEVELS));
    let largest = fits.iter().fold(0.0f32, |a, &b| a.max(b.abs()));
    let scale = stored(largest / 127.0)?;
    let mut block = SymmetricBlock { scale, multiples: [0; 16], error: 0.0 };
    block.multiples = fits.map(|fit| ((fit * fit::inverse(scale)).round_ties_even() as i32).clamp(-128, 127));
    improve_signed_multiples(&mut block, groups, group_importance);
    for _ in 0..ROUNDS {
        let mut next = block;
        if !refit_symmetric(&mut next, groups, group_importance)? {
            break;
        }
        improve_signed_multiples(&mut next, groups, group_importance);
        if next.error >= block.error {
            break;
        }
        block = next;
    }
    Ok(block)
}

fn improve_signed_multiples(block: &mut SymmetricBlock, groups: &[[f32; 16]], importance: &[[f32; 16]]) {
    block.error = 0.0;
    for (multiple, (x, w)) in block.multiples.iter_mut().zip(groups.iter().zip(importance)) {
        let mut best = (f32::INFINITY, *multiple);
        for candidate in (*multiple - REACH).max(-128)..=(*multiple + REACH).min(127) {
            let error = fit::symmetric_error(x, w, block.scale * candidate as f32, Q6_LEVELS);
            if error < best.0 {
                best = (error, candidate);
            }
        }
        *multiple = best.1;
        block.error += best.0;
    }
}

/// The best shared scale for the quants and multiples as they are. False where there is none better.
fn refit_symmetric(
    block: &mut SymmetricBlock,
    groups: &[[f32; 16]],
    importance: &[[f32; 16]],
) -> Result<bool, ScaleOverflow> {
    let (mut aa, mut ax) = (0.0f64, 0.0f64);
    for (&multiple, (x, w)) in block.multiples.iter().zip(groups.iter().zip(importance)) {
        let [xq, qq] = fit::symmetric_moments(x, w, block.scale * multiple as f32, Q6_LEVELS);
        aa += f64::from(multiple * multiple) * f64::from(qq);
        ax += f64::from(multiple) * f64::from(xq);
    }
    if aa <= 0.0 || ax <= 0.0 {
        return Ok(false);
    }
    let scale = stored((ax / aa) as f32)?;
    let changed = scale != block.scale;
    block.scale = scale;
    Ok(changed)
}

pub(super) fn q6_k(
    weights: &Weights,
    importance: &Weights,
    out: &mut [u8; 210],
) -> Result<(), ScaleOverflow> {
    let block = search_symmetric(weights, importance)?;
    let mut quants = [[0; 16]; 16];
    for (group, x) in weights.as_chunks::<16>().0.iter().enumerate() {
        let scale = block.scale * block.multiples[group] as f32;
        quants[group] = fit::symmetric_quants(x, scale, Q6_LEVELS);
        out[192 + group] = block.multiples[group] as i8 as u8;
    }
    out[208..].copy_from_slice(&half_bytes(block.scale)?);
    let (low, rest) = out.split_at_mut(128);
    let quarters = quants.as_flattened().as_chunks::<32>().0;
    for (half, quarters) in quarters.as_chunks::<4>().0.iter().enumerate() {
        for i in 0..32 {
            let [a, b, c, d] = quarters.map(|quarter| quarter[i]);
            low[64 * half + i] = a & 15 | c << 4;
            low[64 * half + 32 + i] = b & 15 | d << 4;
            rest[32 * half + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    Ok(())
}
