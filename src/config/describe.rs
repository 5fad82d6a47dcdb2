//! The configuration in words, for `weir check`. No secret is part of it.

use std::fmt::Write as _;

use super::build::show_ignored;
use super::values::{show_duration, show_size};
use super::{Config, KeySetSource, Trust};
use crate::coherence::{Alone, Mode};
use crate::policy::Unlisted;
use crate::policy::route::{BodyKey, Condition, Matcher, Route};
use crate::policy::subject::{SubjectSpec, TokenSource};
use crate::policy::tags::{PathPattern, PurgeRule};
use crate::semantics::storing::OriginMode;
use crate::store::{StoreConfig, UnreachableLog};

/// Routes in the order in which they are tried, purge rules, store and listeners, as plain text ending with a
/// newline.
pub fn describe(config: &Config) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "listeners");
    let admin = config.admin.as_ref().map_or("off".to_owned(), |a| {
        let token = if a.token.is_some() {
            "with a token"
        } else {
            "no token: whatever changes something is refused"
        };
        format!("{} ({token})", a.listen)
    });
    let trust = match &config.exchange.trust_forwarded {
        Trust::Nobody => "replaced",
        Trust::Networks(_) => "kept from trusted networks",
        Trust::All => "kept from everybody",
    };
    let spoken = if config.tls.is_some() { "https" } else { "http" };
    let _ = writeln!(out, "  traffic   {}, {spoken}, X-Forwarded-* of clients {trust}", config.listen);
    if let Some(tls) = &config.tls {
        let says = tls.leaf.as_ref().map_or_else(|| "of unknown end".to_owned(), ToString::to_string);
        let _ = writeln!(out, "  tls       {} ({says})", tls.files.certificate.display());
    }
    let _ = writeln!(out, "  admin     {admin}");
    let _ = writeln!(out, "  upstream  {}", config.upstream.origin);
    describe_store(&mut out, config);
    describe_keys(&mut out, config);
    describe_routes(&mut out, config);
    describe_rules(&mut out, &config.policy.tags.rules);
    out
}

fn describe_store(out: &mut String, config: &Config) {
    let store = &config.store;
    let _ = writeln!(out, "\nstore (namespace {})", store.namespace);
    let memory = match store.memory_bytes {
        0 => "off".to_owned(),
        bytes => format!("{}, answers up to {}", show_size(bytes), show_size(store.max_body)),
    };
    let _ = writeln!(out, "  memory    {memory}");
    let redis = store.redis.as_ref().map_or("none: memory alone".to_owned(), |r| {
        format!("{}, keys {}:…, at most {} per operation", r.shown, r.prefix, show_duration(r.timeout))
    });
    let _ = writeln!(out, "  redis     {redis}");
    if store.redis.is_some() {
        let _ = writeln!(out, "  coherence {}", show_coherence(store));
    }
}

fn show_coherence(store: &StoreConfig) -> String {
    let lease = show_duration(store.agreement.lease);
    let cut_off = match (store.agreement.mode, store.alone) {
        (Mode::Eventual, _) => return "eventual: purges are logged and not waited for".to_owned(),
        (Mode::Strong, Alone::Serve) => "serves on if it was the only one",
        (Mode::Strong, Alone::Bypass) => "goes to the backend",
    };
    let mutations = match store.unreachable_log {
        UnreachableLog::Forward => "forwarded, their purges owed",
        UnreachableLog::Refuse => "refused",
    };
    format!("strong, lease {lease}; cut off from Redis: {cut_off}, mutations are {mutations}")
}

fn describe_keys(out: &mut String, config: &Config) {
    for (at, source) in config.key_sets.iter().enumerate() {
        if at == 0 {
            let _ = writeln!(out, "\nverification keys");
        }
        let (name, kind) = match source {
            KeySetSource::Secret { name, .. } => (name, "shared secret".to_owned()),
            KeySetSource::Pem { name, .. } => (name, "public key".to_owned()),
            KeySetSource::JwksFile { name, path, .. } => (name, format!("JWKS file {}", path.display())),
            KeySetSource::JwksUrl { name, url, .. } => {
                (name, format!("JWKS from {}", super::build::without_credentials(&url.to_string())))
            }
        };
        let _ = writeln!(out, "  {name}  {kind}");
    }
}

fn describe_routes(out: &mut String, config: &Config) {
    let unlisted = match config.policy.unlisted {
        Unlisted::Pass => "passes through",
        Unlisted::Rfc if config.policy.rfc_route.public => "is cached as RFC 9111 says, credentials included",
        Unlisted::Rfc => "is cached as RFC 9111 says",
    };
    let _ = writeln!(out, "\nroutes, first match wins; everything else {unlisted}");
    let header = ["name", "match", "ttl", "subject", "tags"].map(str::to_owned);
    let mut rows = vec![header];
    rows.extend(config.policy.routes.iter().map(|route| route_row(route, config)));
    if rows.len() > 1 {
        table(out, &rows);
    } else {
        let _ = writeln!(out, "  none");
    }
}

fn route_row(route: &Route, config: &Config) -> [String; 5] {
    if !route.cache {
        return [
            route.name.to_string(),
            show_matcher(&route.matcher, route.any_host),
            "pass".into(),
            "-".into(),
            "-".into(),
        ];
    }
    let mut ttl = match (route.terms.ttl, route.terms.origin) {
        (None, _) => "the backend's".to_owned(),
        (Some(ttl), OriginMode::Stricter) => show_duration(ttl),
        (Some(ttl), OriginMode::Ignore) => format!("{} always", show_duration(ttl)),
        (Some(ttl), OriginMode::Honour) => format!("the backend's, else {}", show_duration(ttl)),
    };
    if let Some(grace) = route.terms.stale_while_revalidate.filter(|g| !g.is_zero()) {
        ttl = format!("{ttl} + {} stale", show_duration(grace));
    }
    let mut subject = show_subject(&route.subject, config);
    if route.public {
        "public".clone_into(&mut subject);
    }
    if !route.ignore.is_empty() {
        let list: Vec<String> = route.ignore.iter().map(show_ignored).collect();
        subject = format!("{subject} (ignoring {})", list.join(" "));
    }
    let tags: Vec<&str> = route.tags.iter().map(|t| &*t.text).collect();
    let tags = if tags.is_empty() { "-".to_owned() } else { tags.join(" ") };
    let mut matched = show_matcher(&route.matcher, route.any_host);
    match &route.body_key {
        Some(BodyKey::GraphQl) => matched.push_str(" if a GraphQL query"),
        Some(BodyKey::Json { member, one_of }) => {
            let _ = write!(matched, " if {member} is {}", one_of.join(" or "));
        }
        Some(BodyKey::Any) | None => {}
    }
    [route.name.to_string(), matched, ttl, subject, tags]
}

fn show_subject(subject: &SubjectSpec, config: &Config) -> String {
    match subject {
        SubjectSpec::None => "none".to_owned(),
        SubjectSpec::Header(name) => format!("header {name}"),
        SubjectSpec::Cookie(name) => format!("cookie {name}"),
        SubjectSpec::Jwt(spec) => {
            let from = match &spec.from {
                TokenSource::Header(name) => name.to_string(),
                TokenSource::Cookie(name) => format!("cookie {name}"),
            };
            let keys = config.key_sets.get(spec.keys).map_or("?", KeySetSource::name);
            format!("jwt {} in {from}, keys {keys}", spec.claims.join("+"))
        }
    }
}

/// Values of header conditions stay out: they may be credentials.
fn show_matcher(matcher: &Matcher, any_host: bool) -> String {
    let methods: Vec<&str> = matcher.methods.iter().map(http::Method::as_str).collect();
    let mut shown = format!("{} {}", methods.join("|"), matcher.path.text);
    match (&matcher.host, any_host) {
        (Some(host), _) => {
            let _ = write!(shown, " on {host}");
        }
        (None, true) => shown.push_str(" on any host"),
        (None, false) => {}
    }
    for condition in &matcher.conditions {
        let _ = match condition {
            Condition::Header(name, None) => write!(shown, " with {name}"),
            Condition::Header(name, Some(_)) => write!(shown, " with {name}: …"),
            Condition::Query(name, None) => write!(shown, " ?{name}"),
            Condition::Query(name, Some(value)) => write!(shown, " ?{name}={value}"),
        };
    }
    shown
}

fn describe_rules(out: &mut String, rules: &[PurgeRule]) {
    let _ = writeln!(out, "\npurges, all that match a mutation apply; its own URI is always purged");
    let mut rows = vec![["on", "purges"].map(str::to_owned)];
    for rule in rules {
        let mut what: Vec<String> = rule.tags.iter().map(|t| t.text.to_string()).collect();
        what.extend(rule.paths.iter().map(|p| match p {
            PathPattern::Exact(t) | PathPattern::Below(t) | PathPattern::Glob(t) => t.text.to_string(),
        }));
        what.extend(rule.routes.iter().map(|r| format!("route {r}")));
        let mut what = what.join(", ");
        if rule.same_subject {
            what.push_str(" (the caller's own)");
        }
        if rule.soft {
            what.push_str(", made stale only");
        }
        if !rule.settle.is_zero() {
            let _ = write!(what, ", settling {}", show_duration(rule.settle));
        }
        rows.push([show_matcher(&rule.matcher, false), what]);
    }
    if rows.len() > 1 {
        table(out, &rows);
    } else {
        let _ = writeln!(out, "  no rules");
    }
}

/// Columns as wide as their widest cell; the last one runs free.
fn table<const N: usize>(out: &mut String, rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, " {cell:width$} ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
