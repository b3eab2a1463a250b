//! Prompts as llama.cpp's clients write them: a text, tokens, both mixed, an object, or a list of such prompts.

use crate::error::{ApiError, ApiResult};
use crate::generate::{encode_plain, encode_text};
use crate::wire::{Described, TextOrIds, integer, kind};
use alti_text::{Specials, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One or several prompts, not read yet: what is in them is known with a tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompts(Value);

impl Described for Prompts {
    fn schema() -> Value {
        let token = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
        let mixed = json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, token] } });
        let object = json!({ "type": "object" });
        let several = json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, mixed, object] } });
        json!({ "anyOf": [{ "type": "string" }, mixed, several, object] })
    }
}

impl From<Vec<TextOrIds>> for Prompts {
    fn from(inputs: Vec<TextOrIds>) -> Prompts {
        Prompts(inputs.into_iter().map(|input| json!(input)).collect())
    }
}

impl Prompts {
    /// The single prompts.
    pub(crate) fn into_list(self) -> Vec<Prompt> {
        match self.0 {
            Value::Array(items) if is_several(&items) => items.into_iter().map(Prompt).collect(),
            prompt => vec![Prompt(prompt)],
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match &self.0 {
            Value::Array(items) if is_several(items) => items.len(),
            _ => 1,
        }
    }
}

/// Whether a list is one of prompts: one with a number in it is a prompt.
fn is_several(items: &[Value]) -> bool {
    !items.iter().any(Value::is_number)
}

/// One prompt, not read yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prompt(Value);

impl Prompt {
    /// Bytes of text in it.
    pub(crate) fn text_bytes(&self) -> usize {
        fn bytes(value: &Value) -> usize {
            match value {
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(bytes).sum(),
                Value::Object(fields) => fields.values().map(bytes).sum(),
                _ => 0,
            }
        }
        bytes(&self.0)
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.0 {
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        }
    }

    /// Its tokens; `field` is where it came from.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        field: &str,
        specials: Specials,
    ) -> ApiResult<Vec<u32>> {
        match &self.0 {
            Value::Object(fields) => {
                if !fields.get("multimodal_data").is_none_or(Value::is_null) {
                    let message = "`multimodal_data` is there, and this server's models read text alone";
                    return Err(ApiError::field(field, message));
                }
                let text = match (fields.get("prompt_string"), fields.get("content")) {
                    (Some(Value::String(text)), _) => text.clone(),
                    (None, Some(Value::Array(parts))) => text_of(parts, field)?,
                    _ => {
                        let message = format!(
                            "`{field}` has an object without a `prompt_string` that is a text, or a `content` that is \
                             a list of parts"
                        );
                        return Err(ApiError::field(field, message));
                    }
                };
                Ok(encode_text(tokenizer, &text, specials))
            }
            other => mixed(tokenizer, other, field, specials, true),
        }
    }
}

/// The tokens of a text, or of a list of texts and tokens; where they `begin` a sequence, a text in front has the token in
/// front of it that the model wants there. `field` is where it came from.
///
/// # Errors
/// When it is neither.
pub(super) fn mixed(
    tokenizer: &Tokenizer,
    value: &Value,
    field: &str,
    specials: Specials,
    begin: bool,
) -> ApiResult<Vec<u32>> {
    let encode = |text: &str, begin: bool| match begin {
        true => encode_text(tokenizer, text, specials),
        false => encode_plain(tokenizer, text, specials),
    };
    let items = match value {
        Value::String(text) => return Ok(encode(text, begin)),
        Value::Array(items) => items,
        other => return Err(unexpected(field, other)),
    };
    let mut tokens = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::String(text) => tokens.extend(encode(text, begin && index == 0)),
            item => tokens.push(token_id(item).ok_or_else(|| unexpected(field, item))?),
        }
    }
    Ok(tokens)
}

/// The token that a number is.
pub(super) fn token_id(value: &Value) -> Option<u32> {
    let whole = integer(value);
    u32::try_from(whole.as_ref().unwrap_or(value).as_u64()?).ok()
}

/// The text of parts that are all text.
fn text_of(parts: &[Value], field: &str) -> ApiResult<String> {
    let texts = parts.iter().map(|part| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        _ => {
            let message =
                format!("`{field}` has a part that is no text: this server's models read text alone");
            Err(ApiError::field(field, message))
        }
    });
    texts.collect()
}

fn unexpected(field: &str, found: &Value) -> ApiError {
    let message = format!("`{field}` has a {} where a string or a token id is expected", kind(found));
    ApiError::field(field, message)
}
