//! Which of a server's tools a request means: those that a model is offered, and those whose calls have to be approved.

use super::McpTool;
use crate::error::{ApiError, ApiResult};
use serde_json::Value;

/// The tools for which every condition holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ToolFilter {
    names: Option<Vec<String>>,
    is_read_only: Option<bool>,
}

impl ToolFilter {
    /// Reads `allowed_tools`: a list of names, or a filter; none where nothing is said.
    ///
    /// # Errors
    /// If it is neither.
    pub(super) fn of_allowed(allowed: &Value) -> ApiResult<Option<ToolFilter>> {
        let filter = match allowed {
            Value::Null => return Ok(None),
            Value::Array(_) => {
                names(allowed).map(|names| ToolFilter { names: Some(names), ..ToolFilter::default() })
            }
            filter => ToolFilter::read(filter),
        };
        filter.map(Some).ok_or_else(|| {
            ApiError::field("tools", format!("`allowed_tools` is a list of names, or {FILTER}"))
        })
    }

    /// Reads `{"tool_names": [...], "read_only": ...}`; none if it is no such thing.
    fn read(filter: &Value) -> Option<ToolFilter> {
        let fields = filter.as_object()?;
        let mut read = ToolFilter::default();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "tool_names" => read.names = Some(names(value)?),
                "read_only" => read.is_read_only = Some(value.as_bool()?),
                _ => return None,
            }
        }
        Some(read)
    }

    pub(super) fn matches(&self, tool: &McpTool) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(&tool.name))
            && self.is_read_only.is_none_or(|wanted| wanted == tool.is_read_only)
    }
}

fn names(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

const FILTER: &str = "`{\"tool_names\": [...], \"read_only\": ...}`";

/// Which calls have to be approved: where nothing is said, all.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Approval {
    Never,
    /// Of all tools but those of `never`, and of these, too, if `always` has them.
    But {
        never: Option<ToolFilter>,
        always: Option<ToolFilter>,
    },
}

impl Approval {
    /// Reads `require_approval`.
    ///
    /// # Errors
    /// If it is none of its forms. A filter without a condition is none, lest a slip clears every tool.
    pub(super) fn read(approval: &Value) -> ApiResult<Approval> {
        let filter = |name: &str| match &approval[name] {
            Value::Null => Some(None),
            filter => ToolFilter::read(filter).filter(|filter| *filter != ToolFilter::default()).map(Some),
        };
        let known = |name: &String| matches!(name.as_str(), "always" | "never");
        let read = match approval {
            Value::String(word) if word == "never" => return Ok(Approval::Never),
            Value::String(word) if word == "always" => Some((None, None)),
            Value::Null => Some((None, None)),
            Value::Object(filters) if filters.keys().all(known) => filter("never").zip(filter("always")),
            _ => None,
        };
        let wrong = || {
            let text = format!(
                "`require_approval` is `always`, `never`, or `{{\"never\": F, \"always\": F}}` with F like {FILTER}"
            );
            ApiError::field("tools", text)
        };
        read.map(|(never, always)| Approval::But { never, always }).ok_or_else(wrong)
    }

    pub(super) fn is_needed(&self, tool: &McpTool) -> bool {
        let has = |filter: &Option<ToolFilter>| filter.as_ref().is_some_and(|filter| filter.matches(tool));
        match self {
            Approval::Never => false,
            Approval::But { never, always } => !has(never) || has(always),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `read`, which only reads, and `write`.
    fn tools() -> [McpTool; 2] {
        [("read", true), ("write", false)].map(|(name, is_read_only)| McpTool {
            name: name.into(),
            description: String::new(),
            parameters: json!({}),
            is_read_only,
        })
    }

    #[test]
    fn calls_are_approved_unless_it_is_said_that_they_need_not_be() {
        for (approval, needed) in [
            (Value::Null, [true, true]),
            (json!("always"), [true, true]),
            (json!({}), [true, true]),
            (json!("never"), [false, false]),
            (json!({ "never": { "tool_names": ["read", "other"] } }), [false, true]),
            (json!({ "never": { "read_only": true } }), [false, true]),
            (json!({ "never": { "read_only": false }, "always": null }), [true, false]),
            (json!({ "never": { "tool_names": ["write"], "read_only": true } }), [true, true]),
            (json!({ "always": { "tool_names": ["write"] } }), [true, true]),
            (
                json!({ "never": { "tool_names": ["read", "write"] }, "always": { "tool_names": ["write"] } }),
                [false, true],
            ),
        ] {
            let read = Approval::read(&approval).expect("an approval");
            assert_eq!(tools().map(|tool| read.is_needed(&tool)), needed, "{approval}");
        }
        for wrong in [
            json!("sometimes"),
            json!(true),
            json!({ "never": {} }),
            json!({ "never": ["read"] }),
            json!({ "never": { "tool_names": [1] } }),
            json!({ "never": { "names": ["read"] } }),
            json!({ "never": { "tool_names": ["read"], "read_only": "yes" } }),
            json!({ "not": { "tool_names": ["read"] } }),
        ] {
            let error = Approval::read(&wrong).expect_err("it is none");
            assert_eq!(error.param.as_deref(), Some("tools"), "{wrong}");
        }
    }

    #[test]
    fn allowed_tools_in_every_form() {
        assert_eq!(ToolFilter::of_allowed(&Value::Null).expect("nothing"), None);
        for (allowed, matched) in [
            (json!(["read"]), [true, false]),
            (json!({ "tool_names": ["write"] }), [false, true]),
            (json!({ "read_only": true }), [true, false]),
            (json!({}), [true, true]),
        ] {
            let filter = ToolFilter::of_allowed(&allowed).expect("a filter").expect("something");
            assert_eq!(tools().map(|tool| filter.matches(&tool)), matched, "{allowed}");
        }
        for wrong in [json!([1]), json!("read"), json!({ "tools": ["read"] })] {
            assert!(ToolFilter::of_allowed(&wrong).is_err(), "{wrong}");
        }
    }
}
