//! How much to draft, and drafts by prompt lookup (Saxena 2023): where the latest tokens stood before, what followed then may follow now.
//! Answers that quote their prompt, and code, are full of this. A wrong draft costs a row of a step and nothing else:
//! the sampler draws every token itself, and a draft only counts where it drew the same.

/// Tokens that must agree before what followed is tried.
const KEY: usize = 3;
/// Draws without a draft after one that was all wrong.
const PAUSE: u32 = 8;

/// How an answer's drafts have fared.
#[derive(Clone, Debug)]
pub(super) struct Drafting {
    most: usize,
    length: usize,
    pause: u32,
}

impl Drafting {
    /// Drafts of at most so many tokens.
    pub(super) fn new(most: usize) -> Drafting {
        Drafting { most, length: most.min(2), pause: 0 }
    }

    /// A draft of what may follow `tokens`, at most `room` long.
    pub(super) fn draft(&self, tokens: &[u32], room: usize) -> Vec<u32> {
        lookup(tokens, self.length(room))
    }

    /// How many tokens to try now, at most `room`.
    pub(super) fn length(&self, room: usize) -> usize {
        match self.pause {
            0 => self.length.min(room),
            _ => 0,
        }
    }

    /// Goes on by a draw.
    pub(super) fn tick(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }

    /// Takes note that `accepted` of `drafted` tokens were right.
    pub(super) fn note(&mut self, drafted: usize, accepted: usize) {
        if drafted == 0 {
            return;
        }
        if accepted == drafted {
            self.length = (2 * self.length).min(self.most);
        } else if accepted == 0 {
            (self.length, self.pause) = (self.most.min(2), PAUSE);
        } else {
            self.length = accepted.max(2).min(self.most);
        }
    }
}

/// What followed the latest earlier occurrence of the last [`KEY`] tokens, at most `most` tokens of it; where that reaches
/// the end of the text, the draft goes on as it began.
fn lookup(tokens: &[u32], most: usize) -> Vec<u32> {
    let Some(before) = tokens.len().checked_sub(KEY) else { return Vec::new() };
    let (text, key) = (&tokens[..tokens.len() - 1], &tokens[before..]);
    let Some(at) = text.windows(KEY).rposition(|window| window == key) else { return Vec::new() };
    let period = &tokens[at + KEY..];
    period.iter().cycle().take(most).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_tried_again() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 1, 2, 3], 7), [4, 5, 1, 2, 3, 4, 5]);
        assert_eq!(lookup(&[1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 1), [8], "the latest counts");
        assert_eq!(lookup(&[7, 7, 7, 7], 3), [7, 7, 7], "overlapping itself");
        assert_eq!(lookup(&[1, 2, 3], 4), [0u32; 0]);
        assert_eq!(lookup(&[1], 4), [0u32; 0]);
    }

    #[test]
    fn wrong_drafts_are_followed_by_a_pause() {
        let mut drafting = Drafting::new(8);
        let text = [1, 2, 3, 4, 5, 6, 1, 2, 3];
        assert_eq!(drafting.draft(&text, 8).len(), 2);
        drafting.note(2, 2);
        assert_eq!(drafting.draft(&text, 8).len(), 4);
        drafting.note(4, 0);
        for _ in 0..PAUSE {
            assert_eq!(drafting.draft(&text, 8).len(), 0);
            drafting.tick();
        }
        assert_eq!(drafting.draft(&text, 8).len(), 2);
    }
}
