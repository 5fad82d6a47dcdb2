//! The purge log as `/healthz`, `/stats` and `/metrics` show it: what this instance may do, whom it waits for, what it
//! owes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::AdminState;
use crate::coherence::lease::{Standing, Status};
use crate::coherence::{Agreement, Mode};
use crate::metrics::LogGauges;
use crate::store::redis::log::LogStatus;

/// One look at the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogReport {
    /// The log that instances share; `None` = it is this process alone.
    shared: Option<LogStatus>,
    epoch: u128,
    rules: u64,
    pub(super) applied: u64,
    floor: u64,
    held: bool,
    /// `None` = it never ends.
    left: Option<Duration>,
    owed: u64,
    now: Duration,
}

impl AdminState {
    pub(super) fn log(&self) -> LogReport {
        let (coherence, now) = (self.store.coherence(), self.clock.elapsed());
        let shared = self.store.log_status();
        let view = coherence.view();
        LogReport {
            shared,
            epoch: view.epoch.0,
            rules: view.rules,
            applied: view.applied.load(Ordering::Acquire),
            floor: view.floor.load(Ordering::Acquire),
            held: view.holds_lease(now),
            left: view.lease_left(now),
            owed: u64::try_from(coherence.owed()).unwrap_or(u64::MAX),
            now,
        }
    }
}

impl LogReport {
    /// Something is wrong that an operator should know of: cut off, refused, or in debt.
    pub(super) fn is_degraded(&self) -> bool {
        let refused = self.membership().is_some_and(|m| matches!(m.standing, Standing::Refused(_)));
        !self.held || refused || self.owed > 0
    }

    fn membership(&self) -> Option<&Status> {
        self.shared.as_ref().map(|shared| &shared.membership)
    }

    /// The log's end; what has been applied here is never beyond it.
    fn end(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.end).max(self.applied)
    }

    /// For `/healthz`.
    pub(super) fn json(&self) -> Value {
        let agreement = self.shared.as_ref().map(|shared| shared.agreement);
        let membership = self.membership();
        let theirs = membership.and_then(|m| match m.standing {
            Standing::Refused(theirs) => Some(theirs),
            Standing::Outside | Standing::Member => None,
        });
        json!({
            "mode": agreement.map_or("alone", |agreed| agreed.mode.as_str()),
            "lease_ms": agreement.filter(|agreed| agreed.mode == Mode::Strong).map(|agreed| ms(agreed.lease)),
            "lease_left_ms": self.left.map(ms),
            "held": self.held,
            "standing": membership.map_or("alone", |m| standing(m.standing)),
            "agreed": theirs.map(agreed),
            "member": membership.map(|m| m.me.to_string()),
            "members": membership.map_or(1, |m| m.members),
            "epoch": format!("{:032x}", self.epoch),
            "settled": membership.is_none_or(|m| m.settled),
            "applied": self.applied,
            "end": self.end(),
            "lag": self.end() - self.applied,
            "floor": self.floor,
            "rules": format!("{:016x}", self.rules),
            "owed": self.owed,
            "open_intents": self.shared.as_ref().map_or(0, |shared| shared.open_intents),
            "away_ms": membership.and_then(|m| m.away_since).map(|since| ms(self.now.saturating_sub(since))),
        })
    }

    /// For `/stats`.
    pub(super) fn brief(&self) -> Value {
        json!({
            "held": self.held,
            "members": self.membership().map_or(1, |m| m.members),
            "applied": self.applied,
            "lag": self.end() - self.applied,
            "owed": self.owed,
        })
    }

    /// For `/metrics`.
    pub(super) fn gauges(&self) -> Option<LogGauges> {
        let shared = self.shared.as_ref()?;
        Some(LogGauges {
            end: self.end(),
            members: shared.membership.members,
            lease_held: self.held,
            lease_left: self.left,
            owed: self.owed,
            open_intents: u64::try_from(shared.open_intents).unwrap_or(u64::MAX),
        })
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Outside => "outside",
        Standing::Member => "member",
        Standing::Refused(_) => "refused",
    }
}

fn agreed(agreement: Agreement) -> Value {
    json!({ "mode": agreement.mode.as_str(), "lease_ms": ms(agreement.lease) })
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coherence::MemberId;

    const SECOND: Duration = Duration::from_secs(1);

    fn member() -> LogReport {
        let agreement = Agreement { lease: 2 * SECOND, mode: Mode::Strong };
        let membership = Status {
            me: MemberId(255),
            standing: Standing::Member,
            members: 3,
            settled: true,
            away_since: None,
        };
        let shared = LogStatus { membership, agreement, end: 12, owed: 1, open_intents: 2, following: true };
        LogReport {
            shared: Some(shared),
            epoch: 77,
            rules: 5,
            applied: 10,
            floor: 3,
            held: true,
            left: Some(SECOND),
            owed: 0,
            now: 100 * SECOND,
        }
    }

    fn with(change: impl FnOnce(&mut Status)) -> LogReport {
        let mut report = member();
        change(&mut report.shared.as_mut().unwrap().membership);
        report
    }

    #[test]
    fn a_member_shows_its_lease_and_how_far_it_is() {
        let report = member();
        let shown = report.json();
        assert!(!report.is_degraded(), "what is just being appended is nothing to worry about");
        for (name, want) in [
            ("mode", json!("strong")),
            ("lease_ms", json!(2000)),
            ("lease_left_ms", json!(1000)),
            ("held", json!(true)),
            ("standing", json!("member")),
            ("agreed", Value::Null),
            ("member", json!("00000000000000ff")),
            ("members", json!(3)),
            ("settled", json!(true)),
            ("applied", json!(10)),
            ("end", json!(12)),
            ("lag", json!(2)),
            ("floor", json!(3)),
            ("owed", json!(0)),
            ("open_intents", json!(2)),
            ("away_ms", Value::Null),
        ] {
            assert_eq!(shown[name], want, "{name} of {shown}");
        }
        let gauges = report.gauges().unwrap();
        assert_eq!((gauges.end, gauges.members, gauges.open_intents), (12, 3, 2));
    }

    #[test]
    fn who_is_refused_shows_what_the_namespace_has_agreed_on() {
        let theirs = Agreement { lease: 5 * SECOND, mode: Mode::Eventual };
        let report = with(|m| m.standing = Standing::Refused(theirs));
        assert!(report.is_degraded());
        assert_eq!(report.json()["standing"], json!("refused"));
        assert_eq!(report.json()["agreed"], json!({ "mode": "eventual", "lease_ms": 5000 }));
    }

    #[test]
    fn who_is_cut_off_or_in_debt_is_degraded() {
        let away = LogReport {
            held: false,
            left: Some(Duration::ZERO),
            ..with(|m| m.away_since = Some(97 * SECOND))
        };
        assert!(away.is_degraded());
        assert_eq!((&away.json()["away_ms"], &away.json()["lease_left_ms"]), (&json!(3000), &json!(0)));
        assert!(LogReport { owed: 1, ..member() }.is_degraded());
    }

    #[test]
    fn a_lease_that_never_ends_is_null() {
        let mut eventual = LogReport { left: None, ..member() };
        eventual.shared.as_mut().unwrap().agreement.mode = Mode::Eventual;
        let shown = eventual.json();
        assert_eq!((&shown["mode"], &shown["lease_ms"]), (&json!("eventual"), &Value::Null));
        assert_eq!((&shown["lease_left_ms"], &shown["held"]), (&Value::Null, &json!(true)));
    }

    #[test]
    fn one_process_alone_is_in_order() {
        let alone = LogReport { shared: None, left: None, ..member() };
        let shown = alone.json();
        assert!(!alone.is_degraded() && alone.gauges().is_none());
        assert_eq!((&shown["mode"], &shown["standing"]), (&json!("alone"), &json!("alone")));
        assert_eq!(
            (&shown["members"], &shown["lag"], &shown["member"]),
            (&json!(1), &json!(0), &Value::Null)
        );
    }
}
