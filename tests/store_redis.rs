//! The store on a real redis-server: two instances on one log, and every way Redis can go wrong.
//!
//! Each test starts a server of its own on a free port. There is no skipping: without redis-server they fail.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failure is a panic")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use weir::coherence::event::Settle;
use weir::coherence::lease::Beat;
use weir::coherence::{Agreement, Epoch, Event, MemberId, Mode, Stamp, Void};
use weir::metrics::Metrics;
use weir::policy::key::CacheKey;
use weir::policy::tags::Tag;
use weir::semantics::stored::{Lifetimes, Unpacked};
use weir::semantics::vary::Selecting;
use weir::store::redis::RedisConfig;
use weir::store::redis::wire::{self, Candidate, LogKeys, Part};
use weir::store::{Absent, BOUND, Claim, Ended, Entry, Heard, Lock, Lookup, Store, StoreConfig, Tier};
use weir::time::Clock;

/// Longest that anything may take on a slow machine.
const DEADLINE: Duration = Duration::from_secs(20);
const RULES: u64 = 7;
const ROUTE: &str = "summary";

/// A redis-server that can be killed, frozen and started again on the same port.
struct Server {
    port: u16,
    args: Vec<String>,
    dir: tempfile::TempDir,
    child: Child,
}

impl Server {
    async fn start(args: &[&str]) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(port, &args, dir.path());
        let server = Server { port, args, dir, child };
        server.wait_up().await;
        server
    }

    async fn wait_up(&self) {
        eventually("redis-server listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn restart(&mut self) {
        self.child = spawn(self.port, &self.args, self.dir.path());
        self.wait_up().await;
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(done.unwrap().success());
    }

    async fn connection(&self) -> MultiplexedConnection {
        self.connection_to(1).await
    }

    async fn connection_to(&self, database: u8) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/{database}", self.port)).unwrap();
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    fn config(&self) -> StoreConfig {
        let url = format!("redis://127.0.0.1:{}/1", self.port);
        config(&url)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, args: &[String], dir: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need redis-server on the PATH (Debian: apt-get install redis-server)")
}

fn config(url: &str) -> StoreConfig {
    StoreConfig {
        agreement: Agreement { lease: Duration::from_millis(300), ..Agreement::default() },
        alone: Default::default(),
        unreachable_log: Default::default(),
        namespace: "default".into(),
        memory_bytes: 16 << 20,
        max_body: 1 << 20,
        max_variants: 2,
        mark_slots: 1 << 12,
        secret: None,
        redis: Some(RedisConfig {
            url: url.into(),
            shown: "redis://test".into(),
            prefix: "cache".into(),
            pool: 2,
            timeout: Duration::from_millis(50),
            connect_timeout: Duration::from_millis(200),
            append_timeout: Duration::from_millis(400),
            servers: weir::store::redis::Servers::One,
            ca_file: None,
            cert_file: None,
            key_file: None,
            max_pending_writes: 1024,
            max_pending_bytes: 64 << 20,
        }),
    }
}

async fn open(config: StoreConfig) -> Arc<Store> {
    Store::open(config, RULES, Clock::system(), Metrics::new(&["-"])).await
}

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn key(n: u8) -> CacheKey {
    CacheKey([n; 32])
}

fn tag(store: &Store, name: &str) -> Tag {
    Tag::of(&store.coherence().view().secret, name)
}

fn entry(store: &Store, n: u8, body: &str) -> Entry {
    let now = Clock::system().now();
    let response = Unpacked {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: body.to_owned().into(),
        coded: None,
        response_time: now,
        initial_age: Duration::ZERO,
        lifetimes: Lifetimes { fresh: Duration::from_secs(300), ..Lifetimes::default() },
        selecting: Selecting::default(),
    };
    let (stamp, tags) = (store.coherence().sample(), vec![tag(store, "session:a")]);
    Entry::new(key(n), &Arc::from(ROUTE), stamp, tags, response.pack())
}

/// The same, but for what can purge it.
fn tagged(store: &Store, name: &str, n: u8, body: &str) -> Entry {
    let mut entry = entry(store, n, body);
    entry.tags = vec![tag(store, name)].into();
    entry
}

/// The same, but for its stamp.
fn stamped(store: &Store, stamp: Stamp, n: u8, body: &str) -> Entry {
    let mut entry = entry(store, n, body);
    entry.restamp(stamp);
    entry
}

async fn look(store: &Store, n: u8) -> Lookup {
    store.lookup(&key(n), &Arc::from(ROUTE), &HeaderMap::new(), Clock::system().elapsed()).await
}

fn body(lookup: &Lookup) -> Option<(String, Tier)> {
    match lookup {
        Lookup::Found(e, tier) => {
            Some((String::from_utf8_lossy(e.response.body_bytes()).into_owned(), *tier))
        }
        _ => None,
    }
}

async fn found(store: &Store, n: u8) -> Option<(String, Tier)> {
    body(&look(store, n).await)
}

fn hit(text: &str, tier: Tier) -> Option<(String, Tier)> {
    Some((text.to_owned(), tier))
}

fn purge(store: &Store, name: &str) -> Event {
    Event { tags: vec![tag(store, name)], rules: RULES, ..Event::default() }
}

/// Waits until the other instance's Redis answers for an entry.
async fn arrives(store: &Store, n: u8, text: &str) {
    eventually("an entry arrives through Redis", async || found(store, n).await.is_some_and(|f| f.0 == text))
        .await;
}

async fn applied(store: &Store, other: &Store) {
    eventually("the other instance's purge arrives", async || {
        store.coherence().sample() == other.coherence().sample()
    })
    .await;
}

async fn exists(server: &Server, n: u8) -> bool {
    let name = format!("cache:{ROUTE}:{}", key(n).hex());
    // A server that is still loading its data has nothing to say yet.
    let n: Result<u32, _> = redis::cmd("EXISTS").arg(name).query_async(&mut server.connection().await).await;
    n == Ok(1)
}

#[tokio::test]
async fn two_instances_share_entries_and_follow_each_others_purges() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    assert_eq!(a.coherence().view().epoch, b.coherence().view().epoch);
    assert_eq!(a.coherence().view().secret, b.coherence().view().secret);

    a.insert(entry(&a, 1, "one"));
    assert_eq!(found(&a, 1).await, hit("one", Tier::Memory));
    arrives(&b, 1, "one").await;
    assert_eq!(found(&b, 1).await, hit("one", Tier::Memory), "promoted");

    let purged = b.publish(purge(&b, "session:a"), None).await;
    assert!(!purged.is_owed() && purged.seq > 0);
    assert!(found(&b, 1).await.is_none(), "the publisher applies before it answers");
    applied(&a, &b).await;
    assert!(found(&a, 1).await.is_none());

    a.publish(Event { names: vec!["session:b".into()], ..Event::default() }, None).await;
    b.publish(purge(&b, "session:c"), None).await;
    applied(&a, &b).await;
    assert_eq!(a.coherence().view().floor.load(Ordering::SeqCst), 0, "nobody saw a gap");
    a.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn many_publishers_on_both_sides_leave_no_gap() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = if n % 2 == 0 { Arc::clone(&a) } else { Arc::clone(&b) };
        tasks.spawn(async move {
            let purged = store.publish(purge(&store, &format!("session:{n}")), None).await;
            assert!(!purged.is_owed());
            assert!(store.coherence().sample().seq >= purged.seq);
            purged.seq
        });
    }
    let mut seqs = tasks.join_all().await;
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=200).collect::<Vec<u64>>());
    applied(&a, &b).await;
    for store in [&a, &b] {
        assert_eq!(store.coherence().view().floor.load(Ordering::SeqCst), 0);
    }
}

/// A wire to Redis on which whoever waits at the log's stream can be made deaf: what is said to it from then on does not
/// arrive, nor does what new connections are told. Everything else passes.
struct DeafWire {
    port: u16,
    deaf: watch::Sender<bool>,
    followed: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Drop for DeafWire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl DeafWire {
    async fn to(port: u16) -> DeafWire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (deaf, hears) = watch::channel(false);
        let followed = Arc::new(AtomicBool::new(false));
        DeafWire {
            port: listener.local_addr().unwrap().port(),
            deaf,
            followed: Arc::clone(&followed),
            accepting: tokio::spawn(async move {
                let mut pipes = JoinSet::new();
                while let Ok((near, _)) = listener.accept().await {
                    let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let follows = Arc::new(AtomicBool::new(*hears.borrow()));
                    pipes.spawn(questions(near_in, far_out, Arc::clone(&follows), Arc::clone(&followed)));
                    pipes.spawn(answers(far_in, near_out, follows, hears.clone()));
                }
            }),
        }
    }
}

/// Passes everything on, and takes note of who asks for what the log's stream brings next.
async fn questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    follows: Arc<AtomicBool>,
    followed: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..n]);
        if said.contains("\nXREAD\r") && said.contains("\ncache:log\r") {
            follows.store(true, Ordering::SeqCst);
            followed.store(true, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    follows: Arc<AtomicBool>,
    mut deaf: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let heard = !follows.load(Ordering::SeqCst) || deaf.wait_for(|deaf| !*deaf).await.is_ok();
        if !heard || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_own_purge_does_not_hide_anothers_that_has_not_arrived() {
    let server = Server::start(&[]).await;
    let wire = DeafWire::to(server.port).await;
    let open_calmly = async |port: u16| {
        // Nobody waits for anybody, and beats are rare: what they are told would bring the other's purge too.
        let agreement = Agreement { lease: Duration::from_secs(60), mode: Mode::Eventual };
        let mut config = StoreConfig { agreement, ..config(&format!("redis://127.0.0.1:{port}/1")) };
        let redis = config.redis.as_mut().unwrap();
        (redis.timeout, redis.append_timeout) = (Duration::from_secs(5), Duration::from_secs(5));
        open(config).await
    };
    let (a, b) = (open_calmly(wire.port).await, open_calmly(server.port).await);
    // From now on there is a connection for its purges.
    assert_eq!(a.publish(purge(&a, "session:z"), None).await.seq, 1);
    a.insert(entry(&a, 1, "one"));
    a.insert(tagged(&a, "session:b", 2, "two"));
    eventually("the log is followed", async || wire.followed.load(Ordering::SeqCst)).await;
    wire.deaf.send_replace(true);

    assert_eq!(b.publish(purge(&b, "session:a"), None).await.seq, 2);
    assert_eq!(a.coherence().sample().seq, 1, "it has not heard of it");
    assert_eq!(found(&a, 1).await, hit("one", Tier::Memory));
    assert_eq!(a.publish(purge(&a, "session:z"), None).await.seq, 3);
    assert_eq!(a.coherence().sample().seq, 3);
    assert!(found(&a, 1).await.is_none(), "what lay between is applied too");
    assert_eq!(found(&a, 2).await, hit("two", Tier::Memory), "and nobody had to guess what it was");
    assert_eq!(a.coherence().view().floor.load(Ordering::SeqCst), 0);
}

/// A lease so long that nothing happens because one is over, and hardly a beat is sent.
fn unhurried(server: &Server) -> StoreConfig {
    let agreement = Agreement { lease: Duration::from_secs(60), mode: Mode::Strong };
    StoreConfig { agreement, ..server.config() }
}

async fn length(server: &Server, command: &str, key: &str) -> u64 {
    redis::cmd(command).arg(key).query_async(&mut server.connection().await).await.unwrap()
}

#[tokio::test]
async fn a_purge_whose_epoch_ends_is_appended_to_the_next() {
    let server = Server::start(&[]).await;
    let store = open(unhurried(&server)).await;
    let event = purge(&store, "session:a");
    // In an epoch so young it waits for a lease that may be left of the one before.
    let publisher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.publish(event, None).await }
    });
    eventually("it is in the log, and applied", async || {
        let status = store.log_status().unwrap();
        status.end == 1 && status.owed == 0
    })
    .await;
    let () = redis::cmd("FLUSHALL").query_async(&mut server.connection().await).await.unwrap();
    eventually("it is in the next log too", async || length(&server, "XLEN", "cache:log").await == 1).await;
    assert!(!publisher.is_finished(), "and is waited for there");
    publisher.abort();
}

#[tokio::test]
async fn a_new_log_is_told_of_the_mutations_under_way() {
    let server = Server::start(&[]).await;
    let store = open(server.config()).await;
    let recorded = async || length(&server, "HLEN", "{cache:log}:intents").await == 1;
    let _intent = store.intend(purge(&store, "session:a")).await.unwrap();
    eventually("it is recorded", recorded).await;
    let epoch = store.coherence().view().epoch;
    let () = redis::cmd("FLUSHALL").query_async(&mut server.connection().await).await.unwrap();
    eventually("it is recorded anew", recorded).await;
    assert_ne!(store.coherence().view().epoch, epoch);
}

#[tokio::test]
async fn who_is_evicted_has_not_beaten_since_and_its_mutations_are_purged_for() {
    let server = Server::start(&[]).await;
    let config = unhurried(&server);
    let candidate = Candidate { epoch: Epoch(9), secret: [9; 32], agreement: config.agreement };
    let store = open(config).await;
    let (keys, silent, mut connection) = (LogKeys::new("cache"), MemberId(7), server.connection().await);
    let mut run =
        async |command: redis::Cmd| -> redis::Value { command.query_async(&mut connection).await.unwrap() };
    let beat = Beat { number: 3, sent: Duration::ZERO, settled: None };
    run(wire::beat(&keys, candidate, silent, &beat)).await;
    let event = purge(&store, "session:a");
    run(wire::write(&keys, candidate, silent, 3, &[Part::Intend(1, &event)])).await;
    store.insert(entry(&store, 1, "one"));

    run(wire::evict(&keys, candidate, silent, Some(2))).await;
    assert_eq!(length(&server, "HLEN", &keys.members).await, 2, "it has beaten since the second");
    assert_eq!(length(&server, "HLEN", &keys.intents).await, 1);
    assert_eq!(found(&store, 1).await, hit("one", Tier::Memory), "an intent purges nothing yet");
    run(wire::evict(&keys, candidate, silent, Some(3))).await;
    assert_eq!(length(&server, "HLEN", &keys.members).await, 1);
    assert_eq!(length(&server, "HLEN", &keys.intents).await, 0);
    assert_eq!(length(&server, "XLEN", &keys.stream).await, 1);
    eventually("its purge arrives", async || found(&store, 1).await.is_none()).await;
    run(wire::write(&keys, candidate, silent, 3, &[Part::Intend(2, &event)])).await;
    assert_eq!(length(&server, "HLEN", &keys.members).await, 2, "or nobody would purge for it a second time");
}

#[tokio::test]
async fn who_has_left_answers_nothing_and_is_not_waited_for() {
    let server = Server::start(&[]).await;
    let store = open(unhurried(&server)).await;
    assert!(store.coherence().holds_lease(Clock::system().elapsed()));
    assert_eq!(length(&server, "HLEN", "{cache:log}:members").await, 1);
    store.close(Duration::from_secs(5)).await;
    assert!(!store.coherence().holds_lease(Clock::system().elapsed()));
    assert_eq!(length(&server, "HLEN", "{cache:log}:members").await, 0);
}

#[tokio::test]
async fn a_late_fill_is_served_by_neither_tier_nor_instance() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    // The fetch begins at A; B purges while it is under way.
    let late = entry(&a, 1, "old");
    b.publish(purge(&b, "session:a"), None).await;
    // A has not heard of it yet, perhaps, and stores; Redis may get the old answer.
    a.insert(late);
    applied(&a, &b).await;
    for store in [&a, &b] {
        assert!(found(store, 1).await.is_none());
        assert!(
            store
                .lookup_memory(&key(1), &HeaderMap::new(), Clock::system().elapsed(), Clock::system().now())
                .is_none()
        );
    }
    // And once it has heard, it is not stored at all.
    let sets = a.stats().sets;
    let stamp = Stamp { seq: 0, ..a.coherence().sample() };
    let again = a.insert(stamped(&a, stamp, 2, "old"));
    assert_eq!(again.response.body_bytes(), b"old", "it still answers its own request");
    assert_eq!(a.stats().sets, sets);
    // What begins after the purge is stored and shared.
    a.insert(entry(&a, 1, "new"));
    arrives(&b, 1, "new").await;
}

#[tokio::test]
async fn promotion_keeps_the_age() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    let mut old = entry(&a, 1, "one");
    old.response.change(|parts| {
        parts.initial_age = Duration::from_secs(100);
        parts.response_time.0 -= 50_000;
    });
    a.insert(old);
    arrives(&b, 1, "one").await;
    for _ in 0..2 {
        let Lookup::Found(e, _) = look(&b, 1).await else { panic!("not found") };
        let age = e.response.current_age(Clock::system().now());
        assert!((150..160).contains(&age.as_secs()), "{age:?}");
    }
    let name = format!("cache:{ROUTE}:{}", key(1).hex());
    let ttl: i64 = redis::cmd("PTTL").arg(name).query_async(&mut server.connection().await).await.unwrap();
    assert!((140_000..=150_000).contains(&ttl), "gone when its windows are: {ttl}");
}

fn variant(store: &Store, accept: &'static str) -> Entry {
    let mut e = entry(store, 1, accept);
    let selecting = vec![(HeaderName::from_static("accept"), Some(HeaderValue::from_static(accept)))];
    e.response.change(|parts| parts.selecting = Selecting(selecting));
    e
}

async fn look_as(store: &Store, accept: &'static str) -> Lookup {
    let request = [(http::header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
    store.lookup(&key(1), &Arc::from(ROUTE), &request, Clock::system().elapsed()).await
}

#[tokio::test]
async fn variants_travel_through_redis_and_stay_bounded() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    for accept in ["a", "b"] {
        a.insert(variant(&a, accept));
    }
    for accept in ["a", "b"] {
        eventually("a variant arrives", async || body(&look_as(&b, accept).await).is_some()).await;
        assert_eq!(body(&look_as(&b, accept).await).unwrap().0, accept);
    }
    assert!(matches!(look_as(&b, "c").await, Lookup::Absent(Absent::NoVariant)));
    // A third one, from the other instance, displaces the oldest everywhere.
    b.insert(variant(&b, "c"));
    let names = async || -> usize {
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("cache:*:*").query_async(&mut server.connection().await).await.unwrap();
        keys.len()
    };
    eventually("index and two variants", async || {
        names().await == 3 && body(&look_as(&b, "c").await).is_some()
    })
    .await;
    let fresh = open(server.config()).await;
    assert!(matches!(look_as(&fresh, "a").await, Lookup::Absent(Absent::NoVariant)));
    assert_eq!(body(&look_as(&fresh, "c").await), hit("c", Tier::Redis));
    b.remove(&key(1), ROUTE).await;
    assert_eq!(names().await, 0);
    assert!(body(&look_as(&b, "c").await).is_none());
}

#[tokio::test]
async fn a_restarted_instance_finds_what_redis_kept_and_nothing_purged() {
    let server = Server::start(&[]).await;
    let a = open(server.config()).await;
    a.insert(tagged(&a, "session:b", 1, "kept"));
    a.insert(entry(&a, 2, "purged"));
    eventually("both are written", async || exists(&server, 1).await && exists(&server, 2).await).await;
    let event = purge(&a, "session:a");
    a.close(Duration::from_secs(5)).await;
    // A stranger's purge: nobody is there who would remove what it voids.
    let candidate = Candidate { epoch: Epoch(9), secret: [9; 32], agreement: server.config().agreement };
    let parts = [Part::Append(&event, None, None)];
    let append = wire::write(&LogKeys::new("cache"), candidate, MemberId(7), 1, &parts);
    let _: redis::Value = append.query_async(&mut server.connection().await).await.unwrap();
    let b = open(server.config()).await;
    assert_eq!(found(&b, 1).await, hit("kept", Tier::Redis));
    assert!(found(&b, 2).await.is_none());
    eventually("the void one is reclaimed", async || !exists(&server, 2).await).await;
}

#[tokio::test]
async fn a_killed_redis_breaks_no_request_and_comes_back_as_a_new_epoch() {
    let mut server = Server::start(&[]).await;
    let store = open(server.config()).await;
    let epoch = store.coherence().view().epoch;
    let secret = store.coherence().view().secret;
    store.insert(entry(&store, 1, "one"));
    server.kill();
    assert_eq!(found(&store, 1).await, hit("one", Tier::Memory), "alone, memory serves on");
    for n in 2..30 {
        assert!(matches!(look(&store, n).await, Lookup::Absent(Absent::StoreUnavailable)));
        store.insert(entry(&store, n, "more"));
    }
    assert_ne!(store.redis_health().await.unwrap().breaker, "closed");
    server.restart().await;
    eventually("caching is back", async || {
        store.insert(entry(&store, 99, "back"));
        exists(&server, 99).await
    })
    .await;
    // Events may have been lost with the old one.
    eventually("a new epoch", async || store.coherence().view().epoch != epoch).await;
    assert_eq!(store.coherence().view().secret, secret, "keys stay what they are");
    assert!(found(&store, 1).await.is_none());
    eventually("all is well", async || store.redis_health().await.unwrap().breaker == "closed").await;
}

#[tokio::test]
async fn a_frozen_redis_costs_its_deadline_and_no_more() {
    let server = Server::start(&[]).await;
    let mut config = server.config();
    let budget = Duration::from_secs(4);
    config.redis.as_mut().unwrap().append_timeout = budget;
    let store = open(config).await;
    store.insert(entry(&store, 1, "one"));
    server.signal("STOP");
    let started = Instant::now();
    for n in 0..1000 {
        let looked = look(&store, u8::try_from(2 + n % 200).unwrap()).await;
        assert!(matches!(looked, Lookup::Absent(Absent::StoreUnavailable)));
    }
    // Each for itself would have taken 50 s.
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    let purged = store.publish(purge(&store, "session:a"), None).await;
    assert!(purged.is_owed());
    assert!(found(&store, 1).await.is_none(), "applied here at once");
    let owed = Instant::now();
    assert!(store.publish(purge(&store, "session:a"), None).await.is_owed());
    assert!(owed.elapsed() < budget, "the budget is not spent twice: {:?}", owed.elapsed());
    server.signal("CONT");
    eventually("the debt is paid", async || store.coherence().owed() == 0).await;
    eventually("caching is back", async || {
        store.insert(entry(&store, 5, "back"));
        exists(&server, 5).await && found(&store, 5).await.is_some()
    })
    .await;
}

/// Without memory, and with a lease that outlasts a silence: each look-up is Redis' to answer.
fn far_alone(server: &Server, timeout: Duration) -> StoreConfig {
    let mut config = unhurried(server);
    config.memory_bytes = 0;
    config.redis.as_mut().unwrap().timeout = timeout;
    config
}

#[tokio::test]
async fn look_ups_at_once_share_round_trips_and_have_an_answer_each() {
    let server = Server::start(&[]).await;
    let store = open(far_alone(&server, DEADLINE)).await;
    for n in 1..=150 {
        store.insert(entry(&store, n, &format!("text {n}")));
    }
    eventually("all are there", async || exists(&server, 150).await).await;
    let reads = async || -> u64 {
        let info: String =
            redis::cmd("INFO").arg("stats").query_async(&mut server.connection().await).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.unwrap().trim().parse().unwrap()
    };
    let before = reads().await;
    let answers = join_all((1..=200).map(|n| found(&store, n))).await;
    let taken = reads().await - before;
    for (n, answer) in (1..).zip(answers) {
        let want = (n <= 150).then(|| (format!("text {n}"), Tier::Redis));
        assert_eq!(answer, want, "{n}");
    }
    // Who follows the log and renews the lease reads too.
    assert!(taken < 100, "{taken} reads for 200 look-ups");
}

#[tokio::test]
async fn a_look_up_that_is_given_up_takes_nothing_from_those_beside_it() {
    let server = Server::start(&[]).await;
    let store = open(far_alone(&server, DEADLINE)).await;
    store.insert(entry(&store, 1, "one"));
    eventually("it is there", async || exists(&server, 1).await).await;
    for _ in 0..50 {
        // The first of them goes alone; the second waits for company, and is gone when there is some.
        let mut first = Box::pin(look(&store, 2));
        for looks in [first.as_mut(), Box::pin(look(&store, 3)).as_mut()] {
            tokio::select! {
                biased;
                _ = looks => panic!("it cannot have been answered at once"),
                () = std::future::ready(()) => {}
            }
        }
        assert_eq!(found(&store, 1).await, hit("one", Tier::Redis));
    }
}

#[tokio::test]
async fn look_ups_that_share_a_late_round_trip_open_the_breaker() {
    let server = Server::start(&[]).await;
    let limit = Duration::from_secs(2);
    let store = open(far_alone(&server, limit)).await;
    server.signal("STOP");
    // One goes alone, the others together.
    let looked = join_all((1..=4).map(|n| look(&store, n))).await;
    assert!(looked.iter().all(|l| matches!(l, Lookup::Absent(Absent::StoreUnavailable))), "{looked:?}");
    let started = Instant::now();
    assert!(matches!(look(&store, 5).await, Lookup::Absent(Absent::StoreUnavailable)));
    assert!(started.elapsed() < limit, "it is not tried: {:?}", started.elapsed());
    server.signal("CONT");
    eventually("it closes again", async || store.redis_health().await.unwrap().breaker == "closed").await;
}

#[tokio::test]
async fn an_owed_purge_reaches_the_other_instance_later() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    a.insert(entry(&a, 1, "old"));
    arrives(&b, 1, "old").await;
    server.signal("STOP");
    assert!(a.publish(purge(&a, "session:a"), None).await.is_owed());
    let unstorable = a.insert(entry(&a, 2, "unstorable"));
    assert_eq!(unstorable.response.body_bytes(), b"unstorable");
    assert!(
        a.lookup_memory(&key(2), &HeaderMap::new(), Clock::system().elapsed(), Clock::system().now())
            .is_none()
    );
    server.signal("CONT");
    eventually("B hears of it", async || b.coherence().sample().seq >= 1).await;
    assert!(found(&b, 1).await.is_none());
    eventually("A may store again", async || {
        a.insert(entry(&a, 3, "new"));
        found(&a, 3).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn more_purges_than_can_wait_become_one_flush() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    a.insert(entry(&a, 1, "one"));
    arrives(&b, 1, "one").await;
    server.signal("STOP");
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..5000 {
        let store = Arc::clone(&a);
        crowd.spawn(async move { store.publish(purge(&store, "session:z"), None).await.is_owed() });
    }
    assert!(crowd.join_all().await.into_iter().all(|owed| owed));
    assert!(found(&a, 1).await.is_none(), "which purges were given up is not known any more: all is void");
    assert!(found(&b, 1).await.is_none(), "nobody has told the other yet, and so it holds no lease");
    server.signal("CONT");
    eventually("the debt is paid", async || a.coherence().owed() == 0).await;
    eventually("the other answers again", async || {
        b.insert(entry(&b, 2, "two"));
        found(&b, 2).await.is_some()
    })
    .await;
    assert!(found(&b, 1).await.is_none());
}

#[tokio::test]
async fn a_flushed_redis_is_a_new_epoch() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    let epoch = a.coherence().view().epoch;
    a.publish(purge(&a, "session:z"), None).await;
    a.insert(entry(&a, 1, "one"));
    arrives(&b, 1, "one").await;
    let () = redis::cmd("FLUSHALL").query_async(&mut server.connection().await).await.unwrap();
    for store in [&a, &b] {
        eventually("a new epoch", async || store.coherence().view().epoch != epoch).await;
        assert!(found(store, 1).await.is_none());
    }
    // Purges and entries go on as before.
    b.insert(entry(&b, 2, "two"));
    arrives(&a, 2, "two").await;
    assert!(!b.publish(purge(&b, "session:a"), None).await.is_owed());
    applied(&a, &b).await;
    assert!(found(&a, 2).await.is_none());
}

#[tokio::test]
async fn a_restarted_redis_with_its_data_is_a_new_epoch() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let store = open(server.config()).await;
    store.insert(entry(&store, 1, "old"));
    assert!(!store.publish(purge(&store, "session:z"), None).await.is_owed());
    let epoch = store.coherence().view().epoch;
    eventually("it is written", async || exists(&server, 1).await).await;
    server.kill();
    server.restart().await;
    // The server has kept its data, and for all anybody knows not all of it.
    eventually("it is there again", async || exists(&server, 1).await).await;
    eventually("a new epoch", async || store.coherence().view().epoch != epoch).await;
    assert!(found(&store, 1).await.is_none());
}

#[tokio::test]
async fn a_restart_while_nobody_asks_costs_nobody_anything() {
    let mut server = Server::start(&[]).await;
    let store = open(server.config()).await;
    store.insert(entry(&store, 1, "one"));
    eventually("it is written", async || exists(&server, 1).await).await;
    let epoch = store.coherence().view().epoch;
    server.kill();
    server.restart().await;
    eventually("the new log is followed", async || store.coherence().view().epoch != epoch).await;
    // The pooled connections have died meanwhile, and nobody has noticed.
    let health = store.redis_health().await.unwrap();
    assert!(health.connected && health.breaker == "closed", "{health:?}");
}

#[tokio::test]
async fn a_purge_right_after_a_flush_is_not_taken_for_the_old_logs() {
    let server = Server::start(&[]).await;
    // Hardly a beat is sent, so whoever follows learns of the new log from its events.
    let agreement = Agreement { lease: Duration::from_secs(60), mode: Mode::Eventual };
    let config = StoreConfig { agreement, ..server.config() };
    let (a, b) = (open(config.clone()).await, open(config).await);
    a.insert(entry(&a, 1, "one"));
    arrives(&b, 1, "one").await;
    let () = redis::cmd("FLUSHALL").query_async(&mut server.connection().await).await.unwrap();
    for _ in 0..5 {
        assert!(!a.publish(purge(&a, "session:other"), None).await.is_owed());
    }
    // As soon as an event of the new log is applied, what the old one knew is void; not when it next falls silent.
    applied_seq(&b, &a).await;
    assert!(found(&a, 1).await.is_none() && found(&b, 1).await.is_none());
    applied(&b, &a).await;
}

#[tokio::test]
async fn garbage_is_a_miss_and_heals() {
    let server = Server::start(&[]).await;
    let store = open(StoreConfig { memory_bytes: 0, ..server.config() }).await;
    let mut connection = server.connection().await;
    let name = |n: u8| format!("cache:{ROUTE}:{}", key(n).hex());
    let () = redis::cmd("SET").arg(name(1)).arg("garbage").query_async(&mut connection).await.unwrap();
    let () = redis::cmd("LPUSH").arg(name(2)).arg("x").query_async(&mut connection).await.unwrap();
    let () =
        redis::cmd("SET").arg(name(3)).arg(vec![0u8; 5 << 20]).query_async(&mut connection).await.unwrap();
    for n in 1..=3 {
        assert!(matches!(look(&store, n).await, Lookup::Absent(Absent::Corrupt)), "{n}");
        store.insert(entry(&store, n, "healed"));
        arrives(&store, n, "healed").await;
    }
    // Another key's value under this name.
    let () = redis::cmd("COPY").arg(name(1)).arg(name(4)).query_async(&mut connection).await.unwrap();
    assert!(matches!(look(&store, 4).await, Lookup::Absent(Absent::Corrupt)));
    assert_eq!(store.redis_health().await.unwrap().breaker, "closed", "Redis itself is well");
}

#[tokio::test]
async fn a_garbled_log_is_a_new_epoch() {
    let server = Server::start(&[]).await;
    let (a, b) = (open(server.config()).await, open(server.config()).await);
    let commands: [&[&str]; 6] = [
        &["SET", "cache:log", "garbage"],
        &["SET", "{cache:log}:state", "garbage"],
        &["HSET", "{cache:log}:state", "seq", "many"],
        &["HDEL", "{cache:log}:state", "run_id"],
        &["XADD", "cache:log", "*", "hello", "world"],
        &["DEL", "{cache:log}:state"],
    ];
    for command in commands {
        a.publish(purge(&a, "session:z"), None).await;
        applied(&b, &a).await;
        let epoch = a.coherence().view().epoch;
        let mut garble = redis::cmd(command[0]);
        for arg in &command[1..] {
            garble.arg(*arg);
        }
        let _: redis::Value = garble.query_async(&mut server.connection().await).await.unwrap();
        for store in [&a, &b] {
            eventually("a new epoch", async || store.coherence().view().epoch != epoch).await;
        }
        assert!(!a.publish(purge(&a, "session:a"), None).await.is_owed(), "{command:?}");
        applied(&b, &a).await;
    }
}

#[tokio::test]
async fn a_trimmed_log_raises_the_floor() {
    let server = Server::start(&[]).await;
    let a = open(server.config()).await;
    a.insert(entry(&a, 1, "old"));
    eventually("it is written", async || exists(&server, 1).await).await;
    for n in 0..5 {
        a.publish(purge(&a, &format!("session:{n}")), None).await;
    }
    a.insert(entry(&a, 2, "new"));
    eventually("it is written", async || exists(&server, 2).await).await;
    let mut connection = server.connection().await;
    let _: u64 =
        redis::cmd("XTRIM").arg("cache:log").arg("MAXLEN").arg(2).query_async(&mut connection).await.unwrap();
    let b = open(server.config()).await;
    assert_eq!(b.coherence().view().epoch, a.coherence().view().epoch);
    assert!(matches!(look(&b, 1).await, Lookup::Absent(Absent::Void(Void::Floor))));
    assert_eq!(found(&b, 2).await, hit("new", Tier::Redis));
    let _: u64 =
        redis::cmd("XTRIM").arg("cache:log").arg("MAXLEN").arg(0).query_async(&mut connection).await.unwrap();
    let c = open(server.config()).await;
    assert_eq!(c.coherence().sample(), a.coherence().sample());
    assert_eq!(found(&c, 2).await, hit("new", Tier::Redis), "sampled at the end");
}

#[tokio::test]
async fn a_wrong_password_and_no_server_are_not_errors() {
    let server = Server::start(&["--requirepass", "right"]).await;
    for url in [format!("redis://:hunter2@127.0.0.1:{}/1", server.port), "redis://127.0.0.1:1/1".to_owned()] {
        let strong = open(config(&url)).await;
        let agreement = Agreement { mode: Mode::Eventual, ..Agreement::default() };
        let store = open(StoreConfig { agreement, ..config(&url) }).await;
        for n in 1..10 {
            assert!(matches!(look(&store, n).await, Lookup::Absent(_)));
            store.insert(entry(&store, n, "memory"));
            assert_eq!(found(&store, n).await, hit("memory", Tier::Memory));
            strong.insert(entry(&strong, n, "memory"));
            let unproven = look(&strong, n).await;
            assert!(
                matches!(unproven, Lookup::Absent(Absent::Void(Void::Lease))),
                "others may have purged it"
            );
        }
        assert!(store.publish(purge(&store, "session:a"), None).await.is_owed());
        assert!(found(&store, 1).await.is_none());
        let health = store.redis_health().await.unwrap();
        assert!(!health.connected);
        let shown = format!("{health:?} {store:?}");
        assert!(health.last_error.is_some() && !shown.contains("hunter2"), "{shown}");
    }
    let store = open(config(&format!("redis://:right@127.0.0.1:{}/1", server.port))).await;
    assert!(!store.publish(purge(&store, "session:a"), None).await.is_owed());
}

#[tokio::test]
async fn a_late_start_of_redis_joins_and_pays_what_is_owed() {
    let mut server = Server::start(&[]).await;
    server.kill();
    let store = open(server.config()).await;
    store.insert(entry(&store, 1, "before"));
    assert!(store.publish(purge(&store, "session:a"), None).await.is_owed());
    server.restart().await;
    eventually("joined and paid", async || {
        store.coherence().owed() == 0 && store.redis_health().await.unwrap().warnings.is_empty()
    })
    .await;
    store.insert(entry(&store, 2, "after"));
    assert_eq!(found(&store, 2).await, hit("after", Tier::Memory));
    eventually("it is written", async || exists(&server, 2).await).await;
}

#[tokio::test]
async fn database_0_is_never_touched() {
    let server = Server::start(&[]).await;
    let store = open(config(&format!("redis://127.0.0.1:{}/0", server.port))).await;
    store.insert(entry(&store, 1, "one"));
    assert!(store.publish(purge(&store, "session:a"), None).await.is_owed());
    assert!(store.redis_health().await.unwrap().last_error.unwrap().contains("database 0"));
    let working = open(server.config()).await;
    working.insert(entry(&working, 1, "one"));
    eventually("it is written", async || exists(&server, 1).await).await;
    let size: u64 = redis::cmd("DBSIZE").query_async(&mut server.connection_to(0).await).await.unwrap();
    assert_eq!(size, 0);
}

#[tokio::test]
async fn a_full_redis_breaks_nothing() {
    let server = Server::start(&[]).await;
    let store = open(server.config()).await;
    let mut connection = server.connection().await;
    for (setting, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1mb")] {
        let set = redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).take();
        let _: String = set.query_async(&mut connection).await.unwrap();
    }
    // Beats are writes too: it is alone, and serves on.
    for n in 1..10 {
        store.insert(entry(&store, n, "x"));
        assert_eq!(found(&store, n).await, hit("x", Tier::Memory));
        assert!(found(&store, n + 100).await.is_none());
    }
    let health = store.redis_health().await.unwrap();
    assert_eq!(health.breaker, "closed");
    assert!(health.warnings.iter().any(|w| w.contains("noeviction")), "{health:?}");
}

#[tokio::test]
async fn other_rules_and_other_secrets_void_instead_of_misreading() {
    let server = Server::start(&[]).await;
    let a = open(server.config()).await;
    let other_rules = Store::open(server.config(), RULES + 1, Clock::system(), Metrics::new(&["-"])).await;
    let other_secret = open(StoreConfig { secret: Some([9; 32]), ..server.config() }).await;
    for other in [&other_rules, &other_secret] {
        a.insert(entry(&a, 1, "one"));
        eventually("it is written", async || exists(&server, 1).await).await;
        let rules = other.coherence().sample().rules;
        other.publish(Event { tags: vec![tag(other, "session:zzz")], rules, ..Event::default() }, None).await;
        applied_seq(&a, other).await;
        assert!(found(&a, 1).await.is_none(), "what that purge named cannot be known here");
    }
}

async fn applied_seq(store: &Store, other: &Store) {
    eventually("applied", async || store.coherence().sample().seq >= other.coherence().sample().seq).await;
}

#[tokio::test]
async fn purges_are_counted_and_void_values_swept() {
    let server = Server::start(&[]).await;
    let store = open(server.config()).await;
    for n in 1..=20 {
        let name = if n <= 5 { "session:a" } else { "session:b" };
        store.insert(tagged(&store, name, n, "x"));
    }
    eventually("all are written", async || {
        let mut all = true;
        for n in 1..=20 {
            all &= exists(&server, n).await;
        }
        all
    })
    .await;
    assert_eq!(store.redis_health().await.unwrap().entries, Some(20), "counted in passing");
    let count = store.count(&[tag(&store, "session:a")], true, Duration::from_secs(5)).await;
    assert_eq!((count.entries, count.complete), (5, true));
    server.signal("STOP");
    let part = store.count(&[tag(&store, "session:a")], true, Duration::from_millis(100)).await;
    assert_eq!((part.entries, part.complete), (5, false), "what memory knows");
    server.signal("CONT");
    store.publish(purge(&store, "session:a"), None).await;
    assert_eq!(store.count(&[tag(&store, "session:a")], true, Duration::from_secs(5)).await.entries, 0);
    eventually("void values are swept", async || {
        let mut none = true;
        for n in 1..=5 {
            none &= !exists(&server, n).await;
        }
        none
    })
    .await;
    assert!(exists(&server, 6).await);
    eventually("memory is swept", async || store.stats().memory_entries == 15).await;
    eventually("counted", async || store.stats().deletes == 5).await;
    assert_eq!(store.redis_health().await.unwrap().entries, Some(15));
}

#[tokio::test]
async fn namespaces_keep_apart() {
    let server = Server::start(&[]).await;
    let a = open(server.config()).await;
    let b = open(StoreConfig { namespace: "staging".into(), ..server.config() }).await;
    a.insert(entry(&a, 1, "one"));
    eventually("it is written", async || exists(&server, 1).await).await;
    assert!(found(&b, 1).await.is_none());
    a.publish(purge(&a, "session:a"), None).await;
    assert_eq!(b.coherence().sample().seq, 0);
    assert_ne!(a.coherence().view().epoch, b.coherence().view().epoch);
}

#[tokio::test]
async fn closing_writes_what_waits() {
    let server = Server::start(&[]).await;
    let store = open(server.config()).await;
    for n in 1..=50 {
        store.insert(entry(&store, n, "x"));
    }
    store.close(Duration::from_secs(5)).await;
    for n in 1..=50 {
        assert!(exists(&server, n).await, "{n}");
    }
}

#[tokio::test]
async fn closing_purges_what_settles_while_there_is_a_log_to_take_it() {
    let server = Server::start(&[]).await;
    let (leaver, stayer) = (open(server.config()).await, open(server.config()).await);
    let settling = Event { settle: Settle::For(600_000), ..purge(&leaver, "session:a") };
    leaver.publish(settling, None).await;
    applied(&stayer, &leaver).await;
    stayer.insert(entry(&stayer, 1, "may be old"));
    assert_eq!(found(&stayer, 1).await, None, "it settles");
    leaver.close(Duration::from_secs(30)).await;
    eventually("what its author has let go is kept", async || {
        stayer.insert(entry(&stayer, 1, "new"));
        found(&stayer, 1).await.is_some()
    })
    .await;
}

async fn claim(store: &Store, n: u8, instead_of: Option<&str>) -> Claim {
    let locks = store.locks().unwrap();
    locks.ask(&locks.name(ROUTE, &key(n)), &store.coherence().sample(), instead_of).await
}

async fn mine(store: &Store, n: u8) -> Lock {
    match claim(store, n, None).await {
        Claim::Mine(lock) => lock,
        other => panic!("{other:?}"),
    }
}

/// A budget that a busy machine keeps.
async fn two_patient(server: &Server) -> (Arc<Store>, Arc<Store>) {
    let mut config = server.config();
    config.redis.as_mut().unwrap().timeout = Duration::from_secs(2);
    (open(config.clone()).await, open(config).await)
}

#[tokio::test]
async fn a_lock_is_one_instances_until_it_ends() {
    let server = Server::start(&[]).await;
    let (a, b) = two_patient(&server).await;
    let lock = mine(&a, 1).await;
    assert!(matches!(claim(&a, 2, None).await, Claim::Mine(_)), "another key's lock is another");
    let Claim::Held(held) = claim(&b, 1, None).await else { panic!("it is held") };
    assert_eq!(held.stamp, Some(a.coherence().sample()));
    assert!(held.left <= BOUND);
    assert!(matches!(claim(&b, 1, Some("somebody else's")).await, Claim::Held(_)));
    let locks = (a.locks().unwrap(), b.locks().unwrap());
    locks.0.end(&lock, Ended::Free).await;
    let next = mine(&b, 1).await;
    assert!(!locks.0.renew(&lock).await, "it is another's now");
    locks.0.end(&lock, Ended::Unshared).await;
    assert!(locks.1.renew(&next).await, "and only its holder ends it");
    locks.1.end(&next, Ended::Unshared).await;
    assert!(matches!(claim(&a, 1, None).await, Claim::Unshared));
    eventually("it can be had again", async || matches!(claim(&a, 1, None).await, Claim::Mine(_))).await;
}

#[tokio::test]
async fn a_lock_can_be_taken_over_by_who_names_its_holder() {
    let server = Server::start(&[]).await;
    let (a, b) = two_patient(&server).await;
    let old = mine(&a, 1).await;
    let Claim::Held(held) = claim(&b, 1, None).await else { panic!("it is held") };
    assert!(matches!(claim(&b, 1, Some(&held.value)).await, Claim::Mine(_)));
    assert!(!a.locks().unwrap().renew(&old).await);
    assert!(matches!(claim(&a, 1, Some(&held.value)).await, Claim::Held(_)), "once");
}

#[tokio::test]
async fn a_lock_ends_by_itself_unless_it_is_renewed() {
    let server = Server::start(&[]).await;
    let (a, b) = two_patient(&server).await;
    let (kept, _left) = (mine(&a, 1).await, mine(&a, 2).await);
    let began = Instant::now();
    eventually("what is not renewed ends", async || {
        assert!(a.locks().unwrap().renew(&kept).await);
        matches!(claim(&b, 2, None).await, Claim::Mine(_))
    })
    .await;
    assert!(began.elapsed() > BOUND * 9 / 10, "{:?}", began.elapsed());
    assert!(matches!(claim(&b, 1, None).await, Claim::Held(_)));
}

#[tokio::test]
async fn the_end_of_a_lock_is_heard_elsewhere() {
    let server = Server::start(&[]).await;
    let (a, b) = two_patient(&server).await;
    let locks = b.locks().unwrap();
    let mut first = locks.listen(&locks.name(ROUTE, &key(200)));
    // Whoever begins to read says that something may have been missed.
    eventually("somebody reads", async || first.heard(Duration::from_secs(5)).await == Heard::Perhaps).await;
    for n in 0..20 {
        let (lock, other) = (mine(&a, n).await, mine(&a, 100 + n).await);
        let mut listener = locks.listen(&locks.name(ROUTE, &key(n)));
        a.locks().unwrap().end(&other, Ended::Free).await;
        a.locks().unwrap().end(&lock, Ended::Free).await;
        let began = Instant::now();
        assert_eq!(listener.heard(Duration::from_secs(60)).await, Heard::Ended);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(first.heard(Duration::from_millis(1)).await, Heard::Nothing, "none of it was its own");
    let names: Vec<String> =
        redis::cmd("KEYS").arg("*ended").query_async(&mut server.connection().await).await.unwrap();
    assert_eq!(names, ["{cache:log}:ended"]);
    let left: i64 =
        redis::cmd("PTTL").arg(&names[0]).query_async(&mut server.connection().await).await.unwrap();
    assert!((1..=60_000).contains(&left), "announcements do not outlive their use: {left}");
}

#[tokio::test]
async fn who_listens_is_told_when_redis_says_nothing_any_more() {
    let server = Server::start(&[]).await;
    let store = open(server.config()).await;
    let locks = store.locks().unwrap();
    let mut listener = locks.listen(&locks.name(ROUTE, &key(1)));
    eventually("it listens", async || listener.heard(Duration::from_secs(5)).await == Heard::Perhaps).await;
    server.signal("STOP");
    assert_eq!(listener.heard(Duration::from_secs(60)).await, Heard::Perhaps);
    assert!(matches!(claim(&store, 1, None).await, Claim::Unavailable));
    server.signal("CONT");
    eventually("it can be asked again", async || matches!(claim(&store, 1, None).await, Claim::Mine(_)))
        .await;
}

#[tokio::test]
async fn an_entry_is_written_when_it_can_be_found() {
    let server = Server::start(&[]).await;
    let (a, b) = two_patient(&server).await;
    let locks = a.locks().unwrap();
    for n in 0..50 {
        let stored = a.insert(entry(&a, n, "one"));
        assert!(locks.written(&stored).await);
        assert_eq!(found(&b, n).await, hit("one", Tier::Redis));
    }
    let old = a.insert(entry(&a, 200, "old"));
    let other = stamped(&a, Stamp { seq: 7, ..old.stamp() }, 200, "new");
    assert!(!locks.written(&other).await, "what lies there is another");
    assert!(!locks.written(&entry(&a, 201, "never stored")).await);
}
