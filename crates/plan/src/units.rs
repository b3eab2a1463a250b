//! Units, and how numbers are read and written for people.

/// Bytes of a GiB.
pub const GIB: f64 = 1_073_741_824.0;
/// Seconds of an hour.
pub const HOUR: f64 = 3_600.0;
/// Seconds of a day.
pub const DAY: f64 = 86_400.0;
/// Hours of a mean year.
pub const HOURS_OF_YEAR: f64 = 8_766.0;

const SUFFIXES: [(char, f64); 5] = [('T', 1e12), ('B', 1e9), ('G', 1e9), ('M', 1e6), ('K', 1e3)];

/// A count such as `15T`, `70B`, `1.5e12` or `8192`; nothing where the text is none.
#[must_use]
pub fn parse_count(text: &str) -> Option<f64> {
    let text = text.trim().replace(['_', ','], "");
    let last = text.chars().last()?.to_ascii_uppercase();
    let (number, factor) = match SUFFIXES.iter().find(|(suffix, _)| *suffix == last) {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text.as_str(), 1.0),
    };
    let value = number.trim().parse::<f64>().ok()? * factor;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// A count with three digits and a suffix: `405B`, `15.6T`.
#[must_use]
pub fn short(value: f64) -> String {
    let steps: [(f64, &str); 5] = [(1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(step, _)| value.abs() >= *step * 0.9995) {
        Some((step, suffix)) => format!("{}{suffix}", digits(value / step)),
        None => digits(value),
    }
}

/// Three significant digits, without zeros that say nothing.
#[must_use]
pub fn digits(value: f64) -> String {
    significant(value, 3)
}

/// A number of significant digits, without zeros that say nothing.
#[must_use]
pub fn significant(value: f64, count: u32) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let magnitude = value.abs().max(1e-12).log10().floor();
    let decimals = (f64::from(count) - 1.0 - magnitude).clamp(0.0, 15.0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// An amount of money: `$1.85M`.
#[must_use]
pub fn money(dollars: f64) -> String {
    let text = short(dollars.abs());
    format!("{}${text}", if dollars < 0.0 { "-" } else { "" })
}

/// A duration in the unit that a person would choose.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds.abs() {
        s if s < 1e-3 => format!("{} us", digits(seconds * 1e6)),
        s if s < 1.0 => format!("{} ms", digits(seconds * 1e3)),
        s if s < 120.0 => format!("{} s", digits(seconds)),
        s if s < 2.0 * HOUR => format!("{} min", digits(seconds / 60.0)),
        s if s < 2.0 * DAY => format!("{} h", digits(seconds / HOUR)),
        _ => format!("{} days", digits(seconds / DAY)),
    }
}

/// A whole number with commas between its thousands.
#[must_use]
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_written() {
        assert_eq!(parse_count("15T"), Some(15e12));
        assert_eq!(parse_count("1.5e12"), Some(1.5e12));
        assert_eq!(parse_count("16,384"), Some(16384.0));
        assert_eq!(parse_count("é"), None);
        assert_eq!(parse_count("-3B"), None);
        assert_eq!(parse_count(""), None);
        assert_eq!(short(405e9), "405B");
        assert_eq!(short(999_999.0), "1M");
        assert_eq!(money(-1.5e6), "-$1.5M");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(duration(0.25), "250 ms");
    }
}
