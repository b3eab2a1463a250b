//! Python's literals, as models write them in calls: `a=1, b="x", c=[True, None]`. JSON's spellings are taken, too.

use serde_json::{Map, Number, Value};

/// No value is nested deeper.
const MAX_DEPTH: usize = 64;

/// The value of a whole text.
pub(super) fn value(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

/// The values of a call's keyword arguments, without the parentheses.
pub(super) fn arguments(text: &str) -> Option<Map<String, Value>> {
    let mut reader = Reader { rest: text };
    let mut arguments = Map::new();
    reader.space();
    while !reader.rest.is_empty() {
        let length = reader.rest.find(|character| !is_name(character)).filter(|length| *length > 0)?;
        let name = reader.rest[..length].to_owned();
        reader.rest = &reader.rest[length..];
        reader.takes('=').then_some(())?;
        arguments.insert(name, reader.value(0)?);
        if !reader.takes(',') {
            break;
        }
        reader.space();
    }
    reader.rest.is_empty().then_some(arguments)
}

/// Whether a character may be in the name of a function or an argument.
pub(super) fn is_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.')
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips `wanted` with the space around it, if it comes next.
    fn takes(&mut self, wanted: char) -> bool {
        self.space();
        let Some(rest) = self.rest.strip_prefix(wanted) else { return false };
        self.rest = rest;
        self.space();
        true
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        let first = self.rest.chars().next().filter(|_| depth < MAX_DEPTH)?;
        match first {
            '"' | '\'' => self.string(first).map(Value::String),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => self.object(depth),
            _ => self.word(),
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.takes(open);
        let mut items = Vec::new();
        while !self.takes(close) {
            items.push(self.value(depth + 1)?);
            if !self.takes(',') {
                return self.takes(close).then_some(Value::Array(items));
            }
        }
        Some(Value::Array(items))
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.takes('{');
        let mut members = Map::new();
        while !self.takes('}') {
            let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
            let key = self.string(quote)?;
            self.takes(':').then_some(())?;
            members.insert(key, self.value(depth + 1)?);
            if !self.takes(',') {
                return self.takes('}').then_some(Value::Object(members));
            }
        }
        Some(Value::Object(members))
    }

    fn word(&mut self) -> Option<Value> {
        let is_word =
            |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '+' | '-' | '_');
        let length = self.rest.find(|character| !is_word(character)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            _ => Value::Number(number(word)?),
        })
    }

    /// A string behind its opening quote.
    fn string(&mut self, quote: char) -> Option<String> {
        let mut characters = self.rest.char_indices();
        characters.next();
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[at + quote.len_utf8()..];
                    return Some(text);
                }
                '\\' => {
                    let (_, escaped) = characters.next()?;
                    let mut hex = |digits: usize| {
                        let text: String = characters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                        let valid =
                            text.len() == digits && text.bytes().all(|digit| digit.is_ascii_hexdigit());
                        u32::from_str_radix(&text, 16).ok().filter(|_| valid)
                    };
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        '\n' => {}
                        '\\' | '\'' | '"' | '/' => text.push(escaped),
                        'x' => text.push(char::from_u32(hex(2)?)?),
                        'U' => text.push(char::from_u32(hex(8)?)?),
                        'u' => {
                            let mut code = hex(4)?;
                            // JSON's pairs of halves.
                            if (0xD800..0xDC00).contains(&code) {
                                let marked = matches!(
                                    (characters.next(), characters.next()),
                                    (Some((_, '\\')), Some((_, 'u')))
                                );
                                let digits: String =
                                    characters.by_ref().take(4).map(|(_, digit)| digit).collect();
                                let low = u32::from_str_radix(&digits, 16).ok()?;
                                let low = low.checked_sub(0xDC00).filter(|low| marked && *low < 0x400)?;
                                code = 0x10000 + ((code - 0xD800) << 10) + low;
                            }
                            text.push(char::from_u32(code)?);
                        }
                        other => text.extend(['\\', other]),
                    }
                }
                _ => text.push(character),
            }
        }
        None
    }
}

/// Python's numbers that JSON has: `+1`, `1_000`, `.5` and `5.` among them.
fn number(word: &str) -> Option<Number> {
    let plain = word.replace('_', "");
    if let Ok(number) = plain.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = plain.parse::<u64>() {
        return Some(number.into());
    }
    let starts = plain.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    plain.parse::<f64>().ok().filter(|_| starts).and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_have_the_values_python_gives_them() {
        let cases = [
            ("1", json!(1)),
            ("-2.5e3", json!(-2500.0)),
            ("+1_000", json!(1000)),
            ("True", json!(true)),
            ("null", json!(null)),
            ("'it\\'s'", json!("it's")),
            (r#""a\n\u00e9\x41\\""#, json!("a\n\u{e9}A\\")),
            (r#""\ud83d\ude00""#, json!("😀")),
            ("[1, 'a', (2,), {}]", json!([1, "a", [2], {}])),
            ("{'a': {\"b\": None,},}", json!({"a": {"b": null}})),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1 2", "'a", "[1", "{1: 2}", "f(1)", "\"\\ud83d\"", "inf", "nan", "--1"] {
            assert_eq!(value(text), None, "{text}");
        }
        assert_eq!(value(&"[".repeat(100_000)), None);
    }

    #[test]
    fn keyword_arguments() {
        assert_eq!(json!(arguments(r#"query="a, b=(c)", n = 2"#)), json!({"query": "a, b=(c)", "n": 2}));
        assert_eq!(json!(arguments(" ")), json!({}));
        assert_eq!(arguments("1"), None);
    }
}
