//! The description that goes with every measurement: a rate without its machine says nothing.

use crate::{process, workspace};
use serde::{Deserialize, Serialize};
use std::env;
use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

/// What a measurement ran on, and which versions of everything took part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor, as it gives it.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Installed memory in MiB, 0 where the system does not say.
    pub memory_mib: u64,
    /// Operating system and architecture.
    pub system: String,
    /// The compiler that built `alti`.
    pub rustc: String,
    /// The revision of this checkout; `-dirty` when it has changes.
    pub revision: String,
}

impl Machine {
    /// Asks the system. What it does not tell is empty or 0: a description must never stop a measurement.
    #[must_use]
    pub fn describe() -> Self {
        let processor = field("/proc/cpuinfo", "model name")
            .unwrap_or_else(|| first_line("sysctl", &["-n", "machdep.cpu.brand_string"]));
        let memory = field("/proc/meminfo", "MemTotal");
        let kibibytes = memory
            .and_then(|text| text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()));
        Self {
            processor,
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kibibytes.unwrap_or(0) / 1024,
            system: format!("{} {}", env::consts::OS, env::consts::ARCH),
            rustc: first_line("rustc", &["--version"]),
            revision: first_line("git", &["describe", "--always", "--dirty"]),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {} GiB, {}; {}; revision {}",
            self.processor,
            self.cores,
            self.memory_mib.div_ceil(1024),
            self.system,
            self.rustc,
            self.revision
        )
    }
}

/// The value of the first `name : value` line of a file under `/proc`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_string())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    if process::find(program).is_none() {
        return String::new();
    }
    let output = Command::new(program).args(arguments).current_dir(workspace::root()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_string()
}
