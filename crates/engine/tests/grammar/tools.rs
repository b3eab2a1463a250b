//! Tool calls that are made sure of: what is drawn is read as calls whose arguments obey their schemas, and free text
//! stays free.

use crate::vocabularies::{bytes, smollm2};
use crate::walk::{Random, accepts, continue_at_random};
use crate::{allows, factory};
use alti_engine::grammar::{Grammar, GrammarSource};
use alti_text::Tokenizer;
use alti_text::tools::{Tool, ToolCallParser, ToolChoice, ToolDialect, ToolOutput, tool_grammar};
use serde_json::{Value, json};

use ToolDialect::*;

fn tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer",
        "minimum": 1, "maximum": 9}, "units": {"enum": ["celsius", "kelvin"]}, "place": {"$ref": "#/$defs/place"}},
        "required": ["city", "units"], "additionalProperties": false,
        "$defs": {"place": {"type": "object", "properties": {"exact": {"type": "boolean"}}, "required": ["exact"],
        "additionalProperties": false}}});
    let flag = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
        "additionalProperties": false});
    let tool = |name: &str, parameters| Tool { name: name.into(), parameters, strict: true };
    vec![tool("get_weather", Some(weather)), tool("flag", Some(flag)), tool("now", None)]
}

fn source(dialect: ToolDialect, choice: &ToolChoice, parallel: bool, tokenizer: &Tokenizer) -> GrammarSource {
    GrammarSource::Lark(tool_grammar(dialect, &tools(), choice, parallel, tokenizer).unwrap().lark)
}

fn parse(dialect: ToolDialect, text: &str) -> ToolOutput {
    let names = tools().into_iter().map(|tool| tool.name).collect();
    ToolCallParser::new(dialect, names, "").parse(text)
}

#[track_caller]
fn check_calls(output: &ToolOutput, text: &str) {
    for call in &output.calls {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let tool = tools().into_iter().find(|tool| tool.name == call.name).unwrap();
        if let Some(schema) = tool.parameters {
            let valid = jsonschema::validator_for(&schema).unwrap().is_valid(&arguments);
            assert!(valid, "{arguments} of {text}");
        }
        assert!(arguments.is_object());
    }
}

#[test]
fn calls_that_are_required_are_made() {
    for tokenizer in [smollm2(), bytes()] {
        let factory = factory(&tokenizer);
        for (dialect, name) in ToolDialect::all() {
            for parallel in [false, true] {
                let source = source(dialect, &ToolChoice::Required, parallel, &tokenizer);
                let mut finished = 0;
                for seed in 0..8 {
                    let mut grammar = factory
                        .compile(&source)
                        .unwrap_or_else(|error| panic!("{name}: {error}\n{source:?}"));
                    let walk =
                        continue_at_random(&mut grammar, &tokenizer, &mut Random(seed), 4 * seed as usize);
                    let Some(text) = walk else { continue };
                    finished += 1;
                    let output = parse(dialect, &text);
                    assert!(
                        !output.calls.is_empty() && output.content.is_empty(),
                        "{name}: {text}\n{output:?}"
                    );
                    assert!(parallel || output.calls.len() == 1, "{name}: {text}");
                    check_calls(&output, &text);
                }
                assert!(finished >= 6, "{name}: only {finished} came to an end");
            }
        }
    }
}

#[test]
fn the_named_tool_is_called() {
    let tokenizer = smollm2();
    let factory = factory(&tokenizer);
    for (dialect, name) in ToolDialect::all() {
        let source = source(dialect, &ToolChoice::Named("flag".into()), true, &tokenizer);
        let mut grammar = factory.compile(&source).unwrap();
        let text = continue_at_random(&mut grammar, &tokenizer, &mut Random(1), 0).unwrap();
        let output = parse(dialect, &text);
        assert_eq!(output.calls.len(), 1, "{name}: {text}");
        assert_eq!(output.calls[0].name, "flag", "{name}: {text}");
        check_calls(&output, &text);
    }
    assert_eq!(tool_grammar(Pythonic, &tools(), &ToolChoice::Named("other".into()), true, &tokenizer), None);
    assert_eq!(tool_grammar(Pythonic, &tools(), &ToolChoice::None, true, &tokenizer), None);
    assert_eq!(tool_grammar(Pythonic, &[], &ToolChoice::Auto, true, &tokenizer), None);
}

/// Takes a text byte by byte, whatever it does.
fn takes(grammar: &mut Grammar, tokenizer: &Tokenizer, text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let special = ["<|python_tag|>"].into_iter().find(|special| rest.starts_with(special));
        let (token, length) = match special {
            Some(special) => (tokenizer.id_of(special).unwrap(), special.len()),
            None => (u32::from(rest.as_bytes()[0]), 1),
        };
        if !allows(grammar.mask().unwrap(), token) {
            return false;
        }
        grammar.accept(token).unwrap();
        // A character's other bytes come one by one.
        if !rest.is_char_boundary(length) {
            for byte in &rest.as_bytes()[1..rest.chars().next().unwrap().len_utf8()] {
                grammar.accept(u32::from(*byte)).unwrap();
            }
            rest = &rest[rest.chars().next().unwrap().len_utf8()..];
        } else {
            rest = &rest[length..];
        }
    }
    true
}

#[test]
fn free_text_is_free() {
    let tokenizer = bytes();
    let factory = factory(&tokenizer);
    for (dialect, name) in ToolDialect::all() {
        let source = source(dialect, &ToolChoice::Auto, true, &tokenizer);
        for text in [
            "Hello, world!\n\nÉté 😀",
            "{\"city\": \"Paris\"}",
            "[1, 2]",
            "{\"name\": \"Bob\"}",
            "[weather](http://x) <b>",
            "a <tool",
            " ",
        ] {
            let mut grammar =
                factory.compile(&source).unwrap_or_else(|error| panic!("{name}: {error}\n{source:?}"));
            assert!(accepts(&mut grammar, text), "{name}: {text}");
        }
    }
}

#[test]
fn a_call_that_begins_in_free_text_becomes_a_good_one() {
    let tokenizer = bytes();
    let factory = factory(&tokenizer);
    let beginnings = [
        (Llama3Json, "{\"name\": \"get_weather\""),
        (Llama3Json, " {\"name\":\"flag\", \"parameters\""),
        (Llama3Json, "{\"type\": \"function\", \"name\": \"get_weather\""),
        (Llama3Json, "[{\"name\": \"get_weather\""),
        (Llama4Json, "\n[ {\"type\":\"function\",\"name\":\"flag\""),
        (Llama3Json, "I look. <|python_tag|>{\"name\": \"get_weather\", "),
        (Llama4Json, "{\"name\": \"get_weather\", \"parameters\": {"),
        (Llama4Json, "Yes. <|python_start|>{\"name\": \"now\""),
        (Pythonic, "[get_weather("),
        (Pythonic, "[flag(on=T"),
        (FunctionTag, "Well. <function="),
        (FunctionTag, "<function=get_weather>{\"ci"),
        (ToolCallTag, "Let me see:\n<tool_call>"),
        (ToolCallTag, "<tool_call>\n{\"name\": \"flag\""),
        (ToolCallList, "<tool_call>[{\"name\": \"flag\", \"arguments\": "),
    ];
    for (dialect, beginning) in beginnings {
        // Where the opening is no token, a text that has it in it is left alone by dialects whose answers are calls.
        if beginning.contains("python_start") {
            continue;
        }
        for parallel in [false, true] {
            let source = source(dialect, &ToolChoice::Auto, parallel, &tokenizer);
            let mut finished = 0;
            for seed in 0..6 {
                let mut grammar = factory.compile(&source).unwrap();
                assert!(takes(&mut grammar, &tokenizer, beginning), "{dialect:?} refuses {beginning}");
                let walk = continue_at_random(&mut grammar, &tokenizer, &mut Random(seed), 3 * seed as usize);
                let Some(rest) = walk else { continue };
                finished += 1;
                let text = beginning.to_owned() + &rest;
                let output = parse(dialect, &text);
                assert!(!output.calls.is_empty(), "{dialect:?}: {text}\n{output:?}");
                assert!(parallel || output.calls.len() == 1, "{dialect:?}: {text}\n{output:?}");
                check_calls(&output, &text);
            }
            assert!(finished >= 3, "{dialect:?} {beginning}: only {finished} came to an end");
        }
    }
}

#[test]
fn what_cannot_be_checked_is_passed_over_where_nothing_is_promised() {
    let tokenizer = smollm2();
    let factory = factory(&tokenizer);
    let compiles = |grammar: String| factory.compile(&GrammarSource::Lark(grammar)).is_ok();
    let list = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let wrong = json!({"type": "object", "properties": {"a": {"type": "colour"}}});
    // Whether there is a grammar for all of the schema, and a looser one.
    for (schema, strict, all, loose) in [
        (&list, false, true, true),
        (&list, true, false, false),
        (&wrong, false, false, true),
        (&wrong, true, false, false),
    ] {
        let tools = [Tool { name: "f".into(), parameters: Some(schema.clone()), strict }];
        for (dialect, name) in ToolDialect::all() {
            let grammar = tool_grammar(dialect, &tools, &ToolChoice::Required, true, &tokenizer).unwrap();
            let found = (compiles(grammar.lark), compiles(grammar.loose_lark));
            assert_eq!(found, (all, loose), "{name}: {schema}, strict {strict}");
        }
    }
}

#[test]
fn names_are_spelled_as_they_are() {
    let tokenizer = bytes();
    let factory = factory(&tokenizer);
    let tools = [Tool { name: "a/b \"c\"\\d\n.e".into(), parameters: None, strict: false }];
    for dialect in [Llama3Json, ToolCallTag] {
        for choice in [ToolChoice::Required, ToolChoice::Auto] {
            let grammar = tool_grammar(dialect, &tools, &choice, false, &tokenizer).unwrap();
            factory.compile(&GrammarSource::Lark(grammar.lark)).unwrap();
        }
    }
}

#[test]
fn what_python_cannot_write_is_told_where_it_is_promised() {
    let unwritable = |dialect, parameters: Value, strict| {
        let tool = Tool { name: "f".into(), parameters: Some(parameters), strict };
        alti_text::tools::unwritable(dialect, &tool)
    };
    let plain = json!({ "type": "object", "properties": { "a": { "anyOf": [{ "type": "null" }] } }, "required": ["a"] });
    assert_eq!(unwritable(ToolDialect::Pythonic, plain, true), None);
    for (schema, what) in [
        (json!({ "properties": {}, "anyOf": [] }), "anyOf"),
        (json!({ "properties": { "user id": {} } }), "user id"),
        (json!({ "properties": {}, "required": ["b"] }), "b"),
    ] {
        assert_eq!(unwritable(ToolDialect::Pythonic, schema.clone(), true).as_deref(), Some(what));
        assert_eq!(unwritable(ToolDialect::Pythonic, schema.clone(), false), None, "nothing is promised");
        assert_eq!(unwritable(ToolDialect::Llama3Json, schema, true), None, "JSON writes it");
    }
}
