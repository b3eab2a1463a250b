//! `alti tokenize`: the tokens of a text, for scripts and for comparing implementations. Reads the
//! tokenizer alone, not the weights.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::model::{find, name_or_default};
use crate::{input, output};
use alti_text::{Specials, Tokenizer};
use std::path::{Path, PathBuf};

/// Show the tokens of a text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti tokenize \"Hello world\"
  alti tokenize --file letter.txt --bos --specials
  alti tokenize --json texts.json --model model.gguf > ids.json
  echo '[\"one\", \"two\"]' | alti tokenize --json -

The model may also be a tokenizer.json, Meta's tokenizer.model, or a GGUF file without weights.")]
pub struct TokenizeCommand {
    /// The text; with --json a file (- for stdin) with an array of texts, the result being one array of ids for each
    #[arg(value_name = "TEXT", required_unless_present = "file")]
    text: Option<String>,
    /// Read one text from a file, - for stdin
    #[arg(short, long, conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Take spellings of special tokens for these tokens, not for text
    #[arg(long)]
    specials: bool,
    /// Begin each text with the model's beginning-of-text token
    #[arg(long)]
    bos: bool,
    /// Model: a name in the store or a path
    #[arg(short, long)]
    model: Option<String>,
}

impl TokenizeCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the text or the tokenizer cannot be read.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let name = name_or_default(environment, self.model.as_deref());
        let tokenizer = Tokenizer::open(&find(environment, name)?)?;
        match (&self.file, &self.text) {
            (Some(file), _) => self.print(&tokenizer, &input::text(file)?, json),
            (None, Some(file)) if json => self.print_all(&tokenizer, Path::new(file)),
            (None, text) => self.print(&tokenizer, text.as_deref().unwrap_or_default(), json),
        }
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
        let specials = if self.specials { Specials::Parse } else { Specials::AsText };
        let mut ids = tokenizer.encode(text, specials);
        if self.bos {
            let missing =
                || Exit::new(Failure::Usage, "--bos: this tokenizer has no beginning-of-text token");
            ids.insert(0, tokenizer.bos().ok_or_else(missing)?);
        }
        Ok(ids)
    }

    fn print(&self, tokenizer: &Tokenizer, text: &str, json: bool) -> anyhow::Result<()> {
        let ids = self.encode(tokenizer, text)?;
        output::result(json, &ids, |ids| {
            ids.iter().map(|&id| format!("{id:>8}  {:?}\n", tokenizer.token_text(id))).collect()
        })
    }

    fn print_all(&self, tokenizer: &Tokenizer, file: &Path) -> anyhow::Result<()> {
        let texts: Vec<String> = serde_json::from_str(&input::text(file)?).map_err(|error| {
            let message = format!("{}: not a JSON array of strings: {error}", file.display());
            Exit::new(Failure::BadFile, message)
        })?;
        let ids: Vec<Vec<u32>> =
            texts.iter().map(|text| self.encode(tokenizer, text)).collect::<anyhow::Result<_>>()?;
        output::text(&format!("{}\n", serde_json::to_string(&ids)?))
    }
}
