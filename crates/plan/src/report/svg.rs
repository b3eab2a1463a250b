//! Charts as SVG text: stacked bars, lines over time, scatters. No script, no font, no file beside them.

use crate::units::digits;
use std::fmt::Write as _;

/// Colours that stay apart for readers who see few (Okabe and Ito, 2008), then tints of them.
const COLORS: [&str; 13] = [
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#999999", "#004466",
    "#8a5f00", "#00563f", "#803700", "#bbbbbb",
];

/// Width of every chart, pixels.
const WIDTH: f64 = 860.0;

/// Text that stands for itself in HTML and SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<title>{0}</title>\n",
        escape(title)
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{}</text>",
        escape(words)
    );
}

/// A row of stacked bars: its label, its parts in the order of the legend.
pub struct Bar {
    /// What the bar is of.
    pub label: String,
    /// Sizes of the parts.
    pub parts: Vec<f64>,
}

/// Horizontal stacked bars with a legend; `limit` draws a line that bars should not pass.
#[must_use]
pub fn bars(title: &str, unit: &str, legend: &[&str], rows: &[Bar], limit: Option<f64>) -> String {
    let used: Vec<usize> = (0..legend.len())
        .filter(|index| rows.iter().any(|row| row.parts.get(*index).is_some_and(|it| *it > 0.0)))
        .collect();
    let most =
        rows.iter().map(|row| row.parts.iter().sum::<f64>()).fold(limit.unwrap_or(0.0), f64::max).max(1e-12);
    let per_row = 5;
    let top = 20.0 + 18.0 * used.len().div_ceil(per_row) as f64;
    let height = top + 44.0 * rows.len() as f64 + 24.0;
    let mut svg = open(height, title);
    for (place, index) in used.iter().enumerate() {
        let (x, y) = (10.0 + 168.0 * (place % per_row) as f64, 6.0 + 18.0 * (place / per_row) as f64);
        let color = COLORS[index % COLORS.len()];
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
        text(&mut svg, x + 17.0, y + 10.0, "start", legend[*index]);
    }
    let scale = (WIDTH - 110.0) / most;
    for (row, bar) in rows.iter().enumerate() {
        let y = top + 44.0 * row as f64;
        text(&mut svg, 10.0, y + 8.0, "start", &bar.label);
        let mut x = 10.0;
        for (index, part) in bar.parts.iter().enumerate() {
            let width = part * scale;
            if width > 0.0 {
                let color = COLORS[index % COLORS.len()];
                let name = escape(legend.get(index).unwrap_or(&""));
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"20\" fill=\"{color}\"><title>{name}: {} {unit}</title></rect>",
                    y + 13.0,
                    digits(*part)
                );
                x += width;
            }
        }
        text(&mut svg, x + 6.0, y + 28.0, "start", &format!("{} {unit}", digits(bar.parts.iter().sum())));
    }
    if let Some(limit) = limit {
        let x = 10.0 + limit * scale;
        let bottom = height - 20.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#d00\" stroke-dasharray=\"4 3\"/>",
            top - 4.0
        );
        text(&mut svg, x, height - 6.0, "middle", &format!("usable: {} {unit}", digits(limit)));
    }
    svg + "</svg>\n"
}

/// What a result comes to at the two ends of one input.
pub struct Swing {
    /// The input.
    pub label: String,
    /// The result at the ends, the smaller one first.
    pub ends: (f64, f64),
}

/// A tornado chart: bars from one end to the other on a common axis, with a line at what is expected.
#[must_use]
pub fn tornado(title: &str, expected: f64, rows: &[Swing], named: fn(f64) -> String) -> String {
    let ends = rows.iter().flat_map(|row| [row.ends.0, row.ends.1]).chain([expected]);
    let (low, high) =
        ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
    // Room for what stands beside the longest bar.
    let (left, right, top) = (90.0, WIDTH - 90.0, 30.0);
    let x = |value: f64| left + (value - low) / (high - low).max(1e-12) * (right - left);
    let height = top + 44.0 * rows.len() as f64 + 10.0;
    let mut svg = open(height, title);
    for (row, swing) in rows.iter().enumerate() {
        let y = top + 44.0 * row as f64;
        let (from, to) = (x(swing.ends.0), x(swing.ends.1));
        let middle = x(expected).clamp(from, to);
        text(&mut svg, 0.5 * (left + right), y + 10.0, "middle", &swing.label);
        for (from, to, color) in [(from, middle, COLORS[2]), (middle, to, COLORS[3])] {
            let (y, width) = (y + 15.0, to - from);
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"20\" fill=\"{color}\"/>"
            );
        }
        text(&mut svg, from - 6.0, y + 30.0, "end", &named(swing.ends.0));
        text(&mut svg, to + 6.0, y + 30.0, "start", &named(swing.ends.1));
    }
    let (x, bottom) = (x(expected), height - 4.0);
    text(&mut svg, x, 14.0, "middle", &format!("expected: {}", named(expected)));
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"20\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"currentColor\" stroke-dasharray=\"4 3\"/>"
    );
    svg + "</svg>\n"
}

/// Axes with ticks: returns maps of both axes to pixels.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: (f64, f64),
    y: (f64, f64),
    logarithmic: bool,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let of = |value: f64| if self.logarithmic { value.max(1e-300).ln() } else { value };
        let (low, high) = (of(self.x.0), of(self.x.1));
        self.left + (of(value) - low) / (high - low).max(1e-12) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        let of = |value: f64| if self.logarithmic { value.max(1e-300).ln() } else { value };
        let (low, high) = (of(self.y.0), of(self.y.1));
        self.bottom - (of(value) - low) / (high - low).max(1e-12) * (self.bottom - self.top)
    }

    fn ticks(&self, range: (f64, f64)) -> Vec<f64> {
        if self.logarithmic {
            let first = range.0.log10().ceil() as i32;
            let last = range.1.log10().floor() as i32;
            return (first..=last).map(|power| 10_f64.powi(power)).collect();
        }
        let raw = (range.1 - range.0).max(1e-12) / 6.0;
        let power = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|it| it * power).find(|it| *it >= raw).unwrap_or(raw);
        let first = (range.0 / step).ceil() as i64;
        (first..=first + 8).map(|index| index as f64 * step).filter(|it| *it <= range.1 + 1e-9).collect()
    }

    fn draw(&self, svg: &mut String, x_label: &str, y_label: &str) {
        for value in self.ticks(self.y) {
            let y = self.y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#8884\"/>",
                self.left, self.right
            );
            text(svg, self.left - 6.0, y + 4.0, "end", &crate::units::short(value));
        }
        for value in self.ticks(self.x) {
            let years = (1900.0..2200.0).contains(&value) && !self.logarithmic;
            let label = if years { format!("{value}") } else { crate::units::short(value) };
            text(svg, self.x(value), self.bottom + 16.0, "middle", &label);
        }
        text(svg, 0.5 * (self.left + self.right), self.bottom + 34.0, "middle", x_label);
        text(svg, self.left, self.top - 8.0, "start", y_label);
        let _ = writeln!(
            svg,
            "<path d=\"M{0} {1}V{2}H{3}\" fill=\"none\" stroke=\"currentColor\"/>",
            self.left, self.top, self.bottom, self.right
        );
    }
}

/// Lines over a common axis: name and points of each.
#[must_use]
pub fn lines(title: &str, x_label: &str, y_label: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|line| line.1.iter());
    let low = points().map(|it| it.0).fold(f64::INFINITY, f64::min);
    let high = points().map(|it| it.0).fold(f64::NEG_INFINITY, f64::max);
    let most = points().map(|it| it.1).fold(0.0, f64::max);
    let frame = Frame {
        left: 70.0,
        right: WIDTH - 150.0,
        top: 26.0,
        bottom: 240.0,
        x: (low, high),
        y: (0.0, most.max(1e-12)),
        logarithmic: false,
    };
    let mut svg = open(285.0, title);
    frame.draw(&mut svg, x_label, y_label);
    for (index, (name, points)) in series.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|it| format!("{:.1},{:.1}", frame.x(it.0), frame.y(it.1))).collect();
        let color = COLORS[index % COLORS.len()];
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        let y = 40.0 + 20.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{color}\"/>",
            WIDTH - 140.0,
            y - 10.0
        );
        text(&mut svg, WIDTH - 122.0, y, "start", name);
    }
    svg + "</svg>\n"
}

/// A point of a scatter.
pub struct Point {
    /// Position.
    pub at: (f64, f64),
    /// What it is, shown beside it where `labelled`, and when pointed at.
    pub label: String,
    /// Whether the label is drawn.
    pub labelled: bool,
    /// Index of its group in the legend.
    pub group: usize,
}

/// Points on logarithmic axes; `diagonal` draws the line on which both are equal and those 10 % off.
#[must_use]
pub fn scatter(
    title: &str,
    labels: (&str, &str),
    groups: &[&str],
    points: &[Point],
    diagonal: bool,
) -> String {
    let positive = || points.iter().filter(|it| it.at.0 > 0.0 && it.at.1 > 0.0);
    let range = |of: fn(&Point) -> f64| {
        let low = positive().map(of).fold(f64::INFINITY, f64::min);
        let high = positive().map(of).fold(0.0, f64::max);
        (low * 0.8, high * 1.25)
    };
    let (mut x, mut y) = (range(|it| it.at.0), range(|it| it.at.1));
    if diagonal {
        x = (x.0.min(y.0), x.1.max(y.1));
        y = x;
    }
    let height = if diagonal { 560.0 } else { 340.0 };
    let frame =
        Frame { left: 70.0, right: WIDTH - 190.0, top: 26.0, bottom: height - 45.0, x, y, logarithmic: true };
    let mut svg = open(height, title);
    frame.draw(&mut svg, labels.0, labels.1);
    if diagonal {
        for (factor, dash) in [(1.0, ""), (0.9, "4 4"), (1.0 / 0.9, "4 4")] {
            let ends = [(x.0 * 1.3, x.0 * 1.3 * factor), (x.1 / 1.3, x.1 / 1.3 * factor)];
            let _ = writeln!(
                svg,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#888\" stroke-dasharray=\"{dash}\"/>",
                frame.x(ends[0].0),
                frame.y(ends[0].1),
                frame.x(ends[1].0),
                frame.y(ends[1].1)
            );
        }
    }
    for point in positive() {
        let (x, y) = (frame.x(point.at.0), frame.y(point.at.1));
        let color = COLORS[point.group % COLORS.len()];
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{}\" fill=\"{color}\" fill-opacity=\"0.7\"><title>{}</title></circle>",
            if point.labelled { 5.0 } else { 3.0 },
            escape(&point.label)
        );
        if point.labelled {
            text(&mut svg, x + 8.0, y - 5.0, "start", &point.label);
        }
    }
    for (index, name) in groups.iter().enumerate() {
        let y = 40.0 + 20.0 * index as f64;
        let color = COLORS[index % COLORS.len()];
        let _ =
            writeln!(svg, "<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"{color}\"/>", WIDTH - 172.0, y - 4.0);
        text(&mut svg, WIDTH - 160.0, y, "start", name);
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tornado_names_both_ends_and_stays_in_its_frame() {
        let swing = |label: &str, ends| Swing { label: label.to_owned(), ends };
        let rows = [swing("price", (2e9, 9e9)), swing("power", (4e9, 6e9)), swing("one-sided", (5e9, 7e9))];
        let svg = tornado("Cost", 5e9, &rows, crate::units::money);
        for words in ["$2B", "$9B", "$4B", "$6B", "expected: $5B", "one-sided"] {
            assert!(svg.contains(&format!(">{words}<")), "{words} in {svg}");
        }
        let number = |line: &str, name: &str| -> f64 {
            let rest = line.split_once(&format!(" {name}=\"")).expect(name).1;
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let bars: Vec<(f64, f64)> = svg
            .lines()
            .filter(|line| line.starts_with("<rect"))
            .map(|line| (number(line, "x"), number(line, "width")))
            .collect();
        assert_eq!(bars.len(), 6, "a bar on each side of what is expected");
        assert!(bars.iter().all(|(x, width)| *x >= 90.0 && *width >= 0.0 && x + width <= WIDTH - 89.9));
        assert!((bars[4].1).abs() < 0.1, "nothing below what is expected");
    }
}
