//! The result, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::arguments::{Arguments, Fault, Mode, Peer, Unreachable};
use crate::race::Finish;
use crate::tally::percent;

/// Milliseconds with two decimals.
pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// A Markdown table from its rows; the first is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).max(3)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("| {cell:<width$} "));
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                text.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

/// What ran, in a line.
pub fn title(arguments: &Arguments, seed: u64) -> String {
    let what = match arguments.peer {
        Some(Peer::Varnish) => "Varnish, a ban for every mutation".to_owned(),
        None => {
            let mode = if arguments.old { "without coherence keys" } else { arguments.mode.word() };
            let redis = if arguments.without_redis { ", no Redis" } else { "" };
            let lease = if arguments.old { String::new() } else { format!(", lease {:?}", arguments.lease) };
            let unreachable = match arguments.unreachable {
                Unreachable::Refuse if !arguments.old => ", refuse",
                _ => "",
            };
            format!("Weir ×{}, {mode}{lease}{unreachable}{redis}", arguments.instances)
        }
    };
    let faults: Vec<String> =
        arguments.faults.iter().map(|fault| format!("{fault:?}").to_lowercase()).collect();
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
    format!(
        "{what}; faults: {faults}; {} readers, {} writers (pause {:?}), {} items, backend 0–{:?}, seed {seed}",
        arguments.readers, arguments.writers, arguments.write_pause, arguments.items, arguments.delay
    )
}

/// The table of a race.
pub fn race(arguments: &Arguments, finish: &Finish, seed: u64) -> String {
    let tally = &finish.tally;
    let stale = tally.stale;
    let (reads, not_modified, _) = finish.scene.backend.counts();
    let [items, lists, boards] = tally.stale_pages;
    let mut rows = vec![vec!["what".to_owned(), "figure".to_owned()]];
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row(
        "reads",
        format!("{} in {:.1} s ({:.0}/s)", tally.reads, finish.took.as_secs_f64(), rate(tally.reads, finish)),
    );
    row("hits", format!("{:.2} %", tally.hit_share()));
    row("answered by another's fetch", format!("{:.2} %", percent(tally.collapsed, tally.reads)));
    row("answered 304", tally.not_modified.to_string());
    row("**stale reads**", format!("**{stale}**"));
    row("stale per 100,000", format!("{:.1}", percent(stale, tally.reads) * 1000.0));
    if tally.stale > 0 {
        row("worst age", ms(tally.worst));
        row("stale: items, lists, boards", format!("{items}, {lists}, {boards}"));
        let doors = finish.scene.doors.iter().zip(&tally.stale_doors);
        let doors: Vec<String> = doors.map(|(door, count)| format!("{} {count}", door.name)).collect();
        row("stale by instance", doors.join(", "));
    }
    if let Some(served) = finish.sabotage {
        row("old answers served on purpose", served.to_string());
        row("… found stale by the judge", tally.sabotaged.to_string());
    }
    row("errors", tally.errors.to_string());
    row("mutations acknowledged", format!("{} ({:.1}/s)", tally.mutations, rate(tally.mutations, finish)));
    row("mutations refused", tally.refused.to_string());
    if arguments.faults.iter().any(|fault| *fault != Fault::None) {
        row("faults", kinds(finish));
    }
    if arguments.faults.contains(&Fault::Stop) {
        row("reads sent to a frozen instance", tally.woken.to_string());
    }
    let pair = |times: &crate::histogram::Histogram| {
        let (half, most, all) = (times.percentile(0.5), times.percentile(0.99), times.longest());
        format!("{}, {}, {}", ms(half), ms(most), ms(all))
    };
    row("hit p50, p99, longest", pair(&tally.hit_time));
    row("read p50, p99, longest", pair(&tally.read_time));
    row("mutation p50, p99, longest", pair(&tally.mutation_time));
    row("… without the backend's time", pair(&tally.added_time));
    row("reads at the backend, 304 of them", format!("{reads}, {not_modified}"));
    row("connections closed by the proxy", tally.reconnects.to_string());
    let (outdated, audited) = finish.audit;
    row("outdated after all was still", format!("{outdated} of {audited} pages"));
    let mut text = format!("## {}\n\n{}", title(arguments, seed), table(&rows));
    let examples = finish.scene.examples();
    list(&mut text, "Stale reads, the first of each instance, item and version", &examples.stale);
    list(&mut text, "Errors, the first ones", &examples.errors);
    text
}

fn rate(count: u64, finish: &Finish) -> f64 {
    count as f64 / finish.took.as_secs_f64().max(1e-9)
}

/// How often which thing was broken.
fn kinds(finish: &Finish) -> String {
    let diary = finish.scene.diary();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, what) in &diary {
        for kind in ["killed", "frozen", "FLUSHALL", "ordered", "cut off"] {
            if what.contains(kind) {
                let subject = if what.starts_with("weir") { "a Weir " } else { "" };
                let name = match (kind, subject) {
                    ("frozen", "") => "Redis frozen",
                    ("frozen", _) => "a Weir frozen",
                    ("killed", _) => "Redis killed",
                    ("ordered", _) => "failover ordered",
                    ("cut off", _) => "a Weir cut off",
                    _ => kind,
                };
                *counts.entry(name).or_default() += 1;
            }
        }
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}×")).collect();
    format!("{}: {}", finish.faults, counts.join(", "))
}

fn list(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = write!(text, "\n{title}:\n\n");
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
}

/// What was promised and not kept.
pub fn broken_promises(arguments: &Arguments, finish: &Finish) -> Vec<String> {
    let tally = &finish.tally;
    let mut broken = Vec::new();
    if let Some(served) = finish.sabotage
        && served != tally.sabotaged
    {
        broken.push(format!(
            "{served} old answers were served on purpose, the judge found {}",
            tally.sabotaged
        ));
    }
    if finish.sabotage == Some(0) {
        broken.push("nothing was served on purpose: the run was too short to test the judge".to_owned());
    }
    if arguments.peer.is_some() {
        return broken;
    }
    let alone = arguments.instances == 1;
    let never_stale = alone || (arguments.mode == Mode::Strong && !arguments.old);
    let stale = tally.stale;
    if never_stale && stale > 0 {
        broken.push(format!("{stale} stale reads"));
    }
    if tally.errors > 0 {
        broken.push(format!("{} errors", tally.errors));
    }
    if tally.refused > 0 && arguments.faults.iter().all(|fault| *fault == Fault::None) {
        broken.push(format!("{} mutations refused though nothing was broken", tally.refused));
    }
    if tally.reads == 0 || tally.mutations == 0 {
        broken.push("there were no reads, or no mutations".to_owned());
    }
    let expected = finish.scene.world.pages() as u64 * finish.scene.doors.len() as u64;
    if finish.audit != (0, expected) {
        let (outdated, read) = finish.audit;
        broken.push(format!(
            "after all was still {outdated} of {read} pages were outdated ({expected} expected)"
        ));
    }
    broken
}
