//! `alti completions` and `alti man`: what shells and readers of manuals are given.

use crate::Cli;
use crate::exit::{Exit, Failure};
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::PathBuf;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti completions bash > ~/.local/share/bash-completion/completions/alti
  alti completions zsh > ~/.zfunc/_alti
  alti completions fish > ~/.config/fish/completions/alti.fish")]
pub struct CompletionsCommand {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "alti", &mut script);
        output::text(&String::from_utf8(script)?)
    }
}

/// Print the manual page, or write those of all commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti man | man -l -
  alti man --out ~/.local/share/man/man1")]
pub struct ManCommand {
    /// Folder to write the pages of all commands to
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the folder or stdout cannot be written to.
    pub fn run(&self) -> anyhow::Result<()> {
        let Some(folder) = &self.out else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            return output::text(&String::from_utf8(page)?);
        };
        let written =
            std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
        written.map_err(|error| Exit::new(Failure::Failed, format!("{}: {error}", folder.display())))?;
        Ok(())
    }
}
