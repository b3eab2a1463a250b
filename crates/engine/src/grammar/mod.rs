//! Structured output: what a text has to obey, and which tokens that leaves at each of its positions.
//!
//! A [`GrammarFactory`] belongs to a model's vocabulary and compiles a [`GrammarSource`] into a [`Grammar`], which
//! follows one answer: it tells which tokens may come next, takes note of the one that came, and can go back, so that
//! drafts can be tried. The parsing is `llguidance`'s; what is here is what a server has to add to it: the model's
//! vocabulary in its terms, limits that hold against hostile sources, a cache that does not grow, and llama.cpp's
//! grammar notation ([`gbnf`]).

mod cache;
mod constraint;
mod factory;
pub mod gbnf;
mod schema;
mod vocabulary;
mod watch;

pub use constraint::Grammar;
pub use factory::GrammarFactory;
pub use schema::{Uncheckable, loosened, uncheckable, without_idle};

use serde::Serialize;

/// A constraint on a text, as a caller writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "source")]
pub enum GrammarSource {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema (JSON text) describes.
    JsonSchema(String),
    /// The same, as far as a grammar can check it: what it cannot is passed over.
    LooseJsonSchema(String),
    /// Text that a regular expression describes, from its first character to its last.
    Regex(String),
    /// llama.cpp's grammar notation.
    Gbnf(String),
    /// Lark, as `llguidance` reads it.
    Lark(String),
}

impl GrammarSource {
    /// What kind of constraint it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) | Self::LooseJsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Gbnf(_) => "GBNF grammar",
            Self::Lark(_) => "Lark grammar",
        }
    }

    /// The text the caller wrote.
    pub fn text(&self) -> &str {
        match self {
            Self::JsonObject => "",
            Self::JsonSchema(text)
            | Self::LooseJsonSchema(text)
            | Self::Regex(text)
            | Self::Gbnf(text)
            | Self::Lark(text) => text,
        }
    }
}
