//! What a user of the sampler chain can rely on: reproducible and fair draws, an order that counts,
//! and errors that say where.

use alti_engine::sampling::{LogitBias, Sampler, SamplerName, SamplerSettings, SequenceBreakers, Workspace};
use std::sync::Arc;

fn sampler(settings: &SamplerSettings, vocabulary_size: usize) -> Sampler {
    Sampler::new(settings, vocabulary_size, 0, &Arc::default()).unwrap()
}

/// Settings of which only the named samplers run.
fn only(samplers: &[SamplerName]) -> SamplerSettings {
    SamplerSettings { samplers: samplers.to_vec(), seed: 42, ..SamplerSettings::default() }
}

fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|probability| probability.ln()).collect()
}

/// Logits without pattern in [-4, 4).
fn scattered(count: u32) -> Vec<f32> {
    (0..count).map(|token| (token.wrapping_mul(2_654_435_761) >> 8) as f32 / 2e6 - 4.0).collect()
}

/// How often each token is drawn from the same logits at positions 0, 1, ...
fn histogram(sampler: &mut Sampler, logits: &[f32], draws: u64) -> Vec<u32> {
    let mut workspace = Workspace::default();
    let mut counts = vec![0; logits.len()];
    for position in 0..draws {
        let sampled = sampler.sample(&mut workspace, logits, position, None).unwrap();
        counts[sampled.token as usize] += 1;
    }
    counts
}

fn tokens(sampler: &mut Sampler, logits: &[f32], positions: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut workspace = Workspace::default();
    positions.map(|position| sampler.sample(&mut workspace, logits, position, None).unwrap().token).collect()
}

#[test]
fn a_token_depends_on_seed_choice_and_position_alone() {
    let settings = SamplerSettings { top_k: 0, min_p: 0.0, seed: 7, ..SamplerSettings::default() };
    let logits = scattered(500);
    let forwards = tokens(&mut sampler(&settings, 500), &logits, 0..200);
    assert_eq!(tokens(&mut sampler(&settings, 500), &logits, 0..200), forwards);
    // Rolled back, resumed in the middle, or in any other order.
    let mut backwards = tokens(&mut sampler(&settings, 500), &logits, (0..200).rev());
    backwards.reverse();
    assert_eq!(backwards, forwards);
    let mut other = Sampler::new(&settings, 500, 1, &Arc::default()).unwrap();
    assert_ne!(tokens(&mut other, &logits, 0..200), forwards, "another choice");
    let reseeded = SamplerSettings { seed: 8, ..settings };
    assert_ne!(tokens(&mut sampler(&reseeded, 500), &logits, 0..200), forwards, "another seed");
}

#[test]
fn a_workspace_can_be_shared_by_models_of_different_sizes() {
    let settings = only(&[SamplerName::TopK, SamplerName::Temperature]);
    let (small, large) = (scattered(10), scattered(3000));
    let mut workspace = Workspace::default();
    for position in 0..50 {
        for logits in [&small, &large] {
            let mut sampler = sampler(&settings, logits.len());
            let shared = sampler.sample(&mut workspace, logits, position, None).unwrap();
            let fresh = sampler.sample(&mut Workspace::default(), logits, position, None).unwrap();
            assert_eq!(shared, fresh);
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.02, 0.4, 0.03, 0.15, 0.1, 0.3];
    let draws = 50_000;
    for samplers in [&[][..], &[SamplerName::TopK]] {
        let settings = SamplerSettings { top_k: 5, ..only(samplers) };
        let mut expected = probabilities;
        if !samplers.is_empty() {
            expected[0] = 0.0;
        }
        let total: f32 = expected.iter().sum();
        let counts = histogram(&mut sampler(&settings, 6), &logits(&probabilities), draws);
        let mut chi_square = 0.0;
        for (&count, &probability) in counts.iter().zip(&expected) {
            let mean = f64::from(probability / total) * draws as f64;
            if mean == 0.0 {
                assert_eq!(count, 0);
            } else {
                chi_square += (f64::from(count) - mean).powi(2) / mean;
            }
        }
        assert!(chi_square < 20.5, "at most 5 degrees of freedom, 0.1 % level: {chi_square}");
    }
}

#[test]
fn the_order_of_the_chain_counts() {
    let logits = logits(&[0.4, 0.3, 0.2, 0.1]);
    let kept = |samplers: &[SamplerName]| {
        let settings = SamplerSettings { temperature: 0.5, min_p: 0.4, ..only(samplers) };
        let counts = histogram(&mut sampler(&settings, 4), &logits, 2000);
        counts.iter().filter(|&&count| count > 0).count()
    };
    assert_eq!(kept(&[SamplerName::MinP, SamplerName::Temperature]), 3, "0.2 is 0.5 of 0.4");
    assert_eq!(kept(&[SamplerName::Temperature, SamplerName::MinP]), 2, "0.04 is 0.25 of 0.16");
    assert_eq!(kept(&[SamplerName::Temperature]), 4, "a sampler that is not named does not run");
}

#[test]
fn greedy_is_the_largest_logit_and_the_lowest_id_among_equals() {
    let logits = [1.0, 3.0, -2.0, 3.0];
    for settings in [
        SamplerSettings::greedy(),
        SamplerSettings { temperature: 0.0, ..SamplerSettings::default() },
        SamplerSettings { temperature: 0.0, repeat_penalty: 2.0, ..SamplerSettings::default() },
        SamplerSettings { temperature: 0.0, mirostat: 2, ..SamplerSettings::default() },
    ] {
        let sampled = sampler(&settings, 4).sample(&mut Workspace::default(), &logits, 9, None).unwrap();
        assert_eq!((sampled.token, sampled.probability), (1, 1.0));
    }
}

#[test]
fn greedy_minds_penalties_mask_and_bias() {
    let mut workspace = Workspace::default();
    let logits = [1.0, 3.0, 2.0, 0.5];
    let settings = SamplerSettings { temperature: 0.0, repeat_penalty: 4.0, ..SamplerSettings::default() };
    let mut penalised = sampler(&settings, 4);
    penalised.accept(1);
    assert_eq!(penalised.sample(&mut workspace, &logits, 0, None).unwrap().token, 2);
    let mut greedy = sampler(&SamplerSettings::greedy(), 4);
    assert_eq!(greedy.sample(&mut workspace, &logits, 0, Some(&[0b1001])).unwrap().token, 0);
    let bias = LogitBias([(3, 5.0), (1, f32::NEG_INFINITY)].into());
    let mut biased = sampler(&SamplerSettings { logit_bias: bias, ..SamplerSettings::greedy() }, 4);
    assert_eq!(biased.sample(&mut workspace, &logits, 0, None).unwrap().token, 3);
}

#[test]
fn errors_name_the_position_and_the_cause() {
    let mut workspace = Workspace::default();
    for settings in [SamplerSettings::greedy(), SamplerSettings::default()] {
        let mut sampler = sampler(&settings, 3);
        let mut error =
            |logits: &[f32], mask| sampler.sample(&mut workspace, logits, 17, mask).unwrap_err().to_string();
        assert_eq!(
            error(&[0.0, f32::NAN, 1.0], None),
            "the model's logit for token 1 at position 17 is NaN: the weights are damaged or a value overflowed"
        );
        assert!(error(&[0.0, 1.0, f32::INFINITY], None).contains("token 2 at position 17 is inf"));
        assert!(error(&[f32::NEG_INFINITY; 3], None).starts_with("no token is allowed at position 17"));
        assert!(error(&[1.0; 3], Some(&[0])).starts_with("no token is allowed at position 17"));
        assert_eq!(error(&[1.0; 2], None), "the sampler is for 3 tokens but got 2 logits at position 17");
    }
    let banned = LogitBias((0..3).map(|token| (token, f32::NEG_INFINITY)).collect());
    let settings = SamplerSettings { logit_bias: banned, ..SamplerSettings::default() };
    let error = sampler(&settings, 3).sample(&mut workspace, &[1.0; 3], 4, None).unwrap_err();
    assert!(error.to_string().contains("`logit_bias`"));
    let settings = SamplerSettings { min_p: -1.0, ..SamplerSettings::default() };
    let error = Sampler::new(&settings, 3, 0, &Arc::default()).unwrap_err();
    assert_eq!(error.to_string(), "sampler setting `min_p` is -1: it must be a number between 0 and 1");
}

/// Every combination of extreme values that is allowed gives a token or a clear error.
#[test]
fn extreme_settings_and_logits_are_survived() {
    let rows = [
        vec![f32::MAX, f32::MIN, 0.0, 1.0],
        vec![f32::MIN; 4],
        vec![f32::MAX; 4],
        vec![0.0, 1e-40, -0.0, -1e-40],
    ];
    let extremes: [fn(&mut SamplerSettings); 8] = [
        |settings| settings.temperature = 1e-38,
        |settings| settings.temperature = 100.0,
        |settings| (settings.repeat_penalty, settings.repeat_last_n) = (1000.0, -1),
        |settings| (settings.repeat_penalty, settings.presence_penalty) = (0.001, -100.0),
        |settings| {
            (settings.dry_multiplier, settings.dry_base, settings.dry_allowed_length) = (100.0, 100.0, 0)
        },
        |settings| (settings.typical_p, settings.top_p, settings.min_p) = (0.0, 0.0, 1.0),
        |settings| {
            (settings.xtc_probability, settings.xtc_threshold, settings.top_n_sigma) = (1.0, 0.0, 1e-9)
        },
        |settings| (settings.mirostat, settings.mirostat_tau, settings.mirostat_eta) = (1, 0.0, 10.0),
    ];
    let mut workspace = Workspace::default();
    for (first, second) in (0..64).map(|pair| (pair / 8, pair % 8)) {
        let mut settings = SamplerSettings { seed: 1, ..SamplerSettings::default() };
        extremes[first](&mut settings);
        extremes[second](&mut settings);
        for mirostat in [settings.mirostat, 2] {
            let mut sampler = sampler(&SamplerSettings { mirostat, ..settings.clone() }, 4);
            for (position, row) in (0..80).zip(rows.iter().cycle()) {
                let sampled = sampler.sample(&mut workspace, row, position, None).unwrap();
                assert!((0.0..=1.0).contains(&sampled.probability), "{first} {second} {sampled:?}");
                sampler.accept(sampled.token);
            }
        }
    }
}

#[test]
fn mirostat_brings_the_surprise_to_its_target() {
    // Zipf's law over 2000 tokens: about 8 bits of entropy.
    let logits: Vec<f32> = (1..=2000).map(|rank| -(rank as f32).ln()).collect();
    for (version, target) in [(1, 2.0), (1, 4.0), (2, 2.0), (2, 4.0)] {
        let settings = SamplerSettings {
            mirostat: version,
            mirostat_tau: target,
            temperature: 1.0,
            seed: 5,
            ..SamplerSettings::default()
        };
        let mut sampler = sampler(&settings, logits.len());
        let mut workspace = Workspace::default();
        let mut surprise = 0.0;
        let (warm_up, draws) = (500, 3000);
        for position in 0..warm_up + draws {
            let sampled = sampler.sample(&mut workspace, &logits, position, None).unwrap();
            let again = sampler.sample(&mut workspace, &logits, position, None).unwrap();
            assert_eq!(sampled, again, "drawing again before accepting changes nothing");
            sampler.accept(sampled.token);
            if position >= warm_up {
                surprise -= sampled.probability.log2();
            }
        }
        let mean = surprise / draws as f32;
        assert!((mean - target).abs() < 0.1, "version {version}: {mean} bits, target {target}");
    }
}

#[test]
fn dry_breaks_a_loop_but_not_across_breakers() {
    // Tokens are the letters' own codes; the text so far invites "c" as the next.
    let vocabulary = || (0..128u32).map(|token| (token, vec![token as u8]));
    let next = |text: &str, breakers: &[&str]| {
        let settings = SamplerSettings {
            dry_multiplier: 5.0,
            dry_sequence_breakers: breakers.iter().map(|&text| text.to_owned()).collect(),
            ..SamplerSettings { temperature: 0.0, ..SamplerSettings::default() }
        };
        assert!(settings.uses_dry());
        let breakers =
            SequenceBreakers::from_strings(&settings.dry_sequence_breakers, vocabulary(), |text| {
                text.bytes().map(u32::from).collect()
            });
        let mut sampler = Sampler::new(&settings, 128, 0, &Arc::new(breakers)).unwrap();
        text.bytes().for_each(|byte| sampler.accept(u32::from(byte)));
        let mut logits = vec![0.0; 128];
        (logits[usize::from(b'c')], logits[usize::from(b'x')]) = (4.0, 1.0);
        let token = sampler.sample(&mut Workspace::default(), &logits, 0, None).unwrap().token;
        char::from_u32(token).unwrap()
    };
    assert_eq!(next("abcdab", &[]), 'x', "\"ab\" was followed by \"c\"");
    assert_eq!(next("abcdb", &[]), 'c', "one token is shorter than the allowed length");
    assert_eq!(next("a:bcda:b", &[":"]), 'c', "the repetition is cut at the breaker");
    assert_eq!(next("a:bcda:b", &["!"]), 'x', "and only there");
    assert_eq!(next("a->bcda->b", &["->"]), 'c', "a breaker of two tokens");
}
