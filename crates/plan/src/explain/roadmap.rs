//! The formulas of a roadmap.

use super::{Line, line, n};
use crate::economics::Economics;
use crate::roadmap::{PlannedGeneration, Roadmap, RoadmapRequest};
use crate::units::DAY;

/// The formulas of a planned roadmap.
#[must_use]
pub fn explain_roadmap(request: &RoadmapRequest, roadmap: &Roadmap) -> Vec<Line> {
    let mut lines: Vec<Line> =
        roadmap.generations.iter().flat_map(|it| generation_lines(request, roadmap, it)).collect();
    let parts = &roadmap.parts;
    lines.push(line(
        "money over all quarters",
        "machines + building + rent + power + upkeep + cost of capital",
        format!(
            "{} + {} + {} + {} + {} + {}",
            n(parts.machines),
            n(parts.building),
            n(parts.rent),
            n(parts.power),
            n(parts.upkeep),
            n(parts.interest_of_machines + parts.interest_of_building)
        ),
        (roadmap.cost, "$"),
        "",
    ));
    lines
}

fn generation_lines(request: &RoadmapRequest, roadmap: &Roadmap, it: &PlannedGeneration) -> Vec<Line> {
    let name = |what: &str| format!("{}: {what}", it.name);
    let economics = Economics { own: Some(roadmap.own), ..request.economics };
    let row = &it.row;
    let mut lines = vec![
        line(
            &name("tokens"),
            "0.299 x FLOPs^0.537",
            format!("0.299 x {}^0.537", n(it.flops)),
            (it.tokens, ""),
            "arXiv 2407.21783, section 3.2.1",
        ),
        line(
            &name("parameters"),
            "FLOPs / (6 x tokens)",
            format!("{} / (6 x {})", n(it.flops), n(it.tokens)),
            (it.parameters, ""),
            "arXiv 2001.08361",
        ),
        line(
            &name("days"),
            "tokens / tokens a second / goodput / seconds of a day",
            format!("{} / {} / {} / {DAY}", n(it.tokens), n(it.best.tokens_per_second), n(it.goodput)),
            (it.days, "days"),
            "the layout search at that number of machines",
        ),
        line(
            &name("machines, before rounding up to servers"),
            "machines of the final run x (1 + experiments)",
            format!("{} x (1 + {})", n(it.of_run), n(request.experiments)),
            (it.of_run * (1.0 + request.experiments), ""),
            "",
        ),
        line(
            &name("power"),
            "machines x W of a server / machines of it x (1 + spares) x (1 + network) x PUE / 1e6",
            format!(
                "{} x {} / {} x (1 + {}) x (1 + {}) x {} / 1e6",
                n(it.accelerators),
                n(row.server_power),
                row.per_node,
                n(economics.spares),
                n(economics.network_power),
                n(economics.pue)
            ),
            (it.power / 1e6, "MW"),
            "",
        ),
    ];
    if let Some(price) = economics.price_of(row).filter(|_| roadmap.own) {
        lines.push(line(
            &name("capital"),
            "machines x (1 + spares) x (price x (1 + network) + W of its share x (1 + network power) x $ a W)",
            format!(
                "{} x (1 + {}) x ({} x (1 + {}) + {} x (1 + {}) x {})",
                n(it.accelerators),
                n(economics.spares),
                n(price),
                n(economics.network_share),
                n(row.share_of_server_power()),
                n(economics.network_power),
                n(economics.facility_per_watt)
            ),
            (it.capital, "$"),
            "",
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Calibration;
    use crate::hardware::HardwareCatalogue;
    use crate::roadmap::plan_roadmap;

    #[test]
    fn every_line_gives_its_value_by_hand() {
        for own in [Some(false), None] {
            let economics = Economics { own, ..Economics::default() };
            let request = RoadmapRequest { samples: 100, economics, ..RoadmapRequest::default() };
            let roadmap =
                plan_roadmap(&request, &HardwareCatalogue::built_in(), &Calibration::default()).unwrap();
            super::super::tests::check(&explain_roadmap(&request, &roadmap));
        }
    }
}
