//! `alti doctor`: what this machine has, and what will run on it at what speed.

use crate::environment::Environment;
use crate::fitting::{ModelSpeed, speeds};
use crate::machine::{Bandwidth, CacheSize, bandwidths, caches};
use crate::model::{available_memory, cores, cpu_isa};
use crate::output::{self, bytes};
use crate::{interrupt, packed, pulling};
use alti_cpu::{CpuError, Isa};
use alti_hub::catalogue::DEFAULT_MODEL;
use alti_hub::{Observer, Silent};
use serde::Serialize;
use std::path::PathBuf;

/// Show what this machine has and what will run
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti doctor
  alti doctor --network      also ask whether the Hub answers
  alti doctor --json

Every weight is read once for each token, so that memory bandwidth bounds the speed of an answer:
the rates shown are bandwidth over bytes of weights, an upper bound.")]
pub struct DoctorCommand {
    /// Ask whether the Hub answers
    #[arg(long)]
    network: bool,
}

#[derive(Debug, Serialize)]
struct Findings {
    processor: String,
    isa: &'static str,
    isa_available: Vec<&'static str>,
    cores: usize,
    caches: Vec<CacheSize>,
    memory_total: u64,
    memory_available: u64,
    bandwidth: Vec<Bandwidth>,
    models: Vec<ModelSpeed>,
    store: PathBuf,
    store_models: usize,
    /// Bytes on disk, and those of them that no model uses; absent where a manifest is damaged.
    store_bytes: Option<u64>,
    store_unused_bytes: Option<u64>,
    /// Models whose weights are kept packed, and the bytes that takes.
    packed_models: usize,
    packed_bytes: u64,
    default_model: &'static str,
    default_model_present: bool,
    pip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<HubAnswer>,
}

#[derive(Debug, Serialize)]
struct HubAnswer {
    endpoint: String,
    reachable: bool,
    problem: Option<String>,
}

impl DoctorCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the store cannot be opened, `ALTI_ISA` names what this machine lacks, or there is no memory to measure.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let findings = self.look(environment)?;
        output::result(json, &findings, Findings::text)
    }

    fn look(&self, environment: &Environment) -> anyhow::Result<Findings> {
        let store = pulling::store(environment)?;
        let settings = pulling::settings(environment);
        let (usage, packed) = (store.usage().ok(), packed::kept(environment));
        let available = available_memory();
        let bandwidth = measured_bandwidth(available)?;
        let best = bandwidth.iter().map(|row| row.bytes_per_second).fold(0.0, f64::max);
        Ok(Findings {
            processor: processor(),
            isa: cpu_isa(environment)?.name(),
            isa_available: Isa::available().into_iter().map(Isa::name).collect(),
            cores: cores(),
            caches: caches(),
            memory_total: total_memory(),
            memory_available: available,
            models: speeds(available, best),
            bandwidth,
            store: store.root().to_owned(),
            store_models: store.list()?.models.len(),
            store_bytes: usage.map(|usage| usage.total()),
            store_unused_bytes: usage.map(|usage| usage.unused()),
            packed_models: packed.0,
            packed_bytes: packed.1,
            default_model: DEFAULT_MODEL,
            default_model_present: store.resolve(DEFAULT_MODEL).is_ok(),
            pip: alti_hub::pip_command(&settings),
            hub: self.network.then(|| {
                let cancel = interrupt::flag();
                let asked = alti_hub::reach(&settings, Observer::new(&Silent, &cancel));
                let problem = asked.err().map(|error| error.to_string());
                HubAnswer { endpoint: settings.endpoint.clone(), reachable: problem.is_none(), problem }
            }),
        })
    }
}

fn processor() -> String {
    let mut system = sysinfo::System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory, of the container where that has less.
fn total_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    system.total_memory().min(limit)
}

fn measured_bandwidth(available: u64) -> Result<Vec<Bandwidth>, CpuError> {
    const MOST: u64 = 512 << 20;
    let mut threads = vec![1, cores()];
    threads.dedup();
    bandwidths((available / 4).min(MOST) as usize, &threads)
}

impl Findings {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |label: &str, value: String| text += &format!("{label:14} {value}\n");
        row("processor", format!("{}, {} cores for this process", self.processor, self.cores));
        row("instructions", format!("{} (of {})", self.isa, self.isa_available.join(", ")));
        let caches =
            self.caches.iter().map(|cache| format!("L{} {} {}", cache.level, cache.kind, cache.size));
        row("caches", caches.collect::<Vec<_>>().join(", "));
        let free = bytes(self.memory_available);
        row("memory", format!("{}, {free} free", bytes(self.memory_total)));
        for found in &self.bandwidth {
            let threads = if found.threads == 1 { "thread" } else { "threads" };
            let rate = found.bytes_per_second / 1e9;
            row("bandwidth", format!("{rate:.1} GB/s read by {} {threads}", found.threads));
        }
        let models = if self.store_models == 1 { "model" } else { "models" };
        let taken = self.store_bytes.map(|taken| format!(", {} on disk", bytes(taken))).unwrap_or_default();
        let unused = self.store_unused_bytes.filter(|&unused| unused > 0);
        let unused = unused.map(|unused| format!(" ({} unused: `alti rm --unused`)", bytes(unused)));
        let store = format!("{} with {} {models}", self.store.display(), self.store_models);
        row("store", store + &taken + &unused.unwrap_or_default());
        if self.packed_models > 0 {
            let models = if self.packed_models == 1 { "model" } else { "models" };
            let taken = bytes(self.packed_bytes);
            row(
                "packed",
                format!("weights of {} {models}, {taken} (ALTI_PACKED=off keeps none)", self.packed_models),
            );
        }
        let present = if self.default_model_present { "is there" } else { "is fetched when first used" };
        row("default model", format!("{} {present}", self.default_model));
        row("pip", self.pip.clone().unwrap_or_else(|| "none found: models come from the Hub".to_owned()));
        if let Some(hub) = &self.hub {
            let answer = hub.problem.clone().unwrap_or_else(|| "answers".to_owned());
            row("hub", format!("{} {answer}", hub.endpoint));
        }
        text +=
            &format!("\n{:32} {:8} {:>10}  {}\n", "WHAT FITS NOW", "", "WEIGHTS", "TOKENS A SECOND, AT MOST");
        for model in &self.models {
            let size = bytes(model.bytes);
            let rate = model.tokens_per_second_at_most;
            text += &format!("{:32} {:8} {size:>10}  {rate:.1}\n", model.model, model.quantization);
        }
        text
    }
}
