//! What several questions take: a model, an accelerator, a file of settings.

use super::screen::row;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::{input, output};
use alti_formats::Checkpoint;
use alti_plan::config::model_of_config;
use alti_plan::hardware::{Accelerator, HardwareCatalogue};
use alti_plan::model::{Experts, ModelCatalogue, ModelShape};
use alti_plan::settings::Settings;
use alti_plan::stack::STACKS;
use alti_plan::units::{digits, parse_count, short};
use std::path::{Path, PathBuf};

/// A count such as `15T`, `405B`, `1.5e12`.
///
/// # Errors
/// When it is none.
pub fn count(text: &str) -> Result<f64, String> {
    let found = parse_count(text).filter(|value| *value > 0.0);
    found.ok_or_else(|| "must be a number above 0, such as 8192, 70B or 1.5e12".to_owned())
}

/// A count such as `16k`, or 0.
///
/// # Errors
/// When it is none.
pub fn count_or_none(text: &str) -> Result<f64, String> {
    parse_count(text).ok_or_else(|| "must be 0 or a number above it, such as 8192 or 16k".to_owned())
}

/// A whole number of machines, such as `16384` or `16k`.
///
/// # Errors
/// When it is none.
pub fn machines(text: &str) -> Result<u64, String> {
    let found = parse_count(text).filter(|value| (1.0..=1e8).contains(value) && value.fract() == 0.0);
    found.map(|value| value as u64).ok_or_else(|| "must be a whole number from 1 to 100M".to_owned())
}

/// A file of settings.
#[derive(Debug, clap::Args)]
pub struct SettingsFile {
    /// TOML file with prices, failure rates, network and traffic
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

impl SettingsFile {
    /// The settings of the file, or the usual ones.
    ///
    /// # Errors
    /// When the file cannot be read, or says something impossible.
    pub fn read(&self) -> anyhow::Result<Settings> {
        Ok(match &self.settings {
            Some(path) => Settings::parse(&path.display().to_string(), &input::text(path)?)?,
            None => Settings::default(),
        })
    }
}

/// The hardware that a question is about.
#[derive(Debug, clap::Args)]
pub struct HardwareOptions {
    /// Accelerator: a name of `alti plan list`
    #[arg(long, default_value = "H100")]
    pub gpu: String,
    /// TOML file with accelerators of your own
    #[arg(long, value_name = "FILE")]
    pub hardware: Option<PathBuf>,
    #[command(flatten)]
    pub file: SettingsFile,
    /// Machines are bought, not rented
    #[arg(long)]
    pub own: bool,
}

/// All accelerators, with those of the user's file.
///
/// # Errors
/// When the user's table cannot be read.
pub fn catalogue(file: Option<&PathBuf>) -> anyhow::Result<HardwareCatalogue> {
    let mut catalogue = HardwareCatalogue::built_in();
    if let Some(path) = file {
        catalogue.extend(&path.display().to_string(), &input::text(path)?)?;
    }
    Ok(catalogue)
}

impl HardwareOptions {
    /// The accelerator asked for, in servers of the size that the settings say.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn accelerator(&self, settings: &Settings) -> anyhow::Result<Accelerator> {
        let mut found = catalogue(self.hardware.as_ref())?.find(&self.gpu)?.clone();
        if let Some(per_node) = settings.cluster.gpus_per_node {
            found.server_power *= f64::from(per_node) / f64::from(found.per_node);
            found.per_node = per_node;
        }
        Ok(found)
    }

    /// The settings of the file, and of the flags.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = self.file.read()?;
        if self.own {
            settings.economics.own = Some(true);
        }
        Ok(settings)
    }
}

/// The model that a question is about.
#[derive(Debug, clap::Args)]
pub struct ModelOptions {
    /// Model: a name of `alti plan list`, a number of parameters (`70B`), a config.json, or a model's file
    #[arg(long)]
    pub model: String,
    /// TOML file with models of your own
    #[arg(long, value_name = "FILE")]
    pub models: Option<PathBuf>,
}

impl ModelOptions {
    /// The shape of the model.
    ///
    /// # Errors
    /// When there is none of that name, or its file cannot be read.
    pub fn shape(&self, environment: &Environment) -> anyhow::Result<ModelShape> {
        shape(&self.model, self.models.as_ref(), environment)
    }
}

/// The shape of a model by its name, number of parameters or file; `models` is a table of the user's.
///
/// # Errors
/// When there is none of that name, or its file cannot be read.
pub fn shape(model: &str, models: Option<&PathBuf>, environment: &Environment) -> anyhow::Result<ModelShape> {
    let mut catalogue = ModelCatalogue::built_in();
    if let Some(path) = models {
        catalogue.extend(&path.display().to_string(), &input::text(path)?)?;
    }
    let path = Path::new(model);
    if path.extension().is_some_and(|it| it == "json") {
        let name = path.parent().and_then(Path::file_name).map(|it| it.to_string_lossy().into_owned());
        let name = name.filter(|it| !it.is_empty()).unwrap_or_else(|| "model".to_owned());
        return Ok(model_of_config(model, &name, &input::text(path)?)?);
    }
    if path.exists() {
        return Ok(of_checkpoint(model, &Checkpoint::open(path)?)?);
    }
    match catalogue.find(model) {
        Ok(found) => Ok(found),
        // A name of the store, of which the file says the shape.
        Err(error) => match crate::model::present(environment, model) {
            Ok((path, _)) => Ok(of_checkpoint(model, &Checkpoint::open(&path)?)?),
            Err(_) => Err(error.into()),
        },
    }
}

/// The shape of a model that is on this machine.
fn of_checkpoint(name: &str, checkpoint: &Checkpoint) -> Result<ModelShape, Exit> {
    let config = checkpoint.config();
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let file = Path::new(name).file_stem().map(|it| it.to_string_lossy().into_owned());
    let expert_layers = config.experts.as_ref().map_or(0, |it| it.layers.iter().filter(|it| **it).count());
    let model = ModelShape {
        name: file.unwrap_or_else(|| name.to_owned()),
        aliases: Vec::new(),
        layers: number(config.layers),
        hidden: config.embedding_length as u64,
        heads: config.heads as u64,
        kv_heads: config.kv_heads as u64,
        head_size: config.head_dim as u64,
        feed_forward: config.feed_forward_length as u64,
        gated: true,
        vocabulary: config.vocabulary_size as u64,
        tied_embeddings: config.tied_embeddings,
        learned_positions: 0,
        context: config.context_length as u64,
        experts: config.experts.as_ref().filter(|_| expert_layers > 0).map(|it| Experts {
            count: number(it.count),
            active: number(it.used),
            feed_forward: it.feed_forward_length as u64,
            shared_feed_forward: it.feed_forward_length as u64,
            every: number(config.layers / expert_layers.max(1)).max(1),
            first_dense: 0,
        }),
        attention_parameters: None,
        cached_values_per_layer: None,
        attention_layers: None,
        attention_chunk: config.attention_chunk.map(|it| it as u64),
        chunked_layers: match config.attention_chunk {
            Some(_) => number(config.no_rope.iter().filter(|it| !**it).count()),
            None => 0,
        },
        source: name.to_owned(),
    };
    model.check().map_err(|error| Exit::new(Failure::BadFile, format!("{name}: {error}")))?;
    Ok(model)
}

/// Print a settings file with every default
#[derive(Debug, clap::Args)]
pub struct SettingsCommand {}

impl SettingsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.reliability.rates = settings.reliability.rates();
        output::result(json, &settings, |it| it.to_toml())
    }
}

/// List accelerators, models and training software that are known
#[derive(Debug, clap::Args)]
pub struct ListCommand {
    /// TOML file with accelerators of your own
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
    /// Say where every number of an accelerator is from
    #[arg(long)]
    sources: bool,
}

#[derive(Debug, serde::Serialize)]
struct Known {
    accelerators: Vec<Accelerator>,
    #[serde(skip)]
    with_sources: bool,
    models: Vec<ModelShape>,
    stacks: Vec<(&'static str, &'static str)>,
}

impl ListCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the user's table cannot be read.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let known = Known {
            accelerators: catalogue(self.hardware.as_ref())?.accelerators,
            with_sources: self.sources,
            models: ModelCatalogue::built_in().models,
            stacks: STACKS.map(|it| (it.name, it.description)).to_vec(),
        };
        output::result(json, &known, Known::text)
    }
}

impl Known {
    /// Where the numbers of the accelerators that were asked for are from.
    fn sources(&self, text: &mut String) {
        for it in &self.accelerators {
            if !self.with_sources {
                continue;
            }
            *text += &format!("\n{}\n", it.name);
            for (kind, source) in it.provenance() {
                row(text, 16, &format!("  {kind}"), source);
            }
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{:16} {:>12} {:>10} {:>10} {:>8} {:>10} {:>8}\n",
            "ACCELERATOR", "BF16 TFLOP/S", "MEMORY GB", "TB/S", "POWER W", "$ TO BUY", "$/HOUR"
        );
        let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), digits);
        for it in &self.accelerators {
            text += &format!(
                "{:16} {:>12} {:>10} {:>10} {:>8} {:>10} {:>8}\n",
                it.name,
                digits(it.peak("bf16") / 1e12),
                digits(it.memory / 1e9),
                digits(it.memory_bandwidth / 1e12),
                digits(it.power),
                or_dash(it.price_buy),
                or_dash(it.price_hour)
            );
        }
        self.sources(&mut text);
        text += &format!(
            "\n{:20} {:>10} {:>8} {:>7} {:>7}\n",
            "MODEL", "PARAMETERS", "ACTIVE", "LAYERS", "WIDTH"
        );
        for it in &self.models {
            let sizes = (short(it.parameters()), short(it.active_parameters()));
            text +=
                &format!("{:20} {:>10} {:>8} {:>7} {:>7}\n", it.name, sizes.0, sizes.1, it.layers, it.hidden);
        }
        text += "\nTRAINING SOFTWARE\n";
        for (name, description) in &self.stacks {
            row(&mut text, 21, name, description);
        }
        text
    }
}
