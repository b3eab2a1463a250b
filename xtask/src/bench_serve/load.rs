//! The clients of a run: each a thread that asks for an answer, reads it to its end, and asks for the next.

use super::client::Client;
use super::servers::PATIENCE;
use super::work::Work;
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// What the clients of one run saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// From the first request to the end of the last answer, in seconds.
    pub seconds: f64,
    /// Tokens generated, as the server counts them.
    pub generated: usize,
    /// Tokens of the prompts, as they were sent.
    pub prompts: usize,
    /// From each request to the first event of its answer, in milliseconds.
    pub first: Quantiles,
    /// Between events of an answer, in milliseconds. Mostly an event is a token.
    pub between: Quantiles,
}

/// Median and 99th percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Sample {
    /// Tokens generated in a second.
    #[must_use]
    pub fn generated_rate(&self) -> f64 {
        self.generated as f64 / self.seconds
    }

    /// Tokens read and generated in a second.
    #[must_use]
    pub fn total_rate(&self) -> f64 {
        (self.generated + self.prompts) as f64 / self.seconds
    }
}

impl Quantiles {
    /// Of samples in any order; nothing of none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        // The nearest rank: the smallest sample that so many are not above.
        let at = |part: f64| {
            let rank = (part * samples.len() as f64).ceil() as usize;
            samples.get(rank.max(1) - 1).copied()
        };
        Some(Self { p50: at(0.5)?, p99: at(0.99)? })
    }
}

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    generated: usize,
    first: Vec<f64>,
    between: Vec<f64>,
}

/// Runs all clients of `work`, each for `requests` answers. Requests are numbered from `number` on.
///
/// # Errors
/// A client gets anything but whole answers.
pub fn run(address: SocketAddr, work: &Work, requests: usize, number: u64) -> Result<Sample> {
    ensure!(work.clients > 0 && requests > 0, "a run has a client and a request");
    let start_line = Barrier::new(work.clients + 1);
    let bodies = |client: usize| -> Vec<String> {
        let first = number + (client * requests) as u64;
        (0..requests as u64).map(|index| work.request(first + index)).collect()
    };
    let (seconds, seen) = thread::scope(|scope| {
        let clients: Vec<_> = (0..work.clients)
            .map(|client| {
                let (bodies, start_line) = (bodies(client), &start_line);
                scope.spawn(move || {
                    start_line.wait();
                    answers(address, &bodies)
                })
            })
            .collect();
        start_line.wait();
        let start = Instant::now();
        let seen: Vec<Result<Seen>> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        (start.elapsed().as_secs_f64(), seen)
    });
    let mut all = Seen::default();
    for seen in seen {
        let seen = seen?;
        all.generated += seen.generated;
        all.first.extend(seen.first);
        all.between.extend(seen.between);
    }
    Ok(Sample {
        seconds,
        generated: all.generated,
        prompts: work.clients * requests * work.length.prompt(),
        first: Quantiles::of(all.first).context("no answer had a token")?,
        between: Quantiles::of(all.between).context("no answer had two tokens")?,
    })
}

fn answers(address: SocketAddr, bodies: &[String]) -> Result<Seen> {
    let mut client = Client::new(address, PATIENCE);
    let mut seen = Seen::default();
    for body in bodies {
        answer(&mut client, body, &mut seen)?;
    }
    Ok(seen)
}

/// Reads one answer. Its events are not parsed, except the last: the clients must not take the server's cores.
fn answer(client: &mut Client, body: &str, seen: &mut Seen) -> Result<()> {
    let start = Instant::now();
    let mut response = client.post("/completion", body)?;
    if response.status != 200 {
        response.success()?;
        bail!("a success that is not 200");
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut last: Option<Instant> = None;
    let mut end: Option<Value> = None;
    while let Some(line) = response.line()? {
        let Some(event) = line.strip_prefix("data:").map(str::trim) else { continue };
        let now = Instant::now();
        let parsed = if is_last(event) { serde_json::from_str::<Value>(event).ok() } else { None };
        if let Some(parsed) = parsed.filter(|parsed| parsed["stop"] == true) {
            end = Some(parsed);
            continue;
        }
        ensure!(!is_error(event), "the server broke an answer off: {event}");
        if event == "[DONE]" {
            continue;
        }
        match last.replace(now) {
            None => seen.first.push(milliseconds(now - start)),
            Some(before) => seen.between.push(milliseconds(now - before)),
        }
    }
    let end = end.context("an answer has no end")?;
    let count = end["tokens_predicted"].as_u64().context("the end of an answer does not count its tokens")?;
    seen.generated += usize::try_from(count)?;
    Ok(())
}

/// Whether the event is an error. The word is looked for as a key: in a text its quotation marks are escaped, and a token
/// may well be just that word.
#[must_use]
pub fn is_error(event: &str) -> bool {
    event.contains(r#""error":"#)
}

/// Whether the event may be the last of an answer; most are not, and need not be parsed to know that.
fn is_last(event: &str) -> bool {
    event.contains("\"stop\":true") || event.contains("\"stop\": true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_serve::work::{Choice, Length};
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn quantiles_are_the_nearest_ranks() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(hundred), Some(Quantiles { p50: 50.0, p99: 99.0 }));
        assert_eq!(Quantiles::of(vec![7.0]), Some(Quantiles { p50: 7.0, p99: 7.0 }));
        assert_eq!(Quantiles::of(Vec::new()), None);
    }

    /// Answers every request of a connection with three tokens, two of them after a pause.
    fn answer_all(stream: TcpStream, last: &str) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() == 0 {
                    return;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
            stream.get_ref().set_nodelay(true).unwrap();
            let event = |text: &str| {
                let event = format!("data: {text}\n\n");
                format!("{:x}\r\n{event}\r\n", event.len())
            };
            let mut out = stream.get_ref();
            out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            for _ in 0..3 {
                out.write_all(
                    event(r#"{"content":"\"stop\":true, \"error\": \"","stop":false,"was":"error"}"#)
                        .as_bytes(),
                )
                .unwrap();
                thread::sleep(Duration::from_millis(20));
            }
            out.write_all(format!("{}0\r\n\r\n", event(last)).as_bytes()).unwrap();
        }
    }

    fn server(last: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || answer_all(stream.unwrap(), last));
            }
        });
        address
    }

    #[test]
    fn every_answer_of_every_client_counts() {
        let work = Work { length: Length::Short, choice: Choice::Greedy, clients: 4 };
        let sample = run(server(r#"{"stop":true,"tokens_predicted":3}"#), &work, 2, 0).unwrap();
        assert_eq!((sample.generated, sample.prompts), (24, 8 * 128));
        assert!(sample.seconds > 0.11, "two answers after each other of 60 ms each");
        assert!(sample.between.p50 >= 15.0 && sample.first.p50 < 1000.0, "{sample:?}");
        assert!(sample.total_rate() > sample.generated_rate());
    }

    #[test]
    fn an_answer_without_an_end_is_an_error() {
        let work = Work { length: Length::Short, choice: Choice::Greedy, clients: 1 };
        let error = run(server(r#"{"stop":false}"#), &work, 1, 0).unwrap_err();
        assert!(error.to_string().contains("no end"), "{error}");
    }
}
