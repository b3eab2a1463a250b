//! Whatever is asked, an answer is a finite plan or an error in words: nothing panics.

use alti_plan::calibration::Calibration;
use alti_plan::economics::Economics;
use alti_plan::hardware::HardwareCatalogue;
use alti_plan::inference::{RequestShape, Server, ServingCalibration};
use alti_plan::layout::{Job, Layout, Recompute, Sharding};
use alti_plan::memory::fits;
use alti_plan::model::ModelCatalogue;
use alti_plan::queueing::Targets;
use alti_plan::search::Constraints;
use alti_plan::serve::{ServeRequest, plan_serving};
use alti_plan::settings::{Settings, Traffic};
use alti_plan::stack::STACKS;
use alti_plan::step::step_time;
use alti_plan::training::{Reliability, RunRequest, plan_run};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_layout_is_checked(
        name in 0_usize..60,
        counts in prop::array::uniform7(0_u32..70),
        stack in 0_usize..STACKS.len(),
        tokens in 1.0_f64..1e9,
        gpus in 0_u64..100_000,
    ) {
        let models = ModelCatalogue::built_in().models;
        let hardware = HardwareCatalogue::built_in();
        let job = Job {
            model: &models[name % models.len()],
            accelerator: &hardware.accelerators[name % hardware.accelerators.len()],
            stack: &STACKS[stack],
            sequence: 4096,
            batch_tokens: tokens,
            precision: "bf16",
            oversubscription: 2.0,
            pod: 64,
        };
        let [tensor, context, pipeline, data, expert, microbatch, interleave] = counts;
        let layout = Layout {
            tensor, context, pipeline, data, expert, microbatch, interleave,
            recompute: Recompute::Full,
            sharding: Sharding::Weights,
        };
        if layout.check(&job, gpus).is_ok() && fits(&job, &layout).is_ok() {
            let seconds = step_time(&job, &layout, &Calibration::default()).total();
            prop_assert!(seconds.is_finite() && seconds > 0.0);
        }
    }

    #[test]
    fn any_run_is_planned_or_refused(
        name in 0_usize..60,
        gpus in 1_u64..3000,
        tokens in prop_oneof![Just(0.0), Just(f64::NAN), 1.0_f64..1e14],
        batch in prop_oneof![Just(-1.0), 1.0_f64..1e8],
        cost in prop_oneof![Just(0.0), 0.1_f64..1e5],
    ) {
        let models = ModelCatalogue::built_in().models;
        let hardware = HardwareCatalogue::built_in();
        let request = RunRequest {
            job: Job {
                model: &models[name % models.len()],
                accelerator: &hardware.accelerators[name % hardware.accelerators.len()],
                stack: &STACKS[0],
                sequence: 2048,
                batch_tokens: batch,
                precision: "bf16",
                oversubscription: 1.0,
                pod: 3072,
            },
            gpus,
            tokens,
            unique_tokens: None,
            constraints: Constraints { batch_rounding: 0.1, ..Constraints::default() },
            reliability: Reliability { checkpoint_seconds: cost, runs: 5, ..Reliability::default() },
            economics: Economics::default(),
        };
        match plan_run(&request, &Calibration::default()) {
            Ok(plan) => prop_assert!(plan.days_uncertain.2.is_finite() && plan.bill.total() >= 0.0 && plan.gpus_used <= gpus),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_server_is_planned_or_refused(
        name in 0_usize..60,
        tensor in 0_u32..20,
        input in prop_oneof![Just(0.0), 1.0_f64..1e6],
        output in 1.0_f64..4e3,
        requests in prop_oneof![Just(-2.0), 0.01_f64..1e4],
    ) {
        let models = ModelCatalogue::built_in().models;
        let hardware = HardwareCatalogue::built_in();
        let accelerator = &hardware.accelerators[name % hardware.accelerators.len()];
        let request = ServeRequest {
            server: Server {
                model: &models[name % models.len()],
                accelerator,
                tensor,
                precision: "fp8",
                cache_precision: "bf16",
                prefix_hits: 0.0,
                speculation: None,
                calibration: ServingCalibration::of(accelerator),
            },
            shape: RequestShape { input, output },
            traffic: Traffic { peak_requests: requests, ..Traffic::default() },
            targets: Targets::default(),
            economics: Economics::default(),
            trace: None,
            servers: None,
        };
        match plan_serving(&request) {
            Ok(plan) => prop_assert!(plan.servers >= 1.0 && plan.cost_a_day.is_finite()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_text_is_settings_or_an_error(text in ".{0,200}") {
        let _ = Settings::parse("settings.toml", &text);
        let _ = alti_plan::config::model_of_config("config.json", "m", &text);
        let _ = alti_plan::trace::parse_trace("trace.csv", &text);
        let _ = alti_plan::units::parse_count(&text);
    }
}
