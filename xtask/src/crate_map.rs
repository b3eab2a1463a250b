//! The map of the workspace as data: each crate's one job, the crates it may depend on, and whether it may hold
//! `unsafe` code. `ARCHITECTURE.md` carries the table that [`markdown`] prints, and a test over `cargo metadata`
//! holds the workspace to it, so the drawing and the building cannot drift apart.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Where a crate may hold `unsafe` code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsafeCode {
    /// Nowhere: the crate root says `#![forbid(unsafe_code)]`.
    Forbidden,
    /// In these files only, relative to the crate's `src/`; the crate root denies it everywhere else.
    Only(&'static [&'static str]),
    /// Anywhere, each use under its `SAFETY:` line.
    Documented,
}

/// Who a crate talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// To its caller only: settings come in as arguments, progress and errors go out as values.
    Silent,
    /// To a person or a test: it may read the environment and print.
    Outspoken,
}

/// One crate of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// Folder under `crates/`; the package is called `alti-<folder>`.
    pub folder: &'static str,
    /// Its one job.
    pub job: &'static str,
    /// The crates it may depend on. What those depend on it may use as well.
    pub depends_on: &'static [&'static str],
    /// Where it may hold `unsafe` code.
    pub unsafe_code: UnsafeCode,
    /// Whether it may read the environment and print.
    pub voice: Voice,
}

const fn inner(folder: &'static str, job: &'static str, depends_on: &'static [&'static str]) -> Crate {
    Crate { folder, job, depends_on, unsafe_code: UnsafeCode::Forbidden, voice: Voice::Silent }
}

/// Every crate, each after the crates it depends on.
pub const CRATES: &[Crate] = &[
    inner(
        "tensor",
        "dtypes, block-quantised formats, tensors, the `Backend` traits, `Reference`, `Tape`",
        &[],
    ),
    Crate {
        unsafe_code: UnsafeCode::Documented,
        ..inner(
            "cpu",
            "the fast CPU backend: kernels per instruction set, thread pool, repacking",
            &["tensor"],
        )
    },
    Crate {
        unsafe_code: UnsafeCode::Only(&["mmap.rs"]),
        ..inner("formats", "GGUF, safetensors, Meta checkpoints: read, write, convert, quantise", &["tensor"])
    },
    inner("text", "tokenizers, chat templates, streaming detokeniser", &["formats"]),
    inner("models", "Llama 2, 3.x and 4, written once over `Backend`", &["tensor", "formats"]),
    inner("hub", "the local model store: pull, verify, list, licences, provenance", &["formats"]),
    inner(
        "store",
        "the embedded database: keys, usage, conversations, responses, files, batches, vector stores",
        &[],
    ),
    inner("engine", "one running model: generation, KV cache, sampling", &["models", "text"]),
    inner(
        "server",
        "HTTP: the APIs of OpenAI, Anthropic, Ollama and llama.cpp, keys, metering, metrics",
        &["store", "text", "engine"],
    ),
    inner(
        "plan",
        "the compute planner: pure functions from workload and hardware to time, memory, power, money",
        &[],
    ),
    Crate {
        voice: Voice::Outspoken,
        ..inner(
            "cli",
            "the one binary `alti`: parse, wire up, print, exit code",
            &["tensor", "cpu", "formats", "text", "models", "hub", "store", "engine", "plan", "server"],
        )
    },
    Crate {
        voice: Voice::Outspoken,
        ..inner(
            "testkit",
            "tiny models, goldens, the conformance suite of backends (only ever a dev-dependency)",
            TESTKIT,
        )
    },
];

/// What the test helpers may reach: everything that is not a program.
const TESTKIT: &[&str] = &["tensor", "formats", "text", "models"];

/// Crates at the top, each with the only one that may depend on it: the binary wires the server up, nothing the binary.
pub const TOP: [(&str, Option<&str>); 2] = [("server", Some("cli")), ("cli", None)];

/// Whether an arrow to a crate at the top is one that must not be.
#[must_use]
pub fn is_forbidden(from: &str, to: &str) -> bool {
    TOP.iter().any(|&(top, user)| top == to && user != Some(from))
}

/// The crate that is only ever a dev-dependency.
pub const DEV_ONLY: &str = "testkit";

/// The crate in `folder`, if the map has it.
#[must_use]
pub fn find(folder: &str) -> Option<&'static Crate> {
    CRATES.iter().find(|entry| entry.folder == folder)
}

/// Everything that `folder` may depend on: what its row names, and what those may depend on in turn.
#[must_use]
pub fn reachable(folder: &str) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&'static str> =
        find(folder).map(|entry| entry.depends_on.to_vec()).unwrap_or_default();
    while let Some(next) = pending.pop() {
        if reached.insert(next) {
            pending.extend(find(next).map(|entry| entry.depends_on).unwrap_or_default());
        }
    }
    reached
}

/// The map as a Markdown table.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| crate | its one job | depends on | `unsafe` |\n|---|---|---|---|\n");
    for entry in CRATES {
        let depends_on =
            if entry.depends_on.is_empty() { "-".to_string() } else { entry.depends_on.join(" ") };
        let unsafe_code = match entry.unsafe_code {
            UnsafeCode::Forbidden => "forbidden".to_string(),
            UnsafeCode::Only(files) => format!("only `{}`", files.join("`, `")),
            UnsafeCode::Documented => "each under a `SAFETY:` line".to_string(),
        };
        writeln!(table, "| `{}` | {} | {depends_on} | {unsafe_code} |", entry.folder, entry.job)
            .unwrap_or_else(|_| unreachable!("writing to a string cannot fail"));
    }
    table
}
