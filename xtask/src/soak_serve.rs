//! `cargo xtask soak-serve`: a server of `alti` under thousands of idle streams and hundreds of active ones.
//!
//! Idle streams are answers at batch priority (`service_tier: flex`) that wait behind the active ones: open streams of
//! events on which nothing but signs of life comes. Active clients ask for one answer after another. One more client
//! reads long answers, at first as quickly as they come, then a few bytes at a time. What would be wrong: any error, memory that grows after warm-up, and a slow
//! reader that others notice.

use crate::bench_serve::client::Client;
use crate::bench_serve::load::{Quantiles, is_error};
use crate::bench_serve::servers::{PATIENCE, Server, start_alti};
use crate::contestants::Alti;
use crate::default_model;
use crate::machine::Machine;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Threads of clients mostly sleep; they parse one short line at a time.
const STACK: usize = 192 << 10;
/// Memory may differ by this much after warm-up, whatever its size: allocators keep what they had at the busiest moment.
const SLACK_MIB: f64 = 32.0;
/// And by this part of what it was.
const SLACK_PART: f64 = 0.03;
/// How many times as many answers a second there may be before somebody reads slowly as there are then.
const SLOWER: f64 = 1.5;
/// Tokens of context of each stream.
const CONTEXT: usize = 512;
/// How often memory is looked at in each half.
const LOOKS: u32 = 6;
/// How many errors are told in full.
const TOLD: usize = 10;

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Minutes after warm-up
    #[arg(long, value_name = "NUMBER", default_value_t = 10.0)]
    minutes: f64,
    /// Minutes of warm-up: after them memory may not grow
    #[arg(long, value_name = "NUMBER", default_value_t = 2.0)]
    warm_up: f64,
    /// Streams that are open and wait
    #[arg(long, value_name = "NUMBER", default_value_t = 2000)]
    idle: usize,
    /// Clients that get one answer after another
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    active: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    tokens: usize,
    /// Threads that compute
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    threads: usize,
    /// The model, a GGUF file [default: the default model]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Write the numbers to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    alti: Alti,
}

/// What happened.
#[derive(Debug, Serialize)]
struct Outcome {
    machine: Machine,
    minutes: f64,
    idle: usize,
    active: usize,
    /// Answers that were read to their end by active clients.
    answers: usize,
    /// Signs of life on idle streams.
    signs_of_life: usize,
    /// What active clients saw while the reader of long answers was quick, and while it was slow.
    beside_quick_reader: Period,
    beside_slow_reader: Period,
    /// Bytes that the slow reader took.
    slow_bytes: usize,
    /// Resident memory in MiB: after warm-up, then every few seconds.
    memory: Vec<f64>,
    /// What went wrong, the first in full.
    error_count: usize,
    errors: Vec<String>,
}

/// What active clients saw for a while.
#[derive(Debug, Clone, Copy, Serialize)]
struct Period {
    answers_a_second: f64,
    /// Times between tokens, in milliseconds; nothing if no answer was finished.
    between: Option<Quantiles>,
}

/// Soaks, prints what happened, and fails if anything was wrong.
///
/// # Errors
/// The server does not start; or anything that should not happen did.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.active > 0 && options.minutes > 0.0 && options.warm_up > 0.0, "nothing would be watched");
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let program = options.alti.program()?;
    let model = match &options.model {
        Some(model) => std::path::absolute(model)?,
        None => default_model::bring()?,
    };
    let mut command = Command::new(program);
    command.arg("serve").arg(model).args(["--listen", "127.0.0.1:0", "-t", &options.threads.to_string()]);
    let settings = [
        format!("engine.context={CONTEXT}"),
        format!("engine.max_running={}", slots(options.active)),
        format!("engine.max_waiting={}", options.idle + options.active + 16),
        format!("engine.kv_tokens={}", slots(options.active) * CONTEXT),
        format!("server.max_connections={}", options.idle + options.active + 64),
        // The slow reader is slow, and not gone.
        "server.body_timeout_seconds=600".to_owned(),
    ];
    for setting in &settings {
        command.args(["--set", setting]);
    }
    let mut server = start_alti(command, scratch.path())?;
    let outcome = Soak::new(options, server.address).watch(&server)?;
    server.check()?;
    print!("{}", outcome.markdown());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&outcome)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    outcome.check()
}

/// Answers in the works at once: a few less than there are active clients, so that one of them always waits and the
/// streams behind it are truly idle.
fn slots(active: usize) -> usize {
    (active - active.div_ceil(20)).max(1)
}

/// What all clients share.
struct Soak<'a> {
    options: &'a Options,
    address: SocketAddr,
    /// Set when clients are to stop.
    done: AtomicBool,
    /// Set when the reader of long answers is to be slow.
    slow: AtomicBool,
    seen: Mutex<Seen>,
    /// How many, and the first in full.
    errors: Mutex<(usize, Vec<String>)>,
}

#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    signs_of_life: usize,
    slow_bytes: usize,
    between: Vec<f64>,
}

impl<'a> Soak<'a> {
    fn new(options: &'a Options, address: SocketAddr) -> Self {
        let (done, slow) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { options, address, done, slow, seen: Mutex::default(), errors: Mutex::default() }
    }

    fn watch(&self, server: &Server) -> Result<Outcome> {
        let minutes = |minutes: f64| Duration::from_secs_f64(60.0 * minutes);
        let mut memory = Vec::new();
        let half = minutes(self.options.minutes / 2.0);
        let (quick, slow) = thread::scope(|scope| -> Result<_> {
            let result = (|| -> Result<_> {
                let spawn = |work: fn(&Self, usize), number| {
                    let thread = thread::Builder::new().stack_size(STACK);
                    thread.spawn_scoped(scope, move || work(self, number))
                };
                for number in 0..self.options.active {
                    spawn(Self::ask, number)?;
                }
                spawn(|soak, _| soak.read_long_answers(), 0)?;
                // These have the slots before anybody waits for one.
                thread::sleep(Duration::from_secs(1));
                for number in 0..self.options.idle {
                    spawn(Self::wait, number)?;
                }
                thread::sleep(minutes(self.options.warm_up));
                memory.extend(server.memory_mib());
                let quick = self.period(half, server, &mut memory);
                self.slow.store(true, Ordering::Relaxed);
                Ok((quick, self.period(half, server, &mut memory)))
            })();
            self.done.store(true, Ordering::Relaxed);
            result
        })?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (error_count, errors) =
            std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Outcome {
            machine: Machine::describe(),
            minutes: self.options.minutes,
            idle: self.options.idle,
            active: self.options.active,
            answers: seen.answers,
            signs_of_life: seen.signs_of_life,
            beside_quick_reader: quick,
            beside_slow_reader: slow,
            slow_bytes: seen.slow_bytes,
            memory,
            error_count,
            errors,
        })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for `time`.
    fn period(&self, time: Duration, server: &Server, memory: &mut Vec<f64>) -> Period {
        let answers = {
            let mut seen = self.seen();
            seen.between.clear();
            seen.answers
        };
        let start = Instant::now();
        for _ in 0..LOOKS {
            thread::sleep(time / LOOKS);
            memory.extend(server.memory_mib());
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut seen = self.seen();
        let answers_a_second = (seen.answers - answers) as f64 / seconds;
        Period { answers_a_second, between: Quantiles::of(std::mem::take(&mut seen.between)) }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn failed(&self, who: &str, error: &anyhow::Error) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.0 += 1;
        if errors.1.len() < TOLD {
            errors.1.push(format!("{who}: {error:#}"));
        }
    }

    /// An active client: one answer after another.
    fn ask(&self, number: usize) {
        let mut client = Client::new(self.address, PATIENCE);
        let mut round = 0;
        while !self.is_done() {
            round += 1;
            if let Err(error) = self.answer(&mut client, number, round) {
                self.failed("an active client", &error);
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    fn answer(&self, client: &mut Client, number: usize, round: usize) -> Result<()> {
        let body = json!({
            "prompt": format!("Letter {round} of friend {number} from the sea:"),
            "n_predict": self.options.tokens,
            "stream": true,
            "ignore_eos": true,
            "temperature": 1.0,
            "seed": number + 1000 * round,
        });
        let mut response = client.post("/completion", &body.to_string())?;
        if response.status != 200 {
            response.success()?;
            bail!("a success that is not 200");
        }
        let mut last = None;
        let mut between = Vec::new();
        let mut ended = false;
        while let Some(line) = response.line()? {
            let Some(event) = line.strip_prefix("data:") else { continue };
            let now = Instant::now();
            if let Some(before) = last.replace(now) {
                between.push((now - before).as_secs_f64() * 1e3);
            }
            ended |= event.contains("\"stop\":true");
            ensure!(!is_error(event), "an answer was broken off: {event}");
            if self.is_done() {
                return Ok(());
            }
        }
        ensure!(ended, "an answer has no end");
        let mut seen = self.seen();
        seen.answers += 1;
        seen.between.extend(between);
        Ok(())
    }

    /// An idle client: a stream that waits for its turn, and for the next when it had one.
    fn wait(&self, number: usize) {
        let mut client = Client::new(self.address, PATIENCE);
        while !self.is_done() {
            if let Err(error) = self.stream(&mut client, number) {
                self.failed("an idle client", &error);
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    fn stream(&self, client: &mut Client, number: usize) -> Result<()> {
        let body = json!({
            "messages": [{"role": "user", "content": format!("Wait, {number}.")}],
            "max_tokens": 1,
            "stream": true,
            "service_tier": "flex",
        });
        let mut response = client.post("/v1/chat/completions", &body.to_string())?;
        if response.status != 200 {
            response.success()?;
            bail!("a success that is not 200");
        }
        let mut ended = false;
        while let Some(line) = response.line()? {
            if line.starts_with(':') {
                self.seen().signs_of_life += 1;
            }
            ended |= line == "data: [DONE]";
            ensure!(!is_error(&line), "a stream was broken off: {line}");
            if self.is_done() {
                return Ok(());
            }
        }
        ensure!(ended, "a stream has no end");
        Ok(())
    }

    /// A client of answers longer than what sockets hold for it. When it is to be slow it reads a few bytes ten times a
    /// second.
    fn read_long_answers(&self) {
        while !self.is_done() {
            if let Err(error) = self.read_long_answer() {
                self.failed("the reader of long answers", &error);
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    fn read_long_answer(&self) -> Result<()> {
        let body = json!({
            "prompt": "The longest story is this:",
            "n_predict": CONTEXT - 64,
            "stream": true,
            "ignore_eos": true,
            // Probabilities make events long, so that the sockets fill.
            "n_probs": 100,
            "temperature": 1.0,
        });
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST /completion HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut few = [0; 512];
        let mut total = 0;
        loop {
            let count = stream.read(&mut few)?;
            if total == 0 {
                ensure!(few.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&few[..count]));
            }
            total += count;
            if count == 0 {
                return Ok(());
            }
            if self.is_done() {
                // Hanging up in the middle is what such clients do.
                return Ok(stream.shutdown(Shutdown::Both)?);
            }
            if self.slow.load(Ordering::Relaxed) {
                self.seen().slow_bytes += count;
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

impl Outcome {
    fn markdown(&self) -> String {
        let period = |period: &Period| {
            let times =
                period.between.map_or_else(|| "none".to_owned(), |q| format!("{:.1} / {:.1}", q.p50, q.p99));
            format!("{:.2}; {times}", period.answers_a_second)
        };
        let memory: Vec<String> = self.memory.iter().map(|mib| format!("{mib:.0}")).collect();
        let mut text = format!(
            "{}\n\n| {} minutes, {} idle streams, {} active clients | |\n|---|---|\n| answers | {} |\n\
             | signs of life on idle streams | {} |\n\
             | answers a second; between tokens, p50 / p99, ms | {} |\n\
             | the same while one reads slowly | {} |\n| bytes that the slow reader took | {} |\n\
             | resident memory after warm-up and later, MiB | {} |\n| errors | {} |\n",
            self.machine,
            self.minutes,
            self.idle,
            self.active,
            self.answers,
            self.signs_of_life,
            period(&self.beside_quick_reader),
            period(&self.beside_slow_reader),
            self.slow_bytes,
            memory.join(", "),
            self.error_count,
        );
        for error in &self.errors {
            text += &format!("\n- {error}\n");
        }
        text
    }

    /// Whether all is as it should be.
    fn check(&self) -> Result<()> {
        ensure!(self.error_count == 0, "{} errors", self.error_count);
        ensure!(self.answers > 0, "no answer was finished");
        if let [first, .., last] = self.memory[..] {
            let most = first * (1.0 + SLACK_PART) + SLACK_MIB;
            ensure!(last <= most, "memory grew from {first:.0} to {last:.0} MiB");
        }
        ensure!(self.slow_bytes > 0, "the slow reader got nothing");
        let [quick, slow] = [self.beside_quick_reader, self.beside_slow_reader].map(|it| it.answers_a_second);
        ensure!(
            quick <= slow * SLOWER,
            "a slow reader slowed the others: {quick:.2} answers a second became {slow:.2}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let period = Period { answers_a_second: 10.0, between: Some(Quantiles { p50: 10.0, p99: 40.0 }) };
        Outcome {
            machine: Machine::describe(),
            minutes: 1.0,
            idle: 2,
            active: 1,
            answers: 5,
            signs_of_life: 3,
            beside_quick_reader: period,
            beside_slow_reader: period,
            slow_bytes: 100,
            memory: vec![500.0, 530.0, 520.0],
            error_count: 0,
            errors: Vec::new(),
        }
    }

    #[test]
    fn errors_growing_memory_and_a_slow_reader_that_others_notice_are_wrong() {
        outcome().check().unwrap();
        type Change = fn(&mut Outcome);
        let wrong: [(Change, &str); 5] = [
            (|outcome| outcome.error_count = 1, "1 errors"),
            (|outcome| outcome.answers = 0, "no answer"),
            (|outcome| outcome.memory.push(600.0), "memory grew from 500 to 600"),
            (|outcome| outcome.beside_slow_reader.answers_a_second = 6.0, "slowed"),
            (|outcome| outcome.slow_bytes = 0, "got nothing"),
        ];
        for (change, message) in wrong {
            let mut outcome = outcome();
            change(&mut outcome);
            let error = outcome.check().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
