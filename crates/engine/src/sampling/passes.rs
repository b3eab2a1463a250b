//! Passes over a row of logits. Each is a loop that compiles to vector instructions, once for each instruction set; which
//! of them runs is decided at run time. A pass gives the same bits whichever it is: sums have a fixed number of parts, and
//! nothing is contracted to fused operations.

use super::exponential::exponential;
use pulp::{Arch, NullaryFnOnce};

/// Running sums and maxima of a pass, so that none waits for the one before it.
const LANES: usize = 16;

/// A row is gone through in pieces of this length: one comparison tells that nothing in it matters.
pub(super) const PIECE: usize = 32;

/// The largest of `values` and the first index that has it, or none if there are none; NaN is the caller's to exclude.
pub(super) fn largest(values: &[f32]) -> Option<(usize, f32)> {
    let best = Arch::new().dispatch(Maximum(values));
    let (number, piece) = values.chunks(PIECE).enumerate().find(|(_, piece)| reaches(piece, best))?;
    let within = piece.iter().position(|&value| value == best)?;
    Some((number * PIECE + within, piece[within]))
}

/// Whether any logit of a piece is at least `least`. Without an early exit, so that it compiles to vector instructions.
pub(super) fn reaches(piece: &[f32], least: f32) -> bool {
    piece.iter().fold(false, |reached, &logit| reached | (logit >= least))
}

/// The sum of `exp(logit - maximum)` over `logits`, none of which is larger than `maximum`.
pub(super) fn total_weight(logits: &[f32], maximum: f32) -> f64 {
    Arch::new().dispatch(TotalWeight { logits, maximum })
}

/// Distances from the best logit at which a nucleus is looked for: one pass over the row tells all of them.
pub(super) const DEPTHS: [f32; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0];

/// For each of `least`, the sum of `exp(logit - maximum)` over the logits that are at least that, to a relative 1e-5.
pub(super) fn weights_from<const N: usize>(logits: &[f32], maximum: f32, least: [f32; N]) -> [f64; N] {
    Arch::new().dispatch(WeightsFrom { logits, maximum, least })
}

/// Divides all logits by `divisor`; what is beyond the range of `f32` is clamped, and minus infinity stays.
pub(super) fn divide(logits: &mut [f32], divisor: f32) {
    Arch::new().dispatch(Divide { logits, divisor });
}

struct Maximum<'a>(&'a [f32]);

impl NullaryFnOnce for Maximum<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let mut maxima = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for (maximum, &value) in maxima.iter_mut().zip(chunk) {
                *maximum = if value > *maximum { value } else { *maximum };
            }
        }
        maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

struct TotalWeight<'a> {
    logits: &'a [f32],
    maximum: f32,
}

impl NullaryFnOnce for TotalWeight<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let (chunks, rest) = self.logits.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for chunk in chunks {
            let mut weights = [0.0; LANES];
            for (weight, &logit) in weights.iter_mut().zip(chunk) {
                *weight = exponential(logit - self.maximum);
            }
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += f64::from(weight);
            }
        }
        let rest = rest.iter().map(|&logit| f64::from(exponential(logit - self.maximum))).sum::<f64>();
        sums.iter().sum::<f64>() + rest
    }
}

struct WeightsFrom<'a, const N: usize> {
    logits: &'a [f32],
    maximum: f32,
    least: [f32; N],
}

impl<const N: usize> NullaryFnOnce for WeightsFrom<'_, N> {
    type Output = [f64; N];

    #[inline(always)]
    fn call(self) -> [f64; N] {
        /// Sums of one threshold: as many of them all as there are registers for.
        const SUMS: usize = 8;
        /// Chunks that are added up in single precision.
        const STRETCH: usize = 32;
        let (chunks, rest) = self.logits.as_chunks::<SUMS>();
        let mut totals = [0.0; N];
        for stretch in chunks.chunks(STRETCH) {
            let mut sums = [[0.0; SUMS]; N];
            for chunk in stretch {
                let mut weights = [0.0; SUMS];
                for (weight, &logit) in weights.iter_mut().zip(chunk) {
                    *weight = exponential(logit - self.maximum);
                }
                for (sums, least) in sums.iter_mut().zip(self.least) {
                    for ((sum, weight), &logit) in sums.iter_mut().zip(weights).zip(chunk) {
                        *sum += if logit >= least { weight } else { 0.0 };
                    }
                }
            }
            for (total, sums) in totals.iter_mut().zip(sums) {
                *total += f64::from(sums.iter().sum::<f32>());
            }
        }
        for &logit in rest {
            for (total, least) in totals.iter_mut().zip(self.least) {
                *total += if logit >= least { f64::from(exponential(logit - self.maximum)) } else { 0.0 };
            }
        }
        totals
    }
}

struct Divide<'a> {
    logits: &'a mut [f32],
    divisor: f32,
}

impl NullaryFnOnce for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for logit in self.logits {
            let quotient = (*logit / self.divisor).clamp(f32::MIN, f32::MAX);
            *logit = if *logit == f32::NEG_INFINITY { *logit } else { quotient };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_is_the_first_of_them(
            values in prop::collection::vec((-9i8..9).prop_map(f32::from), 0..80)
        ) {
            let mut expected: Option<(usize, f32)> = None;
            for (index, &value) in values.iter().enumerate() {
                if expected.is_none_or(|(_, best)| value > best) {
                    expected = Some((index, value));
                }
            }
            prop_assert_eq!(largest(&values), expected);
        }

        /// The machine's best instructions and the least that a machine has.
        #[test]
        fn every_instruction_set_gives_the_same_bits(logits in prop::collection::vec(-85f32..1.0, 0..200)) {
            let total = TotalWeight { logits: &logits, maximum: 1.0 }.call();
            prop_assert_eq!(total_weight(&logits, 1.0).to_bits(), total.to_bits());
            prop_assert_eq!(Arch::new().dispatch(Maximum(&logits)).to_bits(), Maximum(&logits).call().to_bits());
            let exact: f64 = logits.iter().map(|&logit| f64::from(logit - 1.0).exp()).sum();
            prop_assert!((total - exact).abs() <= 1e-6 * exact);
        }

        #[test]
        fn weights_from_a_logit_are_those_of_the_rest(logits in prop::collection::vec(-20f32..1.0, 0..900)) {
            let least = DEPTHS.map(|depth| 1.0 - depth);
            let weights = weights_from(&logits, 1.0, least);
            prop_assert_eq!(weights, WeightsFrom { logits: &logits, maximum: 1.0, least }.call());
            for (weight, least) in weights.into_iter().zip(least) {
                let kept = logits.iter().filter(|&&logit| logit >= least);
                let exact: f64 = kept.map(|&logit| f64::from(logit - 1.0).exp()).sum();
                prop_assert!((weight - exact).abs() <= 1e-5 * exact, "{} for {}", weight, exact);
            }
        }

        #[test]
        fn division_clamps_and_leaves_what_is_out_of_play(
            logits in prop::collection::vec(prop_oneof![-3e38f32..3e38, Just(f32::NEG_INFINITY)], 0..60)
        ) {
            let mut divided = logits.clone();
            divide(&mut divided, 0.5);
            for (divided, logit) in divided.into_iter().zip(logits) {
                let expected = if logit == f32::NEG_INFINITY { logit } else { (logit / 0.5).clamp(f32::MIN, f32::MAX) };
                prop_assert_eq!(divided, expected);
            }
        }
    }
}
