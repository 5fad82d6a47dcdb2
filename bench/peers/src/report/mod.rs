//! How it is shown: JSON with everything, a table per workload, the goals, and plots.

mod plot;
mod text;

use std::path::Path;
use std::process::Command;

use bench_rig::{Outcome, during};

use crate::arguments::{Arguments, ReportOptions};
use crate::summary::Results;

pub use text::{goals, one};

/// Writes all files.
pub fn write(out: &Path, results: &Results) -> Outcome<()> {
    let json = serde_json::to_string_pretty(results).map_err(during("the results"))?;
    for (file, content) in [
        ("results.json", json),
        ("results.md", text::all(results)),
        ("goals.md", text::goals(results)),
        ("cpu.svg", plot::cpu(results)),
        ("rate.svg", plot::rate(results)),
        ("p99.svg", plot::p99(results)),
    ] {
        std::fs::write(out.join(file), content).map_err(during(file))?;
    }
    Ok(())
}

/// Writes tables and plots once more from the JSON.
pub fn again(options: &ReportOptions) -> Outcome<()> {
    let file = options.dir.join("results.json");
    let json = std::fs::read_to_string(&file).map_err(during("results.json"))?;
    let results: Results = serde_json::from_str(&json).map_err(during("results.json"))?;
    write(&options.dir, &results)?;
    println!("{}", text::goals(&results));
    Ok(())
}

/// The machine, the options and the versions.
pub fn about(arguments: &Arguments, weir: &Path) -> Vec<String> {
    let mut lines = vec![
        format!("{} cores: {}", std::thread::available_parallelism().map_or(1, usize::from), processor()),
        first_line("uname", &["-sr"]),
        format!(
            "{} rounds (the first workload twice as many), in each {} s at full speed and three quarters of that at the \
             fixed rate",
            arguments.rounds(),
            arguments.seconds()
        ),
    ];
    let weir = weir.display().to_string();
    for (program, argument) in [
        (weir.as_str(), "--version"),
        ("nginx", "-v"),
        ("haproxy", "-v"),
        ("varnishd", "-V"),
        ("squid", "-v"),
        ("traffic_server", "--version"),
        ("redis-server", "--version"),
        ("wrk", "-v"),
        ("h2load", "--version"),
    ] {
        lines.push(first_line(program, &[argument]));
    }
    lines
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// The first line a program writes, wherever it writes it.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let done = Command::new(program).args(arguments).env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let Ok(done) = done else { return format!("{program}: not installed") };
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or(program).trim().to_owned()
}
