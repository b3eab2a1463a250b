//! Everything that a user may set in one TOML file; what is absent has a default.

use crate::economics::Economics;
use crate::error::{PlanError, positive};
use crate::fleet::FleetRequest;
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
            curve: crate::fleet::DIURNAL.to_vec(),
            api_input_price: None,
            api_output_price: None,
        }
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Prices and site.
    pub economics: Option<Economics>,
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

    fn check(&self) -> Result<(), PlanError> {
        if let Some(economics) = &self.economics {
            economics.check()?;
        }
        positive("traffic.peak_requests", self.traffic.peak_requests)?;
        positive("cluster.oversubscription", self.cluster.oversubscription)?;
        positive("cluster.gpus_per_node", f64::from(self.cluster.gpus_per_node.unwrap_or(1)))?;
        for price in [self.traffic.api_input_price, self.traffic.api_output_price].into_iter().flatten() {
            if !(price.is_finite() && price >= 0.0) {
                return Err(PlanError::value(
                    "traffic price",
                    price,
                    "it cannot be below 0",
                    "write 0 or more",
                ));
            }
        }
        Ok(())
    }

    /// The settings as a TOML text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Prices and site.
    #[must_use]
    pub fn economics(&self) -> Economics {
        self.economics.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_only_what_differs() {
        let settings = Settings::parse("mine.toml", "[economics]\nown = true\npower_price = 0.05\n").unwrap();
        assert!(settings.economics().own && settings.economics().pue > 1.0);
        let error = Settings::parse("mine.toml", "[economics]\npowerprice = 1\n").unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("power_price"), "{error}");
        assert!(Settings::parse("mine.toml", "[economics]\npue = 0.5\n").is_err());
        assert_eq!(Settings::parse("all.toml", &Settings::default().to_toml()).unwrap(), Settings::default());
    }
}
