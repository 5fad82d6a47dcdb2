//! h2load: HTTP/2 at full speed, with TLS or by prior knowledge.
//!
//! Its summary has no percentiles; they come from its log of every request.

use std::path::Path;
use std::time::Duration;

use bench_rig::histogram::Histogram;
use bench_rig::{Outcome, during};

use super::{Full, Targets, Task, output};

/// Runs it.
pub async fn run(task: &Task) -> Outcome<Full> {
    let Targets::One(path) = &task.targets else { return Err("h2load is for one path here".to_owned()) };
    let scheme = if task.door.certificate.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", task.door.address);
    let log = task.scratch.join("h2load.log");
    std::fs::remove_file(&log).ok();
    let (seconds, connections) = (task.seconds.to_string(), task.connections.to_string());
    let (streams, log_text) = (task.streams.to_string(), format!("--log-file={}", log.display()));
    let words = ["h2load", "-t1", "-D", &seconds, "-c", &connections, "-m", &streams, &log_text, &url];
    let text = output(task.core, &words, Duration::from_secs(task.seconds + 40)).await?;
    let (requests, errors, rate) = parse(&text)?;
    let times = times(&log)?;
    let micros = |share| times.percentile(share).as_secs_f64() * 1e6;
    let seconds = if rate > 0.0 { requests as f64 / rate } else { task.seconds as f64 };
    Ok(Full { requests, seconds, p50: micros(0.5), p99: micros(0.99), errors })
}

/// Answers, errors, and answers per second.
fn parse(text: &str) -> Outcome<(u64, u64, f64)> {
    let missing = |what: &str| format!("h2load wrote no {what}: {text}");
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    // finished in 2.00s, 12345.00 req/s, 14.00MB/s
    let finished = line("finished in").ok_or_else(|| missing("rate"))?;
    let rate = finished.split(", ").find_map(|part| part.strip_suffix(" req/s")?.parse::<f64>().ok());
    // requests: 100 total, 100 started, 100 done, 98 succeeded, 2 failed, 1 errored, 1 timeout
    let requests = line("requests:").ok_or_else(|| missing("requests"))?;
    let count = |name: &str| -> Outcome<u64> {
        let part = requests.split(',').find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok());
        part.ok_or_else(|| missing(name))
    };
    Ok((count("succeeded")?, count("failed")?, rate.ok_or_else(|| missing("rate"))?))
}

/// One line per request: when it began, its status, how long it took, both in µs.
fn times(log: &Path) -> Outcome<Histogram> {
    let text = std::fs::read_to_string(log).map_err(during("h2load's log"))?;
    let mut times = Histogram::default();
    for line in text.lines() {
        let micros = line.split('\t').nth(2).and_then(|field| field.trim().parse().ok());
        times.record(Duration::from_micros(micros.ok_or_else(|| format!("h2load's log: {line:?}"))?));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary() {
        let text = "starting benchmark...\nWarm-up started for thread #0.\n\nfinished in 2.00s, 61234.50 req/s, 70.12MB/s\n\
                    requests: 122469 total, 122533 started, 122469 done, 122467 succeeded, 2 failed, 1 errored, 0 timeout\n\
                    status codes: 122467 2xx, 0 3xx, 0 4xx, 0 5xx\n\
                    time for request:      170us      9.82ms      1.04ms       411us    76.11%\n";
        assert_eq!(parse(text), Ok((122_467, 2, 61_234.5)));
        assert!(parse("could not connect").is_err());
    }

    #[test]
    fn a_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        std::fs::write(&file, "1700000000000000\t200\t150\n1700000000000200\t200\t250\n").unwrap();
        let times = times(&file).unwrap();
        assert_eq!((times.count(), times.longest()), (2, Duration::from_micros(250)));
        std::fs::write(&file, "1700000000000000\t200\n").unwrap();
        assert!(super::times(&file).is_err());
    }
}
