//! json-server with full CRUD: reads and mutations by 16 clients, and a ledger of what was acknowledged.
//!
//! The ledger is the judge. A client notes what the backend acknowledged, and strikes it out before it begins to
//! change it. Whatever stood there all the while that a read took must hold in its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::client::{Answer, Client, Served};
use crate::machine::{Backend, Redis, Weir};
use crate::report::{Reads, Report, say};
use crate::workload::{Rng, Zipf, assert_same_text, normal};
use crate::{alone, amount, skipped};

const CLIENTS: usize = 16;
/// Posts that the seed made, and the popular ones among them.
const POSTS: u64 = 2_000;
const POPULAR: usize = 400;

/// What is certain: what mutations have been acknowledged, less what later ones have begun to change.
#[derive(Debug, Default, Clone)]
struct Ledger {
    /// Per post, the version that an acknowledged PATCH or PUT gave it. Versions only grow.
    versions: BTreeMap<u64, u64>,
    /// Posts that an acknowledged DELETE took away; they never come back.
    deleted: BTreeSet<u64>,
    /// Posts that an acknowledged POST made; they are never deleted.
    created: BTreeSet<u64>,
    /// Whether a comment is under a post, as (post, comment). A pair that is not here is uncertain.
    comments: BTreeMap<(u64, u64), Claim>,
    /// Comments posted to `/posts/7/comments`: json-server then writes the post's number as a string, and its own
    /// `_embed`, which compares numbers, does not find them.
    never_embedded: BTreeSet<u64>,
    ticks: u64,
}

/// A certainty about a comment, and when it began: the same words later may be another certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    there: bool,
    since: u64,
}

impl Ledger {
    fn claim(&mut self, post: u64, comment: u64, there: bool) {
        self.ticks += 1;
        self.comments.insert((post, comment), Claim { there, since: self.ticks });
    }
    fn doubt(&mut self, post: u64, comment: u64) {
        self.comments.remove(&(post, comment));
    }
}

/// The one ledger of all clients. Reading it costs a pointer.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Arc<Ledger>>>);

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Ledger)) {
        change(Arc::make_mut(&mut self.0.lock().unwrap()));
    }
    fn now(&self) -> Arc<Ledger> {
        Arc::clone(&self.0.lock().unwrap())
    }
}

/// The objects of a list, or the one object of an item.
fn rows(body: &Value) -> Vec<&Value> {
    match body {
        Value::Array(rows) => rows.iter().collect(),
        Value::Object(members) if members.is_empty() => Vec::new(),
        other => vec![other],
    }
}

/// A read's surroundings: what was certain when it was asked, and what was still certain when it was answered.
struct Judge<'a> {
    before: &'a Ledger,
    after: &'a Ledger,
    path: &'a str,
    answer: &'a Answer,
}

impl Judge<'_> {
    /// Fails when the answer contradicts something that was certain all the while.
    fn judge(&self) {
        let body = self.answer.json();
        let path = self.path;
        if path.contains("/comments") {
            let post =
                path.split(['/', '=', '?', '&']).find_map(|p| p.parse().ok()).expect("a post's number");
            self.judge_comments(post, &rows(&body), &BTreeSet::new());
        } else if path.contains("/posts") {
            for row in rows(&body) {
                self.judge_post(row);
            }
            self.judge_item();
        }
    }

    #[track_caller]
    fn hold(&self, holds: bool, what: impl FnOnce() -> String) {
        let status = self.answer.header("cache-status");
        let path = self.path;
        assert!(holds, "{path} ({status}) is older than an acknowledged mutation: {}", what());
    }

    fn judge_post(&self, row: &Value) {
        let Some(id) = row["id"].as_u64() else { return };
        self.hold(!self.before.deleted.contains(&id), || format!("post {id} was deleted"));
        let (seen, known) =
            (row["version"].as_u64().unwrap_or(0), self.before.versions.get(&id).copied().unwrap_or(0));
        self.hold(seen >= known, || format!("post {id} has version {seen} instead of {known}"));
        if let Some(comments) = row["comments"].as_array() {
            self.judge_comments(id, &comments.iter().collect::<Vec<_>>(), &self.before.never_embedded);
        }
    }

    fn judge_item(&self) {
        let status = self.answer.status;
        let Some(id) = self.path.strip_prefix("/posts/").and_then(|p| p.split('?').next()?.parse().ok())
        else {
            return;
        };
        if self.before.deleted.contains(&id) {
            self.hold(status == 404, || format!("post {id} was deleted"));
        } else if self.before.created.contains(&id) {
            self.hold(status == 200, || format!("post {id} was made"));
        }
    }

    /// `excused`: comments that may be missing.
    fn judge_comments(&self, post: u64, rows: &[&Value], excused: &BTreeSet<u64>) {
        let seen: BTreeSet<u64> = rows.iter().filter_map(|r| r["id"].as_u64()).collect();
        for (pair, claim) in self.before.comments.range((post, 0)..=(post, u64::MAX)) {
            let comment = pair.1;
            if self.after.comments.get(pair) != Some(claim) || (claim.there && excused.contains(&comment)) {
                continue;
            }
            let word = if claim.there { "lacks" } else { "still has" };
            self.hold(seen.contains(&comment) == claim.there, || {
                format!("post {post} {word} comment {comment}")
            });
        }
    }
}

/// One of 16 clients. It alone changes the posts whose number is its own modulo 16, so that it knows their versions.
struct Actor {
    number: u64,
    client: Client,
    rng: Rng,
    zipf: Arc<Zipf>,
    ledger: Shared,
    versions: BTreeMap<u64, u64>,
    /// Comments it made, with the post each is under.
    comments: Vec<(u64, u64)>,
    /// How many comments it has made.
    made: u64,
    reads: Reads,
    paths: BTreeSet<String>,
    mutations: usize,
}

impl Actor {
    fn popular_post(&mut self) -> u64 {
        1 + self.zipf.pick(&mut self.rng) as u64
    }

    fn own_post(&mut self) -> u64 {
        let near = self.popular_post();
        (near / CLIENTS as u64) * CLIENTS as u64 + self.number + 1
    }

    fn path(&mut self) -> String {
        let post = self.popular_post();
        let (user, page) = (1 + self.rng.below(20), 1 + self.rng.below(10));
        match self.rng.below(20) {
            0..6 => format!("/posts/{post}"),
            6..9 => format!("/posts/{post}/comments"),
            9 => format!("/comments?postId={post}"),
            10..12 => format!("/posts/{post}?_embed=comments"),
            12..14 => format!("/posts?_page={page}&_limit=20"),
            14 => format!("/posts?userId={user}&_sort=title"),
            15 => format!("/users/{user}/posts"),
            16 => format!("/posts?q=otter+heron&_limit=10&_start={}", 10 * page),
            17 => format!("/posts/{}", POSTS + 1 + self.rng.below(30) as u64),
            _ => format!("/users/{user}"),
        }
    }

    async fn read(&mut self, path: String) {
        let before = self.ledger.now();
        let answer = self.client.get(&path).await;
        let after = self.ledger.now();
        assert!(matches!(answer.status, 200 | 404), "{path}: {} {}", answer.status, answer.text());
        Judge { before: &before, after: &after, path: &path, answer: &answer }.judge();
        self.reads.add(&answer);
        self.paths.insert(path);
    }

    async fn send(&mut self, method: &str, path: &str, body: Option<Value>, expected: u16) -> Value {
        self.mutations += 1;
        let answer = self.client.send(method, path, &[], body.as_ref()).await;
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text());
        answer.json()
    }

    async fn mutate(&mut self) {
        match self.rng.below(20) {
            0..8 => self.change_post().await,
            8..14 => self.add_comment().await,
            14..17 => self.move_comment().await,
            17 => self.delete_comment().await,
            18 => self.add_post().await,
            _ => self.delete_post().await,
        }
    }

    async fn change_post(&mut self) {
        let post = self.own_post();
        let version = self.versions.get(&post).copied().unwrap_or(0) + 1;
        let path = format!("/posts/{post}");
        if self.rng.percent(50) {
            self.send("PATCH", &path, Some(json!({ "version": version })), 200).await;
        } else {
            let body = json!({ "userId": 1 + self.rng.below(20), "title": format!("title {version}"), "body": "otter heron", "version": version });
            self.send("PUT", &path, Some(body), 200).await;
        }
        self.versions.insert(post, version);
        self.ledger.note(|l| {
            l.versions.insert(post, version);
        });
        self.read(path).await;
    }

    async fn add_comment(&mut self) {
        let post = self.popular_post();
        // Numbers of its own: json-server would give the number of a deleted last comment away again.
        let id = 1_000_000 + 100_000 * self.number + self.made;
        self.made += 1;
        let body = json!({ "id": id, "userId": 1, "body": "a new comment" });
        let nested = self.rng.percent(50);
        let made = if nested {
            self.send("POST", &format!("/posts/{post}/comments"), Some(body), 201).await
        } else {
            let mut body = body;
            body["postId"] = json!(post);
            self.send("POST", "/comments", Some(body), 201).await
        };
        assert_eq!(made["id"], id);
        self.comments.push((id, post));
        self.ledger.note(|l| {
            l.claim(post, id, true);
            if nested {
                l.never_embedded.insert(id);
            }
        });
        self.read(format!("/posts/{post}/comments")).await;
    }

    /// Takes one of its comments out of the ledger, as what is about to happen to it may show at any moment.
    fn take_comment(&mut self) -> Option<(u64, u64)> {
        let at = if self.comments.is_empty() { return None } else { self.rng.below(self.comments.len()) };
        let (id, post) = self.comments.swap_remove(at);
        self.ledger.note(|l| {
            l.doubt(post, id);
        });
        Some((id, post))
    }

    async fn move_comment(&mut self) {
        let Some((id, from)) = self.take_comment() else { return self.add_comment().await };
        let to = self.popular_post();
        self.ledger.note(|l| {
            l.doubt(to, id);
        });
        self.send("PATCH", &format!("/comments/{id}"), Some(json!({ "postId": to })), 200).await;
        self.ledger.note(|l| {
            if from != to {
                l.claim(from, id, false);
            }
            l.claim(to, id, true);
            l.never_embedded.remove(&id);
        });
        self.comments.push((id, to));
        self.read(format!("/comments?postId={from}")).await;
        self.read(format!("/posts/{to}?_embed=comments")).await;
    }

    async fn delete_comment(&mut self) {
        let Some((id, post)) = self.take_comment() else { return self.add_comment().await };
        self.send("DELETE", &format!("/comments/{id}"), None, 200).await;
        self.ledger.note(|l| {
            l.claim(post, id, false);
        });
        self.read(format!("/posts/{post}/comments")).await;
    }

    async fn add_post(&mut self) {
        let body =
            json!({ "userId": 1 + self.rng.below(20), "title": "new", "body": "otter heron", "version": 0 });
        let made = self.send("POST", "/posts", Some(body), 201).await;
        let id = made["id"].as_u64().unwrap();
        self.ledger.note(|l| {
            l.created.insert(id);
        });
        self.read(format!("/posts/{id}")).await;
    }

    /// Deletes an unpopular post of its own; nobody comments on those.
    async fn delete_post(&mut self) {
        let spread = (POSTS as usize - POPULAR) / CLIENTS - 2;
        let post = POPULAR as u64 + CLIENTS as u64 * (1 + self.rng.below(spread) as u64) + self.number + 1;
        if self.ledger.now().deleted.contains(&post) {
            return self.add_post().await;
        }
        self.read(format!("/posts/{post}")).await;
        self.send("DELETE", &format!("/posts/{post}"), None, 200).await;
        self.ledger.note(|l| {
            l.deleted.insert(post);
        });
        self.read(format!("/posts/{post}")).await;
        self.read(format!("/posts/{post}/comments")).await;
    }
}

/// What all clients did together.
#[derive(Debug, Default)]
struct Run {
    reads: Reads,
    paths: BTreeSet<String>,
    mutations: usize,
}

/// `steps` steps by 16 clients at once, some of them mutations: more than any API sees, to try the rules; for the
/// report one in a hundred.
async fn run(addr: SocketAddr, steps: usize) -> Run {
    let mutating = amount(4, 1);
    let (ledger, zipf) = (Shared::default(), Arc::new(Zipf::new(POPULAR)));
    let tasks: Vec<_> = (0..CLIENTS as u64)
        .map(|number| {
            let mut actor = Actor {
                number,
                client: Client::new(addr),
                rng: Rng::new(9_000 + number),
                zipf: zipf.clone(),
                ledger: ledger.clone(),
                versions: BTreeMap::new(),
                comments: Vec::new(),
                made: 0,
                reads: Reads::default(),
                paths: BTreeSet::new(),
                mutations: 0,
            };
            tokio::spawn(async move {
                for _ in 0..steps / CLIENTS {
                    if actor.rng.percent(mutating) {
                        actor.mutate().await;
                    } else {
                        let path = actor.path();
                        actor.read(path).await;
                    }
                }
                actor
            })
        })
        .collect();
    let mut all = Run::default();
    for task in tasks {
        let actor = task.await.unwrap();
        all.reads.merge(actor.reads);
        all.paths.extend(actor.paths);
        all.mutations += actor.mutations;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_older_than_an_acknowledged_mutation() {
    if skipped() {
        return;
    }
    let _alone = alone().await;
    let bare = Backend::start("json-server").await;
    let without = run(bare.addr, amount(3_000, 24_000)).await;
    drop(bare);

    let (backend, redis) = (Backend::start("json-server").await, Redis::start().await);
    let weir = Weir::start("json-server", &backend, &redis).await;
    let before = backend.requests_logged("GET /");
    let with = run(weir.addr, amount(3_000, 24_000)).await;
    let backend_reads = backend.requests_logged("GET /") - before;
    Report {
        name: "json-server 0.17",
        without: &without.reads,
        with: &with.reads,
        mutations: with.mutations,
        backend_reads,
    }
    .print();

    assert!(with.reads.hits > 0, "no hits: {}", weir.log());
    assert!(
        backend_reads < with.reads.count(),
        "{backend_reads} of {} reads reached the backend",
        with.reads.count()
    );

    // Now that all is quiet, whatever is still held must be what the backend would say.
    let (mut through, mut direct) = (Client::new(weir.addr), Client::new(backend.addr));
    let mut held = 0;
    for path in &with.paths {
        let (kept, truth) = (through.get(path).await, direct.get(&normal(path)).await);
        held += usize::from(kept.served() == Served::Hit);
        assert_eq!(kept.status, truth.status, "{path} ({})", kept.header("cache-status"));
        assert_same_text(&kept.text(), &truth.text(), &format!("{path} ({})", kept.header("cache-status")));
        for field in ["content-type", "x-total-count", "link"] {
            assert_eq!(kept.header(field), truth.header(field), "{path}: {field}");
        }
    }
    say(&format!("afterwards {held} of {} paths were still held, all of them true", with.paths.len()));
    assert!(held > 0, "nothing was held");
    the_rules_reach_what_they_name_and_no_more(&weir).await;
}

/// Each mutation beside what it must and must not purge.
async fn the_rules_reach_what_they_name_and_no_more(weir: &Weir) {
    let mut client = Client::new(weir.addr);
    let paths = [
        "/posts/101",
        "/posts/102",
        "/posts/101/comments",
        "/posts/102/comments",
        "/posts?_limit=3",
        "/users/5",
        "/posts/101?_embed=comments",
    ];
    // (Lists asked for as /comments?… are left out: a mutation always purges its own URI with any query.)
    // A comment on 101 leaves the item, the other post's comments, the lists of posts and the user alone.
    let cases: [(&str, &str, Value, [bool; 7]); 3] = [
        (
            "POST",
            "/comments",
            json!({ "postId": 101, "body": "x" }),
            [true, true, false, true, true, true, false],
        ),
        ("PATCH", "/posts/102", json!({ "title": "x" }), [true, false, true, true, false, true, false]),
        ("PATCH", "/users/5", json!({ "name": "x" }), [true, true, true, true, true, false, false]),
    ];
    for (method, path, body, kept) in cases {
        for path in paths {
            client.get(path).await;
            assert_eq!(client.get(path).await.served(), Served::Hit, "{path}");
        }
        client.send(method, path, &[], Some(&body)).await;
        for (read, kept) in paths.iter().zip(kept) {
            let answer = client.get(read).await;
            assert_eq!(
                answer.served() == Served::Hit,
                kept,
                "{read} after {method} {path}: {}",
                answer.header("cache-status")
            );
        }
    }
}

/// The judge convicts what is old and nothing else.
#[test]
fn the_judge_knows_old_from_new() {
    let shared = Shared::default();
    let answer = |body: Value| Answer {
        status: 200,
        headers: http::HeaderMap::new(),
        body: serde_json::to_vec(&body).unwrap().into(),
        elapsed: std::time::Duration::ZERO,
    };
    let convicts = |before: &Ledger, path: &str, body: Value| {
        let (after, answer) = (shared.now(), answer(body));
        let judge = Judge { before, after: &after, path, answer: &answer };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge.judge())).is_err()
    };
    shared.note(|l| {
        l.versions.insert(1, 2);
        l.deleted.insert(9);
        l.claim(1, 50, true);
        l.claim(1, 51, false);
    });
    let known = shared.now();
    assert!(!convicts(&known, "/posts?_page=1", json!([{ "id": 1, "version": 3 }])));
    assert!(convicts(&known, "/posts?_page=1", json!([{ "id": 1, "version": 1 }])));
    assert!(convicts(&known, "/users/1/posts", json!([{ "id": 9 }])));
    assert!(!convicts(&known, "/posts/1/comments", json!([{ "id": 50 }, { "id": 52 }])));
    assert!(convicts(&known, "/posts/1/comments", json!([])));
    assert!(convicts(&known, "/comments?postId=1", json!([{ "id": 50 }, { "id": 51 }])));
    assert!(convicts(&known, "/posts/1?_embed=comments", json!({ "id": 1, "version": 2, "comments": [] })));
    // Somebody began to change it while the read was under way, and changed it back since.
    shared.note(|l| l.doubt(1, 50));
    assert!(!convicts(&known, "/posts/1/comments", json!([])));
    shared.note(|l| l.claim(1, 50, true));
    assert!(!convicts(&known, "/posts/1/comments", json!([])));
    assert!(convicts(&shared.now(), "/posts/1/comments", json!([])));
}
