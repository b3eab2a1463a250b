//! The roofline picture (Williams, Waterman and Patterson 2009): how much work is done for each byte read, against how
//! fast it is done, under the roofs of what the machine can read and compute.

use super::bounds::Limits;
use super::report::{ALTI, Report, Row};
use super::workload::Kind;
use std::fmt::Write as _;

/// Size of the picture, and of its margins, in pixels.
const SIZE: [f64; 2] = [860.0, 520.0];
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;

/// Operations a byte that the picture spans.
const INTENSITIES: [f64; 2] = [0.5, 20_000.0];

/// A colour for each kind of work that has a place in the picture, and its name there.
const KINDS: [(Kind, &str, &str); 4] = [
    (Kind::Prefill, "#b5420f", "prefill"),
    (Kind::Decode, "#0b62a8", "decode"),
    (Kind::Depth, "#6b3fa0", "decode behind a context"),
    (Kind::Batch, "#1d7a3a", "batched decode"),
];

/// From numbers to places, on logarithmic axes.
struct Axes {
    rates: [f64; 2],
}

impl Axes {
    fn x(&self, intensity: f64) -> f64 {
        LEFT + (SIZE[0] - LEFT - RIGHT) * place(intensity, INTENSITIES)
    }

    fn y(&self, rate: f64) -> f64 {
        SIZE[1] - BOTTOM - (SIZE[1] - TOP - BOTTOM) * place(rate, self.rates)
    }
}

/// Where `value` is between the ends, 0 to 1.
fn place(value: f64, [low, high]: [f64; 2]) -> f64 {
    ((value / low).ln() / (high / low).ln()).clamp(0.0, 1.0)
}

/// The picture, with the largest number of threads of the report, as SVG; `None` where no limits were measured.
pub fn svg(report: &Report) -> Option<String> {
    let limits = report.limits.iter().max_by_key(|limits| limits.threads)?;
    let highest = limits.peaks.iter().map(|peak| peak.operations).max_by(f64::total_cmp)?;
    let axes = Axes { rates: [limits.stream * INTENSITIES[0], highest * 2.0] };
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.threads == limits.threads).collect();
    let parts = [grid(&axes), roofs(&axes, limits), points(&axes, &rows), legend(limits.threads)];
    let [width, height] = SIZE;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{}</svg>\n",
        parts.concat()
    ))
}

/// Lines at the powers of ten, with their names.
fn grid(axes: &Axes) -> String {
    let mut svg = String::new();
    let [bottom, right] = [SIZE[1] - BOTTOM, SIZE[0] - RIGHT];
    let powers = |[low, high]: [f64; 2]| {
        let exponents = low.log10().ceil() as i32..=high.log10().floor() as i32;
        exponents.map(|exponent| 10f64.powi(exponent))
    };
    for value in powers(INTENSITIES) {
        let x = axes.x(value);
        svg += &line([x, TOP], [x, bottom], "#ddd", 1.0);
        svg += &text([x, bottom + 16.0], "middle", "#333", &format!("{value}"));
    }
    for value in powers(axes.rates) {
        let y = axes.y(value);
        svg += &line([LEFT, y], [right, y], "#ddd", 1.0);
        svg += &text([LEFT - 6.0, y + 4.0], "end", "#333", &format!("{} G", value / 1e9));
    }
    svg += &text([SIZE[0] / 2.0, SIZE[1] - 12.0], "middle", "#333", "operations for each byte read");
    svg + &text([LEFT + 4.0, TOP - 6.0], "start", "#333", "operations a second")
}

/// What the machine can read (rising) and compute (flat).
fn roofs(axes: &Axes, limits: &Limits) -> String {
    let mut svg = String::new();
    let highest = limits.peaks.iter().map(|peak| peak.operations).fold(0.0, f64::max);
    // The labels of the lower line on its right, of the higher one on its left.
    let lines = [("stream", limits.stream, 6.0, "start"), ("re-read", limits.reread, -6.0, "end")];
    for (name, bandwidth, aside, anchor) in lines {
        let ridge = highest / bandwidth;
        let start = [axes.x(INTENSITIES[0]), axes.y(bandwidth * INTENSITIES[0])];
        svg += &line(start, [axes.x(ridge), axes.y(highest)], "#333", 1.5);
        let middle = (INTENSITIES[0] * ridge).sqrt();
        let label = format!("{name} {:.0} GB/s", bandwidth / 1e9);
        let at = [axes.x(middle) + aside, axes.y(bandwidth * middle) + aside];
        svg += &text(at, anchor, "#333", &label);
    }
    let mut labelled: Vec<f64> = Vec::new();
    for peak in &limits.peaks {
        let y = axes.y(peak.operations);
        svg += &line([axes.x(peak.operations / limits.reread), y], [SIZE[0] - RIGHT, y], "#333", 1.5);
        let label = format!("{} {} {:.1} T/s", peak.operand, peak.instruction, peak.operations / 1e12);
        // Above its line, or below it where another label is there.
        let free = labelled.iter().all(|other| (other - y).abs() > 14.0);
        svg += &text([SIZE[0] - RIGHT - 4.0, if free { y - 4.0 } else { y + 13.0 }], "end", "#333", &label);
        labelled.push(y);
    }
    svg
}

/// `alti` as discs and the best peer as circles.
fn points(axes: &Axes, rows: &[&Row]) -> String {
    let mut svg = String::new();
    for row in rows {
        let Some((_, colour, _)) = KINDS.iter().find(|(kind, ..)| *kind == row.work.kind) else { continue };
        let step = row.demand.step(&row.work);
        let x = axes.x(step.operations as f64 / step.bytes as f64);
        let operations = step.operations as f64 / step.tokens as f64;
        for (turns, fill) in [(row.best_peer(), "white"), (row.best_of(ALTI), *colour)] {
            let Some(turns) = turns else { continue };
            let title = format!(
                "{}, {}: {}, {:.1} tokens/s",
                row.model,
                row.work,
                turns.contestant.engine,
                turns.median()
            );
            let y = axes.y(turns.median() * operations);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\">\
                 <title>{title}</title></circle>"
            );
        }
    }
    svg
}

fn legend(threads: usize) -> String {
    let left = SIZE[0] - RIGHT - 230.0;
    let mut y = SIZE[1] - BOTTOM - 18.0 * (KINDS.len() as f64 + 1.0);
    let mut svg =
        text([left, y], "start", "#333", &format!("{threads} threads; disc: alti, circle: best peer"));
    for (_, colour, name) in KINDS {
        y += 18.0;
        let _ = writeln!(svg, "<circle cx=\"{}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/>", left + 5.0, y - 4.0);
        svg += &text([left + 16.0, y], "start", "#333", name);
    }
    svg
}

fn line([x1, y1]: [f64; 2], [x2, y2]: [f64; 2], colour: &str, width: f64) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n"
    )
}

fn text([x, y]: [f64; 2], anchor: &str, colour: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_picture_has_a_roof_for_each_limit_and_two_points_for_each_row_that_has_a_bound() {
        let svg = svg(&report()).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for label in ["stream 50 GB/s", "re-read 100 GB/s", "int8 tdpbusd tmm 4.0 T/s"] {
            assert!(svg.contains(label), "{label}: {svg}");
        }
        assert_eq!(svg.matches("<title>").count(), 2, "a cold start has no place: {svg}");
        assert!(svg.contains("<title>m, prefill 512: alti, 5000.0 tokens/s</title>"));
    }

    #[test]
    fn without_limits_there_is_no_picture() {
        assert!(svg(&Report { limits: Vec::new(), ..report() }).is_none());
    }

    #[test]
    fn places_are_logarithmic_and_stay_inside() {
        assert_eq!(place(10.0, [1.0, 100.0]), 0.5);
        assert_eq!(place(0.1, [1.0, 100.0]), 0.0);
        assert_eq!(place(1e9, [1.0, 100.0]), 1.0);
    }
}
