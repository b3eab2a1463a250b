//! Penalties for tokens already seen: repetition (Keskar et al., "CTRL", 2019,
//! <https://arxiv.org/abs/1909.05858>, with the usual correction that a negative logit is
//! multiplied, since dividing it would reward the repetition), frequency (per occurrence) and
//! presence (once). Prompt tokens count, as they do in llama.cpp.

use super::candidates::Candidates;
use super::history::History;
use std::collections::HashMap;

/// The three penalties over one window of the latest tokens.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    pub(super) repeat: f32,
    pub(super) frequency: f32,
    pub(super) presence: f32,
    /// How many of the latest tokens count.
    pub(super) window: usize,
    /// Occurrences of each token within the window; never 0.
    counts: HashMap<u32, u32>,
}

impl Penalties {
    pub(super) fn new(repeat: f32, frequency: f32, presence: f32, window: usize) -> Self {
        Self { repeat, frequency, presence, window, counts: HashMap::new() }
    }

    /// Whether the penalties change nothing.
    pub(super) fn is_neutral(&self) -> bool {
        self.window == 0 || (self.repeat == 1.0 && self.frequency == 0.0 && self.presence == 0.0)
    }

    /// Moves the window to the latest token of `history`.
    pub(super) fn accept(&mut self, history: &History) {
        let Some(entering) = history.get(0) else { return };
        *self.counts.entry(entering).or_insert(0) += 1;
        let Some(leaving) = history.get(self.window) else { return };
        if let Some(count) = self.counts.get_mut(&leaving) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&leaving);
            }
        }
    }

    pub(super) fn apply(&self, candidates: &mut Candidates) {
        candidates.adjust(&self.counts, |logit, &count| {
            let repeated = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
            repeated - count as f32 * self.frequency - self.presence
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::testing::check;
    use super::Penalties;

    fn after(mut penalties: Penalties, tokens: &[u32]) -> Penalties {
        let mut history = History::new(penalties.window + 1);
        for &token in tokens {
            history.push(token);
            penalties.accept(&history);
        }
        penalties
    }

    #[test]
    fn vectors_of_llama_cpp() {
        let even = [0.2; 5];
        let cases: [(&[u32], f32, f32, [f32; 5]); 6] = [
            (&[0], 50.0, 0.0, [0.0, 0.25, 0.25, 0.25, 0.25]),
            (&[0, 1, 2], 50.0, 0.0, [0.0, 0.0, 0.0, 0.5, 0.5]),
            (&[0, 1, 2, 0, 0], 50.0, 0.0, [0.0, 0.0, 0.0, 0.5, 0.5]),
            (&[0], 1.0, 5.0, [0.000011, 0.249997, 0.249997, 0.249997, 0.249997]),
            (&[0, 1, 2], 1.0, 5.0, [0.000023, 0.000023, 0.000023, 0.499966, 0.499966]),
            (&[0, 1, 2, 0, 0], 1.0, 5.0, [0.000000, 0.000023, 0.000023, 0.499977, 0.499977]),
        ];
        for (tokens, repeat, additive, expected) in cases {
            let penalties = after(Penalties::new(repeat, additive, additive, tokens.len()), tokens);
            check(&even, |list| penalties.apply(list), &expected);
        }
    }

    #[test]
    fn a_token_that_left_the_window_is_free_again() {
        let penalties = after(Penalties::new(50.0, 0.0, 0.0, 2), &[0, 0, 1, 2]);
        check(&[0.25; 4], |list| penalties.apply(list), &[0.5, 0.0, 0.0, 0.5]);
    }
}
