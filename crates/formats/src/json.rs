//! Reading JSON configurations field by field, with errors that name the field.

use crate::FormatError;
use crate::error::shown;
use serde_json::{Map, Value, json};
use std::path::Path;

pub(crate) type Object = Map<String, Value>;

/// A JSON object with the path that its errors name.
pub(crate) struct Fields<'a> {
    pub(crate) path: &'a Path,
    pub(crate) object: &'a Object,
}

impl<'a> Fields<'a> {
    pub(crate) fn bad<T>(&self, field: &str, problem: impl Into<String>) -> Result<T, FormatError> {
        Err(FormatError::field(self.path, field, problem))
    }

    /// The value of a field; an explicit null is like no field.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn typed<T>(
        &self,
        field: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => self.bad(field, format!("is {}, must be {wanted}", shown(&value.to_string()))),
            },
        }
    }

    pub(crate) fn size(&self, field: &str) -> Result<Option<usize>, FormatError> {
        self.typed(field, "a whole number", |value| usize::try_from(whole(value)?).ok())
    }

    pub(crate) fn required(&self, field: &str) -> Result<usize, FormatError> {
        match self.size(field)? {
            Some(value) => Ok(value),
            None => self.bad(field, "is missing"),
        }
    }

    pub(crate) fn float(&self, field: &str) -> Result<Option<f32>, FormatError> {
        self.typed(field, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    pub(crate) fn boolean(&self, field: &str) -> Result<bool, FormatError> {
        Ok(self.typed(field, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>, FormatError> {
        self.typed(field, "a string", Value::as_str)
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>, FormatError> {
        let object = self.typed(field, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields { path: self.path, object }))
    }

    pub(crate) fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>, FormatError> {
        self.typed(field, "a token id or a list of them", token_ids)
    }

    /// A list of one entry per layer.
    pub(crate) fn per_layer<T>(
        &self,
        field: &str,
        layers: usize,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, FormatError> {
        let wanted = format!("a list of {layers} entries");
        self.typed(field, &wanted, |value| {
            let list = value.as_array().filter(|list| list.len() == layers)?;
            list.iter().map(&read).collect()
        })
    }
}

/// A whole number, also where it is written `8192.0`.
fn whole(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64);
    value.as_u64().or_else(float)
}

/// One token id or a list of them.
fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value.as_array() {
        Some(list) => list.iter().map(id).collect(),
        None => Some(vec![id(value)?]),
    }
}

/// A single-precision number as its shortest decimal, so that 1e-5 does not become
/// 9.999999747378752e-6.
pub(crate) fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}
