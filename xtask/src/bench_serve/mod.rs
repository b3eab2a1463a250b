//! `cargo xtask bench-serve`: what `alti serve` and the servers of its peers give to many clients at once.
//!
//! All servers read the same file and answer the same requests of the same clients, in turns, round after round; medians
//! are compared. A peer counts with its best setting: every setting of a table is tried with every build. What the engine
//! does without a server (`alti bench`) is measured in the same run, so that the cost of serving shows.

pub mod client;
pub mod load;
pub mod report;
pub mod servers;
pub mod work;

use crate::bench_peers::engines::Engines;
use crate::bench_peers::workload::Workload;
use crate::bench_peers::{Chosen, chosen, documentation};
use crate::contestants::Alti;
use crate::machine::Machine;
use crate::peers::{PEERS, Peer, Programs};
use crate::workspace;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum as _};
use load::Sample;
use report::{Bench, Report, Row, Tried, Turns};
use servers::{Candidate, Server};
use std::path::PathBuf;
use std::time::Duration;
use work::{Choice, Length, Work};

/// What `alti` is called among servers.
pub const ALTI: &str = crate::bench_peers::report::ALTI;

/// Name of the block of [`PAGE`] that this command writes.
const BLOCK: &str = "bench-serve";
/// The page with the last tables.
const PAGE: &str = "docs/scale.md";

/// How long a server is watched while nobody asks anything.
const IDLE: Duration = Duration::from_secs(3);

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Models by name, or GGUF files
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "SmolLM2-135M-Q4_0,1B-Q4_0")]
    models: Vec<String>,
    /// Clients at once
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,32")]
    clients: Vec<usize>,
    /// Lengths of prompts and answers [default: all]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    rows: Vec<Length>,
    /// How tokens are chosen [default: all]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    sampling: Vec<Choice>,
    /// Threads that compute, of every server
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    threads: usize,
    /// Rounds; in each, every server has one turn
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Answers that every client asks for in a turn
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    requests: u16,
    /// Take the first setting of each peer and try no other
    #[arg(long)]
    no_trials: bool,
    /// Measure `alti` alone
    #[arg(long)]
    no_peers: bool,
    /// A setting of `alti serve` (may be given several times)
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    settings: Vec<String>,
    /// Write the measurement, with every sample, to this file after each number of clients
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nothing and show what --json has written (may be given several times: the rows are joined)
    #[arg(long, value_name = "FILE")]
    render: Vec<PathBuf>,
    /// Put the tables into docs/scale.md
    #[arg(long)]
    write_docs: bool,
    #[command(flatten)]
    alti: Alti,
    #[command(flatten)]
    programs: Programs,
}

impl Options {
    fn peers(&self) -> &'static [&'static Peer] {
        if self.no_peers { &[] } else { &PEERS }
    }
}

/// Measures and prints Markdown, and writes what else is asked for.
///
/// # Errors
/// `alti` or a program is missing or fails, or a file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let report = if options.render.is_empty() { measure(options)? } else { rendered(&options.render)? };
    let tables = report.markdown();
    print!("{tables}");
    if options.write_docs {
        documentation::write_block(&workspace::root().join(PAGE), BLOCK, &tables)?;
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

/// The rows that the flags ask for, of one number of clients.
fn works(options: &Options, clients: usize) -> Vec<Work> {
    let lengths = if options.rows.is_empty() { Length::value_variants() } else { &options.rows };
    let choices = if options.sampling.is_empty() { Choice::value_variants() } else { &options.sampling };
    let of = |&length| choices.iter().map(move |&choice| Work { length, choice, clients });
    lengths.iter().flat_map(of).collect()
}

fn measure(options: &Options) -> Result<Report> {
    ensure!(options.clients.iter().all(|clients| (1..=1024).contains(clients)), "--clients: 1 to 1024 each");
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let engines =
        Engines { alti: options.alti.program()?, programs: &options.programs, scratch: scratch.path() };
    let version = |peer: &Peer| format!("{} ({} {})", peer.name, peer.package, peer.version);
    let mut report = Report {
        machine: Machine::describe(),
        alti: options.alti.origin().to_owned(),
        peers: PEERS.map(version).to_vec(),
        threads: options.threads,
        rounds: options.rounds,
        requests: options.requests.into(),
        rows: Vec::new(),
    };
    // What is missing is said before anything is measured.
    for peer in options.peers() {
        servers::candidates(peer, &options.programs)?;
    }
    let models = chosen(&options.models, &options.programs)?;
    for model in &models {
        for &clients in &options.clients {
            let contest = Contest { options, engines: &engines, model, clients };
            let rows = contest.play()?;
            for row in &rows {
                eprintln!("{}", row.markdown());
            }
            report.rows.extend(rows);
            if let Some(path) = &options.json {
                report.write(path)?;
            }
        }
    }
    Ok(report)
}

/// All servers on one model with one number of clients.
struct Contest<'a> {
    options: &'a Options,
    engines: &'a Engines<'a>,
    model: &'a Chosen,
    clients: usize,
}

/// A server that takes turns, and the rows in which it does.
struct Entry<'a> {
    candidate: Candidate<'a>,
    rows: Vec<usize>,
}

impl<'a> Contest<'a> {
    fn play(&self) -> Result<Vec<Row>> {
        let works = works(self.options, self.clients);
        let empty = |&work| Row {
            model: self.model.name.clone(),
            work,
            bench: Bench::default(),
            turns: Vec::new(),
            tried: Vec::new(),
        };
        let mut rows: Vec<Row> = works.iter().map(empty).collect();
        let entries = self.entries(&mut rows)?;
        for round in 0..self.options.rounds {
            for entry in &entries {
                self.turn(entry, round, &mut rows)?;
            }
            self.bench(&mut rows)?;
        }
        Ok(rows)
    }

    /// `alti` in every row, and in each row the best setting of each peer.
    fn entries(&self, rows: &mut [Row]) -> Result<Vec<Entry<'a>>> {
        let alti = Candidate::Alti { program: &self.engines.alti, settings: &self.options.settings };
        let mut entries = vec![Entry { candidate: alti, rows: (0..rows.len()).collect() }];
        for peer in self.options.peers() {
            let candidates = servers::candidates(peer, &self.options.programs)?;
            for &length in Length::value_variants() {
                let of_length: Vec<usize> =
                    (0..rows.len()).filter(|&index| rows[index].work.length == length).collect();
                let Some(&first) = of_length.first() else { continue };
                let best = if self.options.no_trials {
                    0
                } else {
                    let work = Work { choice: Choice::Greedy, ..rows[first].work };
                    let tried = self.tried(&candidates, work);
                    let best = best(&tried);
                    rows[first].tried.extend(tried);
                    let Some(best) = best else { continue };
                    best
                };
                entries.push(Entry { candidate: candidates[best], rows: of_length });
            }
        }
        for entry in &entries {
            for &index in &entry.rows {
                rows[index].turns.push(Turns {
                    engine: entry.candidate.engine().to_owned(),
                    flags: entry.candidate.flags(),
                    samples: Vec::new(),
                    idle: Vec::new(),
                    beside: Vec::new(),
                    failures: Vec::new(),
                });
            }
        }
        Ok(entries)
    }

    /// One answer for each client from each candidate.
    fn tried(&self, candidates: &[Candidate<'a>], work: Work) -> Vec<Tried> {
        let one = |candidate: &Candidate<'a>| {
            let reached =
                self.start(candidate).and_then(|mut server| self.sample(&mut server, &work, 1, 1 << 40));
            let failure = reached.as_ref().err().map(|error| format!("{error:#}"));
            if let Some(failure) = &failure {
                eprintln!("{} {}: {failure}", candidate.engine(), candidate.flags());
            }
            let (engine, flags) = (candidate.engine().to_owned(), candidate.flags());
            Tried { engine, flags, rate: reached.ok().map(|(sample, _)| sample.generated_rate()), failure }
        };
        candidates.iter().map(one).collect()
    }

    /// A server takes its turn in all its rows. A peer that fails in one is started again for the next.
    fn turn(&self, entry: &Entry<'a>, round: u32, rows: &mut [Row]) -> Result<()> {
        let (engine, flags) = (entry.candidate.engine(), entry.candidate.flags());
        let mut server: Option<(Server, Option<f64>)> = None;
        for &index in &entry.rows {
            let work = rows[index].work;
            let number = (u64::from(round) + 1) << 32 | (index as u64) << 20;
            let requests = usize::from(self.options.requests);
            let result = (|| {
                let (running, idle) = match server.take() {
                    Some(running) => running,
                    None => {
                        let started = self.start(&entry.candidate)?;
                        let idle = started.core_use(IDLE);
                        (started, idle)
                    }
                };
                let (running, _) = server.insert((running, idle));
                let (sample, beside) = self.sample(running, &work, requests, number)?;
                Ok((sample, beside, idle))
            })();
            let found = rows[index].turns.iter_mut().find(|turns| turns.engine == engine);
            let turns = found.context("a server that takes turns has a place for them")?;
            match result {
                Ok((sample, beside, idle)) => {
                    turns.samples.push(sample);
                    turns.beside.extend(beside);
                    turns.idle.extend(idle);
                }
                Err(error) if engine == ALTI => return Err(error),
                Err(error) => {
                    eprintln!("{engine} {flags}: {error:#}");
                    turns.failures.push(format!("{error:#}"));
                    server = None;
                }
            }
        }
        Ok(())
    }

    fn start(&self, candidate: &Candidate<'a>) -> Result<Server> {
        candidate.start(&self.model.file, self.clients, self.options.threads, self.engines.scratch)
    }

    /// The clients ask, after one answer that does not count: the first touches memory that nobody has touched. Beside
    /// what they saw, the microseconds of a token that threads took which do not compute.
    fn sample(
        &self,
        server: &mut Server,
        work: &Work,
        requests: usize,
        number: u64,
    ) -> Result<(Sample, Option<f64>)> {
        let warm_up = Work { length: Length::Short, clients: 1, ..*work };
        let asked = load::run(server.address, &warm_up, 1, number | 1 << 19).and_then(|_| {
            let before = server.time_beside();
            Ok((load::run(server.address, work, requests, number)?, before))
        });
        // A server that ended explains what its clients saw.
        let (sample, before) = asked.or_else(|error| server.check().and(Err(error)))?;
        let took = before.and_then(|before| server.time_beside()?.checked_sub(before));
        let beside = took.map(|took| took.as_secs_f64() * 1e6 / sample.generated.max(1) as f64);
        Ok((sample, beside))
    }

    /// The same lengths without a server.
    fn bench(&self, rows: &mut [Row]) -> Result<()> {
        for length in Length::value_variants() {
            let mut of_length = rows.iter_mut().filter(|row| row.work.length == *length).peekable();
            if of_length.peek().is_none() {
                continue;
            }
            let rate = |work| -> Result<f64> {
                Ok(self.engines.alti(&work, &self.model.file, self.options.threads)?.value)
            };
            let prefill = rate(Workload::prefill(length.prompt() - length.shared()))?;
            let decode = rate(Workload::batch(length.answer(), self.clients))?;
            for row in of_length {
                row.bench.prefill.push(prefill);
                row.bench.decode.push(decode);
            }
        }
        Ok(())
    }
}

/// The setting with the highest rate.
fn best(tried: &[Tried]) -> Option<usize> {
    let reached = tried.iter().enumerate().filter_map(|(index, tried)| Some((index, tried.rate?)));
    reached.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_setting_that_works_takes_turns() {
        let tried = |rate| Tried { engine: "e".into(), flags: String::new(), rate, failure: None };
        assert_eq!(best(&[tried(Some(1.0)), tried(None), tried(Some(3.0)), tried(Some(2.0))]), Some(2));
        assert_eq!(best(&[tried(None)]), None);
    }
}
