//! How long the two largest questions take: a full layout search for 405B on 16,384 GPUs, and five years of roadmap with
//! its simulated futures.
//!
//! `cargo run --release -p alti-plan --example speed`

use alti_plan::calibration::Calibration;
use alti_plan::hardware::HardwareCatalogue;
use alti_plan::layout::Job;
use alti_plan::model::ModelCatalogue;
use alti_plan::roadmap::{RoadmapRequest, plan_roadmap};
use alti_plan::search::{Constraints, search};
use alti_plan::stack::Stack;
use std::time::Instant;

fn main() {
    let hardware = HardwareCatalogue::built_in();
    let model = ModelCatalogue::built_in().find("Llama-3.1-405B").expect("it is in the table");
    let calibration = Calibration::default();
    let job = Job {
        model: &model,
        accelerator: hardware.find("H100").expect("it is in the table"),
        stack: Stack::find(Stack::DEFAULT).expect("it is in the table"),
        sequence: 8192,
        batch_tokens: 16_777_216.0,
        precision: "bf16",
        oversubscription: 1.0,
        pod: 3072,
    };
    let constraints = Constraints { batch_rounding: 0.25, ..Constraints::default() };
    let started = Instant::now();
    let found = search(&job, 16_384, &constraints, &calibration, 8).expect("it fits");
    let seconds = started.elapsed().as_secs_f64();
    println!("layout search, 405B on 16,384 GPUs: {seconds:.3} s for {} layouts", found.tried);
    println!("  {}: {:.2} s, MFU {:.3}", found.best[0].layout, found.best[0].step.total(), found.best[0].mfu);
    let started = Instant::now();
    let mut request = RoadmapRequest { samples: 100_000, ..RoadmapRequest::default() };
    request.generations.truncate(3);
    let roadmap = plan_roadmap(&request, &hardware, &calibration).expect("it can be planned");
    let seconds = started.elapsed().as_secs_f64();
    println!("roadmap of {} quarters, {} futures: {seconds:.3} s", roadmap.quarters.len(), request.samples);
}
