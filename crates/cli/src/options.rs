//! Flags that several commands share. Sampling flags come from the engine's table of settings.

use crate::exit::{Exit, Failure};
use alti_engine::sampling::{PRESETS, SETTINGS, SamplerSettings};
use alti_formats::{Rope, RopeScaling};
use alti_tensor::KvDType;
use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};

/// Which machine code computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// The fast CPU kernels
    Cpu,
    /// Plain scalar code: slow, and the definition of right
    Reference,
}

/// Tokens computed in one step of prefill, where nothing else is asked for.
pub const DEFAULT_PREFILL_CHUNK: u32 = 512;

/// How a model is run.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// What computes
    #[arg(long, value_enum, default_value = "cpu")]
    pub backend: BackendName,
    /// Threads [default: one for each core]
    #[arg(short = 't', long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Tokens of context, prompt and answer together [default: the model's, at most 8192]
    #[arg(short = 'c', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// The cache of keys and values
    #[command(flatten)]
    pub kv: KvOptions,
    /// Tokens computed in one step of prefill
    #[arg(long, value_name = "TOKENS", default_value_t = DEFAULT_PREFILL_CHUNK, value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_chunk: u32,
    /// Override of the rotary embedding, which the model's file names otherwise
    #[command(flatten)]
    pub rope: RopeOptions,
}

impl RunOptions {
    /// How keys and values are stored.
    pub fn kv_dtype(&self) -> KvDType {
        self.kv.dtype()
    }
}

/// The cache of keys and values.
#[derive(Clone, Debug, Args)]
pub struct KvOptions {
    /// How keys and values are stored [default: bf16; f32 for `logits`]
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(KvDType::TABLE.map(|row| row.1)))]
    kv_type: Option<String>,
}

impl KvOptions {
    /// How keys and values are stored.
    pub fn dtype(&self) -> KvDType {
        let name = self.kv_type.as_deref();
        name.map_or(KvDType::BF16, |name| KvDType::from_name(name).expect("clap has checked the name"))
    }

    /// Stores them in this way where the user does not say.
    pub fn default_to(&mut self, dtype: KvDType) {
        self.kv_type.get_or_insert_with(|| dtype.name().to_owned());
    }
}

/// Overrides of the rotary embedding.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rotary embedding")]
pub struct RopeOptions {
    /// Base of the frequencies
    #[arg(long, value_name = "THETA", value_parser = above_one)]
    pub rope_theta: Option<f32>,
    /// Context extension instead of the model's own
    #[arg(long, value_enum)]
    pub rope_scaling: Option<ScalingName>,
    /// Factor by which the context is extended [default: 1]
    #[arg(long, value_name = "FACTOR", value_parser = positive, requires = "rope_scaling")]
    pub rope_factor: Option<f32>,
    /// YaRN: tokens of context the model was trained with [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..), requires = "rope_scaling")]
    pub yarn_original_context: Option<u32>,
    /// YaRN: rotations above which a frequency is kept [default: 32]
    #[arg(long, value_name = "ROTATIONS", value_parser = positive, requires = "rope_scaling")]
    pub yarn_beta_fast: Option<f32>,
    /// YaRN: rotations below which it is interpolated [default: 1]
    #[arg(long, value_name = "ROTATIONS", value_parser = positive, requires = "rope_scaling")]
    pub yarn_beta_slow: Option<f32>,
    /// YaRN: factor on queries and keys [default: 0.1 ln(factor) + 1]
    #[arg(long, value_name = "FACTOR", value_parser = positive, requires = "rope_scaling")]
    pub yarn_attention_factor: Option<f32>,
}

/// Ways of extending a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScalingName {
    /// None: the frequencies as they are
    None,
    /// Position interpolation
    Linear,
    /// YaRN
    Yarn,
}

impl RopeOptions {
    /// Refuses flags that the scaling asked for has no use for.
    ///
    /// # Errors
    /// When there is one.
    pub fn check(&self) -> Result<(), Exit> {
        let scaling = self.rope_scaling;
        let yarn = [self.yarn_beta_fast, self.yarn_beta_slow, self.yarn_attention_factor];
        let message = if scaling == Some(ScalingName::None) && self.rope_factor.is_some() {
            "--rope-factor does nothing with --rope-scaling none"
        } else if scaling != Some(ScalingName::Yarn)
            && (self.yarn_original_context.is_some() || yarn.iter().any(Option::is_some))
        {
            "the --yarn flags do nothing without --rope-scaling yarn"
        } else {
            return Ok(());
        };
        Err(Exit::new(Failure::Usage, message))
    }

    /// The model's rotary embedding, changed as the flags say, and the tokens of context it is good
    /// for.
    pub fn apply(&self, config: &alti_formats::ModelConfig) -> (Rope, usize) {
        let mut rope = config.rope.clone();
        if let Some(theta) = self.rope_theta {
            rope.theta = theta;
        }
        let factor = self.rope_factor.unwrap_or(1.0);
        rope.scaling = match self.rope_scaling {
            None => return (rope, config.context_length),
            Some(ScalingName::None) => RopeScaling::None,
            Some(ScalingName::Linear) => RopeScaling::Linear { factor },
            Some(ScalingName::Yarn) => RopeScaling::Yarn {
                factor,
                original_context: self.yarn_original_context.unwrap_or(config.context_length as u32),
                beta_fast: self.yarn_beta_fast.unwrap_or(32.0),
                beta_slow: self.yarn_beta_slow.unwrap_or(1.0),
                attention_factor: self.yarn_attention_factor,
            },
        };
        (rope, (config.context_length as f32 * factor.max(1.0)) as usize)
    }
}

/// A number of bytes, such as `500M` or `4G` (powers of 1000, as file managers and the Hub count).
///
/// # Errors
/// When it is none.
pub fn file_size(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u64); 4] =
        [('K', 1_000), ('M', 1_000_000), ('G', 1_000_000_000), ('T', 1_000_000_000_000)];
    let unit = |letter: char| UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&letter));
    let (number, factor) = match text.chars().last().and_then(unit) {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "must be a number of bytes, such as 500M or 4G".to_owned())
}

fn positive(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("must be a positive number".to_owned()),
    }
}

/// A base of frequencies: they fall with the index only above 1.
fn above_one(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value > 1.0 => Ok(value),
        _ => Err("must be a number above 1".to_owned()),
    }
}

/// How tokens are drawn: a flag for each of the engine's settings, on top of a preset.
#[derive(Clone, Debug, Default)]
pub struct SamplingOptions {
    /// The preset's settings with the flags' on top.
    pub settings: SamplerSettings,
}

impl Args for SamplingOptions {
    fn augment_args(command: Command) -> Command {
        let names = PRESETS.iter().map(|preset| preset.name);
        let preset = Arg::new("preset")
            .long("preset")
            .help("Sampler settings to start from")
            .value_parser(PossibleValuesParser::new(names))
            .default_value("default");
        let flags = SETTINGS.iter().map(|setting| {
            let many = setting.kind.is_list();
            let help = match many {
                true => setting.description.to_owned(),
                false => format!("{} [default: {}]", setting.description, setting.default_value()),
            };
            Arg::new(setting.name)
                .long(setting.name.replace('_', "-"))
                .visible_aliases(setting.aliases.iter().map(|alias| alias.replace('_', "-")))
                .help(help)
                .allow_hyphen_values(true)
                .action(if many { ArgAction::Append } else { ArgAction::Set })
        });
        command.next_help_heading("Sampling").arg(preset).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SamplingOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = SamplingOptions::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let preset = matches.get_one::<String>("preset");
        if let Some(preset) = PRESETS.iter().find(|row| preset.is_some_and(|name| name == row.name)) {
            self.settings = (preset.settings)();
        }
        for setting in SETTINGS {
            if let Some(values) = matches.get_many::<String>(setting.name) {
                let texts: Vec<&str> = values.map(String::as_str).collect();
                let set = self.settings.set(setting.name, &texts);
                set.map_err(|error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        rope: RopeOptions,
    }

    fn parse(flags: &str) -> Result<RopeOptions, String> {
        let found = Flags::try_parse_from(["alti"].into_iter().chain(flags.split_whitespace()));
        let rope = found.map_err(|error| error.to_string())?.rope;
        rope.check().map_err(|error| error.to_string())?;
        Ok(rope)
    }

    #[test]
    fn rope_flags_that_would_do_nothing_are_refused() {
        for useless in [
            "--rope-factor 2",
            "--yarn-original-context 4096",
            "--yarn-beta-fast 16",
            "--yarn-beta-slow 2",
            "--yarn-attention-factor 1",
            "--rope-scaling none --rope-factor 2",
            "--rope-scaling linear --rope-factor 2 --yarn-beta-fast 16",
        ] {
            let message = parse(useless).expect_err(useless);
            assert!(message.contains("--rope-scaling"), "{useless}: {message}");
        }
        for useful in [
            "",
            "--rope-theta 1000000",
            "--rope-scaling none",
            "--rope-scaling linear --rope-factor 2",
            "--rope-scaling yarn --rope-factor 4 --yarn-original-context 4096 --yarn-beta-fast 16",
        ] {
            assert!(parse(useful).is_ok(), "{useful}");
        }
    }

    #[test]
    fn the_base_of_the_frequencies_is_above_one() {
        for theta in ["1", "0.5", "0", "-5", "inf", "nan", "much"] {
            assert!(parse(&format!("--rope-theta={theta}")).is_err(), "{theta}");
        }
    }
}
