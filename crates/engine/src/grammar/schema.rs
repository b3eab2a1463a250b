//! What a JSON schema can ask for and a grammar cannot check: found before it is compiled, so that whoever wrote it is
//! told the place and not only the word.

use llguidance::JsonCompileOptions;
use serde_json::Value;

/// Keywords of JSON Schema that look at a value as a whole, or at what it is not: nobody can tell while it is written.
const UNCHECKABLE: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];

/// Keywords whose value is a schema, or a list of schemas.
const SCHEMAS: [&str; 7] =
    ["items", "additionalItems", "additionalProperties", "prefixItems", "anyOf", "allOf", "oneOf"];

/// Keywords whose value is an object of schemas.
const NAMED_SCHEMAS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// A keyword of a schema that a grammar cannot check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncheckable {
    /// Where: the keys and indices that lead to the schema with the keyword.
    pub path: Vec<String>,
    /// Which.
    pub keyword: String,
}

/// The first keyword in a schema that a grammar cannot check, if there is one.
pub fn uncheckable(schema: &Value) -> Option<Uncheckable> {
    find(schema, &|keyword, value| UNCHECKABLE.contains(&keyword) && !is_idle(keyword, value))
}

/// The first `oneOf` in a schema, if there is one.
pub(super) fn one_of(schema: &Value) -> Option<Uncheckable> {
    find(schema, &|keyword, _| keyword == "oneOf")
}

/// The first keyword in a schema that is wanted.
fn find(schema: &Value, wanted: &dyn Fn(&str, &Value) -> bool) -> Option<Uncheckable> {
    let mut path = Vec::new();
    let keyword = search(schema, wanted, &mut path)?;
    Some(Uncheckable { path, keyword })
}

/// Leaves in `path` where the keyword is.
fn search(schema: &Value, wanted: &dyn Fn(&str, &Value) -> bool, path: &mut Vec<String>) -> Option<String> {
    let schema = schema.as_object()?;
    if let Some((keyword, _)) = schema.iter().find(|(keyword, value)| wanted(keyword, value)) {
        return Some(keyword.clone());
    }
    for (keyword, value) in schema {
        let inner: Vec<(Option<String>, &Value)> = match value {
            Value::Object(named) if NAMED_SCHEMAS.contains(&keyword.as_str()) => {
                named.iter().map(|(name, schema)| (Some(name.clone()), schema)).collect()
            }
            Value::Array(list) if SCHEMAS.contains(&keyword.as_str()) => {
                list.iter().enumerate().map(|(index, schema)| (Some(index.to_string()), schema)).collect()
            }
            Value::Object(_) if SCHEMAS.contains(&keyword.as_str()) => vec![(None, value)],
            _ => continue,
        };
        for (name, schema) in inner {
            let depth = path.len();
            path.push(keyword.clone());
            path.extend(name);
            if let Some(found) = search(schema, wanted, path) {
                return Some(found);
            }
            path.truncate(depth);
        }
    }
    None
}

/// Whether a keyword asks for nothing.
fn is_idle(keyword: &str, value: &Value) -> bool {
    keyword == "uniqueItems" && value == &Value::Bool(false)
}

/// Takes out what asks for nothing, and would be refused for its name.
pub fn without_idle(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.retain(|keyword, value| !is_idle(keyword, value));
    for (keyword, value) in schema {
        match value {
            Value::Object(named) if NAMED_SCHEMAS.contains(&keyword.as_str()) => {
                named.values_mut().for_each(without_idle);
            }
            Value::Array(list) if SCHEMAS.contains(&keyword.as_str()) => {
                list.iter_mut().for_each(without_idle);
            }
            _ if SCHEMAS.contains(&keyword.as_str()) => without_idle(value),
            _ => {}
        }
    }
}

/// A schema of which only that is asked that a grammar can check: keywords that it cannot are passed over, as are formats
/// that nobody knows, and of `oneOf` any will do.
pub fn loosened(mut schema: Value) -> Value {
    if schema.is_object() {
        JsonCompileOptions { lenient: true, ..JsonCompileOptions::default() }.apply_to(&mut schema);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: Value) -> Option<(String, String)> {
        uncheckable(&schema).map(|found| (found.path.join("/"), found.keyword))
    }

    #[test]
    fn the_place_is_told_and_not_only_the_word() {
        let tags = json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true});
        let at = |path: &str, keyword: &str| Some((path.to_owned(), keyword.to_owned()));
        assert_eq!(found(tags.clone()), at("", "uniqueItems"));
        let object = json!({"type": "object", "properties": {"name": {"type": "string"}, "tags": tags}});
        assert_eq!(found(object.clone()), at("properties/tags", "uniqueItems"));
        let nested = json!({"anyOf": [{"type": "null"}, {"type": "array", "items": object}]});
        assert_eq!(found(nested), at("anyOf/1/items/properties/tags", "uniqueItems"));
        assert_eq!(found(json!({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"})), at("$defs/a", "not"));
        assert_eq!(found(json!({"if": {}, "then": {}})), at("", "if"));
    }

    #[test]
    fn names_that_look_like_keywords_are_none() {
        assert_eq!(
            found(json!({"properties": {"not": {"type": "string"}, "if": {"enum": [{"not": 1}]}}})),
            None
        );
        assert_eq!(found(json!({"const": {"uniqueItems": true}, "uniqueItems": false})), None);
        assert_eq!(found(json!(true)), None);
        let mut idle =
            json!({"items": {"uniqueItems": false}, "properties": {"uniqueItems": {"uniqueItems": false}}});
        without_idle(&mut idle);
        assert_eq!(idle, json!({"items": {}, "properties": {"uniqueItems": {}}}));
    }
}
