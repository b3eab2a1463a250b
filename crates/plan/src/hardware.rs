//! The hardware catalogue: what each accelerator can do by its datasheet, in one TOML table that users extend.

use crate::error::{PlanError, between, nearest, plain, positive};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The table that comes with the planner.
const BUILT_IN: &str = include_str!("../data/hardware.toml");

/// Number formats that matrix products are computed in: name, bytes of a value.
pub const PRECISIONS: [(&str, f64); 7] =
    [("fp32", 4.0), ("tf32", 4.0), ("bf16", 2.0), ("fp8", 1.0), ("int8", 1.0), ("fp4", 0.5), ("int4", 0.5)];

/// Bytes of a value in a precision of [`PRECISIONS`].
///
/// # Errors
/// When there is no such precision.
pub fn bytes_of(precision: &str) -> Result<f64, PlanError> {
    let found = PRECISIONS.iter().find(|row| row.0 == precision);
    found.map(|row| row.1).ok_or_else(|| {
        let names: Vec<&str> = PRECISIONS.iter().map(|row| row.0).collect();
        PlanError::Unknown {
            what: "precision",
            name: precision.to_owned(),
            nearest: nearest(precision, names.iter().copied()),
            known: names.join(" "),
        }
    })
}

/// One accelerator (a GPU, a TPU chip, a CPU socket) in its server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// Its name.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The architecture, which calibrated efficiencies go by.
    pub family: String,
    /// The year it came.
    pub year: u32,
    /// Dense FLOP/s by precision.
    pub flops: BTreeMap<String, f64>,
    /// Part of its rate that a power limit below the usual one leaves: about the root of the ratio of the limits, since
    /// power grows with clock and voltage.
    #[serde(default = "whole")]
    pub throttle: f64,
    /// Memory, byte.
    pub memory: f64,
    /// Memory bandwidth, byte/s.
    pub memory_bandwidth: f64,
    /// Bandwidth to the other accelerators of the server, byte/s in one direction.
    pub node_link: f64,
    /// Bandwidth to other servers, byte/s in one direction, one accelerator's share.
    pub network_link: f64,
    /// Accelerators in a server, or in what one fast fabric connects.
    pub per_node: u32,
    /// Processors that a kernel's tiles are dealt out to.
    pub multiprocessors: u32,
    /// Design power of one accelerator, W.
    pub power: f64,
    /// Design power of a whole server, W.
    pub server_power: f64,
    /// What one costs to buy in its server, $.
    #[serde(default)]
    pub price_buy: Option<f64>,
    /// What one costs to rent for an hour, $.
    #[serde(default)]
    pub price_hour: Option<f64>,
    /// Where the figures are published, where `sources` does not say it for each kind.
    #[serde(default)]
    pub source: String,
    /// Where each kind of figure is published.
    #[serde(default)]
    pub sources: Sources,
}

/// Where the figures of an accelerator are published, or what they are estimated from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Of rates, throttle and multiprocessors.
    pub compute: String,
    /// Of memory and its bandwidth.
    pub memory: String,
    /// Of links inside a server and between servers.
    pub links: String,
    /// Of design power, of one and of its server.
    pub power: String,
    /// Of the price to buy.
    pub price_buy: String,
    /// Of the price to rent.
    pub price_hour: String,
}

fn whole() -> f64 {
    1.0
}

impl Accelerator {
    /// Dense FLOP/s in a precision; formats without a rate of their own compute in BF16 (weights are widened).
    #[must_use]
    pub fn peak(&self, precision: &str) -> f64 {
        let wider: &[&str] = match precision {
            "fp32" => &["fp32", "tf32", "bf16"],
            "fp4" => &["fp4", "fp8", "bf16"],
            other => &[other, "bf16"],
        };
        wider.iter().find_map(|name| self.flops.get(*name)).copied().unwrap_or(1.0)
    }

    /// Every kind of figure that there is, and where it is from.
    #[must_use]
    pub fn provenance(&self) -> Vec<(&'static str, &str)> {
        let of = &self.sources;
        let kinds = [
            ("compute", true, &of.compute),
            ("memory", true, &of.memory),
            ("links", true, &of.links),
            ("power", true, &of.power),
            ("price to buy", self.price_buy.is_some(), &of.price_buy),
            ("price to rent", self.price_hour.is_some(), &of.price_hour),
        ];
        let known = kinds.into_iter().filter(|(_, known, _)| *known);
        known
            .map(|(kind, _, text)| (kind, if text.is_empty() { self.source.as_str() } else { text }))
            .collect()
    }

    /// Where one kind of figure is from, a name of [`Accelerator::provenance`]; empty where it is not known.
    #[must_use]
    pub fn source_of(&self, kind: &str) -> &str {
        self.provenance().into_iter().find(|it| it.0 == kind).map_or("", |it| it.1)
    }

    /// Power of one accelerator's share of its server, W.
    #[must_use]
    pub fn share_of_server_power(&self) -> f64 {
        self.server_power / f64::from(self.per_node)
    }

    fn check(&self) -> Result<(), PlanError> {
        let of = |field: &str| format!("{} of accelerator `{}`", field, self.name);
        crate::error::fraction(&of("throttle"), self.throttle)?;
        let numbers = [
            ("throttle", self.throttle),
            ("memory", self.memory),
            ("memory_bandwidth", self.memory_bandwidth),
            ("node_link", self.node_link),
            ("network_link", self.network_link),
            ("per_node", f64::from(self.per_node)),
            ("multiprocessors", f64::from(self.multiprocessors)),
            ("power", self.power),
            ("server_power", self.server_power),
            ("price_buy", self.price_buy.unwrap_or(1.0)),
            ("price_hour", self.price_hour.unwrap_or(1.0)),
            ("flops.bf16", self.flops.get("bf16").copied().unwrap_or(0.0)),
        ];
        for (field, value) in numbers {
            between(&of(field), positive(&of(field), value)?, 1e-9, 1e21)?;
        }
        let cards = self.power * f64::from(self.per_node);
        if self.server_power < cards {
            let problem = format!("its {} accelerators alone draw {cards}", self.per_node);
            let remedy = format!("write {cards} or more");
            return Err(PlanError::value(of("server_power"), self.server_power, problem, remedy));
        }
        for (precision, &rate) in &self.flops {
            bytes_of(precision)?;
            positive(&of(&format!("flops.{precision}")), rate)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    accelerator: Vec<Accelerator>,
}

/// All accelerators that are known.
#[derive(Clone, Debug)]
pub struct HardwareCatalogue {
    /// The rows, the newest definition of each name.
    pub accelerators: Vec<Accelerator>,
}

impl HardwareCatalogue {
    /// The built-in table.
    #[must_use]
    pub fn built_in() -> HardwareCatalogue {
        let mut catalogue = HardwareCatalogue { accelerators: Vec::new() };
        catalogue.extend("hardware.toml", BUILT_IN).expect("a test reads the built-in table");
        catalogue
    }

    /// Adds the rows of a TOML text, which replace those of the same name.
    ///
    /// # Errors
    /// When the text is no such table; `file` is named in the error.
    pub fn extend(&mut self, file: &str, text: &str) -> Result<(), PlanError> {
        let rows: File =
            toml::from_str(text).map_err(|error| PlanError::file(file, error.to_string().trim_end()))?;
        for row in rows.accelerator {
            row.check().map_err(|error| PlanError::file(file, error))?;
            self.accelerators.retain(|old| plain(&old.name) != plain(&row.name));
            self.accelerators.push(row);
        }
        Ok(())
    }

    /// The accelerator of a name or alias; case and punctuation do not count.
    ///
    /// # Errors
    /// When there is none; the error names the nearest.
    pub fn find(&self, name: &str) -> Result<&Accelerator, PlanError> {
        let wanted = plain(name);
        let named = |row: &&Accelerator| {
            plain(&row.name) == wanted || row.aliases.iter().any(|alias| plain(alias) == wanted)
        };
        self.accelerators.iter().find(named).ok_or_else(|| PlanError::Unknown {
            what: "accelerator",
            name: name.to_owned(),
            nearest: nearest(name, self.accelerators.iter().map(|row| row.name.as_str())),
            known: self.accelerators.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(" "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_right_and_names_are_forgiving() {
        let catalogue = HardwareCatalogue::built_in();
        assert!(catalogue.accelerators.len() >= 10);
        assert_eq!(catalogue.find("h100").unwrap().name, "H100-80GB");
        let error = catalogue.find("H10").unwrap_err().to_string();
        assert!(error.contains("nearest is `H") && error.contains("A100-40GB"), "{error}");
    }

    #[test]
    fn every_number_has_a_source() {
        for accelerator in HardwareCatalogue::built_in().accelerators {
            let provenance = accelerator.provenance();
            assert!(provenance.len() >= 5, "{} has no price", accelerator.name);
            for (kind, source) in provenance {
                assert!(source.len() > 10, "{kind} of {} has no source", accelerator.name);
                // What nobody publishes is called what it is; what is published can be found.
                let found = ["estimate", "arithmetic", "datasheet", "arXiv", "Meta", "github.com", "as H100"];
                let dated = source.contains(".com") || source.contains(".md") || source.contains("$");
                assert!(
                    dated || found.iter().any(|it| source.contains(it)),
                    "{kind} of {}: {source}",
                    accelerator.name
                );
            }
            let priced = accelerator.price_buy.is_some() || accelerator.price_hour.is_some();
            assert!(priced, "{}", accelerator.name);
        }
    }

    #[test]
    fn users_rows_replace_and_add() {
        let mut catalogue = HardwareCatalogue::built_in();
        let count = catalogue.accelerators.len();
        let mut row = catalogue.find("H100").unwrap().clone();
        row.price_hour = Some(1.0);
        let text = toml::to_string(&BTreeMap::from([("accelerator", vec![row.clone()])])).unwrap();
        catalogue.extend("mine.toml", &text).unwrap();
        assert_eq!(catalogue.accelerators.len(), count);
        assert_eq!(catalogue.find("h100").unwrap().price_hour, Some(1.0));
        let weak = Accelerator { server_power: 100.0, ..row.clone() };
        let text = toml::to_string(&BTreeMap::from([("accelerator", vec![weak])])).unwrap();
        let error = catalogue.extend("mine.toml", &text).unwrap_err().to_string();
        assert!(error.contains("server_power") && error.contains("5600 or more"), "{error}");
        row.memory = -1.0;
        let text = toml::to_string(&BTreeMap::from([("accelerator", vec![row])])).unwrap();
        let error = catalogue.extend("mine.toml", &text).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("memory of accelerator"), "{error}");
        assert!(catalogue.extend("mine.toml", "[[accelerator]]\nname = 3").is_err());
    }
}
