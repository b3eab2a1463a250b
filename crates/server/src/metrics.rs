//! Counters of the server, and how they and the engines' are written for Prometheus.
//!
//! The names that begin with `vllm:` are what the Kubernetes Gateway API inference extension's model server protocol
//! reads by default (`docs/proposals/003-model-server-protocol` of that project); the same values are there under this
//! project's own names. Those that begin with `llamacpp:` are what llama.cpp's server tells of its one model: here they
//! are sums over all of them.

use crate::models::LoadedModel;
use crate::route::Route;
use crate::telemetry::SpanCounts;
use alti_store::Money;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the histograms, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// How often something took how long.
#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        for (count, bound) in self.counts.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let separator = if labels.is_empty() { "" } else { "," };
        for (count, bound) in self.counts.iter().zip(BOUNDS) {
            line(text, format_args!("{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}"));
        }
        line(text, format_args!("{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {}", self.count));
        line(text, format_args!("{name}_sum{{{labels}}} {}", self.sum));
        line(text, format_args!("{name}_count{{{labels}}} {}", self.count));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _cannot_fail = text.write_fmt(arguments);
    text.push('\n');
}

/// What one model's requests took.
#[derive(Clone, Debug, Default)]
struct ModelCounts {
    answers: BTreeMap<&'static str, u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    prefill_seconds: f64,
    decode_seconds: f64,
    cpu_seconds: f64,
    cost: Money,
    queue: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    total: Histogram,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, &'static str, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    models: BTreeMap<String, ModelCounts>,
}

/// Counters of the server.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
}

/// Models counted apart: names come from the owner's machine, and there are few.
const MOST_MODELS: usize = 1000;

impl Metrics {
    /// Counts a request and how long its headers took.
    pub(crate) fn count_request(&self, route: &'static Route, status: u16, took: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.requests.entry((route.verb.name(), route.path, status)).or_default() += 1;
        counts.durations.entry(route.path).or_default().add(took.as_secs_f64());
    }

    /// Counts what an answer took.
    pub(crate) fn count_answer(&self, row: &crate::auth::UsageRow) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.models.len() >= MOST_MODELS && !counts.models.contains_key(&row.model) {
            return;
        }
        let model = counts.models.entry(row.model.clone()).or_default();
        *model.answers.entry(row.outcome).or_default() += 1;
        model.prompt_tokens += row.prompt_tokens;
        model.cached_tokens += row.cached_tokens;
        model.generated_tokens += row.generated_tokens;
        model.prefill_seconds += row.prefill_seconds;
        model.decode_seconds += row.decode_seconds;
        model.cpu_seconds += row.cpu_seconds;
        model.cost = model.cost + row.cost;
        model.queue.add(row.queue_seconds);
        model.first_token.add(row.queue_seconds + row.prefill_seconds);
        model.total.add(row.queue_seconds + row.prefill_seconds + row.decode_seconds);
        if row.generated_tokens > 1 {
            model.between_tokens.add(row.decode_seconds / (row.generated_tokens - 1) as f64);
        }
    }

    /// Everything, as Prometheus reads it.
    pub fn prometheus(&self, uptime_seconds: f64, loaded: &[LoadedModel]) -> String {
        let mut text = String::with_capacity(8 << 10);
        head(&mut text, "alti_uptime_seconds", "gauge", "Seconds since the server started.");
        line(&mut text, format_args!("alti_uptime_seconds {uptime_seconds}"));
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        write_requests(&mut text, &counts);
        write_answers(&mut text, &counts.models);
        let mut sums = Sums::of_answers(&counts.models);
        drop(counts);
        let engines = engines(loaded);
        write_engines(&mut text, &engines);
        sums.add_engines(&engines);
        write_sums(&mut text, &sums);
        text
    }
}

/// Writes what became of spans.
pub(crate) fn write_spans(text: &mut String, spans: &SpanCounts) {
    let name = "alti_trace_spans_total";
    head(text, name, "counter", "Spans, by what became of them.");
    let outcomes = [("exported", spans.exported()), ("failed", spans.failed()), ("dropped", spans.dropped())];
    for (outcome, count) in outcomes {
        line(text, format_args!("{name}{{outcome=\"{outcome}\"}} {count}"));
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}"));
    line(text, format_args!("# TYPE {name} {kind}"));
}

fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write_requests(text: &mut String, counts: &Counts) {
    head(text, "alti_http_requests_total", "counter", "Requests answered.");
    for ((method, path, status), count) in &counts.requests {
        let labels = format!("method=\"{method}\",path=\"{path}\",status=\"{status}\"");
        line(text, format_args!("alti_http_requests_total{{{labels}}} {count}"));
    }
    let name = "alti_http_request_duration_seconds";
    head(text, name, "histogram", "Time to the first byte of the answer.");
    for (path, histogram) in &counts.durations {
        histogram.write(text, name, &format!("path=\"{path}\""));
    }
}

type Counter = (&'static str, &'static str, fn(&ModelCounts) -> f64);
type Timing = (&'static str, &'static str, fn(&ModelCounts) -> &Histogram);

/// Sums over a model's answers.
const COUNTERS: &[Counter] = &[
    ("alti_prompt_tokens_total", "Tokens of prompts.", |m| m.prompt_tokens as f64),
    ("alti_prompt_tokens_cached_total", "Tokens of prompts that were cached.", |m| m.cached_tokens as f64),
    ("alti_generated_tokens_total", "Tokens generated.", |m| m.generated_tokens as f64),
    ("alti_answer_cpu_seconds_total", "Seconds of all cores' time spent on answers.", |m| m.cpu_seconds),
    ("alti_answer_cost_total", "Cost of answers at the owner's price.", |m| m.cost.units()),
];

/// How long a model's answers took.
const TIMINGS: &[Timing] = &[
    ("alti_queue_seconds", "Time from submission to the first step.", |m| &m.queue),
    ("alti_time_to_first_token_seconds", "Time from submission to the first token.", |m| &m.first_token),
    ("alti_time_per_output_token_seconds", "Mean time between an answer's tokens.", |m| &m.between_tokens),
    ("alti_answer_seconds", "Time from submission to the last token.", |m| &m.total),
];

fn write_answers(text: &mut String, models: &BTreeMap<String, ModelCounts>) {
    head(text, "alti_answers_total", "counter", "Answers, by how they ended.");
    for (name, model) in models {
        for (outcome, count) in &model.answers {
            line(
                text,
                format_args!("alti_answers_total{{model=\"{}\",outcome=\"{outcome}\"}} {count}", label(name)),
            );
        }
    }
    for (name, help, value) in COUNTERS {
        head(text, name, "counter", help);
        for (model, counts) in models {
            line(text, format_args!("{name}{{model=\"{}\"}} {}", label(model), value(counts)));
        }
    }
    for (name, help, histogram) in TIMINGS {
        head(text, name, "histogram", help);
        for (model, counts) in models {
            histogram(counts).write(text, name, &format!("model=\"{}\"", label(model)));
        }
    }
}

/// An engine's numbers.
struct Engine {
    name: String,
    status: alti_engine::serving::Status,
    /// Answers in the works at once, at most.
    slots: usize,
    users: usize,
    memory_bytes: u64,
}

impl Engine {
    /// The part of the pages that running answers hold.
    fn utilisation(&self) -> f64 {
        ratio(self.status.used_pages as f64, self.status.pages as f64)
    }
}

type EngineValue = (&'static str, &'static str, &'static str, fn(&Engine) -> f64);

/// Every number of an engine. The names with `vllm:` are the inference extension's.
const ENGINE_VALUES: &[EngineValue] = &[
    ("vllm:num_requests_waiting", "gauge", "Answers that wait for a step.", |e| e.status.waiting as f64),
    ("vllm:num_requests_running", "gauge", "Answers in the works.", |e| e.status.running as f64),
    ("vllm:gpu_cache_usage_perc", "gauge", "Part of the K/V pages in use, 0 to 1.", Engine::utilisation),
    ("vllm:kv_cache_usage_perc", "gauge", "Part of the K/V pages in use, 0 to 1.", Engine::utilisation),
    ("alti_requests_waiting", "gauge", "Answers that wait for a step.", |e| e.status.waiting as f64),
    ("alti_requests_running", "gauge", "Answers in the works.", |e| e.status.running as f64),
    ("alti_kv_utilization", "gauge", "Part of the K/V pages in use, 0 to 1.", Engine::utilisation),
    ("alti_kv_pages", "gauge", "Pages of keys and values.", |e| e.status.pages as f64),
    ("alti_kv_pages_used", "gauge", "Pages that running answers hold.", |e| e.status.used_pages as f64),
    ("alti_kv_pages_cached", "gauge", "Pages that hold prefixes nobody uses now.", |e| {
        e.status.cached_pages as f64
    }),
    ("alti_kv_page_tokens", "gauge", "Tokens a page holds.", |e| e.status.page_tokens as f64),
    ("alti_model_users", "gauge", "Requests that use the model.", |e| e.users as f64),
    ("alti_model_memory_bytes", "gauge", "Memory that the model takes.", |e| e.memory_bytes as f64),
    ("alti_engine_steps_total", "counter", "Steps taken.", |e| e.status.steps as f64),
    ("alti_engine_step_seconds_total", "counter", "Seconds spent in steps.", |e| e.status.step_seconds),
    ("alti_engine_prefill_tokens_total", "counter", "Prompt tokens computed.", |e| {
        e.status.prefill_tokens as f64
    }),
    ("alti_engine_cached_tokens_total", "counter", "Prompt tokens cached.", |e| {
        e.status.cached_tokens as f64
    }),
    ("alti_engine_generated_tokens_total", "counter", "Tokens generated.", |e| {
        e.status.generated_tokens as f64
    }),
    ("alti_engine_drafted_tokens_total", "counter", "Tokens drafted.", |e| e.status.drafted_tokens as f64),
    ("alti_engine_accepted_tokens_total", "counter", "Drafted tokens that were right.", |e| {
        e.status.accepted_tokens as f64
    }),
    ("alti_engine_preemptions_total", "counter", "Answers that made room for others.", |e| {
        e.status.preemptions as f64
    }),
    ("alti_engine_finished_total", "counter", "Answers finished.", |e| e.status.finished as f64),
];

/// The loaded models' numbers.
fn engines(loaded: &[LoadedModel]) -> Vec<Engine> {
    let engine = |loaded: &LoadedModel| Engine {
        name: label(&loaded.model.facts.name),
        status: loaded.model.inference.status(),
        slots: loaded.model.inference.max_running(),
        users: loaded.users,
        memory_bytes: loaded.model.memory_bytes,
    };
    loaded.iter().map(engine).collect()
}

fn write_engines(text: &mut String, engines: &[Engine]) {
    for (name, kind, help, value) in ENGINE_VALUES {
        head(text, name, kind, help);
        // vLLM calls the label so, and the extension's router expects it.
        let key = if name.starts_with("vllm:") { "model_name" } else { "model" };
        for engine in engines {
            line(text, format_args!("{name}{{{key}=\"{}\"}} {}", engine.name, value(engine)));
        }
    }
    head(text, "vllm:lora_requests_info", "gauge", "Loaded adapters; the value is when it was written.");
    for engine in engines {
        let labels = format!(
            "model_name=\"{}\",max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"\"",
            engine.name,
            engine.slots,
            label(&engine.status.adapters.join(","))
        );
        line(text, format_args!("vllm:lora_requests_info{{{labels}}} {}", crate::ids::unix_seconds()));
    }
    head(text, "vllm:cache_config_info", "gauge", "How keys and values are kept.");
    for engine in engines {
        let labels = format!(
            "model_name=\"{}\",block_size=\"{}\",num_gpu_blocks=\"{}\"",
            engine.name, engine.status.page_tokens, engine.status.pages
        );
        line(text, format_args!("vllm:cache_config_info{{{labels}}} 1"));
    }
}

/// Sums over all models.
#[derive(Debug, Default)]
struct Sums {
    /// Tokens of prompts that were computed.
    prompt_tokens: u64,
    prompt_seconds: f64,
    generated_tokens: u64,
    generated_seconds: f64,
    running: usize,
    waiting: usize,
    used_pages: usize,
    pages: usize,
}

impl Sums {
    fn of_answers(models: &BTreeMap<String, ModelCounts>) -> Sums {
        let mut sums = Sums::default();
        for model in models.values() {
            sums.prompt_tokens += model.prompt_tokens.saturating_sub(model.cached_tokens);
            sums.prompt_seconds += model.prefill_seconds;
            sums.generated_tokens += model.generated_tokens;
            sums.generated_seconds += model.decode_seconds;
        }
        sums
    }

    fn add_engines(&mut self, engines: &[Engine]) {
        for Engine { status, .. } in engines {
            self.running += status.running;
            self.waiting += status.waiting;
            self.used_pages += status.used_pages;
            self.pages += status.pages;
        }
    }
}

/// A quotient; 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

type SumValue = (&'static str, &'static str, &'static str, fn(&Sums) -> f64);

/// What llama.cpp's server tells, but for `n_decode_total`: steps are counted by engines, and a sum over those that are
/// loaded would fall when one goes. `alti_engine_steps_total` has them by model.
const SUM_VALUES: &[SumValue] = &[
    ("llamacpp:prompt_tokens_total", "counter", "Tokens of prompts computed.", |s| s.prompt_tokens as f64),
    ("llamacpp:prompt_seconds_total", "counter", "Seconds spent on prompts.", |s| s.prompt_seconds),
    ("llamacpp:tokens_predicted_total", "counter", "Tokens generated.", |s| s.generated_tokens as f64),
    ("llamacpp:tokens_predicted_seconds_total", "counter", "Seconds spent on generating.", |s| {
        s.generated_seconds
    }),
    ("llamacpp:prompt_tokens_seconds", "gauge", "Mean tokens of prompts computed in a second.", |s| {
        ratio(s.prompt_tokens as f64, s.prompt_seconds)
    }),
    ("llamacpp:predicted_tokens_seconds", "gauge", "Mean tokens generated in a second.", |s| {
        ratio(s.generated_tokens as f64, s.generated_seconds)
    }),
    ("llamacpp:requests_processing", "gauge", "Answers in the works.", |s| s.running as f64),
    ("llamacpp:requests_deferred", "gauge", "Answers that wait for a step.", |s| s.waiting as f64),
    ("llamacpp:kv_cache_usage_ratio", "gauge", "Part of the K/V pages in use, 0 to 1.", |s| {
        ratio(s.used_pages as f64, s.pages as f64)
    }),
];

fn write_sums(text: &mut String, sums: &Sums) {
    for (name, kind, help, value) in SUM_VALUES {
        head(text, name, kind, help);
        line(text, format_args!("{name} {}", value(sums)));
    }
}
