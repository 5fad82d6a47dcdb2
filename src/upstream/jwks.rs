//! Key sets from files and URLs, refreshed behind the scenes.
//!
//! One task per set that can change. It reads again every `refresh`, earlier after a [`Refresher::poke`] (a token
//! named a key that is not there yet: at most one attempt per 10 s), and after a failure with a growing pause. A set
//! is swapped whole once the new one has been parsed and holds a usable key; until then, and through any failure, the
//! last good one stays in force. Other sets are never touched.
//!
//! What it lacks: redirects (an identity provider's key URL is final), HTTP caching fields (the operator's `refresh`
//! says how often), proxies, and any trust in keys that tokens bring along.

mod fetch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::fetch::Fetcher;
use crate::config::KeySetSource;
use crate::policy::subject::{KeySet, KeySets};

/// Largest document, bytes.
const MAX_DOCUMENT: usize = 1024 * 1024;

/// Pauses and budgets; tests use shorter ones.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two attempts, however often somebody pokes.
    gap: Duration,
    /// After a first failure; doubles with each further one.
    first_retry: Duration,
    longest_retry: Duration,
    /// For one attempt as a whole: name, connect, TLS, request, document.
    attempt: Duration,
}

const PACE: Pace = Pace {
    gap: Duration::from_secs(10),
    first_retry: Duration::from_secs(1),
    longest_retry: Duration::from_secs(60),
    attempt: Duration::from_secs(10),
};

/// A handle on the refreshing tasks. Cheap to clone; dropping it does not end them.
#[derive(Debug, Clone, Default)]
pub struct Refresher(Arc<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    name: String,
    wake: Notify,
    failure: Mutex<Option<String>>,
}

impl Refresher {
    /// Asks for an early refresh, because a token named an unknown key. Never waits; attempts stay at least 10 s apart.
    pub fn poke(&self) {
        for set in self.0.iter() {
            set.wake.notify_one();
        }
    }

    /// Sets whose last refresh failed, with the reason: name, reason.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.0.iter().filter_map(|set| Some((set.name.clone(), set.failure.lock().clone()?))).collect()
    }
}

/// Starts refreshing `sets`, whose members stand in the order of `sources`, until `shutdown`. Files are taken as read
/// already and read again after their first interval; URLs are fetched at once. Needs a running tokio runtime.
pub fn spawn(
    sources: Vec<KeySetSource>,
    sets: Arc<ArcSwap<KeySets>>,
    shutdown: CancellationToken,
) -> Refresher {
    spawn_with(PACE, sources, &sets, &shutdown)
}

fn spawn_with(
    pace: Pace,
    sources: Vec<KeySetSource>,
    sets: &Arc<ArcSwap<KeySets>>,
    shutdown: &CancellationToken,
) -> Refresher {
    let changing: Vec<(usize, String, Origin, Duration)> = sources
        .into_iter()
        .enumerate()
        .filter_map(|(index, source)| match source {
            KeySetSource::JwksFile { name, path, refresh } => {
                Some((index, name, Origin::File(path), refresh))
            }
            KeySetSource::JwksUrl { name, url, refresh } => {
                Some((index, name, Origin::Url(Fetcher::new(url)), refresh))
            }
            KeySetSource::Secret { .. } | KeySetSource::Pem { .. } => None,
        })
        .collect();
    let watched = changing.iter().map(|(_, name, ..)| Watched {
        name: name.clone(),
        wake: Notify::new(),
        failure: Mutex::new(None),
    });
    let refresher = Refresher(Arc::new(watched.collect()));
    for (slot, (index, _, origin, refresh)) in changing.into_iter().enumerate() {
        let task = Task {
            pace,
            index,
            slot,
            origin,
            refresh,
            sets: sets.clone(),
            refresher: refresher.clone(),
            last: None,
        };
        let shutdown = shutdown.clone();
        tokio::spawn(async move { shutdown.run_until_cancelled(task.run()).await });
    }
    refresher
}

enum Origin {
    File(PathBuf),
    Url(Fetcher),
}

/// Keeps one set fresh.
struct Task {
    pace: Pace,
    /// Position among all sets.
    index: usize,
    /// Position among the watched ones.
    slot: usize,
    origin: Origin,
    refresh: Duration,
    sets: Arc<ArcSwap<KeySets>>,
    refresher: Refresher,
    /// The document in force, once one was read here.
    last: Option<blake3::Hash>,
}

impl Task {
    async fn run(mut self) {
        let refresher = self.refresher.clone();
        let Some(watched) = refresher.0.get(self.slot) else { return };
        let mut failures = 0;
        let mut pause = match self.origin {
            Origin::File(_) => self.refresh,
            Origin::Url(_) => Duration::ZERO,
        };
        loop {
            // A poke during the gap is kept by `Notify` and answered right after it.
            let gap = self.pace.gap.min(pause);
            tokio::time::sleep(gap).await;
            tokio::select! {
                () = tokio::time::sleep(pause - gap) => {}
                () = watched.wake.notified() => {}
            }
            let outcome = self.attempt(&watched.name).await;
            (failures, pause) = match &outcome {
                Ok(()) => (0, self.refresh),
                Err(reason) => {
                    let pause = self.retry_after(failures);
                    tracing::warn!(
                        set = watched.name,
                        reason,
                        retry_seconds = pause.as_secs_f64(),
                        "a key set could not be refreshed; the last good one, if there is one, stays in force"
                    );
                    (failures + 1, pause)
                }
            };
            *watched.failure.lock() = outcome.err();
        }
    }

    fn retry_after(&self, failures: u32) -> Duration {
        let grown = self.pace.first_retry.saturating_mul(2_u32.saturating_pow(failures.min(16)));
        grown.min(self.pace.longest_retry).min(self.refresh.max(self.pace.first_retry))
    }

    /// Reads, parses, swaps.
    async fn attempt(&mut self, name: &str) -> Result<(), String> {
        let read = async {
            match &self.origin {
                Origin::File(path) => read_file(path).await,
                Origin::Url(fetcher) => fetcher.fetch(MAX_DOCUMENT).await,
            }
        };
        let document = tokio::time::timeout(self.pace.attempt, read)
            .await
            .map_err(|_| format!("no answer within {:?}", self.pace.attempt))??;
        let hash = blake3::hash(&document);
        if self.last == Some(hash) {
            return Ok(());
        }
        let (set, skipped) = KeySet::from_jwks(name, &document)?;
        tracing::info!(set = name, keys = set.keys.len(), skipped, "a key set was refreshed");
        self.install(set);
        self.last = Some(hash);
        Ok(())
    }

    fn install(&self, set: KeySet) {
        let set = Arc::new(set);
        self.sets.rcu(|current| {
            let mut sets = KeySets::clone(current);
            if let Some(place) = sets.0.get_mut(self.index) {
                *place = set.clone();
            }
            sets
        });
    }
}

async fn read_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let problem = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = tokio::fs::File::open(path).await.map_err(problem)?;
    let mut document = Vec::new();
    let limit = MAX_DOCUMENT as u64 + 1;
    file.take(limit).read_to_end(&mut document).await.map_err(problem)?;
    if document.len() > MAX_DOCUMENT {
        return Err(format!("{}: larger than {MAX_DOCUMENT} bytes", path.display()));
    }
    Ok(document)
}

#[cfg(test)]
mod tests;
