//! How an engine behaves towards those who ask too much, go away, or are late.

use crate::{
    at_the_end, embed, embedding, engine, eventually, hear, hear_vector, prompt, random, roomy, submit,
    together,
};
use alti_engine::EngineError;
use alti_engine::sampling::{LogitBias, SamplerSettings};
use alti_engine::serving::{EmbeddingJob, Engine, EngineSettings, Job, Output, Rejected, Ticket, Usage};
use alti_engine::stop::FinishReason;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

fn endless() -> Job {
    Job::new(prompt(1, 20), random(1, -1))
}

/// An engine that runs one answer at a time, and is busy with one for long.
fn busy() -> (Engine, Ticket, Receiver<Output>) {
    let engine = engine(EngineSettings { max_running: 1, context: 100_000, kv_tokens: 100_000, ..roomy() });
    let (ticket, outputs) = submit(&engine, endless());
    assert!(matches!(outputs.recv().unwrap(), Output::Token { .. }));
    (engine, ticket, outputs)
}

/// Why a job ended of which nothing was told, and what it took.
#[track_caller]
fn ended<T>(heard: Result<T, EngineError>) -> (&'static str, Usage) {
    match heard {
        Err(EngineError::Ended { reason, usage }) => (reason, usage),
        Err(other) => panic!("it failed: {other}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[test]
fn what_can_never_be_done_is_refused_at_once() {
    let engine = engine(roomy());
    let refused = |job: Job| match engine.submit(job, Box::new(|_| true)) {
        Err(Rejected::Invalid(error)) => error,
        other => panic!("it was to be refused: {other:?}"),
    };
    let sampling = SamplerSettings::greedy();
    assert!(matches!(refused(Job::new(Vec::new(), sampling.clone())), EngineError::EmptyPrompt));
    let long = refused(Job::new(prompt(1, 257), sampling.clone()));
    assert!(matches!(long, EngineError::ContextFull { tokens: 257, context: 256 }), "{long}");
    assert!(matches!(refused(Job::new(vec![256], sampling)), EngineError::UnknownToken { token: 256, .. }));
    let wrong = SamplerSettings { top_p: 2.0, ..SamplerSettings::default() };
    assert!(matches!(refused(Job::new(vec![1], wrong)), EngineError::InvalidSetting { .. }));
    assert_eq!(engine.status().waiting, 0);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let engine = engine(EngineSettings { max_running: 1, max_waiting: 2, ..roomy() });
    let mut taken = Vec::new();
    let rejected = loop {
        match engine.submit(endless(), Box::new(|_| true)) {
            Ok(ticket) => taken.push(ticket),
            Err(rejected) => break rejected,
        }
        assert!(taken.len() <= 20, "a queue of two takes no twenty");
    };
    assert!(matches!(rejected, Rejected::QueueFull { waiting: 2, retry_after_seconds: 1.. }), "{rejected}");
    taken.iter().for_each(|ticket| ticket.cancel());
    engine.shutdown(Duration::from_secs(60));
}

#[test]
fn every_choice_of_a_request_takes_a_place() {
    let engine = engine(EngineSettings { max_running: 4, ..roomy() });
    let job = |seed, choices| Job { choices, ..Job::new(prompt(seed, 20), random(1, 60)) };
    // The last one has more choices than may run together: it runs alone.
    let running: Vec<_> = [(1, 3), (2, 3), (3, 1), (4, 6)]
        .map(|(seed, choices)| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let sink = Box::new(move |output| sender.send(output).is_ok());
            engine.submit(job(seed, choices), sink).map(|_| (receiver, choices)).expect("it is taken")
        })
        .into();
    let mut most = Vec::new();
    while engine.status().finished < 13 {
        most.push(engine.status().running);
        std::thread::yield_now();
    }
    for (outputs, choices) in &running {
        let heard = hear(outputs, *choices as usize).unwrap();
        assert!(heard.iter().all(|choice| choice.tokens.len() == 60));
    }
    assert!(most.iter().all(|&running| running <= 4 || running == 6), "{most:?}");
}

#[test]
fn a_cancelled_answer_ends_and_gives_its_pages_back() {
    let engine = engine(roomy());
    let (ticket, outputs) = submit(&engine, endless());
    assert!(matches!(outputs.recv().unwrap(), Output::Token { .. }));
    ticket.cancel();
    assert_eq!(hear(&outputs, 1).unwrap()[0].reason, Some(FinishReason::Cancelled));
    // One whose caller has gone ends by itself.
    let (_, outputs) = submit(&engine, endless());
    drop(outputs);
    let (_, outputs) = submit(&engine, Job::new(prompt(2, 10), random(1, 3)));
    hear(&outputs, 1).unwrap();
    let status = at_the_end(&engine);
    assert_eq!((status.running, status.waiting, status.used_pages, status.finished), (0, 0, 0, 3));
}

#[test]
fn a_deadline_ends_an_answer() {
    let engine = engine(roomy());
    let deadline = Some(Instant::now() + Duration::from_millis(30));
    let (_, outputs) = submit(&engine, Job { deadline, ..endless() });
    let heard = hear(&outputs, 1).unwrap().remove(0);
    // A fast machine may fill the context first.
    assert!(matches!(heard.reason, Some(FinishReason::TimedOut | FinishReason::ContextFull)));
}

#[test]
fn what_ends_while_it_waits_is_no_answer_and_took_time_alone() {
    let (engine, ticket, _listening) = busy();
    let wait = Duration::from_millis(30);
    let late = || Some(Instant::now() + wait);
    let (_, text) = submit(&engine, Job { deadline: late(), choices: 3, ..endless() });
    let (_, vector) = embed(&engine, EmbeddingJob { deadline: late(), ..embedding(prompt(2, 20)) });
    let (cancelled, outputs) = submit(&engine, endless());
    let (texts, vectors) = (ended(hear(&text, 3)), ended(hear_vector(&vector)));
    cancelled.cancel();
    let gone = ended(hear(&outputs, 1));
    assert_eq!([texts.0, vectors.0, gone.0], ["timed_out", "timed_out", "cancelled"]);
    for (reason, usage) in [texts, vectors, gone] {
        assert!(usage.queue_seconds >= wait.as_secs_f64(), "{reason}: {usage:?}");
        let nothing = Usage { queue_seconds: usage.queue_seconds, ..Usage::default() };
        assert_eq!(usage, nothing, "{reason}");
    }
    ticket.cancel();
    let status = at_the_end(&engine);
    assert_eq!((status.waiting, status.used_pages, status.finished), (0, 0, 6));
}

#[test]
fn what_was_admitted_and_in_no_step_yet_took_nothing() {
    // A step has room for the first alone.
    let settings = EngineSettings { step_tokens: 1, context: 4096, kv_tokens: 16_384, ..roomy() };
    let engine = engine(settings);
    let (first, _listening) = submit(&engine, Job::new(prompt(1, 4000), random(1, 5)));
    let (second, outputs) = submit(&engine, Job::new(prompt(2, 4000), random(1, 5)));
    while engine.status().running < 2 {
        std::thread::yield_now();
    }
    second.cancel();
    let (reason, usage) = ended(hear(&outputs, 1));
    assert_eq!((reason, usage.prompt_tokens, usage.cpu_seconds), ("cancelled", 0, 0.0));
    first.cancel();
    at_the_end(&engine);
}

#[test]
fn a_vector_tells_what_it_took_whether_it_was_finished_or_not() {
    let engine = engine(EngineSettings { step_tokens: 1, context: 4096, kv_tokens: 4096, ..roomy() });
    let (_, outputs) = embed(&engine, embedding(prompt(1, 20)));
    let (_, usage) = hear_vector(&outputs).expect("a vector");
    assert!(usage.prefill_seconds > 0.0 && usage.cpu_seconds > 0.0, "{usage:?}");
    assert_eq!((usage.prompt_tokens, usage.decode_seconds), (20, 0.0));
    eventually("the first step is over", || engine.status().finished == 1);
    let before = engine.status().steps;
    let (ticket, outputs) = embed(&engine, embedding(prompt(1, 4000)));
    while engine.status().steps < before + 3 {
        std::thread::yield_now();
    }
    ticket.cancel();
    let (reason, usage) = ended(hear_vector(&outputs));
    // Each step was one token of it.
    let read = at_the_end(&engine).steps - before;
    assert_eq!((reason, usage.prompt_tokens as u64), ("cancelled", read));
    assert!(usage.prefill_seconds > 0.0 && usage.cpu_seconds > 0.0, "{usage:?}");
}

#[test]
fn a_prompt_that_is_cut_counts_as_far_as_it_was_read() {
    let engine = engine(EngineSettings { step_tokens: 1, context: 4096, kv_tokens: 8192, ..roomy() });
    let known = prompt(1, 128);
    hear(&submit(&engine, Job::new(known.clone(), random(1, 1))).1, 1).unwrap();
    eventually("two pages are kept", || engine.status().cached_pages == 2);
    let before = engine.status().steps;
    let whole = [known, prompt(2, 3000)].concat();
    let (ticket, outputs) = submit(&engine, Job { choices: 2, ..Job::new(whole, random(1, 5)) });
    while engine.status().steps < before + 3 {
        std::thread::yield_now();
    }
    ticket.cancel();
    let heard = hear(&outputs, 2).unwrap();
    let read = at_the_end(&engine).steps - before;
    let counted =
        |choice: usize| (heard[choice].usage.prompt_tokens as u64, heard[choice].usage.cached_tokens);
    assert_eq!((counted(0), counted(1)), ((128 + read, 128), (0, 0)));
    assert!(heard.iter().all(|choice| choice.reason == Some(FinishReason::Cancelled)));
}

#[test]
fn a_prompt_that_made_room_for_others_counts_once() {
    let engine = engine(EngineSettings { context: 192, kv_tokens: 384, ..roomy() });
    let jobs: Vec<Job> = (0..6).map(|seed| Job::new(prompt(seed, 100), random(1, 60))).collect();
    let usages: Vec<Usage> = together(&engine, &jobs).into_iter().map(|heard| heard.usage).collect();
    assert!(at_the_end(&engine).preemptions > 0, "there were pages enough");
    for usage in usages {
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (100, 0), "nobody else has this prompt");
    }
}

#[test]
fn shutting_down_finishes_what_is_there_and_takes_no_more() {
    let engine = engine(roomy());
    let (_, outputs) = submit(&engine, Job::new(prompt(1, 20), random(1, 30)));
    engine.shutdown(Duration::from_secs(60));
    assert_eq!(hear(&outputs, 1).unwrap()[0].tokens.len(), 30);
    let late = engine.submit(endless(), Box::new(|_| true));
    assert!(matches!(late, Err(Rejected::ShuttingDown)));
    engine.shutdown(Duration::ZERO);
}

#[test]
fn patience_ends() {
    let engine = engine(EngineSettings { context: 100_000, kv_tokens: 100_000, ..roomy() });
    let (_, outputs) = submit(&engine, endless());
    assert!(matches!(outputs.recv().unwrap(), Output::Token { .. }));
    engine.shutdown(Duration::from_millis(10));
    assert_eq!(hear(&outputs, 1).unwrap()[0].reason, Some(FinishReason::Cancelled));
}

#[test]
fn a_sampling_error_concerns_its_answer_alone() {
    let engine = engine(roomy());
    let (_, good) = submit(&engine, Job::new(prompt(1, 20), random(1, 40)));
    let nothing = LogitBias((0..256).map(|token| (token, f32::NEG_INFINITY)).collect());
    let sampling = SamplerSettings { logit_bias: nothing, ..random(1, 5) };
    let (_, bad) = submit(&engine, Job::new(prompt(1, 20), sampling));
    assert!(matches!(hear(&bad, 1), Err(EngineError::NoTokenAllowed { .. })));
    assert_eq!(hear(&good, 1).unwrap()[0].tokens.len(), 40);
    assert_eq!(at_the_end(&engine).used_pages, 0);
}
