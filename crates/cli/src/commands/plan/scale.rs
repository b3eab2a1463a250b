//! `alti plan scale`: which model and how many tokens for a budget of FLOPs or a loss.

use super::inputs::count;
use crate::output;
use alti_plan::PlanError;
use alti_plan::model::ModelShape;
use alti_plan::scaling::{Optimum, ScalingLaw, for_flops, for_loss};
use alti_plan::units::short;
use clap::builder::PossibleValuesParser;

/// Choose model size and tokens for a budget of FLOPs or a loss to reach
#[derive(Debug, clap::Args)]
pub struct ScaleCommand {
    /// FLOPs to spend
    #[arg(long, value_parser = count, required_unless_present = "loss", conflicts_with = "loss")]
    flops: Option<f64>,
    /// Loss to reach, nats a token by Chinchilla's law
    #[arg(long)]
    loss: Option<f64>,
    /// Scaling law [default: both]
    #[arg(long, value_parser = PossibleValuesParser::new(ScalingLaw::TABLE.map(|row| row.0)))]
    law: Option<String>,
}

#[derive(Debug, serde::Serialize)]
struct Answer {
    law: &'static str,
    optimum: Optimum,
    shape: ModelShape,
}

impl ScaleCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When no model does that.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        for (name, law) in ScalingLaw::TABLE {
            if self.law.as_ref().is_some_and(|it| it != name) {
                continue;
            }
            let optimum = match (self.flops, self.loss) {
                (Some(flops), _) => for_flops(law, flops)?,
                (None, Some(loss)) => for_loss(law, loss)?,
                (None, None) => {
                    let problem = "neither FLOPs nor a loss is given";
                    return Err(PlanError::value("--flops", "absent", problem, "give one of them").into());
                }
            };
            let shape = ModelShape::of_parameters(optimum.parameters)?;
            answers.push(Answer { law: name, optimum, shape });
        }
        output::result(json, &answers, |answers| {
            let head = format!(
                "{:12} {:>10} {:>10} {:>10} {:>7}  {}\n",
                "LAW", "FLOPS", "PARAMETERS", "TOKENS", "LOSS", "A DENSE LLAMA OF THAT SIZE"
            );
            let row = |it: &Answer| {
                format!(
                    "{:12} {:>10.2e} {:>10} {:>10} {:>7.3}  {} layers, {} wide, {} heads\n",
                    it.law,
                    it.optimum.flops,
                    short(it.optimum.parameters),
                    short(it.optimum.tokens),
                    it.optimum.loss,
                    it.shape.layers,
                    it.shape.hidden,
                    it.shape.heads
                )
            };
            head + &answers.iter().map(row).collect::<String>()
        })
    }
}
