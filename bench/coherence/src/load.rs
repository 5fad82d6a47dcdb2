//! The clients: readers that judge what they get, writers that acknowledge what they changed.
//!
//! A reader has a connection to every instance and sends one request at a time, to an instance and for a page
//! chosen at random. Its note is taken when the connection is there and nothing but sending remains. Of an instance
//! that is frozen readers and writers keep away, except those who are waiting for it already; [`watch`] sends
//! requests to it meanwhile, which it finds when it wakes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::HeaderValue;

use crate::backend::Backend;
use crate::client::{Answer, Connection, Failure};
use crate::ledger::{Ledger, Note, Stale, Verdict};
use crate::random::{Random, Zipf};
use crate::tally::Tally;
use crate::world::{Page, Shown, World};

/// How many examples of each kind are kept.
const EXAMPLES: usize = 20;

/// What all clients and the fault plan share.
#[derive(Debug)]
pub struct Scene {
    /// What was acknowledged.
    pub ledger: Arc<Ledger>,
    /// What there is.
    pub world: World,
    /// The backend.
    pub backend: Arc<Backend>,
    /// The instances.
    pub doors: Vec<Door>,
    /// Every client ends after the request it is at.
    pub stop: AtomicBool,
    /// Reads so far.
    pub reads: AtomicU64,
    /// Stale reads so far.
    pub stale: AtomicU64,
    /// Errors so far.
    pub errors: AtomicU64,
    /// How clients behave.
    pub habits: Habits,
    pages: Vec<Known>,
    zipf: Zipf,
    items: Zipf,
    seed: u64,
    examples: Mutex<Examples>,
    diary: Mutex<Vec<(Duration, String)>>,
}

/// Where an instance is reached.
#[derive(Debug)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// It is frozen: better not wait for it.
    pub closed: AtomicBool,
}

/// How clients behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// The mean pause between two mutations of a writer.
    pub write_pause: Duration,
    /// The share of conditional reads.
    pub conditional: f64,
    /// A 503 or 504 to a mutation is a refusal, not an error.
    pub may_refuse: bool,
}

/// A page as clients know it.
#[derive(Debug)]
struct Known {
    page: Page,
    path: String,
    shown: Vec<usize>,
}

/// What went wrong, in words.
#[derive(Debug, Default)]
pub struct Examples {
    /// Stale reads, one per instance, item and version.
    pub stale: Vec<String>,
    seen: HashSet<(usize, usize, u64)>,
    /// Errors.
    pub errors: Vec<String>,
}

impl Scene {
    /// With these instances.
    pub fn new(
        ledger: Arc<Ledger>,
        world: World,
        backend: Arc<Backend>,
        doors: Vec<(String, SocketAddr)>,
        zipf: f64,
        seed: u64,
        habits: Habits,
    ) -> Scene {
        let mut random = Random::new(seed, 0);
        let pages = (0..world.pages())
            .map(|number| {
                let page = world.page(number);
                Known { page, path: page.path(), shown: world.shown(page) }
            })
            .collect();
        let door = |(name, address)| Door { name, address, closed: AtomicBool::new(false) };
        Scene {
            ledger,
            world,
            backend,
            doors: doors.into_iter().map(door).collect(),
            stop: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            habits,
            pages,
            zipf: Zipf::new(world.pages(), zipf, &mut random),
            items: Zipf::new(world.items(), zipf, &mut random),
            seed,
            examples: Mutex::default(),
            diary: Mutex::default(),
        }
    }

    /// A generator for one task.
    pub fn random(&self, stream: u64) -> Random {
        Random::new(self.seed, stream)
    }

    /// Writes down what happens now.
    pub fn note_down(&self, what: String) {
        let mut diary = self.diary.lock().unwrap_or_else(PoisonError::into_inner);
        diary.push((self.ledger.now(), what));
    }

    /// What was written down last, and how long ago.
    fn latest(&self) -> String {
        let diary = self.diary.lock().unwrap_or_else(PoisonError::into_inner);
        diary.last().map_or_else(String::new, |(at, what)| {
            format!("; {:.3} s after: {what}", self.ledger.now().saturating_sub(*at).as_secs_f64())
        })
    }

    /// What was written down.
    pub fn diary(&self) -> Vec<(Duration, String)> {
        self.diary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Examples of what went wrong.
    pub fn examples(&self) -> std::sync::MutexGuard<'_, Examples> {
        self.examples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An instance, better one that is not frozen.
    fn door(&self, random: &mut Random) -> usize {
        let first = random.below(self.doors.len());
        (0..self.doors.len())
            .map(|step| (first + step) % self.doors.len())
            .find(|door| !self.doors[*door].closed.load(Ordering::Relaxed))
            .unwrap_or(first)
    }

    fn error(&self, tally: &mut Tally, door: usize, what: &str) {
        tally.errors += 1;
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples();
        if examples.errors.len() < EXAMPLES {
            let (name, at) = (&self.doors[door].name, self.ledger.now().as_secs_f64());
            let text = format!("{at:.3} s, {name}: {what}{}", self.latest());
            examples.errors.push(text);
        }
    }

    /// Judges an answer to a read and counts it. `held` is what the client has, for a 304.
    fn receive(&self, tally: &mut Tally, read: &Read<'_>, answer: &Answer, held: Option<&Bytes>) {
        let body = match (answer.status, held) {
            (200, _) => &answer.body,
            (304, Some(held)) => held,
            (status, _) => {
                return self.error(tally, read.door, &format!("GET {}: {status}", read.known.path));
            }
        };
        tally.read(answer.source(), read.sent.elapsed());
        tally.not_modified += u64::from(answer.status == 304);
        self.reads.fetch_add(1, Ordering::Relaxed);
        let verdict = match read.known.page.read(body) {
            Ok(shown) => self.ledger.judge(read.note, &shown, |item| self.backend.committed(item)),
            Err(why) => Verdict::Wrong(why),
        };
        match verdict {
            Verdict::Fresh => {}
            Verdict::Stale(stale) => self.found_stale(tally, read, answer, stale),
            Verdict::Wrong(why) => self.error(tally, read.door, &format!("GET {}: {why}", read.known.path)),
        }
    }

    fn found_stale(&self, tally: &mut Tally, read: &Read<'_>, answer: &Answer, stale: Stale) {
        if answer.sabotaged {
            tally.sabotaged += 1;
            return;
        }
        tally.stale += 1;
        tally.worst = tally.worst.max(stale.age);
        tally.stale_doors[read.door] += 1;
        tally.stale_pages[match read.known.page {
            Page::Item(_) => 0,
            Page::List(_) => 1,
            Page::Board(_) => 2,
        }] += 1;
        self.stale.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples();
        let which = (read.door, stale.item, stale.shown);
        if examples.stale.len() < EXAMPLES && examples.seen.insert(which) {
            examples.stale.push(self.describe(read, answer, stale));
        }
    }

    fn describe(&self, read: &Read<'_>, answer: &Answer, stale: Stale) -> String {
        let Stale { item, shown, acknowledged, age } = stale;
        let status = answer.cache_status.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("-");
        format!(
            "{} GET {} sent at {:.3} s, answered {} after {:.1} ms: item {item} in version {shown}, \
             {acknowledged} was acknowledged (outdated for {:.1} ms; the backend is at {}) [{status}]{}",
            self.doors[read.door].name,
            read.known.path,
            read.note.taken.as_secs_f64(),
            answer.status,
            read.sent.elapsed().as_secs_f64() * 1e3,
            age.as_secs_f64() * 1e3,
            self.backend.committed(item),
            self.latest(),
        )
    }

    /// Counts the answer to a mutation, and acknowledges it if that is what it says.
    fn conclude(&self, tally: &mut Tally, door: usize, item: usize, sent: Instant, answer: &Answer) {
        let path = &self.pages[item].path;
        match answer.status {
            200 => match Page::Item(item).read(&answer.body).as_deref() {
                Ok([Shown { id, version }]) if *id == item && *version <= self.backend.committed(item) => {
                    self.ledger.acknowledge(item, *version, self.ledger.now());
                    tally.mutations += 1;
                    let time = sent.elapsed();
                    tally.mutation_time.record(time);
                    tally.added_time.record(time.saturating_sub(answer.backend.unwrap_or_default()));
                }
                other => self.error(tally, door, &format!("PUT {path}: {other:?}")),
            },
            503 | 504 if self.habits.may_refuse => tally.refused += 1,
            status => {
                let text = String::from_utf8_lossy(&answer.body);
                self.error(tally, door, &format!("PUT {path}: {status} {text}"));
            }
        }
    }
}

/// A read under way.
struct Read<'a> {
    door: usize,
    known: &'a Known,
    note: &'a Note,
    sent: Instant,
}

/// A client's connections, one to each instance, opened when they are needed.
struct Connections(Vec<Option<Connection>>);

impl Connections {
    fn new(doors: usize) -> Connections {
        Connections((0..doors).map(|_| None).collect())
    }

    async fn to(
        &mut self,
        scene: &Scene,
        door: usize,
        tally: &mut Tally,
    ) -> Result<&mut Connection, Failure> {
        let place = &mut self.0[door];
        if let Some(open) = place
            && !open.usable().await
        {
            tally.reconnects += 1;
            *place = None;
        }
        match place {
            Some(open) => Ok(open),
            none => Ok(none.insert(Connection::open(scene.doors[door].address).await?)),
        }
    }

    fn drop(&mut self, door: usize) {
        self.0[door] = None;
    }
}

/// Reads until the scene stops.
pub async fn reader(scene: Arc<Scene>, number: u64) -> Tally {
    let mut random = scene.random((3 << 40) + number);
    let mut tally = Tally::new(scene.doors.len());
    let mut connections = Connections::new(scene.doors.len());
    let mut held: Vec<Option<(HeaderValue, Bytes)>> = vec![None; scene.pages.len()];
    let mut note = Note::default();
    while !scene.stopped() {
        let door = scene.door(&mut random);
        let chosen = scene.zipf.choose(&mut random);
        let known = &scene.pages[chosen];
        let kept = if random.chance(scene.habits.conditional) { held[chosen].clone() } else { None };
        let connection = match connections.to(&scene, door, &mut tally).await {
            Ok(connection) => connection,
            Err(failure) => {
                scene.error(&mut tally, door, &format!("connecting: {failure}"));
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // From here on nothing is waited for before the request leaves.
        scene.ledger.note(&known.shown, &mut note);
        let sent = Instant::now();
        match connection.read(&known.path, kept.as_ref().map(|(etag, _)| etag)).await {
            Ok(answer) => {
                let read = Read { door, known, note: &note, sent };
                scene.receive(&mut tally, &read, &answer, kept.as_ref().map(|(_, body)| body));
                if answer.status == 200
                    && let Some(etag) = answer.etag
                {
                    held[chosen] = Some((etag, answer.body));
                }
            }
            Err(failure) => {
                scene.error(&mut tally, door, &format!("GET {}: {failure}", known.path));
                connections.drop(door);
            }
        }
    }
    tally
}

/// Mutates until the scene stops.
pub async fn writer(scene: Arc<Scene>, number: u64) -> Tally {
    let mut random = scene.random((4 << 40) + number);
    let mut tally = Tally::new(scene.doors.len());
    let mut connections = Connections::new(scene.doors.len());
    while !scene.stopped() {
        let pause = scene.habits.write_pause * 2;
        tokio::time::sleep(random.between(Duration::ZERO, pause)).await;
        let door = scene.door(&mut random);
        let item = scene.items.choose(&mut random);
        if let Err(failure) = mutation(&scene, &mut tally, &mut connections, door, item).await {
            scene.error(&mut tally, door, &format!("PUT {}: {failure}", scene.pages[item].path));
            connections.drop(door);
        }
    }
    tally
}

async fn mutation(
    scene: &Scene,
    tally: &mut Tally,
    connections: &mut Connections,
    door: usize,
    item: usize,
) -> Result<(), Failure> {
    let connection = connections.to(scene, door, tally).await?;
    let sent = Instant::now();
    let answer = connection.mutate(&scene.pages[item].path, "{}").await?;
    scene.conclude(tally, door, item, sent, &answer);
    Ok(())
}

/// What a watcher sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// A read, on a connection from before.
    Read,
    /// A read, on a connection that is opened only then.
    NewRead,
    /// A mutation.
    Mutation,
}

/// Sends one request to an instance after `wait`, whether or not it is frozen then, and takes the answer when it comes.
pub async fn watch(scene: Arc<Scene>, door: usize, knock: Knock, wait: Duration, number: u64) -> Tally {
    let mut random = scene.random((5 << 40) + number);
    let mut tally = Tally::new(scene.doors.len());
    let mut connections = Connections::new(scene.doors.len());
    if knock != Knock::NewRead
        && let Err(failure) = connections.to(&scene, door, &mut tally).await
    {
        scene.error(&mut tally, door, &format!("connecting: {failure}"));
    }
    tokio::time::sleep(wait).await;
    if knock == Knock::Mutation {
        let item = scene.items.choose(&mut random);
        if let Err(failure) = mutation(&scene, &mut tally, &mut connections, door, item).await {
            scene.error(&mut tally, door, &format!("PUT {}: {failure}", scene.pages[item].path));
        }
        return tally;
    }
    let known = &scene.pages[scene.zipf.choose(&mut random)];
    let mut note = Note::default();
    let answer = match connections.to(&scene, door, &mut tally).await {
        Ok(connection) => {
            scene.ledger.note(&known.shown, &mut note);
            let sent = Instant::now();
            connection.read(&known.path, None).await.map(|answer| (answer, sent))
        }
        Err(failure) => Err(failure),
    };
    match answer {
        Ok((answer, sent)) => {
            tally.woken += 1;
            scene.receive(&mut tally, &Read { door, known, note: &note, sent }, &answer, None);
        }
        Err(failure) => scene.error(&mut tally, door, &format!("GET {}: {failure}", known.path)),
    }
    tally
}

/// Reads every page from every instance once, when nothing changes any more; returns how many show less than what
/// the backend has committed, and how many were read.
pub async fn audit(scene: &Scene) -> (u64, u64) {
    let (mut outdated, mut read) = (0, 0);
    for door in &scene.doors {
        let Ok(mut connection) = Connection::open(door.address).await else { continue };
        for known in &scene.pages {
            // What cannot be read is missing from the number of pages read, which is checked.
            let Ok(answer) = connection.read(&known.path, None).await else { continue };
            let Ok(shown) = known.page.read(&answer.body) else { continue };
            read += 1;
            outdated += u64::from(shown.iter().any(|s| s.version < scene.backend.committed(s.id)));
        }
    }
    (outdated, read)
}
