//! JSON as Python's `json.dumps` writes it. Models were tuned on tool definitions in exactly this spelling: spaces
//! after `,` and `:`, no HTML escapes, floats as Python prints them.

use std::fmt::Write as _;

use serde_json::Value;

use super::bounded::BoundedText;

/// The arguments of `json.dumps`.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    /// Write everything outside ASCII as `\uXXXX`.
    pub(super) ensure_ascii: bool,
    /// Sort the keys of objects.
    pub(super) sort_keys: bool,
    /// Spaces per level; `None`: all on one line.
    pub(super) indent: Option<usize>,
    /// Between items and after keys; `None`: Python's defaults.
    pub(super) separators: Option<(String, String)>,
    /// A character that is never escaped.
    pub(super) mark: Option<char>,
}

/// `value` as JSON, if that has no more than `limit` bytes.
pub(super) fn write(value: &Value, style: &Style, limit: usize) -> Option<String> {
    let defaults = (if style.indent.is_some() { "," } else { ", " }, ": ");
    let (item, key) = style.separators.as_ref().map_or(defaults, |(item, key)| (item, key));
    let mut writer = Writer { text: BoundedText::new(limit), style, item, key };
    writer.value(value, 0);
    writer.text.finish()
}

struct Writer<'a> {
    text: BoundedText,
    style: &'a Style,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(value) => self.text.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => self.text.push_str(&python_float(float)),
                None => self.text.push_str(&number.to_string()),
            },
            Value::String(string) => self.string(string),
            Value::Array(items) => {
                self.group(['[', ']'], items, depth, |writer, item| writer.value(item, depth + 1))
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.style.sort_keys {
                    entries.sort_by_key(|(name, _)| *name);
                }
                self.group(['{', '}'], &entries, depth, |writer, (name, value)| {
                    writer.string(name);
                    writer.text.push_str(writer.key);
                    writer.value(value, depth + 1);
                });
            }
        }
    }

    fn group<T>(&mut self, brackets: [char; 2], items: &[T], depth: usize, write: impl Fn(&mut Self, &T)) {
        self.text.push(brackets[0]);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.text.push_str(self.item);
            }
            self.new_line(depth + 1);
            write(self, item);
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.text.push(brackets[1]);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(width) = self.style.indent {
            self.text.push('\n');
            (0..width * depth).for_each(|_| self.text.push(' '));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for c in string.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if Some(c) == self.style.mark => self.text.push(c),
                c if (c as u32) < 0x20 || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits that read back equal, with an exponent below 1e-4 and from 1e16.
pub(super) fn python_float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e300, "1e+300"),
        ];
        for (number, expected) in cases {
            assert_eq!(python_float(number), expected);
        }
    }

    #[test]
    fn spaces_and_indents_are_pythons() {
        let value = json!({"b": [1, 2.0, {}], "a": "é\"\n<", "c": []});
        let write = |value: &Value, style: &Style| super::write(value, style, 1000).unwrap();
        assert_eq!(write(&value, &Style::default()), r#"{"b": [1, 2.0, {}], "a": "é\"\n<", "c": []}"#);
        let sorted = Style { sort_keys: true, ensure_ascii: true, indent: Some(2), ..Style::default() };
        let expected =
            "{\n  \"a\": \"\\u00e9\\\"\\n<\",\n  \"b\": [\n    1,\n    2.0,\n    {}\n  ],\n  \"c\": []\n}";
        assert_eq!(write(&value, &sorted), expected);
        let tight = Style { separators: Some((",".into(), ":".into())), ..Style::default() };
        assert_eq!(write(&json!({"a": [1, 2]}), &tight), r#"{"a":[1,2]}"#);
        assert_eq!(super::write(&value, &sorted, 30), None);
    }
}
