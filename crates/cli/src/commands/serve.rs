//! `alti serve`: the APIs that apps speak, over the models of this machine.

use crate::database::DatabaseOptions;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::model::name_or_default;
use crate::pulling;
use crate::serving::loader::Loader;
use crate::serving::settings::{DRAFT_MODEL, ServeSettings};
use alti_engine::serving::Turns;
use alti_server::{AppState, ModelLoader, ServeError, Server, Services};
use alti_store::Store;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tracing_subscriber::filter::LevelFilter;

/// Serve models to apps that speak the APIs of OpenAI, Anthropic, Ollama or llama.cpp
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti serve                                  the default model on 127.0.0.1:8080
  alti serve llama3.2:1b smollm2-135m-instruct
  alti serve --listen 0.0.0.0:8080            for other machines, who need a key (alti keys create)
  alti serve --config alti.toml               every setting: alti config example
  alti serve --set engine.context=4096 --set server.idle_unload_seconds=60")]
pub struct ServeCommand {
    /// Models to load at the start and keep; the first answers where a request names none [default: the default model]
    models: Vec<String>,
    /// A file of settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Threads that compute [default: one for each core]
    #[arg(short = 't', long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Tokens of the longest sequence [default: the model's, at most 8192]
    #[arg(short = 'c', long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Export traces of requests to this OpenTelemetry collector, such as http://127.0.0.1:4318
    #[arg(long, value_name = "ADDRESS")]
    otlp_endpoint: Option<String>,
    /// Any other setting, such as engine.max_running=32
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    set: Vec<String>,
    /// What is logged
    #[arg(long, value_enum, default_value = "warn")]
    log: LogLevel,
    /// Log in JSON, one object a line
    #[arg(long)]
    log_json: bool,
    #[command(flatten)]
    database: DatabaseOptions,
}

/// Cores for which one thread reads and writes: a token takes it some 60 microseconds.
const CORES_OF_A_WIRE_THREAD: usize = 8;

/// How much is logged.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogLevel {
    /// Nothing
    Off,
    /// What went wrong
    Error,
    /// And what looks odd
    Warn,
    /// And every request
    Info,
    /// And more
    Debug,
}

impl ServeCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a setting is wrong, a model cannot be loaded, or the address is taken.
    pub fn run(&self, environment: &Environment) -> anyhow::Result<()> {
        let mut settings = ServeSettings::read(environment, self.config.as_deref(), &self.flags())?;
        self.start_log();
        let store = self.database.open(environment)?;
        // What another server left is ended or gone on with: so there must be no other.
        let _until_the_end = store.lock_for_serving()?;
        self.choose_models(environment, &mut settings)?;
        let home = environment.home.clone();
        settings.server.aliases_file.get_or_insert_with(|| home.join("aliases.json"));
        // What the store has is the owner's to serve, adapters among it.
        settings.server.adapter_folders.push(home);
        let loader = Loader {
            environment: environment.clone(),
            options: settings.engine.clone(),
            turns: Turns::default(),
            named: settings
                .server
                .pinned_models
                .iter()
                .chain(&settings.engine.draft_model)
                .cloned()
                .collect(),
        };
        // One thread for each so many cores is enough for wires and JSON, and the rest of the machine computes. A token
        // that is told wakes one of these threads, which wakes another, if there is one, to look for more to do.
        let cores = std::thread::available_parallelism()?.get();
        let threads = cores.div_ceil(CORES_OF_A_WIRE_THREAD);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        runtime.block_on(serve(settings, Arc::new(loader), store))
    }

    /// The settings of the command line, as `--set` spells them: all are checked with the file's.
    fn flags(&self) -> Vec<String> {
        let listen: Vec<String> = self.listen.iter().map(SocketAddr::to_string).collect();
        let listen = (!listen.is_empty()).then(|| format!("server.listen={}", listen.join(",")));
        let endpoint = self.otlp_endpoint.as_ref().map(|address| format!("server.otlp_endpoint={address}"));
        let threads = self.threads.map(|threads| format!("engine.threads={threads}"));
        let context = self.context.map(|tokens| format!("engine.context={tokens}"));
        self.set.iter().cloned().chain([listen, endpoint, threads, context].into_iter().flatten()).collect()
    }

    /// The models of the command line stay loaded, and the first is the default. One of the catalogue that is not there
    /// is fetched now, and so is the one that guesses for others: whether it can be read is told before the first request.
    fn choose_models(&self, environment: &Environment, settings: &mut ServeSettings) -> anyhow::Result<()> {
        let server = &mut settings.server;
        let nothing =
            self.models.is_empty() && server.pinned_models.is_empty() && server.default_model.is_none();
        let named = match nothing {
            true => vec![name_or_default(environment, None).to_owned()],
            false => self.models.clone(),
        };
        server.pinned_models.splice(0..0, named);
        for model in &server.pinned_models {
            crate::model::find(environment, model)?;
        }
        if let Some(draft) = &settings.engine.draft_model {
            crate::model::open(environment, draft).context(DRAFT_MODEL)?;
        }
        if server.default_model.is_none() {
            server.default_model = server.pinned_models.first().cloned();
        }
        // The store is there from now on.
        pulling::store(environment).map(drop)
    }

    fn start_log(&self) {
        let level = match self.log {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        let log =
            tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
        match self.log_json {
            true => log.json().init(),
            false => log.init(),
        }
    }
}

/// Serves until asked to stop.
async fn serve(settings: ServeSettings, loader: Arc<dyn ModelLoader>, store: Store) -> anyhow::Result<()> {
    let has_keys = store.keys().any()?;
    let services = Services { store: Some(store), ..Services::default() };
    let state = AppState::with_services(settings.server.clone(), loader, services);
    let server = Server::bind(state.clone()).await.map_err(|error| {
        let failure = match error {
            ServeError::Settings(_) | ServeError::Tls { .. } => Failure::Usage,
            ServeError::Listen { .. } => Failure::Failed,
        };
        Exit::new(failure, error.to_string())
    })?;
    eprintln!("loading {}", settings.server.pinned_models.join(", "));
    state.models().load_pinned().await.map_err(|error| Exit::new(Failure::Failed, error.to_string()))?;
    announce(&settings, &server, has_keys);
    server.run(stopped()).await;
    Ok(())
}

/// Says where the server is and what to paste into an app.
fn announce(settings: &ServeSettings, server: &Server, has_keys: bool) {
    let scheme = if server.is_tls() { "https" } else { "http" };
    for address in server.addresses() {
        println!("listening on {scheme}://{address}");
    }
    if let Some(address) = server.addresses().first() {
        eprintln!("{}", pasted(settings, &format!("{scheme}://{address}"), has_keys));
    }
}

/// What to paste into an app, for a server at that address.
fn pasted(settings: &ServeSettings, base: &str, has_keys: bool) -> String {
    let model = settings.server.default_model.as_deref().unwrap_or("MODEL");
    let key = key_to_paste(settings, has_keys);
    let header = match settings.server.require_key {
        true => " -H 'authorization: Bearer KEY'",
        false => "",
    };
    format!(
        "paste into an app:\n  OpenAI     base URL {base}/v1, model {model}\n  Anthropic  base URL {base}\n  \
         Ollama     host {base}\n  key        {key}\nor try:\n  curl {base}/v1/chat/completions{header} -H \
         'content-type: application/json' -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \
         \"Hello!\"}}]}}'"
    )
}

/// Which key an app is to send. As long as there are none at all, what this machine sends as one is not looked at.
fn key_to_paste(settings: &ServeSettings, has_keys: bool) -> &'static str {
    let beyond = settings.server.listen.iter().any(|address| !address.ip().to_canonical().is_loopback());
    match (has_keys, settings.server.require_key) {
        (true, true) => "one of yours: `alti keys list` names them, `alti keys create NAME` makes another",
        (true, false) => {
            "one of yours (`alti keys list`), or none at all on this machine; any other is refused"
        }
        (false, true) => "one that `alti keys create NAME` makes: there is none yet, and none goes without",
        (false, false) if beyond => "any on this machine; others need one that `alti keys create NAME` makes",
        (false, false) => "any",
    }
}

/// Waits until the process is asked to stop: Ctrl-C, or what service managers send.
async fn stopped() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        () = terminated => (),
    }
    eprintln!("stopping: answers in the works are finished first");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pasted_is_let_in() {
        let settings = |listen: &str, require_key| {
            let mut settings = ServeSettings::default();
            settings.server.listen = vec![listen.parse().expect("an address")];
            settings.server.require_key = require_key;
            settings
        };
        let (here, everywhere) = ("127.0.0.1:8080", "0.0.0.0:8080");
        let told = |listen, require_key, has_keys| {
            let text = pasted(&settings(listen, require_key), "http://base", has_keys);
            assert_eq!(text.contains("Bearer KEY"), require_key, "{text}");
            let key = text.lines().find_map(|line| line.trim().strip_prefix("key ")).expect("a line");
            key.trim().to_owned()
        };
        assert_eq!(told(here, false, false), "any");
        let others = told(everywhere, false, false);
        assert!(others.starts_with("any on this machine; others need one"), "{others}");
        // An unknown key is refused as soon as there is any.
        assert!(told(here, false, true).contains("any other is refused"));
        for (listen, has_keys) in [(here, false), (here, true), (everywhere, true)] {
            let key = told(listen, true, has_keys);
            assert!(key.starts_with("one ") && key.contains("alti keys create"), "{key}");
            assert_eq!(key.contains("none yet"), !has_keys, "{key}");
        }
    }
}
