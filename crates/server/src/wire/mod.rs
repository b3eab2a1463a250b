//! What requests and answers look like on the wire: one declaration gives the type, its JSON and its documentation.
//!
//! Types are permissive where apps differ: fields nobody knows are ignored (and told to the log once), and `null` is
//! the same as an absent field, but where the field's type is [`Nullable`]. What is known but of the wrong type is answered with the API's own error.

mod describe;
mod read;

pub use describe::{Described, Field, Object, Support};
pub(crate) use read::integer;
pub use read::{UnknownFields, from_value, read_json};

use serde::{Deserialize, Deserializer, Serialize};

/// Declares an object of the wire: a struct, and [`Object`], the description that the documentation is made of.
/// `required` fields are always there, `optional` ones may be, `ignored` ones are read and have no effect.
#[macro_export]
macro_rules! wire {
    ($(
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( required { $( $(#[doc = $required_doc:literal])+ $(#[serde($($required_serde:tt)*)])* $required:ident : $required_type:ty, )* } )?
            $( optional { $( $(#[doc = $optional_doc:literal])+ $(#[serde($($optional_serde:tt)*)])* $optional:ident : $optional_type:ty, )* } )?
            $( ignored { $( $(#[doc = $ignored_doc:literal])+ $ignored:ident : $ignored_type:ty, )* } )?
        }
    )+) => { $(
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
        #[allow(missing_docs)]
        pub struct $name {
            $( $( $(#[doc = $required_doc])+ $(#[serde($($required_serde)*)])* pub $required: $required_type, )* )?
            $( $(
                $(#[doc = $optional_doc])+
                $(#[serde($($optional_serde)*)])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $optional: Option<$optional_type>,
            )* )?
            $( $(
                $(#[doc = $ignored_doc])+
                #[serde(default, skip_serializing)]
                #[allow(dead_code, reason = "read so that it is known, and described; nothing is done with it")]
                pub $ignored: Option<$ignored_type>,
            )* )?
        }

        impl $name {
            /// Its description.
            pub const OBJECT: &'static $crate::wire::Object = &$crate::wire::Object {
                name: stringify!($name),
                about: concat!($($about),+),
                fields: &[
                    $( $( $crate::wire::Field {
                        name: stringify!($required),
                        about: concat!($($required_doc),+),
                        support: $crate::wire::Support::Required,
                        schema: <$required_type as $crate::wire::Described>::schema,
                        nullable: <$required_type as $crate::wire::Described>::NULLABLE,
                        objects: <$required_type as $crate::wire::Described>::objects,
                    }, )* )?
                    $( $( $crate::wire::Field {
                        name: stringify!($optional),
                        about: concat!($($optional_doc),+),
                        support: $crate::wire::Support::Optional,
                        schema: <$optional_type as $crate::wire::Described>::schema,
                        nullable: <$optional_type as $crate::wire::Described>::NULLABLE,
                        objects: <$optional_type as $crate::wire::Described>::objects,
                    }, )* )?
                    $( $( $crate::wire::Field {
                        name: stringify!($ignored),
                        about: concat!($($ignored_doc),+),
                        support: $crate::wire::Support::Ignored,
                        schema: <$ignored_type as $crate::wire::Described>::schema,
                        nullable: <$ignored_type as $crate::wire::Described>::NULLABLE,
                        objects: <$ignored_type as $crate::wire::Described>::objects,
                    }, )* )?
                ],
            };
        }

        impl $crate::wire::Described for $name {
            fn schema() -> serde_json::Value {
                serde_json::json!({ "$ref": concat!("#/components/schemas/", stringify!($name)) })
            }
            fn objects(into: &mut Vec<&'static $crate::wire::Object>) {
                $name::OBJECT.collect(into);
            }
        }
    )+ };
}

/// A value that is `null` where it is not there, in APIs whose clients want the field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nullable<T>(pub Option<T>);

impl<T> Default for Nullable<T> {
    fn default() -> Self {
        Nullable(None)
    }
}

impl<T> From<Option<T>> for Nullable<T> {
    fn from(value: Option<T>) -> Self {
        Nullable(value)
    }
}

/// Reads an optional field that is there, so that `null` is told from nothing: for optional fields of type [`Nullable`], under
/// `#[serde(deserialize_with = "crate::wire::present")]`.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a field that has to be there, be it `null`: for required fields of type [`Nullable`], which would be `null` where
/// they are not there, under `#[serde(deserialize_with = "crate::wire::given")]`.
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::deserialize(deserializer)
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a value or a list of values")]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// The values.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

/// Text, or tokens, or several of either: what completions and embeddings take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids, or a list of lists of token ids"
)]
pub enum TextOrTokens {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// The tokens of one text.
    Tokens(Vec<u32>),
    /// The tokens of several.
    TokenLists(Vec<Vec<u32>>),
    /// Texts and tokens, mixed.
    Mixed(Vec<TextOrIds>),
}

/// One text, or its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a string or a list of token ids")]
pub enum TextOrIds {
    /// Text.
    Text(String),
    /// Tokens.
    Ids(Vec<u32>),
}

impl TextOrTokens {
    /// The single inputs, in order.
    pub fn into_inputs(self) -> Vec<TextOrIds> {
        match self {
            TextOrTokens::Text(text) => vec![TextOrIds::Text(text)],
            TextOrTokens::Texts(texts) => texts.into_iter().map(TextOrIds::Text).collect(),
            TextOrTokens::Tokens(ids) => vec![TextOrIds::Ids(ids)],
            TextOrTokens::TokenLists(lists) => lists.into_iter().map(TextOrIds::Ids).collect(),
            TextOrTokens::Mixed(inputs) => inputs,
        }
    }
}

impl TextOrIds {
    /// Bytes of text in it.
    pub(crate) fn text_bytes(&self) -> usize {
        match self {
            TextOrIds::Text(text) => text.len(),
            TextOrIds::Ids(_) => 0,
        }
    }
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "boolean",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "list",
        serde_json::Value::Object(_) => "object",
    }
}
