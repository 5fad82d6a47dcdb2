//! Requests at a fixed rate, each due at a moment that does not depend on how the ones before it fared.
//!
//! Times count from the moment a request was due, not from when it could be sent: a server that stops for 100 ms makes
//! all wait that were due meanwhile, and all of them are counted (what wrk2 does; without that, "coordinated
//! omission" hides every stall). Requests become due in small groups, [`TICK`] apart, and are sent by whichever connection is
//! free. What was due and never answered counts with its age at the end, and as missed.
//!
//! It is a process of its own, so that it can be bound to a core; the result is JSON on standard output.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bench_rig::histogram::Histogram;
use bench_rig::{Outcome, during, tree};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Targets, Task, output};
use crate::arguments::PacedOptions;
use crate::client::{Connection, Door, Target};

/// How far groups of requests are apart.
const TICK: Duration = Duration::from_micros(200);

/// How long after the last request was due its answer may come.
const GRACE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Paced {
    /// Requests per second that were due.
    pub rate: f64,
    /// Answers, of those that count.
    pub answers: u64,
    /// All requests sent, with those before the counting began.
    pub sent: u64,
    /// Median from the moment due, µs.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
    /// Broken connections and answers other than 2xx.
    pub errors: u64,
    /// Due and not answered at the end.
    pub missed: u64,
    /// The share of a core that the generator itself used. Near 1, times are the generator's rather than the server's.
    pub busy: f64,
}

/// Starts the process for a task, and reads its result: so many seconds that do not count, and so many that do.
pub async fn start(task: &Task, rate: f64, (lead, seconds): (f64, f64), method: &Method) -> Outcome<Paced> {
    let program = std::env::current_exe().map_err(during("this program"))?.display().to_string();
    let numbers = [task.door.address.to_string(), rate.to_string(), seconds.to_string()];
    let more = [lead.to_string(), task.connections.to_string(), task.streams.to_string()];
    let mut words = vec![program, "paced".to_owned()];
    for (name, value) in ["address", "rate", "seconds", "lead", "connections", "streams"]
        .iter()
        .zip(numbers.into_iter().chain(more))
    {
        words.extend([format!("--{name}"), value]);
    }
    words.extend(match &task.targets {
        Targets::One(path) => ["--path".to_owned(), path.clone()],
        Targets::List(file) => ["--list".to_owned(), file.display().to_string()],
        Targets::Fresh(prefix) => ["--fresh".to_owned(), prefix.clone()],
    });
    words.extend(["--method".to_owned(), method.to_string()]);
    if task.door.h2 {
        words.push("--h2".to_owned());
    }
    if let Some(certificate) = &task.door.certificate {
        words.extend(["--certificate".to_owned(), certificate.display().to_string()]);
    }
    let text = output(task.core, &words, Duration::from_secs(task.seconds + 60)).await?;
    serde_json::from_str(&text).map_err(during("the generator's result"))
}

/// The process.
pub fn run(options: &PacedOptions) -> Outcome<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(during("starting"))?;
    let result = runtime.block_on(generate(options))?;
    println!("{}", serde_json::to_string(&result).map_err(during("the result"))?);
    Ok(())
}

/// What all senders share.
struct Shared {
    door: Door,
    method: Method,
    source: Source,
    due: Mutex<VecDeque<Instant>>,
    ready: Notify,
    over: AtomicBool,
    /// What was due before this moment is not counted.
    counted: Instant,
    next: AtomicU64,
    errors: AtomicU64,
    times: Mutex<Histogram>,
}

/// Where requests come from.
enum Source {
    List(Vec<Request<Empty<Bytes>>>),
    Fresh(String),
}

async fn generate(options: &PacedOptions) -> Outcome<Paced> {
    let door = Door { address: options.address, h2: options.h2, certificate: options.certificate.clone() };
    let method: Method = options.method.parse().map_err(during("the method"))?;
    let source = source(options, &door, &method)?;
    let senders = connect(&door, options).await?;
    let used = tree::processor(std::process::id());
    let began = Instant::now();
    let counted = began + Duration::from_secs_f64(options.lead);
    let end = counted + Duration::from_secs_f64(options.seconds);
    let shared = Arc::new(Shared {
        door,
        method,
        source,
        due: Mutex::default(),
        ready: Notify::new(),
        over: AtomicBool::new(false),
        counted,
        next: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        times: Mutex::default(),
    });
    let tasks: Vec<_> =
        senders.into_iter().map(|sender| tokio::spawn(work(Arc::clone(&shared), sender))).collect();
    pace(&shared, options.rate, began, end).await;
    let used = tree::processor(std::process::id()).saturating_sub(used);
    let busy = used.as_secs_f64() / began.elapsed().as_secs_f64();
    let missed = finish(&shared, tasks).await;
    let times = lock(&shared.times);
    let micros = |share| times.percentile(share).as_secs_f64() * 1e6;
    Ok(Paced {
        rate: options.rate,
        answers: times.count().saturating_sub(missed),
        sent: shared.next.load(Ordering::Relaxed),
        p50: micros(0.5),
        p99: micros(0.99),
        longest: times.longest().as_secs_f64() * 1e6,
        errors: shared.errors.load(Ordering::Relaxed),
        missed,
        busy,
    })
}

fn source(options: &PacedOptions, door: &Door, method: &Method) -> Outcome<Source> {
    if let Some(prefix) = &options.fresh {
        return Ok(Source::Fresh(prefix.clone()));
    }
    let targets = match (&options.list, &options.path) {
        (Some(file), _) => crate::keys::read(file)?,
        (None, Some(path)) => vec![Target::path(path.clone())],
        (None, None) => return Err("one of --list, --path and --fresh is needed".to_owned()),
    };
    let requests = targets.iter().map(|target| door.request(method, target));
    let requests = requests.collect::<Outcome<Vec<_>>>()?;
    if requests.is_empty() { Err("the list is empty".to_owned()) } else { Ok(Source::List(requests)) }
}

async fn connect(door: &Door, options: &PacedOptions) -> Outcome<Vec<Connection>> {
    let mut senders = Vec::new();
    for _ in 0..options.connections.max(1) {
        let connection = door.open().await?;
        for _ in 1..options.streams {
            senders.extend(connection.share());
        }
        senders.push(connection);
    }
    Ok(senders)
}

/// Makes requests due until `end`. A thread of its own sleeps, since a runtime's timers count in milliseconds.
async fn pace(shared: &Arc<Shared>, rate: f64, began: Instant, end: Instant) {
    let tick = Arc::new(Notify::new());
    let (bell, running) = (Arc::clone(&tick), Arc::new(AtomicBool::new(true)));
    let ringing = Arc::clone(&running);
    let ringer = std::thread::spawn(move || {
        let mut next = began;
        while ringing.load(Ordering::Relaxed) {
            next += TICK;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            bell.notify_one();
        }
    });
    let mut given = 0u64;
    let mut at = began;
    while at < end {
        tick.notified().await;
        // Every group whose moment has come; its requests are due at that moment, however late it is now.
        let now = Instant::now().min(end);
        while at + TICK <= now {
            at += TICK;
            let due = ((at - began).as_secs_f64() * rate) as u64;
            let mut queue = lock(&shared.due);
            for _ in given..due {
                queue.push_back(at);
                shared.ready.notify_one();
            }
            given = due;
        }
        if now == end {
            break;
        }
    }
    running.store(false, Ordering::Relaxed);
    ringer.join().ok();
}

/// Waits for the last answers; how many did not come.
async fn finish(shared: &Arc<Shared>, tasks: Vec<tokio::task::JoinHandle<()>>) -> u64 {
    shared.over.store(true, Ordering::Relaxed);
    shared.ready.notify_waiters();
    let deadline = tokio::time::Instant::now() + GRACE;
    let mut missed = 0;
    for task in tasks {
        let abort = task.abort_handle();
        if tokio::time::timeout_at(deadline, task).await.is_err() {
            abort.abort();
            // The one it was waiting for. It was due at least so long ago.
            lock(&shared.times).record(GRACE);
            missed += 1;
        }
    }
    let now = Instant::now();
    for due in lock(&shared.due).drain(..).filter(|due| *due >= shared.counted) {
        lock(&shared.times).record(now.saturating_duration_since(due));
        missed += 1;
    }
    missed
}

/// One sender: takes what is due, until nothing more will be.
async fn work(shared: Arc<Shared>, mut connection: Connection) {
    loop {
        let ready = shared.ready.notified();
        let due = lock(&shared.due).pop_front();
        let Some(due) = due else {
            if shared.over.load(Ordering::Relaxed) {
                return;
            }
            ready.await;
            continue;
        };
        let answered = match shared.request() {
            Ok(request) => connection.send(request).await,
            Err(error) => Err(error),
        };
        if due >= shared.counted {
            lock(&shared.times).record(due.elapsed());
        }
        if !answered.as_ref().is_ok_and(|status| (200..300).contains(status)) {
            shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        if answered.is_err() {
            match shared.door.open().await {
                Ok(another) => connection = another,
                Err(_) => return,
            }
        }
    }
}

impl Shared {
    fn request(&self) -> Outcome<Request<Empty<Bytes>>> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        match &self.source {
            Source::List(list) => {
                let index = usize::try_from(n).unwrap_or_default() % list.len().max(1);
                Ok(list[index].clone())
            }
            Source::Fresh(prefix) => self.door.request(&self.method, &Target::path(format!("{prefix}{n}"))),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
