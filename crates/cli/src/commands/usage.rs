//! `alti usage`: what requests took and cost, beside what closed APIs would have charged for the same tokens.

use crate::database::{DatabaseOptions, date};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output;
use alti_store::{ClosedPrice, Group, Key, Money, Store, Summary, Totals, UsageFilter};
use chrono::NaiveDate;
use clap::Subcommand;
use serde::Serialize;
use std::fmt::Write as _;

/// Show what requests took and cost, beside what closed APIs would have charged
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  alti usage
  alti usage --by key,model --from 2026-01-01
  alti usage --key shop --json
  alti usage set-price some-closed-model --input 2.50 --cached-input 1.25 --output 10
  alti usage prices")]
pub struct UsageCommand {
    #[command(subcommand)]
    action: Option<UsageAction>,
    #[command(flatten)]
    show: ShowUsage,
}

#[derive(Debug, Subcommand)]
enum UsageAction {
    SetPrice(SetPrice),
    RemovePrice(RemovePrice),
    Prices(ListPrices),
}

#[derive(Debug, clap::Args)]
struct ShowUsage {
    /// What to tell apart
    #[arg(long, value_delimiter = ',', value_enum, default_value = "day,key,model")]
    by: Vec<Column>,
    /// First day (UTC), like 2026-01-31
    #[arg(long, value_name = "DATE")]
    from: Option<NaiveDate>,
    /// Last day
    #[arg(long, value_name = "DATE")]
    to: Option<NaiveDate>,
    /// One key alone: its id, or its name, which stands for all keys that have or had it
    #[arg(long)]
    key: Option<String>,
    /// One model alone
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    database: DatabaseOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Column {
    /// Days
    Day,
    /// Keys
    Key,
    /// Models
    Model,
}

/// Enter what a closed API charges for a million tokens
#[derive(Debug, clap::Args)]
struct SetPrice {
    /// What to call it, for example the model's name there
    name: String,
    /// Price of a million prompt tokens, in your currency
    #[arg(long, value_name = "AMOUNT", value_parser = Money::parse)]
    input: Money,
    /// Price of a million prompt tokens that are cached there [default: as --input]
    #[arg(long, value_name = "AMOUNT", value_parser = Money::parse)]
    cached_input: Option<Money>,
    /// Price of a million generated tokens
    #[arg(long, value_name = "AMOUNT", value_parser = Money::parse)]
    output: Money,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// Forget what a closed API charges
#[derive(Debug, clap::Args)]
struct RemovePrice {
    /// What it is called
    name: String,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// List what closed APIs charge, as it was entered
#[derive(Debug, clap::Args)]
struct ListPrices {
    #[command(flatten)]
    database: DatabaseOptions,
}

/// A row as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    day: Option<String>,
    key: Option<String>,
    key_name: Option<String>,
    model: Option<String>,
    #[serde(flatten)]
    totals: Counts,
}

/// Sums, with money as text, which loses nothing.
#[derive(Debug, Serialize)]
struct Counts {
    requests: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    generated_tokens: u64,
    queue_seconds: f64,
    prefill_seconds: f64,
    decode_seconds: f64,
    cpu_seconds: f64,
    cost: String,
    closed_apis: Vec<Closed>,
}

#[derive(Debug, Serialize)]
struct Closed {
    name: String,
    cost: String,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Row>,
    total: Counts,
}

impl UsageCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the database cannot be read or written, or there is no such key or price.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        match &self.action {
            None => self.show.run(environment, json),
            Some(UsageAction::SetPrice(command)) => command.run(environment, json),
            Some(UsageAction::RemovePrice(command)) => command.run(environment, json),
            Some(UsageAction::Prices(command)) => command.run(environment, json),
        }
    }
}

impl ShowUsage {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let store = self.database.open(environment)?;
        let keys = store.keys().list()?;
        let prices = store.closed_prices().list()?;
        let day = |date: NaiveDate| i64::from(date.to_epoch_days());
        let filter = UsageFilter {
            from_day: self.from.map(day),
            to_day: self.to.map(day),
            key: None,
            model: self.model.clone(),
        };
        let has = |column| self.by.contains(&column);
        let group = Group { day: has(Column::Day), key: has(Column::Key), model: has(Column::Model) };
        let meant = self.key.as_ref().map(|named| ids_of(&store, named)).transpose()?;
        let summary = |group| match &meant {
            Some(ids) => store.usage().summary_of_keys(&filter, ids, group),
            None => store.usage().summary(&filter, group),
        };
        let rows = summary(group)?;
        let total = summary(Group::default())?;
        let total = total.first().map(|row| row.totals).unwrap_or_default();
        let report = Report {
            rows: rows.into_iter().map(|row| shown(row, &keys, &prices)).collect(),
            total: counts(&total, &prices),
        };
        output::result(json, &report, |report| table(report, &prices))
    }
}

/// The ids of the keys that are meant by an id or a name.
fn ids_of(store: &Store, named: &str) -> anyhow::Result<Vec<String>> {
    let found = store.keys().meant_by(named)?;
    if found.is_empty() {
        let message = format!("there is no key `{named}`; `alti keys list` shows what there is");
        return Err(Exit::new(Failure::NotFound, message).into());
    }
    Ok(found)
}

fn shown(row: Summary, keys: &[Key], prices: &[ClosedPrice]) -> Row {
    let name = row.key.as_ref().map(|id| match keys.iter().find(|key| key.id == *id) {
        Some(key) => key.name.clone(),
        None if id.is_empty() => "(no key)".to_owned(),
        None => id.clone(),
    });
    Row {
        day: row.day.map(|day| date(day.saturating_mul(86_400))),
        key: row.key,
        key_name: name,
        model: row.model,
        totals: counts(&row.totals, prices),
    }
}

fn counts(totals: &Totals, prices: &[ClosedPrice]) -> Counts {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let closed =
        |price: &ClosedPrice| Closed { name: price.name.clone(), cost: price.cost(totals).to_string() };
    Counts {
        requests: totals.requests,
        prompt_tokens: totals.prompt_tokens,
        cached_tokens: totals.cached_tokens,
        generated_tokens: totals.generated_tokens,
        queue_seconds: seconds(totals.queue_micros),
        prefill_seconds: seconds(totals.prefill_micros),
        decode_seconds: seconds(totals.decode_micros),
        cpu_seconds: seconds(totals.cpu_micros),
        cost: totals.cost.to_string(),
        closed_apis: prices.iter().map(closed).collect(),
    }
}

fn table(report: &Report, prices: &[ClosedPrice]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, values: [&str; 6], closed: &[String]| {
        let [requests, prompt, cached, generated, cpu, cost] = values;
        write!(
            text,
            "{name:44} {requests:>9} {prompt:>12} {cached:>12} {generated:>12} {cpu:>10} {cost:>14}"
        )
        .unwrap_or_else(|_| unreachable!("a string grows"));
        closed.iter().for_each(|cost| text.push_str(&format!(" {cost:>18}")));
        text.push('\n');
    };
    let names: Vec<String> = prices.iter().map(|price| price.name.chars().take(18).collect()).collect();
    line("", ["REQUESTS", "PROMPT", "CACHED", "GENERATED", "CPU s", "COST"], &names);
    let mut row = |name: &str, counts: &Counts| {
        let numbers = [counts.requests, counts.prompt_tokens, counts.cached_tokens, counts.generated_tokens];
        let [requests, prompt, cached, generated] = numbers.map(|number| number.to_string());
        let cpu = format!("{:.1}", counts.cpu_seconds);
        let closed: Vec<String> = counts.closed_apis.iter().map(|closed| closed.cost.clone()).collect();
        line(name, [&requests, &prompt, &cached, &generated, &cpu, &counts.cost], &closed);
    };
    for it in &report.rows {
        let name: Vec<&str> =
            [&it.day, &it.key_name, &it.model].into_iter().flatten().map(String::as_str).collect();
        if !name.is_empty() {
            row(&name.join("  "), &it.totals);
        }
    }
    row("total", &report.total);
    if prices.is_empty() {
        text.push_str(
            "\n`alti usage set-price` enters what a closed API charges, to be shown beside the cost\n",
        );
    }
    text
}

impl SetPrice {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let price = ClosedPrice {
            name: self.name.clone(),
            input: self.input,
            cached_input: self.cached_input.unwrap_or(self.input),
            output: self.output,
            updated_at: 0,
        };
        let price = self.database.open(environment)?.closed_prices().set(price)?;
        output::result(json, &price, |price| prices(std::slice::from_ref(price)))
    }
}

impl RemovePrice {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        self.database.open(environment)?.closed_prices().remove(&self.name)?;
        output::result(json, &self.name, |name| format!("forgot what {name} charges\n"))
    }
}

impl ListPrices {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let list = self.database.open(environment)?.closed_prices().list()?;
        output::result(json, &list, |list| prices(list))
    }
}

fn prices(list: &[ClosedPrice]) -> String {
    let row = |name: &str, input: &str, cached: &str, output: &str, entered: &str| {
        format!("{name:32} {input:>12} {cached:>12} {output:>12}  {entered}\n")
    };
    let told = |price: &ClosedPrice| {
        let [input, cached, output] =
            [price.input, price.cached_input, price.output].map(|it| it.to_string());
        row(&price.name, &input, &cached, &output, &date(price.updated_at))
    };
    row("A MILLION TOKENS OF", "INPUT", "CACHED", "OUTPUT", "ENTERED")
        + &list.iter().map(told).collect::<String>()
}
