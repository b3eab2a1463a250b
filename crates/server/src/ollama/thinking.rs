//! Thoughts: what a model writes between `<think>` and `</think>` before it answers is told apart from the answer.

use crate::error::{ApiError, ApiResult};
use crate::generate::template_source;
use crate::models::Lease;
use serde_json::{Map, Value};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
/// Tokens at a prompt's end among which an opening tag is looked for.
const TAIL: usize = 16;

/// Whether a model thinks: its template says so.
pub(super) fn thinks(template: Option<&str>) -> bool {
    template.is_some_and(|source| source.contains(OPEN) || source.contains(CLOSE))
}

/// What a request's `think` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whether the model is told to think or not to, if it is told.
    told: Option<bool>,
    /// Whether thoughts are told apart.
    apart: bool,
}

impl Wish {
    /// Reads `think`: true, false, or how much.
    ///
    /// # Errors
    /// When it is something else, or asks a model to think that does not.
    pub(super) fn read(model: &Lease, think: Option<&Value>) -> ApiResult<Wish> {
        let told = match think {
            None => None,
            Some(Value::Bool(think)) => Some(*think),
            Some(Value::String(level)) if matches!(level.as_str(), "low" | "medium" | "high") => Some(true),
            Some(_) => {
                let message = "invalid think value: it must be \"high\", \"medium\", \"low\", true or false";
                return Err(ApiError::field("think", message));
            }
        };
        let thinks = thinks(Some(template_source(model)));
        if told == Some(true) && !thinks {
            let message = format!("{:?} does not support thinking", model.requested);
            return Err(ApiError::field("think", message));
        }
        Ok(Wish { told: told.filter(|_| thinks), apart: thinks && told != Some(false) })
    }

    /// The same for a prompt that the caller wrote: thoughts are told apart only if that is asked for.
    pub(super) fn of_raw(self) -> Wish {
        Wish { apart: self.apart && self.told == Some(true), ..self }
    }

    /// What the template is told.
    pub(super) fn variables(self) -> Map<String, Value> {
        self.told.map(|told| ("enable_thinking".to_owned(), told.into())).into_iter().collect()
    }

    /// What reads the answer to a prompt. Some templates open the thoughts themselves; what has to obey a `format` has none.
    pub(super) fn reader(self, model: &Lease, prompt: &[u32], has_format: bool) -> Thinking {
        let tail = &prompt[prompt.len().saturating_sub(TAIL)..];
        let is_open =
            || !has_format && model.tokenizer.decode_spelling_specials(tail).trim_end().ends_with(OPEN);
        let state = match self.apart {
            false => State::Answer,
            true if is_open() => State::Opened,
            true => State::Start,
        };
        Thinking { state, held: String::new() }
    }
}

/// What was said: thoughts, and then the answer. Either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) thoughts: String,
    pub(super) answer: String,
}

impl Said {
    pub(super) fn is_empty(&self) -> bool {
        self.thoughts.is_empty() && self.answer.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks has come.
    Start,
    /// Thoughts begin: blanks in front of them are left out.
    Opened,
    Thoughts,
    /// The answer begins: blanks in front of it are left out.
    Closed,
    Answer,
}

/// Tells thoughts from the answer while they come.
#[derive(Debug)]
pub(super) struct Thinking {
    state: State,
    /// What may become a tag.
    held: String,
}

impl Thinking {
    /// Takes more text, and gives what is known of it.
    pub(super) fn push(&mut self, text: &str) -> Said {
        self.held.push_str(text);
        let mut said = Said::default();
        while self.step(&mut said) {}
        said
    }

    /// The answer has ended: what was held back comes now.
    pub(super) fn finish(&mut self) -> Said {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Opened | State::Thoughts => {
                Said { thoughts: held.trim_end().to_owned(), answer: String::new() }
            }
            _ => Said { thoughts: String::new(), answer: held },
        }
    }

    /// A whole answer.
    pub(super) fn whole(&mut self, text: &str) -> Said {
        let (mut said, rest) = (self.push(text), self.finish());
        said.thoughts.push_str(&rest.thoughts);
        said.answer.push_str(&rest.answer);
        said
    }

    /// Goes on to the next state; whether there is more to do.
    fn step(&mut self, said: &mut Said) -> bool {
        match self.state {
            State::Start => {
                let start = self.held.trim_start();
                if let Some(rest) = start.strip_prefix(OPEN) {
                    (self.held, self.state) = (rest.to_owned(), State::Opened);
                } else if OPEN.starts_with(start) {
                    return false;
                } else {
                    self.state = State::Answer;
                }
                true
            }
            State::Opened => self.after_blanks(State::Thoughts),
            State::Closed => self.after_blanks(State::Answer),
            State::Thoughts => {
                if let Some((thoughts, rest)) = self.held.split_once(CLOSE) {
                    said.thoughts.push_str(thoughts.trim_end());
                    (self.held, self.state) = (rest.to_owned(), State::Closed);
                    return true;
                }
                let begun = (1..CLOSE.len()).rev().find(|&bytes| self.held.ends_with(&CLOSE[..bytes]));
                let known = self.held[..self.held.len() - begun.unwrap_or(0)].trim_end().len();
                said.thoughts.extend(self.held.drain(..known));
                false
            }
            State::Answer => {
                said.answer.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }

    fn after_blanks(&mut self, next: State) -> bool {
        self.held = self.held.trim_start().to_owned();
        if !self.held.is_empty() {
            self.state = next;
        }
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinking(state: State) -> Thinking {
        Thinking { state, held: String::new() }
    }

    #[test]
    fn thoughts_are_told_apart_wherever_the_text_is_cut() {
        let cases = [
            (State::Start, "<think>\nI see. \n</think>\n\nHello <think>", "I see.", "Hello <think>"),
            (State::Start, " Hello", "", " Hello"),
            (State::Start, "<thin", "", "<thin"),
            (State::Start, "<think></think>Hello", "", "Hello"),
            (State::Start, "<think>a </thin b", "a </thin b", ""),
            (State::Opened, "\nI see.</think>Hello", "I see.", "Hello"),
            (State::Answer, "<think>a</think>b", "", "<think>a</think>b"),
        ];
        for (state, text, thoughts, answer) in cases {
            let expected = Said { thoughts: thoughts.into(), answer: answer.into() };
            assert_eq!(thinking(state).whole(text), expected, "{text}");
            let mut reader = thinking(state);
            let mut pieces: Vec<Said> =
                text.chars().map(|character| reader.push(character.encode_utf8(&mut [0; 4]))).collect();
            pieces.push(reader.finish());
            let all = |part: fn(&Said) -> &str| pieces.iter().map(part).collect::<String>();
            assert_eq!((all(|it| &it.thoughts).as_str(), all(|it| &it.answer).as_str()), (thoughts, answer));
        }
    }
}
