//! Money as whole numbers, so that a sum is exactly the sum of its parts.

use serde::{Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// An amount of the owner's currency in billionths. (A millionth would be too coarse: one token at 0.10 a million costs a
/// tenth of it.) The largest amount is about 9.2 billion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money {
    /// Billionths of the currency.
    pub nanos: i64,
}

/// Billionths in one unit of currency.
const UNIT: i64 = 1_000_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money { nanos: 0 };

    /// An amount in billionths.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Money {
        Money { nanos }
    }

    /// The nearest amount to a number of units; `None` where it is none or too large.
    #[must_use]
    pub fn from_units(units: f64) -> Option<Money> {
        let nanos = (units * UNIT as f64).round();
        // Above 2^53 a number no longer tells one billionth from the next, but it is still in range.
        (nanos.is_finite() && nanos.abs() < i64::MAX as f64).then_some(Money { nanos: nanos as i64 })
    }

    /// Reads `12`, `0.05` or `.5` exactly: at most nine places behind the point.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Money, String> {
        let refuse = || {
            format!("`{text}` is no amount; write one like 0.15, with at most nine places behind the point")
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() && part.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 {
            return Err(refuse());
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| refuse())? };
        let part: i64 = format!("{part:0<9}").parse().map_err(|_| refuse())?;
        whole
            .checked_mul(UNIT)
            .and_then(|nanos| nanos.checked_add(part))
            .map(Money::from_nanos)
            .ok_or_else(refuse)
    }

    /// The amount as a number of units, for showing.
    #[must_use]
    pub fn units(self) -> f64 {
        self.nanos as f64 / UNIT as f64
    }

    /// What `count` things cost at this price for a million of them, rounded to the nearest billionth.
    #[must_use]
    pub fn per_million(self, count: u64) -> Money {
        const MILLION: i128 = 1_000_000;
        let nanos = (i128::from(self.nanos) * i128::from(count) + MILLION / 2).div_euclid(MILLION);
        Money { nanos: i64::try_from(nanos).unwrap_or(i64::MAX) }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.unsigned_abs();
        let (whole, part) = (nanos / UNIT as u64, format!("{:09}", nanos % UNIT as u64));
        // Never fewer than two places, as money is written.
        let places = part.trim_end_matches('0').len().max(2);
        write!(formatter, "{sign}{whole}.{}", &part[..places])
    }
}

/// As it is shown: a number would not keep all places in every language that reads JSON.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Add for Money {
    type Output = Money;

    fn add(self, other: Money) -> Money {
        Money { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_and_shown_exactly() {
        for (text, shown) in
            [("12", "12.00"), ("0.15", "0.15"), (".5", "0.50"), ("0.000000001", "0.000000001")]
        {
            assert_eq!(Money::parse(text).expect(text).to_string(), shown);
        }
        for text in ["", ".", "-1", "1e3", "0.0000000001", "1.2.3", "99999999999", "１"] {
            assert!(Money::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_price_per_million_rounds_to_the_nearest() {
        let price = Money::parse("0.10").expect("a price");
        assert_eq!(price.per_million(1).nanos, 100);
        assert_eq!(price.per_million(1_000_000), price);
        assert_eq!(Money::from_nanos(1).per_million(499_999).nanos, 0);
        assert_eq!(Money::from_nanos(1).per_million(500_000).nanos, 1);
        assert_eq!(Money::from_nanos(i64::MAX).per_million(u64::MAX).nanos, i64::MAX);
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanos in 0..i64::MAX) {
            let money = Money::from_nanos(nanos);
            prop_assert_eq!(Money::parse(&money.to_string()), Ok(money));
        }
    }
}
