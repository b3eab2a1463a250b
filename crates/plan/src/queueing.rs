//! Latency under traffic: one server with continuous batching, simulated step by step over a trace of requests.

use crate::error::{PlanError, between};
use crate::inference::{RequestShape, Server};
use crate::random::{Random, quantile};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Arrival {
    /// When it comes, s.
    pub time: f64,
    /// Tokens in and out.
    pub shape: (f64, f64),
}

/// What users wait for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Targets {
    /// Half of the first tokens come within, s.
    pub first_token_median: f64,
    /// 99 of 100 first tokens come within, s.
    pub first_token_p99: f64,
    /// Half of the gaps between tokens are shorter, s.
    pub between_median: f64,
    /// 99 of 100 gaps between tokens are shorter, s.
    pub between_p99: f64,
}

impl Targets {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), PlanError> {
        let numbers = [
            ("first_token_median", self.first_token_median),
            ("first_token_p99", self.first_token_p99),
            ("between_median", self.between_median),
            ("between_p99", self.between_p99),
        ];
        numbers.into_iter().try_for_each(|(field, value)| between(field, value, 1e-6, 1e6).map(|_| ()))
    }
}

impl Default for Targets {
    fn default() -> Targets {
        Targets { first_token_median: 0.5, first_token_p99: 2.0, between_median: 0.05, between_p99: 0.2 }
    }
}

/// What users of one server wait.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Median time to the first token, s.
    pub first_token_median: f64,
    /// Its 99th percentile.
    pub first_token_p99: f64,
    /// Median time between tokens, s.
    pub between_median: f64,
    /// Its 99th percentile.
    pub between_p99: f64,
    /// Tokens of answers a second.
    pub output_tokens: f64,
    /// Mean number of sequences decoded together.
    pub batch: f64,
    /// Part of the requests that were answered before the trace ended and the same time again had passed.
    pub answered: f64,
}

impl Latency {
    /// The longer of both waits, in each respect.
    #[must_use]
    pub fn worse(self, other: Latency) -> Latency {
        Latency {
            first_token_median: self.first_token_median.max(other.first_token_median),
            first_token_p99: self.first_token_p99.max(other.first_token_p99),
            between_median: self.between_median.max(other.between_median),
            between_p99: self.between_p99.max(other.between_p99),
            output_tokens: self.output_tokens.min(other.output_tokens),
            batch: self.batch.max(other.batch),
            answered: self.answered.min(other.answered),
        }
    }

    /// Whether users wait no longer than they should, and all are answered.
    #[must_use]
    pub fn meets(&self, targets: &Targets) -> bool {
        self.first_token_median <= targets.first_token_median
            && self.first_token_p99 <= targets.first_token_p99
            && self.between_median <= targets.between_median
            && self.between_p99 <= targets.between_p99
            && self.answered > 0.999
    }
}

/// Requests of one shape at `rate` a second for `seconds`, at random times (Poisson), answers of geometric-like lengths
/// around the mean (exponential, at least one token).
#[must_use]
pub fn poisson(rate: f64, seconds: f64, shape: RequestShape, seed: u64) -> Vec<Arrival> {
    let mut random = Random::new(seed);
    let (mut time, mut found) = (0.0, Vec::new());
    while found.len() < 2_000_000 {
        time += random.exponential(1.0 / rate);
        if time > seconds {
            break;
        }
        let output = random.exponential(shape.output).clamp(1.0, 8.0 * shape.output);
        found.push(Arrival { time, shape: (shape.input, output.round().max(1.0)) });
    }
    found
}

/// Which part of the work a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Prefill and decode.
    Both,
    /// Decode only: requests arrive with their keys and values computed elsewhere.
    DecodeOnly,
}

/// Seconds that half and 99 of 100 of `rate` requests a second wait for a server that takes `service` for each, one after
/// the other, random arrivals (M/D/1): by Lindley's recursion over simulated ones.
#[must_use]
pub fn waits_in_line(rate: f64, service: f64) -> (f64, f64) {
    let mut random = Random::new(17);
    let mut wait = 0.0_f64;
    let mut waits: Vec<f64> = (0..20_000)
        .map(|_| {
            wait = (wait + service - random.exponential(1.0 / rate)).max(0.0);
            wait
        })
        .collect();
    (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99))
}

/// Simulates one server over a trace. Every step decodes all running sequences once and prefills up to `chunk` tokens of
/// the prompts that wait, as far as memory and the batch cap let them in.
#[must_use]
pub fn simulate(server: &Server<'_>, trace: &[Arrival], role: Role, chunk: f64) -> Latency {
    let mut state = State::new(server, role, chunk);
    let end = trace.last().map_or(0.0, |last| 2.0 * last.time + 60.0);
    let mut next = 0;
    while (next < trace.len() || state.busy()) && state.now < end && state.steps < 3_000_000 {
        while next < trace.len() && trace[next].time <= state.now {
            state.waiting.push_back((trace[next], server.cached_prefix(trace[next].shape.0)));
            next += 1;
        }
        if !state.busy() {
            state.now = trace[next].time;
            continue;
        }
        state.step();
    }
    state.latency(trace.len())
}

struct State<'a> {
    server: &'a Server<'a>,
    role: Role,
    chunk: f64,
    now: f64,
    steps: u64,
    /// Requests with the tokens of their prompt that are there: cached, or computed by steps before.
    waiting: VecDeque<(Arrival, f64)>,
    /// Steps at which running sequences end, with the tokens they hold at the end.
    running: BinaryHeap<Reverse<(u64, u64)>>,
    /// Tokens of cache that are reserved.
    reserved: f64,
    first_tokens: Vec<f64>,
    /// Durations of steps with the sequences that waited for them.
    gaps: Vec<(f64, f64)>,
    tokens: f64,
    answered: f64,
    tokens_a_step: f64,
}

impl<'a> State<'a> {
    fn new(server: &'a Server<'a>, role: Role, chunk: f64) -> State<'a> {
        State {
            server,
            role,
            chunk,
            now: 0.0,
            steps: 0,
            waiting: VecDeque::new(),
            running: BinaryHeap::new(),
            reserved: 0.0,
            first_tokens: Vec::new(),
            gaps: Vec::new(),
            tokens: 0.0,
            answered: 0.0,
            tokens_a_step: server.speculation.map_or(1.0, |it| it.tokens_a_step()),
        }
    }

    fn busy(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    fn step(&mut self) {
        self.steps += 1;
        let batch = self.running.len() as f64;
        let mut time = 0.0;
        if batch > 0.0 {
            // Sequences are half-way through on average.
            time += self.server.decode(batch, self.reserved / batch * 0.75);
        }
        let mut started = Vec::new();
        let room = self.server.cache_room() / self.server.cache_bytes();
        let mut budget = self.chunk;
        while let Some((arrival, done)) = self.waiting.front_mut() {
            let held = arrival.shape.0 + arrival.shape.1;
            let full = batch + started.len() as f64 >= self.server.calibration.batch_cap
                || (self.reserved + held > room && !(self.running.is_empty() && started.is_empty()));
            if budget <= 0.0 || full {
                break;
            }
            if self.role == Role::Both {
                let now = (arrival.shape.0 - *done).min(budget);
                time += self.server.prefill_chunk(*done, now);
                budget -= now;
                *done += now;
                if *done < arrival.shape.0 {
                    break;
                }
            }
            started.push(*arrival);
            self.reserved += held;
            self.waiting.pop_front();
        }
        // A step in which nothing could run would never end.
        self.now += time.max(1e-6);
        if batch > 0.0 {
            self.gaps.push((time / self.tokens_a_step, batch));
            self.tokens += batch * self.tokens_a_step;
        }
        self.finish();
        for arrival in started {
            self.first_tokens.push(self.now - arrival.time);
            self.tokens += 1.0;
            let steps = ((arrival.shape.1 - 1.0) / self.tokens_a_step).ceil().max(0.0) as u64;
            let held = (arrival.shape.0 + arrival.shape.1) as u64;
            self.running.push(Reverse((self.steps + steps, held)));
        }
    }

    fn finish(&mut self) {
        while let Some(Reverse((end, held))) = self.running.peek().copied() {
            if end > self.steps {
                break;
            }
            self.running.pop();
            self.reserved = (self.reserved - held as f64).max(0.0);
            self.answered += 1.0;
        }
    }

    fn latency(mut self, requests: usize) -> Latency {
        self.gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = self.gaps.iter().map(|gap| gap.1).sum();
        let gap = |part: f64| {
            let mut sum = 0.0;
            let found = self.gaps.iter().find(|gap| {
                sum += gap.1;
                sum >= part * all
            });
            found.map_or(0.0, |gap| gap.0)
        };
        Latency {
            between_median: gap(0.5),
            between_p99: gap(0.99),
            first_token_median: quantile(&mut self.first_tokens, 0.5),
            first_token_p99: quantile(&mut self.first_tokens, 0.99),
            output_tokens: self.tokens / self.now.max(1e-9),
            batch: all / self.gaps.len().max(1) as f64,
            answered: self.answered / requests.max(1) as f64,
        }
    }
}

/// The most requests a second that one server answers within the targets, and what users wait then.
#[must_use]
pub fn most_requests(
    server: &Server<'_>,
    shape: RequestShape,
    targets: &Targets,
    role: Role,
    chunk: f64,
) -> Option<(f64, Latency)> {
    let most = server.at_batch(shape, server.batch(shape)).requests;
    // Long enough for a thousand requests and many times an answer's length, short enough to be quick.
    let answer = shape.output * server.decode(8.0, shape.input + shape.output);
    let at = |rate: f64| {
        let seconds = (1000.0 / rate).max(6.0 * answer).min(4000.0 / rate);
        simulate(server, &poisson(rate, seconds, shape, 11), role, chunk)
    };
    // A run that ends can be survived at more than a server does for ever: what it does in full batches is the end.
    let (mut low, mut high) = (0.0, most * if role == Role::DecodeOnly { 3.0 } else { 1.0 });
    let mut best = None;
    for _ in 0..9 {
        let middle = 0.5 * (low + high);
        let latency = at(middle);
        match latency.meets(targets) {
            true => {
                low = middle;
                best = Some((middle, latency));
            }
            false => high = middle,
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_in_line_are_those_of_the_formula() {
        // Mean wait of M/D/1 at load r: r / (2 (1 - r)) services; at 0.7 that is 1.17, its median a little less.
        let (median, p99) = waits_in_line(0.7, 1.0);
        assert!((0.4..1.17).contains(&median) && (5.0..8.5).contains(&p99), "{median} {p99}");
        assert!(waits_in_line(0.2, 1.0).1 < p99);
    }
}
