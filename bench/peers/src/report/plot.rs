//! Bar charts as SVG: a small chart per workload, a bar per server, all on one scale with a line at 1.
//!
//! They are readable on light and dark pages: the picture brings its own background and follows what the reader prefers.

use std::fmt::Write as _;

use crate::servers::Name;
use crate::summary::{Entrant, Figure, Measured, Results, Spread};

const COLUMNS: usize = 3;
const CELL: f64 = 320.0;
const MARGIN: f64 = 20.0;
/// From a cell's left edge: where bars begin, and how long they may be.
const LABELS: f64 = 104.0;
const LENGTH: f64 = 150.0;
const LINE: f64 = 17.0;
const BAR: f64 = 11.0;
const HEAD: f64 = 64.0;
const TITLE: f64 = 22.0;
const AXIS: f64 = 22.0;
const GAP: f64 = 14.0;

const STYLE: &str = "
text { font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; font-size: 11.5px; fill: #1f2328; }
.page { fill: #ffffff; } .title { font-size: 17px; font-weight: 600; } .below { fill: #59636e; }
.name { font-size: 12.5px; font-weight: 600; } .own { font-weight: 600; }
.weir { fill: #1f6feb; } .bare { fill: #b4bcc4; } .peer { fill: #7d8894; }
.one { stroke: #d1242f; stroke-width: 1; stroke-dasharray: 3 2; } .base { stroke: #d1d9e0; }
.range { stroke: #1f2328; stroke-width: 1.2; }
.value { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .page { fill: #0d1117; } .below { fill: #9198a1; }
.weir { fill: #4493f8; } .bare { fill: #545d68; } .peer { fill: #767f89; }
.one { stroke: #ff7b72; } .base { stroke: #3d444d; } .range { stroke: #e6edf3; } .value { stroke: #0d1117; }
}";

/// A small chart.
struct Cell<'a> {
    title: String,
    bars: Vec<(&'a Entrant, Spread)>,
}

/// A chart's words and scale.
struct Chart {
    title: &'static str,
    below: String,
    /// Where the scale ends; longer bars are cut and say their value.
    end: f64,
}

/// Processor time per request.
pub fn cpu(results: &Results) -> String {
    let cells = cells(results, Figure::CpuTogether, |measured| {
        measured.entrant(Name::Bare).filter(|bare| bare.spread(Figure::CpuTogether).is_some())
    });
    let chart = Chart {
        title: "CPU per request ÷ bare hyper",
        below: "User and system time of the server, with its Redis. Shorter is better; 1 is what HTTP alone costs \
                (where marked, the best peer)."
            .to_owned(),
        end: 4.0,
    };
    svg(&chart, &cells)
}

/// Answers per second.
pub fn rate(results: &Results) -> String {
    let cells = cells(results, Figure::Rate, |_| None);
    let chart = Chart {
        title: "Requests per second ÷ best peer",
        below: "At full speed. Longer is better; 1 is the fastest of the peers.".to_owned(),
        end: 2.5,
    };
    svg(&chart, &cells)
}

/// Times at the fixed rate.
pub fn p99(results: &Results) -> String {
    let cells = cells(results, Figure::PacedP99, |_| None);
    let chart = Chart {
        title: "99th percentile at equal rate ÷ best peer",
        below:
            "Every server is asked equally much; times from the moment a request was due. Shorter is better."
                .to_owned(),
        end: 4.0,
    };
    svg(&chart, &cells)
}

/// A cell for each workload with this figure: ratios to the reference, or without one, to the best peer.
fn cells<'a>(
    results: &'a Results,
    figure: Figure,
    reference: impl Fn(&'a Measured) -> Option<&'a Entrant>,
) -> Vec<Cell<'a>> {
    let cell = |measured: &'a Measured| {
        let first = reference(measured);
        let other = first.or_else(|| measured.best_peer(figure))?;
        let bars: Vec<_> = measured
            .entrants
            .iter()
            .filter_map(|entrant| Some((entrant, entrant.ratio(other, figure)?)))
            .collect();
        let to_peer = figure == Figure::CpuTogether && first.is_none();
        let title = if to_peer { format!("{} (÷ best peer)", measured.name) } else { measured.name.clone() };
        (!bars.is_empty()).then_some(Cell { title, bars })
    };
    results.workloads.iter().filter_map(cell).collect()
}

// Writing to a String cannot fail: what `write!` returns is of no interest below.

fn svg(chart: &Chart, cells: &[Cell<'_>]) -> String {
    let rows: Vec<&[Cell<'_>]> = cells.chunks(COLUMNS).collect();
    let height = |row: &[Cell<'_>]| {
        let bars = row.iter().map(|cell| cell.bars.len()).max().unwrap_or_default();
        TITLE + bars as f64 * LINE + AXIS + GAP
    };
    let width = MARGIN * 2.0 + CELL * COLUMNS as f64;
    let total = HEAD + rows.iter().map(|row| height(row)).sum::<f64>() + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {total:.0}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}\n</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{total:.0}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"28\">{}</text>\n\
         <text class=\"below\" x=\"{MARGIN}\" y=\"47\">{} Marks: range over the rounds.</text>\n",
        escape(chart.title),
        escape(chart.title),
        escape(&chart.below)
    );
    let mut top = HEAD;
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            draw(&mut out, chart, cell, MARGIN + CELL * column as f64, top);
        }
        top += height(row);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, chart: &Chart, cell: &Cell<'_>, left: f64, top: f64) {
    let from = left + LABELS;
    let place = |value: f64| from + (value / chart.end).clamp(0.0, 1.0) * LENGTH;
    let (first, last) = (top + TITLE, top + TITLE + cell.bars.len() as f64 * LINE);
    let _ = writeln!(
        out,
        "<text class=\"name\" x=\"{left}\" y=\"{:.1}\">{}</text>",
        top + 13.0,
        escape(&cell.title)
    );
    let _ = writeln!(
        out,
        "<line class=\"base\" x1=\"{from:.1}\" y1=\"{first:.1}\" x2=\"{from:.1}\" y2=\"{last:.1}\"/>\
         <line class=\"one\" x1=\"{one:.1}\" y1=\"{:.1}\" x2=\"{one:.1}\" y2=\"{last:.1}\"/>\
         <text class=\"below\" x=\"{from:.1}\" y=\"{:.1}\" text-anchor=\"middle\">0</text>\
         <text class=\"below\" x=\"{one:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1</text>",
        first - 3.0,
        last + 11.0,
        last + 11.0,
        one = place(1.0),
    );
    for (index, (entrant, ratio)) in cell.bars.iter().enumerate() {
        let y = first + index as f64 * LINE;
        let class = match entrant.name {
            Name::Bare => "bare",
            name if name.is_peer() => "peer",
            _ => "weir",
        };
        let own = if class == "weir" { " own" } else { "" };
        let (end, text) = (place(ratio.median), y + BAR - 1.0);
        let cut = if ratio.median > chart.end { " →" } else { "" };
        let after = if ratio.max > ratio.min { place(ratio.max).max(end) } else { end };
        let _ = writeln!(
            out,
            "<text class=\"label{own}\" x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"1.5\"/>\
             <text class=\"value{own}\" x=\"{:.1}\" y=\"{text:.1}\">{:.2}{cut}</text>",
            from - 6.0,
            escape(label(entrant.name)),
            end - from,
            after + 5.0,
            ratio.median
        );
        if ratio.max > ratio.min && ratio.min < chart.end {
            let middle = y + BAR / 2.0;
            let _ = writeln!(
                out,
                "<line class=\"range\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>",
                place(ratio.min),
                place(ratio.max)
            );
        }
    }
}

/// Short enough for the space beside a bar.
fn label(name: Name) -> &'static str {
    match name {
        Name::WeirRedis => "Weir, Redis",
        Name::WeirBoth => "Weir, both",
        other => other.title(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{entrant, measured};

    fn results() -> Results {
        let row = |name: &str| {
            measured(
                name,
                vec![
                    entrant(Name::Bare, Figure::CpuTogether, &[7.0, 7.0]),
                    entrant(Name::Weir, Figure::CpuTogether, &[7.5, 7.7]),
                    entrant(Name::Squid, Figure::CpuTogether, &[340.0, 350.0]),
                ],
            )
        };
        Results { about: Vec::new(), workloads: ["a", "b", "c", "d & e"].map(row).to_vec() }
    }

    fn numbers(picture: &str, attribute: &str) -> Vec<f64> {
        let before = format!(" {attribute}=\"");
        let parts = picture.split(&before).skip(1);
        parts.filter_map(|part| part.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn every_bar_is_there_and_none_leaves_the_scale() {
        let picture = cpu(&results());
        assert_eq!(picture.matches("class=\"weir\"").count(), 4);
        assert_eq!(picture.matches("class=\"peer\"").count(), 4);
        let widest = numbers(&picture, "width").into_iter().skip(1).fold(0.0, f64::max);
        assert!((LENGTH - 0.1..=LENGTH).contains(&widest), "{widest}");
        assert!(picture.contains("49.29 →"), "a bar that is cut says its value: {picture}");
        assert!(picture.contains("d &amp; e"));
    }

    #[test]
    fn without_the_figure_there_is_no_cell() {
        assert_eq!(rate(&results()).matches("class=\"name\"").count(), 0);
        assert!(p99(&Results::default()).ends_with("</svg>\n"));
    }
}
