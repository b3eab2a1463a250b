//! Everything that a user may set in one TOML file; what is absent has a default.

use crate::economics::Economics;
use crate::error::{PlanError, between};
use crate::fleet::{FleetRequest, check_curve};
use crate::queueing::Targets;
use crate::ranking::RankingLoad;
use crate::roadmap::RoadmapRequest;
use crate::training::Reliability;
use serde::{Deserialize, Serialize};

/// The cluster's network.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// GPUs of a server, where it is not the catalogue's.
    pub gpus_per_node: Option<u32>,
    /// How many times more a pod's GPUs can send than the network above it passes on.
    pub oversubscription: f64,
    /// GPUs of a pod, within which the network is not oversubscribed (Llama 3's: 3,072, arXiv 2407.21783, section 3.3.1).
    pub pod: u32,
}

impl Default for Cluster {
    fn default() -> Cluster {
        // Data-parallel rings cross pods with a few flows only, so that Llama 3's 7:1 cost little; 1 means it costs nothing.
        Cluster { gpus_per_node: None, oversubscription: 1.0, pod: 3072 }
    }
}

/// Who asks, and what others charge.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// Requests in the busiest hour, a second.
    pub peak_requests: f64,
    /// Requests of a user a day, where users are given.
    pub requests_a_user: f64,
    /// Load of each hour over the busiest.
    pub curve: Vec<f64>,
    /// $ for a million tokens of prompt that a closed API charges, to compare with.
    pub api_input_price: Option<f64>,
    /// $ for a million tokens of answer that a closed API charges.
    pub api_output_price: Option<f64>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            peak_requests: 10.0,
            requests_a_user: 10.0,
            curve: crate::fleet::DIURNAL.to_vec(),
            api_input_price: None,
            api_output_price: None,
        }
    }
}

impl Traffic {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        between("peak_requests", self.peak_requests, 1e-9, 1e12)?;
        between("requests_a_user", self.requests_a_user, 1e-6, 1e6)?;
        between("api_input_price", self.api_input_price.unwrap_or(0.0), 0.0, 1e6)?;
        between("api_output_price", self.api_output_price.unwrap_or(0.0), 0.0, 1e6)?;
        check_curve("curve", &self.curve)
    }

    /// The mean load over the busiest hour's.
    #[must_use]
    pub fn mean_load(&self) -> f64 {
        self.curve.iter().sum::<f64>() / self.curve.len() as f64
    }
}

impl Cluster {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        between("gpus_per_node", f64::from(self.gpus_per_node.unwrap_or(1)), 1.0, 65_536.0)?;
        between("oversubscription", self.oversubscription, 1.0, 1000.0)?;
        between("pod", f64::from(self.pod), 1.0, f64::from(u32::MAX)).map(|_| ())
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Prices and site.
    pub economics: Economics,
    /// Failures.
    pub reliability: Reliability,
    /// The network.
    pub cluster: Cluster,
    /// Traffic of inference.
    pub traffic: Traffic,
    /// What users may wait.
    pub targets: Targets,
    /// The load of ranking.
    pub ranking: RankingLoad,
    /// The mixed fleet.
    pub fleet: FleetRequest,
    /// The roadmap.
    pub roadmap: RoadmapRequest,
}

impl Settings {
    /// Settings of a TOML text.
    ///
    /// # Errors
    /// When it is none, names what there is not, or has impossible numbers; `file` is named.
    pub fn parse(file: &str, text: &str) -> Result<Settings, PlanError> {
        let settings: Settings =
            toml::from_str(text).map_err(|error| PlanError::file(file, error.to_string().trim_end()))?;
        settings.check().map_err(|error| PlanError::file(file, error))?;
        Ok(settings)
    }

    /// Checks that all numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        self.economics.check()?;
        self.reliability.check()?;
        self.cluster.check()?;
        self.traffic.check()?;
        self.targets.check()?;
        self.ranking.check()?;
        self.fleet.check()?;
        self.roadmap.check()
    }

    /// The settings as a TOML text, each default of [`SOURCES`] below what says where it is from.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let plain = toml::to_string(self).unwrap_or_else(|error| format!("# {error}\n"));
        let mut text = String::new();
        let mut table = "";
        for line in plain.lines() {
            if line.starts_with('[') {
                table = line.trim_matches(['[', ']']);
            }
            let field = line.split(" =").next().unwrap_or_default();
            let source = SOURCES.iter().find(|it| it.0 == table && (it.1 == field || line.starts_with("[[")));
            if let Some((_, _, source)) = source.filter(|it| !text.contains(it.2)) {
                text += &format!("# {source}\n");
            }
            text += &format!("{line}\n");
        }
        text
    }
}

/// Where the defaults of money, power and failures are published, or what they are estimated from: table, field, source.
pub const SOURCES: [(&str, &str, &str); 17] = [
    ("economics", "network_share", "estimate: network and storage of a cluster over its servers"),
    (
        "economics",
        "facility_per_watt",
        "Cushman & Wakefield, Data Center Development Cost Guide 2025: mean of 19 markets",
    ),
    ("economics", "depreciation_years", "Meta Platforms, 10-K for 2024: 5 years until 2024, 5.5 from 2025"),
    (
        "economics",
        "facility_years",
        "estimate: cooling and power delivery last less long than buildings (25 to 30 years)",
    ),
    ("economics", "upkeep", "estimate: a vendor's support of 3 to 5 % of the price a year"),
    ("economics", "interest", "estimate: cost of capital of a large company"),
    (
        "economics",
        "used",
        "Llama 3: more than 90 % of the time was effective training, arXiv 2407.21783, section 3.3.4",
    ),
    (
        "economics",
        "spares",
        "arithmetic: what `alti plan failures` gives for 16,384 GPUs, 20 of 2,048 servers",
    ),
    ("economics", "power_price", "EIA, Electric Power Annual: United States, industry, 2023: 8.06 cents"),
    (
        "economics",
        "pue",
        "estimate: new sites; Llama's cards count 1.1, Uptime Institute's survey of 2023 says 1.58",
    ),
    ("economics", "carbon", "EIA, United States, 2023: 0.81 pounds a kWh, eia.gov/tools/faqs/faq.php?id=74"),
    ("economics", "draw", "estimate: training draws less than the design limit of a server"),
    ("economics", "network_power", "estimate: switches and optics of a network of three tiers"),
    (
        "reliability",
        "checkpoint_seconds",
        "estimate: a checkpoint to storage of 2 to 7 TB/s, arXiv 2407.21783, section 3.3.1",
    ),
    ("reliability", "restart_seconds", "estimate: loading a checkpoint and the first step"),
    ("reliability", "repair_days", "estimate: a server is exchanged within two days"),
    (
        "reliability.rates",
        "component",
        "Llama 3 405B, 419 unexpected interruptions in 54 days on 16,384 GPUs, arXiv 2407.21783, Table 5",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_of_money_and_failures_has_a_source() {
        let mut settings = Settings::default();
        settings.reliability.rates = settings.reliability.rates();
        let text = settings.to_toml();
        assert_eq!(Settings::parse("printed.toml", &text).unwrap(), settings);
        for (table, field, source) in SOURCES {
            assert!(text.contains(&format!("# {source}\n")), "{table}.{field} is not printed: {text}");
        }
        let plain = toml::Table::try_from(&settings).unwrap();
        for table in ["economics", "reliability"] {
            for (field, value) in plain[table].as_table().unwrap() {
                let known = SOURCES.iter().any(|it| it.0 == table && it.1 == field);
                assert!(known || !value.is_float(), "{table}.{field} has no source");
            }
        }
    }

    #[test]
    fn a_file_names_only_what_differs() {
        let settings = Settings::parse("mine.toml", "[economics]\nown = true\npower_price = 0.05\n").unwrap();
        assert!(settings.economics.owns() && settings.economics.pue > 1.0);
        let error = Settings::parse("mine.toml", "[economics]\npowerprice = 1\n").unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("power_price"), "{error}");
        assert_eq!(Settings::parse("all.toml", &Settings::default().to_toml()).unwrap(), Settings::default());
        // What a file does not say about owning stays open: a roadmap buys, and all else rents.
        let settings = Settings::parse("mine.toml", "[economics]\npower_price = 0.05\n").unwrap();
        assert_eq!(settings.economics.own, None);
    }

    #[test]
    fn impossible_numbers_are_refused_and_named() {
        let lines = [
            ("economics", "pue = 0.5"),
            ("economics", "network_share = 1e308"),
            ("economics", "interest = -0.1"),
            ("economics", "used = 0.0"),
            ("ranking", "history = -5000.0"),
            ("ranking", "history = nan"),
            ("ranking", "candidate_bytes = -1.0"),
            ("traffic", "curve = []"),
            ("traffic", "curve = [nan, -5.0]"),
            ("traffic", "requests_a_user = 0.0"),
            ("traffic", "api_input_price = nan"),
            ("reliability", "repair_days = -1.0"),
            ("reliability", "repair_days = nan"),
            ("reliability", "runs = 0"),
            ("reliability", "restart_seconds = inf"),
            ("cluster", "oversubscription = 0.1"),
            ("cluster", "pod = 0"),
            ("cluster", "gpus_per_node = 0"),
            ("fleet", "switch_minutes = nan"),
            ("fleet", "granule = 0.0"),
            ("targets", "between_p99 = 0.0"),
            ("roadmap", "yearly_budget = -1.0"),
            ("roadmap", "power_limit = 0.0"),
            ("roadmap", "experiments = -0.5"),
            ("roadmap", "experiments = inf"),
            ("roadmap", "growth = nan"),
            ("roadmap", "flops_per_dollar_growth = 0.1"),
            ("roadmap", "samples = 0"),
        ];
        for (table, line) in lines {
            let error =
                Settings::parse("mine.toml", &format!("[{table}]\n{line}\n")).unwrap_err().to_string();
            let field = line.split(' ').next().unwrap();
            assert!(error.contains("mine.toml") && error.contains(field), "{line}: {error}");
        }
    }
}
