//! Tags: templates over JSON, tag-carrying fields, purges by name; which bodies are reads (RFC 9875, RFC 9111 §4.4).
#![no_main]

use std::sync::Arc;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir::config::{Env, load_str};
use weir::policy::Policy;
use weir::policy::body::BodyKey;
use weir::policy::json::parse_strict;
use weir::policy::path::PathParams;
use weir::policy::route::Route;
use weir::policy::subject::{KeySets, Subject};
use weir::policy::tags::{Facts, Json, PurgeRule, Tag, TagPlan, TagSet, TagTemplate};
use weir::semantics::timestamp::Timestamp;
use weir_fuzz::{fields, sections};

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const MOST: usize = 24;

fuzz_target!(|data: &[u8]| {
    let [template, json, query, response, named] = sections(data);
    reads(json, &String::from_utf8_lossy(query));
    let json = parse_strict(json);
    let Ok(query) = std::str::from_utf8(query) else { return };
    let response = fields(response);
    let read = Read { json: json.as_ref(), query, headers: &response };
    if let Ok(named) = std::str::from_utf8(named) {
        by_name(&read, named);
    }
    groups(&read);
    let Ok(text) = std::str::from_utf8(template) else { return };
    let Ok(template) = TagTemplate::parse(text) else { return };
    assert_eq!(TagTemplate::parse(&template.text).as_ref(), Ok(&template));
    purged_by_the_same_template(&read, &template);
});

/// One exchange, as a read and as a mutation see it.
struct Read<'a> {
    json: Option<&'a Value>,
    query: &'a str,
    headers: &'a HeaderMap,
}

impl Read<'_> {
    fn with_facts<T>(&self, then: impl FnOnce(&Facts<'_>) -> T) -> T {
        let params = PathParams(vec![("id".into(), self.query.to_owned())]);
        let json = self.json.map_or(Json::Unknown, Json::Known);
        let subject = Subject::anonymous();
        then(&Facts {
            params: &params,
            path: "/items/1",
            query: self.query,
            headers: self.headers,
            subject: Some(&subject),
            request: json,
            response: json,
        })
    }

    fn entry(&self, plan: &TagPlan, route: &Route) -> Vec<Tag> {
        let tags = self.with_facts(|facts| plan.entry_tags(SECRET, route, facts, self.headers));
        assert!(tags.windows(2).all(|pair| pair[0] < pair[1]), "not sorted, or twice");
        assert!(tags.contains(&TagPlan::everything(SECRET)));
        // What a flight carries before its answer, the entry carries too, or the wildcard in its place.
        tags
    }
}

fn meet(purge: &TagSet, entry: &[Tag]) -> bool {
    purge.tags.iter().any(|tag| entry.contains(tag))
}

/// A mutation that draws the same values from the same places purges the read, whatever the values are.
fn purged_by_the_same_template(read: &Read<'_>, template: &TagTemplate) {
    let plain = &policy().routes.as_slice()[0];
    let rule = PurgeRule { tags: vec![template.clone()], ..policy().tags.rules[0].clone() };
    let route = Arc::new(Route { tags: vec![template.clone()], ..Route::clone(plain) });
    for most in [MOST, 8, 1] {
        let plan = TagPlan::new(std::slice::from_ref(&route), vec![rule.clone()], most);
        let entry = read.entry(&plan, &route);
        let keys = KeySets::default();
        let purge = |facts: &Facts<'_>| {
            plan.rule_tags(
                SECRET,
                &[(&plan.rules[0], PathParams(facts.params.0.clone()))],
                facts,
                &keys,
                Timestamp(0),
            )
        };
        assert!(meet(&read.with_facts(purge), &entry), "{template:?}");
        // A mutation that knows nothing purges it all the more.
        let nothing = |facts: &Facts<'_>| {
            purge(&Facts {
                request: Json::Unknown,
                response: Json::Unknown,
                query: "",
                headers: &HeaderMap::new(),
                ..*facts
            })
        };
        let known = template.is_bare() || !template.text.contains('{') || template.text.contains("{path");
        assert!(known || meet(&read.with_facts(nothing), &entry), "{template:?}");
        // A read that knows nothing is purged too.
        let blank = Read { json: None, query: read.query, headers: &HeaderMap::new() };
        assert!(meet(&read.with_facts(purge), &blank.entry(&plan, &route)), "{template:?}");
    }
}

/// Groups that a mutation invalidates purge what belongs to them (RFC 9875 §3).
fn groups(read: &Read<'_>) {
    let policy = policy();
    let route = &policy.routes.as_slice()[0];
    let mut invalidating = HeaderMap::new();
    for line in read.headers.get_all("cache-groups") {
        invalidating.append("cache-group-invalidation", line.clone());
    }
    let entry = read.entry(&policy.tags, route);
    let tags = |facts: &Facts<'_>| {
        let (keys, now) = (KeySets::default(), Timestamp(0));
        let elsewhere = Facts { path: "/elsewhere", ..*facts };
        policy.tags.mutation_tags(SECRET, &[], &elsewhere, "host", Some(&invalidating), &keys, now)
    };
    let purge = read.with_facts(tags);
    let line: Vec<&[u8]> = invalidating.iter().map(|(_, v)| v.as_bytes()).collect();
    let list = sfv::Parser::new(&line.join(&b", "[..])).parse::<sfv::List>();
    let names = |list: &sfv::List| {
        list.iter().any(|m| matches!(m, sfv::ListEntry::Item(i) if i.bare_item.as_string().is_some()))
    };
    let named = list.map_or(true, |list| names(&list));
    assert!(!named || line.is_empty() || meet(&purge, &entry));
    let mut located = HeaderMap::new();
    located.insert("location", HeaderValue::from_static("http://host/items/1?x"));
    let tags = |facts: &Facts<'_>| {
        let elsewhere = Facts { path: "/elsewhere", ..*facts };
        policy.tags.mutation_tags(
            SECRET,
            &[],
            &elsewhere,
            "host",
            Some(&located),
            &KeySets::default(),
            Timestamp(0),
        )
    };
    assert!(meet(&read.with_facts(tags), &entry));
    // Any location may come back; own path and all.
    let any = |facts: &Facts<'_>| {
        policy.tags.mutation_tags(
            SECRET,
            &[],
            facts,
            "host",
            Some(read.headers),
            &KeySets::default(),
            Timestamp(0),
        )
    };
    assert!(meet(&read.with_facts(any), &entry));
}

/// What an operator purges by the very name that a response gave.
fn by_name(read: &Read<'_>, named: &str) {
    let policy = policy();
    let route = &policy.routes.as_slice()[0];
    let one = |tag: &str| policy.tags.named(SECRET, &[tag.to_owned()], &[], &[], &["items"]);
    let _ = policy.tags.named(SECRET, &[], &[named.to_owned()], &[named.to_owned()], &["items"]);
    let Ok(purge) = one(named) else { return };
    assert!(!purge.tags.is_empty() && purge.tags.windows(2).all(|pair| pair[0] < pair[1]));
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if named.chars().all(word) {
        let mut headers = read.headers.clone();
        headers.append("surrogate-key", HeaderValue::try_from(format!("a {named}")).expect("ASCII"));
        let tagged = Read { headers: &headers, ..*read };
        assert!(meet(&purge, &tagged.entry(&policy.tags, route)), "{named:?}");
    }
}

/// What is a read stays one in another spelling, and what is none stays none.
fn reads(body: &[u8], query: &str) {
    let keys = [
        BodyKey::Any,
        BodyKey::GraphQl,
        BodyKey::Json { member: "op.action".into(), one_of: vec!["search".into()] },
    ];
    let strict = parse_strict(body);
    for key in &keys[1..] {
        let read = key.is_read(body);
        assert!(!read || strict.is_some(), "what cannot be read is no read");
        assert!(read || !key.is_read_at(query, body));
        if let Some(value) = &strict {
            let rewritten = serde_json::to_vec_pretty(value).expect("JSON");
            assert_eq!(key.is_read(&rewritten), read);
            assert!(
                read || !key.is_read(format!("[{}]", String::from_utf8_lossy(body)).as_bytes())
                    || !value.is_object()
            );
        }
    }
    assert!(keys[0].is_read(body));
    // Taken as a document: comments and commas are nothing (GraphQL §2.1.7), and a mutation beside it spoils it.
    let Ok(document) = std::str::from_utf8(body) else { return };
    let is_query = |document: String| {
        let request = serde_json::json!({ "query": document });
        keys[1].is_read(request.to_string().as_bytes())
    };
    let read = is_query(document.to_owned());
    assert_eq!(is_query(format!("# comment\n, {document}\n,# more")), read, "{document:?}");
    let spoilt = |document: String| !read || !is_query(document);
    assert!(spoilt(format!("{document}\nmutation M {{ a }}")), "{document:?}");
    assert!(spoilt(format!("mutation M {{ a }}\n{document}")), "{document:?}");
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let text = "listen = \"127.0.0.1:1\"\nupstream = \"http://127.0.0.1:2\"\n\
            [[route]]\nname = \"items\"\nmatch = \"GET /items/{id}\"\nttl = \"1m\"\n\
            [[purge]]\non = \"POST /items/{id}\"\ntags = [\"x\"]\n";
        let mut policy = load_str("tags", text, &Env::empty()).expect("a configuration").config.policy;
        assert!(policy.tags.rules[0].matcher.methods.contains(&Method::POST));
        policy.tags = TagPlan::new(policy.routes.as_slice(), policy.tags.rules, MOST);
        policy
    })
}
