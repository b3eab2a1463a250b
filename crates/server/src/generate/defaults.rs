//! What is sampled with where neither a request nor the model says: each API has defaults of its own, and apps that leave a
//! field out count on them.

use crate::error::ApiResult;
use crate::route::Family;
use alti_engine::sampling::SamplerSettings;

/// What an API's documentation says of settings that a request leaves out.
#[derive(Clone, Copy, Debug)]
pub struct FamilyDefaults {
    /// The API.
    pub family: Family,
    /// Settings by name; all others are the engine's, which are llama.cpp's.
    pub settings: &'static [(&'static str, &'static str)],
}

/// No sampler but the two that the API has, and those without effect.
const UNCHANGED: &[(&str, &str)] = &[("temperature", "1"), ("top_p", "1"), ("top_k", "0"), ("min_p", "0")];
/// The same, and penalties for all of the text so far.
const OPENAI: &[(&str, &str)] =
    &[("temperature", "1"), ("top_p", "1"), ("top_k", "0"), ("min_p", "0"), ("repeat_last_n", "-1")];
/// llama.cpp's.
const LLAMA_CPP: &[(&str, &str)] =
    &[("temperature", "0.8"), ("top_k", "40"), ("top_p", "0.95"), ("min_p", "0.05")];

/// The defaults of every API.
pub const DEFAULTS: [FamilyDefaults; 5] = [
    FamilyDefaults { family: Family::OpenAi, settings: OPENAI },
    FamilyDefaults { family: Family::Anthropic, settings: UNCHANGED },
    FamilyDefaults {
        family: Family::Ollama,
        settings: &[
            ("temperature", "0.8"),
            ("top_k", "40"),
            ("top_p", "0.9"),
            ("min_p", "0"),
            ("repeat_penalty", "1.1"),
            ("repeat_last_n", "64"),
        ],
    },
    FamilyDefaults { family: Family::LlamaCpp, settings: LLAMA_CPP },
    FamilyDefaults { family: Family::Operations, settings: LLAMA_CPP },
];

/// What an API samples with where nobody says.
///
/// # Errors
/// A row of the table that is wrong.
pub(crate) fn defaults(family: Family) -> ApiResult<SamplerSettings> {
    let mut settings = SamplerSettings::default();
    for row in DEFAULTS.iter().filter(|row| row.family == family) {
        row.settings.iter().try_for_each(|(name, value)| settings.set(name, &[value]))?;
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_has_its_own_documented_defaults() {
        for row in DEFAULTS {
            defaults(row.family).unwrap().validate().unwrap();
        }
        assert_eq!(defaults(Family::LlamaCpp).unwrap(), SamplerSettings::default());
        let found = |family| {
            let settings = defaults(family).unwrap();
            (settings.temperature, settings.top_k, settings.top_p, settings.min_p)
        };
        assert_eq!(found(Family::OpenAi), (1.0, 0, 1.0, 0.0));
        assert_eq!(found(Family::Anthropic), (1.0, 0, 1.0, 0.0));
        assert_eq!(found(Family::Ollama), (0.8, 40, 0.9, 0.0));
        let penalized = |family| defaults(family).unwrap().repeat_last_n;
        assert_eq!((penalized(Family::OpenAi), penalized(Family::Ollama)), (-1, 64));
    }
}
