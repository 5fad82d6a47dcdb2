//! How instances agree: the keys of `[cache]` about it, and what of Redis, routes and rules depends on them.

use std::time::Duration;

use toml::Spanned;

use super::super::file::{self, Cache, File};
use super::super::values::{Shared, Switch, show_duration};
use super::checks::{HEADER_FAMILY, paths_meet};
use super::purges::PurgePart;
use super::routes::RoutePart;
use super::{Builder, MS, secs};
use crate::coherence::{Agreement, Alone, Mode};
use crate::policy::route::Route;
use crate::policy::tags::PurgeRule;
use crate::store::UnreachableLog;
use crate::store::redis::RedisConfig;

/// What `[cache]` says about coherence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CoherencePart {
    pub(super) agreement: Agreement,
    pub(super) alone: Alone,
    pub(super) unreachable_log: UnreachableLog,
}

impl Builder<'_, '_> {
    pub(super) fn coherence(&mut self, given: &Cache, has_redis: bool) -> CoherencePart {
        let (default, known) = (CoherencePart::default(), self.document.problems.len());
        let lease = self.duration(given.lease.as_ref(), default.agreement.lease, MS * 100..=secs(60));
        let mode = match given.coherence.as_ref().map(Spanned::get_ref) {
            None => default.agreement.mode,
            Some(file::Coherence::Strong) => Mode::Strong,
            Some(file::Coherence::Eventual) => Mode::Eventual,
        };
        let alone = match given.alone.as_ref().map(Spanned::get_ref) {
            None => default.alone,
            Some(file::Alone::Serve) => Alone::Serve,
            Some(file::Alone::Bypass) => Alone::Bypass,
        };
        let unreachable_log = match given.on_unreachable_log.as_ref().map(Spanned::get_ref) {
            None => default.unreachable_log,
            Some(file::UnreachableLog::Forward) => UnreachableLog::Forward,
            Some(file::UnreachableLog::Refuse) => UnreachableLog::Refuse,
        };
        if !has_redis && self.document.problems.len() == known {
            self.idle_coherence(given);
        }
        CoherencePart { agreement: Agreement { lease, mode }, alone, unreachable_log }
    }

    /// One process agrees with itself.
    fn idle_coherence(&mut self, given: &Cache) {
        let keys = [
            ("coherence", given.coherence.as_ref().map(Spanned::span)),
            ("lease", given.lease.as_ref().map(Spanned::span)),
            ("alone", given.alone.as_ref().map(Spanned::span)),
            ("on_unreachable_log", given.on_unreachable_log.as_ref().map(Spanned::span)),
        ];
        let given: Vec<_> = keys.into_iter().filter_map(|(key, span)| Some((key, span?))).collect();
        let Some((_, first)) = given.first().cloned() else { return };
        let names: Vec<String> = given.iter().map(|(key, _)| format!("`{key}`")).collect();
        let message = format!("without [redis] there is nobody to agree with: {} idle", are(&names));
        self.note(&first, message).help("one instance alone is always coherent with itself");
    }

    /// Recording a purge may take at least a lease: by then everybody who is cut off has stopped answering.
    pub(super) fn append_budget(&mut self, file: &File, redis: Option<&mut RedisConfig>, lease: Duration) {
        let typed = file.redis.as_ref().and_then(|r| r.append_timeout.as_ref());
        match (typed, redis) {
            (None, Some(redis)) => redis.append_timeout = lease,
            (Some(typed), _) if typed.get_ref().0 < lease => {
                let (given, lease) = (show_duration(typed.get_ref().0), show_duration(lease));
                self.error(&typed.span(), format!("{given} is shorter than the lease, {lease}"))
                    .allowed(format!("{lease} (the default, which follows [cache] lease) or longer"));
            }
            _ => {}
        }
    }

    /// `coalesce = "shared"` where nothing is shared. What many routes inherit is said once.
    pub(super) fn check_shared_coalescing(&mut self, file: &File, has_redis: bool) {
        if has_redis {
            return;
        }
        let routes = file.route.iter().map(|route| route.get_ref().coalesce.as_ref());
        let shared = |typed: &&Spanned<Switch<Shared>>| *typed.get_ref() == Switch::Given(Shared);
        let all = std::iter::once(file.defaults.coalesce.as_ref()).chain(routes);
        for typed in all.flatten().filter(shared) {
            self.warn(&typed.span(), "without [redis] fetches are shared within this instance alone")
                .allowed("true, false, or \"shared\" together with [redis]");
        }
    }

    /// A soft purge makes stale what may then be used only under `stale_while_revalidate`.
    pub(super) fn check_soft_rules(&mut self, routes: &[RoutePart], rules: &[PurgePart]) {
        for part in rules {
            let (Some(rule), Some(span)) = (&part.rule, &part.soft) else { continue };
            if !rule.soft {
                continue;
            }
            let routes = routes.iter().filter_map(|part| part.route.as_ref());
            let aimed: Vec<&Route> = routes.filter(|route| route.cache && aims_at(rule, route)).collect();
            let stale = |route: &&Route| route.terms.stale_while_revalidate.is_some_and(|w| !w.is_zero());
            if !aimed.is_empty() && !aimed.iter().any(stale) {
                let names: Vec<&str> = aimed.iter().map(|route| &*route.name).collect();
                let message = format!(
                    "none of the routes this rule reaches has `stale_while_revalidate` ({}): it acts as a purge \
                     that is not soft",
                    names.join(", ")
                );
                self.warn(span, message)
                    .help("give the routes a `stale_while_revalidate`, or take `soft` out of the rule");
            }
        }
    }
}

/// Whether some entry of this route may carry what the rule names.
fn aims_at(rule: &PurgeRule, route: &Route) -> bool {
    let carries = |family: &str| family == HEADER_FAMILY || route.tags.iter().any(|t| *t.family == *family);
    rule.routes.contains(&route.name)
        || rule.tags.iter().any(|tag| carries(&tag.family))
        || rule.paths.iter().any(|p| paths_meet(&p.template().segments, &route.matcher.path.segments))
}

/// `` `a` is ``, `` `a` and `b` are ``.
fn are(names: &[String]) -> String {
    match names {
        [one] => format!("{one} is"),
        [most @ .., last] => format!("{} and {last} are", most.join(", ")),
        [] => String::new(),
    }
}
