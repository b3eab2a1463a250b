//! The prefix cache, in memory and on disk.

use crate::{at_the_end, engine, engine_of, prompt, random, roomy, same, together};
use alti_engine::EngineError;
use alti_engine::serving::{CacheDomain, EngineSettings, Job};

fn job(seed: u32, tokens: usize) -> Job {
    Job { logprobs: Some(0), ..Job::new(prompt(seed, tokens), random(1, 10)) }
}

#[test]
fn tenants_do_not_share_prefixes() {
    let engine = engine(roomy());
    let of = |tenant: &str| {
        let domain = CacheDomain { tenant: tenant.to_owned(), adapter: None };
        Job { domain, ..job(1, 100) }
    };
    assert_eq!(together(&engine, &[of("a")])[0].usage.cached_tokens, 0);
    assert_eq!(together(&engine, &[of("b")])[0].usage.cached_tokens, 0);
    assert!(together(&engine, &[of("a")])[0].usage.cached_tokens > 90);
}

#[test]
fn old_prefixes_make_room_for_new_ones() {
    let engine = engine(EngineSettings { kv_tokens: 512, ..roomy() });
    for seed in 0..20 {
        together(&engine, &[job(seed, 100)]);
    }
    assert!(together(&engine, &[job(19, 100)])[0].usage.cached_tokens > 90);
    assert_eq!(together(&engine, &[job(0, 100)])[0].usage.cached_tokens, 0);
    let status = at_the_end(&engine);
    assert_eq!(status.used_pages, 0);
    assert!(status.cached_pages <= 8 && status.preemptions == 0, "{status:?}");
}

#[test]
fn requests_at_once_compute_a_common_beginning_once() {
    let engine = engine(EngineSettings { step_tokens: 64, ..roomy() });
    let text = prompt(4, 200);
    let job = |index: u32| Job::new([&text[..], &prompt(index, 5)].concat(), random(1, 3));
    let heard = together(&engine, &(0..6).map(job).collect::<Vec<_>>());
    let computed: usize =
        heard.iter().map(|heard| heard.usage.prompt_tokens - heard.usage.cached_tokens).sum();
    assert!(computed < 205 + 5 * 20, "{computed} tokens were computed");
}

#[test]
fn a_conversation_goes_on_where_it_ended() {
    let engine = engine(roomy());
    let first = together(&engine, &[job(7, 50)]).remove(0);
    let history = [&prompt(7, 50)[..], &first.ids(), &prompt(8, 12)].concat();
    let second = together(&engine, &[Job::new(history, random(1, 5))]).remove(0);
    assert!(second.usage.cached_tokens >= 58, "the answer was cached, too: {:?}", second.usage);
}

#[test]
fn prefixes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefixes");
    let (jobs, settings) = ([job(1, 100), job(2, 80), Job { prompt: prompt(1, 140), ..job(1, 0) }], roomy());
    let before = engine(settings.clone());
    let expected = together(&before, &jobs);
    let saved = before.save_prefixes(&path, "model").unwrap();
    assert!(saved >= 140 + 80, "{saved} tokens");
    let after = engine(settings.clone());
    assert_eq!(after.load_prefixes(&path, "model").unwrap(), saved);
    let found = together(&after, &jobs);
    same(&found, &expected);
    assert!(found.iter().zip(&jobs).all(|(heard, job)| heard.usage.cached_tokens + 8 >= job.prompt.len()));
    // What does not fit is left out; what is there already is not taken twice.
    assert_eq!(after.load_prefixes(&path, "model").unwrap(), 0);
    let small = engine(EngineSettings { kv_tokens: 256, ..settings });
    let taken = small.load_prefixes(&path, "model").unwrap();
    assert!((65..=256).contains(&taken), "{taken} tokens in four pages");
}

#[test]
fn a_file_of_prefixes_that_is_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefixes");
    let ours = engine(roomy());
    together(&ours, &[job(1, 100)]);
    ours.save_prefixes(&path, "model").unwrap();
    let refused = |what: &str| match ours.load_prefixes(&path, what) {
        Err(EngineError::Prefixes { what, .. }) => what,
        other => panic!("it was to be refused: {other:?}"),
    };
    assert!(refused("another model").contains("another model"), "another model");
    let other = engine_of("llama2-mha", roomy(), None);
    assert!(matches!(other.load_prefixes(&path, "model"), Err(EngineError::Prefixes { .. })));

    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 12, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused("model");
    }
    let mut absurd = whole.clone();
    absurd[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, absurd).unwrap();
    refused("model");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(ours.load_prefixes(&path, "model"), Err(EngineError::Prefixes { .. })));
}
