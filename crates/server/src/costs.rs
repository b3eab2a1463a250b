//! What a request costs the owner: its tokens at the prices of its model, where there are any; otherwise its share of the
//! machine's time and power.

use crate::auth::UsageRow;
use crate::settings::ServerSettings;
use alti_store::{Money, TokenPrices};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a million tokens of a model cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrices {
    /// The model's name, as `alti usage` shows it.
    pub model: String,
    /// Of prompt tokens.
    pub prompt: f64,
    /// Of prompt tokens that were cached; as `prompt`, if nothing is said.
    pub cached: Option<f64>,
    /// Of generated tokens.
    pub generated: f64,
}

/// What requests cost: nothing, by default.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    /// Of a second of one core.
    core_second: f64,
    models: HashMap<String, TokenPrices>,
    /// The most that a token has cost so far, of each model whose requests are paid by time.
    dearest: Mutex<HashMap<String, f64>>,
}

/// The most that is set aside for one request: a sum of many is still an amount.
const MOST_HELD: Money = Money::from_nanos(i64::MAX / 1_000_000);
const SECONDS_PER_HOUR: f64 = 3600.0;
const WATTS_PER_KILOWATT: f64 = 1000.0;

impl Costs {
    /// By the prices of the settings.
    ///
    /// # Errors
    /// The price that is none.
    pub(crate) fn new(settings: &ServerSettings) -> Result<Costs, String> {
        let named = [
            ("price_per_hour", settings.price_per_hour),
            ("price_cores", settings.price_cores),
            ("price_per_kwh", settings.price_per_kwh),
            ("machine_watts", settings.machine_watts),
        ];
        for (name, value) in named {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{name} is {value}: it must be a number, and not negative"));
            }
        }
        if settings.price_cores == 0.0 {
            return Err("price_cores is 0: it must be the number of cores that the prices are for".into());
        }
        let power = settings.machine_watts / WATTS_PER_KILOWATT * settings.price_per_kwh;
        let core_second = (settings.price_per_hour + power) / (SECONDS_PER_HOUR * settings.price_cores);
        let mut models = HashMap::new();
        for (index, row) in settings.model_prices.iter().enumerate() {
            if models.insert(row.model.clone(), row.read(index)?).is_some() {
                return Err(format!("model_prices[{index}] is a second entry of the model `{}`", row.model));
            }
        }
        Ok(Costs { core_second, models, dearest: Mutex::default() })
    }

    fn dearest(&self) -> MutexGuard<'_, HashMap<String, f64>> {
        self.dearest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request cost that is done.
    pub(crate) fn of(&self, row: &UsageRow) -> Money {
        if let Some(prices) = self.models.get(&row.model) {
            return prices.cost(row.prompt_tokens, row.cached_tokens, row.generated_tokens);
        }
        let cost = (row.cpu_seconds * self.core_second).max(0.0);
        // Cached tokens take no time: they say nothing about what others take.
        let tokens = row.prompt_tokens.saturating_sub(row.cached_tokens) + row.generated_tokens;
        if cost > 0.0 && tokens > 0 {
            let mut dearest = self.dearest();
            let most = dearest.entry(row.model.clone()).or_default();
            *most = most.max(cost / tokens as f64);
        }
        Money::from_units(cost).unwrap_or_default()
    }

    /// The most that a request is expected to cost; none where no request of the model has ended yet.
    pub(crate) fn at_most(&self, model: &str, prompt: u64, generated: u64) -> Option<Money> {
        if let Some(prices) = self.models.get(model) {
            let most = prices.cost(prompt, 0, generated).max(prices.cost(prompt, prompt, generated));
            return Some(most.min(MOST_HELD));
        }
        if self.core_second == 0.0 {
            return Some(Money::ZERO);
        }
        let token = *self.dearest().get(model)?;
        let most = Money::from_units(token * prompt.saturating_add(generated) as f64);
        Some(most.unwrap_or(MOST_HELD).min(MOST_HELD))
    }
}

impl ModelPrices {
    /// The `index`th row of the settings' table.
    fn read(&self, index: usize) -> Result<TokenPrices, String> {
        let price = |name: &str, value: f64| {
            Money::from_units(value).filter(|money| *money >= Money::ZERO).ok_or_else(|| {
                format!("model_prices[{index}].{name} is {value}: it must be a price, and not negative")
            })
        };
        if self.model.is_empty() {
            return Err(format!("model_prices[{index}].model is empty: name a model"));
        }
        Ok(TokenPrices {
            prompt: price("prompt", self.prompt)?,
            cached: price("cached", self.cached.unwrap_or(self.prompt))?,
            generated: price("generated", self.generated)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(settings: ServerSettings) -> Costs {
        Costs::new(&settings).unwrap()
    }

    fn row(model: &str) -> UsageRow {
        UsageRow {
            model: model.into(),
            prompt_tokens: 1000,
            cached_tokens: 600,
            generated_tokens: 50,
            cpu_seconds: 9.0,
            ..UsageRow::default()
        }
    }

    #[test]
    fn time_and_power_are_shared_by_cores_and_a_models_own_prices_go_first() {
        let settings = ServerSettings {
            price_per_hour: 1.0,
            price_cores: 2.0,
            price_per_kwh: 0.5,
            machine_watts: 400.0,
            model_prices: vec![ModelPrices {
                model: "own".into(),
                prompt: 1.0,
                cached: Some(0.1),
                generated: 3.0,
            }],
            ..ServerSettings::default()
        };
        let costs = costs(settings);
        // 9 of the 7,200 seconds that two cores have in an hour, of 1 and 0.4 kWh at 0.5.
        assert_eq!(costs.of(&row("other")), Money::from_nanos(1_500_000));
        assert_eq!(costs.of(&row("own")), Money::from_nanos(400_000 + 60_000 + 150_000));
    }

    #[test]
    fn what_a_request_may_cost_is_known_by_its_models_prices_or_by_those_before() {
        let price = |cached| ModelPrices { model: "own".into(), prompt: 1.0, cached, generated: 3.0 };
        let hourly = ServerSettings {
            price_per_hour: 3600.0,
            model_prices: vec![price(None)],
            ..ServerSettings::default()
        };
        let costs = costs(hourly);
        assert_eq!(costs.at_most("own", 10, 10), Some(Money::from_nanos(40_000)));
        assert_eq!(costs.at_most("other", 10, 10), None);
        costs.of(&row("other"));
        // 9 for 450 tokens that were computed.
        assert_eq!(costs.at_most("other", 10, 10), Money::from_units(0.4));
        let free = Costs::new(&ServerSettings::default()).unwrap();
        assert_eq!(free.at_most("other", 10, 10), Some(Money::ZERO));
    }

    #[test]
    fn what_is_no_price_is_named() {
        let wrong = |settings: ServerSettings| Costs::new(&settings).unwrap_err();
        let default = ServerSettings::default;
        assert!(wrong(ServerSettings { machine_watts: -1.0, ..default() }).contains("machine_watts is -1"));
        assert!(wrong(ServerSettings { price_cores: 0.0, ..default() }).contains("price_cores"));
        let price =
            |model: &str, prompt| ModelPrices { model: model.into(), prompt, cached: None, generated: 0.0 };
        let table = |rows| ServerSettings { model_prices: rows, ..default() };
        assert!(wrong(table(vec![price("a", f64::NAN)])).contains("model_prices[0].prompt"));
        assert!(wrong(table(vec![price("a", 1.0), price("a", 1.0)])).contains("model_prices[1]"));
        assert!(wrong(table(vec![price("", 1.0)])).contains("model_prices[0].model"));
    }
}
