//! The formulas of a serving plan.

use super::training::bill_lines;
use super::{Line, line, n};
use crate::economics::Economics;
use crate::serve::{ServePlan, ServeRequest};
use crate::units::GIB;

/// The formulas of planned servers.
#[must_use]
pub fn explain_serving(request: &ServeRequest<'_>, plan: &ServePlan) -> Vec<Line> {
    let mut lines = server_lines(request, plan);
    lines.extend(fleet_lines(request, plan));
    let always = Economics { used: 1.0, ..request.economics };
    let mut money =
        bill_lines(&always, request.server.accelerator, plan.accelerators * 24.0, plan.cost_a_day);
    if let Some(last) = money.last_mut() {
        last.what = "money a day".to_owned();
    }
    lines.extend(money);
    lines.push(line(
        "money for a million tokens of answers",
        "money a day / (requests a day x tokens out / 1e6)",
        format!("{} / ({} x {} / 1e6)", n(plan.cost_a_day), n(plan.requests_a_day), n(plan.shape.output)),
        (plan.per_million_output, "$"),
        "",
    ));
    lines
}

fn server_lines(request: &ServeRequest<'_>, plan: &ServePlan) -> Vec<Line> {
    let server = &request.server;
    let most = &plan.most;
    let tokens = plan.shape.input + plan.shape.output;
    let room = server.cache_room();
    let memory = server.accelerator.memory;
    let steps = (plan.shape.output - 1.0).max(0.0) / server.speculation.map_or(1.0, |it| it.tokens_a_step());
    let step = server.decode(most.batch, plan.shape.input + plan.shape.output / 2.0);
    let mut lines = Vec::new();
    if room > 0.0 {
        lines.push(line(
            "room for keys and values",
            "(memory x part used x GPUs - weights) / GiB",
            format!(
                "({} x {} x {} - {}) / {}",
                n(memory),
                crate::inference::SERVED,
                server.tensor,
                n(server.weight_bytes()),
                n(GIB)
            ),
            (room / GIB, "GiB"),
            "",
        ));
        lines.push(line(
            "requests of full length in that room",
            "room / (positions held x bytes of a token)",
            format!(
                "{} / ({} x {})",
                n(room),
                n(server.held_positions(tokens).min(tokens)),
                n(server.cache_bytes())
            ),
            (room / (server.held_positions(tokens).min(tokens) * server.cache_bytes()), ""),
            "",
        ));
    }
    lines.push(line(
        "requests a second in full batches",
        "batch / (batch x prefill + decoding steps x step)",
        format!("{0} / ({0} x {1} + {2} x {3})", n(most.batch), n(most.prefill), n(steps), n(step)),
        (most.requests, ""),
        "roofline of inference.rs",
    ));
    lines.push(line(
        "tokens of answers a second in full batches",
        "requests x tokens out",
        format!("{} x {}", n(most.requests), n(plan.shape.output)),
        (most.output_tokens, ""),
        "",
    ));
    lines
}

fn fleet_lines(request: &ServeRequest<'_>, plan: &ServePlan) -> Vec<Line> {
    let tensor = request.server.tensor;
    let mut lines = Vec::new();
    if plan.trace.is_none() {
        lines.push(line(
            "servers, before rounding up",
            "requests a second at the busiest / those of a server within the targets (simulated)",
            format!("{} / {}", n(request.traffic.peak_requests), n(plan.requests_a_server)),
            (request.traffic.peak_requests / plan.requests_a_server, ""),
            "queueing.rs",
        ));
    }
    lines.push(line(
        "accelerators",
        "servers x GPUs of one",
        format!("{} x {tensor}", n(plan.servers)),
        (plan.accelerators, ""),
        "",
    ));
    if plan.trace.is_none() {
        lines.push(line(
            "requests a day",
            "requests a second at the busiest x mean load over it x seconds of a day",
            format!("{} x {} x 86400", n(request.traffic.peak_requests), n(request.traffic.mean_load())),
            (plan.requests_a_day, ""),
            "",
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;
    use crate::inference::{RequestShape, Server, ServingCalibration};
    use crate::model::ModelCatalogue;
    use crate::queueing::Targets;
    use crate::serve::plan_serving;
    use crate::settings::Traffic;

    #[test]
    fn every_line_gives_its_value_by_hand() {
        let model = ModelCatalogue::built_in().find("Llama-3.1-8B").unwrap();
        let hardware = HardwareCatalogue::built_in();
        let accelerator = hardware.find("H100").unwrap();
        for own in [false, true] {
            let request = ServeRequest {
                server: Server {
                    model: &model,
                    accelerator,
                    tensor: 1,
                    precision: "fp8",
                    cache_precision: "fp8",
                    prefix_hits: 0.2,
                    speculation: None,
                    calibration: ServingCalibration::of(accelerator),
                },
                shape: RequestShape { input: 1000.0, output: 300.0 },
                traffic: Traffic { peak_requests: 100.0, ..Traffic::default() },
                targets: Targets::default(),
                economics: Economics { own: Some(own), ..Economics::default() },
                trace: None,
                servers: None,
            };
            let plan = plan_serving(&request).unwrap();
            super::super::tests::check(&explain_serving(&request, &plan));
        }
    }
}
