//! A serving plan: servers for a number of requests within latency targets, and what a million tokens cost.

use crate::economics::Economics;
use crate::error::{PlanError, positive};
use crate::inference::{RequestShape, Server, Throughput};
use crate::queueing::{Arrival, Latency, Role, Targets, most_requests, simulate};
use crate::settings::Traffic;
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
    /// A trace to simulate, over all servers together; random requests at the peak rate where absent.
    pub trace: Option<Vec<Arrival>>,
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
    /// Users' waits on a decoding server.
    pub latency: Latency,
}

/// A serving plan.
#[derive(Clone, Debug, Serialize)]
pub struct ServePlan {
    /// The most one server does, latency aside.
    pub most: Throughput,
    /// Bytes of keys and values of a token.
    pub cache_bytes_a_token: f64,
    /// Requests a second of one server within the targets.
    pub requests_a_server: f64,
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
    /// What users wait in the trace given, spread over the servers.
    pub trace: Option<Latency>,
}

/// Plans servers.
///
/// # Errors
/// When the model does not fit, or no server meets the targets: what is nearest.
pub fn plan_serving(request: &ServeRequest<'_>) -> Result<ServePlan, PlanError> {
    let ServeRequest { server, shape, traffic, targets, economics, .. } = request;
    economics.check()?;
    positive("requests", traffic.peak_requests)?;
    let most = server.throughput(*shape)?;
    let found = most_requests(server, *shape, targets, Role::Both, CHUNK);
    let (requests_a_server, latency) = found.ok_or_else(|| too_slow(server, *shape, targets))?;
    let servers = (traffic.peak_requests / requests_a_server).ceil();
    let accelerators = servers * f64::from(server.tensor);
    let cost_a_day = economics.bill(server.accelerator, accelerators * 24.0).total();
    let mean = traffic.curve.iter().sum::<f64>() / traffic.curve.len().max(1) as f64;
    let requests_a_day = traffic.peak_requests * mean * 86_400.0;
    let millions = |tokens: f64| (requests_a_day * tokens / 1e6).max(1e-12);
    let api_cost_a_day = match (traffic.api_input_price, traffic.api_output_price) {
        (None, None) => None,
        (input, output) => Some(
            input.unwrap_or(0.0) * millions(shape.input) + output.unwrap_or(0.0) * millions(shape.output),
        ),
    };
    let trace = request.trace.as_ref().map(|trace| {
        // Requests go round the servers in turn: one of them sees every n-th.
        let one: Vec<Arrival> = trace.iter().step_by(servers.max(1.0) as usize).copied().collect();
        simulate(server, &one, Role::Both, CHUNK)
    });
    Ok(ServePlan {
        most,
        cache_bytes_a_token: server.cache_bytes(),
        requests_a_server,
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

/// Prefill and decode on servers of their own (arXiv 2401.09670): prefill servers work one prompt at a time and are planned
/// to seven tenths of their time, decode servers are simulated with requests that arrive prefilled.
fn disaggregate(request: &ServeRequest<'_>) -> Option<Disaggregated> {
    let server = &request.server;
    let prefill = server.prefill(request.shape.input);
    let prefill_servers = (request.traffic.peak_requests * prefill / 0.7).ceil();
    // Waiting behind others at seven tenths of the load takes about one prefill more on average (M/D/1).
    if prefill * 2.2 > request.targets.first_token_median.max(request.targets.first_token_p99 / 3.0) {
        return None;
    }
    let (rate, latency) = most_requests(server, request.shape, &request.targets, Role::DecodeOnly, CHUNK)?;
    let decode_servers = (request.traffic.peak_requests / rate).ceil();
    let bytes = request.shape.input * server.cache_bytes();
    Some(Disaggregated {
        prefill_servers,
        decode_servers,
        accelerators: (prefill_servers + decode_servers) * f64::from(server.tensor),
        transfer: bytes / (server.accelerator.network_link * f64::from(server.tensor)),
        latency,
    })
}

/// Requests of a trace file: lines of `time,input tokens,output tokens`, seconds from its beginning; a head is skipped.
///
/// # Errors
/// When a line is none; `file` and line are named.
pub fn parse_trace(file: &str, text: &str) -> Result<Vec<Arrival>, PlanError> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let numbers: Vec<Option<f64>> = line.split(',').map(|it| it.trim().parse().ok()).collect();
        match numbers.as_slice() {
            [Some(time), Some(input), Some(output)]
                if time.is_finite() && *time >= 0.0 && *input >= 1.0 && *output >= 1.0 && *output < 1e7 =>
            {
                found.push(Arrival { time: *time, shape: (input.min(1e8), *output) });
            }
            _ if index == 0 || line.trim().is_empty() => {}
            _ => {
                let problem = format!("`{line}` is not `seconds,input tokens,output tokens`");
                return Err(PlanError::file(format!("{file}:{}", index + 1), problem));
            }
        }
    }
    if found.is_empty() {
        return Err(PlanError::file(file, "has no requests"));
    }
    found.sort_by(|a, b| a.time.total_cmp(&b.time));
    Ok(found)
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
    fn traces_are_read() {
        let trace = parse_trace("t.csv", "time,in,out\n1.5,100,20\n0.5,50,10\n").unwrap();
        assert_eq!(trace[0].time, 0.5);
        let error = parse_trace("t.csv", "0,1,1\nx,1,1\n").unwrap_err().to_string();
        assert!(error.contains("t.csv:2"), "{error}");
    }
}
