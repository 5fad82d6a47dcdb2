//! Calls over a real listener and a real (memory) store.

use std::net::SocketAddr;

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::policy::key::CacheKey;
use crate::policy::path::PathTemplate;
use crate::policy::query::QueryRules;
use crate::policy::route::{Coalesce, Matcher, Route, RouteTable};
use crate::policy::subject::{Subject, SubjectSpec, caller};
use crate::policy::tags::{Facts, Json, TagPlan, TagTemplate};
use crate::policy::{Policy, Unlisted};
use crate::semantics::cache_status::Outcome;
use crate::semantics::stored::{Lifetimes, StoredResponse, Unpacked};
use crate::semantics::storing::Terms;
use crate::semantics::vary::Selecting;
use crate::store::{Entry, StoreConfig};
use crate::upstream::UpstreamConfig;

fn route(name: &str, path: &str, subject: SubjectSpec, tag: &str) -> Route {
    Route {
        index: 0,
        name: name.into(),
        matcher: Matcher {
            methods: vec![Method::GET],
            path: PathTemplate::parse(path).unwrap(),
            host: None,
            conditions: vec![],
        },
        cache: true,
        terms: Terms::default(),
        jitter: 0.0,
        subject,
        public: false,
        any_host: false,
        query: QueryRules::default(),
        ignore: vec![],
        vary: vec![],
        body_key: None,
        tags: vec![TagTemplate::parse(tag).unwrap()],
        compress: None,
        max_body: 1 << 20,
        coalesce: Coalesce::Local,
        no_vary_search: false,
        fetch_whole: u64::MAX,
    }
}

fn policy() -> Policy {
    let by_authorization = SubjectSpec::Header(http::header::AUTHORIZATION);
    let routes = RouteTable::new(vec![
        route("book", "/books/{id}", SubjectSpec::None, "book:{path.id}"),
        route("summary", "/me/summary", by_authorization, "summary:{subject}"),
    ]);
    let all: Vec<Arc<Route>> = routes.iter().cloned().collect();
    let rfc_route = Arc::new(route("rfc", "/**", SubjectSpec::None, "rfc:all"));
    Policy { tags: TagPlan::new(&all, vec![], 128), routes, unlisted: Unlisted::Pass, rfc_route }
}

/// A served admin listener.
struct Desk {
    address: SocketAddr,
    store: Arc<Store>,
    metrics: Metrics,
    policy: Arc<Policy>,
    ready: Arc<AtomicBool>,
    clock: Clock,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

/// An answer: status, head, JSON content.
struct Said {
    status: u16,
    head: String,
    text: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Desk {
    async fn open(token: Option<&str>) -> Desk {
        let clock = Clock::manual(Timestamp(1_000_000));
        let policy = Arc::new(policy());
        let metrics = Metrics::new(&["book", "summary"]);
        let config = StoreConfig {
            agreement: Default::default(),
            alone: Default::default(),
            unreachable_log: Default::default(),
            namespace: "test".into(),
            memory_bytes: 1 << 20,
            max_body: 1 << 16,
            max_variants: 4,
            mark_slots: 1 << 10,
            secret: Some([7; 32]),
            redis: None,
        };
        let store = Store::open(config, policy.tags.fingerprint, clock.clone(), metrics.clone()).await;
        let upstream = UpstreamConfig {
            origin: "http://127.0.0.1:9".parse().unwrap(),
            preserve_host: true,
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(1),
            max_connections: 1,
            ca_file: None,
        };
        let ready = Arc::new(AtomicBool::new(true));
        let state = AdminState {
            store: store.clone(),
            metrics: metrics.clone(),
            policy: policy.clone(),
            keys: Arc::default(),
            refresher: Default::default(),
            certificates: None,
            upstream: Arc::new(Upstream::new(upstream).unwrap()),
            access: AccessLog::default(),
            token: token.map(Token::new),
            clock: clock.clone(),
            ready: ready.clone(),
            started: Started::now(&clock),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(listener, state, shutdown.clone()));
        Desk { address, store, metrics, policy, ready, clock, shutdown, served }
    }

    /// Sends bytes, reads to the end.
    async fn raw(&self, request: &[u8]) -> Said {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let answer = String::from_utf8(bytes).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Said { status, head: head.to_ascii_lowercase(), text: text.to_owned() }
    }

    async fn get(&self, path: &str) -> Said {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    async fn post(&self, path: &str, token: &str, body: &str) -> Said {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(head.as_bytes()).await
    }

    async fn purge(&self, body: Value) -> Value {
        let said = self.post("/purge", "t", &body.to_string()).await;
        assert_eq!(said.status, 200, "{}", said.text);
        said.json()
    }

    /// Stores an answer of `path` as the exchange would.
    fn keep(&self, path: &str, authorization: Option<&str>) -> CacheKey {
        let secret = self.store.coherence().view().secret;
        let (request, _) = http::Request::get(path).body(()).unwrap().into_parts();
        let route = self.policy.routes.find(&request, "").unwrap();
        let params = route.matcher.path.matches(path).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
        }
        let keys = KeySets::default();
        let subject = caller(&route.subject, &headers, &keys, &secret, self.clock.now())
            .unwrap_or_else(Subject::anonymous);
        let facts = Facts {
            params: &params,
            path,
            query: "",
            headers: &headers,
            subject: Some(&subject),
            request: Json::Unknown,
            response: Json::Unknown,
        };
        let tags = self.policy.tags.entry_tags(&secret, route, &facts, &HeaderMap::new());
        let mut key = CacheKey(subject.digest);
        for (i, byte) in path.bytes().enumerate() {
            key.0[i % 32] ^= byte;
        }
        let (stamp, response) = (self.store.coherence().sample(), answer(self.clock.now()));
        self.store.insert(Entry::new(key, &route.name, stamp, tags, response));
        key
    }

    fn kept(&self, key: &CacheKey) -> bool {
        let found = self.store.lookup_memory(key, &HeaderMap::new(), Duration::ZERO, Timestamp(0));
        matches!(found, Some(crate::store::Lookup::Found(..)))
    }
}

fn answer(now: Timestamp) -> StoredResponse {
    Unpacked {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: "hello".into(),
        coded: None,
        response_time: now,
        initial_age: Duration::ZERO,
        lifetimes: Lifetimes { fresh: Duration::from_secs(300), ..Lifetimes::default() },
        selecting: Selecting::default(),
    }
    .pack()
}

#[tokio::test]
async fn probes_tell_draining_from_dead() {
    let desk = Desk::open(None).await;
    assert_eq!(desk.get("/readyz").await.json(), json!({ "status": "ready" }));
    desk.ready.store(false, Ordering::Release);
    let said = desk.get("/readyz").await;
    assert_eq!((said.status, said.json()), (503, json!({ "status": "draining" })));
    assert_eq!(desk.get("/livez").await.status, 200);
    let health = desk.get("/healthz").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("draining")));
}

#[tokio::test]
async fn health_holds_the_detail() {
    let desk = Desk::open(None).await;
    desk.keep("/books/1", None);
    desk.clock.advance(Duration::from_secs(90));
    let said = desk.get("/healthz").await;
    assert!(said.head.contains("cache-control: no-store") && said.head.contains("application/json"));
    let health = said.json();
    assert_eq!((&health["status"], &health["uptime_seconds"]), (&json!("ok"), &json!(90)));
    assert_eq!((&health["redis"], &health["enabled"]), (&Value::Null, &json!(true)));
    assert_eq!(health["memory"]["entries"], json!(1));
    assert_eq!(health["log"]["epoch"].as_str().map(str::len), Some(32));
    assert_eq!(health["upstream"]["origin"], json!("http://127.0.0.1:9/"));
}

#[tokio::test]
async fn stats_count_what_was_spared_the_upstream() {
    let desk = Desk::open(None).await;
    for outcome in [Outcome::Hit, Outcome::Hit, Outcome::Coalesced, Outcome::Miss, Outcome::Pass] {
        desk.metrics.request(Some(0), outcome, 200, Duration::ZERO, 5);
    }
    desk.keep("/books/1", None);
    let stats = desk.get("/stats").await.json();
    let expected = [("enabled", json!(true)), ("hits", json!(3)), ("misses", json!(1)), ("sets", json!(1))];
    for (name, value) in expected.into_iter().chain([("hit_rate", json!(75.0)), ("keys", json!(1))]) {
        assert_eq!(stats[name], value, "{name}");
    }
    assert!(stats["deletes"].is_u64() && stats["size_mb"].is_f64());
}

#[tokio::test]
async fn metrics_come_in_the_format_asked_for() {
    let desk = Desk::open(None).await;
    let plain = desk.get("/metrics").await;
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"));
    assert!(plain.text.contains("weir_requests_total{route=\"book\",outcome=\"hit\"} 0\n"));
    assert!(plain.text.contains("process_start_time_seconds 1000.0\n"), "{}", plain.text);
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   accept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    let open = desk.raw(request.as_bytes()).await;
    assert!(open.head.contains("application/openmetrics-text") && open.text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_purge_voids_what_it_names_and_counts_it() {
    let desk = Desk::open(Some("t")).await;
    let (one, two) = (desk.keep("/books/1", None), desk.keep("/books/2", None));
    let done = desk.purge(json!({ "tags": ["book:1"] })).await;
    assert_eq!((&done["purged"], &done["complete"], &done["owed"]), (&json!(1), &json!(true), &json!(false)));
    assert!(done["seq"].as_u64() > Some(0), "{done}");
    assert!(done["tags"].as_array().unwrap().contains(&json!("book:1")), "{done}");
    assert_eq!(done["warnings"], json!([]));
    assert!(!desk.kept(&one) && desk.kept(&two));
    let again = desk.purge(json!({ "tags": ["book:1"] })).await;
    assert_eq!((&again["purged"], &again["warnings"]), (&json!(0), &json!(["Nothing carried these tags."])));
    assert_eq!(desk.purge(json!({ "paths": ["/books/**"] })).await["purged"], json!(1));
    assert!(!desk.kept(&two));
}

#[tokio::test]
async fn a_route_can_be_purged_by_name() {
    let desk = Desk::open(Some("t")).await;
    let (book, summary) = (desk.keep("/books/1", None), desk.keep("/me/summary", Some("Bearer ann")));
    assert_eq!(desk.purge(json!({ "route": "book" })).await["purged"], json!(1));
    assert!(!desk.kept(&book) && desk.kept(&summary));
    let said = desk.post("/purge", "t", r#"{"route":"boks"}"#).await;
    assert_eq!(said.status, 422);
    assert!(said.text.contains("book, summary"), "{}", said.text);
}

#[tokio::test]
async fn a_subject_is_purged_by_its_credentials_and_nobody_else_is() {
    let desk = Desk::open(Some("t")).await;
    let (ann, bob) =
        (desk.keep("/me/summary", Some("Bearer ann")), desk.keep("/me/summary", Some("Bearer bob")));
    let subject = json!({ "route": "summary", "headers": { "Authorization": "Bearer ann" } });
    assert_eq!(desk.purge(json!({ "subject": subject })).await["purged"], json!(1));
    assert!(!desk.kept(&ann) && desk.kept(&bob));
    let mixed = desk.purge(json!({ "subject": subject, "route": "summary" })).await;
    assert_eq!(mixed["purged"], json!(1), "the union");
    assert!(mixed["warnings"][0].as_str().unwrap().contains("union"), "{mixed}");
    assert!(!desk.kept(&bob));
}

#[tokio::test]
async fn a_subject_that_cannot_be_told_is_refused_with_the_reason() {
    let desk = Desk::open(Some("t")).await;
    let cases = [
        (json!({ "route": "nope", "headers": {} }), "unknown-route"),
        (json!({ "route": "book", "headers": { "authorization": "x" } }), "no-subject"),
        (json!({ "route": "summary", "headers": { "cookie": "a=b" } }), "unknown-subject"),
        (json!({ "route": "summary", "headers": { "a b": "c" } }), "bad-header"),
    ];
    for (subject, token) in cases {
        let said = desk.post("/purge", "t", &json!({ "subject": subject }).to_string()).await;
        assert_eq!(said.status, 422, "{}", said.text);
        assert_eq!(said.json()["type"], json!(format!("urn:weir:problem:{token}")));
        assert!(said.head.contains("application/problem+json"));
    }
}

#[tokio::test]
async fn a_flush_voids_everything() {
    let desk = Desk::open(Some("t")).await;
    let (book, summary) = (desk.keep("/books/1", None), desk.keep("/me/summary", Some("Bearer ann")));
    let said = desk.post("/flush", "t", "").await;
    assert_eq!((said.status, &said.json()["purged"]), (200, &json!(2)));
    assert!(!desk.kept(&book) && !desk.kept(&summary));
}

#[tokio::test]
async fn the_switch_turns_the_cache_off_and_on() {
    let desk = Desk::open(Some("t")).await;
    assert_eq!(desk.post("/disable", "t", "").await.json(), json!({ "enabled": false, "was": true }));
    assert!(!desk.store.enabled());
    assert_eq!(desk.get("/stats").await.json()["enabled"], json!(false));
    assert_eq!(desk.post("/enable", "t", "").await.json(), json!({ "enabled": true, "was": false }));
    assert!(desk.store.enabled());
}

#[tokio::test]
async fn what_changes_something_needs_the_token_and_happens_not_without() {
    let desk = Desk::open(Some("t")).await;
    let book = desk.keep("/books/1", None);
    for path in ["/purge", "/flush", "/enable", "/disable"] {
        let said = desk.post(path, "wrong", r#"{"tags":["*"]}"#).await;
        assert_eq!(said.status, 401, "{path}");
        assert!(said.head.contains("www-authenticate: bearer"), "{}", said.head);
    }
    assert!(desk.kept(&book) && desk.store.enabled());
    let desk = Desk::open(None).await;
    for path in ["/purge", "/flush", "/enable", "/disable"] {
        let said = desk.post(path, "", r#"{"tags":["*"]}"#).await;
        assert_eq!(said.status, 403, "{path}");
        assert!(said.text.contains("WEIR_ADMIN_TOKEN"), "{}", said.text);
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    let desk = Desk::open(Some("t")).await;
    let large = format!(r#"{{"tags":["{}"]}}"#, "x".repeat(70_000));
    let head = format!(
        "POST /purge HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer t\r\n\
         content-length: {}\r\n\r\n",
        large.len()
    );
    // The refusal may come, and the connection go, before everything is sent.
    let mut stream = TcpStream::connect(desk.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let _ = stream.write_all(large.as_bytes()).await;
    let mut bytes = vec![0; 12];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"HTTP/1.1 413");
}

#[tokio::test]
async fn head_has_no_content() {
    let desk = Desk::open(None).await;
    let said = desk.raw(b"HEAD /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!((said.status, said.text.as_str()), (200, ""));
    assert!(said.head.contains("content-length: "), "{}", said.head);
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_listener() {
    let desk = Desk::open(None).await;
    let mut idle = TcpStream::connect(desk.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    desk.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), desk.served).await.expect("ends").unwrap();
    assert!(TcpStream::connect(desk.address).await.is_err(), "the port is free again");
}
