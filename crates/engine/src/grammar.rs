//! What a text has to obey: the sources a caller can give.

use serde::Serialize;

/// A constraint on a text, as a caller writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "source")]
pub enum GrammarSource {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema (JSON text) describes.
    JsonSchema(String),
    /// Text that a regular expression describes.
    Regex(String),
    /// llama.cpp's grammar notation.
    Gbnf(String),
    /// Lark, as `llguidance` reads it.
    Lark(String),
}
