//! What the clients ask for: the requests, the same for every server.
//!
//! All servers speak `POST /completion` of llama.cpp's server, which takes tokens and goes on past the end of an answer:
//! so all of them read and write the same number of tokens, and no tokenizer or template counts for one and not another.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::ops::Range;

/// Prompts and answers, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// 128 tokens in, 128 out
    Short,
    /// 1,024 tokens in, of which 900 are shared by all, and 64 out
    Shared,
}

impl Length {
    /// Tokens of a prompt.
    #[must_use]
    pub fn prompt(self) -> usize {
        match self {
            Self::Short => 128,
            Self::Shared => 1024,
        }
    }

    /// Tokens with which all prompts begin.
    #[must_use]
    pub fn shared(self) -> usize {
        match self {
            Self::Short => 0,
            Self::Shared => 900,
        }
    }

    /// Tokens of an answer.
    #[must_use]
    pub fn answer(self) -> usize {
        match self {
            Self::Short => 128,
            Self::Shared => 64,
        }
    }
}

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The most probable one
    Greedy,
    /// Drawn at temperature 0.8 from the most probable ones that together have 95 %
    TopP,
    /// The most probable one that a JSON schema allows; answers may end before their length
    Schema,
}

/// A row of the tables: what all clients of a run ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Lengths.
    pub length: Length,
    /// How tokens are chosen.
    pub choice: Choice,
    /// Clients that ask at once, each for the next answer when it has one.
    pub clients: usize,
}

impl Work {
    /// The body of the request with this number; different numbers have different prompts.
    #[must_use]
    pub fn request(&self, number: u64) -> String {
        let mut prompt = tokens(u64::MAX, self.length.shared());
        prompt.extend(tokens(number, self.length.prompt() - self.length.shared()));
        let mut request = json!({
            "prompt": prompt,
            "n_predict": self.length.answer(),
            "stream": true,
            "cache_prompt": true,
            "seed": number % (1 << 31),
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "ignore_eos": true,
        });
        match self.choice {
            Choice::Greedy => {}
            Choice::TopP => {
                request["temperature"] = json!(0.8);
                request["top_p"] = json!(0.95);
            }
            Choice::Schema => {
                // An answer that is complete has nothing to go on with.
                request["ignore_eos"] = json!(false);
                request["json_schema"] = schema();
            }
        }
        request.to_string()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompt, shared, answer) = (self.length.prompt(), self.length.shared(), self.length.answer());
        write!(f, "{prompt} in")?;
        if shared > 0 {
            write!(f, " ({shared} shared)")?;
        }
        let choice = match self.choice {
            Choice::Greedy => "greedy",
            Choice::TopP => "top-p",
            Choice::Schema => "JSON schema",
        };
        write!(f, ", {answer} out, {choice}")
    }
}

/// An order, as an app might have a model extract it: bounded text, numbers, an enumeration, a list of objects.
fn schema() -> Value {
    let text = json!({"type": "string", "maxLength": 24});
    json!({
        "type": "object",
        "properties": {
            "customer": text,
            "status": {"type": "string", "enum": ["new", "paid", "sent", "returned"]},
            "express": {"type": "boolean"},
            "items": {
                "type": "array",
                "minItems": 3,
                "maxItems": 5,
                "items": {
                    "type": "object",
                    "properties": {"name": text, "count": {"type": "integer", "minimum": 1, "maximum": 99}},
                    "required": ["name", "count"],
                    "additionalProperties": false
                }
            },
            "note": text
        },
        "required": ["customer", "status", "express", "items", "note"],
        "additionalProperties": false
    })
}

/// Tokens that are drawn: of every vocabulary that the comparison knows, and neither special nor a single byte.
const DRAWN: Range<u64> = 1000..30_000;

/// `count` tokens, the same for the same seed (SplitMix64).
fn tokens(seed: u64, count: usize) -> Vec<u64> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        DRAWN.start + (mixed ^ (mixed >> 31)) % (DRAWN.end - DRAWN.start)
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(work: Work, number: u64) -> Vec<u64> {
        let request: Value = serde_json::from_str(&work.request(number)).unwrap();
        request["prompt"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap()).collect()
    }

    #[test]
    fn prompts_have_their_length_and_share_what_they_say() {
        for length in [Length::Short, Length::Shared] {
            let work = Work { length, choice: Choice::Greedy, clients: 1 };
            let [one, other] = [prompt(work, 1), prompt(work, 2)];
            assert_eq!((one.len(), other.len()), (length.prompt(), length.prompt()));
            let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
            assert_eq!(same, length.shared());
            assert_eq!(one, prompt(work, 1));
        }
    }

    #[test]
    fn only_a_schema_lets_an_answer_end_early() {
        let request = |choice| {
            let work = Work { length: Length::Short, choice, clients: 1 };
            serde_json::from_str::<Value>(&work.request(7)).unwrap()
        };
        assert_eq!(request(Choice::Greedy)["ignore_eos"], true);
        assert_eq!(request(Choice::TopP)["top_p"], 0.95);
        let schema = request(Choice::Schema);
        assert_eq!((&schema["ignore_eos"], schema["json_schema"].is_object()), (&json!(false), true));
    }
}
