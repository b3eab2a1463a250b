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

/// What prices are for.
const MILLION: i128 = 1_000_000;

/// An amount that nothing was rounded in: as fine as a price for a million of something makes that of a single one, so
/// that the amounts of parts add up to that of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExactMoney {
    /// Millionths of billionths of the currency.
    femtos: i128,
}

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
        let nanos = (i128::from(self.nanos) * i128::from(count) + MILLION / 2).div_euclid(MILLION);
        Money { nanos: i64::try_from(nanos).unwrap_or(i64::MAX) }
    }

    /// What `count` things cost at this price for a million of them, to the last place; fewer than none cost less than
    /// nothing.
    #[must_use]
    pub fn exactly_per_million(self, count: i128) -> ExactMoney {
        ExactMoney { femtos: i128::from(self.nanos).saturating_mul(count) }
    }
}

/// Writes an amount of which `places` decimals are behind the point, without zeros that say nothing.
fn write_amount(formatter: &mut fmt::Formatter<'_>, amount: i128, places: usize) -> fmt::Result {
    let sign = if amount < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", amount.unsigned_abs(), width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    // Never fewer than two places, as money is written.
    let shown = part.trim_end_matches('0').len().max(2);
    write!(formatter, "{sign}{whole}.{}", &part[..shown])
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_amount(formatter, i128::from(self.nanos), 9)
    }
}

impl fmt::Display for ExactMoney {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_amount(formatter, self.femtos, 15)
    }
}

impl From<Money> for ExactMoney {
    fn from(money: Money) -> ExactMoney {
        ExactMoney { femtos: i128::from(money.nanos) * MILLION }
    }
}

impl Add for ExactMoney {
    type Output = ExactMoney;

    fn add(self, other: ExactMoney) -> ExactMoney {
        ExactMoney { femtos: self.femtos.saturating_add(other.femtos) }
    }
}

impl Sum for ExactMoney {
    fn sum<I: Iterator<Item = ExactMoney>>(amounts: I) -> ExactMoney {
        amounts.fold(ExactMoney::default(), Add::add)
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

    #[test]
    fn an_exact_amount_has_all_its_places() {
        let price = Money::parse("0.0015").expect("a price");
        for (count, shown) in [
            (1, "0.0000000015"),
            (3, "0.0000000045"),
            (-1, "-0.0000000015"),
            (0, "0.00"),
            (2_000_000_000, "3.00"),
        ] {
            assert_eq!(price.exactly_per_million(count).to_string(), shown);
        }
        assert_eq!(Money::from_nanos(1).exactly_per_million(1).to_string(), "0.000000000000001");
        assert_eq!(price.exactly_per_million(1_000_000), price.into());
        let most = Money::from_nanos(i64::MAX).exactly_per_million(i128::MAX);
        assert_eq!(most + most, most, "what is beyond all amounts stays there");
    }

    proptest! {
        #[test]
        fn exact_amounts_of_parts_are_that_of_the_whole(
            nanos in 0..i64::MAX,
            counts in prop::collection::vec(0..1u64 << 40, 0..9),
        ) {
            let price = Money::from_nanos(nanos);
            let parts = counts.iter().map(|&count| price.exactly_per_million(count.into()));
            let whole = counts.iter().map(|&count| i128::from(count)).sum();
            prop_assert_eq!(parts.sum::<ExactMoney>(), price.exactly_per_million(whole));
        }

        #[test]
        fn what_is_shown_reads_back(nanos in 0..i64::MAX) {
            let money = Money::from_nanos(nanos);
            prop_assert_eq!(Money::parse(&money.to_string()), Ok(money));
        }
    }
}
