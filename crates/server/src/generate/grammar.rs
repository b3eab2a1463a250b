//! What an answer has to obey, as the APIs say it.

use crate::error::{ApiError, ApiResult};
use alti_engine::grammar::{GrammarSource, uncheckable};
use serde_json::Value;

/// What a chat's answer has to obey.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Nothing.
    #[default]
    Text,
    /// This.
    Grammar(GrammarSource),
}

impl Format {
    /// The grammar, if there is one.
    pub fn grammar(self) -> Option<GrammarSource> {
        match self {
            Format::Text => None,
            Format::Grammar(grammar) => Some(grammar),
        }
    }

    /// JSON that `schema` describes, as far as a grammar can check it.
    pub fn schema(schema: &Value) -> Format {
        Format::Grammar(GrammarSource::LooseJsonSchema(schema.to_string()))
    }
}

/// JSON that obeys all of a schema, as `strict` promises it.
///
/// # Errors
/// A keyword that cannot be promised.
fn strict_schema(name: &Value, schema: &Value) -> ApiResult<Format> {
    let whose = format!("response_format '{}'", name.as_str().unwrap_or_default());
    check_strict(schema, &whose, "response_format")?;
    Ok(Format::Grammar(GrammarSource::JsonSchema(schema.to_string())))
}

/// Refuses a schema that `strict` cannot promise.
///
/// # Errors
/// The keyword, said as OpenAI says it, and what to do.
pub(super) fn check_strict(schema: &Value, whose: &str, field: &str) -> ApiResult<()> {
    let Some(found) = uncheckable(schema) else { return Ok(()) };
    let path: Vec<String> = found.path.iter().map(|step| format!("'{step}'")).collect();
    let comma = if path.len() == 1 { "," } else { "" };
    let message = format!(
        "Invalid schema for {whose}: In context=({}{comma}), '{}' is not permitted. It cannot be checked \
         while the answer is written: leave it out, or leave out `strict`, and everything else is still obeyed.",
        path.join(", "),
        found.keyword
    );
    Err(ApiError::field(field, message))
}

/// Reads OpenAI's `response_format`, and the same with `regex` and `grammar` as further types.
///
/// # Errors
/// A type nobody knows, or a schema that is not there.
pub fn response_format(format: &Value) -> ApiResult<Format> {
    let wrong = |message: &str| ApiError::field("response_format", format!("`response_format` {message}"));
    let text = |name: &str| {
        format[name].as_str().map(str::to_owned).ok_or_else(|| wrong(&format!("needs `{name}`, a string")))
    };
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        // llama.cpp takes a schema here as well.
        Some("json_object") if format["schema"].is_object() => Ok(Format::schema(&format["schema"])),
        Some("json_object") => Ok(Format::Grammar(GrammarSource::JsonObject)),
        Some("json_schema") => {
            // The chat API has the schema one level deeper than the Responses API, and need not have one.
            let is_chat = format["json_schema"].is_object();
            let inner = if is_chat { &format["json_schema"] } else { format };
            match &inner["schema"] {
                Value::Null if is_chat => Ok(Format::Grammar(GrammarSource::JsonObject)),
                schema @ Value::Object(_) if inner["strict"] == true => strict_schema(&inner["name"], schema),
                schema @ (Value::Object(_) | Value::Bool(_)) => Ok(Format::schema(schema)),
                _ => Err(ApiError::field(
                    "response_format.json_schema.schema",
                    "`response_format.json_schema.schema` must be a JSON schema",
                )),
            }
        }
        Some("regex") => Ok(Format::Grammar(GrammarSource::Regex(text("regex")?))),
        Some("grammar") => Ok(Format::Grammar(GrammarSource::Gbnf(text("grammar")?))),
        Some("lark") => Ok(Format::Grammar(GrammarSource::Lark(text("lark")?))),
        _ => Err(wrong("needs a `type`: text, json_object, json_schema, regex, grammar or lark")),
    }
}
