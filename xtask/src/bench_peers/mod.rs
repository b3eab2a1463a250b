//! `cargo xtask bench-peers`: the speed of `alti` and of its peers on the same files, in one run.
//!
//! Machines differ and drift (clocks, neighbours, heat), so the number that travels is a ratio: all take turns, round
//! after round, and medians are compared. A peer counts with its best setting: every setting of a table is tried
//! with every build, and the two best of each peer go on into the rounds. What the machine could do at most is measured in the same run.
//!
//! Work is what `llama-bench` and `llama-batched-bench` define: a prompt is computed in an empty context and the logits
//! of its last token wanted; tokens are decoded one step after another, logits wanted each time. Each run warms up
//! first, except a cold start.

pub mod bounds;
pub mod cold;
pub mod documentation;
pub mod engines;
pub mod outputs;
pub mod report;
pub mod roofline;
pub mod workload;

use crate::contestants::{Alti, MODELS, Model};
use crate::machine::Machine;
use crate::peers::{PEERS, Peer, Programs};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use bounds::{Demand, Limits};
use clap::{Args, ValueEnum as _};
use engines::{Candidate, Contestant, Engines, Sample, candidates};
use report::{ALTI, Outcome, Report, Row, Scouted, Turns};
use std::fs;
use std::path::{self, Path, PathBuf};
use workload::{Kind, Workload};

/// Settings of each peer that go on into the rounds.
const SURVIVORS: usize = 2;

/// Name of the block of a page that this command writes.
const BLOCK: &str = "bench-peers";

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Models by name, or GGUF files [default: all names: the default model and a random one in the shape of Llama
    /// 3.2 1B, each in four encodings]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    models: Vec<String>,
    /// Kinds of work [default: all]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    rows: Vec<Kind>,
    /// Numbers of threads
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Rounds; in each, everyone has one turn
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs of each setting of a peer that decide which settings go on into the rounds; its best one counts
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// Try settings with prompts, contexts and answers of at most so many tokens [default: as long as in the rounds]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    longest_trial: Option<u32>,
    /// Tokens of prompts
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512")]
    prefill: Vec<usize>,
    /// Tokens decoded in one sequence
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    decode: usize,
    /// Tokens of context before a decode
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2048,8192")]
    depths: Vec<usize>,
    /// Sequences decoded together
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8,16,32")]
    batches: Vec<usize>,
    /// Tokens decoded in each of several sequences
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    batch_decode: usize,
    /// Write the measurement, with every sample, to this file after each row
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the roofline picture to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure nothing and show what --json has written (may be given several times: the rows are joined, of the same work the last)
    #[arg(long, value_name = "FILE")]
    render: Vec<PathBuf>,
    /// Put the tables into the page, and the picture beside it
    #[arg(long)]
    write_docs: bool,
    /// The page that --write-docs writes, relative to the checkout: each kind of machine may have its own
    #[arg(long, value_name = "FILE", default_value = "docs/performance.md", requires = "write_docs")]
    page: PathBuf,
    #[command(flatten)]
    alti: Alti,
    #[command(flatten)]
    programs: Programs,
}

/// Measures and prints Markdown, and writes what else is asked for.
///
/// # Errors
/// A program is missing or fails, prints what it should not, or a file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let report = if options.render.is_empty() { measure(options)? } else { rendered(&options.render)? };
    let tables = report.markdown();
    print!("{tables}");
    let picture =
        || roofline::svg(&report).context("there is no picture of a machine without measured limits");
    if let Some(path) = &options.svg {
        fs::write(path, picture()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.write_docs {
        let page = workspace::root().join(&options.page);
        let beside = page.with_extension("svg");
        let name = beside.file_name().unwrap_or_default().to_string_lossy();
        let block = format!("{tables}\n![Roofline: work done against bytes read]({name})\n");
        fs::write(&beside, picture()?).with_context(|| format!("cannot write {}", beside.display()))?;
        documentation::write_block(&page, BLOCK, &block)?;
    }
    Ok(())
}

fn rendered(files: &[PathBuf]) -> Result<Report> {
    let mut reports = files.iter().map(|file| Report::read(file));
    let mut joined = reports.next().context("no file to show")??;
    for report in reports {
        joined.join(report?);
    }
    Ok(joined)
}

/// A model file under the name that tables show.
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

/// The models that are named, or all.
pub(crate) fn chosen(names: &[String], programs: &Programs) -> Result<Vec<Chosen>> {
    let named = |model: &Model| Ok(Chosen { name: model.name.to_owned(), file: model.file(programs)? });
    if names.is_empty() {
        return MODELS.iter().map(named).collect();
    }
    let find = |wanted: &String| match MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(wanted)) {
        Some(model) => named(model),
        None if Path::new(wanted).is_file() => {
            let stem = Path::new(wanted).file_stem().unwrap_or_default();
            Ok(Chosen { name: stem.to_string_lossy().into_owned(), file: path::absolute(wanted)? })
        }
        None => {
            let names = MODELS.map(|model| model.name).join(", ");
            bail!("{wanted} is neither a file nor one of {names}")
        }
    };
    names.iter().map(find).collect()
}

/// The work that the flags ask for, in the order of the table of kinds.
fn workloads(options: &Options) -> Vec<Workload> {
    let kinds = if options.rows.is_empty() { Kind::value_variants() } else { &options.rows };
    let of_kind = |kind: &Kind| -> Vec<Workload> {
        match kind {
            Kind::Prefill => options.prefill.iter().map(|&tokens| Workload::prefill(tokens)).collect(),
            Kind::Decode => vec![Workload::decode(options.decode, 0)],
            Kind::Depth => {
                options.depths.iter().map(|&depth| Workload::decode(options.decode, depth)).collect()
            }
            Kind::Batch => {
                options.batches.iter().map(|&count| Workload::batch(options.batch_decode, count)).collect()
            }
            Kind::Cold => vec![Workload::cold()],
        }
    };
    kinds.iter().flat_map(of_kind).collect()
}

fn measure(options: &Options) -> Result<Report> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let engines =
        Engines { alti: options.alti.program()?, programs: &options.programs, scratch: scratch.path() };
    let models = chosen(&options.models, &options.programs)?;
    let limits =
        options.threads.iter().map(|&threads| Limits::measure(threads)).collect::<Result<Vec<_>>>()?;
    let version = |peer: &Peer| format!("{} ({} {})", peer.name, peer.package, peer.version);
    let mut report = Report {
        machine: Machine::describe(),
        alti: options.alti.origin().to_owned(),
        peers: PEERS.map(version).to_vec(),
        rounds: options.rounds,
        limits: limits.clone(),
        rows: Vec::new(),
    };
    for model in &models {
        let demand = Demand::of(&model.file)?;
        for limits in &limits {
            for work in workloads(options) {
                let trial = options.longest_trial.map_or(work, |most| work.at_most(most as usize));
                let match_up =
                    Match { engines: &engines, model: &model.file, threads: limits.threads, work, trial };
                let Played { turns, scouted, limits: of_rounds } =
                    match_up.play(options.trials, options.rounds)?;
                // An older program has no profile; what was measured is worth more than that.
                let products = engines.products(&work, &model.file, limits.threads).unwrap_or_else(|error| {
                    eprintln!("alti: {error:#}");
                    None
                });
                let row = Row {
                    model: model.name.clone(),
                    revision: report.machine.revision.clone(),
                    threads: limits.threads,
                    work,
                    trial: (trial != work).then_some(trial),
                    demand,
                    bound: demand.median_bound(&work, &of_rounds),
                    limits: of_rounds,
                    products,
                    turns,
                    scouted,
                };
                eprintln!("{}", row.markdown());
                report.rows.push(row);
                if let Some(path) = &options.json {
                    report.write(path)?;
                }
            }
        }
    }
    Ok(report)
}

/// What a piece of work showed.
struct Played {
    turns: Vec<Turns>,
    scouted: Vec<Scouted>,
    /// Of each round.
    limits: Vec<Limits>,
}

/// All engines at one piece of work.
struct Match<'a> {
    engines: &'a Engines<'a>,
    model: &'a Path,
    threads: usize,
    work: Workload,
    /// The work that decides between settings.
    trial: Workload,
}

impl Match<'_> {
    /// Tries all settings, then lets the survivors and `alti` take turns. What the machine could do is measured right
    /// behind each turn of `alti`, because it moves with what others do on the host.
    fn play(&self, trials: u32, rounds: u32) -> Result<Played> {
        let mut scouted = Vec::new();
        let mut survivors: Vec<Candidate> = Vec::new();
        for peer in PEERS {
            survivors.extend(self.scout(peer, trials, &mut scouted)?);
        }
        let started = |contestant| Turns { contestant, samples: Vec::new(), memory: Vec::new() };
        let alti = Contestant { engine: ALTI.to_owned(), flags: String::new() };
        let mut turns: Vec<Turns> =
            std::iter::once(alti).chain(survivors.iter().map(Candidate::contestant)).map(started).collect();
        let mut limits = Vec::new();
        for _ in 0..rounds {
            record(&mut turns[0], self.engines.alti(&self.work, self.model, self.threads)?);
            if self.work.kind != Kind::Cold {
                limits.push(Limits::measure(self.threads)?);
            }
            for (&candidate, turns) in survivors.iter().zip(&mut turns[1..]) {
                record(turns, self.engines.peer(candidate, &self.work, self.model, self.threads)?);
            }
        }
        Ok(Played { turns, scouted, limits })
    }

    /// Tries every setting of a peer, all of them before any a second time; the best go on. One that fails is not tried
    /// again.
    fn scout(&self, peer: &'static Peer, trials: u32, scouted: &mut Vec<Scouted>) -> Result<Vec<Candidate>> {
        let candidates = candidates(peer, self.work.kind);
        let mut outcomes = vec![Outcome::Reached(Vec::new()); candidates.len()];
        for _ in 0..trials {
            for (&candidate, outcome) in candidates.iter().zip(&mut outcomes) {
                let Outcome::Reached(samples) = outcome else { continue };
                match self.engines.peer(candidate, &self.trial, self.model, self.threads) {
                    Ok(sample) => samples.push(sample.value),
                    Err(error) => {
                        eprintln!("{} {}: {error:#}", peer.name, candidate.contestant().flags);
                        *outcome = Outcome::Failed(format!("{error:#}"));
                    }
                }
            }
        }
        let survivors = best(&candidates, &outcomes, &self.work);
        if let (true, Some(Outcome::Failed(error))) = (survivors.is_empty(), outcomes.first()) {
            bail!("no setting of {} works for {}: {error}", peer.name, self.work);
        }
        let tried = candidates.iter().map(Candidate::contestant).zip(outcomes);
        scouted.extend(tried.map(|(contestant, outcome)| Scouted { contestant, outcome }));
        Ok(survivors)
    }
}

fn record(turns: &mut Turns, sample: Sample) {
    turns.samples.push(sample.value);
    turns.memory.extend(sample.memory);
}

/// The few that did best in their best trial, best first.
fn best<T: Copy>(candidates: &[T], outcomes: &[Outcome], work: &Workload) -> Vec<T> {
    let order = |a: &f64, b: &f64| if work.is_time() { b.total_cmp(a) } else { a.total_cmp(b) };
    let mut tried: Vec<(T, f64)> = Vec::new();
    for (&candidate, outcome) in candidates.iter().zip(outcomes) {
        if let Outcome::Reached(samples) = outcome {
            tried.extend(samples.iter().copied().max_by(order).map(|sample| (candidate, sample)));
        }
    }
    tried.sort_by(|(_, a), (_, b)| order(b, a));
    tried.into_iter().take(SURVIVORS).map(|(candidate, _)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_settings_with_the_best_trials_go_on_and_failed_ones_do_not() {
        let reached = |samples: &[f64]| Outcome::Reached(samples.to_vec());
        let outcomes = [
            reached(&[3.0, 2.0]),
            reached(&[1.0, 9.0]),
            Outcome::Failed("crashed".into()),
            reached(&[5.0, 5.0]),
        ];
        let names = ["a", "b", "c", "d"];
        assert_eq!(best(&names, &outcomes, &Workload::prefill(512)), ["b", "d"]);
        assert_eq!(best(&names, &outcomes, &Workload::cold()), ["b", "a"]);
    }

    #[test]
    fn trials_are_no_longer_than_asked() {
        assert_eq!(Workload::decode(128, 8192).at_most(64), Workload::decode(64, 64));
        assert_eq!(Workload::prefill(128).at_most(512), Workload::prefill(128));
    }
}
