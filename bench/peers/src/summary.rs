//! What the measurements say together: medians with their range, and ratios between servers within one round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::servers::Name;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Answers per second at full speed.
    Rate,
    /// Median time at full speed, µs.
    P50,
    /// 99th percentile at full speed, µs.
    P99,
    /// Processor time of the server per answer at full speed, µs.
    Cpu,
    /// The same of its Redis.
    CpuRedis,
    /// Both together; without Redis, the server's.
    CpuTogether,
    /// Memory of the server with its files in memory (not of its Redis), MiB.
    Memory,
    /// Median time at the fixed rate, from the moment the request was due, µs.
    PacedP50,
    /// 99th percentile at the fixed rate.
    PacedP99,
    /// The longest time at the fixed rate.
    PacedLongest,
    /// Processor time of server and Redis per answer at the fixed rate, µs.
    PacedCpu,
    /// How much of a core the generator used at the fixed rate, per hundred.
    GeneratorBusy,
    /// Requests that reached the origin, per hundred.
    OriginShare,
    /// Requests that reached the origin for one cold URL.
    Upstream,
    /// When the last of them was answered, ms.
    LastAnswer,
    /// Memory per entry beyond its head and body, bytes.
    EntryBytes,
    /// Memory per idle connection, bytes.
    ConnectionBytes,
}

impl Figure {
    /// True where more is better.
    pub fn more_is_better(self) -> bool {
        self == Figure::Rate
    }

    /// What it is called where it stands alone.
    pub fn title(self) -> &'static str {
        match self {
            Figure::Rate => "requests/s",
            Figure::P50 => "p50 at full speed, µs",
            Figure::P99 => "p99 at full speed, µs",
            Figure::Cpu => "CPU per request",
            Figure::CpuRedis => "Redis CPU per request",
            Figure::CpuTogether => "CPU per request with Redis",
            Figure::Memory => "memory, MiB",
            Figure::PacedP50 => "p50 at equal rate",
            Figure::PacedP99 => "p99 at equal rate",
            Figure::PacedLongest => "longest at equal rate",
            Figure::PacedCpu => "CPU per request at equal rate",
            Figure::GeneratorBusy => "the generator's core at equal rate, %",
            Figure::OriginShare => "requests that reached the origin, %",
            Figure::Upstream => "requests at the origin",
            Figure::LastAnswer => "last answer, ms",
            Figure::EntryBytes => "overhead per entry, bytes",
            Figure::ConnectionBytes => "memory per connection, bytes",
        }
    }
}

/// One turn of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    pub figures: BTreeMap<Figure, f64>,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub invalid: Option<String>,
}

/// A server in a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entrant {
    /// Which.
    pub name: Name,
    /// Why it took no part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left_out: Option<String>,
    /// What readers should know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// Its turns, by round.
    pub samples: Vec<Sample>,
}

/// A workload, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub shows: String,
    /// The fixed rate, requests per second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<f64>,
    /// Who took part.
    pub entrants: Vec<Entrant>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The machine and the versions, one per line.
    pub about: Vec<String>,
    /// Workloads in the table's order.
    pub workloads: Vec<Measured>,
}

/// The middle of several values, and their range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these; `None` of none.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

impl Entrant {
    /// A server that has had no turn yet.
    pub fn new(name: Name) -> Entrant {
        Entrant { name, left_out: None, notes: Vec::new(), samples: Vec::new() }
    }

    /// The figure in one round, if it counts.
    fn at(&self, round: usize, figure: Figure) -> Option<f64> {
        let sample = self.samples.get(round).filter(|sample| sample.invalid.is_none())?;
        sample.figures.get(&figure).copied()
    }

    /// A figure over all rounds that count.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of((0..self.samples.len()).filter_map(|round| self.at(round, figure)).collect())
    }

    /// This server's figure divided by another's, round by round.
    pub fn ratio(&self, other: &Entrant, figure: Figure) -> Option<Spread> {
        let rounds = 0..self.samples.len().max(other.samples.len());
        let pairs = rounds.filter_map(|round| {
            let (own, others) = (self.at(round, figure)?, other.at(round, figure)?);
            (others > 0.0).then(|| own / others)
        });
        Spread::of(pairs.collect())
    }

    /// The first reason for which it did not count, or took no part.
    pub fn problem(&self) -> Option<&str> {
        let invalid = self.samples.iter().find_map(|sample| sample.invalid.as_deref());
        self.left_out.as_deref().or(invalid)
    }
}

impl Measured {
    /// One server.
    pub fn entrant(&self, name: Name) -> Option<&Entrant> {
        self.entrants.iter().find(|entrant| entrant.name == name)
    }

    /// The best of several servers by the median.
    pub fn best(&self, figure: Figure, among: impl Fn(Name) -> bool) -> Option<&Entrant> {
        let candidates = self.entrants.iter().filter(|entrant| among(entrant.name));
        let rated = candidates.filter_map(|entrant| Some((entrant.spread(figure)?.median, entrant)));
        let compare = |(a, _): &(f64, &Entrant), (b, _): &(f64, &Entrant)| a.total_cmp(b);
        let best = if figure.more_is_better() { rated.max_by(compare) } else { rated.min_by(compare) };
        best.map(|(_, entrant)| entrant)
    }

    /// The best peer.
    pub fn best_peer(&self, figure: Figure) -> Option<&Entrant> {
        self.best(figure, Name::is_peer)
    }
}

impl Results {
    /// One workload.
    pub fn workload(&self, name: &str) -> Option<&Measured> {
        self.workloads.iter().find(|measured| measured.name == name)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A server with these values of one figure.
    pub fn entrant(name: Name, figure: Figure, values: &[f64]) -> Entrant {
        let sample = |value: &f64| Sample { figures: BTreeMap::from([(figure, *value)]), invalid: None };
        Entrant { samples: values.iter().map(sample).collect(), ..Entrant::new(name) }
    }

    /// A workload of these.
    pub fn measured(name: &str, entrants: Vec<Entrant>) -> Measured {
        Measured { name: name.to_owned(), shows: "something".to_owned(), rate: None, entrants }
    }

    #[test]
    fn medians_and_ranges() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(spread(&[f64::NAN, 1.0]).unwrap().median, 1.0);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut one = entrant(Name::Weir, Figure::Cpu, &[10.0, 22.0, 30.0]);
        let other = entrant(Name::Bare, Figure::Cpu, &[10.0, 20.0, 30.0]);
        assert_eq!(one.ratio(&other, Figure::Cpu).unwrap(), Spread { median: 1.0, min: 1.0, max: 1.1 });
        one.samples[0].invalid = Some("errors".to_owned());
        assert_eq!(one.ratio(&other, Figure::Cpu).unwrap().median, 1.05, "what is invalid does not count");
        assert_eq!(one.ratio(&other, Figure::Rate), None);
        assert_eq!(one.problem(), Some("errors"));
    }

    #[test]
    fn the_best_has_most_answers_or_least_time() {
        let rates = measured(
            "w",
            vec![
                entrant(Name::Weir, Figure::Rate, &[99.0]),
                entrant(Name::Nginx, Figure::Rate, &[50.0]),
                entrant(Name::Haproxy, Figure::Rate, &[60.0]),
            ],
        );
        assert_eq!(rates.best_peer(Figure::Rate).unwrap().name, Name::Haproxy);
        let times = measured(
            "w",
            vec![
                entrant(Name::Nginx, Figure::PacedP99, &[50.0]),
                entrant(Name::Haproxy, Figure::PacedP99, &[60.0]),
            ],
        );
        assert_eq!(times.best_peer(Figure::PacedP99).unwrap().name, Name::Nginx);
        assert_eq!(times.best_peer(Figure::Rate), None);
    }

    #[test]
    fn results_survive_json() {
        let results = Results {
            about: vec!["a machine".to_owned()],
            workloads: vec![measured("hot-1k", vec![entrant(Name::TrafficServer, Figure::PacedP99, &[1.5])])],
        };
        let text = serde_json::to_string(&results).unwrap();
        assert!(text.contains("traffic-server") && text.contains("paced-p99"), "{text}");
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
