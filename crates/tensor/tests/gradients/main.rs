//! The gradients of a tape over the reference in f64: every primitive and composite against central
//! differences, and what a tape promises about weights, checkpoints and steps.

mod check;
mod operations;
mod tape;
