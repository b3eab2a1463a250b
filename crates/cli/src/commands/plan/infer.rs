//! `alti plan infer`: servers for users, within latency targets.

use super::inputs::{HardwareOptions, ModelOptions, count};
use super::screen::row;
use super::train::{formula, write};
use crate::environment::Environment;
use crate::{input, output};
use alti_plan::PlanError;
use alti_plan::economics::Economics;
use alti_plan::explain::explain_serving;
use alti_plan::hardware::PRECISIONS;
use alti_plan::inference::{RequestShape, Server, ServingCalibration, Speculation};
use alti_plan::queueing::Latency;
use alti_plan::report::serving_report;
use alti_plan::serve::{ServePlan, ServeRequest, plan_serving};
use alti_plan::trace::{TracePlan, parse_trace};
use alti_plan::units::{digits, duration, money, short, thousands};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// Plan serving: servers, latency, money for a million tokens
#[derive(Debug, clap::Args)]
pub struct InferCommand {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    hardware: HardwareOptions,
    /// Accelerators that share a server (tensor parallel)
    #[arg(long, default_value_t = 1)]
    tp: u32,
    /// What weights are kept in
    #[arg(long, default_value = "fp8", value_parser = PossibleValuesParser::new(PRECISIONS.map(|row| row.0)))]
    precision: String,
    /// What keys and values are kept in
    #[arg(long, default_value = "fp8", value_parser = PossibleValuesParser::new(PRECISIONS.map(|row| row.0)))]
    cache_precision: String,
    /// Tokens of a mean prompt
    #[arg(long, default_value = "1000", value_parser = count)]
    input: f64,
    /// Tokens of a mean answer
    #[arg(long, default_value = "300", value_parser = count)]
    output: f64,
    /// Requests a second in the busiest hour
    #[arg(long, value_parser = count, conflicts_with_all = ["users", "trace"])]
    requests: Option<f64>,
    /// Users a day, each with `requests_a_user` of the settings (10) over the day
    #[arg(long, value_parser = count, conflicts_with = "trace")]
    users: Option<f64>,
    /// Part of prompt tokens found in the prefix cache
    #[arg(long, default_value_t = 0.0)]
    prefix_hits: f64,
    /// Tokens drafted at a time; accepted part and cost of a draft follow: `4,0.7,0.05`
    #[arg(long, value_name = "K,ACCEPTED,COST", value_parser = speculation)]
    speculate: Option<Speculation>,
    /// CSV file of requests to size the servers over: seconds or ISO 8601 times, input tokens, output tokens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Servers to judge over the trace [default: as many as it needs]
    #[arg(long, value_parser = count, requires = "trace")]
    servers: Option<f64>,
    /// What a closed API charges for a million tokens of prompt, to compare with
    #[arg(long, value_name = "DOLLARS")]
    api_input: Option<f64>,
    /// What a closed API charges for a million tokens of answer
    #[arg(long, value_name = "DOLLARS")]
    api_output: Option<f64>,
    /// Write a page with charts that opens without a network
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show every formula with its numbers
    #[arg(long)]
    explain: bool,
}

fn speculation(text: &str) -> Result<Speculation, String> {
    let numbers: Vec<f64> = text.split(',').filter_map(|it| it.trim().parse().ok()).collect();
    match numbers.as_slice() {
        [drafted, accepted, draft_cost] => {
            Ok(Speculation { drafted: *drafted, accepted: *accepted, draft_cost: *draft_cost })
        }
        _ => Err("must be three numbers, such as 4,0.7,0.05".to_owned()),
    }
}

impl InferCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the model does not fit, or nothing meets the targets.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let settings = self.hardware.settings()?;
        let accelerator = self.hardware.accelerator(&settings)?;
        let model = self.model.shape(environment)?;
        let mut traffic = settings.traffic.clone();
        if let Some(users) = self.users {
            traffic.peak_requests = users * traffic.requests_a_user / 86_400.0 / traffic.mean_load();
        }
        traffic.peak_requests = self.requests.unwrap_or(traffic.peak_requests);
        traffic.api_input_price = self.api_input.or(traffic.api_input_price);
        traffic.api_output_price = self.api_output.or(traffic.api_output_price);
        if self.tp == 0 {
            return Err(PlanError::value("tensor parallel", 0, "it must be at least 1", "use 1").into());
        }
        let trace = match &self.trace {
            Some(path) => Some(parse_trace(&path.display().to_string(), &input::text(path)?)?),
            None => None,
        };
        let request = ServeRequest {
            server: Server {
                model: &model,
                accelerator: &accelerator,
                tensor: self.tp,
                precision: &self.precision,
                cache_precision: &self.cache_precision,
                prefix_hits: self.prefix_hits,
                speculation: self.speculate,
                calibration: ServingCalibration::of(&accelerator),
            },
            shape: RequestShape { input: self.input, output: self.output },
            traffic,
            targets: settings.targets,
            economics: settings.economics,
            trace,
            servers: self.servers,
        };
        let plan = plan_serving(&request)?;
        let formulas = explain_serving(&request, &plan);
        if let Some(path) = &self.report {
            write(path, &serving_report(&request, &plan, &formulas))?;
        }
        if self.explain {
            return output::result(json, &formulas, |lines| lines.iter().map(formula).collect());
        }
        output::result(json, &plan, |plan| text(&request, self.users, plan))
    }
}

fn waits(latency: &Latency) -> String {
    format!(
        "first token {} (99 of 100: {}), between tokens {} ({})",
        duration(latency.first_token_median),
        duration(latency.first_token_p99),
        duration(latency.between_median),
        duration(latency.between_p99)
    )
}

fn text(request: &ServeRequest<'_>, users: Option<f64>, plan: &ServePlan) -> String {
    let server = &request.server;
    let mut text = String::new();
    let asked = match (&plan.trace, users) {
        (Some(trace), _) => format!("a trace of {} requests", thousands(trace.requests as f64)),
        (None, Some(users)) => format!(
            "{} users with {} requests a day each, {} requests/s at the busiest",
            short(users),
            digits(request.traffic.requests_a_user),
            digits(request.traffic.peak_requests)
        ),
        (None, None) => format!("{} requests/s at the busiest", digits(request.traffic.peak_requests)),
    };
    let head = format!(
        "{} in {} on servers of {} {}, {} tokens in and {} out, {asked}",
        server.model.name,
        server.precision,
        server.tensor,
        server.accelerator.name,
        digits(plan.shape.input),
        digits(plan.shape.output)
    );
    row(&mut text, 0, "", &head);
    text.push('\n');
    let mut row = |label: &str, value: String| row(&mut text, 15, label, &value);
    row(
        "servers",
        format!(
            "{} ({} accelerators, {} kW)",
            thousands(plan.servers),
            thousands(plan.accelerators),
            digits(plan.power / 1e3)
        ),
    );
    row(
        "one server",
        format!(
            "{} random requests/s within the targets, {} at most",
            digits(plan.requests_a_server),
            digits(plan.most.requests)
        ),
    );
    match &plan.trace {
        Some(trace) => of_trace(trace, &mut row),
        None => row("users wait", waits(&plan.latency)),
    }
    row(
        "batch",
        format!(
            "{} sequences on average, {} at most; {} B of keys and values a token",
            digits(plan.latency.batch),
            digits(plan.most.batch),
            short(plan.cache_bytes_a_token)
        ),
    );
    let money_a_day = format!(
        "{} a day; ${} a million tokens of answers, ${} of all tokens; {}",
        money(plan.cost_a_day),
        digits(plan.per_million_output),
        digits(plan.per_million),
        Economics { used: 1.0, ..request.economics }.said()
    );
    row("money", money_a_day);
    if let Some(api) = plan.api_cost_a_day {
        let words = format!("{} a day for the same tokens: {}x", money(api), digits(api / plan.cost_a_day));
        row("closed API", words);
    }
    match &plan.disaggregated {
        Some(apart) => row(
            "apart",
            format!(
                "{} servers prefill and {} decode ({} accelerators); {} to send a cache; {}",
                apart.prefill_servers,
                apart.decode_servers,
                apart.accelerators,
                duration(apart.transfer),
                waits(&apart.latency)
            ),
        ),
        None => row("apart", "prefill and decode on servers of their own do not meet the targets".to_owned()),
    }
    text
}

fn of_trace(trace: &TracePlan, row: &mut impl FnMut(&str, String)) {
    row("users wait", format!("{}; {:.1} % answered", waits(&trace.latency), 100.0 * trace.latency.answered));
    let verdict = if trace.met { "met" } else { "MISSED" };
    let words = format!("{verdict} by {} servers; {} meet them at least", trace.servers, trace.needed);
    row("targets", words);
    if trace.too_long > 0 {
        let words =
            format!("{} requests left out: longer than a server holds", thousands(trace.too_long as f64));
        row("too long", words);
    }
}
