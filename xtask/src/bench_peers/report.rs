//! What was measured, as JSON holds it with every sample, and as Markdown shows it.

use super::bounds::{Bound, Demand, Limits};
use super::engines::Contestant;
use super::workload::Workload;
use crate::machine::Machine;
use crate::peers::PEERS;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What `alti` is called among contestants.
pub const ALTI: &str = "alti";

/// A whole measurement.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// Where `alti` came from.
    pub alti: String,
    /// Versions of the peers.
    pub peers: Vec<String>,
    /// Rounds; in each, every contestant had one turn.
    pub rounds: u32,
    /// What the machine could do at most before the first row, for each number of threads.
    pub limits: Vec<Limits>,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// One piece of work on one model with one number of threads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// The revision of the checkout when it was measured; empty is the report's.
    #[serde(default)]
    pub revision: String,
    /// Threads of every contestant.
    pub threads: usize,
    /// What was done.
    pub work: Workload,
    /// What decided between settings, where it was less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Workload>,
    /// What the model asks for.
    pub demand: Demand,
    /// What the machine allows: the median of the rounds.
    pub bound: Option<Bound>,
    /// What the machine could do in each round; in older files the report's limits stand for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limits>,
    /// The part of `alti`'s time that passed in products with weights: what it reaches of what they alone would.
    pub products: Option<f64>,
    /// Who took turns, `alti` first.
    pub turns: Vec<Turns>,
    /// The trials of each setting of a peer, which decided who takes turns.
    pub scouted: Vec<Scouted>,
}

/// The turns of one contestant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turns {
    /// Who.
    #[serde(flatten)]
    pub contestant: Contestant,
    /// Tokens a second, or milliseconds.
    pub samples: Vec<f64>,
    /// Peaks of resident memory in MiB, of cold starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<f64>,
}

/// The trials of one setting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scouted {
    /// Who.
    #[serde(flatten)]
    pub contestant: Contestant,
    /// What it reached, or why it did not.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a trial ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Tokens a second, or milliseconds, of each trial.
    Reached(Vec<f64>),
    /// The setting does not work.
    Failed(String),
}

impl Turns {
    /// The median of the samples.
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }

    /// The value as tables show it, with the memory where it was measured.
    fn shown(&self) -> String {
        let value = shown(self.median());
        if self.memory.is_empty() { value } else { format!("{value}, {:.0} MiB", median(&self.memory)) }
    }
}

impl Row {
    /// Whether both say what the same work takes.
    fn is_of(&self, other: &Row) -> bool {
        (&self.model, self.threads, self.work) == (&other.model, other.threads, other.work)
    }

    /// The turns of `engine` with its better setting.
    pub fn best_of(&self, engine: &str) -> Option<&Turns> {
        self.best(self.turns.iter().filter(|turns| turns.contestant.engine == engine))
    }

    /// The turns of the best peer.
    pub fn best_peer(&self) -> Option<&Turns> {
        self.best(self.turns.iter().filter(|turns| turns.contestant.engine != ALTI))
    }

    /// The first of the best: settings with fewer flags come first.
    fn best<'a>(&self, turns: impl Iterator<Item = &'a Turns>) -> Option<&'a Turns> {
        let better = |next: &Turns, best: &Turns| self.work.advantage(next.median(), best.median()) > 1.0;
        turns.reduce(|best, next| if better(next, best) { next } else { best })
    }

    /// How many times as good as the best peer `alti` is.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.work.advantage(self.best_of(ALTI)?.median(), self.best_peer()?.median()))
    }

    /// The row of the table.
    pub fn markdown(&self) -> String {
        let mark = if self.trial.is_some() { " *" } else { "" };
        let mut cells = vec![self.model.clone(), self.threads.to_string(), format!("{}{mark}", self.work)];
        cells.push(self.work.unit().to_owned());
        cells.push(self.best_of(ALTI).map_or_else(String::new, Turns::shown));
        for peer in PEERS {
            let best = self.best_of(peer.name);
            cells
                .push(best.map_or_else(String::new, |t| format!("{} (`{}`)", t.shown(), t.contestant.flags)));
        }
        cells.push(self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        let of_limit = self.best_of(ALTI).zip(self.bound.as_ref());
        cells.push(of_limit.map_or_else(String::new, |(alti, bound)| {
            format!("{:.0} % of {}, {}", 100.0 * alti.median() / bound.value, shown(bound.value), bound.limit)
        }));
        cells.push(self.products.map_or_else(String::new, |part| format!("{:.0} %", 100.0 * part)));
        cells.push(self.revision.clone());
        format!("| {} |", cells.join(" | "))
    }
}

impl Report {
    /// Reads a report that [`Report::write`] wrote.
    ///
    /// # Errors
    /// It cannot be read, or is another version's.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut report: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `bench-peers --json` writes", path.display()))?;
        for row in report.rows.iter_mut().filter(|row| row.revision.is_empty()) {
            row.revision.clone_from(&report.machine.revision);
        }
        Ok(report)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes over the rows of another measurement, whose bounds they carry, and limits that are new. What was measured
    /// again takes the place of what was there.
    pub fn join(&mut self, other: Self) {
        for row in other.rows {
            match self.rows.iter_mut().find(|known| known.is_of(&row)) {
                Some(known) => *known = row,
                None => self.rows.push(row),
            }
        }
        let known: Vec<usize> = self.limits.iter().map(|limits| limits.threads).collect();
        self.limits.extend(other.limits.into_iter().filter(|limits| !known.contains(&limits.threads)));
        self.rounds = self.rounds.min(other.rounds);
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let medians = format!("medians of {} rounds, in turns", self.rounds);
        let _ = writeln!(
            text,
            "alti: {}. Peers: {}; {medians}. Each with its best setting, in brackets.\n",
            self.alti,
            self.peers.join(", ")
        );
        let trials: BTreeSet<_> = self.rows.iter().filter_map(|row| Some(row.trial?.to_string())).collect();
        if !trials.is_empty() {
            let trials = trials.into_iter().collect::<Vec<_>>().join("; ");
            let _ = writeln!(text, "Rows with a *: settings were tried with less work ({trials}).\n");
        }
        let names = PEERS.map(|peer| peer.name).join(" | ");
        let _ = writeln!(
            text,
            "| model | threads | work | unit | alti | {names} | ratio to the best | of the limit | of its products alone | \
             revision |"
        );
        let _ = writeln!(text, "|---|---|---|---|---|{}---|---|---|---|", "---|".repeat(PEERS.len()));
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.markdown());
        }
        text + &self.failures_markdown() + &self.limits_markdown()
    }

    /// Settings of peers that did not work, so that nobody believes they were not tried.
    fn failures_markdown(&self) -> String {
        let trials = self.rows.iter().flat_map(|row| row.scouted.iter().map(move |trial| (row, trial)));
        let failed = trials.filter(|(_, trial)| matches!(trial.outcome, Outcome::Failed(_)));
        let mut lines: Vec<String> = failed
            .map(|(row, Scouted { contestant, .. })| {
                format!("- {} `{}` on {}, {}", contestant.engine, contestant.flags, row.model, row.work)
            })
            .collect();
        lines.sort_unstable();
        lines.dedup();
        if lines.is_empty() {
            String::new()
        } else {
            format!("\nTried, and failed:\n\n{}\n", lines.join("\n"))
        }
    }

    fn limits_markdown(&self) -> String {
        let threads =
            self.limits.iter().map(|limits| format!(" {} threads |", limits.threads)).collect::<String>();
        let mut text =
            format!("\n| limit of the machine |{threads}\n|---|{}\n", "---|".repeat(self.limits.len()));
        let mut row = |name: &str, value: &dyn Fn(&Limits) -> Option<f64>, unit: &str, scale: f64| {
            let cell =
                |limits| value(limits).map_or_else(String::new, |v| format!("{} {unit}", shown(v / scale)));
            let cells = self.limits.iter().map(|limits| format!(" {} |", cell(limits))).collect::<String>();
            let _ = writeln!(text, "| {name} |{cells}");
        };
        row("memory, streamed", &|limits| Some(limits.stream), "GB/s", 1e9);
        row("100 MB, read again and again", &|limits| Some(limits.reread), "GB/s", 1e9);
        for peak in self.limits.first().map(|limits| limits.peaks.as_slice()).unwrap_or_default() {
            let of = |limits: &Limits| {
                limits.peaks.iter().find(|p| p.instruction == peak.instruction).map(|p| p.operations)
            };
            row(&format!("{}, `{}`", peak.operand, peak.instruction), &of, "Top/s", 1e12);
        }
        text
    }
}

/// Three digits and all before the point.
pub fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The median of at least one sample.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::bounds::tests::{SMALL, limits};
    use super::*;

    pub(crate) fn turns(engine: &str, flags: &str, samples: &[f64]) -> Turns {
        let contestant = Contestant { engine: engine.into(), flags: flags.into() };
        Turns { contestant, samples: samples.to_vec(), memory: Vec::new() }
    }

    pub(crate) fn report() -> Report {
        let row = |work: Workload, turns| Row {
            model: "m".into(),
            revision: "abc".into(),
            threads: 2,
            work,
            trial: None,
            demand: SMALL,
            bound: SMALL.median_bound(&work, &[limits()]),
            limits: vec![limits()],
            products: (!work.is_time()).then_some(0.8),
            turns,
            scouted: Vec::new(),
        };
        let prefill = vec![
            turns(ALTI, "", &[900.0, 5000.0, 5100.0]),
            turns("llama.cpp", "-fa on", &[2000.0]),
            turns("llama.cpp", "-fa off", &[2500.0]),
            turns("ik_llama.cpp", "-fa 1", &[2400.0]),
        ];
        let mut cold = vec![
            turns(ALTI, "", &[40.0]),
            turns("llama.cpp", "-fa on", &[150.0]),
            turns("ik_llama.cpp", "-fa on", &[90.0]),
        ];
        for turns in &mut cold {
            turns.memory.push(130.0);
        }
        Report {
            machine: Machine::describe(),
            alti: "built from this revision".into(),
            peers: vec!["llama.cpp (package 1)".into()],
            rounds: 3,
            limits: vec![limits()],
            rows: vec![row(Workload::prefill(512), prefill), row(Workload::cold(), cold)],
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_table_has_the_best_settings_the_ratio_to_the_best_peer_and_the_fraction_of_the_limit() {
        let text = report().markdown();
        let prefill = "| m | 2 | prefill 512 | tokens/s | 5000 | 2500 (`-fa off`) | 2400 (`-fa 1`) | 2.00 | 25 % of 20000, int8 | 80 % | abc |";
        assert!(text.contains(prefill), "{text}");
        let cold =
            "| ms | 40.0, 130 MiB | 150, 130 MiB (`-fa on`) | 90.0, 130 MiB (`-fa on`) | 2.25 |  |  | abc |";
        assert!(text.contains(cold), "{text}");
        assert!(text.contains("| memory, streamed | 50.0 GB/s |"), "{text}");
        assert!(text.contains("| int8, `tdpbusd tmm` | 4.00 Top/s |"), "{text}");
    }

    #[test]
    fn rows_whose_settings_were_tried_with_less_work_are_marked() {
        let mut report = report();
        assert!(!report.markdown().contains('*'));
        report.rows[0].trial = Some(Workload::prefill(128));
        let text = report.markdown();
        assert!(text.contains("| prefill 512 * |"), "{text}");
        assert!(text.contains("Rows with a *: settings were tried with less work (prefill 128)."), "{text}");
    }

    #[test]
    fn settings_that_fail_are_listed_once() {
        let mut report = report();
        let contestant = Contestant { engine: "llama.cpp".into(), flags: "-x".into() };
        let failed = Scouted { contestant, outcome: Outcome::Failed("aborted".into()) };
        report.rows[0].scouted = vec![failed.clone(), failed];
        let text = report.markdown();
        assert_eq!(text.matches("- llama.cpp `-x` on m, prefill 512\n").count(), 1, "{text}");
    }

    #[test]
    fn reports_are_read_back_and_joined() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        report().write(&path).unwrap();
        let mut read = Report::read(&path).unwrap();
        assert_eq!(read.markdown(), report().markdown());
        let mut other = report();
        other.rows[0].revision = "def".into();
        other.rows[1].threads = 1;
        read.join(other);
        assert_eq!((read.rows.len(), read.limits.len()), (3, 1));
        let revisions: Vec<_> = read.rows.iter().map(|row| row.revision.as_str()).collect();
        assert_eq!(revisions, ["def", "abc", "abc"]);
        fs::write(&path, "{}").unwrap();
        assert!(Report::read(&path).unwrap_err().to_string().contains("bench-peers --json"));
    }
}
