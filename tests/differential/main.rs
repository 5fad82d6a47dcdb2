//! The differential test of the caching rules: random histories of requests and responses, judged by `weir::semantics`
//! and by a naive model written from the RFCs (`model`). They must agree on every step.
//!
//! `WEIR_DIFFERENTIAL_STEPS` and `WEIR_DIFFERENTIAL_SEED` make a run longer, or another; docs/conformance.md says more.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod driver;
mod generator;
mod model;
mod parsers;

use std::collections::BTreeSet;

use driver::Seen;
use generator::History;

/// What runs without being asked for more.
const STEPS: u64 = 30_000;
const SEED: u64 = 9111;

/// Steps in one history: enough for a few lives of a stored response.
const LENGTH: usize = 12;

/// Kinds of disagreement to show before giving up.
const ENOUGH: usize = 6;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => otherwise,
    }
}

#[test]
fn semantics_and_the_naive_model_agree() {
    let (steps, seed) = (number("WEIR_DIFFERENTIAL_STEPS", STEPS), number("WEIR_DIFFERENTIAL_SEED", SEED));
    println!("{steps} steps from seed {seed}");
    let (mut seen, mut about) = (Seen::new(), BTreeSet::new());
    for index in 0..steps.div_ceil(LENGTH as u64) {
        let one = generator::Rng(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95)).next();
        if let Err(found) = driver::explore(one, LENGTH, &mut seen)
            && about.insert(found.1.about.clone())
        {
            let (history, disagreement) = *found;
            println!("seed {seed}, history {index}\n{}", report(history, &disagreement));
        }
        if about.len() == ENOUGH {
            break;
        }
    }
    assert!(about.is_empty(), "seed {seed}: semantics and the model differ about {about:?}");
    for (what, times) in &seen {
        println!("{times:>9} {what}");
    }
    for what in MUST_HAPPEN {
        let times = seen.get(what).copied().unwrap_or(0);
        assert!(times * 10_000 >= steps, "seed {seed}: \"{what}\" happened {times} times in {steps} steps");
    }
}

#[test]
fn both_read_the_same_in_fields_made_of_pieces() {
    let (steps, seed) = (number("WEIR_DIFFERENTIAL_STEPS", STEPS), number("WEIR_DIFFERENTIAL_SEED", SEED));
    println!("{steps} fields of each kind from seed {seed}");
    let mut rng = generator::Rng(seed);
    let mut differences = Vec::new();
    for index in 0..steps {
        if let Err(disagreement) = parsers::compare(&mut rng) {
            differences.push((index, disagreement));
        }
    }
    differences.sort_by_key(|(_, d)| (d.about.split(' ').next().map(str::to_owned), d.about.len()));
    differences.dedup_by_key(|(_, d)| d.about.split(' ').next().map(str::to_owned));
    assert!(differences.is_empty(), "seed {seed}: the shortest difference of each kind: {differences:#?}");
}

/// What a run that is worth its time has seen once in ten thousand steps.
const MUST_HAPPEN: [&str; 34] = [
    "absent",
    "fresh",
    "stale-while-revalidate",
    "max-stale",
    "stale-if-error",
    "validate: stale",
    "validate: response no-cache",
    "validate: request asks",
    "only-if-cached",
    "stored",
    "several stored",
    "several suitable",
    "304: freshened",
    "304: no longer storable",
    "304 about another",
    "client has it",
    "range: none",
    "range: one",
    "range: several",
    "304: selected by more",
    "not stored: method",
    "not stored: request-no-store",
    "not stored: partial",
    "not stored: server-error",
    "not stored: status",
    "not stored: set-cookie",
    "not stored: vary-any",
    "not stored: authorization",
    "not stored: no-store",
    "not stored: private",
    "not stored: no-cache",
    "not stored: no-negative-ttl",
    "not stored: no-lifetime",
    "not stored: expired",
];

/// The shortest history that still shows it.
fn report(history: History, found: &driver::Disagreement) -> String {
    use std::fmt::Write;
    let history = driver::shrink(history, &found.about);
    let Some((last, shown)) = driver::replay(&history) else {
        return format!("lost while shrinking: {found:?}");
    };
    let mut out = String::new();
    let _ = writeln!(out, "the operator says: {:?}", history.operator);
    for (index, step) in history.steps.iter().enumerate().take(last + 1) {
        let _ = writeln!(out, "step {index}: at {} ms", (step.now - generator::START) / model::MILLISECOND);
        let _ = writeln!(out, "  request   {} {:?}", step.request.method, step.request.fields);
        let _ = writeln!(out, "  after     {} ms", step.delay / model::MILLISECOND);
        for (name, response) in [("first", &step.first), ("second", &step.second)] {
            match response {
                Some(response) => {
                    let _ = writeln!(out, "  {name:<9} {} {:?}", response.status, response.fields);
                }
                None => {
                    let _ = writeln!(out, "  {name:<9} none");
                }
            }
        }
    }
    let _ = writeln!(out, "they differ about: {}", shown.about);
    let _ = writeln!(out, "  semantics {}", shown.weir);
    let _ = writeln!(out, "  model     {}", shown.model);
    out
}
