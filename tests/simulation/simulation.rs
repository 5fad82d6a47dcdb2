//! The simulation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "in tests a failure is a panic"
)]

mod backend;
mod board;
mod exchange;
mod ledger;
mod log;
mod prng;
mod reading;
mod redis;
mod sabotage;
mod schedule;
mod settling;
mod world;

use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ledger::Coverage;
use crate::redis::lua::Interpreter;
use crate::sabotage::Sabotage;

#[derive(Default)]
struct Run {
    coverage: Coverage,
    failed: Option<u64>,
    schedules: u64,
    evals: u64,
}

/// Runs the schedules of many seeds, until one fails; on all cores.
fn run_seeds(first: u64, count: u64, sabotage: Option<Sabotage>) -> Run {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let whole = Mutex::new(Run::default());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let interpreter = Rc::new(Interpreter::new().unwrap());
                let mut run = Run::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if run.schedules % 16 == 0 {
                        interpreter.tidy();
                    }
                    let verdict = schedule::run(seed, sabotage, &interpreter, false);
                    run.coverage.add(&verdict.coverage);
                    run.schedules += 1;
                    run.evals += verdict.evals;
                    if verdict.violation.is_some() {
                        run.failed = Some(seed);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                let mut whole = whole.lock().unwrap();
                whole.coverage.add(&run.coverage);
                whole.schedules += run.schedules;
                whole.evals += run.evals;
                whole.failed = match (whole.failed, run.failed) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            });
        }
    });
    whole.into_inner().unwrap()
}

/// Tells a schedule's story.
fn explain(seed: u64, sabotage: Option<Sabotage>) -> String {
    let interpreter = Rc::new(Interpreter::new().unwrap());
    let verdict = schedule::run(seed, sabotage, &interpreter, true);
    match verdict.violation {
        None => format!("seed {seed} keeps every promise"),
        Some(violation) => format!(
            "{}\nseed {seed} breaks promise {}: {}\nrerun it alone with WEIR_SEED={seed}",
            verdict.trace.join("\n"),
            violation.promise,
            violation.detail
        ),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn promises_hold_whatever_happens() {
    if let Some(seed) = number("WEIR_SEED") {
        let story = explain(seed, None);
        println!("{story}");
        assert!(story.ends_with("keeps every promise"));
        return;
    }
    let began = std::time::Instant::now();
    let first = number("WEIR_FIRST_SEED").unwrap_or(0);
    let run = run_seeds(first, number("WEIR_SCHEDULES").unwrap_or(20_000), None);
    println!("{} schedules, {} scripts, {:?}", run.schedules, run.evals, began.elapsed());
    for (what, n) in &run.coverage.0 {
        println!("{n:>10}  {what}");
    }
    if let Some(seed) = run.failed {
        panic!("{}", explain(seed, None));
    }
}
