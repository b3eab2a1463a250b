//! Reading a request's JSON.

use super::Object;
use crate::error::ApiError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// The longest piece of a reader's message that is shown: it may quote the request.
const LONGEST_MESSAGE: usize = 300;

/// Fields that came and that nobody knows: each is told once, so that a log does not grow with every request.
#[derive(Debug, Default)]
pub struct UnknownFields {
    seen: Mutex<BTreeSet<String>>,
}

impl UnknownFields {
    /// Names kept: no more are told after that, since whoever sends thousands of names is not helped by it.
    const MOST: usize = 256;

    /// Tells the log of a field, if it is the first of its name on this object.
    fn tell(&self, object: &Object, name: &str) {
        let name: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
        let key = format!("{}.{name}", object.name);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.len() < Self::MOST && seen.insert(key) {
            tracing::info!(
                object = object.name,
                field = name,
                "a request has a field that is not known here: it is ignored"
            );
        }
    }
}

/// A request read from its JSON, and the fields that `object` does not describe.
#[derive(Debug)]
pub struct Read<T> {
    /// The request.
    pub value: T,
    /// Further fields.
    pub others: Map<String, Value>,
}

/// Reads a request.
///
/// # Errors
/// When `body` is not a JSON object, or a field has the wrong type: the error names the field.
pub fn read_json<T: DeserializeOwned>(body: &[u8], object: &'static Object) -> Result<Read<T>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid("the request has no body: send a JSON object"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        ApiError::invalid(format!("the request's body is not JSON: {}", shortened(&error.to_string())))
    })?;
    from_value(value, object)
}

/// As [`read_json`], of JSON that is parsed already.
///
/// # Errors
/// As there.
pub fn from_value<T: DeserializeOwned>(value: Value, object: &'static Object) -> Result<Read<T>, ApiError> {
    let Value::Object(mut fields) = value else {
        return Err(ApiError::invalid("the request's body must be a JSON object"));
    };
    fields.retain(|name, value| !value.is_null() || object.has_nullable(name));
    let mut others = Map::new();
    for name in fields.keys().filter(|name| !object.has(name)).cloned().collect::<Vec<_>>() {
        if let Some(value) = fields.remove(&name) {
            others.insert(name, integer(&value).unwrap_or(value));
        }
    }
    if fields.values().any(has_whole_fraction) {
        let mut objects = Vec::new();
        object.collect(&mut objects);
        mend_object(&mut fields, object, &objects);
    }
    let value =
        serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| type_error(&error))?;
    Ok(Read { value, others })
}

/// The integer that a number written as a fraction is: JSON Schema counts 1.0 among the integers, and serde does not.
pub(crate) fn integer(value: &Value) -> Option<Value> {
    /// Beyond this, fractions stand for several integers.
    const EXACT: f64 = (1_u64 << 53) as f64;
    let number = value.as_number().filter(|number| number.is_f64())?.as_f64()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| Value::from(number as i64))
}

fn has_whole_fraction(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_whole_fraction),
        Value::Object(fields) => fields.values().any(has_whole_fraction),
        value => integer(value).is_some(),
    }
}

/// Makes integers of whole fractions where the object's fields ask for integers; `objects` are those it refers to.
fn mend_object(fields: &mut Map<String, Value>, object: &Object, objects: &[&'static Object]) {
    for field in object.fields {
        if let Some(value) = fields.get_mut(field.name()) {
            mend(value, &(field.schema)(), objects);
        }
    }
}

/// The same of a value with this schema.
fn mend(value: &mut Value, schema: &Value, objects: &[&'static Object]) {
    for choices in ["anyOf", "oneOf"] {
        schema[choices].as_array().into_iter().flatten().for_each(|schema| mend(value, schema, objects));
    }
    match value {
        Value::Number(_) if schema["type"] == "integer" => {
            *value = integer(value).unwrap_or_else(|| value.take());
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter_mut().for_each(|item| mend(item, &schema["items"], objects));
        }
        Value::Object(fields) => {
            let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            match objects.iter().find(|object| Some(object.name) == name) {
                Some(object) => mend_object(fields, object, objects),
                None if schema["additionalProperties"].is_object() => {
                    let own = &schema["additionalProperties"];
                    fields.values_mut().for_each(|value| mend(value, own, objects));
                }
                None => {}
            }
        }
        _ => {}
    }
}

impl<T> Read<T> {
    /// Tells the log of the fields nobody knows, but those that `known` does.
    pub fn tell_unknown(&self, object: &Object, unknown: &UnknownFields, known: impl Fn(&str) -> bool) {
        self.others.keys().filter(|name| !known(name)).for_each(|name| unknown.tell(object, name));
    }
}

/// The API's answer to a field of the wrong type.
fn type_error(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let message = shortened(&error.inner().to_string());
    let mut path = error.path().to_string();
    if path == "." {
        path.clear();
    }
    if let Some(missing) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let separator = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{separator}{missing}");
        return ApiError::field(path.clone(), format!("`{path}` is missing"))
            .code("missing_required_parameter");
    }
    match path.is_empty() {
        true => ApiError::invalid(message),
        false => ApiError::invalid(format!("`{}`: {message}", shortened(&path))).param(shortened(&path)),
    }
}

fn shortened(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_MESSAGE).collect();
    if line.len() < text.len() && line.chars().count() == LONGEST_MESSAGE {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::wire! {
        /// A test.
        pub struct Probe {
            required {
                /// A name.
                model: String,
            }
            optional {
                /// A number.
                n: u32,
                /// Inner.
                inner: Vec<Inner>,
                /// Anything.
                any: Value,
                /// Numbers by name.
                counts: std::collections::HashMap<String, crate::wire::OneOrMany<u32>>,
                /// Labels.
                #[serde(deserialize_with = "crate::wire::present")]
                labels: crate::wire::Nullable<Value>,
            }
        }
        /// Inner.
        pub struct Inner {
            required {
                /// A kind.
                r#type: String,
            }
            optional {
                /// How often.
                times: i64,
            }
        }
    }

    fn error(json: &str) -> (String, Option<String>) {
        let error = read_json::<Probe>(json.as_bytes(), Probe::OBJECT).unwrap_err();
        (error.message, error.param)
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        let (message, param) = error(r#"{"model": "m", "n": -1}"#);
        assert!(message.contains("`n`: invalid value: integer `-1`"), "{message}");
        assert_eq!(param.as_deref(), Some("n"));
        let (_, param) = error(r#"{"model": "m", "inner": [{"type": "a"}, {"type": 3}]}"#);
        assert_eq!(param.as_deref(), Some("inner[1].type"));
        let (message, param) = error(r#"{"model": "m", "inner": [{}]}"#);
        assert_eq!(
            (message.as_str(), param.as_deref()),
            ("`inner[0].type` is missing", Some("inner[0].type"))
        );
        assert_eq!(error("{}").1.as_deref(), Some("model"));
    }

    #[test]
    fn whole_fractions_are_integers_where_integers_are_asked_for() {
        let body = r#"{"model": "m", "n": 3.0, "any": {"n": 3.0}, "inner": [{"type": "a", "times": -2.0}],
            "counts": {"a": 1.0, "b": [2.0, 3]}, "top_k": 40.0, "temperature": 0.5}"#;
        let read = read_json::<Probe>(body.as_bytes(), Probe::OBJECT).unwrap();
        assert_eq!((read.value.n, read.value.inner.unwrap()[0].times), (Some(3), Some(-2)));
        assert_eq!(read.value.any.unwrap().to_string(), r#"{"n":3.0}"#, "what is free stays as it is");
        let counts = read.value.counts.unwrap();
        assert_eq!(counts["a"], crate::wire::OneOrMany::One(1));
        assert_eq!(counts["b"], crate::wire::OneOrMany::Many(vec![2, 3]));
        assert_eq!(
            (&read.others["top_k"], &read.others["temperature"]),
            (&Value::from(40), &Value::from(0.5))
        );
        for wrong in ["1.5", "-1.0", "1e300", "4294967296.0"] {
            assert_eq!(
                error(&format!(r#"{{"model": "m", "n": {wrong}}}"#)).1.as_deref(),
                Some("n"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for text in
            ["", "  ", "[]", "3", "null", "{", "{\"model\": 1e999}", "{\"model\"", &"[".repeat(10_000)]
        {
            assert!(!error(text).0.is_empty());
        }
        assert!(read_json::<Probe>(&[b'{', 0xff, b'}'], Probe::OBJECT).is_err());
    }

    #[test]
    fn null_is_absent_and_unknown_fields_are_kept_aside() {
        let read = read_json::<Probe>(br#"{"model": "m", "n": null, "temp": 1}"#, Probe::OBJECT).unwrap();
        assert_eq!((read.value.n, read.others.len()), (None, 1));
        assert!(read.value.labels.is_none());
    }

    #[test]
    fn null_is_a_value_where_a_field_can_be_taken_away() {
        let read = read_json::<Probe>(br#"{"model": "m", "labels": null}"#, Probe::OBJECT).unwrap();
        assert_eq!(read.value.labels.map(|labels| labels.0), Some(None));
    }
}
