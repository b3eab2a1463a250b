//! Rotary position embedding as configurations describe it: base and context extension, and the
//! inverse frequencies that follow. It is here and not with the model because GGUF stores Llama 3's
//! scaling as one divisor per frequency, so that conversion must compute and recognise them.

use std::f64::consts::PI;

/// Rotary position embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: pair `i` turns by `position * theta^(-2i / head_dim)` radians.
    pub theta: f32,
    /// How the frequencies are changed for contexts longer than the pre-training's.
    pub scaling: RopeScaling,
}

/// Changes of the rotary frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's scaling by wavelength `l = 2 pi / f`: `f` where `l < original / high`,
    /// `f / factor` where `l > original / low`, and in between
    /// `(1 - m) f / factor + m f` with `m = (original / l - low) / (high - low)`.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// `low_freq_factor`.
        low: f32,
        /// `high_freq_factor`; equal to `low` where there is no band in between (Llama 4 Scout).
        high: f32,
        /// Context length of the pre-training, in tokens.
        original_context: u32,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>): interpolates the long wavelengths, keeps the
    /// short ones.
    Yarn {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// Context length of the pre-training, in tokens.
        original_context: u32,
        /// Rotations over the original context above which a frequency is kept (usually 32).
        beta_fast: f32,
        /// Rotations below which it is fully interpolated (usually 1).
        beta_slow: f32,
        /// Factor on queries' and keys' rotated values; `None` for YaRN's `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
    },
    /// One divisor per frequency, `head_dim / 2` of them, from a GGUF's `rope_freqs` that no Llama
    /// 3 parameters reproduce.
    Divisors(Vec<f32>),
}

impl Rope {
    /// Angle per position of each pair of a head, `head_dim / 2` values, scaling applied.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let pairs = head_dim / 2;
        let base = |pair: usize| f64::from(self.theta).powf(-2.0 * pair as f64 / head_dim as f64);
        match &self.scaling {
            RopeScaling::None => (0..pairs).map(|i| base(i) as f32).collect(),
            RopeScaling::Linear { factor } => {
                (0..pairs).map(|i| (base(i) / f64::from(*factor)) as f32).collect()
            }
            RopeScaling::Llama3 { factor, low, high, original_context } => (0..pairs)
                .map(|i| {
                    let f = base(i);
                    (f / llama3_divisor(f, *factor, *low, *high, *original_context)) as f32
                })
                .collect(),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                let ramp = YarnRamp::new(head_dim, self.theta, *original_context, *beta_fast, *beta_slow);
                (0..pairs)
                    .map(|i| {
                        let kept = 1.0 - ramp.interpolated(i);
                        (base(i) * ((1.0 - kept) / f64::from(*factor) + kept)) as f32
                    })
                    .collect()
            }
            RopeScaling::Divisors(divisors) => {
                (0..pairs).zip(divisors).map(|(i, divisor)| (base(i) / f64::from(*divisor)) as f32).collect()
            }
        }
    }

    /// Factor on the rotated queries and keys: 1 except with YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor: Some(given), .. } => given,
            RopeScaling::Yarn { factor, .. } => yarn_attention(factor),
            _ => 1.0,
        }
    }

    /// The divisors of GGUF's `rope_freqs.weight`, where this scaling is stored in that way.
    pub fn divisors(&self, head_dim: usize) -> Option<Vec<f32>> {
        match &self.scaling {
            RopeScaling::Llama3 { factor, low, high, original_context } => {
                Some(llama3_divisors(self.theta, head_dim, *factor, *low, *high, *original_context))
            }
            RopeScaling::Divisors(divisors) => Some(divisors.clone()),
            _ => None,
        }
    }

    /// Finds the Llama 3 parameters that give `divisors`, to within their last bits. The original
    /// context and the frequency factors are known only by their quotients: `original_context`,
    /// where the file names one, decides, and otherwise what Llama models have used.
    pub fn recognise_llama3(
        theta: f32,
        head_dim: usize,
        divisors: &[f32],
        original_context: Option<u32>,
    ) -> Option<RopeScaling> {
        if divisors.len() != head_dim / 2 {
            return None;
        }
        let factor = divisors.iter().copied().fold(1.0f32, f32::max);
        let contexts = original_context.into_iter().chain([8192]).chain((4..24).map(|bit| 1 << bit));
        for original_context in contexts {
            for (low, high) in [(1.0, 4.0), (1.0, 1.0), (1.0, 2.0), (1.0, 8.0), (1.0, 16.0), (1.0, 32.0)] {
                let ours = llama3_divisors(theta, head_dim, factor, low, high, original_context);
                if ours.iter().zip(divisors).all(|(a, b)| (a - b).abs() <= 2e-6 * a.abs()) {
                    return Some(RopeScaling::Llama3 { factor, low, high, original_context });
                }
            }
        }
        None
    }
}

fn llama3_divisors(theta: f32, head_dim: usize, factor: f32, low: f32, high: f32, original: u32) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
            llama3_divisor(frequency, factor, low, high, original) as f32
        })
        .collect()
}

fn llama3_divisor(frequency: f64, factor: f32, low: f32, high: f32, original: u32) -> f64 {
    let (factor, low, high) = (f64::from(factor), f64::from(low), f64::from(high));
    let rotations = f64::from(original) * frequency / (2.0 * PI);
    if rotations > high {
        1.0
    } else if rotations < low || high == low {
        factor
    } else {
        let kept = (rotations - low) / (high - low);
        1.0 / ((1.0 - kept) / factor + kept)
    }
}

/// YaRN's own factor on rotated queries and keys: `0.1 ln(factor) + 1`, and 1 where nothing is
/// extended.
pub(crate) fn yarn_attention(factor: f32) -> f32 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

/// Where YaRN interpolates: not at all up to pair `first`, fully from pair `last` on.
struct YarnRamp {
    first: f64,
    last: f64,
}

impl YarnRamp {
    fn new(head_dim: usize, theta: f32, original_context: u32, beta_fast: f32, beta_slow: f32) -> Self {
        let pair_that_rotates = |rotations: f32| {
            let wavelength = f64::from(original_context) / (2.0 * PI * f64::from(rotations));
            head_dim as f64 * wavelength.ln() / (2.0 * f64::from(theta).ln())
        };
        let first = pair_that_rotates(beta_fast).floor().max(0.0);
        let last = pair_that_rotates(beta_slow).ceil().min(head_dim as f64 - 1.0);
        Self { first, last: if last > first { last } else { first + 0.001 } }
    }

    fn interpolated(&self, pair: usize) -> f64 {
        ((pair as f64 - self.first) / (self.last - self.first)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_llama3(head_dim: usize, factor: f32, high: f32, expected: [f64; 5]) {
        let scaling = RopeScaling::Llama3 { factor, low: 1.0, high, original_context: 8192 };
        let rope = Rope { theta: 500_000.0, scaling: scaling.clone() };
        let f = rope.inverse_frequencies(head_dim);
        let quarter = head_dim / 4;
        let found = [f[0], f[quarter - 3], f[quarter], f[quarter + 3], f[head_dim / 2 - 1]];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() <= 1e-6 * expected, "{found} is not {expected}");
        }
        let divisors = rope.divisors(head_dim).expect("Llama 3 scaling has divisors");
        assert_eq!(Rope::recognise_llama3(500_000.0, head_dim, &divisors, None), Some(scaling));
    }

    #[test]
    fn llama_3_scaling_has_the_published_frequencies_and_is_recognised() {
        check_llama3(128, 8.0, 4.0, [1.0, 2.166570764e-3, 5.248461610e-4, 9.556212354e-5, 3.068925989e-7]);
        check_llama3(128, 32.0, 4.0, [1.0, 2.118406997e-3, 4.295567966e-4, 2.389053088e-5, 7.672314972e-8]);
        check_llama3(64, 32.0, 4.0, [1.0, 4.839421346e-3, 4.295567966e-4, 1.291476719e-5, 9.418306725e-8]);
    }

    #[test]
    fn equal_factors_leave_no_band_between() {
        let scaling = RopeScaling::Llama3 { factor: 16.0, low: 1.0, high: 1.0, original_context: 8192 };
        let divisors = Rope { theta: 500_000.0, scaling }.divisors(128).expect("divisors");
        assert_eq!(divisors.iter().filter(|&&d| d == 1.0).count(), 35);
        assert_eq!(divisors.iter().filter(|&&d| d == 16.0).count(), 29);
    }

    #[test]
    fn other_divisors_stay_divisors() {
        assert_eq!(Rope::recognise_llama3(1e4, 8, &[1.0, 3.0, 2.0, 8.0], None), None);
    }
}
