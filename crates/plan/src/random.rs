//! Random numbers of simulations: the same seed gives the same plan on every machine.

/// A generator (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A number from 0 to 1, neither of them.
    pub fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A time until the next of events that come every `mean` on average, independently.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    /// A number of the triangular distribution from `low` to `high` with its peak at `likely`.
    pub fn triangular(&mut self, low: f64, likely: f64, high: f64) -> f64 {
        let span = high - low;
        if span <= 0.0 {
            return likely;
        }
        let u = self.uniform();
        let turn = (likely - low) / span;
        match u < turn {
            true => low + (u * span * (likely - low)).sqrt(),
            false => high - ((1.0 - u) * span * (high - likely)).sqrt(),
        }
    }
}

/// The value below which a part of the values lies (nearest rank); the values are sorted by it.
#[must_use]
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let index = (part * values.len() as f64).ceil() as usize;
    values[index.clamp(1, values.len()) - 1]
}
