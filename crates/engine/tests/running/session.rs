//! The context: what it holds, what is computed, and that no way of getting there changes a bit.

use crate::{bits, fresh, session};
use alti_engine::{EngineError, Shift, WhenFull};
use alti_tensor::Reference;
use alti_testkit::adapters;
use alti_testkit::parity::{Golden, assert_close};

/// One cache group, and two (attention in chunks of 8, and everywhere).
const MODELS: [&str; 2] = ["llama3-gqa", "llama4-scout"];

/// `count` tokens, different for each seed.
fn tokens(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * 37 + seed * 101 + index * index * 5) % 256) as u32).collect()
}

#[test]
fn what_the_context_begins_with_is_not_computed_again() {
    for model in MODELS {
        let mut session = session(model, 128, 16);
        session.prefill(&tokens(100, 1), |_| true).unwrap();
        // A page of the cache has 64 tokens: the change is within the second.
        let mut second = tokens(70, 1);
        second.extend(tokens(20, 2));
        let mut told = Vec::new();
        let logits = session.prefill(&second, |done| {
            told.push(done);
            true
        });
        assert_eq!(bits(logits.unwrap().unwrap()), fresh(model, &second), "{model}");
        assert_eq!(told, [70, 86], "{model}: 20 tokens in chunks of 16");
        assert_eq!(session.tokens(), second);

        // The same again, and a beginning of it: the last token alone, for its logits.
        for length in [second.len(), 65] {
            let mut told = Vec::new();
            let logits = session.prefill(&second[..length], |done| {
                told.push(done);
                true
            });
            assert_eq!(bits(logits.unwrap().unwrap()), fresh(model, &second[..length]), "{model}");
            assert_eq!(told, [length - 1], "{model}");
        }
    }
}

#[test]
fn chunks_of_any_size_and_single_steps_give_the_same_logits() {
    let all = tokens(75, 3);
    for model in MODELS {
        let expected = fresh(model, &all);
        for chunk in [1, 7, 64] {
            let mut told = Vec::new();
            let mut session = session(model, 75, chunk);
            let logits = session.prefill(&all, |done| {
                told.push(done);
                true
            });
            assert_eq!(bits(logits.unwrap().unwrap()), expected, "{model}: chunks of {chunk}");
            assert_eq!(told, (0..75).step_by(chunk).collect::<Vec<_>>());
        }
        let mut session = session(model, 75, 512);
        session.prefill(&all[..60], |_| true).unwrap();
        for (length, &token) in (61..).zip(&all[60..]) {
            let logits = bits(session.step(token).unwrap());
            assert_eq!(logits, fresh(model, &all[..length]), "{model}: step {length}");
        }
    }
}

#[test]
fn a_cancelled_prefill_keeps_what_was_computed_and_can_go_on() {
    let all = tokens(40, 4);
    let mut session = session("llama3-gqa", 64, 10);
    assert!(session.prefill(&all, |done| done < 20).unwrap().is_none());
    assert_eq!(session.tokens(), &all[..20]);
    let mut first = None;
    let logits = session.prefill(&all, |done| {
        first.get_or_insert(done);
        true
    });
    assert_eq!(bits(logits.unwrap().unwrap()), fresh("llama3-gqa", &all));
    assert_eq!(first, Some(20));
}

#[test]
fn a_shifted_context_is_as_one_that_never_held_the_forgotten_tokens() {
    for model in MODELS {
        let all = tokens(80, 5);
        for keep in [0, 1, 13, 79] {
            let mut session = session(model, 80, 16);
            session.prefill(&all, |_| true).unwrap();
            assert_eq!(session.shift(WhenFull::Shift { keep }, |_| true).unwrap(), Shift::Made);
            let forgotten = (80 - keep).div_ceil(2);
            let mut expected = [&all[..keep], &all[keep + forgotten..]].concat();
            assert_eq!(session.tokens(), expected, "{model}: keep {keep}");
            expected.push(7);
            assert_eq!(bits(session.step(7).unwrap()), fresh(model, &expected), "{model}: keep {keep}");
        }
    }
}

#[test]
fn a_context_of_one_token_can_shift() {
    let mut session = session("llama3-gqa", 1, 16);
    session.prefill(&[5], |_| true).unwrap();
    assert_eq!(session.shift(WhenFull::Shift { keep: 0 }, |_| true).unwrap(), Shift::Made);
    assert_eq!(bits(session.step(9).unwrap()), fresh("llama3-gqa", &[9]));
}

#[test]
fn a_context_that_is_to_stay_full_does() {
    let all = tokens(20, 6);
    let mut session = session("llama3-gqa", 20, 16);
    session.prefill(&all, |_| true).unwrap();
    for when_full in [WhenFull::Stop, WhenFull::Shift { keep: 20 }, WhenFull::Shift { keep: usize::MAX }] {
        assert_eq!(session.shift(when_full, |_| true).unwrap(), Shift::Refused);
        assert_eq!(session.tokens(), all);
    }
    let refused = session.step(1).unwrap_err();
    assert!(matches!(refused, EngineError::ContextFull { tokens: 21, context: 20 }), "{refused}");
    assert_eq!(session.tokens(), all);
}

#[test]
fn a_shift_can_be_cancelled_after_every_chunk() {
    let all = tokens(64, 7);
    let mut session = session("llama3-gqa", 64, 8);
    session.prefill(&all, |_| true).unwrap();
    let shifted = session.shift(WhenFull::Shift { keep: 4 }, |done| done < 20).unwrap();
    assert_eq!(shifted, Shift::Cancelled);
    let expected = [&all[..4], &all[34..]].concat();
    assert_eq!(session.tokens(), &expected[..20], "4 kept, and two chunks of 8");
    let logits = bits(session.prefill(&expected, |_| true).unwrap().unwrap());
    assert_eq!(logits, fresh("llama3-gqa", &expected));
}

#[test]
fn tokens_that_cannot_be_are_refused_and_change_nothing() {
    let mut session = session("llama3-gqa", 30, 16);
    session.prefill(&tokens(10, 8), |_| true).unwrap();
    let told = |_| panic!("nothing is computed");
    assert!(matches!(session.prefill(&[], told), Err(EngineError::EmptyPrompt)));
    let long = session.prefill(&tokens(31, 8), told).unwrap_err();
    assert!(matches!(long, EngineError::ContextFull { tokens: 31, context: 30 }), "{long}");
    let unknown = session.prefill(&[1, 256], told).unwrap_err();
    assert!(matches!(unknown, EngineError::UnknownToken { token: 256, vocabulary: 256 }), "{unknown}");
    assert!(matches!(session.step(u32::MAX), Err(EngineError::UnknownToken { .. })));
    assert_eq!(session.tokens(), tokens(10, 8));
}

#[test]
fn a_session_with_an_adapter_computes_what_peft_does() {
    let folder = alti_testkit::adapter("llama3-patterns");
    let expected = Golden::read_in(&folder);
    let plain = session("llama3-gqa", 64, 5);
    let adapter = adapters::load(&Reference::<f32>::new(), "llama3-patterns", &plain.model().config);
    let mut session = plain.with_adapter(Some(adapter));
    let tokens = &expected.sequences()[0];
    let found = session.prefill(tokens, |_| true).unwrap().unwrap().to_vec();
    let logits = expected.floats("logits");
    let last = &logits[(tokens.len() - 1) * found.len()..][..found.len()];
    assert_close(&found, last, expected.noise_floor, "the last row");
}
