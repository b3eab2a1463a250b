//! What tokens cost; and what closed APIs charge for them, as the owner entered it: nothing here is known by the program,
//! because prices change and differ between contracts.

use crate::error::{Result, StoreError};
use crate::money::{ExactMoney, Money};
use crate::usage::Totals;
use crate::{Store, now};
use rusqlite::{Row, params};
use serde::Serialize;

/// Prices of a model's tokens, for a million each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenPrices {
    /// Of prompt tokens.
    pub prompt: Money,
    /// Of prompt tokens that are cached.
    pub cached: Money,
    /// Of generated tokens.
    pub generated: Money,
}

impl TokenPrices {
    /// What so many tokens cost; `cached` are those of the `prompt` that were cached.
    #[must_use]
    pub fn cost(&self, prompt: u64, cached: u64, generated: u64) -> Money {
        let cached = cached.min(prompt);
        self.prompt.per_million(prompt - cached)
            + self.cached.per_million(cached)
            + self.generated.per_million(generated)
    }
}

/// Prices of one model of a closed API, for a million tokens each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClosedPrice {
    /// What the owner calls it.
    pub name: String,
    /// Of prompt tokens.
    pub input: Money,
    /// Of prompt tokens that are cached there.
    pub cached_input: Money,
    /// Of generated tokens.
    pub output: Money,
    /// When it was entered, in seconds since 1970.
    pub updated_at: i64,
}

impl ClosedPrice {
    /// What the tokens of these requests would have cost there. Tokens that were cached here are counted as cached there.
    /// The costs of sums are exactly the sums of the costs, however requests are summed up: nothing is rounded, and
    /// nothing is clamped, which would be another number for the sum than for its parts.
    #[must_use]
    pub fn cost(&self, totals: &Totals) -> ExactMoney {
        let [prompt, cached, generated] =
            [totals.prompt_tokens, totals.cached_tokens, totals.generated_tokens].map(i128::from);
        self.input.exactly_per_million(prompt - cached)
            + self.cached_input.exactly_per_million(cached)
            + self.output.exactly_per_million(generated)
    }
}

/// The price table of a store.
#[derive(Clone, Copy, Debug)]
pub struct ClosedPrices<'a> {
    pub(crate) store: &'a Store,
}

impl ClosedPrices<'_> {
    /// Enters a price, or another one for the same name. `updated_at` is set.
    ///
    /// # Errors
    /// When the name is empty or nothing can be written.
    pub fn set(&self, price: ClosedPrice) -> Result<ClosedPrice> {
        let price = ClosedPrice { updated_at: now(), ..price };
        if price.name.trim().is_empty() || price.name.len() > 200 {
            return Err(StoreError::invalid("the price's name", "must be 1 to 200 characters"));
        }
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO closed_prices VALUES (?, ?, ?, ?, ?)",
                params![
                    price.name,
                    price.input.nanos,
                    price.cached_input.nanos,
                    price.output.nanos,
                    price.updated_at
                ],
            )?;
            Ok(())
        })?;
        Ok(price)
    }

    /// All prices, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self) -> Result<Vec<ClosedPrice>> {
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT * FROM closed_prices ORDER BY name")?;
            let prices = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            Ok(prices)
        })
    }

    /// Forgets a price.
    ///
    /// # Errors
    /// When there is none with that name.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.store.write(|transaction| {
            match transaction.execute("DELETE FROM closed_prices WHERE name = ?", [name])? {
                0 => Err(StoreError::not_found("price", name)),
                _ => Ok(()),
            }
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<ClosedPrice> {
    let money = |name| row.get(name).map(Money::from_nanos);
    Ok(ClosedPrice {
        name: row.get("name")?,
        input: money("input_nanos")?,
        cached_input: money("cached_input_nanos")?,
        output: money("output_nanos")?,
        updated_at: row.get("updated_at")?,
    })
}
