//! The servers: with which flags each is tried, how it is started, and what its process takes.

use super::client::Client;
use crate::peers::{Compiler, IK_LLAMA_CPP, LLAMA_CPP, Peer, Programs, SERVER};
use crate::process;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to load a model.
const LOADING: Duration = Duration::from_secs(180);
/// How the names of the threads of `alti` that compute begin.
const COMPUTING: [&str; 2] = ["alti-engine", "alti-cpu"];
/// How long one piece of an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Flags that are tried with the server of a peer.
#[derive(Debug)]
pub struct Setting {
    /// Whose server it is.
    pub peer: &'static Peer,
    /// The flags, as typed.
    pub flags: &'static str,
}

const fn llama(flags: &'static str) -> Setting {
    Setting { peer: &LLAMA_CPP, flags }
}

const fn ik(flags: &'static str) -> Setting {
    Setting { peer: &IK_LLAMA_CPP, flags }
}

/// Every setting that is tried. All have one slot for each client and continuous batching. What differs: flash attention,
/// one cache for all slots or one for each, whether prompts are kept beside the slots, guesses from the text so far (which
/// `alti` makes by default), the size of a step, and repacking of the weights.
pub const SETTINGS: &[Setting] = &[
    llama("-fa on"),
    llama("-fa on --kv-unified"),
    llama("-fa on --cache-ram 0"),
    llama("-fa on --spec-type ngram-simple"),
    ik("-fa on"),
    ik("-fa on -rtr"),
    ik("-fa on -rtr -ub 128"),
    // Its flash attention ends the program where a slot has nothing to attend to (`GGML_ASSERT(S > 0)`).
    ik("-fa off"),
    ik("-fa off -rtr"),
];

/// Tokens of context for each client: the longest work has 1,088, and steps of 256 divide evenly.
const CONTEXT: usize = 1280;

/// A server that can be started: `alti`, or a setting with one of the builds of its peer.
#[derive(Debug, Clone, Copy)]
pub enum Candidate<'a> {
    /// `alti serve`, with settings of its own.
    Alti {
        /// The program.
        program: &'a Path,
        /// `SETTING=VALUE`, each.
        settings: &'a [String],
    },
    /// The server of a peer.
    Peer {
        /// The setting.
        setting: &'static Setting,
        /// What it was built with.
        compiler: &'static Compiler,
        /// Where its programs are.
        programs: &'a Programs,
    },
}

/// Everything that is tried of one peer: each of its builds that is there with each setting.
///
/// # Errors
/// None of its builds is there; says how to get them.
pub fn candidates<'a>(peer: &'static Peer, programs: &'a Programs) -> Result<Vec<Candidate<'a>>> {
    let is_there = |compiler: &&Compiler| programs.tool_of(peer, compiler, SERVER).is_ok();
    if !peer.compilers.iter().any(|compiler| is_there(&compiler)) {
        programs.tool(peer, SERVER)?;
    }
    Ok(all_candidates(peer, programs, is_there))
}

fn all_candidates<'a>(
    peer: &'static Peer,
    programs: &'a Programs,
    is_there: impl Fn(&&Compiler) -> bool,
) -> Vec<Candidate<'a>> {
    let settings = SETTINGS.iter().filter(|setting| setting.peer.name == peer.name);
    let compilers: Vec<&'static Compiler> = peer.compilers.iter().filter(is_there).collect();
    let with =
        |setting| compilers.iter().map(move |&compiler| Candidate::Peer { setting, compiler, programs });
    settings.flat_map(with).collect()
}

impl Candidate<'_> {
    /// How tables name the engine.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Alti { .. } => super::ALTI,
            Self::Peer { setting, .. } => setting.peer.name,
        }
    }

    /// Build and flags.
    pub fn flags(&self) -> String {
        match self {
            Self::Alti { settings, .. } => settings.join(" "),
            Self::Peer { setting, compiler, .. } => format!("{}: {}", compiler.name, setting.flags),
        }
    }

    /// Starts it on `model` for `clients` at once, and returns when it answers.
    ///
    /// # Errors
    /// The program is missing, ends, or does not answer in time; the error carries the end of its log.
    pub fn start(&self, model: &Path, clients: usize, threads: usize, scratch: &Path) -> Result<Server> {
        let threads = threads.to_string();
        let context = CONTEXT.to_string();
        match self {
            Self::Alti { program, settings } => {
                let mut command = Command::new(program);
                command.arg("serve").arg(model).args(["--listen", "127.0.0.1:0", "-t", &threads]);
                command.args(["-c", &context]);
                let own = [
                    format!("engine.max_running={clients}"),
                    format!("engine.kv_tokens={}", clients.max(4) * CONTEXT),
                ];
                for setting in own.iter().chain(*settings) {
                    command.args(["--set", setting]);
                }
                start_alti(command, scratch)
            }
            Self::Peer { setting, compiler, programs } => {
                let address = free_address()?;
                let mut command = programs.tool_of(setting.peer, compiler, SERVER)?;
                command.arg("-m").arg(model).args(["-t", &threads, "-tb", &threads]);
                command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
                command.args(["-np", &clients.to_string(), "-c", &(clients * CONTEXT).to_string()]);
                // Threads that only pass answers on: without enough of them clients would wait for one another.
                command.args(["--threads-http", &(clients + 2).to_string(), "-cb"]);
                command.args(setting.flags.split_whitespace());
                Server::start(&mut command, Some(address), scratch)
            }
        }
    }
}

/// Starts a command of `alti serve` with a store of its own, so that nothing of this machine's takes part.
///
/// # Errors
/// Those of [`Candidate::start`].
pub fn start_alti(mut command: Command, scratch: &Path) -> Result<Server> {
    Server::start(command.env("ALTI_HOME", scratch.join("store")), None, scratch)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no port is free")?.local_addr()?)
}

/// A server that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, which listens on `address`, or says on its standard output where it does.
    fn start(command: &mut Command, address: Option<SocketAddr>, scratch: &Path) -> Result<Self> {
        let log = scratch.join("server.log");
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let printed = if address.is_some() { Stdio::from(errors.try_clone()?) } else { Stdio::piped() };
        command.current_dir(scratch).stdin(Stdio::null()).stdout(printed).stderr(errors);
        let child = process::start(command)?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        server.address = match address {
            Some(address) => address,
            None => server.announced()?,
        };
        server
            .wait()
            .with_context(|| format!("the server did not start; its log ends with\n{}", server.log()))?;
        Ok(server)
    }

    /// Reads where it listens.
    fn announced(&mut self) -> Result<SocketAddr> {
        let output = self.child.stdout.take().context("the output is piped")?;
        let mut lines = BufReader::new(output).lines();
        let found = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.strip_prefix("listening on http://").and_then(|address| address.trim().parse().ok())
        });
        let found = found.with_context(|| format!("it did not say where it listens\n{}", self.log()))?;
        // What else it prints is read, so that it never waits for a reader.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(found)
    }

    /// Waits until the server says that it is well.
    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + LOADING;
        let mut client = Client::new(self.address, Duration::from_secs(10));
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status})");
            }
            if client.get("/health").is_ok_and(|response| response.success().is_ok()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("it was not ready within {} seconds", LOADING.as_secs())
    }

    /// The end of what it logged.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let from = text.lines().count().saturating_sub(12);
        text.lines().skip(from).collect::<Vec<_>>().join("\n")
    }

    /// Whether its process is still there.
    ///
    /// # Errors
    /// It is not; the error carries the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended ({status}); its log ends with\n{}", self.log()),
        }
    }

    /// The fraction of a core that it takes over `time`, where the system says.
    #[must_use]
    pub fn core_use(&self, time: Duration) -> Option<f64> {
        let before = self.processor_seconds()?;
        let start = Instant::now();
        thread::sleep(time);
        Some((self.processor_seconds()? - before) / start.elapsed().as_secs_f64())
    }

    /// Seconds of processor time so far.
    fn processor_seconds(&self) -> Option<f64> {
        processor_seconds(&fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?)
    }

    /// Processor time so far of its threads that do not compute, where the system says and it is a server of `alti`,
    /// whose threads have names.
    #[must_use]
    pub fn time_beside(&self) -> Option<Duration> {
        let (mut beside, mut computes) = (Duration::ZERO, false);
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()? {
            let folder = thread.ok()?.path();
            // A thread that has ended meanwhile counts no more.
            let (Ok(name), Ok(times)) =
                (fs::read_to_string(folder.join("comm")), fs::read_to_string(folder.join("schedstat")))
            else {
                continue;
            };
            match COMPUTING.iter().any(|computing| name.starts_with(computing)) {
                true => computes = true,
                false => beside += running_time(&times)?,
            }
        }
        computes.then_some(beside)
    }

    /// Resident memory in MiB, where the system says.
    #[must_use]
    pub fn memory_mib(&self) -> Option<f64> {
        resident_mib(&fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to save.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// User and system time of a `/proc/PID/stat`. Its ticks are hundredths of a second on every Linux.
fn processor_seconds(stat: &str) -> Option<f64> {
    // The name of the program may have spaces, and ends with the last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

/// The time of a `/proc/PID/task/TID/schedstat` in which the thread ran.
fn running_time(times: &str) -> Option<Duration> {
    Some(Duration::from_nanos(times.split_whitespace().next()?.parse().ok()?))
}

fn resident_mib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PEERS;

    #[test]
    fn every_peer_has_settings_and_none_twice() {
        let programs = Programs::default();
        for peer in PEERS {
            let all = all_candidates(peer, &programs, |_| true);
            let mut flags: Vec<_> = all.iter().map(Candidate::flags).collect();
            let count = flags.len();
            flags.sort_unstable();
            flags.dedup();
            assert!(flags.len() == count && count >= 2, "{flags:?}");
        }
    }

    #[test]
    fn what_linux_says_of_a_process_is_read() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 10";
        assert_eq!(processor_seconds(stat), Some(3.0));
        assert_eq!(processor_seconds("7 (a) S 1"), None);
        assert_eq!(running_time("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(running_time(""), None);
        assert_eq!(resident_mib("Name:\ta\nVmRSS:\t    2048 kB\n"), Some(2.0));
    }
}
