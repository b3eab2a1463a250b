//! Sources that want to harm: refused with a reason, or harmless. Time and memory have bounds.

use crate::factory;
use crate::vocabularies::smollm2;
use alti_engine::grammar::GrammarSource;
use std::time::{Duration, Instant};

/// Generous: what a hostile source may cost is some hundred milliseconds on one core.
const LONGEST: Duration = Duration::from_secs(20);

fn sources() -> Vec<(&'static str, GrammarSource)> {
    let schema = |text: String| GrammarSource::JsonSchema(text);
    let regex = |text: &str| GrammarSource::Regex(text.into());
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + close.repeat(depth).as_str();
    let definitions = |count: usize, body: &dyn Fn(usize) -> String| {
        let definitions: Vec<String> = (0..count).map(|at| format!(r#""d{at}":{}"#, body(at))).collect();
        schema(format!(r##"{{"$defs":{{{}}},"$ref":"#/$defs/d0"}}"##, definitions.join(",")))
    };
    vec![
        ("repetitions of repetitions", regex("((a{0,1000}){0,1000}){0,1000}")),
        ("a large repetition", regex("[a-z]{100000000}")),
        ("a text without end that is forced", regex("a{1000000000}")),
        ("an exponential expression", regex("(a|b|ab)*c(.{1000})")),
        ("brackets", regex(&nested("(", ")", 100_000))),
        ("an unclosed bracket", regex("(")),
        ("a long alternation", regex(&(0..30_000).map(|n| n.to_string()).collect::<Vec<_>>().join("|"))),
        ("a huge bound", schema(r#"{"type":"array","items":{},"minItems":1000000000}"#.into())),
        ("a huge length", schema(r#"{"type":"string","minLength":1000000000}"#.into())),
        ("a huge span", schema(r#"{"type":"string","minLength":1,"maxLength":100000}"#.into())),
        (
            "a hostile pattern",
            schema(r#"{"type":"string","pattern":"^(([a-z])+.)+[A-Z]([a-z])+(x{900}){900}$"}"#.into()),
        ),
        ("a reference to itself", schema(r##"{"$ref":"#"}"##.into())),
        (
            "two that refer to each other",
            definitions(2, &|at| format!(r##"{{"$ref":"#/$defs/d{}"}}"##, 1 - at)),
        ),
        ("a long chain", definitions(3000, &|at| format!(r##"{{"$ref":"#/$defs/d{}"}}"##, at + 1))),
        (
            "a long chain of conjunctions",
            definitions(2000, &|at| {
                format!(r##"{{"allOf":[{{"$ref":"#/$defs/d{}"}},{{"type":"object"}}]}}"##, at + 1)
            }),
        ),
        (
            "conjunctions that double",
            definitions(40, &|at| {
                format!(
                    r##"{{"allOf":[{{"$ref":"#/$defs/d{0}"}},{{"$ref":"#/$defs/d{0}"}}]}}"##,
                    (at + 1).min(39)
                )
            }),
        ),
        (
            "alternatives that multiply",
            schema(format!(
                r#"{{"allOf":[{}]}}"#,
                (0..12)
                    .map(|at| format!(
                        r#"{{"anyOf":[{{"properties":{{"a{at}":{{}}}}}},{{"properties":{{"b{at}":{{}}}}}}]}}"#
                    ))
                    .collect::<Vec<_>>()
                    .join(",")
            )),
        ),
        (
            "many properties",
            schema(format!(
                r#"{{"type":"object","properties":{{{}}}}}"#,
                (0..4000)
                    .map(|at| format!(r#""property{at}":{{"type":"string"}}"#))
                    .collect::<Vec<_>>()
                    .join(",")
            )),
        ),
        ("deep JSON", schema(nested(r#"{"items":"#, "}", 5000))),
        ("no JSON", schema("{".into())),
        ("a schema that is none", schema("[1,2]".into())),
        (
            "options of the parser",
            schema(r#"{"type":"object","x-guidance":{"whitespace_pattern":"(x{999}){999}"}}"#.into()),
        ),
        ("too long", schema(format!(r#"{{"const":"{}"}}"#, "x".repeat(1 << 20)))),
        ("Lark without rules", GrammarSource::Lark(String::new())),
        ("Lark that is none", GrammarSource::Lark("start: ( ".into())),
        ("Lark's brackets", GrammarSource::Lark(format!("start: {}", nested("(", ")", 50_000)))),
        ("Lark that needs itself", GrammarSource::Lark("start: start".into())),
        (
            "Lark that is ambiguous",
            GrammarSource::Lark("start: a a a a a a a\na: (\"x\")* (\"x\")* (\"x\")*".into()),
        ),
        ("Lark's repetitions", GrammarSource::Lark("start: ((\"a\"{1000}){1000}){1000}".into())),
        ("a token that is none", GrammarSource::Lark("start: <|nothing|>".into())),
        ("a rule that takes back", GrammarSource::Lark("start: a \"b\"\na[stop=\"x\"]: /.*/".into())),
        ("GBNF without a root", GrammarSource::Gbnf("a ::= \"b\"".into())),
        ("GBNF that is none", GrammarSource::Gbnf("root ::= (".into())),
        ("GBNF's repetitions", GrammarSource::Gbnf("root ::= ((\"a\"{2000}){2000}){2000}".into())),
        ("GBNF's brackets", GrammarSource::Gbnf(format!("root ::= {}", nested("(", ")", 50_000)))),
        ("GBNF's recursion", GrammarSource::Gbnf("root ::= root root | root | \"a\"".into())),
        ("GBNF without an end", GrammarSource::Gbnf("root ::= \"a\" root".into())),
        (
            "many rules of GBNF",
            GrammarSource::Gbnf(
                "root ::= r0\n".to_owned()
                    + &(0..5000).map(|at| format!("r{at} ::= [a-z] r{}\n", at + 1)).collect::<String>()
                    + "r5000 ::= \"x\"",
            ),
        ),
        (
            "many literals of GBNF",
            GrammarSource::Gbnf(format!(
                "root ::= ({})*",
                (0..1500).map(|at| format!("\"a{at}\"")).collect::<Vec<_>>().join(" | ")
            )),
        ),
    ]
}

#[test]
fn a_hostile_source_is_refused_or_harmless() {
    let factory = factory(&smollm2());
    for (what, source) in sources() {
        eprintln!("{what}");
        let start = Instant::now();
        let outcome = factory.compile(&source);
        let compiled = start.elapsed();
        eprintln!("  {compiled:?} {:?}", outcome.as_ref().err().map(ToString::to_string));
        assert!(compiled < LONGEST, "{what}: compiling took {compiled:?}");
        let start = Instant::now();
        match outcome {
            Ok(mut grammar) => {
                for _ in 0..3 {
                    let Ok(mask) = grammar.mask() else { break };
                    let Some(token) = crate::tokens(mask).pop() else { break };
                    if grammar.accept(token).is_err() || grammar.is_finished() {
                        break;
                    }
                }
                let used = start.elapsed();
                eprintln!("  used {used:?}");
                assert!(used < LONGEST, "{what}: using it took {used:?}");
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.starts_with(source.kind()), "{what}: {message}");
                assert!(message.len() < 700 && !message.contains('\n'), "{what}: {message}");
            }
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let factory = factory(&smollm2());
    let error = |source: GrammarSource| factory.compile(&source).unwrap_err().to_string();
    let expectations = [
        (GrammarSource::JsonSchema("{".into()), "JSON schema: it is no JSON"),
        (GrammarSource::Regex("(".into()), "regular expression: "),
        (
            GrammarSource::Gbnf("root ::= thing".into()),
            "GBNF grammar: the rule `thing` is used, but not defined",
        ),
        (
            GrammarSource::Gbnf("\n\nroot ::= \"a".into()),
            "GBNF grammar: line 3: a string or set that does not end",
        ),
        (
            GrammarSource::Gbnf("root ::= <nothing>".into()),
            "GBNF grammar: line 1: `<nothing>` is no token of this model",
        ),
        (GrammarSource::Regex("a".repeat(1 << 20)), "regular expression: it is 1048576 bytes long"),
        (GrammarSource::JsonSchema(r#"{"type":"strin"}"#.into()), "JSON schema: "),
        (
            GrammarSource::JsonSchema(r#"{"properties":{"a":{"type":"array","uniqueItems":true}}}"#.into()),
            "JSON schema: `uniqueItems` at `#/properties/a` cannot be checked",
        ),
        (
            GrammarSource::JsonSchema(r#"{"items":{"oneOf":[{"type":"object"},{"required":["a"]}]}}"#.into()),
            "JSON schema: `oneOf` at `#/items` whose branches overlap cannot be checked while a text is written: use `anyOf`",
        ),
    ];
    for (source, expected) in expectations {
        let message = error(source);
        assert!(message.starts_with(expected), "{message}");
    }
}
