//! Adapters: several in one batch, loaded and dropped while others are served.

use super::*;
use alti_engine::serving::Rejected;
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

fn job(prompt: Vec<u32>, adapter: Option<&str>, seed: i64) -> Job {
    let domain = CacheDomain { adapter: adapter.map(str::to_owned), ..CacheDomain::default() };
    Job { domain, logprobs: Some(0), ..Job::new(prompt, random(seed, 40)) }
}

/// Each job in an engine of its own, without prefix cache and drafts.
fn alone_with_adapters(jobs: &[Job]) -> Vec<Heard> {
    let settings = EngineSettings { prefix_cache: false, draft_tokens: 0, ..roomy() };
    let one = |job| together(&with_adapters(settings.clone()), std::slice::from_ref(job)).remove(0);
    jobs.iter().map(one).collect()
}

#[track_caller]
fn refused(engine: &Engine, job: Job) -> String {
    match engine.submit(job, Box::new(|_| true)) {
        Err(Rejected::Invalid(error)) => error.to_string(),
        other => panic!("the job was not refused: {other:?}"),
    }
}

#[test]
fn answers_with_several_adapters_in_a_batch_are_those_of_each_alone() {
    let choices = [Some("plain"), None, Some("patterns"), Some("plain"), None, Some("patterns")];
    let jobs: Vec<Job> = (0..)
        .zip(choices)
        .map(|(seed, choice)| job(prompt(seed, 20 + 17 * seed as usize), choice, 5))
        .collect();
    let expected = alone_with_adapters(&jobs);
    same(&together(&with_adapters(roomy()), &jobs), &expected);
    // With so few pages that some make room for others.
    let tight = EngineSettings { context: 192, kv_tokens: 384, ..roomy() };
    same(&together(&with_adapters(tight), &jobs), &expected);
}

#[test]
fn prefixes_are_shared_within_an_adapter_and_not_across() {
    let engine = with_adapters(roomy());
    let jobs = [None, Some("plain"), Some("patterns")].map(|choice| job(prompt(3, 150), choice, 7));
    let expected = alone_with_adapters(&jobs);
    assert_ne!(expected[0].answer(), expected[1].answer(), "the adapter changes the answer");
    assert_ne!(expected[1].answer(), expected[2].answer(), "adapters differ");
    for round in 0..2 {
        for (job, expected) in jobs.iter().zip(&expected) {
            let found = together(&engine, std::slice::from_ref(job));
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
    let mut long = job(prompt(1, 30), Some("plain"), 3);
    long.sampling.max_tokens = 150;
    let expected = alone_with_adapters(std::slice::from_ref(&long));
    let (_, outputs) = submit(&engine, long.clone());
    // It runs: its first token is there.
    let first = outputs.recv_timeout(Duration::from_secs(60)).expect("a token");
    assert!(matches!(first, Output::Token { .. }));
    assert!(engine.drop_adapter("plain") && !engine.drop_adapter("plain"));
    let message = refused(&engine, long.clone());
    assert!(message.contains("`plain`") && message.contains("patterns"), "{message}");
    // Another adapter takes the name while the first one is in use.
    engine.load_adapter("plain", &path("patterns")).expect("the name is free");
    let same_name = job(prompt(3, 150), Some("plain"), 7);
    let others = job(prompt(3, 150), Some("patterns"), 7);
    let found = together(&engine, &[same_name, others.clone()]);
    same(&found, &vec![alone_with_adapters(&[others]).remove(0); 2]);
    let rest = hear(&outputs, 1).expect("it goes on");
    let (found, expected) = (rest[0].ids(), expected[0].ids());
    assert_eq!(found[..], expected[1..], "the adapter stays until its user is done");
}

#[test]
fn what_was_cached_goes_with_the_adapter() {
    let engine = with_adapters(roomy());
    together(&engine, &[job(prompt(3, 150), Some("plain"), 7)]);
    eventually("pages are kept", || engine.status().cached_pages > 0);
    engine.drop_adapter("plain");
    eventually("they go with the adapter", || engine.status().cached_pages == 0);
    engine.load_adapter("plain", &path("plain")).expect("the name is free");
    let again = job(prompt(3, 150), Some("plain"), 7);
    same(&together(&engine, std::slice::from_ref(&again)), &alone_with_adapters(&[again]));
}

#[test]
fn a_vector_is_of_the_adapters_states() {
    let engine = with_adapters(roomy());
    let job = |adapter: Option<&str>| {
        let domain = CacheDomain { adapter: adapter.map(str::to_owned), ..CacheDomain::default() };
        EmbeddingJob { domain, ..embedding(prompt(4, 70)) }
    };
    let vector = |adapter| hear_vector(&embed(&engine, job(adapter)).1).expect("a vector").0;
    let [base, plain, patterns] = [None, Some("plain"), Some("patterns")].map(vector);
    assert!(base != plain && base != patterns && plain != patterns);
    // In one step with the others it is the same.
    let running = [Some("patterns"), None, Some("plain")].map(|adapter| embed(&engine, job(adapter)).1);
    let together = running.map(|outputs| hear_vector(&outputs).expect("a vector").0);
    assert_eq!(together, [patterns, base, plain]);
    match engine.embed(job(Some("nothing")), Box::new(|_| true)) {
        Err(Rejected::Invalid(error)) => assert!(error.to_string().contains("`nothing`"), "{error}"),
        other => panic!("the job was not refused: {other:?}"),
    }
}

#[test]
fn adapters_that_cannot_be_used_are_refused_and_change_nothing() {
    let engine = engine(roomy());
    let message = refused(&engine, job(prompt(1, 9), Some("plain"), 1));
    assert!(message.contains("none is loaded"), "{message}");
    let other = engine.load_adapter("scout", &adapter("llama4-scout")).expect_err("another model's");
    assert!(other.to_string().contains("adapter_model.safetensors"), "{other}");
    let nothing = engine.load_adapter("nothing", &path("plain").join("golden")).expect_err("not there");
    assert!(nothing.to_string().contains("golden"), "{nothing}");
    engine.load_adapter("plain", &path("plain")).expect("the adapter loads");
    let taken = engine.load_adapter("plain", &path("patterns")).expect_err("the name is taken");
    assert!(taken.to_string().contains("`plain`"), "{taken}");
    assert_eq!(engine.status().adapters, ["plain"]);
    let job = job(prompt(2, 30), Some("plain"), 2);
    same(&together(&engine, std::slice::from_ref(&job)), &alone_with_adapters(&[job]));
}
