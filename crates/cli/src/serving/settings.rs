//! The settings of `alti serve`: one file, the environment and flags, in that order of precedence from the last.

use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use alti_engine::serving::EngineSettings;
use alti_server::ServerSettings;
use alti_tensor::KvDType;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A file of settings that says everything, commented out.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The setting that names the model which guesses for others.
pub const DRAFT_MODEL: &str = "engine.draft_model";

/// Threads that an engine may have.
const MOST_THREADS: usize = 1024;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeSettings {
    /// The server's.
    pub server: ServerSettings,
    /// Those of each model's engine.
    pub engine: EngineOptions,
}

/// How each model is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Tokens of the longest sequence; none takes the model's, within bounds.
    pub context: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: String,
    /// Tokens of keys and values in all; none takes four contexts, memory permitting.
    pub kv_tokens: Option<usize>,
    /// See [`EngineSettings::step_tokens`].
    pub step_tokens: usize,
    /// See [`EngineSettings::max_running`].
    pub max_running: usize,
    /// See [`EngineSettings::max_waiting`].
    pub max_waiting: usize,
    /// See [`EngineSettings::prefix_cache`].
    pub prefix_cache: bool,
    /// Where the prefix cache is kept between runs.
    pub prefix_folder: Option<PathBuf>,
    /// See [`EngineSettings::draft_tokens`].
    pub draft_tokens: usize,
    /// A smaller model of the same vocabulary that guesses ahead.
    pub draft_model: Option<String>,
    /// Threads that compute; none takes one for each core.
    pub threads: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        let engine = EngineSettings::default();
        EngineOptions {
            context: None,
            kv_type: engine.kv_dtype.name().to_owned(),
            kv_tokens: None,
            step_tokens: engine.step_tokens,
            max_running: engine.max_running,
            max_waiting: engine.max_waiting,
            prefix_cache: engine.prefix_cache,
            prefix_folder: None,
            draft_tokens: engine.draft_tokens,
            draft_model: None,
            threads: None,
        }
    }
}

impl EngineOptions {
    /// How keys and values are stored.
    ///
    /// # Errors
    /// When there is no such way.
    pub fn kv_dtype(&self) -> anyhow::Result<KvDType> {
        let known = || KvDType::TABLE.map(|row| row.1).join(", ");
        let unknown = || format!("engine.kv_type is `{}`: it must be one of {}", self.kv_type, known());
        KvDType::from_name(&self.kv_type).ok_or_else(|| Exit::new(Failure::Usage, unknown()).into())
    }

    fn check(&self) -> anyhow::Result<()> {
        self.kv_dtype()?;
        let positive = [
            ("context", self.context.unwrap_or(1)),
            ("kv_tokens", self.kv_tokens.unwrap_or(1)),
            ("step_tokens", self.step_tokens),
            ("max_running", self.max_running),
            ("max_waiting", self.max_waiting),
            ("threads", self.threads.unwrap_or(1)),
        ];
        // As many as `--threads` takes.
        if let Some(threads) = self.threads.filter(|threads| *threads > MOST_THREADS) {
            let message = format!("engine.threads is {threads}: it must be at most {MOST_THREADS}");
            return Err(Exit::new(Failure::Usage, message).into());
        }
        if self.max_running > self.step_tokens {
            let message = format!(
                "engine.max_running is {}: it must be at most engine.step_tokens ({}), or some answers would get no \
                 token in a step",
                self.max_running, self.step_tokens
            );
            return Err(Exit::new(Failure::Usage, message).into());
        }
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => {
                Err(Exit::new(Failure::Usage, format!("engine.{name} is 0: it must be at least 1")).into())
            }
            None => Ok(()),
        }
    }
}

impl ServeSettings {
    /// Reads the file, if there is one, and puts the environment's and the flags' settings (`server.listen=...`) on top.
    ///
    /// # Errors
    /// When the file cannot be read, or a setting is unknown or wrong.
    pub fn read(environment: &Environment, file: Option<&Path>, flags: &[String]) -> anyhow::Result<Self> {
        let mut table = match file {
            Some(path) => table_of(path)?,
            None => Table::new(),
        };
        if let Some(path) = file {
            // What is wrong with the file is told with its lines.
            let text = std::fs::read_to_string(path)?;
            toml::from_str::<ServeSettings>(&text).map_err(|error| {
                Exit::new(Failure::Usage, one_line(&format!("{}: {error}", path.display())))
            })?;
        }
        for (name, value) in &environment.serve_settings {
            assign(&mut table, name, value)?;
        }
        for flag in flags {
            let wrong = || format!("--set {flag}: it must be like engine.context=4096");
            let (name, value) = flag.split_once('=').ok_or_else(|| Exit::new(Failure::Usage, wrong()))?;
            assign(&mut table, name.trim(), value.trim())?;
        }
        let settings: ServeSettings = Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| Exit::new(Failure::Usage, one_line(&error.to_string())))?;
        settings.server.check().map_err(|what| Exit::new(Failure::Usage, what))?;
        settings.engine.check()?;
        Ok(settings)
    }

    /// Checks that the models which are loaded with the server or beside others are there. One of the catalogue need not
    /// be: it is fetched when the server starts.
    ///
    /// # Errors
    /// When one is not, or its files cannot be read.
    pub fn check_models(&self, environment: &Environment) -> anyhow::Result<()> {
        let pinned = self.server.pinned_models.iter().map(|model| ("server.pinned_models", model));
        let draft = self.engine.draft_model.iter().map(|model| (DRAFT_MODEL, model));
        pinned
            .chain(draft)
            .try_for_each(|(setting, name)| crate::model::check(environment, name).context(setting))
    }
}

fn table_of(path: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let table = toml::from_str(&text);
    Ok(table.map_err(|error: toml::de::Error| {
        Exit::new(Failure::Usage, one_line(&format!("{}: {error}", path.display())))
    })?)
}

/// An error of several lines in one.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "|");
    lines.collect::<Vec<_>>().join("; ")
}

/// Sets `section.name` to a value as a person writes it: without quotes, and lists with commas between.
fn assign(table: &mut Table, name: &str, text: &str) -> anyhow::Result<()> {
    let unknown = || {
        Exit::new(Failure::Usage, format!("there is no setting `{name}`; `alti config example` lists all"))
    };
    let (section, key) = name.split_once('.').ok_or_else(unknown)?;
    let defaults = Table::try_from(ServeSettings::default()).context("the default settings are a table")?;
    let fields = defaults.get(section).and_then(Value::as_table).ok_or_else(unknown)?;
    let as_toml = |text: &str| {
        let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
        parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
    };
    let value = match (fields.get(key), as_toml(text)) {
        // A list may be written without its brackets.
        (Some(Value::Array(_)), Value::Array(items)) => Value::Array(items),
        (Some(Value::Array(_)), _) if text.is_empty() => Value::Array(Vec::new()),
        (Some(Value::Array(_)), _) => {
            Value::Array(text.split(',').map(|item| as_toml(item.trim())).collect())
        }
        // What is a text is one, whatever it looks like.
        (Some(Value::String(_)), Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => {
            Value::String(text.to_owned())
        }
        (Some(Value::Float(_)), Value::Integer(number)) => Value::Float(number as f64),
        (_, value) => value,
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    section.as_table_mut().ok_or_else(unknown)?.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uncommented(line: &str) -> Option<(&str, &str)> {
        let (name, value) = line.strip_prefix("# ")?.split_once(" = ")?;
        name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_').then_some((name, value))
    }

    #[test]
    fn the_example_shows_every_setting_and_its_default() {
        assert_eq!(toml::from_str::<ServeSettings>(EXAMPLE).unwrap(), ServeSettings::default());
        let shown: String = EXAMPLE
            .lines()
            .filter_map(|line| match uncommented(line) {
                Some((name, value)) => Some(format!("{name} = {value}\n")),
                None => line.starts_with('[').then(|| format!("{line}\n")),
            })
            .collect();
        let everything =
            toml::from_str::<ServeSettings>(&shown).expect("the example's settings are settings");
        let (shown, defaults) =
            (Table::try_from(&everything).unwrap(), Table::try_from(ServeSettings::default()).unwrap());
        for (section, fields) in &defaults {
            for (name, value) in fields.as_table().unwrap() {
                assert_eq!(shown[section].get(name), Some(value), "{section}.{name}");
            }
        }
        // Settings that have no value by default are shown with one: so none is missing.
        let example = toml::from_str::<Table>(&EXAMPLE.replace("# ", "")).ok();
        assert!(example.is_none(), "the explanations are no TOML");
        let count = |text: &str| {
            EXAMPLE.lines().filter(|line| uncommented(line).is_some_and(|(name, _)| name == text)).count()
        };
        let source = include_str!("settings.rs").split("pub struct EngineOptions").nth(1).unwrap();
        let source = source.split("\n}").next().unwrap();
        for field in source.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()) {
            assert_eq!(count(field), 1, "{field} is in the example");
        }
    }

    fn with(name: &str, value: &str) -> anyhow::Result<ServeSettings> {
        let mut table = Table::new();
        assign(&mut table, name, value)?;
        Ok(Value::Table(table).try_into()?)
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        let listen = with("server.listen", "0.0.0.0:80, [::1]:81").unwrap().server.listen;
        assert_eq!(listen, ["0.0.0.0:80".parse().unwrap(), "[::1]:81".parse().unwrap()]);
        assert_eq!(with("engine.context", "4096").unwrap().engine.context, Some(4096));
        assert_eq!(with("server.price_per_hour", "2").unwrap().server.price_per_hour, 2.0);
        assert!(!with("engine.prefix_cache", "false").unwrap().engine.prefix_cache);
        assert_eq!(
            with("server.default_model", "some/model:Q4_0").unwrap().server.default_model.unwrap(),
            "some/model:Q4_0"
        );
        assert!(
            with("engine.contxt", "1").is_err() && with("context", "1").is_err() && with("a.b", "1").is_err()
        );
    }
}
