//! `alti keys`: who may use the server, for what, and how much of it.

use crate::database::{DatabaseOptions, date};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::output;
use alti_server::Scope;
use alti_store::{Key, KeyState, Keys, Money, NewKey, Quotas, now};
use clap::Subcommand;
use serde_json::json;

/// Make, list and take back the keys of the server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti keys create shop
  alti keys create shop --tokens-per-day 2000000 --cost-per-day 1.50 --concurrency 4 --expires-days 90
  alti keys create dashboard --scope metrics
  alti keys list
  alti keys revoke shop")]
pub struct KeysCommand {
    #[command(subcommand)]
    action: KeysAction,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    Create(CreateKey),
    List(ListKeys),
    Revoke(RevokeKey),
}

/// Make a key, and show it this once
#[derive(Debug, clap::Args)]
struct CreateKey {
    /// What to call it
    name: String,
    /// Whose data it sees: keys of one tenant share conversations, files and cached prefixes [default: the name]
    #[arg(long)]
    tenant: Option<String>,
    /// What it may be used for [default: models, inference and data]
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(Scope::TABLE.map(|(_, name)| name)))]
    scope: Vec<String>,
    /// Requests a day (UTC)
    #[arg(long, value_name = "COUNT")]
    requests_per_day: Option<u64>,
    /// Tokens a day, prompts and answers together
    #[arg(long, value_name = "COUNT")]
    tokens_per_day: Option<u64>,
    /// Cost a day, in your currency
    #[arg(long, value_name = "AMOUNT", value_parser = Money::parse)]
    cost_per_day: Option<Money>,
    /// Requests at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Days after which it ends [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=36500))]
    expires_days: Option<i64>,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// List the keys
#[derive(Debug, clap::Args)]
struct ListKeys {
    #[command(flatten)]
    database: DatabaseOptions,
}

/// Take a key back: requests with it are refused from now on
#[derive(Debug, clap::Args)]
struct RevokeKey {
    /// Its id, or its name if only one has it
    key: String,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// What a key may be used for if nobody says.
const DEFAULT_SCOPES: [Scope; 3] = [Scope::Models, Scope::Inference, Scope::Data];

impl KeysCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the database cannot be read or written, or there is no such key.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        match &self.action {
            KeysAction::Create(command) => command.run(environment, json),
            KeysAction::List(command) => command.run(environment, json),
            KeysAction::Revoke(command) => command.run(environment, json),
        }
    }
}

impl CreateKey {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let scopes = match self.scope.is_empty() {
            true => DEFAULT_SCOPES.map(|scope| scope.name().to_owned()).to_vec(),
            false => self.scope.clone(),
        };
        let new = NewKey {
            name: self.name.clone(),
            tenant: self.tenant.clone().unwrap_or_else(|| self.name.clone()),
            scopes,
            quotas: Quotas {
                requests_per_day: self.requests_per_day,
                tokens_per_day: self.tokens_per_day,
                cost_per_day: self.cost_per_day,
                concurrency: self.concurrency,
            },
            expires_at: self.expires_days.map(|days| now() + days * 86_400),
        };
        let (key, secret) = self.database.open(environment)?.keys().create(new)?;
        if !json {
            eprintln!("the key `{}`, which is shown this once (only its hash is kept):", key.name);
        }
        output::result(json, &json!({ "key": key, "secret": secret }), |_| format!("{secret}\n"))
    }
}

impl ListKeys {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let keys = self.database.open(environment)?.keys().list()?;
        output::result(json, &keys, |keys| {
            if keys.is_empty() {
                return "no keys: only this machine is served; `alti keys create NAME` makes one\n"
                    .to_owned();
            }
            let row = |key: &Key| {
                format!(
                    "{:20} ...{:6} {:8} {:28} {:28} {}\n",
                    key.name,
                    key.hint,
                    state(key),
                    key.scopes.join(","),
                    quotas(&key.quotas),
                    key.id
                )
            };
            format!("{:20} {:9} {:8} {:28} {:28} {}\n", "NAME", "KEY", "STATE", "SCOPES", "QUOTAS", "ID")
                + &keys.iter().map(row).collect::<String>()
        })
    }
}

fn state(key: &Key) -> &'static str {
    match key.state(now()) {
        KeyState::Active => "active",
        KeyState::Expired => "expired",
        KeyState::Revoked => "revoked",
    }
}

fn quotas(quotas: &Quotas) -> String {
    let told = [
        quotas.requests_per_day.map(|count| format!("{count} requests/d")),
        quotas.tokens_per_day.map(|count| format!("{count} tokens/d")),
        quotas.cost_per_day.map(|money| format!("{money}/d")),
        quotas.concurrency.map(|count| format!("{count} at once")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

impl RevokeKey {
    fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let store = self.database.open(environment)?;
        let id = find(&store.keys(), &self.key)?;
        let key = store.keys().revoke(&id)?;
        let when = key.revoked_at.map(date).unwrap_or_default();
        output::result(json, &key, |key| format!("revoked {} ({}), {when}\n", key.name, key.id))
    }
}

/// The id of the key that is meant by an id or a name.
fn find(keys: &Keys<'_>, named: &str) -> anyhow::Result<String> {
    let all = keys.list()?;
    if all.iter().any(|key| key.id == named) {
        return Ok(named.to_owned());
    }
    let found: Vec<&Key> =
        all.iter().filter(|key| key.name == named && key.state(now()) == KeyState::Active).collect();
    match found[..] {
        [key] => Ok(key.id.clone()),
        [] => {
            let message = format!("there is no active key `{named}`; `alti keys list` shows what there is");
            Err(Exit::new(Failure::NotFound, message).into())
        }
        _ => {
            let ids = found.iter().map(|key| key.id.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("several keys are called `{named}`: name one by its id ({ids})");
            Err(Exit::new(Failure::Usage, message).into())
        }
    }
}
