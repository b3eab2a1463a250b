//! What the program takes from its environment: variables and terminals. Nothing else reads them;
//! inner crates are told.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

/// One environment variable: its name and what it does. `alti help environment` prints the table.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// What OpenTelemetry's own variables are called.
const OTEL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const OTEL_SERVICE: &str = "OTEL_SERVICE_NAME";
const OTEL_DISABLED: &str = "OTEL_SDK_DISABLED";

/// Every variable that is read.
pub const VARIABLES: [Variable; 17] = [
    Variable { name: "ALTI_HOME", help: "folder of the model store (default: the user's data folder)" },
    Variable {
        name: "ALTI_ISA",
        help: "instruction set of the CPU kernels: scalar; avx2, avx512, amx; neon, neon-bf16",
    },
    Variable { name: "ALTI_MODEL", help: "model to use where a command names none" },
    Variable {
        name: "ALTI_PACKED",
        help: "off: keep no packed weights in the store, which take as much space as the model and make the next start quicker",
    },
    Variable { name: "ALTI_SERVER_*", help: "a setting of `alti serve`: ALTI_SERVER_LISTEN=0.0.0.0:8080" },
    Variable { name: "ALTI_ENGINE_*", help: "another, of its engine: ALTI_ENGINE_CONTEXT=4096" },
    Variable {
        name: OTEL_ENDPOINT,
        help: "as ALTI_SERVER_OTLP_ENDPOINT: the collector that `alti serve` exports traces to",
    },
    Variable { name: OTEL_SERVICE, help: "as ALTI_SERVER_OTLP_SERVICE_NAME: what traces call the server" },
    Variable { name: "OTEL_EXPORTER_OTLP_HEADERS", help: "headers for the collector: api-key=SECRET" },
    Variable { name: OTEL_DISABLED, help: "when true: OTEL_... variables name no collector" },
    Variable { name: "HF_TOKEN", help: "access token for gated models of the Hugging Face Hub" },
    Variable { name: "HF_ENDPOINT", help: "address of the Hub (default: https://huggingface.co)" },
    Variable { name: "HTTPS_PROXY", help: "proxy for fetching models" },
    Variable { name: "SSL_CERT_FILE", help: "certificate authorities to trust for fetching models (PEM)" },
    Variable { name: "PATH", help: "where pip is looked for, which fetches the default model" },
    Variable { name: "USER", help: "who accepts a model's licence" },
    Variable { name: "NO_COLOR", help: "when set and not empty: no colours" },
];

/// The environment, read once.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Folder of the model store.
    pub home: PathBuf,
    /// The instruction set wished for.
    pub isa: Option<String>,
    /// The model to use where none is named.
    pub model: Option<String>,
    /// Whether packed weights are kept.
    pub packed_weights: bool,
    /// Settings of `alti serve`, by name (`engine.context`).
    pub serve_settings: Vec<(String, String)>,
    /// Access token for the Hub.
    pub hub_token: Option<String>,
    /// Address of the Hub.
    pub hub_endpoint: Option<String>,
    /// Proxy for fetching models.
    pub proxy: Option<String>,
    /// Certificate authorities to trust.
    pub certificate_bundle: Option<PathBuf>,
    /// Where programs are looked for.
    pub search_path: Option<OsString>,
    /// The user's name.
    pub user: Option<String>,
    /// Whether notes on stderr may be coloured.
    pub color: bool,
    /// Whether a person reads stderr: progress bars are drawn.
    pub progress: bool,
}

impl Environment {
    /// Reads the variables and looks at the terminals.
    ///
    /// # Errors
    /// When there is neither `ALTI_HOME` nor a home folder.
    pub fn read() -> anyhow::Result<Environment> {
        let variable = |name: &str| {
            debug_assert!(
                VARIABLES.iter().any(|variable| variable.name == name),
                "{name} is not in the table"
            );
            std::env::var_os(name).filter(|value| !value.is_empty())
        };
        // What is no text cannot be an address, a name or a token.
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            Some(Err(value)) => {
                Err(anyhow::anyhow!("the environment variable {name} is not text: {}", value.display()))
            }
            Some(Ok(value)) => Ok(Some(value)),
            None => Ok(None),
        };
        let home = match variable("ALTI_HOME") {
            Some(home) => PathBuf::from(home),
            None => directories::ProjectDirs::from("", "", "altiplano")
                .map(|folders| folders.data_dir().to_owned())
                .ok_or_else(|| anyhow::anyhow!("there is no home folder to keep models in: set ALTI_HOME"))?,
        };
        // What only this program is told goes before what every program is told.
        let mut settings = Vec::new();
        if !text(OTEL_DISABLED)?.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            for (name, setting) in
                [(OTEL_ENDPOINT, "server.otlp_endpoint"), (OTEL_SERVICE, "server.otlp_service_name")]
            {
                settings.extend(text(name)?.map(|value| (setting.to_owned(), value)));
            }
        }
        settings.extend(serve_settings()?);
        Ok(Environment {
            home,
            isa: text("ALTI_ISA")?,
            model: text("ALTI_MODEL")?,
            packed_weights: match text("ALTI_PACKED")?.as_deref() {
                None | Some("on") => true,
                Some("off") => false,
                Some(other) => {
                    anyhow::bail!("the environment variable ALTI_PACKED is {other}: it can be on or off")
                }
            },
            serve_settings: settings,
            hub_token: text("HF_TOKEN")?,
            hub_endpoint: text("HF_ENDPOINT")?,
            proxy: text("HTTPS_PROXY")?,
            certificate_bundle: variable("SSL_CERT_FILE").map(PathBuf::from),
            search_path: variable("PATH"),
            user: text("USER")?,
            color: std::io::stderr().is_terminal() && variable("NO_COLOR").is_none(),
            progress: std::io::stderr().is_terminal(),
        })
    }
}

/// The variables that are settings of `alti serve`.
fn serve_settings() -> anyhow::Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    for (variable, value) in std::env::vars_os() {
        let Some(variable) = variable.to_str() else { continue };
        let section = ["server", "engine"].into_iter().find_map(|section| {
            let name = variable.strip_prefix(&format!("ALTI_{}_", section.to_ascii_uppercase()))?;
            Some(format!("{section}.{}", name.to_ascii_lowercase()))
        });
        let Some(name) = section else { continue };
        let text = value.into_string();
        let text = text.map_err(|value| {
            anyhow::anyhow!("the environment variable {variable} is not text: {}", value.display())
        })?;
        settings.push((name, text));
    }
    settings.sort();
    Ok(settings)
}
