//! What should come out: bounds on ratios, and whether they are reached. Nothing here fails a run.

use std::fmt;

use crate::servers::Name;
use crate::summary::{Figure, Measured, Results, Spread};
use crate::workloads::{Kind, table};

/// A bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The workload.
    pub workload: &'static str,
    /// Whose figure.
    pub of: Name,
    /// Which figure.
    pub figure: Figure,
    /// Divided by whose.
    pub against: Against,
    /// What it should be.
    pub bound: Bound,
}

/// What a figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Against {
    /// Nothing: the figure itself.
    Nothing,
    /// The reference. Its processor time has no Redis in it.
    Bare,
    /// One peer.
    Peer(Name),
    /// The best peer, for this figure.
    Best,
    /// The better of nginx and HAProxy.
    NginxOrHaproxy,
}

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// How it came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// With the measured value.
    Reached(Spread),
    /// Likewise.
    Missed(Spread),
    /// Why there is no value.
    Unknown(String),
}

/// All goals.
pub fn goals() -> Vec<Goal> {
    use Against::{Bare, Best, NginxOrHaproxy, Nothing, Peer};
    use Bound::{AtLeast, AtMost};
    let goal = |workload, figure, against, bound| Goal { workload, of: Name::Weir, figure, against, bound };
    let mut goals = vec![
        goal("hot-1k", Figure::Cpu, Bare, AtMost(1.10)),
        goal("hot-1k", Figure::Cpu, Peer(Name::Haproxy), AtMost(0.88)),
        goal("hot-1k", Figure::Rate, Peer(Name::Haproxy), AtLeast(1.15)),
        goal("hot-16k", Figure::Rate, Best, AtLeast(1.10)),
        goal("hot-16k", Figure::Cpu, Bare, AtMost(1.08)),
        goal("hot-256k", Figure::Rate, Peer(Name::TrafficServer), AtLeast(1.00)),
        goal("hot-256k", Figure::Cpu, Bare, AtMost(1.08)),
        goal("zipf-10k", Figure::Rate, Best, AtLeast(1.10)),
        goal("users-10k", Figure::Rate, Best, AtLeast(1.10)),
        Goal { of: Name::WeirRedis, ..goal("redis-1k", Figure::Rate, Peer(Name::NginxRedis), AtLeast(1.70)) },
        Goal { of: Name::WeirRedis, ..goal("redis-1k", Figure::CpuTogether, Bare, AtMost(2.00)) },
        goal("cold", Figure::Upstream, Nothing, AtMost(1.0)),
        goal("cold", Figure::LastAnswer, Nothing, AtMost(315.0)),
        goal("memory", Figure::EntryBytes, Nothing, AtMost(300.0)),
        // 200 MB for 10,000 connections.
        goal("idle", Figure::ConnectionBytes, Nothing, AtMost(20_000.0)),
    ];
    for workload in ["miss-1k", "miss-16k", "pass-1k", "pass-16k"] {
        goals.push(goal(workload, Figure::Cpu, NginxOrHaproxy, AtMost(1.00)));
        goals.push(goal(workload, Figure::PacedP99, NginxOrHaproxy, AtMost(1.00)));
    }
    // At equal rates nobody answers sooner, whatever the workload.
    let timed = table(false)
        .into_iter()
        .filter(|row| !matches!(row.kind, Kind::Cold | Kind::Memory | Kind::Idle | Kind::Miss | Kind::Pass));
    goals.extend(timed.map(|row| {
        let of = if row.servers.contains(&Name::Weir) { Name::Weir } else { Name::WeirRedis };
        Goal { of, ..goal(row.name, Figure::PacedP99, Best, AtMost(1.00)) }
    }));
    goals
}

impl Goal {
    /// How it came out.
    pub fn verdict(&self, results: &Results) -> Verdict {
        let Some(measured) = results.workload(self.workload) else {
            return Verdict::Unknown("not measured".to_owned());
        };
        match self.value(measured) {
            Ok(value) if self.bound.holds(value.median) => Verdict::Reached(value),
            Ok(value) => Verdict::Missed(value),
            Err(why) => Verdict::Unknown(why),
        }
    }

    fn value(&self, measured: &Measured) -> Result<Spread, String> {
        let own = measured.entrant(self.of).ok_or("took no part")?;
        let why = || own.problem().unwrap_or("no figure").to_owned();
        let both = |name: Name| name == Name::Nginx || name == Name::Haproxy;
        let other = match self.against {
            Against::Nothing => return own.spread(self.figure).ok_or_else(why),
            Against::Bare => measured.entrant(Name::Bare),
            Against::Peer(name) => measured.entrant(name),
            Against::Best => measured.best_peer(self.figure),
            Against::NginxOrHaproxy => measured.best(self.figure, both),
        };
        let other = other.ok_or("nobody to compare with")?;
        own.ratio(other, self.figure).ok_or_else(why)
    }
}

impl Bound {
    /// True when a value, to two decimal places as it is printed, keeps it.
    fn holds(self, value: f64) -> bool {
        let value = (value * 100.0).round() / 100.0;
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtMost(most) => write!(f, "≤ {}", number(*most)),
            Bound::AtLeast(least) => write!(f, "≥ {}", number(*least)),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of != Name::Weir {
            write!(f, "{}: ", self.of.title())?;
        }
        write!(f, "{}", self.figure.title())?;
        match self.against {
            Against::Nothing => Ok(()),
            Against::Bare => write!(f, " ÷ bare hyper"),
            Against::Peer(name) => write!(f, " ÷ {}", name.title()),
            Against::Best => write!(f, " ÷ best peer"),
            Against::NginxOrHaproxy => write!(f, " ÷ better of nginx and HAProxy"),
        }
    }
}

/// Two decimal places for ratios, none for large numbers.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

impl Verdict {
    /// `reached 1.07 (goal ≤ 1.10)`.
    pub fn words(&self, goal: &Goal) -> String {
        let range = |s: &Spread| format!("{} ({}–{})", number(s.median), number(s.min), number(s.max));
        match self {
            Verdict::Reached(value) => format!("reached {} (goal {})", range(value), goal.bound),
            Verdict::Missed(value) => format!("not reached {} (goal {})", range(value), goal.bound),
            Verdict::Unknown(why) => {
                format!("no figure: {} (goal {})", why.lines().next().unwrap_or_default(), goal.bound)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{entrant, measured};

    #[test]
    fn every_goal_is_about_a_server_of_its_workload() {
        let rows = table(false);
        for goal in goals() {
            let row = rows.iter().find(|row| row.name == goal.workload).expect("a workload");
            assert!(row.servers.contains(&goal.of), "{goal}");
            if let Against::Peer(name) = goal.against {
                assert!(row.servers.contains(&name), "{goal}");
            }
        }
    }

    #[test]
    fn reached_missed_and_unknown() {
        let goal = goals()[0];
        let with = |weir: f64| Results {
            about: Vec::new(),
            workloads: vec![measured(
                "hot-1k",
                vec![entrant(Name::Weir, Figure::Cpu, &[weir]), entrant(Name::Bare, Figure::Cpu, &[10.0])],
            )],
        };
        let words = |results: &Results| goal.verdict(results).words(&goal);
        assert_eq!(words(&with(10.7)), "reached 1.07 (1.07–1.07) (goal ≤ 1.10)");
        assert_eq!(words(&with(12.0)), "not reached 1.20 (1.20–1.20) (goal ≤ 1.10)");
        assert_eq!(words(&Results::default()), "no figure: not measured (goal ≤ 1.10)");
        let rate = goals()[2];
        let results = Results {
            about: Vec::new(),
            workloads: vec![measured(
                "hot-1k",
                vec![
                    entrant(Name::Weir, Figure::Rate, &[115.0]),
                    entrant(Name::Haproxy, Figure::Rate, &[100.0]),
                ],
            )],
        };
        assert!(matches!(rate.verdict(&results), Verdict::Reached(_)));
    }
}
