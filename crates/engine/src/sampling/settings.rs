//! Everything a user can set about sampling. One macro call is the only list: the struct with its
//! JSON names, the defaults, the ranges and the table [`SETTINGS`] that command-line flags and
//! documentation are generated from all come out of it.
//!
//! Names, defaults and meanings are llama.cpp's, so that known values behave as known. Where it
//! differs: a window of -1 means all tokens (llama.cpp: none, and older versions: the context),
//! and values out of range are refused instead of ignored.

use super::breakers::LONGEST_BREAKER;
use super::logit_bias::LogitBias;
use super::order::SamplerName;
use super::random::fresh_seed;
use super::setting::{Kind, Setting, Value};
use crate::error::EngineError;
use serde::{Deserialize, Serialize};

const fn integer(least: i64, most: i64) -> Kind {
    Kind::Integer { least, most }
}

const fn number(least: f64, most: f64) -> Kind {
    Kind::Number { least, most }
}

/// Counts of tokens: far beyond any context, and within 32 bits for every client.
const MANY: i64 = i32::MAX as i64;

macro_rules! settings {
    ($( $name:ident $(| $alias:literal)* : $type:ty = $default:expr, $kind:expr, $description:literal; )*) => {
        /// What a user can set about sampling. [`SETTINGS`] describes each field; missing fields
        /// in JSON have their defaults.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct SamplerSettings {
            $(
                #[doc = $description]
                $( #[serde(alias = $alias)] )*
                pub $name: $type,
            )*
        }

        impl Default for SamplerSettings {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }

        /// Every setting: what flags, JSON fields and documentation are made from.
        pub const SETTINGS: &[Setting] = &[
            $(
                Setting {
                    name: stringify!($name),
                    aliases: &[$( $alias ),*],
                    kind: $kind,
                    description: $description,
                    read: |settings| settings.$name.text(),
                    write: |settings, texts| {
                        settings.$name = Value::parse(texts)?;
                        Some(())
                    },
                    is_allowed: |settings, kind| settings.$name.is_allowed(kind),
                },
            )*
        ];
    };
}

settings! {
    samplers: Vec<SamplerName> = SamplerName::TABLE.map(|row| row.sampler).to_vec(),
        Kind::Samplers { items: 32 },
        "The samplers that run, in this order; one that is not named does not run, whatever its settings.";
    seed: i64 = -1, integer(i64::MIN, i64::MAX),
        "Seed of the random numbers: the same seed gives the same tokens; -1 takes a fresh one.";
    temperature | "temp": f32 = 0.8, number(0.0, 100.0),
        "Divides the logits: below 1 more predictable, above 1 more varied; 0 always takes the most likely token.";
    top_k: i64 = 40, integer(-1, MANY),
        "Keeps the k most likely tokens; 0 or -1 keeps all.";
    top_p: f32 = 0.95, number(0.0, 1.0),
        "Keeps the fewest most likely tokens whose probabilities add up to p; 1 keeps all.";
    min_p: f32 = 0.05, number(0.0, 1.0),
        "Drops tokens less likely than p times the most likely one; 0 keeps all.";
    typical_p | "typ_p" | "typical": f32 = 1.0, number(0.0, 1.0),
        "Keeps the tokens closest to the expected surprise until they hold mass p; 1 keeps all.";
    top_n_sigma | "top_nsigma": f32 = -1.0, number(-1.0, 100.0),
        "Keeps logits within n standard deviations of the largest; 0 or less keeps all.";
    xtc_probability: f32 = 0.0, number(0.0, 1.0),
        "How often XTC excludes the top choices; 0 is never.";
    xtc_threshold: f32 = 0.1, number(0.0, 1.0),
        "Probability from which XTC counts a token as a top choice; above 0.5 XTC never acts.";
    repeat_penalty: f32 = 1.0, number(0.001, 1000.0),
        "Penalty factor for tokens within the last repeat_last_n; 1 is none.";
    frequency_penalty: f32 = 0.0, number(-100.0, 100.0),
        "Subtracted from a token's logit for each time it occurs within the last repeat_last_n.";
    presence_penalty: f32 = 0.0, number(-100.0, 100.0),
        "Subtracted once from the logit of every token within the last repeat_last_n.";
    repeat_last_n | "penalty_last_n": i64 = 64, integer(-1, MANY),
        "How many of the latest tokens the three penalties look at; 0 turns them off, -1 takes all.";
    dry_multiplier: f32 = 0.0, number(0.0, 100.0),
        "Strength of the DRY penalty for continuing a repeated sequence; 0 is off.";
    dry_base: f32 = 1.75, number(1.0, 100.0),
        "DRY's penalty grows by this factor with each repeated token.";
    dry_allowed_length: i64 = 2, integer(0, MANY),
        "Longest repetition that DRY leaves alone.";
    dry_penalty_last_n: i64 = 64, integer(-1, MANY),
        "How many of the latest tokens DRY searches; 0 turns it off, -1 takes all.";
    dry_sequence_breakers | "dry_sequence_breaker": Vec<String> = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
        Kind::Texts { items: 64, bytes: LONGEST_BREAKER },
        "Strings that end a repetition for DRY.";
    mirostat: i64 = 0, integer(0, 2),
        "Mirostat version 1 or 2, which runs after temperature and replaces all other samplers; 0 is off.";
    mirostat_tau | "mirostat_ent": f32 = 5.0, number(0.0, 100.0),
        "Mirostat's target for the surprise of the text, in bits a token.";
    mirostat_eta | "mirostat_lr": f32 = 0.1, number(0.0, 10.0),
        "Mirostat's learning rate.";
    logit_bias: LogitBias = LogitBias::default(), Kind::TokenBiases,
        "Added to the logits of single tokens before everything else; minus infinity bans a token.";
    stop: Vec<String> = Vec::new(), Kind::Texts { items: 64, bytes: 1024 },
        "Strings that end the answer; they are not part of it.";
    max_tokens | "n_predict": i64 = -1, integer(-1, MANY),
        "Most tokens of the answer; -1 goes on until the model ends it or the context is full.";
}

/// Settings known by a name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// One sentence for help and documentation.
    pub description: &'static str,
    /// Makes the settings.
    pub settings: fn() -> SamplerSettings,
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    Preset { name: "default", description: "llama.cpp's defaults", settings: SamplerSettings::default },
    Preset {
        name: "meta",
        description: "temperature 0.6, then top-p 0.9: the defaults of Meta's own Llama generator",
        settings: SamplerSettings::meta,
    },
    Preset { name: "greedy", description: "always the most likely token", settings: SamplerSettings::greedy },
];

impl SamplerSettings {
    /// The defaults of Meta's own generator (`generation.py` of the `llama-models` repository):
    /// temperature 0.6, then top-p 0.9, and nothing else.
    pub fn meta() -> Self {
        Self {
            samplers: vec![SamplerName::Temperature, SamplerName::TopP],
            temperature: 0.6,
            top_p: 0.9,
            ..Self::default()
        }
    }

    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self { samplers: vec![SamplerName::Temperature], temperature: 0.0, ..Self::default() }
    }

    /// Checks every value; the error names the first that is out of range and what is allowed.
    pub fn validate(&self) -> Result<(), EngineError> {
        SETTINGS.iter().try_for_each(|setting| setting.check(self))
    }

    /// Sets the setting of this name or alias (`-` may stand for `_`) from text.
    /// See [`Setting::set`].
    pub fn set(&mut self, name: &str, texts: &[&str]) -> Result<(), EngineError> {
        let plain = name.replace('-', "_");
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == plain || setting.aliases.contains(&plain.as_str()))
            .ok_or_else(|| EngineError::UnknownSetting {
                name: name.to_owned(),
                known: SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", "),
            })?;
        setting.set(self, texts)
    }

    /// Replaces a seed of -1 by a fresh one and returns the seed, so that all choices of a request
    /// share it and it can be reported.
    pub fn fix_seed(&mut self) -> i64 {
        while self.seed == -1 {
            // JavaScript clients read numbers as doubles: 53 bits survive them.
            self.seed = (fresh_seed() >> 11) as i64;
        }
        self.seed
    }

    /// Whether DRY can act, so that its sequence breakers are worth resolving.
    pub fn uses_dry(&self) -> bool {
        self.mirostat == 0
            && self.dry_multiplier != 0.0
            && self.dry_penalty_last_n != 0
            && self.samplers.contains(&SamplerName::Dry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn error(name: &str, texts: &[&str]) -> String {
        let mut settings = SamplerSettings::default();
        let error = settings.set(name, texts).unwrap_err().to_string();
        assert_eq!(settings, SamplerSettings::default(), "a failed change changes nothing");
        error
    }

    #[test]
    fn table_and_json_have_the_same_names() {
        let json = serde_json::to_value(SamplerSettings::default()).unwrap();
        let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(fields, names);
        let all = SETTINGS.iter().flat_map(|setting| setting.aliases).chain(&names);
        assert_eq!(all.clone().collect::<BTreeSet<_>>().len(), all.count(), "a name or alias is there twice");
    }

    #[test]
    fn presets_are_valid_and_survive_json() {
        for preset in PRESETS {
            let settings = (preset.settings)();
            settings.validate().unwrap();
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<SamplerSettings>(&json).unwrap(), settings);
        }
    }

    #[test]
    fn json_takes_missing_fields_and_other_programs_names() {
        let json = r#"{"temp": 0.5, "typ_p": 0.9, "n_predict": 7, "samplers": ["top-k", "temp"]}"#;
        let expected = SamplerSettings {
            temperature: 0.5,
            typical_p: 0.9,
            max_tokens: 7,
            samplers: vec![SamplerName::TopK, SamplerName::Temperature],
            ..SamplerSettings::default()
        };
        assert_eq!(serde_json::from_str::<SamplerSettings>(json).unwrap(), expected);
        let error = serde_json::from_str::<SamplerSettings>(r#"{"samplers": ["top"]}"#).unwrap_err();
        assert!(error.to_string().starts_with("there is no sampler `top`; the samplers are penalties, dry"));
    }

    #[test]
    fn every_kind_is_set_from_text() {
        let mut settings = SamplerSettings::default();
        settings.set("top-k", &["20"]).unwrap();
        settings.set("temp", &["0.25"]).unwrap();
        settings.set("stop", &["END", "\n"]).unwrap();
        settings.set("samplers", &["top_k;temperature"]).unwrap();
        settings.set("logit_bias", &["7+1.5,8-inf"]).unwrap();
        let expected = SamplerSettings {
            top_k: 20,
            temperature: 0.25,
            stop: vec!["END".to_owned(), "\n".to_owned()],
            samplers: vec![SamplerName::TopK, SamplerName::Temperature],
            logit_bias: LogitBias([(7, 1.5), (8, f32::NEG_INFINITY)].into()),
            ..SamplerSettings::default()
        };
        assert_eq!(settings, expected);
        let text = |name| SETTINGS.iter().find(|s| s.name == name).map(|s| s.value(&settings));
        assert_eq!(text("logit_bias").as_deref(), Some("7+1.5,8-inf"));
        assert_eq!(text("samplers").as_deref(), Some("top_k,temperature"));
        assert_eq!(text("stop").as_deref(), Some(r#""END","\n""#));
        assert_eq!(text("temperature").as_deref(), Some("0.25"));
    }

    #[test]
    fn errors_say_what_and_what_is_allowed() {
        let expected = "sampler setting `temperature` is `hot`: it must be a number between 0 and 100";
        assert_eq!(error("temperature", &["hot"]), expected);
        assert_eq!(
            error("top_p", &["1.5"]),
            "sampler setting `top_p` is `1.5`: it must be a number between 0 and 1"
        );
        assert!(error("temperature", &["nan"]).contains("between 0 and 100"));
        assert!(error("top_k", &["1", "2"]).contains("`1, 2`: it must be a whole number, -1 or more"));
        assert!(error("stop", &[""]).contains("at most 64 strings of 1 to 1024 bytes each"));
        assert!(error("logit_bias", &["7"]).contains("TOKEN+BIAS"));
        assert!(error("logit_bias", &["7+inf"]).contains("finite"));
        assert!(error("samplers", &["top"]).contains("at most 32 of the samplers penalties, dry"));
        assert!(
            error("tempurature", &["1"])
                .contains("no sampler setting `tempurature`; the settings are samplers")
        );
    }

    #[test]
    fn validation_finds_a_value_set_without_checking() {
        let settings = SamplerSettings { top_p: f32::NAN, ..SamplerSettings::default() };
        let error = settings.validate().unwrap_err().to_string();
        assert_eq!(error, "sampler setting `top_p` is NaN: it must be a number between 0 and 1");
        let settings = SamplerSettings { stop: vec!["x".repeat(2000)], ..SamplerSettings::default() };
        let error = settings.validate().unwrap_err().to_string();
        assert!(error.contains("...: it must be") && error.len() < 220, "{error}");
    }

    #[test]
    fn a_fresh_seed_is_fixed_once() {
        let mut settings = SamplerSettings::default();
        let seed = settings.fix_seed();
        assert!(seed != -1 && seed == settings.fix_seed());
        assert_ne!(SamplerSettings::default().fix_seed(), seed);
    }
}
