//! The fingerprint of everything that decides which tags entries carry and mutations purge, and for whom an entry
//! may be kept. Made of a canonical text, so that it is the same in every process and build.

use std::fmt::Write;
use std::sync::Arc;

use super::PurgeRule;
use crate::policy::route::{Condition, IgnoredCredential, Matcher, Route};
use crate::policy::subject::{SubjectSpec, TokenSource};

/// Changes whenever the meaning of tags does, whatever the configuration says.
const SCHEME: &str = "weir tags 1";

/// Never 0, which stands for "made outside". The order of purge rules does not matter, that of routes does.
pub(super) fn fingerprint(routes: &[Arc<Route>], rules: &[PurgeRule], max_tags: usize) -> u64 {
    let mut text = Canon::default();
    text.field(SCHEME);
    text.field(&max_tags.to_string());
    for route in routes {
        text.field("route");
        push_route(&mut text, route);
    }
    let mut rules: Vec<String> = rules.iter().map(rule_text).collect();
    rules.sort_unstable();
    for rule in rules {
        text.field("rule");
        text.field(&rule);
    }
    let digest = blake3::hash(text.0.as_bytes());
    let (head, _) = digest.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*head).max(1)
}

/// Length-prefixed fields, so that no two lists read the same.
#[derive(Default)]
struct Canon(String);

impl Canon {
    fn field(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{}:{text};", text.len());
    }

    fn list<T: AsRef<str>>(&mut self, items: impl IntoIterator<Item = T>) {
        let mut inner = Canon::default();
        items.into_iter().for_each(|item| inner.field(item.as_ref()));
        self.field(&inner.0);
    }
}

fn push_route(text: &mut Canon, route: &Route) {
    text.field(&route.name);
    push_matcher(text, &route.matcher);
    text.field(&format!("{} {} {}", route.cache, route.public, route.any_host));
    text.field(&subject_text(&route.subject));
    text.list(route.ignore.iter().map(|ignored| match ignored {
        IgnoredCredential::Cookie(name) => format!("cookie:{name}"),
        IgnoredCredential::Header(name) => format!("header:{name}"),
    }));
    text.list(route.tags.iter().map(|tag| &*tag.text));
}

fn push_matcher(text: &mut Canon, matcher: &Matcher) {
    text.list(matcher.methods.iter().map(http::Method::as_str));
    text.field(&matcher.path.text);
    text.list(matcher.host.iter());
    text.list(matcher.conditions.iter().map(|condition| {
        let (kind, name, value) = match condition {
            Condition::Header(name, value) => ("header", name.as_str(), value),
            Condition::Query(name, value) => ("query", name.as_str(), value),
        };
        let mut inner = Canon::default();
        inner.list([Some(kind), Some(name), value.as_deref()].into_iter().flatten());
        inner.0
    }));
}

fn rule_text(rule: &PurgeRule) -> String {
    // `settle` is left out: it changes when entries may be stored, not what they carry.
    let mut text = Canon::default();
    push_matcher(&mut text, &rule.matcher);
    text.list(rule.tags.iter().map(|tag| &*tag.text));
    text.list(rule.paths.iter().map(|path| &*path.template().text));
    text.list(rule.routes.iter().map(|route| &**route));
    text.field(if rule.same_subject { "same" } else { "all" });
    text.field(if rule.soft { "soft" } else { "hard" });
    text.0
}

/// One text per distinct way of telling callers apart.
pub(super) fn subject_text(spec: &SubjectSpec) -> String {
    let mut text = Canon::default();
    match spec {
        SubjectSpec::None => text.field("none"),
        SubjectSpec::Header(name) => text.list(["header", name.as_str()]),
        SubjectSpec::Cookie(name) => text.list(["cookie", name]),
        SubjectSpec::Jwt(jwt) => {
            match &jwt.from {
                TokenSource::Header(name) => text.list(["jwt", "header", name.as_str()]),
                TokenSource::Cookie(name) => text.list(["jwt", "cookie", name]),
            }
            text.field(&format!("{} {}", jwt.keys, jwt.leeway));
            text.list(&jwt.claims);
            text.list(jwt.issuer.iter());
            text.list(&jwt.audience);
            text.list(jwt.algorithms.iter().map(|algorithm| format!("{algorithm:?}")));
        }
    }
    text.0
}
