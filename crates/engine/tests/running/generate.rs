//! An answer: its tokens, its text, what ends it, and what it says of itself.

use crate::{fresh, session};
use alti_engine::sampling::SamplerSettings;
use alti_engine::stop::FinishReason;
use alti_engine::{Answer, EngineError, Event, Request, Session, WhenFull, generate};
use alti_tensor::Reference;
use alti_testkit::parity::Golden;
use alti_text::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering};

const MODEL: &str = "llama3-gqa";
/// Tokens of the golden prompt; 32 greedy ones follow.
const PROMPT: usize = 24;

/// The golden prompt and its greedy continuation.
fn golden() -> (Vec<u32>, Vec<u32>) {
    let mut prompt = Golden::read(MODEL).tokens("greedy");
    let answer = prompt.split_off(PROMPT);
    (prompt, answer)
}

/// Two letters for each of the 256 tokens, so that a text tells its tokens.
fn spelling(token: u32) -> String {
    let letter = |first: u8, index: u32| char::from(first + index as u8);
    [letter(b'A', token / 16), letter(b'a', token % 16)].iter().collect()
}

fn spelled(tokens: &[u32]) -> String {
    tokens.iter().map(|&token| spelling(token)).collect()
}

/// A tokenizer of the 256 spellings; `end` is its end token.
fn tokenizer(end: Option<u32>) -> Tokenizer {
    let vocabulary: serde_json::Map<_, _> =
        (0..256).map(|token| (spelling(token), serde_json::Value::from(token))).collect();
    let file = serde_json::json!({ "model": { "type": "BPE", "vocab": vocabulary } });
    let config = serde_json::json!({ "eos_token": end.map(spelling) });
    Tokenizer::from_hugging_face(&file.to_string(), Some(&config.to_string())).expect("a small tokenizer")
}

fn greedy(prompt: &[u32], max_tokens: i64) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: SamplerSettings { max_tokens, ..SamplerSettings::greedy() },
        when_full: WhenFull::Stop,
        ignore_end: false,
    }
}

/// The answer, checked: what was streamed is its text.
fn answer(session: &mut Session<Reference<f32>>, tokenizer: &Tokenizer, request: &Request) -> Answer {
    cancelled_when(session, tokenizer, request, |_, _| false)
}

/// As [`answer`], cancelled at the first event of which `cancels`, told the text so far, says so.
fn cancelled_when(
    session: &mut Session<Reference<f32>>,
    tokenizer: &Tokenizer,
    request: &Request,
    cancels: impl Fn(&Event<'_>, &str) -> bool,
) -> Answer {
    let cancel = AtomicBool::new(false);
    let mut streamed = String::new();
    let answer = generate(session, tokenizer, request, &cancel, |event| {
        if let Event::Text(text) = event {
            streamed.push_str(text);
        }
        cancel.fetch_or(cancels(&event, &streamed), Ordering::Relaxed);
    });
    let answer = answer.expect("the answer is generated");
    assert_eq!(answer.text, streamed);
    answer
}

#[test]
fn an_answer_is_the_golden_greedy_continuation_and_the_next_turn_reuses_it() {
    let (mut prompt, expected) = golden();
    let mut session = session(MODEL, 128, 10);
    let found = answer(&mut session, &tokenizer(None), &greedy(&prompt, 32));
    assert_eq!(found.tokens, expected);
    assert_eq!(found.text, spelled(&expected));
    assert_eq!(found.finish, FinishReason::Length);
    let timings = found.timings;
    assert_eq!((timings.cached_tokens, timings.prefill_tokens, timings.decode_tokens), (0, 24, 31));
    assert!(timings.prefill_seconds > 0.0 && timings.decode_seconds > 0.0);

    // The answer's last token was drawn but never needed to be computed.
    prompt.extend(&expected);
    prompt.push(3);
    let timings = answer(&mut session, &tokenizer(None), &greedy(&prompt, 1)).timings;
    assert_eq!((timings.cached_tokens, timings.prefill_tokens, timings.decode_tokens), (55, 2, 0));
}

#[test]
fn progress_goes_from_what_is_cached_to_the_whole_prompt() {
    let (prompt, _) = golden();
    let mut told = Vec::new();
    let (mut session, tokenizer) = (session(MODEL, 64, 10), tokenizer(None));
    let cancel = AtomicBool::new(false);
    let observe = |event: Event<'_>| {
        if let Event::Prefill { done, total } = event {
            told.push((done, total));
        }
    };
    generate(&mut session, &tokenizer, &greedy(&prompt, 1), &cancel, observe).unwrap();
    assert_eq!(told, [(0, 24), (10, 24), (20, 24), (24, 24)]);
}

#[test]
fn no_tokens_and_one_token_are_lengths_like_others() {
    let (prompt, expected) = golden();
    for (max_tokens, count) in [(0, 0), (1, 1), (5, 5)] {
        let found = answer(&mut session(MODEL, 64, 64), &tokenizer(None), &greedy(&prompt, max_tokens));
        assert_eq!(found.tokens, expected[..count]);
        assert_eq!(found.finish, FinishReason::Length);
        assert_eq!(found.timings.decode_tokens, count.saturating_sub(1));
    }
}

#[test]
fn a_stop_string_over_several_tokens_ends_the_answer_and_no_part_of_it_is_shown() {
    let (prompt, expected) = golden();
    let text = spelled(&expected);
    for (begin, end) in [(9, 13), (8, 10), (11, 16)] {
        let stop = text[begin..end].to_owned();
        let mut request = greedy(&prompt, 32);
        // One that nearly appears is let through.
        request.sampling.stop = vec![format!("{}?", &text[2..7]), stop.clone()];
        let found = answer(&mut session(MODEL, 64, 64), &tokenizer(None), &request);
        let at = text.find(&stop).unwrap();
        assert_eq!(found.text, text[..at]);
        assert_eq!(found.finish, FinishReason::StopString(stop.clone()));
        assert_eq!(found.tokens, expected[..(at + stop.len()).div_ceil(2)]);
    }
    // What is held back when the answer ends otherwise is shown after all.
    let mut request = greedy(&prompt, 4);
    request.sampling.stop = vec![text[5..11].to_owned()];
    let found = answer(&mut session(MODEL, 64, 64), &tokenizer(None), &request);
    assert_eq!((found.text.as_str(), found.finish), (&text[..8], FinishReason::Length));
}

#[test]
fn the_end_token_ends_the_answer_unless_it_is_ignored() {
    let (prompt, expected) = golden();
    let end = expected[5];
    let first = expected.iter().position(|&token| token == end).unwrap();
    let mut request = greedy(&prompt, 32);
    let found = answer(&mut session(MODEL, 64, 64), &tokenizer(Some(end)), &request);
    assert_eq!(found.finish, FinishReason::StopToken(end));
    assert_eq!(found.tokens, expected[..first]);
    assert_eq!(found.text, spelled(&expected[..first]));
    request.ignore_end = true;
    let found = answer(&mut session(MODEL, 64, 64), &tokenizer(Some(end)), &request);
    assert_eq!((found.finish, found.tokens), (FinishReason::Length, expected));
}

#[test]
fn a_seed_decides_the_tokens_however_warm_the_session() {
    let (prompt, _) = golden();
    let tokenizer = tokenizer(None);
    let mut request = greedy(&prompt, 20);
    request.sampling = SamplerSettings { max_tokens: 20, seed: 1, ..SamplerSettings::default() };
    let mut warm = session(MODEL, 64, 7);
    let one = answer(&mut warm, &tokenizer, &request);
    assert_eq!(answer(&mut warm, &tokenizer, &request).tokens, one.tokens);
    assert_eq!(answer(&mut session(MODEL, 64, 64), &tokenizer, &request).tokens, one.tokens);
    assert_eq!(one.seed, 1);
    request.sampling.seed = 2;
    assert_ne!(answer(&mut warm, &tokenizer, &request).tokens, one.tokens);
    // A fresh seed is told, and gives the same answer again.
    request.sampling.seed = -1;
    let surprise = answer(&mut warm, &tokenizer, &request);
    assert_ne!(surprise.seed, -1);
    request.sampling.seed = surprise.seed;
    assert_eq!(answer(&mut warm, &tokenizer, &request).tokens, surprise.tokens);
}

#[test]
fn a_full_context_ends_the_answer() {
    let (prompt, expected) = golden();
    let mut session = session(MODEL, 40, 64);
    let found = answer(&mut session, &tokenizer(None), &greedy(&prompt, -1));
    assert_eq!(found.finish, FinishReason::ContextFull);
    // 16 fit, and the last position still predicts one.
    assert_eq!(found.tokens, expected[..17]);
    assert_eq!(session.tokens(), [&prompt[..], &expected[..16]].concat());
}

#[test]
fn with_context_shift_an_answer_goes_on_as_if_the_forgotten_had_never_been() {
    let (prompt, _) = golden();
    let (context, keep) = (40, 4);
    let mut session = session(MODEL, context, 64);
    let mut request = greedy(&prompt, 50);
    request.when_full = WhenFull::Shift { keep };
    let found = answer(&mut session, &tokenizer(None), &request);

    let (mut held, mut expected) = (prompt, Vec::new());
    for _ in 0..50 {
        let logits = fresh(MODEL, &held);
        let likeliest = (0..logits.len())
            .max_by(|&a, &b| f32::from_bits(logits[a]).total_cmp(&f32::from_bits(logits[b])));
        let token = likeliest.expect("a vocabulary") as u32;
        expected.push(token);
        if held.len() == context {
            held.drain(keep..keep + (context - keep) / 2);
        }
        held.push(token);
    }
    assert_eq!(found.tokens, expected);
    assert_eq!(found.finish, FinishReason::Length);
    assert_eq!(session.tokens(), &held[..held.len() - 1]);
}

#[test]
fn cancelling_ends_the_prefill_after_the_chunk() {
    let (prompt, _) = golden();
    let mut session = session(MODEL, 64, 8);
    let at_eight = |event: &Event<'_>, _: &str| matches!(event, Event::Prefill { done: 8, .. });
    let found = cancelled_when(&mut session, &tokenizer(None), &greedy(&prompt, 8), at_eight);
    assert_eq!((found.finish, found.tokens.len()), (FinishReason::Cancelled, 0));
    assert_eq!(session.tokens(), &prompt[..8]);
    assert_eq!(found.timings.prefill_tokens, 8);
}

#[test]
fn cancelling_ends_decoding_within_a_step() {
    let (prompt, expected) = golden();
    let mut session = session(MODEL, 64, 64);
    let third = |_: &Event<'_>, text: &str| text.len() == 6;
    let found = cancelled_when(&mut session, &tokenizer(None), &greedy(&prompt, 32), third);
    assert_eq!(found.finish, FinishReason::Cancelled);
    assert_eq!(found.tokens, expected[..3]);
    assert_eq!(found.text, spelled(&expected[..3]));
}

#[test]
fn cancelling_ends_a_context_shift() {
    let (prompt, _) = golden();
    let mut session = session(MODEL, 40, 8);
    let mut request = greedy(&prompt, 40);
    request.when_full = WhenFull::Shift { keep: 4 };
    // The 17th token is the one that there is no room for.
    let full = |_: &Event<'_>, text: &str| text.len() == 34;
    let found = cancelled_when(&mut session, &tokenizer(None), &request, full);
    assert_eq!((found.finish, found.tokens.len()), (FinishReason::Cancelled, 17));
    assert_eq!(session.tokens(), &prompt[..4], "nothing was computed again");
}

#[test]
fn a_prompt_that_cannot_be_is_an_error() {
    let tokenizer = tokenizer(None);
    let mut session = session(MODEL, 16, 8);
    let mut refused = |prompt: &[u32]| {
        generate(&mut session, &tokenizer, &greedy(prompt, 4), &AtomicBool::new(false), |_| ()).unwrap_err()
    };
    assert!(matches!(refused(&[]), EngineError::EmptyPrompt));
    assert!(matches!(refused(&[1; 17]), EngineError::ContextFull { tokens: 17, context: 16 }));
    assert!(matches!(refused(&[1, 256]), EngineError::UnknownToken { token: 256, vocabulary: 256 }));
    let far = refused(&[u32::MAX]);
    assert!(matches!(far, EngineError::UnknownToken { token: u32::MAX, .. }), "{far}");
}
