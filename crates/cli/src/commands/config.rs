//! `alti config`: the settings of `alti serve`, explained and checked.

use crate::environment::Environment;
use crate::output;
use crate::serving::settings::{EXAMPLE, ServeSettings};
use std::path::PathBuf;

/// Explain or check the settings of `alti serve`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti config example > alti.toml       a file with every setting, explained
  alti config check alti.toml           what is wrong with it, or what it comes to
  alti serve --config alti.toml")]
pub struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print a file of settings with every setting, explained
    Example,
    /// Check a file and the environment, and print what they come to
    Check {
        /// The file [default: the environment alone]
        file: Option<PathBuf>,
        /// A setting on top, such as engine.context=4096
        #[arg(long = "set", value_name = "SETTING=VALUE")]
        set: Vec<String>,
    },
}

impl ConfigCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a setting is wrong, or names a model that is not there.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        match &self.action {
            Action::Example => output::text(EXAMPLE),
            Action::Check { file, set } => {
                let settings = ServeSettings::read(environment, file.as_deref(), set)?;
                settings.check_models(environment)?;
                let text = toml::to_string(&settings)?;
                output::result(json, &settings, |_| text)
            }
        }
    }
}
