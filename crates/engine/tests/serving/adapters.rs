//! Adapters: several in one batch, loaded and dropped while others are served.

use super::*;
use alti_testkit::adapter;
use std::path::PathBuf;

/// An engine with the adapters `plain` and `patterns`.
fn with_adapters(settings: EngineSettings) -> Engine {
    let engine = engine(settings);
    for name in ["plain", "patterns"] {
        engine.load_adapter(name, &path(name)).expect("the adapter loads");
    }
    engine
}

fn path(name: &str) -> PathBuf {
    adapter(&format!("llama3-{name}"))
}

/// What is asked: a prompt, with an adapter, drawn with a seed.
type Asked = (Vec<u32>, Option<&'static str>, i64);

fn job(engine: &Engine, (prompt, adapter, seed): &Asked) -> Job {
    let adapter = adapter.map(|name| engine.adapter(name).expect("the adapter is there"));
    Job { adapter, logprobs: Some(0), ..Job::new(prompt.clone(), random(*seed, 40)) }
}

/// All at once.
fn answers(engine: &Engine, asked: &[Asked]) -> Vec<Heard> {
    together(engine, &asked.iter().map(|asked| job(engine, asked)).collect::<Vec<_>>())
}

/// Each in an engine of its own, without prefix cache and drafts.
fn alone_with_adapters(asked: &[Asked]) -> Vec<Heard> {
    let settings = EngineSettings { prefix_cache: false, draft_tokens: 0, ..roomy() };
    let one = |asked| answers(&with_adapters(settings.clone()), std::slice::from_ref(asked)).remove(0);
    asked.iter().map(one).collect()
}

#[test]
fn answers_with_several_adapters_in_a_batch_are_those_of_each_alone() {
    let choices = [Some("plain"), None, Some("patterns"), Some("plain"), None, Some("patterns")];
    let asked: Vec<Asked> =
        (0..).zip(choices).map(|(seed, choice)| (prompt(seed, 20 + 17 * seed as usize), choice, 5)).collect();
    let expected = alone_with_adapters(&asked);
    same(&answers(&with_adapters(roomy()), &asked), &expected);
    // With so few pages that some make room for others.
    let tight = EngineSettings { context: 192, kv_tokens: 384, ..roomy() };
    same(&answers(&with_adapters(tight), &asked), &expected);
}

#[test]
fn prefixes_are_shared_within_an_adapter_and_not_across() {
    let engine = with_adapters(roomy());
    let asked = [None, Some("plain"), Some("patterns")].map(|choice| (prompt(3, 150), choice, 7));
    let expected = alone_with_adapters(&asked);
    assert_ne!(expected[0].answer(), expected[1].answer(), "the adapter changes the answer");
    assert_ne!(expected[1].answer(), expected[2].answer(), "adapters differ");
    for round in 0..2 {
        for (asked, expected) in asked.iter().zip(&expected) {
            let found = answers(&engine, std::slice::from_ref(asked));
            same(&found, std::slice::from_ref(expected));
            let cached = found[0].usage.cached_tokens;
            assert_eq!(cached > 128, round == 1, "{cached} tokens cached in round {round}");
        }
    }
}

#[test]
fn an_adapter_that_is_dropped_serves_those_who_have_it_and_nobody_else() {
    let engine = with_adapters(roomy());
    assert_eq!(engine.status().adapters, ["patterns", "plain"]);
    let asked = (prompt(1, 30), Some("plain"), 3);
    let long = |engine: &Engine| {
        let mut long = job(engine, &asked);
        long.sampling.max_tokens = 150;
        long
    };
    let alone = with_adapters(EngineSettings { prefix_cache: false, draft_tokens: 0, ..roomy() });
    let expected = together(&alone, &[long(&alone)]);
    let (_, outputs) = submit(&engine, long(&engine));
    // It runs: its first token is there.
    let first = outputs.recv_timeout(Duration::from_secs(60)).expect("a token");
    assert!(matches!(first, Output::Token { .. }));
    assert!(engine.drop_adapter("plain") && !engine.drop_adapter("plain"));
    let message = engine.adapter("plain").expect_err("it has no name any more").to_string();
    assert!(message.contains("`plain`") && message.contains("patterns"), "{message}");
    // Another adapter takes the name while the first one is in use.
    engine.load_adapter("plain", &path("patterns")).expect("the name is free");
    let [same_name, others] = ["plain", "patterns"].map(|name| (prompt(3, 150), Some(name), 7));
    let found = answers(&engine, &[same_name, others.clone()]);
    same(&found, &vec![alone_with_adapters(&[others]).remove(0); 2]);
    let rest = hear(&outputs, 1).expect("it goes on");
    let (found, expected) = (rest[0].ids(), expected[0].ids());
    assert_eq!(found[..], expected[1..], "the adapter stays until its user is done");
}

#[test]
fn what_was_cached_goes_with_the_adapter() {
    let engine = with_adapters(roomy());
    let asked = [(prompt(3, 150), Some("plain"), 7)];
    answers(&engine, &asked);
    eventually("pages are kept", || engine.status().cached_pages > 0);
    engine.drop_adapter("plain");
    eventually("they go with the adapter", || engine.status().cached_pages == 0);
    engine.load_adapter("plain", &path("plain")).expect("the name is free");
    same(&answers(&engine, &asked), &alone_with_adapters(&asked));
}

#[test]
fn a_job_has_the_adapter_that_it_was_given_whatever_its_name_means_by_then() {
    let engine = with_adapters(roomy());
    let asked = [(prompt(3, 150), Some("plain"), 7)];
    let job = job(&engine, &asked[0]);
    engine.drop_adapter("plain");
    engine.load_adapter("plain", &path("patterns")).expect("the name is free");
    same(&together(&engine, std::slice::from_ref(&job)), &alone_with_adapters(&asked));
    // An engine with nothing to do lets it go when nobody holds it any more.
    eventually("its pages are kept", || engine.status().cached_pages > 0);
    drop(job);
    eventually("it goes with its last holder", || engine.status().cached_pages == 0);
}

#[test]
fn an_adapter_of_another_engine_is_refused() {
    let (engine, other) = (engine(roomy()), with_adapters(roomy()));
    let outputs = submit(&engine, job(&other, &(prompt(3, 20), Some("plain"), 7))).1;
    match hear(&outputs, 1) {
        Err(EngineError::UnknownAdapter { name, .. }) => assert_eq!(name, "plain"),
        heard => panic!("it was to be refused: {heard:?}"),
    }
    assert_eq!(at_the_end(&engine).waiting, 0);
}

#[test]
fn a_vector_is_of_the_adapters_states() {
    let engine = with_adapters(roomy());
    let job = |adapter: Option<&str>| {
        let adapter = adapter.map(|name| engine.adapter(name).expect("the adapter is there"));
        EmbeddingJob { adapter, ..embedding(prompt(4, 70)) }
    };
    let vector = |adapter| hear_vector(&embed(&engine, job(adapter)).1).expect("a vector").0;
    let [base, plain, patterns] = [None, Some("plain"), Some("patterns")].map(vector);
    assert!(base != plain && base != patterns && plain != patterns);
    // In one step with the others it is the same.
    let running = [Some("patterns"), None, Some("plain")].map(|adapter| embed(&engine, job(adapter)).1);
    let together = running.map(|outputs| hear_vector(&outputs).expect("a vector").0);
    assert_eq!(together, [patterns, base, plain]);
}

#[test]
fn adapters_that_cannot_be_used_are_refused_and_change_nothing() {
    let engine = engine(roomy());
    let message = engine.adapter("plain").expect_err("there is none").to_string();
    assert!(message.contains("none is loaded"), "{message}");
    let other = engine.load_adapter("scout", &adapter("llama4-scout")).expect_err("another model's");
    assert!(other.to_string().contains("adapter_model.safetensors"), "{other}");
    let nothing = engine.load_adapter("nothing", &path("plain").join("golden")).expect_err("not there");
    assert!(nothing.to_string().contains("golden"), "{nothing}");
    engine.load_adapter("plain", &path("plain")).expect("the adapter loads");
    let taken = engine.load_adapter("plain", &path("patterns")).expect_err("the name is taken");
    assert!(taken.to_string().contains("`plain`"), "{taken}");
    assert_eq!(engine.status().adapters, ["plain"]);
    let asked = [(prompt(2, 30), Some("plain"), 2)];
    same(&answers(&engine, &asked), &alone_with_adapters(&asked));
}
