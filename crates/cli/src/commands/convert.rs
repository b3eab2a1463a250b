//! `alti convert`: a model from one format to another.

use crate::environment::Environment;
use crate::exit;
use crate::model::open;
use crate::options::file_size;
use crate::output::{self, Unit, bar};
use alti_formats::{ConvertOptions, FloatType, Format, convert};
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;

/// Convert a model to another format
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti convert Llama-3.2-1B/ model.gguf --to gguf --dtype bf16
  alti convert model.gguf folder/ --to hf
  alti convert Llama-3.2-1B/original/ model.gguf --to gguf --split-size 4G

Tokenizer and chat template are carried over. A target appears when it is complete, or not at all.
What is there already stays, unless --force says that it may be replaced.")]
pub struct ConvertCommand {
    /// Model: a name in the store, or a GGUF file, a folder of safetensors, or one of Meta's
    source: String,
    /// A new file for GGUF, else a new folder
    target: PathBuf,
    /// Format of the target
    #[arg(long, value_enum)]
    to: FormatName,
    /// Type of the weights
    #[arg(long, value_enum, default_value = "keep")]
    dtype: DTypeName,
    /// Largest file, such as 4G or 500M: a larger model becomes several
    #[arg(long, value_name = "SIZE", value_parser = file_size)]
    split_size: Option<u64>,
    /// Replace GGUF files that are there already; a folder is never replaced
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// One file, llama.cpp's format
    Gguf,
    /// Hugging Face: safetensors and config.json
    Hf,
    /// Meta: consolidated.00.pth and params.json
    Meta,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DTypeName {
    /// As in the source; quantised weights become BF16 where the target has no such
    Keep,
    /// 32-bit floats
    F32,
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

#[derive(Debug, Serialize)]
struct ConvertResult {
    from: &'static str,
    to: &'static str,
    paths: Vec<PathBuf>,
    bytes: u64,
    notes: Vec<String>,
}

impl ConvertCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the source cannot be read, the target format cannot express it, or it cannot be written.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let source = open(environment, &self.source)?;
        let to = match self.to {
            FormatName::Gguf => Format::Gguf,
            FormatName::Hf => Format::HuggingFace,
            FormatName::Meta => Format::Meta,
        };
        let float_type = match self.dtype {
            DTypeName::Keep => FloatType::Keep,
            DTypeName::F32 => FloatType::F32,
            DTypeName::F16 => FloatType::F16,
            DTypeName::Bf16 => FloatType::BF16,
        };
        let options = ConvertOptions { float_type, max_file_bytes: self.split_size, replace: self.force };
        let shown = bar(environment, 0, "converting", Unit::Bytes);
        let mut written = 0;
        let done = convert(&source, to, &self.target, &options, &mut |progress| {
            written = progress.done;
            shown.set_length(progress.total);
            shown.set_position(progress.done);
            shown.set_message(progress.tensor.to_owned());
        });
        shown.finish_and_clear();
        let done = done.map_err(exit::naming_force)?;
        done.notes.iter().for_each(|note| eprintln!("note: {note}"));
        let from = source.format().name();
        let result =
            ConvertResult { from, to: to.name(), paths: done.paths, bytes: written, notes: done.notes };
        output::result(json, &result, |r| {
            let paths: String = r.paths.iter().map(|path| format!("{}\n", path.display())).collect();
            format!("{} to {}: {} of weights\n{paths}", r.from, r.to, output::bytes(r.bytes))
        })
    }
}
