//! Every formula of a plan with the numbers in it, so that a reader can check them with a pocket calculator: what stands in
//! [`Line::numbers`] is arithmetic, and a test computes it.

mod roadmap;
mod serving;
mod training;

pub use roadmap::explain_roadmap;
pub use serving::explain_serving;
pub use training::explain_run;

use crate::units::significant;
use std::borrow::Cow;

/// One formula: what it gives, the formula, the numbers in it, the value, and where it is from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// What it gives.
    pub what: String,
    /// The formula in words and symbols.
    pub formula: &'static str,
    /// The same with numbers: `+`, `-`, `x`, `/`, `^`, `e` and brackets.
    pub numbers: String,
    /// What the numbers give.
    pub result: f64,
    /// The result with its unit.
    pub value: String,
    /// Where the formula, or what stands in it, is from.
    pub source: Cow<'static, str>,
}

/// A number of an expression: five digits, small and large ones in powers of ten.
fn n(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e6).contains(&size) => significant(value, 5),
        _ => {
            let text = format!("{value:.4e}");
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            let digits = if digits.contains('.') {
                digits.trim_end_matches('0').trim_end_matches('.')
            } else {
                digits
            };
            format!("{digits}e{power}")
        }
    }
}

/// A line whose value is its result with a unit after it.
fn line(
    what: &str,
    formula: &'static str,
    numbers: String,
    (result, unit): (f64, &str),
    source: impl Into<Cow<'static, str>>,
) -> Line {
    Line {
        what: what.to_owned(),
        formula,
        numbers,
        result,
        value: format!("{} {unit}", n(result)).trim_end().to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Line;

    /// Computes an expression of a line.
    fn compute(text: &str) -> f64 {
        let mut rest = text.trim();
        let value = sum(&mut rest);
        assert!(rest.is_empty(), "`{rest}` is left of `{text}`");
        value
    }

    fn eat(rest: &mut &str, symbol: char) -> bool {
        let after = rest.strip_prefix(symbol);
        if let Some(after) = after {
            *rest = after.trim_start();
        }
        after.is_some()
    }

    fn sum(rest: &mut &str) -> f64 {
        let mut value = product(rest);
        loop {
            if eat(rest, '+') {
                value += product(rest);
            } else if eat(rest, '-') {
                value -= product(rest);
            } else {
                return value;
            }
        }
    }

    fn product(rest: &mut &str) -> f64 {
        let mut value = power(rest);
        loop {
            if eat(rest, 'x') {
                value *= power(rest);
            } else if eat(rest, '/') {
                value /= power(rest);
            } else {
                return value;
            }
        }
    }

    fn power(rest: &mut &str) -> f64 {
        let base = atom(rest);
        if eat(rest, '^') { base.powf(power(rest)) } else { base }
    }

    fn atom(rest: &mut &str) -> f64 {
        if eat(rest, '-') {
            return -atom(rest);
        }
        if eat(rest, '(') {
            let value = sum(rest);
            assert!(eat(rest, ')'), "a bracket is open before `{rest}`");
            return value;
        }
        if eat(rest, 'e') {
            return std::f64::consts::E;
        }
        let mut end = 0;
        for (index, c) in rest.char_indices() {
            let of_power = c == '-' && rest[..index].ends_with('e');
            if !(c.is_ascii_digit() || c == '.' || c == 'e' || of_power) {
                break;
            }
            end = index + 1;
        }
        let value = rest[..end].parse().unwrap_or_else(|_| panic!("no number at `{rest}`"));
        *rest = rest[end..].trim_start();
        value
    }

    /// Checks that every line gives its result by hand.
    pub(crate) fn check(lines: &[Line]) {
        for it in lines {
            let found = compute(&it.numbers);
            let near = (found - it.result).abs() <= 2e-3 * it.result.abs().max(1e-12);
            assert!(near, "{}: {} = {found}, printed {}", it.what, it.numbers, it.result);
        }
    }
}
