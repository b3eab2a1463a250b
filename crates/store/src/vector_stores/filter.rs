//! Conditions on the attributes of files.

use crate::error::{Result, StoreError};
use serde_json::{Map, Value};

/// What a file's owner noted about it: names with strings, numbers or booleans.
pub type Attributes = Map<String, Value>;

/// Conditions within conditions, at most.
const DEEPEST: usize = 16;

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It is that.
    Equal,
    /// It is something else.
    NotEqual,
    /// It is greater.
    Greater,
    /// It is greater or that.
    GreaterOrEqual,
    /// It is less.
    Less,
    /// It is less or that.
    LessOrEqual,
    /// It is one of those.
    In,
    /// It is none of those.
    NotIn,
}

impl Comparison {
    /// Every comparison with its name.
    const TABLE: [(Comparison, &'static str); 8] = [
        (Comparison::Equal, "eq"),
        (Comparison::NotEqual, "ne"),
        (Comparison::Greater, "gt"),
        (Comparison::GreaterOrEqual, "gte"),
        (Comparison::Less, "lt"),
        (Comparison::LessOrEqual, "lte"),
        (Comparison::In, "in"),
        (Comparison::NotIn, "nin"),
    ];
}

/// A condition on a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// On one attribute.
    Compare {
        /// Its name.
        key: String,
        /// How.
        comparison: Comparison,
        /// With what.
        value: Value,
    },
    /// All of these hold.
    All(Vec<Filter>),
    /// One of these holds.
    Any(Vec<Filter>),
}

impl Filter {
    /// Reads a condition as the OpenAI API writes it: `{type, key, value}`, or `{type: and | or, filters}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(value: &Value) -> Result<Filter> {
        parse(value, 0)
    }

    /// Whether a file with these attributes is meant. An attribute that a file does not have is not equal to anything,
    /// and neither greater nor less.
    #[must_use]
    pub fn matches(&self, attributes: &Attributes) -> bool {
        match self {
            Filter::All(filters) => filters.iter().all(|filter| filter.matches(attributes)),
            Filter::Any(filters) => filters.iter().any(|filter| filter.matches(attributes)),
            Filter::Compare { key, comparison, value } => {
                let own = attributes.get(key);
                let equal = |other: &Value| own.is_some_and(|own| same(own, other));
                let ordered = || own.and_then(|own| order(own, value));
                let among = || value.as_array().is_some_and(|values| values.iter().any(equal));
                match comparison {
                    Comparison::Equal => equal(value),
                    Comparison::NotEqual => !equal(value),
                    Comparison::Greater => ordered().is_some_and(|order| order.is_gt()),
                    Comparison::GreaterOrEqual => ordered().is_some_and(|order| order.is_ge()),
                    Comparison::Less => ordered().is_some_and(|order| order.is_lt()),
                    Comparison::LessOrEqual => ordered().is_some_and(|order| order.is_le()),
                    Comparison::In => among(),
                    Comparison::NotIn => !among(),
                }
            }
        }
    }
}

fn parse(value: &Value, depth: usize) -> Result<Filter> {
    let refuse = |reason: String| Err(StoreError::invalid("filters", reason));
    if depth > DEEPEST {
        return refuse(format!("conditions are nested more than {DEEPEST} deep"));
    }
    let Some(kind) = value.get("type").and_then(Value::as_str) else {
        return refuse("a condition needs a `type`".to_owned());
    };
    if matches!(kind, "and" | "or") {
        let Some(filters) = value.get("filters").and_then(Value::as_array) else {
            return refuse(format!("`{kind}` needs a list `filters`"));
        };
        let filters = filters.iter().map(|filter| parse(filter, depth + 1)).collect::<Result<Vec<_>>>()?;
        return Ok(if kind == "and" { Filter::All(filters) } else { Filter::Any(filters) });
    }
    let Some((comparison, _)) = Comparison::TABLE.iter().find(|(_, name)| *name == kind) else {
        let names = Comparison::TABLE.map(|(_, name)| name).join(", ");
        let kind: String = kind.chars().take(40).collect();
        return refuse(format!("`{kind}` is no condition; there are {names}, and, or"));
    };
    let (Some(key), Some(other)) = (value.get("key").and_then(Value::as_str), value.get("value")) else {
        return refuse(format!("`{kind}` needs a string `key` and a `value`"));
    };
    let list = matches!(comparison, Comparison::In | Comparison::NotIn);
    let right = match other {
        Value::Array(values) => list && values.iter().all(|value| value.is_string() || value.is_number()),
        Value::String(_) | Value::Number(_) => !list,
        Value::Bool(_) => matches!(comparison, Comparison::Equal | Comparison::NotEqual),
        _ => false,
    };
    if !right {
        return refuse(format!("the `value` of `{kind}` has the wrong type"));
    }
    Ok(Filter::Compare { key: key.to_owned(), comparison: *comparison, value: other.clone() })
}

/// `1` and `1.0` are the same number.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn order(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}
