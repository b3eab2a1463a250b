//! A grammar can go back, be copied, be used again, and know what must come.

use crate::vocabularies::{bytes, llama2, smollm2};
use crate::walk::Random;
use crate::{allows, compile, factory, tokens};
use alti_engine::grammar::{GrammarFactory, GrammarSource};
use alti_text::Specials;

const SCHEMA: &str = r#"{"type": "object", "properties": {"description": {"type": "string"},
    "tags": {"type": "array", "items": {"enum": ["alpha", "beta", "gamma"]}}},
    "required": ["description", "tags"], "additionalProperties": false}"#;

fn schema() -> GrammarSource {
    GrammarSource::JsonSchema(SCHEMA.into())
}

/// Each step's mask and the token taken.
fn walk(factory: &GrammarFactory, seed: u64) -> Vec<(Vec<u32>, u32)> {
    let mut grammar = factory.compile(&schema()).unwrap();
    let mut random = Random(seed);
    let mut steps = Vec::new();
    while steps.len() < 40 && !grammar.is_finished() {
        let mask = grammar.mask().unwrap().to_vec();
        let allowed = tokens(&mask);
        let token = allowed[random.below(allowed.len())];
        grammar.accept(token).unwrap();
        steps.push((mask, token));
    }
    steps
}

#[test]
fn rolled_back_it_is_as_it_was() {
    for tokenizer in [smollm2(), llama2()] {
        let factory = factory(&tokenizer);
        for seed in 0..8 {
            let steps = walk(&factory, seed);
            let mut grammar = factory.compile(&schema()).unwrap();
            let mut random = Random(seed + 100);
            let mut at = 0;
            for _ in 0..60 {
                if at > 0 && random.below(3) == 0 {
                    let back = 1 + random.below(at.min(8));
                    grammar.rollback(back).unwrap();
                    at -= back;
                } else if at < steps.len() {
                    // Asking for the mask or for what is forced changes nothing.
                    if random.below(2) == 0 {
                        grammar.forced();
                    }
                    assert_eq!(grammar.mask().unwrap(), steps[at].0, "step {at}");
                    grammar.accept(steps[at].1).unwrap();
                    at += 1;
                }
            }
            assert!(grammar.rollback(at + 1).is_err(), "further than its beginning");
        }
    }
}

#[test]
fn a_copy_goes_its_own_way() {
    let factory = factory(&smollm2());
    let steps = walk(&factory, 3);
    let mut grammar = factory.compile(&schema()).unwrap();
    for (mask, token) in &steps {
        let mut copy = grammar.clone();
        assert_eq!(copy.mask().unwrap(), mask);
        copy.accept(*token).unwrap();
        copy.mask().unwrap();
        assert_eq!(grammar.mask().unwrap(), mask);
        grammar.accept(*token).unwrap();
    }
}

/// The cache hands out parsers that others have used.
#[test]
fn who_used_it_before_makes_no_difference() {
    let tokenizer = smollm2();
    let used = factory(&tokenizer);
    for seed in 0..6 {
        assert_eq!(walk(&used, seed), walk(&factory(&tokenizer), seed));
        assert_eq!(walk(&used, seed), walk(&used, seed));
    }
}

#[test]
fn grammars_are_used_by_many_threads_at_once() {
    let factory = factory(&smollm2());
    let expected: Vec<_> = (0..4).map(|seed| walk(&factory, seed)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (seed, steps) in expected.iter().enumerate() {
                    assert_eq!(&walk(&factory, seed as u64), steps);
                }
            });
        }
    });
}

#[test]
fn forced_tokens_are_what_the_masks_allow() {
    for (tokenizer, at_least) in [(smollm2(), 2), (bytes(), 5)] {
        let mut grammar = compile(&tokenizer, &schema());
        let mut seen = 0;
        let mut random = Random(5);
        while !grammar.is_finished() && seen < 200 {
            for token in grammar.forced() {
                assert_eq!(tokens(grammar.mask().unwrap()), [token]);
                grammar.accept(token).unwrap();
                seen += 1;
            }
            if !grammar.is_finished() {
                let allowed = tokens(grammar.mask().unwrap());
                let quote = tokenizer.id_of("\"").filter(|quote| allowed.contains(quote));
                grammar.accept(quote.unwrap_or(allowed[random.below(allowed.len())])).unwrap();
            }
        }
        assert!(seen >= at_least, "{seen} forced tokens");
    }
}

#[test]
fn where_nothing_can_follow_the_text_is_finished() {
    let tokenizer = smollm2();
    let mut grammar = compile(&tokenizer, &GrammarSource::Regex("yes|no".into()));
    assert!(!grammar.is_finished());
    let yes = tokenizer.encode("yes", Specials::AsText);
    for &token in &yes {
        assert!(allows(grammar.mask().unwrap(), token));
        grammar.accept(token).unwrap();
    }
    assert!(grammar.is_finished());
    assert_eq!(tokens(grammar.mask().unwrap()), tokenizer.stop_ids());
    assert!(grammar.forced().is_empty());
    // The model may still say so itself, and take it back.
    let stop = tokenizer.stop_ids()[0];
    grammar.accept(stop).unwrap();
    assert!(grammar.is_finished());
    grammar.rollback(1 + yes.len()).unwrap();
    assert!(!grammar.is_finished());
    assert!(allows(grammar.mask().unwrap(), yes[0]));
}

#[test]
fn where_text_may_end_the_model_may_end_it() {
    let tokenizer = smollm2();
    let stop = tokenizer.stop_ids()[0];
    let mut grammar = compile(&tokenizer, &GrammarSource::Regex("[a-z]+".into()));
    assert!(!allows(grammar.mask().unwrap(), stop));
    grammar.accept(tokenizer.id_of("the").unwrap()).unwrap();
    assert!(allows(grammar.mask().unwrap(), stop));
    grammar.accept(stop).unwrap();
    assert!(grammar.is_finished());
    grammar.rollback(1).unwrap();
    assert!(!grammar.is_finished() && allows(grammar.mask().unwrap(), stop));
}

#[test]
fn a_token_that_is_not_allowed_is_an_error() {
    let tokenizer = smollm2();
    let mut grammar = compile(&tokenizer, &GrammarSource::Regex("[0-9]+".into()));
    let error = grammar.accept(tokenizer.id_of("the").unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("regular expression: "), "{error}");
    assert!(grammar.mask().is_err());
    // Others with the same source are not troubled.
    assert!(compile(&tokenizer, &GrammarSource::Regex("[0-9]+".into())).mask().is_ok());
}

#[test]
fn masks_cover_the_models_rows() {
    let tokenizer = bytes();
    for extra in [0, 1, 31, 64, 1000] {
        let size = tokenizer.vocabulary_size() + extra;
        let factory = GrammarFactory::new(&tokenizer, size).unwrap();
        let mut grammar = factory.compile(&GrammarSource::Regex("(?s:.*)".into())).unwrap();
        let mask = grammar.mask().unwrap();
        assert!(mask.len() >= size.div_ceil(32));
        let allowed = tokens(mask);
        assert!(allowed.len() > 100);
        assert!(allowed.iter().all(|token| (*token as usize) < tokenizer.vocabulary_size()));
    }
}

#[test]
fn control_tokens_are_allowed_by_name_only() {
    let tokenizer = bytes();
    let tag = tokenizer.id_of("<|python_tag|>").unwrap();
    let mut free = compile(&tokenizer, &GrammarSource::Regex("(?s:.*)".into()));
    assert!(!allows(free.mask().unwrap(), tag));
    let mut named = compile(&tokenizer, &GrammarSource::Lark("start: <|python_tag|> /[a-z]+/".into()));
    assert_eq!(tokens(named.mask().unwrap()), [tag]);
    named.accept(tag).unwrap();
    assert!(allows(named.mask().unwrap(), u32::from(b'x')));
}
