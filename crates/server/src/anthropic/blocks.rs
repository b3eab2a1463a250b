//! Anthropic's blocks that are text, or say what text says.

use crate::error::{ApiError, ApiResult, excerpt};
use serde_json::Value;

/// What stands between the text of a document and what is in front of it or follows it.
const APART: &str = "\n\n";

/// The text of several blocks: documents and search results stand apart from their neighbours.
#[derive(Debug, Default)]
pub(super) struct Joined {
    text: String,
    ends_apart: bool,
}

impl Joined {
    /// Adds the block at `place`.
    ///
    /// # Errors
    /// When it is not text.
    pub(super) fn push(&mut self, block: &Value, place: &str) -> ApiResult<()> {
        let text = block_text(block, place)?;
        if text.is_empty() {
            return Ok(());
        }
        let is_apart = block["type"] != "text";
        if !self.text.is_empty() && (is_apart || self.ends_apart) {
            self.text.push_str(APART);
        }
        self.text.push_str(&text);
        self.ends_apart = is_apart;
        Ok(())
    }

    /// What all of them say.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The text of blocks at `place`.
///
/// # Errors
/// One that is not text.
pub(super) fn text_of(blocks: &[Value], place: &str) -> ApiResult<String> {
    let mut joined = Joined::default();
    for (index, block) in blocks.iter().enumerate() {
        joined.push(block, &format!("{place}.{index}"))?;
    }
    Ok(joined.into_text())
}

/// The text of the block at `place`.
///
/// # Errors
/// When it is not text.
fn block_text(block: &Value, place: &str) -> ApiResult<String> {
    match block["type"].as_str().unwrap_or_default() {
        "text" => string(&block["text"], &format!("{place}.text")),
        "document" => document(block, place),
        "search_result" => {
            let body = content(&block["content"], &format!("{place}.content"))?;
            Ok(titled(&[&block["title"], &block["source"]], &body))
        }
        other => Err(unread(other, &format!("{place}.type"))),
    }
}

/// What a field says that is text, or blocks of text.
///
/// # Errors
/// When it is neither.
pub(super) fn content(content: &Value, place: &str) -> ApiResult<String> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => text_of(blocks, place),
        _ => Err(ApiError::invalid(format!("{place}: it must be a string or a list of blocks"))),
    }
}

fn document(block: &Value, place: &str) -> ApiResult<String> {
    let source = &block["source"];
    let body = match source["type"].as_str().unwrap_or_default() {
        "text" => string(&source["data"], &format!("{place}.source.data"))?,
        "content" => content(&source["content"], &format!("{place}.source.content"))?,
        other => {
            let message = format!(
                "{place}.source.type: this model does not read documents of type `{}`: send their text, as `text` or `content`",
                excerpt(other)
            );
            return Err(ApiError::invalid(message));
        }
    };
    Ok(titled(&[&block["title"], &block["context"]], &body))
}

/// A text with lines in front that say what it is.
fn titled(heads: &[&Value], body: &str) -> String {
    let heads = heads.iter().filter_map(|head| head.as_str()).filter(|head| !head.is_empty());
    let parts: Vec<&str> = heads.chain([body]).collect();
    parts.join("\n")
}

fn string(value: &Value, place: &str) -> ApiResult<String> {
    let text = value.as_str().ok_or_else(|| ApiError::invalid(format!("{place}: it must be a string")))?;
    Ok(text.to_owned())
}

/// A block that is not text.
fn unread(kind: &str, place: &str) -> ApiError {
    ApiError::invalid(format!("{place}: this model does not read `{}`: it reads text", excerpt(kind)))
}
