//! Traces of requests: reading them, and the servers that they need.

use crate::error::PlanError;
use crate::inference::{RequestShape, Server};
use crate::queueing::{Arrival, Latency, Role, Targets, simulate};
use crate::serve::CHUNK;
use crate::units::{DAY, HOUR, digits};
use serde::Serialize;

/// How servers do over a trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TracePlan {
    /// Requests that are served.
    pub requests: usize,
    /// Requests left out: longer than the model's context, or than a server's memory.
    pub too_long: usize,
    /// Requests a second over the whole trace.
    pub requests_a_second: f64,
    /// The mean request.
    pub shape: RequestShape,
    /// Servers that were judged.
    pub servers: f64,
    /// What users of them wait.
    pub latency: Latency,
    /// Whether that is within the targets.
    pub met: bool,
    /// The least servers that are within the targets.
    pub needed: f64,
}

/// Judges servers over a trace, and finds how many it needs at least.
///
/// # Errors
/// When all requests are too long, or even a server of its own is too slow for some.
pub fn size_over_trace(
    server: &Server<'_>,
    trace: &[Arrival],
    targets: &Targets,
    servers: Option<f64>,
) -> Result<TracePlan, PlanError> {
    let room = (server.cache_room() / server.cache_bytes()).min(server.model.context as f64);
    let fitting: Vec<Arrival> = trace.iter().filter(|it| it.shape.0 + it.shape.1 <= room).copied().collect();
    let (Some(first), Some(last)) = (fitting.first(), fitting.last()) else {
        let problem = format!("every request is longer than the {} tokens that a server holds", digits(room));
        return Err(PlanError::value(
            "trace",
            format!("{} requests", trace.len()),
            problem,
            "use more GPUs a server",
        ));
    };
    let requests = fitting.len();
    let mean = |of: fn(&Arrival) -> f64| fitting.iter().map(of).sum::<f64>() / requests as f64;
    let shape = RequestShape { input: mean(|it| it.shape.0), output: mean(|it| it.shape.1) };
    server.check(shape)?;
    let needed = least_servers(server, &fitting, targets)?;
    let servers = servers.map_or(needed, |given| given.max(1.0).round());
    let latency = latency(server, &fitting, servers as usize);
    Ok(TracePlan {
        requests,
        too_long: trace.len() - requests,
        requests_a_second: requests as f64 / (last.time - first.time).max(1.0),
        shape,
        servers,
        met: latency.meets(targets),
        latency,
        needed,
    })
}

/// The least servers that meet the targets: doubled until they do, then halved in between.
fn least_servers(server: &Server<'_>, trace: &[Arrival], targets: &Targets) -> Result<f64, PlanError> {
    let meets = |servers: usize| latency(server, trace, servers).meets(targets);
    let (mut low, mut high) = (0, 1);
    while !meets(high) {
        if high >= trace.len() {
            let alone = latency(server, trace, high);
            let problem = format!(
                "with a server for each request, first tokens take {:.3} s (99 of 100: {:.3} s) and others {:.3} s ({:.3} s)",
                alone.first_token_median, alone.first_token_p99, alone.between_median, alone.between_p99
            );
            let remedy = "use more tensor parallelism, fewer bits, a faster accelerator, or longer targets";
            let asked = format!("{:.3} s and {:.3} s", targets.first_token_p99, targets.between_p99);
            return Err(PlanError::value("latency targets", asked, problem, remedy));
        }
        low = high;
        high = (2 * high).min(trace.len());
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if meets(middle) { high = middle } else { low = middle }
    }
    Ok(high as f64)
}

/// What users wait when requests go round `servers` in turn: the worst of up to three of them, each of which sees every
/// n-th request.
fn latency(server: &Server<'_>, trace: &[Arrival], servers: usize) -> Latency {
    let seen = servers.min(3);
    let of = |index: usize| {
        let first = index * servers / seen;
        let one: Vec<Arrival> = trace.iter().skip(first).step_by(servers).copied().collect();
        (!one.is_empty()).then(|| simulate(server, &one, Role::Both, CHUNK))
    };
    let first =
        simulate(server, &trace.iter().step_by(servers).copied().collect::<Vec<_>>(), Role::Both, CHUNK);
    (1..seen).filter_map(of).fold(first, Latency::worse)
}

/// Requests of a trace file: lines of `time,input tokens,output tokens`; a head is skipped. A time is seconds, or a date
/// with a time of day as ISO 8601 writes them; the first request is at 0.
///
/// # Errors
/// When a line is none; `file` and line are named.
pub fn parse_trace(file: &str, text: &str) -> Result<Vec<Arrival>, PlanError> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse_line(line) {
            Some(arrival) => found.push(arrival),
            None if index == 0 || line.trim().is_empty() => {}
            None => {
                let problem = format!(
                    "`{line}` is not `time,input tokens,output tokens`, the time in seconds or as 2026-01-31T23:59:59.5Z"
                );
                return Err(PlanError::file(format!("{file}:{}", index + 1), problem));
            }
        }
    }
    found.sort_by(|a, b| a.time.total_cmp(&b.time));
    let first = found.first().ok_or_else(|| PlanError::file(file, "has no requests"))?.time;
    found.iter_mut().for_each(|it| it.time -= first);
    Ok(found)
}

fn parse_line(line: &str) -> Option<Arrival> {
    let mut fields = line.split(',').map(str::trim);
    let (time, input, output) = (fields.next()?, fields.next()?, fields.next()?);
    let count = |text: &str| text.parse::<f64>().ok().filter(|it| (1.0..1e9).contains(it));
    let arrival = Arrival { time: seconds(time)?, shape: (count(input)?, count(output)?) };
    (fields.next().is_none() && arrival.time.is_finite() && arrival.time >= 0.0).then_some(arrival)
}

/// Seconds of a time: a number, or a date and time of day of ISO 8601 (`T` or a space between them, a fraction of a second,
/// `Z` or an offset such as `+02:00`) since 1970.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(number) = text.parse::<f64>() {
        return Some(number);
    }
    let (date, time) = text.split_once(['T', ' '])?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)) {
        return None;
    }
    let time = time.trim().trim_end_matches('Z');
    let (time, offset) = match time.find(['+', '-']) {
        Some(place) => (
            &time[..place],
            clock(&time[place + 1..])? * if time[place..].starts_with('-') { -1.0 } else { 1.0 },
        ),
        None => (time, 0.0),
    };
    Some(days_since_1970(year, month, day) as f64 * DAY + clock(time)? - offset)
}

/// Seconds of `hours:minutes` or `hours:minutes:seconds`.
fn clock(text: &str) -> Option<f64> {
    let mut parts =
        text.split(':').map(|part| part.parse::<f64>().ok().filter(|it| (0.0..61.0).contains(it)));
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0.0))?;
    Some(hours * HOUR + minutes * 60.0 + seconds)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_read() {
        let trace = parse_trace("t.csv", "time,in,out\n1.5,100,20\n0.5,50,10\n").unwrap();
        assert_eq!((trace[0].time, trace[1].time), (0.0, 1.0));
        let error = parse_trace("t.csv", "0,1,1\nx,1,1\n").unwrap_err().to_string();
        assert!(error.contains("t.csv:2"), "{error}");
    }

    #[test]
    fn times_are_seconds_or_iso_8601() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
                    2023-11-16T18:15:50.95Z,396,109\n2023-11-16T20:16:00+02:00,1,1\n";
        let trace = parse_trace("t.csv", text).unwrap();
        assert!(
            (trace[1].time - 4.269_41).abs() < 1e-4 && (trace[2].time - 13.319_41).abs() < 1e-4,
            "{trace:?}"
        );
        assert_eq!(seconds("2000-03-01T00:00:00Z"), Some(951_868_800.0));
        for bad in ["2023-13-01T00:00:00", "2023-01-01", "18:00", "2023-01-01T99:00", "é-1-1 1:1"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
