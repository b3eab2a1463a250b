//! Tool calls in every dialect: read as they stream, whole or in any pieces, and nothing of an answer is lost.

use crate::common::{meta, smollm2};
use alti_text::tools::{ToolCallParser, ToolDialect, ToolEvent, ToolOutput};
use alti_text::{BuiltinTemplate, ChatTemplate, Conversation, Message, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use ToolDialect::*;

fn parser(dialect: ToolDialect) -> ToolCallParser {
    let names = ["get_weather", "add", "brave_search", "code_interpreter", "f"].map(str::to_owned);
    ToolCallParser::new(dialect, names.to_vec(), "call_")
}

fn parse(dialect: ToolDialect, text: &str) -> ToolOutput {
    parser(dialect).parse(text)
}

/// Name and arguments of each call.
fn calls(output: &ToolOutput) -> Vec<(String, Value)> {
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    output.calls.iter().map(|call| (call.name.clone(), value(&call.arguments))).collect()
}

#[track_caller]
fn check(dialect: ToolDialect, text: &str, content: &str, expected: &[(&str, Value)]) {
    let output = parse(dialect, text);
    let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    assert_eq!((output.content.as_str(), calls(&output)), (content, expected), "{dialect:?} {text:?}");
}

#[test]
fn json_as_llama_3_writes_it() {
    let weather = ("get_weather", json!({"city": "Paris"}));
    let call = r#"{"name": "get_weather", "parameters": {"city": "Paris"}}"#;
    check(Llama3Json, call, "", std::slice::from_ref(&weather));
    check(Llama3Json, &format!("\n {call}\n"), "", std::slice::from_ref(&weather));
    check(Llama3Json, &format!("<|python_tag|>{call}"), "", std::slice::from_ref(&weather));
    check(
        Llama3Json,
        &format!("Let me see. <|python_tag|>{call}"),
        "Let me see.",
        std::slice::from_ref(&weather),
    );
    let sum = ("add", json!({"a": 1, "b": 2.5}));
    let other = r#"{"type": "function", "name": "add", "arguments": {"a": 1, "b": 2.5}}"#;
    let both = [weather.clone(), sum.clone()];
    for separator in ["; ", "", "\n", ","] {
        check(Llama3Json, &format!("{call}{separator}{other}"), "", &both);
        check(Llama3Json, &format!("<|python_tag|>{call}{separator}{other}"), "", &both);
    }
    check(Llama3Json, &format!("[{call}, {other}]"), "", &both);
    // Members in another order, where it was announced; none at all.
    let turned = r#"<|python_tag|>{"parameters": {"a": 1, "b": 2.5}, "name": "add"}"#;
    check(Llama3Json, turned, "", &[sum]);
    check(Llama3Json, r#"{"name": "f"}"#, "", &[("f", json!({}))]);
    check(Llama4Json, &format!("<|python_start|>{call}{other}<|python_end|>"), "", &both);
    check(Llama4Json, &format!("Yes.<|python_start|>{call}<|python_end|> Done."), "Yes. Done.", &[weather]);
}

#[test]
fn built_in_tools_and_code() {
    let search = |query: &str| [("brave_search", json!({"query": query}))];
    check(Llama3Json, r#"<|python_tag|>brave_search.call(query="rust news")"#, "", &search("rust news"));
    check(
        Llama3Json,
        r#"<|python_tag|>brave_search.call(query="who said "hi"?")"#,
        "",
        &search("who said \"hi\"?"),
    );
    check(
        Llama3Json,
        r#"<|python_tag|>add.call(a=1, b="x, y")"#,
        "",
        &[("add", json!({"a": 1, "b": "x, y"}))],
    );
    let code = "import math\nprint(\"é\", math.pi)";
    check(Llama3Json, &format!("<|python_tag|>{code}"), "", &[("code_interpreter", json!({"code": code}))]);
    check(Llama3Json, "<|python_tag|>brave", "", &[("code_interpreter", json!({"code": "brave"}))]);
    // Without a tool that runs code it is text.
    let text = "<|python_tag|>print(1)";
    let output = ToolCallParser::new(Llama3Json, vec!["f".into()], "").parse(text);
    assert_eq!((output.content.as_str(), output.calls.len()), (text, 0));
}

#[test]
fn python_lists() {
    let text = r#"[get_weather(city='San Francisco', days=3), add(a=-1.5, b=[1, {"x": True}], c=None)]"#;
    let expected = [
        ("get_weather", json!({"city": "San Francisco", "days": 3})),
        ("add", json!({"a": -1.5, "b": [1, {"x": true}], "c": null})),
    ];
    check(Pythonic, text, "", &expected);
    check(Pythonic, &format!("<|python_start|>{text}<|python_end|>"), "", &expected);
    check(Pythonic, "[f()]", "", &[("f", json!({}))]);
    check(Pythonic, "[f(a=\"it's, (ok)]\")]", "", &[("f", json!({"a": "it's, (ok)]"}))]);
    for text in
        ["[1, 2, 3]", "[f]", "[f(x)]", "[g(a=1)]", "[f(a=b)]", "[f(a=1)", "[f(a=1", "[link](http://x)"]
    {
        check(Pythonic, text, text, &[]);
    }
    check(Pythonic, "[f(a=1), g(b=2)] x", " g(b=2)] x", &[("f", json!({"a": 1}))]);
}

#[test]
fn tags() {
    let text = "Sure.\n<function=get_weather>{\"city\": \"Paris\"}</function>\n<function=f></function>";
    check(FunctionTag, text, "Sure.", &[("get_weather", json!({"city": "Paris"})), ("f", json!({}))]);
    let text = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"f\", \
                \"arguments\": {}}\n</tool_call>";
    check(ToolCallTag, text, "", &[("add", json!({"a": 1})), ("f", json!({}))]);
    check(
        ToolCallTag,
        &format!("Before {text} after"),
        "Before after",
        &[("add", json!({"a": 1})), ("f", json!({}))],
    );
    let list = "<tool_call>[{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"f\", \"arguments\": {}}]</tool_call>";
    check(ToolCallList, list, "", &[("add", json!({"a": 1})), ("f", json!({}))]);
    // The end of the answer closes what is complete.
    check(ToolCallTag, "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "", &[("f", json!({}))]);
}

#[test]
fn what_only_looks_like_a_call_is_text() {
    let same = |dialect, text: &str| check(dialect, text, text, &[]);
    same(Llama3Json, r#"{"name": "Bob", "age": 3}"#);
    same(Llama3Json, r#"{"city": "Paris"}"#);
    same(Llama3Json, "{ is a brace.\n");
    same(Llama3Json, r#"{"name": "f", "parameters": 3}"#);
    same(Llama3Json, r#"{"name": "f", "parameters": {"a": }}"#);
    same(Llama3Json, r#"{"name": "f", "parameters": {"a": 1}"#);
    // Free text to a grammar, in which arguments would obey nothing.
    same(Llama3Json, r#"{"parameters": {}, "name": "f"}"#);
    same(Llama3Json, r#"{"id": "1", "name": "f", "parameters": {}}"#);
    same(Llama3Json, r#"{"type": "function", "type": "function", "name": "f", "parameters": {}}"#);
    same(Llama3Json, r#"{"n\u0061me": "f", "parameters": {}}"#);
    same(Llama3Json, r#"{"name": "\u0066", "parameters": {}}"#);
    same(Llama3Json, "\u{a0}{\"name\": \"f\", \"parameters\": {}}");
    same(Llama3Json, r#"An example: {"name": "f", "parameters": {}}"#);
    same(Llama3Json, " <|python_tag|>");
    same(ToolCallTag, "<tool_call> is how one calls");
    same(ToolCallTag, "a <tool_call>{\"name\": \"f\", \"arguments\": {\"x\": [1, }}</tool_call> b");
    same(ToolCallTag, "a < b <tool_cal");
    same(ToolCallTag, "{\"name\": \"f\", \"arguments\": {}}");
    same(FunctionTag, "<function=unknown>{}</function>");
    same(FunctionTag, "<function=f>{\"a\": 01}</function>");
    same(FunctionTag, "  <function");
}

#[test]
fn arguments_stream_as_they_come() {
    let mut parser = parser(ToolCallTag);
    let mut pieces = Vec::new();
    for piece in [
        "ok <tool_",
        "call>{\"name\": \"f\", \"arguments\": {\"text\": \"one",
        " two",
        "\"}",
        "}</tool_call>",
    ] {
        pieces.push(parser.push(piece));
    }
    let arguments = |text: &str| ToolEvent::Arguments { index: 0, text: text.into() };
    assert_eq!(pieces[0], [ToolEvent::Content("ok".into())]);
    let start = ToolEvent::Start { index: 0, id: "call_0".into(), name: "f".into() };
    assert_eq!(pieces[1], [start, arguments("{\"text\": \"one")]);
    assert_eq!(pieces[2], [arguments(" two")]);
    assert_eq!(pieces[3], [arguments("\"}")]);
    assert_eq!(pieces[4], [ToolEvent::End { index: 0 }]);
    assert!(parser.finish().is_empty());
}

#[test]
fn ordinary_text_is_not_held_back() {
    for dialect in ToolDialect::all().map(|(dialect, _)| dialect) {
        let mut parser = parser(dialect);
        assert_eq!(parser.push("Hello"), [ToolEvent::Content("Hello".into())]);
        assert_eq!(parser.push(" <b>{x}"), [ToolEvent::Content(" <b>{x}".into())]);
    }
}

/// Answers made of what matters to the parser, some of them good calls.
fn answer() -> impl Strategy<Value = String> {
    let pieces = vec![
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "<function=",
        "</function>",
        "<|python_tag|>",
        "<|python_start|>",
        "<|python_end|>",
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"é}\"]}}",
        "{\"name\": \"add\", \"parameters\": {}}",
        "{\"parameters\": {\"x\": null}, \"name\": \"f\"}",
        "{\"name\": \"f\", ",
        "{\"a\": \"b\\\"\"}",
        "{}",
        "{",
        "}",
        "[",
        "]",
        "f(a=1)",
        "[f(a=1, b='x\\'y'), add()]",
        "f(",
        "=",
        "brave_search.call(query=\"a\")",
        "print(1)",
        " ",
        "\n",
        ",",
        ";",
        "\"",
        "text",
        "<",
        "日本",
    ];
    proptest::collection::vec(proptest::sample::select(pieces), 0..10).prop_map(|pieces| pieces.concat())
}

fn dialects() -> impl Strategy<Value = ToolDialect> {
    proptest::sample::select(ToolDialect::all().map(|(dialect, _)| dialect).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_the_same(text in answer(), dialect in dialects(), cuts in proptest::collection::vec(0..200_usize, 0..12)) {
        let whole = parse(dialect, &text);
        let mut parser = parser(dialect);
        let mut events = Vec::new();
        let mut rest = text.as_str();
        for cut in cuts {
            let at = (0..=cut.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap();
            events.extend(parser.push(&rest[..at]));
            rest = &rest[at..];
        }
        events.extend(parser.push(rest));
        events.extend(parser.finish());
        prop_assert_eq!(&ToolOutput::collect(events), &whole);
        // Arguments are JSON objects.
        for call in &whole.calls {
            prop_assert!(serde_json::from_str::<serde_json::Map<String, Value>>(&call.arguments).is_ok());
        }
        // Without a call, the text is all there.
        if whole.calls.is_empty() {
            prop_assert_eq!(&whole.content, &text);
        }
    }

    #[test]
    fn calls_of_any_arguments_come_through(
        text in "\\PC{0,20}", number in any::<i64>(), flag in any::<bool>(), lead in "[a-zA-Z .\n]{0,10}"
    ) {
        let arguments = json!({"text": text, "deep": {"numbers": [number], "flag": flag}});
        let expected = vec![("f".to_owned(), arguments.clone())];
        let call = json!({"name": "f", "arguments": arguments});
        let tagged = [
            (ToolCallTag, format!("{lead}<tool_call>\n{call}\n</tool_call>")),
            (FunctionTag, format!("{lead}<function=f>{arguments}</function>")),
            (Llama3Json, format!("{lead}<|python_tag|>{call}")),
            (Pythonic, format!("{lead}<|python_start|>[f(text={}, deep={})]<|python_end|>", arguments["text"], arguments["deep"])),
        ];
        for (dialect, text) in tagged {
            let output = parse(dialect, &text);
            prop_assert_eq!(calls(&output), expected.clone(), "{:?} {}", dialect, text);
            prop_assert_eq!(&output.content, lead.trim_end());
        }
    }
}

#[test]
fn long_answers_take_no_longer_than_they_are() {
    let long = " ".repeat(200_000) + &"<".repeat(200_000) + &"[".repeat(100_000);
    for dialect in ToolDialect::all().map(|(dialect, _)| dialect) {
        assert_eq!(parse(dialect, &long).content, long);
        let call = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": {}", "[".repeat(100_000));
        assert_eq!(parse(dialect, &call).content, call);
    }
}

fn template_of(name: &str, tokenizer: &Tokenizer) -> ChatTemplate {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/templates");
    let source = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    ChatTemplate::new(&source, tokenizer).unwrap()
}

#[test]
fn templates_show_their_dialect() {
    let (llama3, llama4, smollm2) = (meta("llama3"), meta("llama4"), smollm2("smollm"));
    let detect = |template: &ChatTemplate, tokenizer| ToolDialect::detect(template.source(), tokenizer);
    assert_eq!(detect(&template_of("Llama-3.1.jinja", &llama3), &llama3), Llama3Json);
    assert_eq!(detect(&template_of("Llama-3.2.jinja", &llama3), &llama3), Llama3Json);
    assert_eq!(detect(&template_of("Hermes-3-tools.jinja", &smollm2), &smollm2), ToolCallTag);
    assert_eq!(detect(&template_of("SmolLM2.jinja", &smollm2), &smollm2), ToolCallTag);
    let builtin = |template: BuiltinTemplate, tokenizer| ToolDialect::detect(&template.source(), tokenizer);
    assert_eq!(builtin(BuiltinTemplate::Llama31, &llama3), Llama3Json);
    assert_eq!(builtin(BuiltinTemplate::Llama4, &llama4), Llama4Json);
    assert_eq!(builtin(BuiltinTemplate::ChatMl, &smollm2), ToolCallTag);
    for (dialect, name) in ToolDialect::all() {
        assert_eq!(ToolDialect::named(name), Some(dialect));
    }
}

/// A call that was read, given back in the conversation, is rendered as it was written.
#[test]
fn past_calls_come_back_as_they_were_written() {
    let (llama3, llama4, smollm2) = (meta("llama3"), meta("llama4"), smollm2("smollm"));
    let templates = [
        (BuiltinTemplate::Llama31.compile(&llama3).unwrap(), &llama3),
        (template_of("Llama-3.1.jinja", &llama3), &llama3),
        (template_of("Llama-3.2.jinja", &llama3), &llama3),
        (BuiltinTemplate::Llama4.compile(&llama4).unwrap(), &llama4),
        (template_of("Hermes-3-tools.jinja", &smollm2), &smollm2),
    ];
    for (template, tokenizer) in templates {
        let dialect = ToolDialect::detect(template.source(), tokenizer);
        let call = json!({"id": "call_0", "type": "function",
            "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\", \"days\": 2}"}});
        let mut conversation = Conversation::new(vec![
            Message::text("user", "How is the weather?"),
            Message { role: "assistant".into(), tool_calls: vec![call], ..Message::default() },
            Message {
                extra: json!({"tool_call_id": "call_0", "name": "get_weather"}).as_object().unwrap().clone(),
                ..Message::text("tool", "sunny <|eot_id|>")
            },
        ]);
        conversation.tools = vec![
            json!({"type": "function", "function": {"name": "get_weather", "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}),
        ];
        let text = template.render(&conversation).unwrap().text();
        let turn = text.rfind("assistant").and_then(|last| text[..last].rfind("assistant")).unwrap()
            + "assistant".len();
        let mut turn = &text[turn..];
        for header in ["<|end_header_id|>", "<|header_end|>", "\n", "\n"] {
            turn = turn.strip_prefix(header).unwrap_or(turn);
        }
        let end = ["<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|im_end|>"]
            .iter()
            .filter_map(|end| turn.find(end))
            .min();
        let output = parse(dialect, &turn[..end.unwrap()]);
        assert_eq!(
            calls(&output),
            [("get_weather".to_owned(), json!({"city": "Paris", "days": 2}))],
            "{text}"
        );
        assert_eq!(output.content, "", "{text}");
        assert!(text.contains("sunny"), "{text}");
    }
}
