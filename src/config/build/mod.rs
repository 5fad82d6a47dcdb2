//! From what was typed to what it means: every check that needs to know more than one value's kind.
//!
//! Each part reports all it finds into the document and gives back something usable, so that one slip does not
//! hide the next; whether the whole counts is decided at the end, by whether an error was reported. Nothing is
//! reported about an entry that is missing only because it was taken out for an error of its own.

mod checks;
mod coherence;
mod compress;
mod matching;
mod purges;
mod redis;
mod routes;
mod sections;
mod subjects;
mod tls;

pub(super) use self::checks::show_ignored;
pub(super) use self::sections::without_credentials;

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::Config;
use super::file::{File, UnlistedMode};
use super::problem::{Problem, Severity};
use super::tree::Document;
use super::values::{Size, Span, show_duration, show_size};
use crate::policy::route::RouteTable;
use crate::policy::tags::TagPlan;
use crate::policy::{Policy, Unlisted};
use crate::store::StoreConfig;

/// The longest any window may be.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const MS: Duration = Duration::from_millis(1);

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What checks report to, and look things up in.
pub(super) struct Builder<'d, 'i> {
    document: &'d mut Document<'i>,
    /// The file's directory: relative file names start there.
    directory: PathBuf,
}

/// Builds the configuration; errors and warnings are in the document. `None` only if there was an error.
pub(super) fn build(document: &mut Document<'_>, file: File, directory: &Path) -> Option<Config> {
    let mut b = Builder { document, directory: directory.to_owned() };
    let listen = b.address("listen", file.listen.as_ref(), "127.0.0.1:8080");
    let upstream = b.upstream(&file.upstream, listen);
    let tls = b.tls(file.tls.as_ref());
    let server = b.server(&file.server);
    let admin = b.admin(&file.admin, listen);
    let mut redis = b.redis(file.redis.as_ref());
    let has_redis = redis.is_some() || file.redis.is_some();
    let cache = b.cache(&file.cache, has_redis);
    let coherence = b.coherence(&file.cache, has_redis);
    b.append_budget(&file, redis.as_mut(), coherence.agreement.lease);
    b.check_shared_coalescing(&file, has_redis);
    let log = b.log(&file.log);
    let keys = b.keys(&file.keys);
    let unlisted = match file.defaults.cache {
        Some(UnlistedMode::Rfc) => Unlisted::Rfc,
        _ => Unlisted::Pass,
    };
    let routes = b.routes(&file, &keys, cache.max_body);
    let rfc_route = b.rfc_route(&file, &keys, cache.max_body, routes.len());
    let rules = b.purges(&file, &routes);
    b.cross_checks(&file, &routes, &rules, unlisted);
    if b.document.problems.iter().any(Problem::is_error) {
        return None;
    }
    let table = RouteTable::new(routes.into_iter().filter_map(|r| r.route).collect());
    let all: Vec<_> = table.iter().map(Arc::clone).collect();
    let tags = TagPlan::new(&all, rules.into_iter().filter_map(|r| r.rule).collect(), cache.max_tags);
    let exchange = cache.exchange(server.trust, server.probes);
    Some(Config {
        listen: listen?,
        limits: server.limits,
        tls,
        upstream: upstream?,
        admin: admin?,
        store: StoreConfig {
            agreement: coherence.agreement,
            alone: coherence.alone,
            unreachable_log: coherence.unreachable_log,
            namespace: cache.namespace,
            memory_bytes: cache.memory,
            max_body: cache.max_body,
            max_variants: cache.max_variants,
            mark_slots: cache.mark_slots,
            secret: cache.secret,
            redis,
        },
        policy: Policy { routes: table, tags, unlisted, rfc_route: Arc::new(rfc_route) },
        key_sets: keys.into_iter().filter_map(|k| k.source).collect(),
        exchange,
        log,
        drain_timeout: server.drain_timeout,
        drain_delay: server.drain_delay,
    })
}

impl Builder<'_, '_> {
    /// Reports an error at a place.
    fn error(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Problem {
        self.document.report(Severity::Error, span, message.into())
    }

    /// Reports a warning at a place.
    fn warn(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Problem {
        self.document.report(Severity::Warning, span, message.into())
    }

    /// Reports a note at a place.
    fn note(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Problem {
        self.document.report(Severity::Note, span, message.into())
    }

    /// Reports that a required key is missing from the table at `span` (or from the file), unless it was there
    /// and has been taken out for an error of its own.
    fn missing(&mut self, table: &str, span: Option<&Range<usize>>, key: &str, form: &str) {
        let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        if self.document.was_removed(&path) {
            return;
        }
        let message = format!("`{key}` is missing");
        let problem = match span {
            Some(span) => self.error(span, message),
            None => {
                let file = self.document.sources.file().to_owned();
                self.document.add(Problem::new(Severity::Error, file, message))
            }
        };
        let variable = super::env::variable(&path);
        let problem = problem.about(path).allowed(form);
        if span.is_none() {
            problem.help(format!("it may also come from the environment variable {variable}"));
        }
    }

    fn duration(
        &mut self,
        given: Option<&Spanned<Span>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.duration_or_none(given, range).unwrap_or(default)
    }

    fn duration_or_none(
        &mut self,
        given: Option<&Spanned<Span>>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let given = given?;
        let value = given.get_ref().0;
        if !range.contains(&value) {
            let allowed = format!("{} to {}", show_duration(*range.start()), show_duration(*range.end()));
            let side = if value < *range.start() { "short" } else { "long" };
            self.error(&given.span(), format!("{} is too {side}", show_duration(value))).allowed(allowed);
        }
        Some(value)
    }

    fn size(&mut self, given: Option<&Spanned<Size>>, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(given) = given else { return default };
        let value = given.get_ref().0;
        if !range.contains(&value) {
            let allowed = format!("{} to {}", show_size(*range.start()), show_size(*range.end()));
            let side = if value < *range.start() { "small" } else { "large" };
            self.error(&given.span(), format!("{} is too {side}", show_size(value))).allowed(allowed);
        }
        value
    }

    /// A whole number within a range; the ranges in use all fit every integer type they are put into.
    fn count(&mut self, given: Option<&Spanned<i64>>, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(given) = given else { return default };
        let value = u32::try_from(*given.get_ref()).ok().filter(|v| range.contains(v));
        if value.is_none() {
            let allowed = format!("{} to {}", range.start(), range.end());
            let side = if *given.get_ref() < i64::from(*range.start()) { "small" } else { "large" };
            self.error(&given.span(), format!("{} is too {side}", given.get_ref())).allowed(allowed);
        }
        value.unwrap_or(default)
    }

    /// A file named in the configuration.
    fn file_name(&self, typed: &str) -> PathBuf {
        self.directory.join(typed)
    }

    /// Reads a file named in the configuration.
    fn read_file(&mut self, typed: &super::values::Text) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.file_name(typed.get_ref());
        match std::fs::read(&path) {
            Ok(bytes) => Some((path, bytes)),
            Err(error) => {
                let reason = super::env::io_reason(&error);
                self.error(&typed.span(), format!("the file `{}` cannot be read: {reason}", path.display()))
                    .help("relative names start at the directory of the configuration file");
                None
            }
        }
    }
}
