//! From settings to the samplers that really run. A setting that changes nothing costs nothing: its
//! sampler is left out here, once, and not asked at every token. Greedy decoding, where most
//! samplers before it cannot change the result, becomes a plain search for the largest logit.

use super::breakers::SequenceBreakers;
use super::candidates::Candidates;
use super::dry::Dry;
use super::history::History;
use super::mirostat::{Mirostat, Version};
use super::order::SamplerName;
use super::penalties::Penalties;
use super::random::RandomNumbers;
use super::settings::SamplerSettings;
use super::{min_p, temperature, top_k, top_n_sigma, top_p, typical, xtc};
use std::sync::Arc;

/// A sampler that runs, with its settings and state.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Penalties(Penalties),
    Dry(Dry),
    TopNSigma(f32),
    TopK(usize),
    TypicalP(f32),
    TopP(f32),
    MinP(f32),
    Xtc { probability: f32, threshold: f32 },
    Temperature(f32),
    Greedy,
}

/// The stages that `settings` ask for, without those that change nothing.
pub(super) fn stages(settings: &SamplerSettings, breakers: &Arc<SequenceBreakers>) -> Vec<Stage> {
    let mut stages = Vec::new();
    for &sampler in order(settings) {
        match stage(sampler, settings, breakers) {
            Some(Stage::Greedy) => {
                while stages.last().is_some_and(Stage::keeps_most_likely) {
                    stages.pop();
                }
                stages.push(Stage::Greedy);
                break; // one candidate is left: nothing after it can matter
            }
            Some(stage) => stages.push(stage),
            None => {}
        }
    }
    stages
}

/// Mirostat controls the cut by itself; as in llama.cpp only temperature runs before it.
fn order(settings: &SamplerSettings) -> &[SamplerName] {
    if settings.mirostat == 0 { &settings.samplers } else { &[SamplerName::Temperature] }
}

/// The Mirostat controller, if the settings ask for one.
pub(super) fn mirostat(settings: &SamplerSettings) -> Option<Mirostat> {
    let version = match settings.mirostat {
        1 => Version::One,
        2 => Version::Two,
        _ => return None,
    };
    Some(Mirostat::new(version, settings.mirostat_tau, settings.mirostat_eta))
}

/// A count of tokens of which -1 means all.
fn window(tokens: i64) -> usize {
    usize::try_from(tokens).unwrap_or(usize::MAX)
}

/// The stage for one sampler, or none if its settings change nothing.
fn stage(
    sampler: SamplerName,
    settings: &SamplerSettings,
    breakers: &Arc<SequenceBreakers>,
) -> Option<Stage> {
    let s = settings;
    match sampler {
        SamplerName::Penalties => {
            let window = window(s.repeat_last_n);
            let penalties = Penalties::new(s.repeat_penalty, s.frequency_penalty, s.presence_penalty, window);
            (!penalties.is_neutral()).then_some(Stage::Penalties(penalties))
        }
        SamplerName::Dry => s.uses_dry().then(|| {
            let (allowed, window) = (window(s.dry_allowed_length), window(s.dry_penalty_last_n));
            Stage::Dry(Dry::new(s.dry_multiplier, s.dry_base, allowed, window, Arc::clone(breakers)))
        }),
        SamplerName::TopNSigma => (s.top_n_sigma > 0.0).then_some(Stage::TopNSigma(s.top_n_sigma)),
        SamplerName::TopK => usize::try_from(s.top_k).ok().filter(|&k| k > 0).map(Stage::TopK),
        SamplerName::TypicalP => (s.typical_p < 1.0).then_some(Stage::TypicalP(s.typical_p)),
        SamplerName::TopP => (s.top_p < 1.0).then_some(Stage::TopP(s.top_p)),
        SamplerName::MinP => (s.min_p > 0.0).then_some(Stage::MinP(s.min_p)),
        SamplerName::Xtc => {
            let acts = s.xtc_probability > 0.0 && s.xtc_threshold <= xtc::LARGEST_USEFUL_THRESHOLD;
            let (probability, threshold) = (s.xtc_probability, s.xtc_threshold);
            acts.then_some(Stage::Xtc { probability, threshold })
        }
        SamplerName::Temperature if s.temperature == 0.0 => Some(Stage::Greedy),
        SamplerName::Temperature => (s.temperature != 1.0).then_some(Stage::Temperature(s.temperature)),
    }
}

impl Stage {
    /// Whether the most likely candidate is the same before and after.
    fn keeps_most_likely(&self) -> bool {
        match self {
            Stage::TopNSigma(_) | Stage::TopK(_) | Stage::TopP(_) | Stage::MinP(_) => true,
            Stage::Temperature(_) | Stage::Greedy => true,
            Stage::Penalties(_) | Stage::Dry(_) | Stage::TypicalP(_) | Stage::Xtc { .. } => false,
        }
    }

    /// How many tokens back the stage looks.
    pub(super) fn history_needed(&self) -> usize {
        match self {
            // One more, to know which token leaves the window.
            Stage::Penalties(penalties) => penalties.window.saturating_add(1),
            Stage::Dry(dry) => dry.window,
            _ => 0,
        }
    }

    /// Takes note of the latest token of `history`.
    pub(super) fn accept(&mut self, history: &History) {
        if let Stage::Penalties(penalties) = self {
            penalties.accept(history);
        }
    }

    pub(super) fn apply(
        &mut self,
        candidates: &mut Candidates,
        history: &History,
        numbers: RandomNumbers,
        position: u64,
    ) {
        match self {
            Stage::Penalties(penalties) => penalties.apply(candidates),
            Stage::Dry(dry) => dry.apply(history, candidates),
            Stage::TopNSigma(n) => top_n_sigma::apply(*n, candidates),
            Stage::TopK(k) => top_k::apply(*k, candidates),
            Stage::TypicalP(p) => typical::apply(*p, candidates),
            Stage::TopP(p) => top_p::apply(*p, candidates),
            Stage::MinP(p) => min_p::apply(*p, candidates),
            Stage::Xtc { probability, threshold } => {
                xtc::apply(*probability, *threshold, numbers, position, candidates);
            }
            Stage::Temperature(divisor) => temperature::apply(*divisor, candidates),
            Stage::Greedy => temperature::apply_greedy(candidates),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::SamplerSettings;
    use super::*;

    fn names(settings: &SamplerSettings) -> Vec<String> {
        let debug = |stage: &Stage| format!("{stage:?}");
        let first_word = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
        stages(settings, &Arc::default()).iter().map(debug).map(first_word).collect()
    }

    #[test]
    fn the_default_chain_is_what_is_on() {
        assert_eq!(names(&SamplerSettings::default()), ["TopK", "TopP", "MinP", "Temperature"]);
        assert_eq!(names(&SamplerSettings::meta()), ["Temperature", "TopP"]);
    }

    #[test]
    fn greedy_drops_what_cannot_change_it() {
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        assert_eq!(names(&greedy), ["Greedy"]);
        let penalised = SamplerSettings { repeat_penalty: 1.1, ..greedy.clone() };
        assert_eq!(names(&penalised), ["Penalties", "Greedy"]);
        let typical = SamplerSettings { typical_p: 0.5, ..greedy };
        assert_eq!(names(&typical), ["TopK", "TypicalP", "Greedy"]);
    }

    /// The queues of llama.cpp's `test_sampler_queue`: 10,000 tokens, each as likely as its id is
    /// large, so that every truncation keeps the ids from some id on, in whatever order.
    #[test]
    fn truncations_in_any_order_keep_the_likeliest() {
        const TOKENS: u32 = 10_000;
        let logits: Vec<f32> = (0..TOKENS).map(|token| (token as f32).ln()).collect();
        let sum = |from: u32| (from..TOKENS).map(f64::from).sum::<f64>();
        for (queue, k, p, min_p) in [
            ("k", 100, 1.0, 1.0),
            ("p", 1, 0.0003, 1.0),
            ("p", 1, 0.8, 1.0),
            ("m", 1, 1.0, 9997.9 / 9999.0),
            ("m", 1, 1.0, 0.1),
            ("kpm", 100, 0.8, 0.1),
            ("kmp", 100, 0.8, 0.1),
            ("pkm", 100, 0.8, 0.1),
            ("pmk", 100, 0.8, 0.1),
            ("mkp", 100, 0.8, 0.1),
            ("mpk", 100, 0.8, 0.1),
            ("mp", 100, 0.8, 9997.9 / 9999.0),
        ] {
            let mut candidates = Candidates::default();
            candidates.load(&logits, None);
            let mut first = 1; // token 0 has probability 0
            for sampler in queue.chars() {
                match sampler {
                    'k' => {
                        top_k::apply(k, &mut candidates);
                        first = first.max(TOKENS - k as u32);
                    }
                    'p' => {
                        top_p::apply(p, &mut candidates);
                        let wanted = f64::from(p) * sum(first);
                        first = (first..TOKENS).rev().find(|&from| sum(from) >= wanted).unwrap_or(first);
                    }
                    _ => {
                        min_p::apply(min_p, &mut candidates);
                        first = first.max((min_p * 9999.0).ceil() as u32);
                    }
                }
                let mut kept: Vec<u32> = candidates.entries().iter().map(|c| c.token).collect();
                kept.sort_unstable();
                assert!(kept.iter().copied().eq(first..TOKENS), "{queue} at {sampler}: from {first}");
            }
        }
    }

    #[test]
    fn mirostat_replaces_all_but_temperature() {
        let settings = SamplerSettings { mirostat: 2, repeat_penalty: 1.5, ..SamplerSettings::default() };
        assert_eq!(names(&settings), ["Temperature"]);
        assert!(mirostat(&settings).is_some());
    }
}
