//! wrk: HTTP/1.1 at full speed, one thread.
//!
//! One URL needs no script while it runs. Lists and ever new URLs are made by a few lines of Lua, prepared as far as
//! can be: what they cost, they cost for every server.

use std::time::Duration;

use bench_rig::{Outcome, during};

use super::{Full, Targets, Task, output};

/// How long wrk waits for an answer before it counts a time-out.
const TIMEOUT: &str = "10s";

/// Runs it.
pub async fn run(task: &Task) -> Outcome<Full> {
    let scheme = if task.door.certificate.is_some() { "https" } else { "http" };
    let host = task.door.address.to_string();
    let (path, script, argument) = match &task.targets {
        Targets::One(path) => (path.as_str(), String::new(), String::new()),
        Targets::List(file) => ("/", LIST.replace("{host}", &host), file.display().to_string()),
        Targets::Fresh(prefix) => ("/", FRESH.replace("{host}", &host), prefix.clone()),
    };
    let file = task.scratch.join("wrk.lua");
    std::fs::write(&file, script + DONE).map_err(during("wrk's script"))?;
    let connections = task.connections.to_string();
    let seconds = format!("{}s", task.seconds);
    let url = format!("{scheme}://{host}{path}");
    let script = file.display().to_string();
    let mut words =
        vec!["wrk", "-t1", "-c", &connections, "-d", &seconds, "--timeout", TIMEOUT, "-s", &script, &url];
    if !argument.is_empty() {
        words.extend(["--", &argument]);
    }
    parse(&output(task.core, &words, Duration::from_secs(task.seconds + 40)).await?)
}

/// Reads the line that [`DONE`] writes.
fn parse(text: &str) -> Outcome<Full> {
    let line = text.lines().find_map(|line| line.strip_prefix("result "));
    let line = line.ok_or_else(|| format!("wrk wrote no result: {text}"))?;
    let field = |name: &str| {
        let mut pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse::<f64>().ok());
        value.ok_or_else(|| format!("wrk's result has no {name}: {line}"))
    };
    let errors = field("connect")? + field("read")? + field("write")? + field("status")? + field("timeout")?;
    Ok(Full {
        requests: field("requests")? as u64,
        seconds: field("duration")? / 1e6,
        p50: field("p50")?,
        p99: field("p99")?,
        errors: errors as u64,
    })
}

/// Called once, after the run.
const DONE: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "result requests=%d duration=%d connect=%d read=%d write=%d status=%d timeout=%d p50=%d p99=%d\n",
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#;

/// Requests from a file, in turn; equal ones are one string in memory.
const LIST: &str = r#"
local list, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    local path, authorization = line:match("^([^\t]*)\t(.*)$")
    if authorization ~= "" then authorization = "Authorization: " .. authorization .. "\r\n" end
    list[#list + 1] = "GET " .. path .. " HTTP/1.1\r\nHost: {host}\r\n" .. authorization .. "\r\n"
  end
end
function request()
  at = at + 1
  if at > #list then at = 1 end
  return list[at]
end
"#;

/// A new path each time.
const FRESH: &str = r#"
local before, after, n = "", " HTTP/1.1\r\nHost: {host}\r\n\r\n", 0
function init(args)
  before = "GET " .. args[1]
end
function request()
  n = n + 1
  return before .. n .. after
end
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_among_other_lines() {
        let text = "Running 2s test @ http://127.0.0.1:8080/\n  1 threads and 64 connections\n  Requests/sec: 1.0\n\
                    result requests=1000 duration=2000000 connect=0 read=1 write=0 status=2 timeout=3 p50=300 p99=4000\n";
        let full = parse(text).unwrap();
        assert_eq!(full, Full { requests: 1000, seconds: 2.0, p50: 300.0, p99: 4000.0, errors: 6 });
        assert!(parse("unable to connect").is_err());
        assert!(parse("result requests=1 duration=x").is_err());
    }
}
