//! From an answer's tokens to what its caller hears. Where stop strings are looked for, a token is told when some of its
//! text is certain: tokens of a stop string are never told, and what was told is always the tokens of the text.

use super::job::TokenOutput;
use crate::stop::FinishReason;
use crate::writer::Writer;
use std::collections::VecDeque;

/// A token to be told, and the text that is certain with it.
pub(super) type Told = (TokenOutput, String);

/// What tells one answer.
#[derive(Debug)]
pub(super) struct Teller {
    writer: Writer,
    /// Tokens that are not told, with where their text begins: in bytes of the whole.
    held: VecDeque<(TokenOutput, usize)>,
    /// Text that is certain and was not told.
    certain: String,
    /// How many bytes were told.
    told: usize,
}

impl Teller {
    pub(super) fn new(writer: Writer) -> Teller {
        Teller { writer, held: VecDeque::new(), certain: String::new(), told: 0 }
    }

    /// Takes a token; returns what can be told now, and the stop string that it completed.
    pub(super) fn push(&mut self, token: TokenOutput) -> (Vec<Told>, Option<String>) {
        let start = self.writer.bytes_read();
        let released = self.writer.push(token.token);
        if !self.writer.looks_for_stops() {
            return (vec![(token, released.text)], None);
        }
        self.held.push_back((token, start));
        self.certain.push_str(&released.text);
        let end = self.told + self.certain.len();
        if released.stop.is_some() {
            self.held.retain(|(_, start)| *start < end);
        }
        let all = released.stop.is_some() || !self.writer.holds_back();
        let count = if all { self.held.len() } else { self.held.partition_point(|(_, start)| *start < end) };
        (self.take(count), released.stop)
    }

    /// Tells what was held back of an answer that ended so, and returns the text behind it that no token is left for.
    pub(super) fn finish(&mut self, reason: &FinishReason) -> (Vec<Told>, String) {
        if !matches!(reason, FinishReason::StopString(_)) {
            self.certain.push_str(&self.writer.finish());
        }
        let told = self.take(self.held.len());
        (told, std::mem::take(&mut self.certain))
    }

    /// The first `count` tokens, each with the text up to the next one's.
    fn take(&mut self, count: usize) -> Vec<Told> {
        let ends: Vec<Option<usize>> =
            (1..=count).map(|next| self.held.get(next).map(|(_, start)| *start)).collect();
        let taken: Vec<TokenOutput> = self.held.drain(..count).map(|(token, _)| token).collect();
        let tell = |(token, end): (TokenOutput, Option<usize>)| {
            let rest = self.certain.len();
            let length = end.map_or(rest, |end| end.saturating_sub(self.told).min(rest));
            let behind = self.certain.split_off(length);
            self.told += length;
            (token, std::mem::replace(&mut self.certain, behind))
        };
        taken.into_iter().zip(ends).map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SamplerSettings;
    use alti_text::Tokenizer;

    /// Tells the tokens of a text, letter by letter but for words in brackets, until a stop string.
    fn told(stops: &[&str], tokens: &[u32]) -> (Vec<(u32, String)>, String) {
        let vocabulary = r#"{ "E": 0, "N": 1, "D": 2, "x": 3, "xE": 4, "Ã": 5, "©": 6 }"#;
        let file = format!(
            r#"{{ "model": {{ "type": "BPE", "vocab": {vocabulary}, "merges": [] }},
                "pre_tokenizer": {{ "type": "ByteLevel", "add_prefix_space": false }},
                "decoder": {{ "type": "ByteLevel" }} }}"#
        );
        let tokenizer = Tokenizer::from_hugging_face(&file, None).unwrap();
        let stop = stops.iter().map(|&stop| stop.to_owned()).collect();
        let settings = SamplerSettings { stop, ..SamplerSettings::default() };
        let mut teller = Teller::new(Writer::new(&tokenizer, &settings, false));
        let (mut all, mut reason) = (Vec::new(), FinishReason::Length);
        for &token in tokens {
            let (told, stop) = teller.push(TokenOutput { token, logprob: None, top: Vec::new() });
            all.extend(told);
            if let Some(stop) = stop {
                reason = FinishReason::StopString(stop);
                break;
            }
        }
        let (rest, text) = teller.finish(&reason);
        all.extend(rest);
        (all.into_iter().map(|(token, text)| (token.token, text)).collect(), text)
    }

    #[track_caller]
    fn check(stops: &[&str], tokens: &[u32], expected: &[(u32, &str)], rest: &str) {
        let expected: Vec<_> = expected.iter().map(|(token, text)| (*token, (*text).to_owned())).collect();
        assert_eq!(told(stops, tokens), (expected, rest.to_owned()));
    }

    #[test]
    fn no_token_of_a_stop_string_is_told() {
        check(&["END"], &[3, 0, 1, 2, 3], &[(3, "x")], "");
        check(&["END"], &[3, 0, 1, 3], &[(3, "x"), (0, "E"), (1, "N"), (3, "x")], "");
        check(&["END"], &[3, 0, 1], &[(3, "x"), (0, "E"), (1, "N")], "");
        // A token that is partly text is told with that part.
        check(&["END"], &[4, 1, 2], &[(4, "x")], "");
        check(&["END"], &[4, 3], &[(4, "x"), (3, "Ex")], "");
        // Half a character may be one of a stop string's.
        check(&["é"], &[3, 5, 6], &[(3, "x")], "");
        check(&["éx"], &[5, 6, 0], &[(5, ""), (6, "é"), (0, "E")], "");
        check(&[], &[3, 5, 6, 5], &[(3, "x"), (5, ""), (6, "é"), (5, "")], "\u{fffd}");
        check(&["END"], &[5], &[(5, "\u{fffd}")], "");
    }
}
