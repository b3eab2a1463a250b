//! Who takes part, with which flags, and how each is asked to do a piece of work once.
//!
//! Every peer has programs that measure themselves; [`SETTINGS`] is the table of the flags that are tried with them.
//! All prepare the same work: arbitrary tokens, logits of the last token of a prompt and of every decoded one, neither
//! sampling nor tokenization counted (a cold start counts everything).

use super::cold;
use super::outputs;
use super::workload::{Kind, Workload};
use crate::contestants;
use crate::peers::{Compiler, IK_LLAMA_CPP, LLAMA_CPP, Peer, Programs};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags that are tried with one program of a peer.
#[derive(Debug)]
pub struct Setting {
    /// Whose program it is.
    pub peer: &'static Peer,
    /// The program.
    pub tool: Tool,
    /// The flags, as typed.
    pub flags: &'static str,
}

/// A program that measures, and what it measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `llama-bench`.
    Bench,
    /// `llama-batched-bench`.
    BatchedBench,
    /// The program that answers one prompt, which has another name in each peer.
    Answer(&'static str),
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Self::Bench => "llama-bench",
            Self::BatchedBench => "llama-batched-bench",
            Self::Answer(name) => name,
        }
    }

    fn measures(self, kind: Kind) -> bool {
        match self {
            Self::Bench => matches!(kind, Kind::Prefill | Kind::Decode | Kind::Depth),
            Self::BatchedBench => kind == Kind::Batch,
            Self::Answer(_) => kind == Kind::Cold,
        }
    }
}

const LLAMA_ANSWER: Tool = Tool::Answer("llama-completion");
const IK_ANSWER: Tool = Tool::Answer("llama-cli");

const fn llama(tool: Tool, flags: &'static str) -> Setting {
    Setting { peer: &LLAMA_CPP, tool, flags }
}

const fn ik(tool: Tool, flags: &'static str) -> Setting {
    Setting { peer: &IK_LLAMA_CPP, tool, flags }
}

/// Every setting that is tried: flash attention, repacking of the weights, the size of a step, the type of K/V, huge
/// pages, and one cache for all sequences or one for each.
pub const SETTINGS: &[Setting] = &[
    llama(Tool::Bench, "-fa on"),
    llama(Tool::Bench, "-fa off"),
    llama(Tool::Bench, "-fa on --repack 0"),
    llama(Tool::Bench, "-fa on -ub 128"),
    llama(Tool::Bench, "-fa on -ub 2048"),
    llama(Tool::BatchedBench, "-fa on"),
    llama(Tool::BatchedBench, "-fa off"),
    llama(Tool::BatchedBench, "-fa on --kv-unified"),
    llama(Tool::BatchedBench, "-fa off --kv-unified"),
    llama(Tool::BatchedBench, "-fa on --no-repack"),
    llama(LLAMA_ANSWER, "-fa on"),
    llama(LLAMA_ANSWER, "-fa on --no-repack"),
    ik(Tool::Bench, "-fa 1 -rtr 0"),
    ik(Tool::Bench, "-fa 1 -rtr 1"),
    ik(Tool::Bench, "-fa 0 -rtr 1"),
    ik(Tool::Bench, "-fa 1 -rtr 1 -ctk bf16 -ctv bf16"),
    ik(Tool::Bench, "-fa 1 -rtr 1 -thp 1"),
    ik(Tool::Bench, "-fa 1 -rtr 0 -ub 128"),
    ik(Tool::BatchedBench, "-fa on"),
    ik(Tool::BatchedBench, "-fa on -rtr"),
    ik(Tool::BatchedBench, "-fa off"),
    ik(Tool::BatchedBench, "-fa off -rtr"),
    ik(IK_ANSWER, "-fa on"),
    ik(IK_ANSWER, "-fa on -rtr"),
];

/// A setting with one of the builds of its peer.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The setting.
    pub setting: &'static Setting,
    /// What the peer was built with.
    pub compiler: &'static Compiler,
}

impl Candidate {
    /// How tables and JSON name it.
    pub fn contestant(&self) -> Contestant {
        let flags = format!("{}: {}", self.compiler.name, self.setting.flags);
        Contestant { engine: self.setting.peer.name.to_owned(), flags }
    }
}

/// Everything that is tried of one peer for one kind of work: each of its builds with each setting.
pub fn candidates(peer: &'static Peer, kind: Kind) -> Vec<Candidate> {
    let settings =
        SETTINGS.iter().filter(|setting| setting.peer.name == peer.name && setting.tool.measures(kind));
    settings
        .flat_map(|setting| peer.compilers.iter().map(move |compiler| Candidate { setting, compiler }))
        .collect()
}

/// One engine with one setting: what takes a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contestant {
    /// `alti`, or the name of a peer.
    pub engine: String,
    /// What it was built with, and its flags beyond those that say what to do.
    pub flags: String,
}

/// What a contestant did once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Tokens a second, or milliseconds.
    pub value: f64,
    /// Peak of resident memory in MiB, of a cold start.
    pub memory: Option<f64>,
}

/// Everything needed to run anybody.
#[derive(Debug)]
pub struct Engines<'a> {
    /// The program `alti`.
    pub alti: PathBuf,
    /// Where the peers' programs are.
    pub programs: &'a Programs,
    /// A folder in which the peers run: ik_llama.cpp leaves logs where it is started.
    pub scratch: &'a Path,
}

impl Engines<'_> {
    /// `alti` does `work` once.
    ///
    /// # Errors
    /// It fails, or prints what it should not.
    pub fn alti(&self, work: &Workload, model: &Path, threads: usize) -> Result<Sample> {
        let mut command = Command::new(&self.alti);
        let threads = threads.to_string();
        if work.kind == Kind::Cold {
            command.arg("run").arg("--model").arg(model).args(["--raw", cold::PROMPT, "--max-tokens", "1"]);
            command.args(["--context", cold::CONTEXT, "-t", &threads]);
            return cold::start(&command);
        }
        command.args(alti_flags(work)).arg(model).args(["-t", &threads]);
        let value = outputs::alti_bench(&contestants::json(&mut command)?)?;
        Ok(Sample { value, memory: None })
    }

    /// The part of the time of `work` that `alti` spends in products with weights; `None` for a cold start.
    ///
    /// # Errors
    /// It fails, or prints what it should not.
    pub fn products(&self, work: &Workload, model: &Path, threads: usize) -> Result<Option<f64>> {
        if work.kind == Kind::Cold {
            return Ok(None);
        }
        let mut command = Command::new(&self.alti);
        command.args(alti_flags(work)).arg(model).args(["--profile", "-t", &threads.to_string()]);
        outputs::alti_products(&contestants::json(&mut command)?).map(Some)
    }

    /// A peer does `work` once.
    ///
    /// # Errors
    /// Its program is missing or fails, or prints what it should not.
    pub fn peer(
        &self,
        candidate: Candidate,
        work: &Workload,
        model: &Path,
        threads: usize,
    ) -> Result<Sample> {
        let Candidate { setting, compiler } = candidate;
        let mut command = self.programs.tool_of(setting.peer, compiler, setting.tool.program())?;
        // It leaves logs where it is started.
        command
            .current_dir(self.scratch)
            .arg("-m")
            .arg(std::path::absolute(model)?)
            .args(["-t", &threads.to_string()])
            .args(setting.flags.split_whitespace());
        let value = match setting.tool {
            Tool::Bench => {
                command.args(["-o", "json", "-r", "1"]).args(bench_flags(setting.peer, work));
                outputs::llama_bench(&contestants::json(&mut command)?, work)?
            }
            Tool::BatchedBench => {
                outputs::batched_bench(&contestants::text(command.args(batch_flags(work, threads)))?, work)?
            }
            Tool::Answer(_) => {
                command.args(["-p", cold::PROMPT, "-n", "1", "-c", cold::CONTEXT, "--no-warmup"]);
                command.args(if setting.peer.name == LLAMA_CPP.name { &["-no-cnv"][..] } else { &[] });
                return cold::start(&command);
            }
        };
        Ok(Sample { value, memory: None })
    }
}

/// How `alti bench` is told what to do once.
fn alti_flags(work: &Workload) -> Vec<String> {
    let (prefill, decode) = if work.kind == Kind::Prefill { (work.tokens, 0) } else { (0, work.tokens) };
    let numbers = [("-p", prefill), ("-n", decode), ("-d", work.depth), ("-b", work.sequences), ("-r", 1)];
    let flags = numbers.into_iter().flat_map(|(flag, number)| [flag.to_owned(), number.to_string()]);
    ["bench", "--json"].map(str::to_owned).into_iter().chain(flags).collect()
}

/// How `llama-bench` is told what to do. Decoding behind a context is spelled differently: llama.cpp has `-d`, and
/// ik_llama.cpp `-gp`, which also computes the context first and does not count it.
fn bench_flags(peer: &Peer, work: &Workload) -> Vec<String> {
    let [tokens, depth] = [work.tokens, work.depth].map(|number| number.to_string());
    let flags = match work.kind {
        Kind::Prefill => vec!["-p", &tokens, "-n", "0"],
        _ if depth == "0" => vec!["-p", "0", "-n", &tokens],
        _ if peer.name == IK_LLAMA_CPP.name => {
            return ["-p", "0", "-n", "0", "-gp"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("{depth},{tokens}")])
                .collect();
        }
        _ => vec!["-p", "0", "-n", &tokens, "-d", &depth],
    };
    flags.into_iter().map(str::to_owned).collect()
}

/// How `llama-batched-bench` is told what to do. A cache that is split has room for whole steps of 256 tokens.
fn batch_flags(work: &Workload, threads: usize) -> Vec<String> {
    let context = work.sequences * (work.depth + work.tokens).next_multiple_of(256);
    let numbers = [
        ("-tb", threads),
        ("-c", context),
        ("-npp", work.depth),
        ("-ntg", work.tokens),
        ("-npl", work.sequences),
    ];
    numbers.into_iter().flat_map(|(flag, number)| [flag.to_owned(), number.to_string()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PEERS;
    use clap::ValueEnum as _;

    #[test]
    fn every_peer_has_settings_for_every_kind_of_work_and_none_twice() {
        for peer in PEERS {
            for kind in Kind::value_variants() {
                let candidates = candidates(peer, *kind);
                assert!(candidates.len() >= 2, "{} {kind:?}", peer.name);
                let mut flags: Vec<_> = candidates.iter().map(|one| one.contestant().flags).collect();
                flags.sort_unstable();
                flags.dedup();
                assert_eq!(flags.len(), candidates.len());
            }
        }
    }

    #[test]
    fn a_context_is_spelled_as_each_peer_wants_it() {
        let work = Workload::decode(128, 2048);
        assert_eq!(bench_flags(&LLAMA_CPP, &work).join(" "), "-p 0 -n 128 -d 2048");
        assert_eq!(bench_flags(&IK_LLAMA_CPP, &work).join(" "), "-p 0 -n 0 -gp 2048,128");
        assert_eq!(bench_flags(&LLAMA_CPP, &Workload::prefill(512)).join(" "), "-p 512 -n 0");
        assert_eq!(bench_flags(&IK_LLAMA_CPP, &Workload::decode(128, 0)).join(" "), "-p 0 -n 128");
    }

    #[test]
    fn a_batch_has_a_context_that_a_split_cache_can_divide() {
        let flags = batch_flags(&Workload::batch(64, 8), 2).join(" ");
        assert_eq!(flags, "-tb 2 -c 2048 -npp 128 -ntg 64 -npl 8");
    }
}
