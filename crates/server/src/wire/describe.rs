//! Descriptions of wire types: what `/openapi.json` and the tables of the documentation are made of.

use super::{Nullable, OneOrMany, TextOrIds, TextOrTokens};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// A type that says what its JSON looks like.
pub trait Described {
    /// Whether `null` is a value of it, and not the same as a field that is not there.
    const NULLABLE: bool = false;
    /// Its JSON schema.
    fn schema() -> Value;
    /// Adds the objects that the schema refers to.
    fn objects(_into: &mut Vec<&'static Object>) {}
}

/// How much of a field is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has to be there.
    Required,
    /// It may be there.
    Optional,
    /// It may be there and changes nothing.
    Ignored,
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name, with `r#` in front where Rust needs it; see [`Field::name`].
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// How much of it is implemented.
    pub support: Support,
    /// Its JSON schema.
    pub schema: fn() -> Value,
    /// Whether `null` says something.
    pub nullable: bool,
    /// The objects that the schema refers to.
    pub objects: fn(&mut Vec<&'static Object>),
}

impl Field {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        self.name.strip_prefix("r#").unwrap_or(self.name)
    }
}

/// An object of the wire.
#[derive(Debug)]
pub struct Object {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

impl Object {
    /// Adds this object and all it refers to, once each.
    pub fn collect(&'static self, into: &mut Vec<&'static Object>) {
        if into.iter().all(|known| known.name != self.name) {
            into.push(self);
            self.fields.iter().for_each(|field| (field.objects)(into));
        }
    }

    /// Whether it has a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name() == name)
    }

    /// Whether it has a field of this name for which `null` says something.
    pub(super) fn has_nullable(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.nullable && field.name() == name)
    }

    /// Its JSON schema. In what is `taken` of clients, `null` is the same as an optional field that is not there; what is
    /// given leaves such a field out.
    pub fn schema(&self, taken: bool) -> Value {
        let properties = self.fields.iter().map(|field| {
            let mut schema = (field.schema)();
            if taken && field.support != Support::Required && !field.nullable {
                schema = or_null(schema);
            }
            if let Value::Object(schema) = &mut schema {
                let ignored =
                    if field.support == Support::Ignored { " (Read, and without effect.)" } else { "" };
                schema.insert("description".into(), json!(format!("{}{ignored}", field.about.trim())));
            }
            (field.name().to_owned(), schema)
        });
        let required: Vec<_> =
            self.fields.iter().filter(|field| field.support == Support::Required).map(Field::name).collect();
        json!({
            "type": "object",
            "description": self.about.trim(),
            "properties": Map::from_iter(properties),
            "required": required,
            "additionalProperties": true,
        })
    }
}

/// The schema of what may be `null`, too.
fn or_null(schema: Value) -> Value {
    match schema.as_object().is_some_and(Map::is_empty) {
        // Whatever may be anything may be null.
        true => schema,
        false => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

macro_rules! described {
    ($($type:ty => $schema:expr;)*) => { $(
        impl Described for $type {
            fn schema() -> Value {
                $schema
            }
        }
    )* };
}

described! {
    String => json!({ "type": "string" });
    bool => json!({ "type": "boolean" });
    f32 => json!({ "type": "number" });
    f64 => json!({ "type": "number" });
    u32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
    u64 => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    usize => json!({ "type": "integer", "minimum": 0, "maximum": usize::MAX });
    i32 => json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX });
    i64 => json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX });
    Value => json!({});
    Map<String, Value> => json!({ "type": "object", "additionalProperties": true });
    TextOrIds => json!({ "anyOf": [String::schema(), Vec::<u32>::schema()] });
    TextOrTokens => json!({ "anyOf": [
        String::schema(),
        Vec::<String>::schema(),
        Vec::<u32>::schema(),
        Vec::<Vec<u32>>::schema(),
    ] });
}

impl<T: Described> Described for Vec<T> {
    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}

impl<T: Described> Described for Box<T> {
    fn schema() -> Value {
        T::schema()
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}

impl<T: Described> Described for HashMap<String, T> {
    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}

impl<T: Described> Described for BTreeMap<String, T> {
    fn schema() -> Value {
        HashMap::<String, T>::schema()
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}

impl<T: Described> Described for Nullable<T> {
    const NULLABLE: bool = true;
    fn schema() -> Value {
        or_null(T::schema())
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}

impl<T: Described> Described for OneOrMany<T> {
    fn schema() -> Value {
        json!({ "anyOf": [T::schema(), Vec::<T>::schema()] })
    }
    fn objects(into: &mut Vec<&'static Object>) {
        T::objects(into);
    }
}
