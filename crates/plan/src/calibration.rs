//! The constants that are fitted to measurements: few, named, the same for every model, layout and row.
//!
//! `cargo run --release -p alti-plan --example calibrate` fits them on the half of the published rows that a hash of the
//! row puts there, prints them, and reports the error on both halves apart.

/// Every fitted constant, with its start and the span that the fit may search.
pub const CONSTANTS: [Constant; 21] = [
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
        0.1,
        10.0,
    ),
    constant(
        "elementwise_fused",
        "traffic of fused element-wise operations over the least possible",
        0.0,
        10.0,
    ),
    constant("scores", "traffic of materialised attention scores over the least possible", 0.1, 6.0),
    constant("host_eager", "seconds of the host to launch one pass of a layer, eager frameworks", 0.0, 5e-3),
    constant("host_fused", "the same, frameworks with fused kernels", 0.0, 5e-3),
    constant("host_collective", "seconds of the host for one tensor-parallel collective", 0.0, 2e-3),
    constant("node_link", "part of the bandwidth inside a node that collectives reach", 0.1, 1.0),
    constant("network_link", "part of the bandwidth between nodes that collectives reach", 0.05, 1.0),
    constant("data_overlap", "part of the data-parallel traffic hidden where it may overlap", 0.0, 1.0),
    constant("tensor_overlap", "part of the tensor-parallel traffic hidden where it may overlap", 0.0, 1.0),
    constant("experts", "time of routed experts and their exchange over an even load's", 0.5, 6.0),
    constant("accumulate", "traffic of adding a gradient to its sum over the least possible", 0.0, 4.0),
    constant("straggler", "slowdown for each doubling of the number of nodes", 0.0, 0.1),
    constant("step", "seconds of a step for what is in no other line", 0.0, 0.1),
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

/// What the command of the repository fitted; a test fits again and compares.
const FITTED: [f64; CONSTANTS.len()] = [
    0.82, 0.68, 0.62, 0.2, 128.0, 0.5, 0.4, 1.5, 1.0, 1.0, 1.1e-3, 2e-4, 1e-4, 0.75, 0.7, 0.8, 0.5, 1.3, 1.0,
    0.005, 4e-3,
];

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
    0 matmul_ampere, 1 matmul_hopper, 2 matmul_hopper_fp8, 3 wave, 4 depth, 5 flash_ampere, 6 flash_hopper,
    7 elementwise_eager, 8 elementwise_fused, 9 scores, 10 host_eager, 11 host_fused, 12 host_collective,
    13 node_link, 14 network_link, 15 data_overlap, 16 tensor_overlap, 17 experts, 18 accumulate,
    19 straggler, 20 step,
);

impl Calibration {
    /// The part of the peak that large products reach. Families that no published row measures take the mean of those
    /// that are measured: 8-bit formats that of FP8, others that of the two BF16 figures.
    #[must_use]
    pub fn matmul(&self, family: &str, precision: &str) -> f64 {
        match (family, precision) {
            (_, "fp8" | "int8" | "fp4" | "int4") => self.matmul_hopper_fp8(),
            ("ampere", _) => self.matmul_ampere(),
            ("hopper" | "blackwell", _) => self.matmul_hopper(),
            _ => 0.5 * (self.matmul_ampere() + self.matmul_hopper()),
        }
    }

    /// The part of the peak that fused attention reaches.
    #[must_use]
    pub fn flash(&self, family: &str) -> f64 {
        match family {
            "ampere" => self.flash_ampere(),
            "hopper" | "blackwell" => self.flash_hopper(),
            _ => 0.5 * (self.flash_ampere() + self.flash_hopper()),
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
