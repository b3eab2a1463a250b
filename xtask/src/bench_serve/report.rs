//! What was measured, as JSON holds it with every sample, and as Markdown shows it.

use super::ALTI;
use super::load::{Quantiles, Sample};
use super::work::Work;
use crate::bench_peers::report::{median, shown};
use crate::machine::Machine;
use crate::peers::PEERS;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Generated tokens a second for which the table of nodes says how many are needed.
const NEEDS: [f64; 3] = [1_000.0, 10_000.0, 100_000.0];
/// Part of a node's measured rate that the table of nodes counts on: the rest is for bursts and a node that is away.
const PLANNED_LOAD: f64 = 0.7;

/// A whole measurement.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// Where `alti` came from.
    pub alti: String,
    /// Versions of the peers.
    pub peers: Vec<String>,
    /// Threads that compute, of every server.
    pub threads: usize,
    /// Rounds; in each, every server had one turn.
    pub rounds: u32,
    /// Answers that each client asked for in a turn.
    pub requests: usize,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// One kind of work on one model.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// What the clients asked for.
    pub work: Work,
    /// What `alti bench` reached on the same file, without a server.
    pub bench: Bench,
    /// The servers that took turns, `alti` first.
    pub turns: Vec<Turns>,
    /// The trials of each setting of a peer, which decided who takes turns.
    pub tried: Vec<Tried>,
}

/// What the engine does without a server: tokens a second, a sample for each round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bench {
    /// Of a prompt as long as what is not shared of the work's.
    pub prefill: Vec<f64>,
    /// Of all sequences together, as many as there are clients.
    pub decode: Vec<f64>,
}

/// The turns of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turns {
    /// `alti`, or the name of a peer.
    pub engine: String,
    /// What it was built with, and its flags.
    pub flags: String,
    /// What its clients saw.
    pub samples: Vec<Sample>,
    /// Fraction of a core that it took before anybody asked anything.
    pub idle: Vec<f64>,
    /// Microseconds of processor time that a generated token took of the threads that do not compute, where it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<f64>,
    /// Why turns have no sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// The trial of one setting of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// The peer.
    pub engine: String,
    /// What it was built with, and its flags.
    pub flags: String,
    /// Generated tokens a second.
    pub rate: Option<f64>,
    /// Why there is none.
    pub failure: Option<String>,
}

impl Turns {
    /// The median over the turns; nothing if none of them has a sample.
    fn middle(&self, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.samples.iter().map(value).collect();
        (!values.is_empty()).then(|| median(&values))
    }

    fn rate(&self) -> Option<f64> {
        self.middle(Sample::generated_rate)
    }

    fn rates_shown(&self) -> String {
        let (Some(rate), Some(total)) = (self.rate(), self.middle(Sample::total_rate)) else {
            return "failed".to_owned();
        };
        format!("{}, {} with prompts{}", shown(rate), shown(total), self.flags_shown())
    }

    fn flags_shown(&self) -> String {
        if self.flags.is_empty() { String::new() } else { format!(" (`{}`)", self.flags) }
    }

    fn times_shown(&self, of: impl Fn(&Sample) -> Quantiles) -> String {
        match (self.middle(|sample| of(sample).p50), self.middle(|sample| of(sample).p99)) {
            (Some(p50), Some(p99)) => format!("{} / {}", shown(p50), shown(p99)),
            _ => "failed".to_owned(),
        }
    }
}

impl Row {
    /// The turns of `engine`.
    fn of(&self, engine: &str) -> Option<&Turns> {
        self.turns.iter().find(|turns| turns.engine == engine)
    }

    /// How many times as many tokens `alti` generated as the best peer.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let peers = self.turns.iter().filter(|turns| turns.engine != ALTI);
        Some(self.of(ALTI)?.rate()? / peers.filter_map(Turns::rate).max_by(f64::total_cmp)?)
    }

    /// The part that `alti` reached of what the engine does without a server: computing what is not shared of every
    /// prompt at the rate of one prompt, and decoding at the rate of as many sequences.
    #[must_use]
    pub fn of_bench(&self) -> Option<f64> {
        if self.bench.prefill.is_empty() || self.bench.decode.is_empty() {
            return None;
        }
        let length = self.work.length;
        let fresh = (length.prompt() - length.shared()) as f64;
        let answer = length.answer() as f64;
        let seconds = fresh / median(&self.bench.prefill) + answer / median(&self.bench.decode);
        Some(self.of(ALTI)?.rate()? * seconds / answer)
    }

    fn label(&self) -> String {
        format!("{} | {} | {}", self.model, self.work.clients, self.work)
    }

    /// The row of the table of rates.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut cells = vec![self.label()];
        for engine in engines() {
            cells.push(self.of(engine).map_or_else(String::new, Turns::rates_shown));
        }
        cells.push(self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        cells.push(self.of_bench().map_or_else(String::new, |part| format!("{:.0} %", 100.0 * part)));
        format!("| {} |", cells.join(" | "))
    }

    fn times_markdown(&self) -> String {
        let mut cells = vec![self.label()];
        let times: [fn(&Sample) -> Quantiles; 2] = [|sample| sample.first, |sample| sample.between];
        for time in times {
            for engine in engines() {
                cells.push(self.of(engine).map_or_else(String::new, |turns| turns.times_shown(time)));
            }
        }
        format!("| {} |", cells.join(" | "))
    }
}

/// Everybody, in the order of the columns.
fn engines() -> impl Iterator<Item = &'static str> {
    std::iter::once(ALTI).chain(PEERS.map(|peer| peer.name))
}

impl Report {
    /// Reads a report that [`Report::write`] wrote.
    ///
    /// # Errors
    /// It cannot be read, or is another version's.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `bench-serve --json` writes", path.display()))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes over the rows of another measurement.
    pub fn join(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.rounds = self.rounds.min(other.rounds);
        self.requests = self.requests.min(other.requests);
    }

    /// The tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let _ = writeln!(
            text,
            "alti: {}. Peers: {}. {} threads; medians of {} rounds, in turns; every client asks for {} answers in a \
             round, one after the other. Each peer with its best setting, in brackets.\n",
            self.alti,
            self.peers.join(", "),
            self.threads,
            self.rounds,
            self.requests
        );
        let names = engines().collect::<Vec<_>>().join(" | ");
        let _ = writeln!(
            text,
            "Generated tokens a second, of all clients together:\n\n\
             | model | clients | work | {names} | ratio to the best | of `alti bench` |\n|---|---|---|{}---|---|",
            "---|".repeat(engines().count())
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.markdown());
        }
        text + &self.times_markdown()
            + &self.idle_markdown()
            + &self.beside_markdown()
            + &self.nodes_markdown()
            + &self.failures_markdown()
    }

    fn times_markdown(&self) -> String {
        let columns = |what: &str| engines().map(|engine| format!(" {engine}: {what} |")).collect::<String>();
        let mut text = format!(
            "\nMilliseconds, p50 / p99; 0 between tokens means that most came together with the one before, as guesses that \
             were right:\n\n| model | clients | work |{}{}\n|---|---|---|{}\n",
            columns("first token"),
            columns("between tokens"),
            "---|".repeat(2 * engines().count())
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.times_markdown());
        }
        text
    }

    /// The most that each server took of a core while nobody asked anything.
    fn idle_markdown(&self) -> String {
        let most = |engine: &str| {
            let turns = self.rows.iter().filter_map(|row| row.of(engine));
            turns.flat_map(|turns| turns.idle.iter().copied()).max_by(f64::total_cmp)
        };
        let cells = engines().filter_map(|engine| {
            most(engine).map(|part| format!("{engine} {:.1} % of a core", 100.0 * part))
        });
        let cells: Vec<String> = cells.collect();
        if cells.is_empty() {
            return String::new();
        }
        format!("\nIdle, the most of all turns: {}.\n", cells.join(", "))
    }

    /// What serving a token takes beside computing it.
    fn beside_markdown(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let Some(turns) = row.of(ALTI).filter(|turns| !turns.beside.is_empty()) else { continue };
            let (micros, rate) = (median(&turns.beside), median(&row.bench.decode));
            let part = 100.0 * micros * rate / 1e6;
            let clients = row.work.clients;
            let _ = writeln!(
                text,
                "| {} | {clients} | {}{} | {} | {part:.1} % |",
                row.model,
                row.work,
                turns.flags_shown(),
                shown(micros)
            );
        }
        if text.is_empty() {
            return text;
        }
        format!(
            "\nProcessor time of `alti` for a token beside the threads that compute (HTTP, JSON, templates, tokens of \
             prompts), in microseconds, and as a part of the time in which `alti bench` decodes a token:\n\n\
             | model | clients | work | microseconds | part |\n|---|---|---|---|---|\n{text}"
        )
    }

    /// How many nodes like this one a rate takes, from the row with the most clients of each model and kind of work.
    fn nodes_markdown(&self) -> String {
        let needs = NEEDS.map(|need| format!(" nodes for {need:.0} tokens/s |")).concat();
        let mut text = format!(
            "\nNodes like this one, each planned at {:.0} % of its rate:\n\n| model | work | clients of a node | \
             tokens/s of a node |{needs}\n|---|---|---|---|{}\n",
            100.0 * PLANNED_LOAD,
            "---|".repeat(NEEDS.len())
        );
        let busiest = |row: &&Row| {
            let same = |other: &Row| {
                (other.model == row.model) && other.work == Work { clients: other.work.clients, ..row.work }
            };
            self.rows.iter().filter(|other| same(other)).all(|other| other.work.clients <= row.work.clients)
        };
        for row in self.rows.iter().filter(busiest) {
            let Some(rate) = row.of(ALTI).and_then(Turns::rate) else { continue };
            let nodes = NEEDS.map(|need| format!(" {:.0} |", (need / (rate * PLANNED_LOAD)).ceil())).concat();
            let (model, work, clients) = (&row.model, row.work, row.work.clients);
            let _ = writeln!(text, "| {model} | {work} | {clients} | {} |{nodes}", shown(rate));
        }
        text
    }

    /// Settings and turns that did not work, so that nobody believes they were not tried.
    fn failures_markdown(&self) -> String {
        let mut lines = Vec::new();
        for row in &self.rows {
            let tried = row.tried.iter().filter(|tried| tried.failure.is_some());
            let turns = row.turns.iter().filter(|turns| !turns.failures.is_empty());
            let failed = tried.map(|tried| (&tried.engine, &tried.flags));
            for (engine, flags) in failed.chain(turns.map(|turns| (&turns.engine, &turns.flags))) {
                let clients = row.work.clients;
                lines.push(format!("- {engine} `{flags}` on {}, {clients} clients", row.model));
            }
        }
        lines.sort_unstable();
        lines.dedup();
        if lines.is_empty() {
            String::new()
        } else {
            format!("\nTried, and failed:\n\n{}\n", lines.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::{Choice, Length};
    use super::*;

    fn sample(generated: usize) -> Sample {
        let first = Quantiles { p50: 10.0, p99: 20.0 };
        let between = Quantiles { p50: 2.0, p99: 3.0 };
        Sample { seconds: 2.0, generated, prompts: 1000, first, between }
    }

    fn turns(engine: &str, flags: &str, generated: &[usize]) -> Turns {
        let samples = generated.iter().copied().map(sample).collect();
        let (engine, flags) = (engine.to_owned(), flags.to_owned());
        let beside = if engine == ALTI { vec![30.0, 10.0, 20.0] } else { Vec::new() };
        Turns { engine, flags, samples, idle: vec![0.004], beside, failures: Vec::new() }
    }

    fn row(clients: usize) -> Row {
        Row {
            model: "m".into(),
            work: Work { length: Length::Short, choice: Choice::Greedy, clients },
            bench: Bench { prefill: vec![1000.0], decode: vec![2000.0] },
            turns: vec![
                turns(ALTI, "", &[100, 2000, 2200]),
                turns("llama.cpp", "clang: -fa on", &[500]),
                turns("ik_llama.cpp", "gcc: -fa on", &[400]),
            ],
            tried: vec![Tried {
                engine: "llama.cpp".into(),
                flags: "gcc: -fa on".into(),
                rate: None,
                failure: Some("crashed".into()),
            }],
        }
    }

    fn report() -> Report {
        Report {
            machine: Machine::describe(),
            alti: "built from this revision".into(),
            peers: vec!["llama.cpp (p 1)".into()],
            threads: 2,
            rounds: 3,
            requests: 2,
            rows: vec![row(8), row(1)],
        }
    }

    #[test]
    fn medians_are_compared_with_the_best_peer_and_the_bare_engine() {
        let row = row(8);
        assert_eq!(row.ratio(), Some(4.0));
        // 128 tokens in 0.128 s and 128 in 0.064 s: 667 tokens a second.
        assert!((row.of_bench().unwrap() - 1000.0 / (128.0 / 0.192)).abs() < 1e-9);
        assert_eq!(
            row.markdown(),
            "| m | 8 | 128 in, 128 out, greedy | 1000, 1500 with prompts | \
             250, 750 with prompts (`clang: -fa on`) | 200, 700 with prompts (`gcc: -fa on`) | 4.00 | 150 % |"
        );
    }

    #[test]
    fn the_tables_have_times_idle_use_nodes_and_failures() {
        let text = report().markdown();
        for part in [
            "| m | 8 | 128 in, 128 out, greedy | 10.0 / 20.0 | 10.0 / 20.0 | 10.0 / 20.0 | 2.00 / 3.00 |",
            "alti 0.4 % of a core",
            // 20 microseconds of the 500 in which 2,000 tokens a second give one.
            "| m | 8 | 128 in, 128 out, greedy | 20.0 | 4.0 % |",
            // 1,000 tokens a second, 700 of them planned with.
            "| m | 128 in, 128 out, greedy | 8 | 1000 | 2 | 15 | 143 |",
            "- llama.cpp `gcc: -fa on` on m, 8 clients",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("| m | 128 in, 128 out, greedy | 1 |"), "the busiest row counts");
        assert!(text.lines().all(|line| line.len() < 1000));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = report();
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap().markdown(), report.markdown());
    }
}
