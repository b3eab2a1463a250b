//! JSON, read one character at a time: whether it may go on so, and where a value ends.

/// No value is nested deeper.
const MAX_DEPTH: usize = 128;

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on.
    More,
    /// The value ended with this character.
    Done,
    /// The value ended before this character, which is not part of it (numbers).
    Before,
    /// No JSON begins so.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come; `empty`: or the end of a list.
    Value {
        empty: bool,
    },
    /// A key must come; `empty`: or the end of an object.
    Key {
        empty: bool,
    },
    Colon,
    /// After a value: a comma, or the end of what is open.
    After,
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// So many hexadecimal digits to come.
    Hex {
        key: bool,
        left: u8,
    },
    Number(Number),
    /// So many characters of a word read.
    Word(&'static str, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Digits | Self::Fraction | Self::ExponentDigits)
    }

    fn next(self, character: char) -> Option<Self> {
        Some(match (self, character) {
            (Self::Sign, '0') => Self::Zero,
            (Self::Sign | Self::Digits, '0'..='9') => Self::Digits,
            (Self::Zero | Self::Digits, '.') => Self::Point,
            (Self::Point | Self::Fraction, '0'..='9') => Self::Fraction,
            (Self::Zero | Self::Digits | Self::Fraction, 'e' | 'E') => Self::Exponent,
            (Self::Exponent, '+' | '-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, '0'..='9') => Self::ExponentDigits,
            _ => return None,
        })
    }
}

/// A reader of one value.
#[derive(Clone, Debug)]
pub(super) struct JsonReader {
    state: State,
    /// Whether each open bracket is an object's.
    open: Vec<bool>,
}

impl JsonReader {
    pub(super) fn new() -> Self {
        Self { state: State::Value { empty: false }, open: Vec::new() }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, character: char) -> Step {
        match self.state {
            State::Number(number) => match number.next(character) {
                Some(next) => self.go(State::Number(next)),
                None if !number.is_complete() => Step::Bad,
                None if self.open.is_empty() => Step::Before,
                None => {
                    self.state = State::After;
                    self.push(character)
                }
            },
            State::String { key } => match character {
                '"' if key => self.go(State::Colon),
                '"' => self.ended(),
                '\\' => self.go(State::Escape { key }),
                '\0'..='\u{1f}' => Step::Bad,
                _ => Step::More,
            },
            State::Escape { key } => match character {
                'u' => self.go(State::Hex { key, left: 4 }),
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.go(State::String { key }),
                _ => Step::Bad,
            },
            State::Hex { key, left } if character.is_ascii_hexdigit() => {
                self.go(if left > 1 { State::Hex { key, left: left - 1 } } else { State::String { key } })
            }
            State::Hex { .. } => Step::Bad,
            State::Word(word, at) if word[at..].starts_with(character) => {
                if at + 1 == word.len() {
                    self.ended()
                } else {
                    self.go(State::Word(word, at + 1))
                }
            }
            State::Word(..) => Step::Bad,
            _ if matches!(character, ' ' | '\t' | '\n' | '\r') => Step::More,
            State::Value { empty } => self.value(character, empty),
            State::Key { .. } if character == '"' => self.go(State::String { key: true }),
            State::Key { empty: true } if character == '}' => self.close(true),
            State::Key { .. } => Step::Bad,
            State::Colon if character == ':' => self.go(State::Value { empty: false }),
            State::Colon => Step::Bad,
            State::After => match (character, self.open.last()) {
                (',', Some(true)) => self.go(State::Key { empty: false }),
                (',', Some(false)) => self.go(State::Value { empty: false }),
                ('}', Some(true)) => self.close(true),
                (']', Some(false)) => self.close(false),
                _ => Step::Bad,
            },
        }
    }

    /// Whether the text so far, if nothing comes any more, is a value.
    #[cfg(test)]
    fn may_end(&self) -> bool {
        self.open.is_empty() && matches!(self.state, State::Number(number) if number.is_complete())
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::More
    }

    fn value(&mut self, character: char, empty: bool) -> Step {
        match character {
            '{' | '[' if self.open.len() >= MAX_DEPTH => Step::Bad,
            '{' => {
                self.open.push(true);
                self.go(State::Key { empty: true })
            }
            '[' => {
                self.open.push(false);
                self.go(State::Value { empty: true })
            }
            ']' if empty => self.close(false),
            '"' => self.go(State::String { key: false }),
            '-' => self.go(State::Number(Number::Sign)),
            '0' => self.go(State::Number(Number::Zero)),
            '1'..='9' => self.go(State::Number(Number::Digits)),
            't' => self.go(State::Word("true", 1)),
            'f' => self.go(State::Word("false", 1)),
            'n' => self.go(State::Word("null", 1)),
            _ => Step::Bad,
        }
    }

    fn close(&mut self, object: bool) -> Step {
        if self.open.pop() == Some(object) { self.ended() } else { Step::Bad }
    }

    fn ended(&mut self) -> Step {
        self.state = State::After;
        if self.open.is_empty() { Step::Done } else { Step::More }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a text as a whole value.
    fn is_json(text: &str) -> bool {
        let mut reader = JsonReader::new();
        let mut done = false;
        for character in text.trim_matches([' ', '\t', '\n', '\r']).chars() {
            match reader.push(character) {
                _ if done => return false,
                Step::More => {}
                Step::Done => done = true,
                Step::Before | Step::Bad => return false,
            }
        }
        done || reader.may_end()
    }

    #[test]
    fn values_are_told_from_what_is_none() {
        for text in
            ["{}", "[]", r#"{"a":[1,-0.5e+7,true,null,"\u00e9\n"]}"#, "0", "-12", " [ 1 , { } ] ", "\"x\""]
        {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            "tru",
            "\"\\x\"",
            "{]",
            "[}",
            "1e",
            "\"\n\"",
        ] {
            assert!(!is_json(text), "{text}");
        }
        assert!(!is_json(&"[".repeat(1_000_000)));
    }

    proptest! {
        #[test]
        fn agrees_with_serde(text in r#"[\[\]{}",:0-9.eE+\-tfn\\u a]{0,12}"#) {
            let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(is_json(&text), expected, "{}", text);
        }
    }
}
