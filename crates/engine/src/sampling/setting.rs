//! How one setting is described, read from text, written as text and checked. Together with the
//! table in [`super::settings`] this lets a command line, a JSON schema and a page of
//! documentation be generated without naming a setting.

use super::logit_bias::LogitBias;
use super::order::SamplerName;
use super::settings::SamplerSettings;
use crate::error::EngineError;

/// The type of a setting's value, with what is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number between two bounds, both allowed.
    Integer {
        /// Smallest value.
        least: i64,
        /// Largest value.
        most: i64,
    },
    /// A number between two bounds, both allowed.
    Number {
        /// Smallest value.
        least: f64,
        /// Largest value.
        most: f64,
    },
    /// A list of strings, none empty.
    Texts {
        /// Most strings.
        items: usize,
        /// Most bytes of one string.
        bytes: usize,
    },
    /// A list of sampler names.
    Samplers {
        /// Most names.
        items: usize,
    },
    /// Token ids with the number added to each one's logit.
    TokenBiases,
}

impl Kind {
    /// Whether a command line takes the setting several times, one item each.
    pub fn is_list(self) -> bool {
        !matches!(self, Kind::Integer { .. } | Kind::Number { .. })
    }

    /// What is allowed, to follow "it must be".
    pub fn allowed(self) -> String {
        match self {
            Kind::Integer { least: i64::MIN, most: i64::MAX } => "a whole number".to_owned(),
            Kind::Integer { least, most } if most >= i64::from(i32::MAX) => {
                format!("a whole number, {least} or more (at most {most})")
            }
            Kind::Integer { least, most } => format!("a whole number between {least} and {most}"),
            Kind::Number { least, most } => format!("a number between {least} and {most}"),
            Kind::Texts { items, bytes } => {
                format!("at most {items} strings of 1 to {bytes} bytes each")
            }
            Kind::Samplers { items } => {
                format!("at most {items} of the samplers {}", SamplerName::all_names())
            }
            Kind::TokenBiases => {
                "TOKEN+BIAS or TOKEN-BIAS with a finite bias, or TOKEN-inf to ban a token".to_owned()
            }
        }
    }
}

/// One row of [`super::SETTINGS`].
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name in JSON; as a flag, with `-` for `_`.
    pub name: &'static str,
    /// Other names that are read, mostly llama.cpp's.
    pub aliases: &'static [&'static str],
    /// Type and range.
    pub kind: Kind,
    /// One sentence for help and documentation.
    pub description: &'static str,
    pub(super) read: fn(&SamplerSettings) -> String,
    pub(super) write: fn(&mut SamplerSettings, &[&str]) -> Option<()>,
    pub(super) is_allowed: fn(&SamplerSettings, Kind) -> bool,
}

impl Setting {
    /// The value in `settings` as text; list items are separated by commas.
    pub fn value(&self, settings: &SamplerSettings) -> String {
        (self.read)(settings)
    }

    /// The default as text.
    pub fn default_value(&self) -> String {
        self.value(&SamplerSettings::default())
    }

    /// Sets the value from text: one text for a number, any count of items for a list, which they
    /// replace. Leaves `settings` as it was on an error.
    pub fn set(&self, settings: &mut SamplerSettings, texts: &[&str]) -> Result<(), EngineError> {
        let mut changed = settings.clone();
        let written = (self.write)(&mut changed, texts);
        if written.is_none() || !(self.is_allowed)(&changed, self.kind) {
            return Err(self.error(format!("`{}`", texts.join(", "))));
        }
        *settings = changed;
        Ok(())
    }

    /// Checks the value in `settings`.
    pub(super) fn check(&self, settings: &SamplerSettings) -> Result<(), EngineError> {
        if (self.is_allowed)(settings, self.kind) {
            return Ok(());
        }
        let mut value = self.value(settings);
        if value.len() > 80 {
            value.truncate(value.floor_char_boundary(80));
            value.push_str("...");
        }
        Err(self.error(value))
    }

    fn error(&self, value: String) -> EngineError {
        EngineError::InvalidSetting { name: self.name, value, allowed: self.kind.allowed() }
    }
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// Reads the value; `None` if the texts do not spell one.
    fn parse(texts: &[&str]) -> Option<Self>;
    fn text(&self) -> String;
    /// Whether the value is within the range of `kind`, which is of this type.
    fn is_allowed(&self, kind: Kind) -> bool;
}

impl Value for i64 {
    fn parse(texts: &[&str]) -> Option<Self> {
        let [text] = texts else { return None };
        text.trim().parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn is_allowed(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Integer { least, most } if (least..=most).contains(self))
    }
}

impl Value for f32 {
    fn parse(texts: &[&str]) -> Option<Self> {
        let [text] = texts else { return None };
        text.trim().parse().ok()
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn is_allowed(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Number { least, most } if (least as f32..=most as f32).contains(self))
    }
}

impl Value for Vec<String> {
    fn parse(texts: &[&str]) -> Option<Self> {
        Some(texts.iter().map(|&text| text.to_owned()).collect())
    }

    fn text(&self) -> String {
        self.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(",")
    }

    fn is_allowed(&self, kind: Kind) -> bool {
        let Kind::Texts { items, bytes } = kind else { return false };
        self.len() <= items && self.iter().all(|text| (1..=bytes).contains(&text.len()))
    }
}

impl Value for Vec<SamplerName> {
    fn parse(texts: &[&str]) -> Option<Self> {
        let names = texts.iter().flat_map(|text| text.split([',', ';']));
        names.filter(|name| !name.trim().is_empty()).map(SamplerName::from_name).collect()
    }

    fn text(&self) -> String {
        self.iter().map(|sampler| sampler.name()).collect::<Vec<_>>().join(",")
    }

    fn is_allowed(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Samplers { items } if self.len() <= items)
    }
}

impl Value for LogitBias {
    fn parse(texts: &[&str]) -> Option<Self> {
        let entries = texts.iter().flat_map(|text| text.split(','));
        entries.map(LogitBias::parse_entry).collect::<Option<_>>().map(LogitBias)
    }

    fn text(&self) -> String {
        self.sorted().iter().map(|(token, bias)| format!("{token}{bias:+}")).collect::<Vec<_>>().join(",")
    }

    fn is_allowed(&self, kind: Kind) -> bool {
        let fits = |bias: &f32| bias.is_finite() || *bias == f32::NEG_INFINITY;
        kind == Kind::TokenBiases && self.0.values().all(fits)
    }
}
