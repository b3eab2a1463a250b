//! `alti run`: one prompt, one answer.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::model::{Loaded, Task, Wants, name_or_default, with_model};
use crate::options::{RunOptions, SamplingOptions};
use crate::{interrupt, output};
use alti_engine::{Event, Request, Timings, WhenFull, generate};
use alti_tensor::Backend;
use alti_text::{Conversation, DateTime, Message, Specials};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Answer one prompt
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti run \"Why is the sky blue?\"
  cat letter.txt | alti run \"Summarise this letter:\"
  alti run --model model.gguf --raw \"Once upon a time\" --max-tokens 64
  alti run --json --preset greedy \"Name a river.\"")]
pub struct RunCommand {
    /// The prompt; what stdin holds is appended when it is not a terminal
    prompt: Option<String>,
    /// Model: a name in the store or a path
    #[arg(short, long)]
    model: Option<String>,
    /// LoRA adapter for the model: a PEFT folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Instructions for the model, before the prompt
    #[arg(long)]
    system: Option<String>,
    /// Continue the prompt's text as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Forget the older half of the text when the context is full, instead of ending
    #[arg(long)]
    context_shift: bool,
    /// Go on when the model ends its answer
    #[arg(long)]
    ignore_end: bool,
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct RunResult {
    text: String,
    finish_reason: &'static str,
    prompt_tokens: usize,
    tokens: Vec<u32>,
    seed: i64,
    timings: Timings,
}

impl RunCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the model cannot be loaded or the prompt does not fit.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let prompt = self.whole_prompt()?;
        let name = name_or_default(environment, self.model.as_deref()).to_owned();
        with_model(environment, &name, &self.run, RunTask { command: self, prompt, json })
    }

    fn whole_prompt(&self) -> anyhow::Result<String> {
        let mut parts: Vec<String> = self.prompt.iter().cloned().collect();
        let mut stdin = std::io::stdin();
        if !stdin.is_terminal() {
            let mut piped = String::new();
            stdin.read_to_string(&mut piped).map_err(|error| {
                Exit::new(Failure::Usage, format!("stdin cannot be read as UTF-8 text: {error}"))
            })?;
            if !piped.is_empty() {
                parts.push(piped);
            }
        }
        match parts.is_empty() {
            true => Err(Exit::new(Failure::Usage, "no prompt: give one as an argument or on stdin").into()),
            false => Ok(parts.join("\n\n")),
        }
    }
}

struct RunTask<'a> {
    command: &'a RunCommand,
    prompt: String,
    json: bool,
}

impl Task for RunTask<'_> {
    type Output = ();

    fn keeps_packed(&self) -> bool {
        true
    }

    fn wants(&self) -> Wants {
        if self.command.raw { Wants::Text } else { Wants::Chat }
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<()> {
        let command = self.command;
        let tokenizer = loaded.tokenizer()?;
        let prompt = match command.raw {
            true => {
                let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
                bos.into_iter().chain(tokenizer.encode(&self.prompt, Specials::AsText)).collect()
            }
            false => {
                let system = command.system.iter().map(|text| Message::text("system", text));
                let messages = system.chain([Message::text("user", &self.prompt)]).collect();
                let conversation = Conversation { now: Some(now()), ..Conversation::new(messages) };
                loaded.template(&tokenizer)?.render(&conversation)?.tokens(&tokenizer)
            }
        };
        let prompt_tokens = prompt.len();
        let when_full = match command.context_shift {
            true => WhenFull::Shift { keep: prompt_tokens.min(loaded.context / 2) },
            false => WhenFull::Stop,
        };
        let sampling = command.sampling.settings.clone();
        let request = Request { prompt, sampling, when_full, ignore_end: command.ignore_end };
        let mut session = loaded.session(&command.run, command.adapter.as_deref())?;

        let cancel = interrupt::flag();
        let mut written = Ok(());
        let mut out = std::io::stdout().lock();
        let answer = generate(&mut session, &tokenizer, &request, &cancel, |event| {
            if let (Event::Text(text), false, Ok(())) = (event, self.json, &written) {
                written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    cancel.store(true, Ordering::Relaxed);
                }
            }
        })?;
        written?;
        drop(out);
        let result = RunResult {
            text: answer.text,
            finish_reason: answer.finish.name(),
            prompt_tokens,
            tokens: answer.tokens,
            seed: answer.seed,
            timings: answer.timings,
        };
        match self.json {
            true => output::result(true, &result, |_| String::new()),
            false => output::text("\n"),
        }?;
        match cancel.load(Ordering::Relaxed) {
            true => Err(Exit::new(Failure::Interrupted, "interrupted").into()),
            false => Ok(()),
        }
    }
}

/// The local time, for templates that print the date.
pub fn now() -> DateTime {
    let here = chrono::Local::now();
    DateTime::from_unix_seconds(here.timestamp() + i64::from(here.offset().local_minus_utc()))
}
