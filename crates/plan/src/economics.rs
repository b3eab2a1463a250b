//! Money, power and emissions of machines that run.

use crate::error::{PlanError, between, fraction};
use crate::hardware::Accelerator;
use crate::units::{HOURS_OF_YEAR, digits};
use serde::{Deserialize, Serialize};

/// Prices and the site. Every field has a default, so that a user's TOML names only what differs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Economics {
    /// Whether machines are bought, or rented by the hour. Where absent, a roadmap buys and all else rents.
    pub own: Option<bool>,
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
    /// What capital costs a year (interest, or what it would earn elsewhere), part of it.
    pub interest: f64,
    /// Part of the hours of owned machines in which they work; the others are paid for, too.
    pub used: f64,
    /// Spare machines over those that work, bought and powered with them.
    pub spares: f64,
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
            own: None,
            price_buy: None,
            price_hour: None,
            network_share: 0.15,
            facility_per_watt: 11.7,
            depreciation_years: 5.0,
            facility_years: 15.0,
            upkeep: 0.04,
            interest: 0.08,
            used: 0.9,
            // What `spares` gives for 16,384 GPUs at Llama 3's rates and two days of repair: 20 of 2,048 servers.
            spares: 0.01,
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
    /// Rent, or the part of the machines' price written off meanwhile, $.
    pub machines: f64,
    /// The part of the building written off meanwhile, $ (nothing where machines are rented, as all that follows).
    pub building: f64,
    /// What the capital of both costs, $.
    pub interest: f64,
    /// Maintenance and people, $.
    pub upkeep: f64,
    /// Power, $.
    pub power: f64,
    /// Energy of the site, kWh.
    pub energy: f64,
    /// Emissions, t CO2e.
    pub carbon: f64,
}

/// What owning one accelerator costs a year, its part of the spares included, $.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Owning {
    /// Written off: accelerator, server, network.
    pub machines: f64,
    /// Written off: building and power delivery.
    pub building: f64,
    /// What the capital of the machines costs.
    pub interest_of_machines: f64,
    /// What the capital of the building costs.
    pub interest_of_building: f64,
    /// Maintenance and people.
    pub upkeep: f64,
}

impl Bill {
    /// All of the money, $.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.machines + self.building + self.interest + self.upkeep + self.power
    }
}

impl Economics {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("depreciation_years", self.depreciation_years, 0.1, 100.0),
            ("facility_years", self.facility_years, 0.1, 200.0),
            ("price_buy", self.price_buy.unwrap_or(1.0), 1e-3, 1e9),
            ("price_hour", self.price_hour.unwrap_or(1.0), 1e-6, 1e6),
            ("network_share", self.network_share, 0.0, 10.0),
            ("facility_per_watt", self.facility_per_watt, 0.0, 1e4),
            ("power_price", self.power_price, 0.0, 100.0),
            ("carbon", self.carbon, 0.0, 10.0),
            ("network_power", self.network_power, 0.0, 10.0),
            ("interest", self.interest, 0.0, 1.0),
            ("used", self.used, 0.01, 1.0),
            ("spares", self.spares, 0.0, 1.0),
        ];
        for (field, value, least, most) in numbers {
            between(field, value, least, most)?;
        }
        fraction("draw", self.draw)?;
        fraction("upkeep", self.upkeep)?;
        if !(1.0..=5.0).contains(&self.pue) {
            let remedy = format!("write {}", self.pue.clamp(1.0, 5.0));
            let problem = "a site uses at least the power of its machines";
            return Err(PlanError::value("pue", self.pue, problem, remedy));
        }
        Ok(())
    }

    /// Checks that the prices which a bill for `accelerator` needs are known.
    ///
    /// # Errors
    /// When one is not: which setting gives it.
    pub fn check_prices(&self, accelerator: &Accelerator) -> Result<(), PlanError> {
        let (field, known) = match self.owns() {
            true => ("price_buy", self.price_of(accelerator).is_some()),
            false => ("price_hour", self.rent_of(accelerator).is_some()),
        };
        if known {
            return Ok(());
        }
        let problem = "the catalogue has no such price";
        let remedy = match self.owns() {
            true => "write it into [economics] of --settings, or rent",
            false => "write it into [economics] of --settings",
        };
        Err(PlanError::value(format!("{field} of {}", accelerator.name), "unknown", problem, remedy))
    }

    /// Whether machines are bought.
    #[must_use]
    pub fn owns(&self) -> bool {
        self.own.unwrap_or(false)
    }

    /// Power of the site at full load for `count` accelerators, W: their shares of servers, spares, the network, and PUE.
    #[must_use]
    pub fn site_power(&self, accelerator: &Accelerator, count: f64) -> f64 {
        count
            * accelerator.share_of_server_power()
            * (1.0 + self.spares)
            * (1.0 + self.network_power)
            * self.pue
    }

    /// What `count` accelerators cost to buy with spares and network, and what their building costs, $.
    #[must_use]
    pub fn capital_parts(&self, accelerator: &Accelerator, count: f64) -> Option<(f64, f64)> {
        let count = count * (1.0 + self.spares);
        let watts = count * accelerator.share_of_server_power() * (1.0 + self.network_power);
        let price = self.price_of(accelerator)?;
        Some((price * count * (1.0 + self.network_share), watts * self.facility_per_watt))
    }

    /// What `count` accelerators cost to buy, with spares, network and building, $.
    #[must_use]
    pub fn capital(&self, accelerator: &Accelerator, count: f64) -> Option<f64> {
        self.capital_parts(accelerator, count).map(|(machines, building)| machines + building)
    }

    /// Price of one accelerator, $, where it is known.
    #[must_use]
    pub fn price_of(&self, accelerator: &Accelerator) -> Option<f64> {
        self.price_buy.or(accelerator.price_buy)
    }

    /// Rent of an accelerator-hour, $: the given one, the catalogue's, or what owning costs and a quarter.
    #[must_use]
    pub fn rent_of(&self, accelerator: &Accelerator) -> Option<f64> {
        let owned = Economics { own: Some(true), ..*self };
        let derived = || self.price_of(accelerator).map(|_| 1.25 * owned.bill(accelerator, 1.0).total());
        self.price_hour.or(accelerator.price_hour).or_else(derived)
    }

    /// What owning one accelerator costs a year: straight-line depreciation, and as the cost of capital what an annuity over
    /// the same years takes beyond it, `r / (1 - (1 + r)^-n) - 1 / n` of the price.
    #[must_use]
    pub fn owning(&self, accelerator: &Accelerator) -> Owning {
        let (machines, building) = self.capital_parts(accelerator, 1.0).unwrap_or_default();
        let interest = |years: f64| match self.interest > 0.0 {
            true => self.interest / (1.0 - (1.0 + self.interest).powf(-years)) - 1.0 / years,
            false => 0.0,
        };
        Owning {
            machines: machines / self.depreciation_years,
            building: building / self.facility_years,
            interest_of_machines: machines * interest(self.depreciation_years),
            interest_of_building: building * interest(self.facility_years),
            upkeep: machines * self.upkeep,
        }
    }

    /// What `hours` accelerator-hours of work cost: rent, or of owned machines the hours in which they do not work, too.
    #[must_use]
    pub fn bill(&self, accelerator: &Accelerator, hours: f64) -> Bill {
        let energy = hours * self.site_power(accelerator, 1.0) * self.draw / 1e3;
        let carbon = energy * self.carbon / 1e3;
        if !self.owns() {
            let rent = self.rent_of(accelerator).unwrap_or(0.0);
            return Bill { machines: hours * rent, energy, carbon, ..Bill::default() };
        }
        let owning = self.owning(accelerator);
        let years = hours / self.used / HOURS_OF_YEAR;
        Bill {
            machines: years * owning.machines,
            building: years * owning.building,
            interest: years * (owning.interest_of_machines + owning.interest_of_building),
            upkeep: years * owning.upkeep,
            power: energy * self.power_price,
            energy,
            carbon,
        }
    }

    /// How owned or rented machines are counted, in words.
    #[must_use]
    pub fn said(&self) -> String {
        match self.owns() {
            false => "machines rented by the hour".to_owned(),
            true => format!(
                "machines bought: {} years, capital {} % a year, in use {} % of the time, spares {} %",
                self.depreciation_years,
                digits(100.0 * self.interest),
                digits(100.0 * self.used),
                digits(100.0 * self.spares)
            ),
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
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e308] {
            assert!(Economics { power_price: bad, ..Economics::default() }.check().is_err());
            assert!(Economics { network_share: bad, ..Economics::default() }.check().is_err());
        }
        assert!(Economics::default().check().is_ok());
    }

    #[test]
    fn owning_costs_capital_idle_hours_and_spares() {
        let hardware = HardwareCatalogue::built_in();
        let h100 = hardware.find("H100").unwrap();
        let all = Economics { own: Some(true), ..Economics::default() };
        let none = Economics { interest: 0.0, used: 1.0, spares: 0.0, ..all };
        let year = |economics: &Economics| economics.bill(h100, HOURS_OF_YEAR).total();
        // By hand: $32,000 with 15 % of network over 5 years, 4 % upkeep, 1.313 kW of building at $11.7/W over 15 years, and
        // 1.51 kW at 85 % for a year of 8,766 h at $0.08.
        let machine = 32_000.0 * 1.15;
        let watts = 1275.0 * 1.03;
        let expected = machine / 5.0
            + machine * 0.04
            + watts * 11.7 / 15.0
            + watts * 1.15 / 1e3 * 0.85 * HOURS_OF_YEAR * 0.08;
        assert!((year(&none) / expected - 1.0).abs() < 1e-9, "{} {expected}", year(&none));
        // The annuity of 8 % over 5 years is 25.046 % a year.
        let owning = Economics { spares: 0.0, ..all }.owning(h100);
        assert!(((owning.machines + owning.interest_of_machines) / machine - 0.250_456).abs() < 1e-5);
        assert!(year(&all) > 1.2 * year(&none));
    }

    #[test]
    fn no_price_is_made_up() {
        let hardware = HardwareCatalogue::built_in();
        let tpu = hardware.find("TPU-v5p").unwrap();
        let own = Economics { own: Some(true), ..Economics::default() };
        let error = own.check_prices(tpu).unwrap_err().to_string();
        assert!(error.contains("price_buy of TPU-v5p") && own.capital(tpu, 1.0).is_none(), "{error}");
        assert!(Economics::default().check_prices(tpu).is_ok());
        assert!(Economics { price_buy: Some(9e3), ..own }.check_prices(tpu).is_ok());
    }
}
