//! The same request gives the same answer.

use crate::{
    Heard, MODEL, alone, at_the_end, embed, embedding, engine, engine_of, engine_of_bytes, engine_with_draft,
    hear, hear_vector, prompt, random, roomy, same, submit, together,
};
use alti_engine::grammar::GrammarSource;
use alti_engine::sampling::{LogitBias, SamplerSettings};
use alti_engine::serving::{EmbeddingJob, Engine, EngineSettings, Job, Output, Pooling, Priority};
use alti_engine::stop::FinishReason;
use alti_testkit::parity::Golden;

/// Jobs of many lengths, some with a beginning in common, drawn greedily and at random.
fn jobs() -> Vec<Job> {
    let shared = prompt(9, 150);
    let job = |index: u32| {
        let prompt = match index % 3 {
            0 => prompt(index, 5 + 17 * index as usize),
            // Beginnings of a common text, whole pages and parts of one.
            1 => shared[..40 + 10 * index as usize].to_vec(),
            _ => [&shared[..70], &prompt(index, 20)[..]].concat(),
        };
        let sampling = match index % 2 {
            0 => random(i64::from(index), 20 + i64::from(index)),
            _ => SamplerSettings { max_tokens: 30, ..SamplerSettings::greedy() },
        };
        Job { logprobs: Some(0), ..Job::new(prompt, sampling) }
    };
    (0..9).map(job).collect()
}

#[test]
fn an_answer_does_not_depend_on_company() {
    let (jobs, settings) = (jobs(), roomy());
    let expected = alone(&jobs);
    same(&together(&engine(settings.clone()), &jobs), &expected);
    for (prefix_cache, draft_tokens, step_tokens) in [(false, 0, 7), (true, 0, 200), (false, 8, 33)] {
        let settings = EngineSettings { prefix_cache, draft_tokens, step_tokens, ..settings.clone() };
        same(&together(&engine(settings), &jobs), &expected);
    }
}

#[test]
fn a_cached_prefix_changes_nothing_and_saves_its_prefill() {
    let (jobs, engine) = (jobs(), engine(roomy()));
    let first = together(&engine, &jobs);
    let second = together(&engine, &jobs);
    same(&second, &first);
    for (heard, job) in second.iter().zip(&jobs) {
        let (cached, prompt) = (heard.usage.cached_tokens, job.prompt.len());
        assert!(cached + 8 >= prompt && cached < prompt, "{cached} of {prompt} tokens were cached");
    }
    let uncached = Job { cache_prompt: false, ..jobs[4].clone() };
    assert_eq!(together(&engine, &[uncached])[0].usage.cached_tokens, 0);
}

#[test]
fn too_few_pages_cost_time_and_no_answer() {
    let jobs = jobs();
    let settings = EngineSettings { kv_tokens: 320, ..roomy() };
    let engine = engine(settings);
    same(&together(&engine, &jobs), &alone(&jobs));
    let status = at_the_end(&engine);
    assert!(status.preemptions > 0, "{status:?}");
    assert_eq!((status.running, status.waiting, status.used_pages), (0, 0, 0));
}

#[test]
fn drafts_give_the_same_tokens_in_fewer_steps() {
    // Of two words alone a text soon repeats itself.
    let logit_bias = LogitBias([(1, 1e4), (2, 1e4)].into());
    let sampling = SamplerSettings { max_tokens: 120, logit_bias, ..random(7, 120) };
    let job = Job { logprobs: Some(0), ..Job::new(prompt(3, 12), sampling) };
    let without = engine(EngineSettings { draft_tokens: 0, ..roomy() });
    let with = engine(EngineSettings { draft_tokens: 8, ..roomy() });
    let expected = together(&without, std::slice::from_ref(&job));
    let found = together(&with, &[job]);
    same(&found, &expected);
    let accepted = found[0].usage.accepted_tokens as u64;
    assert!(accepted > 0, "what repeats itself is guessed");
    assert_eq!(at_the_end(&with).steps + accepted, at_the_end(&without).steps);
}

#[test]
fn among_several_answers_those_that_repeat_themselves_are_guessed() {
    // Of one word alone, every guess is right.
    let logit_bias = LogitBias([(1, 1e4)].into());
    let sampling = SamplerSettings { logit_bias, ..random(7, 200) };
    let jobs: Vec<Job> = (0..6)
        .map(|seed| Job { logprobs: Some(0), ..Job::new(prompt(seed, 12), sampling.clone()) })
        .collect();
    let engine = engine(EngineSettings { draft_tokens: 8, ..roomy() });
    let heard = together(&engine, &jobs);
    same(&heard, &alone(&jobs));
    let accepted: usize = heard.iter().map(|heard| heard.usage.accepted_tokens).sum();
    assert!(accepted > 200, "{accepted} of 1200 tokens were guessed");
    // A token a step, were nothing guessed while all six are in the works.
    let steps = at_the_end(&engine).steps;
    assert!(steps < 150, "{steps} steps");
}

#[test]
fn a_draft_model_changes_nothing_and_saves_steps() {
    let (jobs, expected) = (jobs(), alone(&jobs()));
    // Itself, which is always right where the largest logit is drawn, and another, which hardly ever is.
    for draft in [MODEL, "llama32-tied"] {
        let engine = engine_with_draft(draft, EngineSettings { kv_tokens: 1024, ..roomy() }).unwrap();
        same(&together(&engine, &jobs), &expected);
        same(&together(&engine, &jobs), &expected);
    }
    let job = Job::new(prompt(3, 40), SamplerSettings { max_tokens: 61, ..SamplerSettings::greedy() });
    let engine = engine_with_draft(MODEL, roomy()).unwrap();
    let heard = together(&engine, std::slice::from_ref(&job)).remove(0);
    same(std::slice::from_ref(&heard), &alone(&[job]));
    assert_eq!(heard.usage.accepted_tokens, heard.usage.drafted_tokens, "it guesses what it says itself");
    // The prompt's step gives one token; two, then four at a time are guessed, and one comes with each step.
    assert!(at_the_end(&engine).steps <= 2 + 61_u64.div_ceil(5) + 2);
}

#[test]
fn forced_text_is_drafted_and_changes_nothing() {
    let schema = r#"{"type": "object", "properties": {"first": {"enum": ["yes", "no"]}}, "required": ["first"],
        "additionalProperties": false}"#;
    let bytes = |tokens: i64| Job {
        grammar: Some(GrammarSource::JsonSchema(schema.to_owned())),
        ..Job::new(prompt(4, 20), random(5, tokens))
    };
    let with = |draft_tokens| {
        let settings = EngineSettings { draft_tokens, ..roomy() };
        let engine = engine_of_bytes(settings);
        let heard = together(&engine, &[bytes(400)]).remove(0);
        (heard, at_the_end(&engine).steps)
    };
    let ((plain, plain_steps), (drafted, steps)) = (with(0), with(8));
    same(&[drafted], std::slice::from_ref(&plain));
    let value: serde_json::Value = serde_json::from_str(&plain.text).expect("an object");
    assert!(["yes", "no"].contains(&value["first"].as_str().expect("a text")));
    assert!(steps < plain_steps, "{steps} steps, without drafts {plain_steps}");
}

#[test]
fn choices_share_the_prompt_and_draw_differently() {
    let job = |choices| Job { choices, ..Job::new(prompt(5, 100), random(11, 20)) };
    let engine = engine(roomy());
    let (_, outputs) = submit(&engine, job(4));
    let four = hear(&outputs, 4).unwrap();
    let prompt_tokens: Vec<usize> = four.iter().map(|choice| choice.usage.prompt_tokens).collect();
    assert_eq!(prompt_tokens, [100, 0, 0, 0], "the prompt counts once");
    let different = |a: &Heard, b: &Heard| a.ids() != b.ids();
    assert!((0..4).all(|a| (0..a).all(|b| different(&four[a], &four[b]))));
    let (_, outputs) = submit(&engine, job(2));
    same(&hear(&outputs, 2).unwrap(), &four[..2]);
    // With pages for two of them at once, the others wait.
    let scarce = crate::engine(EngineSettings { kv_tokens: 256, ..roomy() });
    let (_, outputs) = submit(&scarce, job(4));
    same(&hear(&outputs, 4).unwrap(), &four);
}

#[test]
fn greedy_answers_are_the_goldens() {
    for name in alti_testkit::GOLDENS {
        let mut prompt = Golden::read(name).tokens("greedy");
        let expected = prompt.split_off(24);
        let sampling = SamplerSettings { max_tokens: expected.len() as i64, ..SamplerSettings::greedy() };
        let heard = together(&engine_of(name, roomy(), None), &[Job::new(prompt, sampling)]);
        assert_eq!(heard[0].ids(), expected, "{name}");
    }
}

#[test]
fn an_answer_ends_where_it_should() {
    let job =
        |tokens| Job::new(prompt(1, 30), SamplerSettings { max_tokens: tokens, ..SamplerSettings::greedy() });
    let whole = together(&engine(roomy()), &[job(-1)]).remove(0);
    assert_eq!(whole.reason, Some(FinishReason::ContextFull));
    assert_eq!(whole.tokens.len(), 256 - 30 + 1, "the last token needs no room in the context");

    let end = whole.tokens[10].token;
    let before = whole.ids().iter().position(|&token| token == end).unwrap();
    let ended = together(&engine_of(MODEL, roomy(), Some(end)), &[job(-1)]).remove(0);
    assert_eq!((ended.tokens.len(), &ended.reason), (before, &Some(FinishReason::StopToken(end))));
    assert_eq!(ended.usage.generated_tokens, before + 1);
    let ignored = Job { ignore_end: true, ..job(20) };
    let ignored = together(&engine_of(MODEL, roomy(), Some(end)), &[ignored]).remove(0);
    assert_eq!(ignored.ids(), whole.ids()[..20]);

    let stop: String = whole.text.chars().skip(21).take(4).collect();
    let sampling = SamplerSettings { stop: vec![stop.clone()], ..job(-1).sampling };
    let stopped = together(&engine(roomy()), &[Job { sampling, ..job(-1) }]).remove(0);
    assert_eq!(Some(stopped.text.as_str()), whole.text.split(&stop).next());
    assert_eq!(stopped.reason, Some(FinishReason::StopString(stop)));

    // Of a stop string no token is told: the tokens are those of the text.
    let stop: String = whole.text.chars().skip(20).take(6).collect();
    let sampling = SamplerSettings { stop: vec![stop.clone(), format!("{stop}?")], ..job(-1).sampling };
    let stopped = together(&engine(roomy()), &[Job { sampling, ..job(-1) }]).remove(0);
    let spelled: String = stopped.ids().into_iter().map(crate::spelling).collect();
    assert_eq!((spelled.as_str(), Some(spelled.as_str())), (&*stopped.text, whole.text.split(&stop).next()));
}

#[test]
fn more_choices_than_may_run_together_wait_for_one_another() {
    let job = |choices| Job { choices, ..Job::new(prompt(5, 40), random(11, 12)) };
    let few = engine(EngineSettings { max_running: 4, ..roomy() });
    let (_, outputs) = submit(&few, job(128));
    let (_, other) = submit(&few, job(1));
    let listener = std::thread::spawn(move || (hear(&outputs, 128).unwrap(), hear(&other, 1).unwrap()));
    while !listener.is_finished() {
        assert!(few.status().running <= 4, "{} answers run", few.status().running);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (many, other) = listener.join().unwrap();
    same(&other, &many[..1]);
    let (_, outputs) = submit(&engine(EngineSettings { max_running: 128, ..roomy() }), job(128));
    same(&many, &hear(&outputs, 128).unwrap());
    assert_eq!(at_the_end(&few).finished, 129);
}

#[test]
fn interactive_requests_go_first() {
    let engine = engine(EngineSettings { max_running: 1, ..roomy() });
    let job = |priority| Job { priority, ..Job::new(prompt(2, 40), random(1, 40)) };
    let batch: Vec<_> = (0..3).map(|_| submit(&engine, job(Priority::Batch))).collect();
    let (_, interactive) = submit(&engine, job(Priority::Interactive));
    let expected = hear(&interactive, 1).unwrap();
    assert!(engine.status().finished <= 2, "at most one of the batch was done before");
    for (_, outputs) in &batch {
        same(&hear(outputs, 1).unwrap(), &expected);
    }
}

fn prompt_logprobs(engine: &Engine, job: Job) -> Vec<Option<u32>> {
    let (_, outputs) = submit(engine, Job { prompt_logprobs: true, logprobs: Some(2), ..job });
    let Output::Prompt(tokens) = outputs.recv().unwrap() else { panic!("the prompt comes first") };
    hear(&outputs, 1).unwrap();
    assert!(tokens[1..].iter().all(|token| token.top.len() == 2));
    tokens.iter().map(|token| token.logprob.map(f32::to_bits)).collect()
}

#[test]
fn a_prompt_is_told_with_the_log_probabilities_of_its_tokens() {
    let job = |tokens| Job::new(prompt(6, tokens), random(1, 1));
    let engine = engine(roomy());
    let all = prompt_logprobs(&engine, job(130));
    assert_eq!((all.len(), all[0]), (130, None));
    assert!(all[1..].iter().all(Option::is_some));
    assert_eq!(prompt_logprobs(&engine, job(130)), all, "cached or not");
    // The log-probability of a generated token is that of the same token in a prompt.
    let (_, outputs) = submit(&engine, Job { logprobs: Some(0), ..Job::new(prompt(6, 50), random(1, 3)) });
    let heard = hear(&outputs, 1).unwrap().remove(0);
    let extended = [&prompt(6, 50)[..], &heard.ids()].concat();
    let told = prompt_logprobs(&engine, Job::new(extended, random(1, 1)));
    let drawn: Vec<_> = heard.tokens.iter().map(|token| token.logprob.map(f32::to_bits)).collect();
    assert_eq!(told[50..], drawn);
}

fn vector(engine: &Engine, tokens: Vec<u32>, pooling: Pooling) -> Vec<f32> {
    let (_, outputs) = embed(engine, EmbeddingJob { pooling, ..embedding(tokens) });
    hear_vector(&outputs).expect("a vector").0
}

#[test]
fn a_text_becomes_a_vector_however_it_was_cut() {
    let text = prompt(8, 90);
    let whole = engine(EngineSettings { step_tokens: 256, ..roomy() });
    let pieces = engine(EngineSettings { step_tokens: 7, ..roomy() });
    let vectors = [Pooling::Mean, Pooling::Last, Pooling::Cls].map(|pooling| {
        let (whole, pieces) = (vector(&whole, text.clone(), pooling), vector(&pieces, text.clone(), pooling));
        assert_eq!(whole, pieces, "{pooling:?}");
        whole
    });
    assert!(vectors[0] != vectors[1] && vectors[1] != vectors[2]);
    // Causal attention: the first token knows nothing of what follows.
    assert_eq!(vector(&whole, text[..1].to_vec(), Pooling::Mean), vectors[2]);
    let last = vector(&whole, text[..89].to_vec(), Pooling::Last);
    let dim = last.len() as f32;
    assert!(last.iter().map(|x| x * x).sum::<f32>() / dim > 0.1, "normalised states are not small");
}
