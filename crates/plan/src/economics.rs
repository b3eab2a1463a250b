//! Money, power and emissions of machines that run.

use crate::error::{PlanError, fraction, positive};
use crate::hardware::Accelerator;
use crate::units::HOURS_OF_YEAR;
use serde::{Deserialize, Serialize};

/// Prices and the site. Every field has a default, so that a user's TOML names only what differs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Economics {
    /// Whether machines are bought; else they are rented by the hour.
    pub own: bool,
    /// Price of one accelerator bought in its server, $; the catalogue's where absent.
    pub price_buy: Option<f64>,
    /// Price of an accelerator-hour rented, $; the catalogue's where absent.
    pub price_hour: Option<f64>,
    /// Network, storage and other machines over the price of accelerators.
    pub network_share: f64,
    /// Building and power delivery, $ for a watt of IT load.
    pub facility_per_watt: f64,
    /// Years over which machines are written off.
    pub depreciation_years: f64,
    /// Years over which the building is written off.
    pub facility_years: f64,
    /// Maintenance and people, part of the price of machines a year.
    pub upkeep: f64,
    /// Power, $/kWh.
    pub power_price: f64,
    /// Power of the site over power of the machines.
    pub pue: f64,
    /// Emissions of the grid, kg CO2e/kWh, without PUE.
    pub carbon: f64,
    /// Mean draw over design power while working.
    pub draw: f64,
    /// Power of network, storage and other machines over that of accelerator servers.
    pub network_power: f64,
}

impl Default for Economics {
    fn default() -> Economics {
        Economics {
            own: false,
            price_buy: None,
            price_hour: None,
            network_share: 0.15,
            facility_per_watt: 11.0,
            depreciation_years: 5.0,
            facility_years: 15.0,
            upkeep: 0.04,
            power_price: 0.08,
            pue: 1.15,
            carbon: 0.37,
            draw: 0.85,
            network_power: 0.03,
        }
    }
}

/// What some machine-hours cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bill {
    /// Rent, or the part of machines and building written off meanwhile, $.
    pub machines: f64,
    /// Maintenance and people, $ (nothing where machines are rented).
    pub upkeep: f64,
    /// Power, $ (nothing where machines are rented).
    pub power: f64,
    /// Energy of the site, kWh.
    pub energy: f64,
    /// Emissions, t CO2e.
    pub carbon: f64,
}

impl Bill {
    /// All of the money, $.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.machines + self.upkeep + self.power
    }
}

impl Economics {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("depreciation_years", self.depreciation_years),
            ("facility_years", self.facility_years),
            ("price_buy", self.price_buy.unwrap_or(1.0)),
            ("price_hour", self.price_hour.unwrap_or(1.0)),
        ];
        for (field, value) in numbers {
            positive(field, value)?;
        }
        fraction("draw", self.draw)?;
        fraction("upkeep", self.upkeep)?;
        if !(1.0..=5.0).contains(&self.pue) {
            let remedy = format!("write {}", self.pue.clamp(1.0, 5.0));
            let problem = "a site uses at least the power of its machines";
            return Err(PlanError::value("pue", self.pue, problem, remedy));
        }
        let rest = [
            ("network_share", self.network_share),
            ("facility_per_watt", self.facility_per_watt),
            ("power_price", self.power_price),
            ("carbon", self.carbon),
            ("network_power", self.network_power),
        ];
        for (field, value) in rest {
            if !(value.is_finite() && value >= 0.0) {
                return Err(PlanError::value(field, value, "it cannot be below 0", "write 0 or more"));
            }
        }
        Ok(())
    }

    /// Power of the site at full load for `count` accelerators, W: their shares of servers, the network, and PUE.
    #[must_use]
    pub fn site_power(&self, accelerator: &Accelerator, count: f64) -> f64 {
        count * accelerator.share_of_server_power() * (1.0 + self.network_power) * self.pue
    }

    /// What `count` accelerators cost to buy, with network and building, $.
    #[must_use]
    pub fn capital(&self, accelerator: &Accelerator, count: f64) -> f64 {
        let watts = count * accelerator.share_of_server_power() * (1.0 + self.network_power);
        self.price_of(accelerator) * count * (1.0 + self.network_share) + watts * self.facility_per_watt
    }

    /// Price of one accelerator, $.
    #[must_use]
    pub fn price_of(&self, accelerator: &Accelerator) -> f64 {
        self.price_buy.or(accelerator.price_buy).unwrap_or(25_000.0)
    }

    /// Rent of an accelerator-hour, $: the given one, the catalogue's, or what owning costs and a quarter.
    #[must_use]
    pub fn rent_of(&self, accelerator: &Accelerator) -> f64 {
        self.price_hour.or(accelerator.price_hour).unwrap_or_else(|| {
            let owned = Economics { own: true, ..*self };
            1.25 * owned.bill(accelerator, 1.0).total()
        })
    }

    /// What `hours` accelerator-hours cost.
    #[must_use]
    pub fn bill(&self, accelerator: &Accelerator, hours: f64) -> Bill {
        let energy = hours * self.site_power(accelerator, 1.0) * self.draw / 1e3;
        let carbon = energy * self.carbon / 1e3;
        if !self.own {
            return Bill { machines: hours * self.rent_of(accelerator), energy, carbon, ..Bill::default() };
        }
        let machine = self.price_of(accelerator) * (1.0 + self.network_share);
        let building = self.capital(accelerator, 1.0) - machine;
        let yearly = machine / self.depreciation_years + building / self.facility_years;
        Bill {
            machines: hours * yearly / HOURS_OF_YEAR,
            upkeep: hours * machine * self.upkeep / HOURS_OF_YEAR,
            power: energy * self.power_price,
            energy,
            carbon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::HardwareCatalogue;

    #[test]
    fn a_hundred_thousand_h100_draw_150_megawatts() {
        let hardware = HardwareCatalogue::built_in();
        let megawatts = Economics::default().site_power(hardware.find("H100").unwrap(), 100_000.0) / 1e6;
        assert!((145.0..=155.0).contains(&megawatts), "{megawatts}");
    }

    #[test]
    fn impossible_prices_are_refused() {
        let bad = Economics { pue: 0.9, ..Economics::default() };
        assert!(bad.check().unwrap_err().to_string().contains("write 1"));
        assert!(Economics { power_price: f64::NAN, ..Economics::default() }.check().is_err());
        assert!(Economics::default().check().is_ok());
    }
}
