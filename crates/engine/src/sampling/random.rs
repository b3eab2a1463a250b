//! Random numbers as a pure function of (seed, choice, position), because a sequence must draw the
//! same token at a position however it got there: preempted and resumed, speculated and rolled
//! back, or batched with strangers. A stateful generator would have to be rewound in each case; a
//! counter-based one has nothing to rewind.
//!
//! The function is Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel
//! random numbers: as easy as 1, 2, 3", SC '11, <https://doi.org/10.1145/2063384.2063405>.

use std::hash::{BuildHasher, RandomState};

/// Round multipliers (paper, section 3.3).
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Key increments: the golden ratio and sqrt(3) - 1 as 32-bit fractions (same section).
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What a number is drawn for: two uses at one position must not see the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Choosing the token.
    Token = 0,
    /// Deciding whether XTC acts.
    ExcludeTopChoices = 1,
}

/// The random numbers of one choice (one of the `n` answers) of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RandomNumbers {
    /// Shared by all choices of a request.
    pub(super) seed: u64,
    /// Index of the answer, from 0.
    pub(super) choice: u32,
}

impl RandomNumbers {
    /// A number in [0, 1) with 53 random bits for the token at absolute `position`.
    pub(super) fn uniform(self, position: u64, purpose: Purpose) -> f64 {
        let counter = [position as u32, (position >> 32) as u32, self.choice, purpose as u32];
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let [low, high, ..] = philox4x32(counter, key);
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

/// Philox4x32-10: four words that look independent for every (counter, key).
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let first = u64::from(counter[0]) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(counter[2]) * u64::from(MULTIPLIERS[1]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(KEY_INCREMENTS[0]), key[1].wrapping_add(KEY_INCREMENTS[1])];
    }
    counter
}

/// A seed nobody chose. The standard library's hash keys come from the operating system's
/// generator and differ at every call, which is all that a seed needs.
pub(super) fn fresh_seed() -> u64 {
    RandomState::new().hash_one("sampler seed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three `philox4x32 10` lines of `tests/kat_vectors` of the authors' Random123 library.
    #[test]
    fn philox_gives_the_published_known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let number =
            |seed, choice, position, purpose| RandomNumbers { seed, choice }.uniform(position, purpose);
        let base = number(7, 0, 100, Purpose::Token);
        assert_eq!(base, number(7, 0, 100, Purpose::Token));
        assert_ne!(base, number(8, 0, 100, Purpose::Token));
        assert_ne!(base, number(7 + (1 << 32), 0, 100, Purpose::Token));
        assert_ne!(base, number(7, 1, 100, Purpose::Token));
        assert_ne!(base, number(7, 0, 101, Purpose::Token));
        assert_ne!(base, number(7, 0, 100 + (1 << 32), Purpose::Token));
        assert_ne!(base, number(7, 0, 100, Purpose::ExcludeTopChoices));
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let numbers = RandomNumbers { seed: 3, choice: 0 };
        let mut buckets = [0u32; 16];
        for position in 0..160_000 {
            let number = numbers.uniform(position, Purpose::Token);
            assert!((0.0..1.0).contains(&number));
            buckets[(number * 16.0) as usize] += 1;
        }
        let chi_square: f64 = buckets.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
        assert!(chi_square < 37.7, "15 degrees of freedom, 0.1 % level: {chi_square}");
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
