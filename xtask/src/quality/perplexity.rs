//! Perplexity of a text by both engines, over the same chunks: of each 512 tokens, the latter 255 predictions count,
//! so that every one has at least 256 tokens of context; the first token is replaced by the model's beginning-of-text
//! token where it has one. (`llama-perplexity` defines it so; `alti perplexity` follows.)

use super::{CONTEXT, Setting, number_after};
use crate::contestants;
use crate::peers::LLAMA_CPP;
use crate::process;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fmt;
use std::process::Command;

/// Both engines' perplexity of one text.
#[derive(Debug, Serialize)]
pub(super) struct Perplexities {
    alti: f64,
    llama: f64,
    /// One standard error of llama.cpp's estimate: how well the text is long enough to know the number itself.
    llama_error: f64,
    chunks: u64,
}

impl fmt::Display for Perplexities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let difference = 100.0 * (self.alti / self.llama - 1.0);
        writeln!(f, "| perplexity | alti | llama.cpp | difference |")?;
        writeln!(f, "|---|---|---|---|")?;
        write!(
            f,
            "| {} chunks | {:.4} | {:.4} ± {:.4} | {difference:+.3} % |",
            self.chunks, self.alti, self.llama, self.llama_error
        )
    }
}

pub(super) fn compare(setting: &Setting<'_>) -> Result<Perplexities> {
    let context = CONTEXT.to_string();
    let mut theirs = setting.programs.tool(&LLAMA_CPP, "llama-perplexity")?;
    theirs.arg("--model").arg(&setting.model).arg("--file").arg(&setting.text).args(["--ctx-size", &context]);
    let (printed, logged) = process::capture(&mut theirs)?;
    let printed = printed + &logged;
    let llama = number_after(&printed, "Final estimate: PPL =")?;
    let llama_error = number_after(&printed, "+/-")?;

    let mut ours = Command::new(&setting.alti);
    ours.arg("perplexity").arg(&setting.model).arg("--file").arg(&setting.text).args([
        "--context",
        &context,
        "--json",
    ]);
    let printed = contestants::json(&mut ours)?;
    let alti = printed["perplexity"].as_f64().context("`alti perplexity --json` must have `perplexity`")?;
    let chunks = printed["chunks"].as_u64().context("`alti perplexity --json` must have `chunks`")?;
    Ok(Perplexities { alti, llama, llama_error, chunks })
}
