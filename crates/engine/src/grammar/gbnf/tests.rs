//! The grammar's own derivations are the oracle: what it derives, the Lark grammar has to accept, by a reading that
//! knows no lexemes.

use super::parse::{Body, Grammar, NodeId, parse};
use super::{lexemes, to_lark};

fn lexemes_of(source: &str) -> Vec<String> {
    let grammar = parse(source, &|_| None).unwrap();
    lexemes::find(&grammar).all.into_iter().map(|lexeme| lexeme.regex).collect()
}

/// The strings of llama.cpp's JSON grammar are read by the lexer: that is what makes it fast.
#[test]
fn regular_parts_without_doubt_are_lexemes() {
    let source = include_str!("../../../tests/grammar/published/json.gbnf");
    let longest = lexemes_of(source).into_iter().map(|regex| regex.len()).max().unwrap();
    assert!(longest > 100, "strings and numbers are parsed character by character: {:?}", lexemes_of(source));
}

#[test]
fn doubtful_parts_are_not() {
    assert!(lexemes_of(r#"root ::= "a" "b" root | "ab" "c""#).iter().all(|regex| regex.len() < 20));
    // Regular as a whole: no doubt.
    assert_eq!(lexemes_of(r#"root ::= "a" "b" | "ab" "c""#).len(), 1);
}

#[test]
fn lark_is_what_is_written() {
    let lark = to_lark("root ::= \"a\" root? [0-9]*", |_| None).unwrap();
    assert!(lark.starts_with("start: r0\nr0: ("), "{lark}");
}

/// All texts of up to `length` characters of `alphabet` that a node derives, by their ends from `start`.
fn ends(grammar: &Grammar, node: NodeId, text: &[char], start: usize, depth: usize) -> Vec<usize> {
    if depth > 40 {
        return Vec::new();
    }
    let mut found = match grammar.node(node) {
        Body::Characters(ranges) => {
            let hit = text.get(start).is_some_and(|&character| {
                ranges.0.iter().any(|range| (range.0..=range.1).contains(&(character as u32)))
            });
            if hit { vec![start + 1] } else { Vec::new() }
        }
        Body::Token { .. } => Vec::new(),
        Body::Rule(rule) => ends(grammar, grammar.rules[*rule].body, text, start, depth + 1),
        Body::Choice(parts) => {
            parts.iter().flat_map(|part| ends(grammar, *part, text, start, depth + 1)).collect()
        }
        Body::Sequence(parts) => parts.iter().fold(vec![start], |starts, part| {
            starts.into_iter().flat_map(|start| ends(grammar, *part, text, start, depth + 1)).collect()
        }),
        Body::Repeat { part, minimum, maximum } => {
            let mut all = if *minimum == 0 { vec![start] } else { Vec::new() };
            let mut starts = vec![start];
            for count in 1..=maximum.unwrap_or(text.len() as u32 + minimum).min(text.len() as u32 + minimum) {
                starts = starts
                    .into_iter()
                    .flat_map(|start| ends(grammar, *part, text, start, depth + 1))
                    .collect();
                starts.sort_unstable();
                starts.dedup();
                if count >= *minimum {
                    all.extend(&starts);
                }
            }
            all
        }
    };
    found.sort_unstable();
    found.dedup();
    found
}

/// Every text of up to five characters, in and out of grammars made at random.
#[test]
fn lark_accepts_what_gbnf_derives_and_nothing_else() {
    use crate::grammar::{GrammarFactory, GrammarSource};
    let ranks: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let tokenizer = alti_text::Tokenizer::from_ranks(&ranks, &["<|end_of_text|>".to_owned()]).unwrap();
    let stop = tokenizer.stop_ids()[0];
    let factory = GrammarFactory::new(&tokenizer, tokenizer.vocabulary_size()).unwrap();
    for seed in 0..150_u64 {
        let source = random_grammar(seed);
        let grammar = parse(&source, &|_| None).unwrap();
        let Ok(mut compiled) = factory.compile(&GrammarSource::Gbnf(source.clone())) else {
            // A grammar that derives nothing is refused.
            continue;
        };
        let mut accepted = std::collections::HashSet::new();
        let mut open = vec![String::new()];
        while let Some(text) = open.pop() {
            let Ok(mask) = compiled.mask() else { panic!("{source}\n{text:?}") };
            let allowed = |token: u32| mask[token as usize / 32] >> (token % 32) & 1 == 1;
            if allowed(stop) {
                accepted.insert(text.clone());
            }
            let next: Vec<char> = "abc".chars().filter(|character| allowed(*character as u32)).collect();
            if text.len() < 5 && !compiled.is_finished() {
                open.extend(next.into_iter().map(|character| format!("{text}{character}")));
            }
            // On to the next text, from the beginning.
            compiled = factory.compile(&GrammarSource::Gbnf(source.clone())).unwrap();
            for byte in open.last().map_or("", String::as_str).bytes() {
                compiled.accept(u32::from(byte)).unwrap();
            }
        }
        for text in all_texts(5) {
            let characters: Vec<char> = text.chars().collect();
            let derives = ends(&grammar, grammar.rules[grammar.root].body, &characters, 0, 0)
                .contains(&characters.len());
            assert_eq!(
                accepted.contains(&text),
                derives,
                "{text:?} of\n{source}\n{}",
                to_lark(&source, |_| None).unwrap()
            );
        }
    }
}

fn all_texts(length: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut from = 0;
    for _ in 0..length {
        let to = all.len();
        for at in from..to {
            all.extend(["a", "b", "c"].map(|character| format!("{}{character}", all[at])));
        }
        from = to;
    }
    all
}

/// A grammar of three rules over three characters. Rules use later ones, and themselves only behind a character, so
/// that the oracle comes to an end.
fn random_grammar(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    let mut source = String::new();
    for (index, name) in ["root", "x", "y"].into_iter().enumerate() {
        let mut choices = Vec::new();
        for _ in 0..=below(3) {
            let mut parts = Vec::new();
            for _ in 0..=below(3) {
                let part = match below(9) {
                    0 => "\"a\"".to_owned(),
                    1 => "\"ab\"".to_owned(),
                    2 => "\"bca\"".to_owned(),
                    3 => "[ab]".to_owned(),
                    4 => "[^a]".to_owned(),
                    5 => format!("(\"c\" {name} | \"b\")"),
                    6 => "(\"a\" | \"ba\")".to_owned(),
                    _ if index == 0 => "x".to_owned(),
                    _ if index == 1 => "y".to_owned(),
                    _ => "\"c\"".to_owned(),
                };
                parts.push(part + ["", "", "", "*", "+", "?", "{1,2}"][below(7) as usize]);
            }
            choices.push(parts.join(" "));
        }
        source += &format!("{name} ::= {}\n", choices.join(" | "));
    }
    source
}
