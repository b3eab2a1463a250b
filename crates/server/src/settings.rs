//! What an owner can set about the server: the command line reads flags, environment and file into this.

use crate::costs::{Costs, ModelPrices};
use crate::mcp::{McpServerSettings, McpServers};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Semaphore;

mod seconds;

/// Longer than any server runs, and short enough to be added to a clock.
const LONGEST_SECONDS: u64 = 1_000_000_000;

/// The server's settings. Missing fields have their defaults, unknown ones are an error: a typing error in a settings
/// file must not pass in silence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// The model that answers where a request names none; the first of the list, if none is set.
    pub default_model: Option<String>,
    /// Models that are loaded at the start and stay.
    pub pinned_models: Vec<String>,
    /// Bytes that all loaded models may take together; none is no limit.
    pub memory_bytes: Option<u64>,
    /// Seconds after which a model that nobody uses is unloaded; none (`"never"`) keeps it.
    #[serde(with = "seconds")]
    pub idle_unload_seconds: Option<u64>,
    /// Whether every request needs a key, also those from this machine.
    pub require_key: bool,
    /// Origins of web pages that may use the server (`https://app.example.com`; `*` is all). None by default.
    pub allowed_origins: Vec<String>,
    /// Host names, besides this machine's own, that requests without a key may be addressed to.
    pub allowed_hosts: Vec<String>,
    /// The certificate chain for TLS, in PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub tls_private_key: Option<PathBuf>,
    /// Bytes of the longest request body.
    pub max_body_bytes: usize,
    /// Bytes of the longest uploaded file.
    pub max_upload_bytes: usize,
    /// Bytes that a request's headers may take together.
    pub max_header_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Seconds that a client may take for its headers.
    pub header_timeout_seconds: u64,
    /// Seconds that a client may take between two pieces of its body, or for taking a piece of an answer.
    pub body_timeout_seconds: u64,
    /// Seconds after which an answer that is not finished is given up; none (`"never"`) waits.
    #[serde(with = "seconds", skip_serializing_if = "Option::is_none")]
    pub request_timeout_seconds: Option<u64>,
    /// Answers that one request may ask for (`n`).
    pub max_choices: u32,
    /// Texts that one request may have embedded or ranked.
    pub max_inputs: usize,
    /// Seconds that answers in the works get when the server goes down.
    pub drain_seconds: u64,
    /// Seconds between signs of life in a stream that has nothing to say.
    pub keep_alive_seconds: u64,
    /// Whether what is posted and what is answered is written to the log.
    pub log_text: bool,
    /// Where names given to models (`/api/create`) are kept; none keeps them until the server ends.
    pub aliases_file: Option<PathBuf>,
    /// What an hour of this machine costs without its power, for the cost of answers.
    pub price_per_hour: f64,
    /// Cores of the machine that the prices are for.
    pub price_cores: f64,
    /// What a kilowatt-hour costs.
    pub price_per_kwh: f64,
    /// Watts that the machine takes while all its cores compute.
    pub machine_watts: f64,
    /// What the tokens of single models cost, instead of the machine's time.
    pub model_prices: Vec<ModelPrices>,
    /// Whether `/metrics` answers without a key, whoever asks.
    pub open_metrics: bool,
    /// Folders, besides the store of models, that adapters of Modelfiles may be in.
    pub adapter_folders: Vec<PathBuf>,
    /// Where texts of slots are saved (`POST /slots/{slot}?action=save`); none saves none.
    pub slot_folder: Option<PathBuf>,
    /// Bytes that the saved slots of a tenant may take together; the last one may go beyond.
    pub slot_bytes: u64,
    /// The collector that traces are exported to, by OTLP over HTTP (`http://127.0.0.1:4318`); none exports nothing.
    pub otlp_endpoint: Option<String>,
    /// What traces call this server.
    pub otlp_service_name: String,
    /// How many of the traces that begin here are exported, from 0 to 1; callers' traces are where they say so.
    pub otlp_sample: f64,
    /// MCP servers whose tools requests may use.
    pub mcp_servers: Vec<McpServerSettings>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            default_model: None,
            pinned_models: Vec::new(),
            memory_bytes: None,
            idle_unload_seconds: Some(300),
            require_key: false,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tls_certificate: None,
            tls_private_key: None,
            max_body_bytes: 32 << 20,
            max_upload_bytes: 512 << 20,
            max_header_bytes: 64 << 10,
            max_connections: 4096,
            header_timeout_seconds: 15,
            body_timeout_seconds: 30,
            request_timeout_seconds: None,
            max_choices: 128,
            max_inputs: 2048,
            drain_seconds: 30,
            keep_alive_seconds: 15,
            log_text: false,
            aliases_file: None,
            price_per_hour: 0.0,
            price_cores: 1.0,
            price_per_kwh: 0.0,
            machine_watts: 0.0,
            model_prices: Vec::new(),
            open_metrics: false,
            adapter_folders: Vec::new(),
            slot_folder: None,
            slot_bytes: 16 << 30,
            otlp_endpoint: None,
            otlp_service_name: "alti".to_owned(),
            otlp_sample: 1.0,
            mcp_servers: Vec::new(),
        }
    }
}

impl ServerSettings {
    /// The time a client gets between two pieces of a body.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    /// Checks values that exclude each other or make no sense, and reads the files that TLS wants: what a server would
    /// not start with.
    ///
    /// # Errors
    /// The setting that is wrong and why.
    pub fn check(&self) -> Result<(), String> {
        self.check_values()?;
        crate::serve::tls(self).map(drop).map_err(|error| error.to_string())
    }

    /// As [`Self::check`], without reading files.
    ///
    /// # Errors
    /// The setting that is wrong and why.
    pub(crate) fn check_values(&self) -> Result<(), String> {
        if self.listen.is_empty() {
            return Err("listen is empty: name at least one address, such as 127.0.0.1:8080".into());
        }
        if self.tls_certificate.is_some() != self.tls_private_key.is_some() {
            return Err("tls_certificate and tls_private_key go together: set both or none".into());
        }
        self.check_sizes()?;
        self.check_times()?;
        crate::telemetry::traces_address(self)?;
        McpServers::new(self.mcp_servers.clone())?;
        Costs::new(self).map(drop)
    }

    fn check_sizes(&self) -> Result<(), String> {
        let positive = [
            ("max_body_bytes", self.max_body_bytes),
            ("max_connections", self.max_connections),
            ("max_inputs", self.max_inputs),
            ("max_choices", self.max_choices as usize),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0: it must be at least 1"));
        }
        if self.max_connections > Semaphore::MAX_PERMITS {
            let most = Semaphore::MAX_PERMITS;
            return Err(format!("max_connections is {}: it must be at most {most}", self.max_connections));
        }
        // hyper's parser wants room for more than a request line.
        if self.max_header_bytes < 8 << 10 {
            return Err(format!("max_header_bytes is {}: it must be at least 8192", self.max_header_bytes));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), String> {
        let positive = [
            ("header_timeout_seconds", self.header_timeout_seconds),
            ("body_timeout_seconds", self.body_timeout_seconds),
            ("keep_alive_seconds", self.keep_alive_seconds),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0: it must be at least 1"));
        }
        let with_an_end = [
            ("idle_unload_seconds", self.idle_unload_seconds),
            ("request_timeout_seconds", self.request_timeout_seconds),
        ];
        let too_long = |seconds: u64| seconds > LONGEST_SECONDS;
        if let Some((name, Some(seconds))) = with_an_end.iter().find(|(_, it)| it.is_some_and(too_long)) {
            return Err(format!("{name} is {seconds}: it must be at most {LONGEST_SECONDS}, or \"never\""));
        }
        let drain = ("drain_seconds", self.drain_seconds);
        match positive.into_iter().chain([drain]).find(|(_, seconds)| too_long(*seconds)) {
            Some((name, seconds)) => {
                Err(format!("{name} is {seconds}: it must be at most {LONGEST_SECONDS}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        ServerSettings::default().check().unwrap();
        let half = ServerSettings { tls_certificate: Some("x".into()), ..ServerSettings::default() };
        assert!(half.check().unwrap_err().contains("tls_private_key"));
        let none = ServerSettings { max_connections: 0, ..ServerSettings::default() };
        assert!(none.check().unwrap_err().contains("max_connections"));
        let price = ServerSettings { price_per_hour: f64::NAN, ..ServerSettings::default() };
        assert!(price.check().unwrap_err().contains("price_per_hour"));
        let nowhere = ServerSettings { listen: Vec::new(), ..ServerSettings::default() };
        assert!(nowhere.check().unwrap_err().contains("listen is empty"));
        let crowd = ServerSettings { max_connections: usize::MAX, ..ServerSettings::default() };
        assert!(crowd.check().unwrap_err().contains("max_connections"));
    }

    #[test]
    fn times_can_be_added_to_a_clock() {
        let long = i64::MAX as u64;
        let default = ServerSettings::default;
        let wrong = [
            ("idle_unload_seconds", ServerSettings { idle_unload_seconds: Some(long), ..default() }),
            ("request_timeout_seconds", ServerSettings { request_timeout_seconds: Some(long), ..default() }),
            ("header_timeout_seconds", ServerSettings { header_timeout_seconds: long, ..default() }),
            ("body_timeout_seconds", ServerSettings { body_timeout_seconds: long, ..default() }),
            ("keep_alive_seconds", ServerSettings { keep_alive_seconds: long, ..default() }),
            ("drain_seconds", ServerSettings { drain_seconds: long, ..default() }),
        ];
        for (name, settings) in wrong {
            let said = settings.check().unwrap_err();
            assert!(said.contains(name) && said.contains("at most 1000000000"), "{said}");
            assert_eq!(
                said.contains("never"),
                name.starts_with("idle") || name.starts_with("request"),
                "{said}"
            );
        }
        let never = ServerSettings { idle_unload_seconds: None, drain_seconds: 0, ..default() };
        never.check().unwrap();
    }

    #[test]
    fn never_is_said_and_read_back() {
        let read = serde_json::from_value::<ServerSettings>;
        let settings = read(json!({ "idle_unload_seconds": "never", "request_timeout_seconds": 5 })).unwrap();
        assert_eq!((settings.idle_unload_seconds, settings.request_timeout_seconds), (None, Some(5)));
        let written = serde_json::to_value(&settings).unwrap();
        assert_eq!(written["idle_unload_seconds"], "never");
        assert_eq!(read(written).unwrap(), settings);
        let settings = read(json!({ "request_timeout_seconds": "never" })).unwrap();
        assert_eq!(settings, ServerSettings::default());
        assert_eq!(read(serde_json::to_value(&settings).unwrap()).unwrap(), settings);
        for wrong in [json!("soon"), json!(-1), json!(1.5), json!(true)] {
            let said = read(json!({ "idle_unload_seconds": wrong })).unwrap_err().to_string();
            assert!(said.contains("never"), "{said}");
        }
    }

    #[test]
    fn tls_that_a_server_would_not_start_with_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let fixture =
            |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let with = |certificate: &Path, key: &Path| ServerSettings {
            tls_certificate: Some(certificate.to_owned()),
            tls_private_key: Some(key.to_owned()),
            ..ServerSettings::default()
        };
        let (certificate, key) = (fixture("certificate.pem"), fixture("key.pem"));
        with(&certificate, &key).check().unwrap();
        let empty = write("empty.pem", "no PEM\n");
        let absent = folder.path().join("absent.pem");
        for (setting, wrong, file) in [
            ("tls_certificate", with(&absent, &key), "absent.pem"),
            ("tls_private_key", with(&certificate, &absent), "absent.pem"),
            ("tls_certificate", with(&empty, &key), "empty.pem"),
            ("tls_private_key", with(&certificate, &empty), "empty.pem"),
        ] {
            let said = wrong.check().unwrap_err();
            assert!(said.contains(setting) && said.contains(file), "{said}");
        }
    }
}
