//! Power, energy and emissions.

use crate::error::plain;

/// Emissions of the grid that model cards count with, PUE included, kg CO2e/kWh: part of a model's name, figure. The
/// figures follow from the cards' own GPU-hours, TDP and tonnes (Llama 1 and 2: 1.1 PUE x 0.385 kg/kWh, arXiv
/// 2302.13971, section 6).
pub const CARD_INTENSITIES: [(&str, f64); 4] =
    [("llama4", 0.387), ("llama33", 0.413), ("llama32", 0.413), ("llama31", 0.413)];

/// What the cards of Llama 1, 2 and 3 count with, kg CO2e/kWh, PUE included.
pub const FIRST_CARD_INTENSITY: f64 = 0.4235;

/// The intensity that the card of a model counts with, kg CO2e/kWh, PUE included.
#[must_use]
pub fn card_intensity(model: &str) -> f64 {
    let name = plain(model);
    let found = CARD_INTENSITIES.iter().find(|(part, _)| name.starts_with(part));
    found.map_or(FIRST_CARD_INTENSITY, |(_, figure)| *figure)
}

/// Tonnes of CO2e of `hours` of GPUs at `watts` each, by the grid's kg/kWh with PUE included.
#[must_use]
pub fn tonnes(hours: f64, watts: f64, intensity: f64) -> f64 {
    hours * watts / 1e3 * intensity / 1e3
}
