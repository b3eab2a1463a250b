//! JSON: every finished text is JSON that obeys its schema, by the judgement of another validator.

use crate::vocabularies::{bytes, llama2, smollm2};
use crate::walk::{Random, accepts, at_random};
use crate::{compile, factory};
use alti_engine::grammar::GrammarSource;
use proptest::prelude::*;
use serde_json::{Value, json};

fn schemas() -> Vec<Value> {
    let string = json!({"type": "string"});
    vec![
        json!({"type": "object", "properties": {"name": string, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
               "required": ["name", "age"], "additionalProperties": false}),
        json!({"type": "array", "items": string}),
        json!({"enum": ["red", "green", 3, null, {"a": [1]}]}),
        json!({"type": "object", "properties": {"kind": {"const": "order"}, "lines": {"type": "array", "minItems": 1,
               "items": {"type": "object", "properties": {"sku": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
               "count": {"type": "integer", "minimum": 1}, "price": {"type": "number"}},
               "required": ["sku", "count"], "additionalProperties": false}}}, "required": ["kind", "lines"],
               "additionalProperties": false}),
        json!({"$defs": {"node": {"type": "object", "properties": {"value": string,
               "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["value", "children"],
               "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"type": "object", "properties": {"text": {"type": "string", "minLength": 3, "maxLength": 12},
               "flag": {"type": "boolean"}, "nothing": {"type": "null"}, "date": {"type": "string", "format": "date"}},
               "required": ["text", "date"], "additionalProperties": false}),
        json!({"anyOf": [{"type": "object", "properties": {"ok": {"const": true}, "data": string},
               "required": ["ok", "data"], "additionalProperties": false},
               {"type": "object", "properties": {"ok": {"const": false}, "error": {"type": "integer"}},
               "required": ["ok", "error"], "additionalProperties": false}]}),
        json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}, "maxItems": 3}}),
        json!({"type": "object"}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, string], "items": {"type": "boolean"}, "minItems": 2}),
    ]
}

#[track_caller]
fn check(schema: &Value, text: &str) {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // JSON's numbers may be larger than any that this reader knows.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("{error}: {text}\n{schema}"),
    };
    let validator = jsonschema::validator_for(schema).unwrap();
    assert!(validator.is_valid(&value), "{text}\ndoes not obey\n{schema}");
}

#[test]
fn what_is_drawn_obeys_its_schema() {
    for (tokenizer, walks) in [(smollm2(), 6), (llama2(), 6), (bytes(), 6)] {
        let factory = factory(&tokenizer);
        let mut finished = 0;
        let schemas = schemas();
        for (index, schema) in schemas.iter().enumerate() {
            let source = GrammarSource::JsonSchema(schema.to_string());
            for walk in 0..walks {
                let mut grammar = factory.compile(&source).unwrap();
                let mut random = Random((index * 100 + walk) as u64);
                if let Some(text) = at_random(&mut grammar, &tokenizer, &mut random, 10 * walk) {
                    check(schema, &text);
                    finished += 1;
                }
            }
        }
        assert!(finished >= schemas.len() * walks * 9 / 10, "only {finished} texts came to an end");
    }
}

/// What a grammar cannot check is passed over where a schema is taken loosely, and all the rest is obeyed.
#[test]
fn a_schema_taken_loosely_is_obeyed_as_far_as_it_can_be() {
    let checkable = json!({"type": "object", "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]},
        "minItems": 2, "maxItems": 3}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["tags", "size"], "additionalProperties": false});
    let with = |path: &str, keyword: &str, value: Value| {
        let mut schema = checkable.clone();
        schema.pointer_mut(path).unwrap()[keyword] = value;
        schema
    };
    let schemas = [
        with("/properties/tags", "uniqueItems", json!(true)),
        with("/properties/tags", "contains", json!({"const": "a"})),
        with("/properties/size", "not", json!({"const": 3})),
        with("", "if", json!({"properties": {"size": {"const": 1}}})),
        with("", "dependentRequired", json!({"size": ["tags"]})),
        with("", "oneOf", json!([{"required": ["size"]}, {"required": ["tags"]}])),
    ];
    let tokenizer = bytes();
    let factory = factory(&tokenizer);
    for schema in schemas {
        let strict = factory.compile(&GrammarSource::JsonSchema(schema.to_string()));
        assert!(strict.is_err(), "{schema}");
        let loose = GrammarSource::LooseJsonSchema(schema.to_string());
        let mut finished = 0;
        for seed in 0..8 {
            let mut grammar = factory.compile(&loose).unwrap_or_else(|error| panic!("{error}: {schema}"));
            if let Some(text) = at_random(&mut grammar, &tokenizer, &mut Random(seed), 10) {
                check(&checkable, &text);
                finished += 1;
            }
        }
        assert!(finished >= 6, "{schema}");
    }
    // What asks for nothing is nothing to refuse.
    let idle = with("/properties/tags", "uniqueItems", json!(false));
    factory.compile(&GrammarSource::JsonSchema(idle.to_string())).unwrap();
}

#[test]
fn any_object_is_an_object_and_nothing_else_is() {
    let tokenizer = bytes();
    let accepts = |text| accepts(&mut compile(&tokenizer, &GrammarSource::JsonObject), text);
    for text in ["{}", r#"{"a":1}"#, "{\"a\": [1, 2.5e3, \"é\\n\", {}],\n  \"b\": null}"] {
        assert!(accepts(text), "{text}");
    }
    for text in ["", "[]", "1", "{", r#"{"a"}"#, r#"{"a":1}x"#, r#"{"a":01}"#, "text {}"] {
        assert!(!accepts(text), "{text}");
    }
}

#[test]
fn white_space_is_free_and_has_an_end() {
    let tokenizer = bytes();
    let accepts = |text: &str| accepts(&mut compile(&tokenizer, &GrammarSource::JsonObject), text);
    assert!(accepts("{\"a\":1}") && accepts("{\"a\": 1}") && accepts("{\n    \"a\": 1\n}"));
    assert!(!accepts(&format!("{{{}\"a\":1}}", "\n".repeat(100))));
    assert!(!accepts(&format!("{{{}\"a\":1}}", " ".repeat(100))));
}

#[test]
fn a_regular_expression_describes_the_whole_text() {
    let tokenizer = bytes();
    let accepts =
        |pattern: &str, text| accepts(&mut compile(&tokenizer, &GrammarSource::Regex(pattern.into())), text);
    assert!(accepts("[a-c]+/[0-9]{2}", "abc/42"));
    assert!(!accepts("[a-c]+/[0-9]{2}", "abc/4"));
    assert!(!accepts("[a-c]+", "xabc"));
    assert!(accepts("(yes|no)", "no"));
    assert!(accepts("é+", "éé"));
}

/// Schemas of everything that APIs' users write.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "number"})),
        (-50..50_i32, 0..80_i32)
            .prop_map(|(low, span)| json!({"type": "integer", "minimum": low, "maximum": low + span})),
        (0..4_u32, 0..6_u32)
            .prop_map(|(low, span)| json!({"type": "string", "minLength": low, "maxLength": low + span})),
        proptest::collection::vec("[a-z\"\\\\é ]{0,5}", 1..4).prop_map(|values| json!({"enum": values})),
        any::<i32>().prop_map(|value| json!({"const": value})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0..3_u32, 0..3_u32).prop_map(|(items, low, span)| {
                json!({"type": "array", "items": items, "minItems": low, "maxItems": low + span})
            }),
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            proptest::collection::vec(inner.clone(), 1..3).prop_map(|options| json!({"anyOf": options})),
            (proptest::collection::btree_map("[a-z]{1,4}", (inner, any::<bool>()), 0..4), any::<bool>()).prop_map(
                |(properties, open)| {
                    let required: Vec<&String> =
                        properties.iter().filter(|(_, (_, required))| *required).map(|(name, _)| name).collect();
                    let named: serde_json::Map<String, Value> =
                        properties.iter().map(|(name, (schema, _))| (name.clone(), schema.clone())).collect();
                    json!({"type": "object", "properties": named, "required": required, "additionalProperties": open})
                }
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_drawn_obeys_any_schema(schema in schema(), seed in any::<u64>(), free in 0..40_usize) {
        thread_local!(static BYTES: (alti_text::Tokenizer, alti_engine::grammar::GrammarFactory) = {
            let tokenizer = bytes();
            let factory = factory(&tokenizer);
            (tokenizer, factory)
        });
        let text = BYTES.with(|(tokenizer, factory)| {
            let mut grammar = factory.compile(&GrammarSource::JsonSchema(schema.to_string())).unwrap();
            at_random(&mut grammar, tokenizer, &mut Random(seed), free)
        });
        if let Some(text) = text {
            check(&schema, &text);
        }
    }
}
