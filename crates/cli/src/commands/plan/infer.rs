//! `alti plan infer`: servers for users, within latency targets.

use super::inputs::{HardwareOptions, ModelOptions, count};
use crate::environment::Environment;
use crate::{input, output};
use alti_plan::PlanError;
use alti_plan::hardware::PRECISIONS;
use alti_plan::inference::{RequestShape, Server, ServingCalibration, Speculation};
use alti_plan::queueing::Latency;
use alti_plan::serve::{ServePlan, ServeRequest, parse_trace, plan_serving};
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
    #[arg(long, value_parser = count, conflicts_with = "users")]
    requests: Option<f64>,
    /// Users a day, each with ten requests over the day
    #[arg(long, value_parser = count)]
    users: Option<f64>,
    /// Part of prompt tokens found in the prefix cache
    #[arg(long, default_value_t = 0.0)]
    prefix_hits: f64,
    /// Tokens drafted at a time; accepted part and cost of a draft follow: `4,0.7,0.05`
    #[arg(long, value_name = "K,ACCEPTED,COST", value_parser = speculation)]
    speculate: Option<Speculation>,
    /// CSV file of requests to simulate: seconds, input tokens, output tokens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What a closed API charges for a million tokens of prompt, to compare with
    #[arg(long, value_name = "DOLLARS")]
    api_input: Option<f64>,
    /// What a closed API charges for a million tokens of answer
    #[arg(long, value_name = "DOLLARS")]
    api_output: Option<f64>,
}

/// Requests of a user a day, where only users are given.
const REQUESTS_A_USER: f64 = 10.0;

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
        let mean = traffic.curve.iter().sum::<f64>() / traffic.curve.len().max(1) as f64;
        if let Some(users) = self.users {
            traffic.peak_requests = users * REQUESTS_A_USER / 86_400.0 / mean.max(1e-9);
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
            economics: settings.economics(),
            trace,
        };
        let plan = plan_serving(&request)?;
        output::result(json, &plan, |plan| text(&request, plan))
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

fn text(request: &ServeRequest<'_>, plan: &ServePlan) -> String {
    let server = &request.server;
    let mut text = format!(
        "{} in {} on servers of {} {}, {} tokens in and {} out, {} requests/s at the busiest\n\n",
        server.model.name,
        server.precision,
        server.tensor,
        server.accelerator.name,
        request.shape.input,
        request.shape.output,
        digits(request.traffic.peak_requests)
    );
    let mut row = |label: &str, value: String| text += &format!("{label:14} {value}\n");
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
            "{} requests/s within the targets, {} at most",
            digits(plan.requests_a_server),
            digits(plan.most.requests)
        ),
    );
    row("users wait", waits(&plan.latency));
    row(
        "batch",
        format!(
            "{} sequences on average, {} at most; {} B of keys and values a token",
            digits(plan.latency.batch),
            digits(plan.most.batch),
            short(plan.cache_bytes_a_token)
        ),
    );
    row(
        "money",
        format!(
            "{} a day; ${} a million tokens of answers, ${} of all tokens",
            money(plan.cost_a_day),
            digits(plan.per_million_output),
            digits(plan.per_million)
        ),
    );
    if let Some(api) = plan.api_cost_a_day {
        row(
            "closed API",
            format!("{} a day for the same tokens: {}x", money(api), digits(api / plan.cost_a_day)),
        );
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
    if let Some(trace) = &plan.trace {
        row("trace", format!("{}; {:.1} % answered", waits(trace), 100.0 * trace.answered));
    }
    text
}
