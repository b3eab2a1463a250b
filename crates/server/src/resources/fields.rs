//! Fields that several resources have.

use crate::error::{ApiError, ApiResult};
use serde_json::{Map, Value};

/// Reads `metadata`: at most 16 pairs of strings, of at most 64 and 512 characters.
///
/// # Errors
/// What is wrong with it.
pub(super) fn metadata(value: Option<Value>) -> ApiResult<Option<Value>> {
    let Some(value) = value else { return Ok(None) };
    let refuse = |message: &str| Err(ApiError::field("metadata", format!("`metadata` {message}")));
    let Value::Object(map) = &value else { return refuse("must be an object") };
    match check_pairs(map, 64, |value| value.as_str().is_some_and(|text| text.chars().count() <= 512)) {
        Ok(()) => Ok(Some(value)),
        Err(message) => refuse(&format!("{message}; values are strings of at most 512 characters")),
    }
}

/// Reads `attributes` of a file: at most 16, which are strings, numbers or booleans.
///
/// # Errors
/// What is wrong with it.
pub(super) fn attributes(value: Option<Value>, field: &str) -> ApiResult<Map<String, Value>> {
    let refuse = |message: &str| Err(ApiError::field(field, format!("`{field}` {message}")));
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => {
            let right = |value: &Value| match value {
                Value::String(text) => text.chars().count() <= 512,
                value => value.is_number() || value.is_boolean(),
            };
            match check_pairs(&map, 64, right) {
                Ok(()) => Ok(map),
                Err(message) => refuse(&format!(
                    "{message}; values are strings of at most 512 characters, numbers or booleans"
                )),
            }
        }
        Some(_) => refuse("must be an object"),
    }
}

fn check_pairs(map: &Map<String, Value>, key: usize, value: impl Fn(&Value) -> bool) -> Result<(), String> {
    if map.len() > 16 {
        return Err(format!("has {} entries, and 16 are allowed", map.len()));
    }
    match map.iter().find(|(name, own)| name.chars().count() > key || !value(own)) {
        Some((name, _)) => {
            Err(format!("has an entry that is not allowed: `{}`", crate::error::excerpt(name)))
        }
        None => Ok(()),
    }
}

/// How deep JSON that is stored may be nested: what is stored is put into other objects, and must still be readable.
const DEEPEST: usize = 64;

/// Checks that a value is not nested too deep to be stored.
///
/// # Errors
/// When it is.
pub(super) fn check_depth(value: &Value, field: &str) -> ApiResult<()> {
    fn depth(value: &Value, left: usize) -> bool {
        match value {
            _ if left == 0 => false,
            Value::Array(items) => items.iter().all(|item| depth(item, left - 1)),
            Value::Object(map) => map.values().all(|item| depth(item, left - 1)),
            _ => true,
        }
    }
    if depth(value, DEEPEST) {
        return Ok(());
    }
    Err(ApiError::field(field, format!("`{field}` is nested more than {DEEPEST} deep")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_is_a_few_short_strings() {
        assert_eq!(metadata(None).unwrap(), None);
        assert!(metadata(Some(json!({ "a": "b" }))).is_ok());
        let many: Map<String, Value> = (0..17).map(|number| (number.to_string(), json!(""))).collect();
        for wrong in [json!([]), json!({ "a": 1 }), json!({ "a": "x".repeat(513) }), Value::Object(many)] {
            assert_eq!(metadata(Some(wrong)).unwrap_err().param.as_deref(), Some("metadata"));
        }
        assert!(attributes(Some(json!({ "a": 1, "b": true })), "attributes").is_ok());
        assert!(attributes(Some(json!({ "a": [] })), "attributes").is_err());
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
        assert!(check_depth(&nested(60), "input").is_ok());
        assert!(check_depth(&nested(64), "input").is_err());
    }
}
