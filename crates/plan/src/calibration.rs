//! The constants that are fitted to measurements: few, named, the same for every model, layout and row.
//!
//! `cargo run --release -p alti-plan --example calibrate` fits them on the half of the published rows that a hash of the
//! row puts there, prints them, and reports the error on both halves apart.

/// Every fitted constant, with its start and the span that the fit may search.
pub const CONSTANTS: [Constant; 25] = [
    constant("matmul_ampere", "part of the peak that a large product reaches, Ampere", 0.05, 1.0),
    constant("matmul_hopper", "the same, Hopper in BF16: its power limit is below its peak", 0.05, 1.0),
    constant("matmul_hopper_fp8", "the same, Hopper in FP8", 0.05, 1.0),
    constant("wave", "tiles a multiprocessor that halve the speed of a product, for lack of more", 0.0, 4.0),
    constant("depth", "inner dimension at which a product reaches half of its speed", 0.0, 2048.0),
    constant("flash_ampere", "part of the peak that fused attention reaches, Ampere", 0.05, 0.9),
    constant("flash_hopper", "the same, Hopper", 0.05, 0.9),
    constant(
        "elementwise_eager",
        "traffic of unfused element-wise operations over the least possible",
        0.8,
        10.0,
    ),
    constant(
        "elementwise_fused",
        "traffic of fused element-wise operations over the least possible",
        0.8,
        10.0,
    ),
    constant("scores", "traffic of materialised attention scores over the least possible", 0.1, 6.0),
    constant("host_slow", "seconds of the host to launch one pass of a layer, slow hosts", 0.0, 5e-3),
    constant("host_fast", "the same, fast hosts", 0.0, 1e-3),
    constant("host_experts", "the same, more for every expert of a layer that a device holds", 0.0, 2e-3),
    constant(
        "blend",
        "order of the norm that joins host and device: 1 adds them, infinity takes the longer",
        1.0,
        16.0,
    ),
    constant(
        "collective",
        "seconds that a tensor-parallel collective takes longer for each further rank",
        0.0,
        1e-3,
    ),
    constant(
        "drain",
        "seconds that a device waits for a slow host with every layer that is computed again",
        0.0,
        5e-3,
    ),
    constant("node_link", "part of the bandwidth inside a node that collectives reach", 0.1, 0.9),
    constant("network_link", "part of the bandwidth between nodes that collectives reach", 0.05, 0.95),
    constant("data_overlap", "part of the data-parallel traffic hidden where it may overlap", 0.0, 1.0),
    constant("tensor_overlap", "part of the tensor-parallel traffic hidden where it may overlap", 0.0, 0.9),
    constant("experts", "time of routed experts and their exchange over an even load's", 1.0, 6.0),
    constant("accumulate", "traffic of adding a gradient to its sum over the least possible", 0.0, 4.0),
    constant("straggler", "slowdown for each doubling of the number of nodes", 0.0, 0.1),
    constant("step", "seconds of a step for what is in no other line", 0.0, 0.1),
    constant(
        "context",
        "time of attention in many context-parallel ranks over that in one, less one",
        0.0,
        2.0,
    ),
];

/// What a constant is called, says, and may be.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Name of the field of [`Calibration`].
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The least the fit may try.
    pub least: f64,
    /// The most.
    pub most: f64,
}

const fn constant(name: &'static str, meaning: &'static str, least: f64, most: f64) -> Constant {
    Constant { name, meaning, least, most }
}

/// The values of [`CONSTANTS`], in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    values: [f64; CONSTANTS.len()],
}

/// Efficiency of accelerators that no published row measures, over the least that is measured: what MI300X reached of its
/// peak in large products (620 of 1,307 TFLOP/s, SemiAnalysis, December 2024) over what H100 does.
pub const ASSUMED: f64 = 0.7;

/// How an accelerator's efficiency is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Fitted to published measurements of its family.
    Measured,
    /// That of Hopper, of which it is the successor.
    LikeHopper,
    /// A cautious guess ([`ASSUMED`]).
    Assumed,
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Basis::Measured => "efficiency fitted to published runs",
            Basis::LikeHopper => "no published run: efficiency as Hopper's",
            Basis::Assumed => "no published run: a cautious efficiency is assumed",
        })
    }
}

/// What `calibrate --fit` printed.
const FITTED: [f64; CONSTANTS.len()] = [
    0.83426, 0.68833, 0.57377, 0.0030769, 1.9892, 0.3167, 0.17249, 2.0297, 0.8, 1.015, 0.0010565, 0.00088903,
    0.00036114, 2.3914, 5.2707e-05, 1.2427e-05, 0.9, 0.95, 0.24075, 0.79449, 1.0, 0.22762, 0.0063875,
    0.0037252, 0.71428,
];

/// Measured over predicted time of a step on held rows of clusters (not of vTrain's single node): quantiles at 0, 5, 10 ...
/// 100 %, which `calibrate` prints. A test keeps them what the rows say.
pub const STEP_ERRORS: [f64; 21] = [
    0.814, 0.915, 0.934, 0.946, 0.960, 0.969, 0.974, 0.992, 0.995, 1.001, 1.006, 1.010, 1.018, 1.027, 1.042,
    1.079, 1.094, 1.116, 1.141, 1.200, 1.330,
];

/// The error of a step's time at a part, 0 to 1, of the distribution [`STEP_ERRORS`].
#[must_use]
pub fn step_error(part: f64) -> f64 {
    let last = STEP_ERRORS.len() - 1;
    let place = part.clamp(0.0, 1.0) * last as f64;
    let below = (place as usize).min(last - 1);
    let between = place - below as f64;
    STEP_ERRORS[below] + between * (STEP_ERRORS[below + 1] - STEP_ERRORS[below])
}

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration { values: FITTED }
    }
}

impl Calibration {
    /// The value of the constant at `index` of [`CONSTANTS`].
    #[must_use]
    pub fn value(&self, index: usize) -> f64 {
        self.values[index]
    }

    /// The same with another value at `index`, kept within the constant's span.
    #[must_use]
    pub fn with(&self, index: usize, value: f64) -> Calibration {
        let mut other = self.clone();
        other.values[index] = value.clamp(CONSTANTS[index].least, CONSTANTS[index].most);
        other
    }
}

macro_rules! fields {
    ($($index:literal $name:ident),* $(,)?) => {
        impl Calibration {
            $(
                #[doc = concat!("The constant `", stringify!($name), "` of [`CONSTANTS`].")]
                #[must_use]
                pub fn $name(&self) -> f64 {
                    self.values[$index]
                }
            )*
        }

        #[cfg(test)]
        const NAMES: &[(usize, &str)] = &[$(($index, stringify!($name))),*];
    };
}

fields!(
    0 matmul_ampere, 1 matmul_hopper, 2 matmul_hopper_fp8, 3 wave, 4 depth, 5 flash_ampere, 6 flash_hopper, 7 elementwise_eager, 8 elementwise_fused, 9 scores, 10 host_slow, 11 host_fast, 12 host_experts, 13 blend, 14 collective, 15 drain, 16 node_link, 17 network_link, 18 data_overlap, 19 tensor_overlap, 20 experts, 21 accumulate, 22 straggler, 23 step, 24 context,
);

impl Calibration {
    /// How an accelerator's efficiency is known.
    #[must_use]
    pub fn basis(family: &str) -> Basis {
        match family {
            "ampere" | "hopper" => Basis::Measured,
            "blackwell" => Basis::LikeHopper,
            _ => Basis::Assumed,
        }
    }

    /// The part of the peak that large products reach. Families that no published row measures take [`ASSUMED`] of the least
    /// that is measured, so that no plan leans on a speed that nobody showed.
    #[must_use]
    pub fn matmul(&self, family: &str, precision: &str) -> f64 {
        match (family, precision) {
            ("ampere" | "hopper" | "blackwell", "fp8" | "int8" | "fp4" | "int4") => self.matmul_hopper_fp8(),
            ("ampere", _) => self.matmul_ampere(),
            ("hopper" | "blackwell", _) => self.matmul_hopper(),
            (_, "fp8" | "int8" | "fp4" | "int4") => ASSUMED * self.matmul_hopper_fp8(),
            _ => ASSUMED * self.matmul_ampere().min(self.matmul_hopper()),
        }
    }

    /// The part of the peak that fused attention reaches.
    #[must_use]
    pub fn flash(&self, family: &str) -> f64 {
        match family {
            "ampere" => self.flash_ampere(),
            "hopper" | "blackwell" => self.flash_hopper(),
            _ => ASSUMED * self.flash_ampere().min(self.flash_hopper()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessors_are_in_the_order_of_the_table() {
        assert_eq!(NAMES.len(), CONSTANTS.len());
        for (index, name) in NAMES {
            assert_eq!(CONSTANTS[*index].name, *name);
        }
    }

    #[test]
    fn fitted_values_are_in_their_spans() {
        for (constant, value) in CONSTANTS.iter().zip(FITTED) {
            assert!((constant.least..=constant.most).contains(&value), "{}", constant.name);
        }
    }
}
