//! The Jinja environment that templates written for Python's expect: the settings `transformers` uses, Python's
//! string methods, and Python's way of printing values.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use super::bounded::BoundedText;
use super::json::{self, Style};
use super::{limits, no_more};

/// The variable that holds the mark of untrusted characters, for `tojson` to leave alone.
pub(super) const MARK_VARIABLE: &str = "__alti_mark";

/// Macros and includes may nest this deep.
const RECURSION_LIMIT: usize = 100;

/// An environment without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_formatter(write_value);
    limits::install(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |state: &State, value: &Value| {
        let text = python_text(state, value)?;
        limits::spend(state, text.len()).map(|()| text.into_owned())
    });
    environment.add_function("raise_exception", |state: &State, message: Value| -> Result<Value, Error> {
        let message = python_text(state, &message)?.into_owned();
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    // In Python a text can be iterated over and indexed, and nothing (None) cannot.
    environment.add_test("iterable", |value: &Value| {
        value.as_str().is_some() || (!value.is_none() && value.try_iter().is_ok())
    });
    environment.add_test("sequence", |value: &Value| {
        value.as_str().is_some() || matches!(value.kind(), ValueKind::Seq | ValueKind::Map)
    });
    environment
}

/// `{% generation %}` marks what an assistant said, for training; for rendering its content is all that counts. It
/// becomes a condition that holds, with the white space control of its tags as it was.
pub(super) fn without_generation_blocks(source: &str) -> String {
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        // From behind the opening: in "{%}" the two share a character.
        let Some(close) = tag[2..].find("%}").map(|at| at + 2) else { break };
        let inner = &tag[2..close];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            other => other,
        };
        prepared.push_str(before);
        prepared.push_str("{%");
        if replacement == word {
            prepared.push_str(inner);
        } else {
            prepared.push_str(&inner.replace(word, replacement));
        }
        prepared.push_str("%}");
        rest = &tag[close + 2..];
    }
    prepared + rest
}

/// `json.dumps` with the arguments `transformers` passes on.
fn to_json(state: &State, value: &Value, indent: Option<usize>, arguments: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(arguments.get("indent")?);
    let separators: Option<(String, String)> = match arguments.get::<Option<Vec<String>>>("separators")? {
        None => None,
        Some(pair) => match <[String; 2]>::try_from(pair) {
            Ok([item, key]) => Some((item, key)),
            Err(_) => {
                return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two texts"));
            }
        },
    };
    let style = Style {
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: indent.map(|width| width.min(32)),
        separators,
        mark: state.lookup(MARK_VARIABLE).and_then(|mark| mark.as_str().and_then(|mark| mark.chars().next())),
    };
    no_more(&arguments)?;
    limits::spend(state, limits::size(value))?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}")))?;
    let text = json::write(&value, &style, limits::left(state)).ok_or_else(too_long)?;
    limits::spend(state, text.len())?;
    Ok(Value::from_safe_string(text))
}

fn write_value(out: &mut Output<'_>, state: &State, value: &Value) -> Result<(), Error> {
    let text = python_text(state, value)?;
    limits::spend(state, text.len())?;
    out.write_str(&text).map_err(Error::from)
}

/// Python's `str(value)`. What had to be written for it is charged; a text is only borrowed.
pub(super) fn python_text<'value>(state: &State, value: &'value Value) -> Result<Cow<'value, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    limits::read(state, limits::size(value))?;
    let mut text = BoundedText::new(limits::left(state));
    write_repr(value, &mut text);
    let text = text.finish().ok_or_else(too_long)?;
    limits::spend(state, text.len())?;
    Ok(Cow::Owned(text))
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidOperation, "it takes too much memory")
}

/// Python's `repr(value)`; an undefined value prints as nothing, as in Jinja.
fn write_repr(value: &Value, text: &mut BoundedText) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) => text.push_str(&json::python_float(number)),
            Err(_) => text.push_str(&value.to_string()),
        },
        ValueKind::String => write_string_repr(value.as_str().unwrap_or_default(), text),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (at, item) in value.try_iter().into_iter().flatten().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write_repr(&item, text);
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (at, key) in value.try_iter().into_iter().flatten().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write_repr(&key, text);
                text.push_str(": ");
                write_repr(&value.get_item(&key).unwrap_or_default(), text);
            }
            text.push('}');
        }
        _ => text.push_str(&value.to_string()),
    }
}

fn write_string_repr(string: &str, text: &mut BoundedText) {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for c in string.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => {
                let code = c as u32;
                let _ = write!(text, "\\x{code:02x}");
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}
