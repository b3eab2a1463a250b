//! The samplers' names and the order of a chain. [`SamplerName::TABLE`] is the only list of them.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A sampler that a user can put into the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerName {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// DRY.
    Dry,
    /// Top-n-sigma.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical.
    TypicalP,
    /// Top-p.
    TopP,
    /// Min-p.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, or greedy at 0.
    Temperature,
}

/// One row of [`SamplerName::TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct SamplerInfo {
    /// The sampler.
    pub sampler: SamplerName,
    /// Its name in flags, JSON and documentation.
    pub name: &'static str,
    /// Other names that are read. Case, `-` and `_` never matter.
    pub aliases: &'static [&'static str],
}

const fn row(sampler: SamplerName, name: &'static str, aliases: &'static [&'static str]) -> SamplerInfo {
    SamplerInfo { sampler, name, aliases }
}

impl SamplerName {
    /// Every sampler, in the order of the default chain, which is llama.cpp's.
    pub const TABLE: [SamplerInfo; 9] = [
        row(SamplerName::Penalties, "penalties", &[]),
        row(SamplerName::Dry, "dry", &[]),
        row(SamplerName::TopNSigma, "top_n_sigma", &[]),
        row(SamplerName::TopK, "top_k", &[]),
        row(SamplerName::TypicalP, "typical_p", &["typ_p", "typical", "typ"]),
        row(SamplerName::TopP, "top_p", &["nucleus"]),
        row(SamplerName::MinP, "min_p", &[]),
        row(SamplerName::Xtc, "xtc", &[]),
        row(SamplerName::Temperature, "temperature", &["temp"]),
    ];

    /// The name in flags, JSON and documentation.
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].name
    }

    /// The sampler of this name or alias.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.trim().replace(['-', '_'], "").to_lowercase();
        let wanted = plain(name);
        let matches = |row: &&SamplerInfo| {
            plain(row.name) == wanted || row.aliases.iter().any(|alias| plain(alias) == wanted)
        };
        Self::TABLE.iter().find(matches).map(|row| row.sampler)
    }

    /// All names, for messages.
    pub(super) fn all_names() -> String {
        Self::TABLE.map(|row| row.name).join(", ")
    }
}

impl Serialize for SamplerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for SamplerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| {
            D::Error::custom(format!("there is no sampler `{name}`; the samplers are {}", Self::all_names()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::SamplerName;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, row) in SamplerName::TABLE.iter().enumerate() {
            assert_eq!(row.sampler as usize, index);
        }
    }

    #[test]
    fn names_are_read_in_the_usual_spellings() {
        for name in ["top_k", "top-k", "topk", " Top-K "] {
            assert_eq!(SamplerName::from_name(name), Some(SamplerName::TopK));
        }
        assert_eq!(SamplerName::from_name("typ_p"), Some(SamplerName::TypicalP));
        assert_eq!(SamplerName::from_name("nucleus"), Some(SamplerName::TopP));
        assert_eq!(SamplerName::from_name("top"), None);
    }
}
