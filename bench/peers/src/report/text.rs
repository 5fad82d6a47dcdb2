//! Tables in Markdown.

use std::fmt::Write as _;

use crate::goals::{Goal, Verdict};
use crate::servers::Name;
use crate::summary::{Entrant, Figure, Measured, Results, Spread};

// Writing to a String cannot fail: what `write!` returns is of no interest below.

/// Everything.
pub fn all(results: &Results) -> String {
    let mut text = String::from("# Weir and its peers\n\n");
    for line in &results.about {
        let _ = writeln!(text, "- {line}");
    }
    text.push('\n');
    text.push_str(&goals(results));
    text.push_str("\n## Workloads\n\n");
    text.push_str(
        "Medians over the rounds. CPU is the server's user and system time per request, and where there is a Redis, \
         + Redis'. Ratios are taken within a round: median (least–most).\n\n",
    );
    for measured in &results.workloads {
        text.push_str(&one(measured));
        text.push('\n');
    }
    text
}

/// One workload.
pub fn one(measured: &Measured) -> String {
    let mut text = format!("### {}: {}\n\n", measured.name, measured.shows);
    let timed = measured.entrants.iter().any(|entrant| entrant.spread(Figure::Rate).is_some());
    if timed {
        rates(&mut text, measured);
    } else {
        others(&mut text, measured);
    }
    for entrant in &measured.entrants {
        if let Some(why) = entrant.problem() {
            let word = if entrant.left_out.is_some() { "left out" } else { "invalid" };
            let _ = writeln!(
                text,
                "\n{}: **{word}**: {}",
                entrant.name.title(),
                why.lines().next().unwrap_or_default()
            );
        }
    }
    let busy = measured.entrants.iter().filter_map(|entrant| entrant.spread(Figure::GeneratorBusy));
    if let Some(busy) = busy.map(|spread| spread.median).max_by(f64::total_cmp).filter(|busy| *busy > 85.0) {
        let _ = writeln!(
            text,
            "\nThe generator used up to {busy:.0} % of its core at the fixed rate: times there are partly its own (a lower --rate helps)."
        );
    }
    let noted = measured.entrants.iter().filter(|entrant| !entrant.notes.is_empty());
    let notes: Vec<String> =
        noted.map(|entrant| format!("{} {}", entrant.name.title(), entrant.notes.join(", "))).collect();
    if !notes.is_empty() {
        let _ = writeln!(text, "\n{}.", notes.join("; "));
    }
    text
}

fn rates(text: &mut String, measured: &Measured) {
    let at = measured.rate.map_or_else(String::new, |rate| format!(" at {}/s", grouped(rate)));
    let _ = writeln!(
        text,
        "| | requests/s | ÷ best peer | p50 · p99 | p50 · p99{at} | CPU µs | ÷ bare | ÷ best peer | MiB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let bare = measured.entrant(Name::Bare);
    for entrant in &measured.entrants {
        let Some(rate) = entrant.spread(Figure::Rate) else { continue };
        let to = |other: Option<&Entrant>, figure| {
            let ratio = other.and_then(|other| entrant.ratio(other, figure));
            ratio.map_or_else(|| "–".to_owned(), ratio_words)
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} · {} | {} · {} | {} | {} | {} | {} |",
            entrant.name.title(),
            grouped(rate.median),
            to(measured.best_peer(Figure::Rate), Figure::Rate),
            time(entrant.spread(Figure::P50)),
            time(entrant.spread(Figure::P99)),
            time(entrant.spread(Figure::PacedP50)),
            time(entrant.spread(Figure::PacedP99)),
            cpu(entrant),
            to(bare, Figure::CpuTogether),
            to(measured.best_peer(Figure::CpuTogether), Figure::CpuTogether),
            entrant
                .spread(Figure::Memory)
                .map_or_else(|| "–".to_owned(), |memory| format!("{:.0}", memory.median)),
        );
    }
}

/// Workloads with other figures than rates: a column for each there is.
fn others(text: &mut String, measured: &Measured) {
    let columns: Vec<Figure> =
        [Figure::Upstream, Figure::LastAnswer, Figure::EntryBytes, Figure::ConnectionBytes, Figure::Memory]
            .into_iter()
            .filter(|figure| measured.entrants.iter().any(|entrant| entrant.spread(*figure).is_some()))
            .collect();
    let titles: Vec<&str> = columns.iter().map(|figure| figure.title()).collect();
    let _ = writeln!(text, "| | {} |\n|---|{}", titles.join(" | "), "--:|".repeat(columns.len()));
    for entrant in &measured.entrants {
        let cells: Vec<String> = columns
            .iter()
            .map(|figure| match entrant.spread(*figure) {
                Some(spread) => {
                    format!("{} ({}–{})", grouped(spread.median), grouped(spread.min), grouped(spread.max))
                }
                None => "–".to_owned(),
            })
            .collect();
        if cells.iter().any(|cell| cell != "–") {
            let _ = writeln!(text, "| {} | {} |", entrant.name.title(), cells.join(" | "));
        }
    }
}

/// The goals.
pub fn goals(results: &Results) -> String {
    let mut text = String::from("## Goals\n\n| workload | what | |\n|---|---|---|\n");
    let mut reached = 0;
    let mut known = 0;
    let goals = crate::goals::goals();
    let measured = |goal: &&Goal| results.workload(goal.workload).is_some();
    for goal in goals.iter().filter(measured) {
        let verdict = goal.verdict(results);
        known += usize::from(!matches!(verdict, Verdict::Unknown(_)));
        reached += usize::from(matches!(verdict, Verdict::Reached(_)));
        let _ = writeln!(text, "| {} | {} | {} |", goal.workload, goal, mark(&verdict, goal));
    }
    let _ = writeln!(text, "\nReached: {reached} of {known} with a figure, of {} in all.", goals.len());
    text
}

fn mark(verdict: &Verdict, goal: &Goal) -> String {
    let words = verdict.words(goal);
    if matches!(verdict, Verdict::Missed(_)) { format!("**{words}**") } else { words }
}

fn cpu(entrant: &Entrant) -> String {
    let Some(own) = entrant.spread(Figure::Cpu) else { return "–".to_owned() };
    match entrant.spread(Figure::CpuRedis) {
        Some(redis) => format!("{:.1} + {:.1}", own.median, redis.median),
        None => format!("{:.1}", own.median),
    }
}

fn ratio_words(ratio: Spread) -> String {
    if ratio.min == ratio.max {
        format!("{:.2}", ratio.median)
    } else {
        format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max)
    }
}

/// Microseconds or milliseconds.
fn time(micros: Option<Spread>) -> String {
    match micros.map(|spread| spread.median) {
        None => "–".to_owned(),
        Some(micros) if micros < 10_000.0 => format!("{micros:.0} µs"),
        Some(micros) => format!("{:.1} ms", micros / 1e3),
    }
}

/// 12,345; small numbers with one decimal place.
fn grouped(value: f64) -> String {
    if value.abs() < 100.0 && value.fract().abs() > 1e-9 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value <= -0.5 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{entrant, measured};

    #[test]
    fn numbers_and_times() {
        assert_eq!(grouped(1_234_567.8), "1,234,568");
        assert_eq!(
            (grouped(12.34), grouped(12.0), grouped(999.0)),
            ("12.3".into(), "12".into(), "999".into())
        );
        assert_eq!(grouped(-1_234.0), "-1,234");
        let spread = |median| Some(Spread { median, min: median, max: median });
        assert_eq!((time(spread(999.6)), time(spread(12_340.0))), ("1000 µs".into(), "12.3 ms".into()));
    }

    #[test]
    fn a_table_says_who_is_invalid_and_who_is_left_out() {
        let mut weir = entrant(Name::Weir, Figure::Rate, &[100_000.0, 90_000.0]);
        weir.samples[1].invalid = Some("3 errors in 5 requests".to_owned());
        let mut varnish = Entrant::new(Name::Varnish);
        varnish.left_out = Some("it did not start\nwith details".to_owned());
        let nginx = entrant(Name::Nginx, Figure::Rate, &[50_000.0, 50_000.0]);
        let text = one(&measured("hot", vec![weir, nginx, varnish]));
        assert!(text.contains("| Weir | 100,000 | 2.00 |"), "{text}");
        assert!(text.contains("Weir: **invalid**: 3 errors in 5 requests"), "{text}");
        assert!(text.contains("Varnish: **left out**: it did not start\n"), "{text}");
    }

    #[test]
    fn figures_that_are_no_rates_have_a_column_each() {
        let text = one(&measured("cold", vec![entrant(Name::Weir, Figure::LastAnswer, &[302.0, 304.0])]));
        assert!(text.contains("| Weir | 303 (302–304) |"), "{text}");
    }
}
