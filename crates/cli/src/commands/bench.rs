//! `alti bench`: how fast a model runs on this machine.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::model::{Loaded, StepRows, Task, Wants, name_or_default, with_model};
use crate::options::{BackendName, RunOptions};
use crate::output;
use crate::runner::Runner;
use alti_models::memory;
use alti_tensor::{Backend, PAGE_TOKENS, Profile, ProfileLine};
use serde::Serialize;
use std::time::Instant;

/// Measure prefill and decode speed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti bench
  alti bench model.gguf -t 2 -p 512 -n 128 -r 5 --json
  alti bench --batch 8 -n 64 --profile

`ppN` is the prefill of N random tokens, `tgN` the decoding of N tokens from an empty context, one
step a token, as llama.cpp's llama-bench defines them; with --batch B, B sequences are decoded
together and all their tokens counted. A round that is not counted comes first, and with --profile
one more at the end, timed at every operation by the clock of one thread.")]
pub struct BenchCommand {
    /// Model: a name in the store or a path
    model: Option<String>,
    /// Tokens of prefill; 0 for none
    #[arg(short, long, default_value_t = 512)]
    prefill: u32,
    /// Tokens to decode; 0 for none
    #[arg(short = 'n', long, default_value_t = 128)]
    decode: u32,
    /// Tokens in the context before the measurement
    #[arg(short, long, default_value_t = 0)]
    depth: u32,
    /// Sequences decoded together
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Rounds
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Show where the time of a round goes, operation by operation
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Serialize)]
struct BenchResult {
    model: String,
    backend: String,
    isa: Option<String>,
    threads: usize,
    batch: u32,
    depth: u32,
    results: Vec<Measurement>,
}

#[derive(Debug, Serialize)]
struct Measurement {
    test: String,
    /// One for each round.
    tokens_per_second: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<RoundProfile>,
}

/// Where the time of a round went, by the clock of one thread.
#[derive(Debug, Serialize)]
struct RoundProfile {
    steps: usize,
    seconds: f64,
    /// Most time first.
    operations: Vec<Operation>,
}

/// All operations of one kind.
#[derive(Debug, Serialize)]
struct Operation {
    operation: String,
    /// Whether it multiplies by weights.
    product: bool,
    count: u64,
    running_seconds: f64,
    /// For other threads, before it begins.
    waiting_seconds: f64,
}

impl RoundProfile {
    fn new(profile: &Profile, steps: usize, seconds: f64) -> Self {
        let operation = |(name, line): (&String, &ProfileLine)| Operation {
            operation: name.clone(),
            product: line.product,
            count: line.count,
            running_seconds: line.running.as_secs_f64(),
            waiting_seconds: line.waiting.as_secs_f64(),
        };
        let mut operations: Vec<_> = profile.lines.iter().map(operation).collect();
        operations.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
        Self { steps, seconds, operations }
    }

    /// A table of a step.
    fn text(&self, test: &str) -> String {
        let line = |share: f64, running: f64, waiting: f64, count: f64, name: &str| {
            let [running, waiting] = [running, waiting].map(|seconds| 1e6 * seconds / self.steps as f64);
            format!("{:>6.1} % {running:>10.1} {waiting:>10.1} {count:>6.0}  {name}\n", 100.0 * share)
        };
        let mut text = format!("\n{test}: a step takes {:.0} µs", 1e6 * self.seconds / self.steps as f64);
        text += &format!(
            "\n{:>8} {:>10} {:>10} {:>6}  OPERATION\n",
            "SHARE", "RUNNING µs", "WAITING µs", "COUNT"
        );
        for it in &self.operations {
            let (share, count) = (it.seconds() / self.seconds, it.count as f64 / self.steps as f64);
            text += &line(share, it.running_seconds, it.waiting_seconds, count, &it.operation);
        }
        let rest = self.seconds - self.operations.iter().map(Operation::seconds).sum::<f64>();
        text + &line(rest / self.seconds, rest, 0.0, 1.0, "recording the step, and starting threads")
    }
}

impl Operation {
    fn seconds(&self) -> f64 {
        self.running_seconds + self.waiting_seconds
    }
}

impl Measurement {
    fn median(&self) -> f64 {
        let mut sorted = self.tokens_per_second.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    fn spread(&self) -> (f64, f64) {
        let fold = |f: fn(f64, f64) -> f64, start| self.tokens_per_second.iter().copied().fold(start, f);
        (fold(f64::min, f64::INFINITY), fold(f64::max, 0.0))
    }
}

impl BenchCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the model cannot be loaded or a step fails.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        if self.profile && self.run.backend != BackendName::Cpu {
            let message = "--profile needs --backend cpu: others do not measure their operations";
            return Err(Exit::new(Failure::Usage, message).into());
        }
        let name = name_or_default(environment, self.model.as_deref()).to_owned();
        let mut options = self.run.clone();
        // The memory check is for what the rounds need.
        options.context = Some(self.context()?);
        let results = with_model(environment, &name, &options, BenchTask { command: self })?;
        let result = BenchResult {
            model: name,
            backend: format!("{:?}", options.backend).to_lowercase(),
            isa: crate::model::isa(environment, &options)?,
            threads: crate::model::threads(&options),
            batch: self.batch,
            depth: self.depth,
            results,
        };
        output::result(json, &result, |r| {
            let row = |m: &Measurement| {
                let (low, high) = m.spread();
                format!("{:10} {:>10.1} {:>10.1} {:>10.1}\n", m.test, m.median(), low, high)
            };
            let isa = r.isa.as_deref().map_or(String::new(), |isa| format!(" {isa}"));
            format!("{}: {}{isa}, {} threads, tokens a second\n", r.model, r.backend, r.threads)
                + &format!("{:10} {:>10} {:>10} {:>10}\n", "TEST", "MEDIAN", "LOWEST", "HIGHEST")
                + &r.results.iter().map(row).collect::<String>()
                + &r.results
                    .iter()
                    .filter_map(|m| Some(m.profile.as_ref()?.text(&m.test)))
                    .collect::<String>()
        })
    }

    /// Tokens of context of all sequences together, each in pages of its own.
    fn context(&self) -> anyhow::Result<u32> {
        let one = self.depth.checked_add(self.prefill.max(self.decode));
        let pages = one.map(|one| one.max(1).div_ceil(PAGE_TOKENS as u32));
        let all = pages.and_then(|pages| pages.checked_mul(PAGE_TOKENS as u32)?.checked_mul(self.batch));
        all.ok_or_else(|| {
            let message = format!(
                "--depth {}, --prefill {}, --decode {} and --batch {} make a context of more than {} tokens",
                self.depth,
                self.prefill,
                self.decode,
                self.batch,
                u32::MAX
            );
            Exit::new(Failure::Usage, message).into()
        })
    }
}

struct BenchTask<'a> {
    command: &'a BenchCommand,
}

impl Task for BenchTask<'_> {
    type Output = Vec<Measurement>;

    fn wants(&self) -> Wants {
        Wants::Weights
    }

    fn step_rows(&self, options: &RunOptions, _: usize) -> StepRows {
        let batch = self.command.batch as usize;
        StepRows { rows: batch.max(options.prefill_chunk as usize), logits: batch }
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<Vec<Measurement>> {
        let command = self.command;
        let Loaded { mut backend, model, context, .. } = loaded;
        let layout = memory::cache_layout(&model.config, context, command.run.kv_dtype());
        let cache = backend.cache(&layout)?;
        let each = context.div_ceil(PAGE_TOKENS) / command.batch as usize;
        let runner = Runner::new(&mut backend, &model, &cache, &layout, each);
        let mut rounds = Rounds { runner, command };
        let tests = [(Test::Prefill, command.prefill), (Test::Decode, command.decode)];
        let wanted = tests.into_iter().filter(|(_, tokens)| *tokens > 0);
        wanted.map(|(test, tokens)| rounds.measure(test, tokens as usize)).collect()
    }
}

/// What is timed.
#[derive(Clone, Copy)]
enum Test {
    /// A prompt of one sequence.
    Prefill,
    /// Token after token of all sequences.
    Decode,
}

/// Rounds of tests with one runner.
struct Rounds<'a, 'b, B: Backend> {
    runner: Runner<'b, B>,
    command: &'a BenchCommand,
}

impl<B: Backend<Element = f32>> Rounds<'_, '_, B> {
    fn measure(&mut self, test: Test, tokens: usize) -> anyhow::Result<Measurement> {
        let BenchCommand { depth, batch, repetitions, .. } = *self.command;
        let (name, counted) = match test {
            Test::Prefill => ("pp", tokens),
            Test::Decode => ("tg", tokens * batch as usize),
        };
        let suffix = if depth > 0 { format!("@d{depth}") } else { String::new() };
        let mut rates = Vec::new();
        for round in 0..=repetitions {
            self.fill(test)?;
            let seconds = self.time(test, tokens)?;
            rates.extend((round > 0).then(|| counted as f64 / seconds));
        }
        let profile = self.command.profile.then(|| self.profile(test, tokens)).transpose()?;
        Ok(Measurement { test: format!("{name}{tokens}{suffix}"), tokens_per_second: rates, profile })
    }

    /// Fills the context up to the depth.
    fn fill(&mut self, test: Test) -> anyhow::Result<()> {
        let sequences = if let Test::Decode = test { self.command.batch as usize } else { 1 };
        let (depth, chunk) = (self.command.depth as usize, self.command.run.prefill_chunk as usize);
        (0..sequences).try_for_each(|sequence| self.runner.prefill(sequence, 0, depth, chunk))
    }

    /// Seconds of a round.
    fn time(&mut self, test: Test, tokens: usize) -> anyhow::Result<f64> {
        let (depth, chunk) = (self.command.depth as usize, self.command.run.prefill_chunk as usize);
        let started = Instant::now();
        match test {
            Test::Prefill => self.runner.prefill(0, depth, tokens, chunk)?,
            Test::Decode => {
                for position in depth..depth + tokens {
                    self.runner.decode(self.command.batch as usize, position)?;
                }
            }
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Where the time of a round goes: one more, which is not counted.
    fn profile(&mut self, test: Test, tokens: usize) -> anyhow::Result<RoundProfile> {
        self.fill(test)?;
        self.runner.start_profile();
        let seconds = self.time(test, tokens)?;
        let measured = self.runner.end_profile().unwrap_or_default();
        let steps = match test {
            Test::Prefill => tokens.div_ceil(self.command.run.prefill_chunk as usize),
            Test::Decode => tokens,
        };
        Ok(RoundProfile::new(&measured, steps, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        bench: BenchCommand,
    }

    fn context(flags: &str) -> anyhow::Result<u32> {
        Flags::try_parse_from(["bench"].into_iter().chain(flags.split_whitespace()))?.bench.context()
    }

    #[test]
    fn the_context_is_whole_pages_for_each_sequence() {
        assert_eq!(context("").unwrap(), 512);
        assert_eq!(context("-p 0 -n 0").unwrap(), 64);
        assert_eq!(context("-p 100 -n 130 -d 63 -b 3").unwrap(), 3 * 256);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        for flags in ["-p 4294967296", "-p 4294967295", "-p 4294967295 -d 1", "-p 16777216 -b 1024"] {
            assert!(context(flags).is_err(), "{flags}");
        }
    }
}
