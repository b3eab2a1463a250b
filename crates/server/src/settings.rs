//! What an owner can set about the server: the command line reads flags, environment and file into this.

use crate::costs::{Costs, ModelPrices};
use crate::mcp::{McpServerSettings, McpServers};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

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
    /// Seconds after which a model that nobody uses is unloaded; none keeps it.
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
    /// Seconds after which an answer that is not finished is given up; none waits.
    pub request_timeout_seconds: Option<u64>,
    /// Answers that one request may ask for (`n`).
    pub max_choices: u32,
    /// Texts that one request may have embedded or ranked.
    pub max_inputs: usize,
    /// Seconds that answers in the works get when the server goes down.
    pub drain_seconds: u64,
    /// Seconds between signs of life in a stream that has nothing to say.
    pub keep_alive_seconds: u64,
    /// Whether prompts and answers may be written to the log.
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

    /// Checks values that exclude each other or make no sense.
    ///
    /// # Errors
    /// The setting that is wrong and why.
    pub fn check(&self) -> Result<(), String> {
        if self.tls_certificate.is_some() != self.tls_private_key.is_some() {
            return Err("tls_certificate and tls_private_key go together: set both or none".into());
        }
        let positive = [
            ("max_body_bytes", self.max_body_bytes),
            ("max_connections", self.max_connections),
            ("max_inputs", self.max_inputs),
            ("max_choices", self.max_choices as usize),
            ("header_timeout_seconds", self.header_timeout_seconds as usize),
            ("body_timeout_seconds", self.body_timeout_seconds as usize),
            ("keep_alive_seconds", self.keep_alive_seconds as usize),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0: it must be at least 1"));
        }
        // hyper's parser wants room for more than a request line.
        if self.max_header_bytes < 8 << 10 {
            return Err(format!("max_header_bytes is {}: it must be at least 8192", self.max_header_bytes));
        }
        crate::telemetry::traces_address(self)?;
        McpServers::new(self.mcp_servers.clone())?;
        Costs::new(self).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_not() {
        ServerSettings::default().check().unwrap();
        let half = ServerSettings { tls_certificate: Some("x".into()), ..ServerSettings::default() };
        assert!(half.check().unwrap_err().contains("tls_private_key"));
        let none = ServerSettings { max_connections: 0, ..ServerSettings::default() };
        assert!(none.check().unwrap_err().contains("max_connections"));
        let price = ServerSettings { price_per_hour: f64::NAN, ..ServerSettings::default() };
        assert!(price.check().unwrap_err().contains("price_per_hour"));
    }
}
