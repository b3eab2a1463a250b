//! A serving plan: servers for a number of requests within latency targets, and what a million tokens cost.

use crate::economics::Economics;
use crate::error::PlanError;
use crate::inference::{RequestShape, Server, Throughput};
use crate::queueing::{Arrival, Latency, Role, Targets, most_requests, waits_in_line};
use crate::settings::Traffic;
use crate::trace::{TracePlan, size_over_trace};
use serde::Serialize;

/// Tokens of prompts that one step computes beside decoding (chunked prefill, arXiv 2308.16369).
pub const CHUNK: f64 = 2048.0;

/// What is asked.
#[derive(Clone, Debug)]
pub struct ServeRequest<'a> {
    /// One server.
    pub server: Server<'a>,
    /// Tokens in and out of a mean request.
    pub shape: RequestShape,
    /// Requests over the day, other prices.
    pub traffic: Traffic,
    /// What users may wait.
    pub targets: Targets,
    /// Prices and site.
    pub economics: Economics,
    /// A trace to size the servers over; random requests at the peak rate where absent.
    pub trace: Option<Vec<Arrival>>,
    /// Servers to judge over the trace; as many as it needs where absent.
    pub servers: Option<f64>,
}

/// Servers that prefill apart from servers that decode.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Disaggregated {
    /// Servers that prefill.
    pub prefill_servers: f64,
    /// Servers that decode.
    pub decode_servers: f64,
    /// Accelerators of all.
    pub accelerators: f64,
    /// Seconds to send keys and values of a request from one to the other.
    pub transfer: f64,
    /// Users' waits from the request to the first token, and between tokens.
    pub latency: Latency,
}

/// A serving plan.
#[derive(Clone, Debug, Serialize)]
pub struct ServePlan {
    /// The most one server does, latency aside.
    pub most: Throughput,
    /// Bytes of keys and values of a token.
    pub cache_bytes_a_token: f64,
    /// Tokens in and out of a mean request: those asked for, or the trace's.
    pub shape: RequestShape,
    /// Requests a second of one server within the targets.
    pub requests_a_server: f64,
    /// Requests of a day.
    pub requests_a_day: f64,
    /// What users of it wait.
    pub latency: Latency,
    /// Servers for the busiest hour.
    pub servers: f64,
    /// Accelerators of all servers.
    pub accelerators: f64,
    /// Power of the site, W.
    pub power: f64,
    /// $ a day with servers for the busiest hour always on.
    pub cost_a_day: f64,
    /// $ a million tokens of answers, the prompts' cost in it.
    pub per_million_output: f64,
    /// $ a million tokens, prompt and answer.
    pub per_million: f64,
    /// $ a day that the closed API would charge, where its prices are given.
    pub api_cost_a_day: Option<f64>,
    /// The same with prefill and decode apart, where that is possible.
    pub disaggregated: Option<Disaggregated>,
    /// How the servers do over the trace given.
    pub trace: Option<TracePlan>,
}

/// Plans servers.
///
/// # Errors
/// When the model does not fit, or no server meets the targets: what is nearest.
pub fn plan_serving(request: &ServeRequest<'_>) -> Result<ServePlan, PlanError> {
    let ServeRequest { server, economics, .. } = request;
    economics.check()?;
    economics.check_prices(server.accelerator)?;
    request.targets.check()?;
    request.traffic.check()?;
    let Some(requests) = &request.trace else { return plan_servers(request, None) };
    // With a trace, its mean request and its rate over the day are planned with.
    let trace = size_over_trace(server, requests, &request.targets, request.servers)?;
    let mut of_trace = request.clone();
    of_trace.shape = trace.shape;
    of_trace.traffic.peak_requests = trace.requests_a_second;
    of_trace.traffic.curve = vec![1.0; 24];
    plan_servers(&of_trace, Some(trace))
}

fn plan_servers(request: &ServeRequest<'_>, trace: Option<TracePlan>) -> Result<ServePlan, PlanError> {
    let ServeRequest { server, shape, traffic, targets, economics, .. } = request;
    let most = server.throughput(*shape)?;
    let found = most_requests(server, *shape, targets, Role::Both, CHUNK);
    let (requests_a_server, latency) = found.ok_or_else(|| too_slow(server, *shape, targets))?;
    let random = (traffic.peak_requests / requests_a_server).ceil();
    let servers = trace.as_ref().map_or(random, |trace| trace.servers);
    let accelerators = servers * f64::from(server.tensor);
    // Servers for the busiest hour are there all day, and those bought are paid for all day.
    let always = Economics { used: 1.0, ..*economics };
    let cost_a_day = always.bill(server.accelerator, accelerators * 24.0).total();
    let requests_a_day = traffic.peak_requests * traffic.mean_load() * 86_400.0;
    let millions = |tokens: f64| (requests_a_day * tokens / 1e6).max(1e-12);
    let api_cost_a_day = match (traffic.api_input_price, traffic.api_output_price) {
        (None, None) => None,
        (input, output) => Some(
            input.unwrap_or(0.0) * millions(shape.input) + output.unwrap_or(0.0) * millions(shape.output),
        ),
    };
    Ok(ServePlan {
        most,
        shape: *shape,
        cache_bytes_a_token: server.cache_bytes(),
        requests_a_server,
        requests_a_day,
        latency,
        servers,
        accelerators,
        power: economics.site_power(server.accelerator, accelerators),
        cost_a_day,
        per_million_output: cost_a_day / millions(shape.output),
        per_million: cost_a_day / millions(shape.input + shape.output),
        api_cost_a_day,
        disaggregated: disaggregate(request),
        trace,
    })
}

fn too_slow(server: &Server<'_>, shape: RequestShape, targets: &Targets) -> PlanError {
    let first = server.prefill(shape.input);
    let between = server.decode(1.0, shape.input + shape.output);
    let problem = format!(
        "one request alone has its first token after {:.3} s and {:.3} s between tokens; asked are {:.3} s and {:.3} s",
        first, between, targets.first_token_median, targets.between_median
    );
    let remedy = "use more tensor parallelism, fewer bits, a faster accelerator, or longer targets";
    PlanError::value("latency targets", format!("{:.3} s", targets.first_token_p99), problem, remedy)
}

/// Loads of prefill servers that are tried: the highest at which users wait no longer than they should is taken.
const PREFILL_LOADS: [f64; 6] = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2];

/// Prefill and decode on servers of their own (arXiv 2401.09670): prefill servers work one prompt at a time, decode servers
/// are simulated with requests that arrive prefilled. A first token takes waiting for a prefill server, the prefill, sending
/// its keys and values, and the wait for a decoding step.
fn disaggregate(request: &ServeRequest<'_>) -> Option<Disaggregated> {
    let (server, targets) = (&request.server, &request.targets);
    let peak = request.traffic.peak_requests;
    let prefill = server.prefill(request.shape.input);
    let bytes = request.shape.input * server.cache_bytes();
    let transfer = bytes / (server.accelerator.network_link * f64::from(server.tensor));
    PREFILL_LOADS.iter().find_map(|load| {
        let prefill_servers = (peak * prefill / load).ceil().max(1.0);
        let waits = waits_in_line(peak / prefill_servers, prefill);
        let before = (waits.0 + prefill + transfer, waits.1 + prefill + transfer);
        let left = Targets {
            first_token_median: targets.first_token_median - before.0,
            first_token_p99: targets.first_token_p99 - before.1,
            ..*targets
        };
        if left.first_token_median <= 0.0 || left.first_token_p99 <= 0.0 {
            return None;
        }
        let (rate, mut latency) = most_requests(server, request.shape, &left, Role::DecodeOnly, CHUNK)?;
        latency.first_token_median += before.0;
        latency.first_token_p99 += before.1;
        let decode_servers = (peak / rate).ceil();
        Some(Disaggregated {
            prefill_servers,
            decode_servers,
            accelerators: (prefill_servers + decode_servers) * f64::from(server.tensor),
            transfer,
            latency,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::inference::ServingCalibration;
    use crate::model::ModelCatalogue;

    fn with<T>(tensor: u32, f: impl FnOnce(ServeRequest<'_>) -> T) -> T {
        let model = ModelCatalogue::built_in().find("Llama-3.1-70B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let accelerator = hardware.find("H100").unwrap();
        f(ServeRequest {
            server: Server {
                model: &model,
                accelerator,
                tensor,
                precision: "fp8",
                cache_precision: "fp8",
                prefix_hits: 0.0,
                speculation: None,
                calibration: ServingCalibration::of(accelerator),
            },
            shape: RequestShape { input: 1000.0, output: 300.0 },
            traffic: Traffic::default(),
            targets: Targets::default(),
            economics: Economics::default(),
            trace: None,
            servers: None,
        })
    }

    #[test]
    fn servers_meet_their_targets() {
        with(4, |request| {
            let plan = plan_serving(&request).unwrap();
            assert!(plan.latency.meets(&request.targets), "{plan:?}");
            assert!(plan.requests_a_server <= plan.most.requests, "no more for long than in full batches");
            assert!(plan.servers >= 1.0 && plan.per_million_output > 0.0);
        });
    }

    #[test]
    fn prefix_hits_make_servers_faster_and_a_small_machine_is_refused() {
        let plain = with(4, |request| plan_serving(&request).unwrap().requests_a_server);
        let cached = with(4, |mut request| {
            request.server.prefix_hits = 0.8;
            plan_serving(&request).unwrap().requests_a_server
        });
        assert!(cached > plain, "{cached} {plain}");
        let error = with(1, |mut request| {
            request.server.precision = "bf16";
            plan_serving(&request).unwrap_err().to_string()
        });
        assert!(error.contains("fits on 2"), "{error}");
        let error = with(3, |request| plan_serving(&request).unwrap_err().to_string());
        assert!(error.contains("use 2"), "{error}");
    }

    #[test]
    fn a_first_token_apart_waits_for_its_prefill() {
        with(4, |request| {
            let prefill = request.server.prefill(request.shape.input);
            let apart = plan_serving(&request).unwrap().disaggregated.unwrap();
            assert!(apart.latency.first_token_median > prefill + apart.transfer, "{apart:?}");
            assert!(apart.latency.first_token_p99 > 1.5 * prefill, "{apart:?}");
            assert!(apart.latency.meets(&request.targets));
        });
        // A target below the prefill itself cannot be met by any number of servers.
        with(4, |mut request| {
            request.targets.first_token_median = 0.9 * request.server.prefill(request.shape.input);
            assert!(disaggregate(&request).is_none());
        });
    }

    #[test]
    fn a_trace_sizes_the_servers_and_they_are_judged() {
        let arrival =
            |index: u32, input: f64| Arrival { time: f64::from(index) * 0.02, shape: (input, 200.0) };
        let mut trace: Vec<Arrival> = (0..6000).map(|index| arrival(index, 1000.0)).collect();
        let plan = |trace: &[Arrival], servers: Option<f64>| {
            with(4, |mut request| {
                request.trace = Some(trace.to_vec());
                request.servers = servers;
                plan_serving(&request)
            })
        };
        let needed = plan(&trace, None).unwrap();
        let of = needed.trace.as_ref().unwrap();
        assert!(of.met && of.needed == needed.servers && needed.servers > 1.0, "{of:?}");
        let fewer = plan(&trace, Some(1.0)).unwrap().trace.unwrap();
        assert!(!fewer.met && fewer.needed == of.needed, "{fewer:?}");
        // A request longer than the context is counted and does not hold up the others.
        trace[10] = arrival(10, 1e8);
        let with_long = plan(&trace, None).unwrap().trace.unwrap();
        assert!(with_long.too_long == 1 && with_long.met, "{with_long:?}");
        let error = plan(&[arrival(0, 1e8)], None).unwrap_err().to_string();
        assert!(error.contains("longer than"), "{error}");
    }
}
