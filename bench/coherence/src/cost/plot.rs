//! A plot with two logarithmic axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 776.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;
const COLOURS: [&str; 2] = ["#1f6feb", "#bf5700"];

/// A line: for each x the 10th percentile, the median and the 90th, milliseconds.
pub struct Series {
    /// What the legend says.
    pub name: &'static str,
    /// (entries, [p10, median, p90]).
    pub points: Vec<(f64, [f64; 3])>,
}

/// Powers of ten from `low` to `high`, placed between two positions.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (least, most) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let (low, high) = (least.max(1e-6).log10().floor() as i32, most.max(1e-6).log10().ceil() as i32);
        Axis { low, high: high.max(low + 1), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.max(1e-6).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10f64.powi(power))
    }
}

/// The picture. Lines join medians; bars reach from the 10th percentile to the 90th.
pub fn svg(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    let x = Axis::over(points().map(|(n, _)| *n), LEFT, WIDTH - RIGHT);
    let y = Axis::over(points().flat_map(|(_, times)| *times), HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n"
    );
    axes(&mut out, &x, &y);
    for (number, line) in series.iter().enumerate() {
        draw(&mut out, line, COLOURS[number % COLOURS.len()], number, &x, &y);
    }
    out.push_str("</svg>\n");
    out
}

// Writing to a String cannot fail: what `write!` returns is of no interest below.

fn axes(out: &mut String, x: &Axis, y: &Axis) {
    for value in y.powers() {
        let (at, right) = (y.place(value), WIDTH - RIGHT);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for value in x.powers() {
        let (at, bottom) = (x.place(value), HEIGHT - BOTTOM);
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            bottom + 20.0
        );
    }
    let (middle, low) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0);
    let _ =
        writeln!(out, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">entries in the cache</text>");
}

fn draw(out: &mut String, line: &Series, colour: &str, number: usize, x: &Axis, y: &Axis) {
    let places: Vec<(f64, [f64; 3])> =
        line.points.iter().map(|(n, times)| (x.place(*n), times.map(|t| y.place(t)))).collect();
    let joined: Vec<String> =
        places.iter().map(|(at, [_, median, _])| format!("{at:.1},{median:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        joined.join(" ")
    );
    for (at, [low, median, high]) in places {
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{low:.1}\" x2=\"{at:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\"/>\
             <circle cx=\"{at:.1}\" cy=\"{median:.1}\" r=\"4\" fill=\"{colour}\"/>"
        );
    }
    let (legend, swatch) = (LEFT + number as f64 * 300.0, 36.0);
    let _ = writeln!(
        out,
        "<rect x=\"{legend}\" y=\"{swatch}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{} (median, p10–p90)</text>",
        legend + 18.0,
        swatch + 11.0,
        line.name
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_within_the_axes() {
        let series = [
            Series { name: "a", points: vec![(10.0, [0.05, 0.1, 0.9]), (1e6, [0.05, 0.12, 30.0])] },
            Series { name: "b", points: vec![(10.0, [1.0, 2.0, 3.0])] },
        ];
        let picture = svg("title", &series);
        let of = |name: &str| -> Vec<f64> {
            let before = format!(" {name}=\"");
            let parts = picture.split(&before).skip(1);
            parts.filter_map(|part| part.split('"').next()?.parse().ok()).collect()
        };
        assert_eq!(of("cx").len(), 3);
        assert!(of("cx").iter().all(|x| (LEFT..=WIDTH - RIGHT).contains(x)), "{picture}");
        assert!(of("cy").iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{picture}");
        assert!(of("y2").iter().all(|y| (TOP..=HEIGHT - BOTTOM).contains(y)), "{picture}");
    }
}
