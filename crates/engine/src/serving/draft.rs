//! How much to draft, and drafts by prompt lookup (Saxena 2023): where the latest tokens stood before, what followed then may follow now.
//! Answers that quote their prompt, and code, are full of this. A wrong draft costs a row of a step and nothing else:
//! the sampler draws every token itself, and a draft only counts where it drew the same.
//!
//! A row costs little while few answers are in the works, since a step then waits for the weights. With more of them only
//! answers whose guesses have been right are drafted for, and nothing is with many. There a guess is held against what
//! was drawn even where it was not computed, so that it is known without a row whose guesses are right.

/// Tokens that must agree before what followed is tried.
const KEY: usize = 3;
/// Draws without a draft after one that was all wrong.
const PAUSE: u32 = 8;

/// The share of right guesses from which on a row for one more is worth its time with [`Spare::Some`]: twice the rows of 8
/// answers take 1.6 times as long.
const TRUSTED: f32 = 0.75;
/// How many guesses that share looks back, about.
const MEMORY: f32 = 8.0;

/// What the machine has to spare for guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spare {
    /// Rows: a step waits for the weights.
    Rows,
    /// A row for a guess that is probably right.
    Some,
    Nothing,
}

impl Spare {
    /// With so many answers that are being decoded.
    pub(super) fn beside(decoding: usize) -> Spare {
        match decoding {
            0..=4 => Spare::Rows,
            5..=8 => Spare::Some,
            _ => Spare::Nothing,
        }
    }
}

/// How an answer's drafts have fared.
#[derive(Clone, Debug)]
pub(super) struct Drafting {
    most: usize,
    length: usize,
    pause: u32,
    /// What the next token was guessed to be.
    expected: Option<u32>,
    /// The share of such guesses that were right, later ones counting more.
    trust: f32,
    /// Whether the last draft was such a guess alone, which says nothing of how long drafts may be.
    single: bool,
}

impl Drafting {
    /// Drafts of at most so many tokens.
    pub(super) fn new(most: usize) -> Drafting {
        Drafting { most, length: most.min(2), pause: 0, expected: None, trust: 0.0, single: false }
    }

    /// A draft of what may follow `tokens`, at most `room` long.
    pub(super) fn draft(&mut self, tokens: &[u32], room: usize, spare: Spare) -> Vec<u32> {
        let guess = match spare {
            Spare::Rows => lookup(tokens, self.length(room)),
            Spare::Some => lookup(tokens, room.min(1)),
            Spare::Nothing => Vec::new(),
        };
        self.expected = guess.first().copied();
        self.single = spare == Spare::Some;
        if spare == Spare::Some && self.trust < TRUSTED { Vec::new() } else { guess }
    }

    /// How many tokens to try now, at most `room`.
    pub(super) fn length(&self, room: usize) -> usize {
        match self.pause {
            0 => self.length.min(room),
            _ => 0,
        }
    }

    /// Goes on by a draw, whose first token is this.
    pub(super) fn tick(&mut self, drawn: u32) {
        self.pause = self.pause.saturating_sub(1);
        if let Some(expected) = self.expected.take() {
            let right = f32::from(u8::from(expected == drawn));
            self.trust += (right - self.trust) / MEMORY;
        }
    }

    /// Takes note that `accepted` of `drafted` tokens were right.
    pub(super) fn note(&mut self, drafted: usize, accepted: usize) {
        if std::mem::take(&mut self.single) || drafted == 0 {
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
        assert_eq!(drafting.draft(&text, 8, Spare::Rows).len(), 2);
        drafting.note(2, 2);
        assert_eq!(drafting.draft(&text, 8, Spare::Rows).len(), 4);
        drafting.note(4, 0);
        for _ in 0..PAUSE {
            assert_eq!(drafting.draft(&text, 8, Spare::Rows).len(), 0);
            drafting.tick(9);
        }
        assert_eq!(drafting.draft(&text, 8, Spare::Rows).len(), 2);
    }

    #[test]
    fn among_some_answers_one_whose_guesses_are_right_is_drafted_for() {
        let text = [1, 2, 3, 4, 5, 6, 1, 2, 3];
        let drawn_until = |drafting: &mut Drafting, wanted: usize, drawn: u32| {
            let draws = (0..100).find(|_| {
                let length = drafting.draft(&text, 8, Spare::Some).len();
                drafting.tick(drawn);
                drafting.note(length, usize::from(length == 1 && drawn == 4));
                length == wanted
            });
            draws.expect("guesses come to be trusted, or not")
        };
        let mut drafting = Drafting::new(8);
        assert!(drawn_until(&mut drafting, 1, 4) > 4, "not before some were right");
        assert_eq!(drafting.draft(&text, 0, Spare::Some), [0u32; 0]);
        assert_eq!(drafting.draft(&text, 8, Spare::Nothing), [0u32; 0]);
        assert!(drawn_until(&mut drafting, 0, 9) < 4, "not for long when they are wrong");
        assert_eq!(
            drafting.draft(&text, 8, Spare::Rows).len(),
            2,
            "nor does that change drafts when few answers are left"
        );
    }

    #[test]
    fn how_many_answers_leave_rows_to_spare() {
        let spare = [0, 1, 4, 5, 8, 9, 1000].map(Spare::beside);
        assert_eq!(spare[..3], [Spare::Rows; 3]);
        assert_eq!(spare[3..5], [Spare::Some; 2]);
        assert_eq!(spare[5..], [Spare::Nothing; 2]);
    }
}
