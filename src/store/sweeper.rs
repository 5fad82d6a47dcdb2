//! Reclaims void and expired entries behind the scenes, a few at a time, and counts what a purge would void.
//!
//! Nothing depends on it but memory: what it has not reached yet is void all the same. Memory is walked slot by
//! slot, with pauses; Redis by `SCAN` and the heads of values, with pauses, and not at all while nothing can be
//! judged (the link is down, the log is not followed) or nothing has been purged since the last walk, as Redis
//! drops what has expired by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::codec::Head;
use super::memory::Memory;
use super::redis::Redis;
use super::{Counted, Slot};
use crate::coherence::{Coherence, Liveness, Void};
use crate::policy::tags::Tag;
use crate::time::Clock;

/// Pause between two steps through memory, and how many slots a step looks at.
const MEMORY_PAUSE: Duration = Duration::from_secs(1);
const MEMORY_STEP: usize = 4096;
/// Pause between two steps through Redis (some 200 names each).
const REDIS_PAUSE: Duration = Duration::from_millis(250);
/// A walk through Redis begins at least this often, to count entries: every so many pauses.
const REDIS_ROUND: u32 = 240;
/// Most heads that one count looks at.
const COUNT_MOST: u64 = 1_000_000;

/// What a sweeper works on.
#[derive(Debug)]
pub struct Sweeper {
    /// L1.
    pub memory: Option<Arc<Memory>>,
    /// L2.
    pub redis: Option<Arc<Redis>>,
    /// Liveness.
    pub coherence: Arc<Coherence>,
    /// Time.
    pub clock: Clock,
    /// Counts entries removed from memory; `None` where Redis' are counted.
    pub deletes: Option<Arc<AtomicU64>>,
}

impl Sweeper {
    /// Sweeps until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.sweep_memory(), self.sweep_redis()) } => {}
        }
    }

    async fn sweep_memory(&self) {
        let Some(memory) = &self.memory else { return };
        loop {
            // The walk holds no lock between its steps; a new one begins when it is through.
            let mut walk = memory.iter();
            loop {
                sleep(MEMORY_PAUSE).await;
                let now = self.clock.now();
                let mut seen = 0;
                for (key, slot) in walk.by_ref().take(MEMORY_STEP) {
                    seen += 1;
                    if !Memory::useless(&slot, &self.coherence, now) {
                        continue;
                    }
                    let dropped = match &slot {
                        Slot::Entry(entry) => memory.drop_entry(&key, entry),
                        Slot::Index(index) => memory.drop_index(&key, index),
                    };
                    if let (true, Slot::Entry(_), Some(deletes)) = (dropped, &slot, &self.deletes) {
                        deletes.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if seen < MEMORY_STEP {
                    break;
                }
            }
        }
    }

    async fn sweep_redis(&self) {
        let Some(redis) = &self.redis else { return };
        let (mut walk, mut connection) = redis.walk();
        let (mut swept_version, mut version, mut idle, mut seen) = (0, 0, REDIS_ROUND, 0);
        loop {
            sleep(REDIS_PAUSE).await;
            if !redis.may_judge() {
                continue;
            }
            if walk.at_start() {
                version = self.coherence.view().version.load(Ordering::Acquire);
                if version == swept_version && idle < REDIS_ROUND {
                    idle += 1;
                    continue;
                }
                (idle, seen) = (0, 0);
            }
            match walk.step(&mut connection).await {
                Ok(found) => {
                    seen += self.sweep_step(redis, &found);
                    if walk.at_start() {
                        redis.saw(seen);
                        swept_version = version;
                    }
                }
                Err(failure) => tracing::debug!(%failure, "a sweep step failed"),
            }
        }
    }

    /// Has void values reclaimed; returns how many of the others are entries.
    fn sweep_step(&self, redis: &Redis, found: &[(Vec<u8>, Head)]) -> u64 {
        let now = self.clock.now();
        let mut entries = 0;
        for (name, head) in found {
            match self.coherence.liveness(&head.stamp, &head.tags) {
                // Of other rules: absent here, but perhaps another instance's (a rolling deployment).
                Liveness::Live | Liveness::Void(Void::Rules) if head.gone_at > now => {
                    entries += u64::from(!head.index);
                }
                // An index is no answer, so purges do not concern it; another epoch's leads nowhere.
                Liveness::Void(Void::Floor | Void::Purged) if head.index => {}
                _ => {
                    if let Ok(name) = std::str::from_utf8(name) {
                        redis.tier.writes.reclaim(name, head.checksum);
                    }
                }
            }
        }
        entries
    }
}

/// Where [`count`] looks.
#[derive(Debug)]
pub struct Places<'a> {
    /// L1.
    pub memory: Option<&'a Memory>,
    /// L2.
    pub redis: Option<&'a Redis>,
    /// Liveness.
    pub coherence: &'a Coherence,
    /// Time.
    pub clock: &'a Clock,
}

/// How many live entries carry one of `tags`: by Redis' heads where it can be reached, and in memory. The greater
/// number counts, as an entry is mostly in both.
///
/// A walk through Redis takes round trips: without `far`, memory alone is looked at.
pub async fn count(places: &Places<'_>, tags: &[Tag], far: bool, limit: Duration) -> Counted {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    let (mut in_memory, mut in_redis) = (0, 0);
    let complete = timeout(limit, async {
        count_near(places, &tags, &mut in_memory).await;
        if far { count_far(places, &tags, &mut in_redis).await } else { places.redis.is_none() }
    })
    .await;
    Counted { entries: in_memory.max(in_redis), complete: complete.unwrap_or(false) }
}

async fn count_near(places: &Places<'_>, tags: &[Tag], entries: &mut u64) {
    let Some(memory) = places.memory else { return };
    let mut walk = memory.iter().peekable();
    let now = places.clock.now();
    while walk.peek().is_some() {
        let step = walk.by_ref().take(MEMORY_STEP);
        let carrying = step.filter(|(_, slot)| Memory::carries(slot, tags, places.coherence, now)).count();
        *entries += u64::try_from(carrying).unwrap_or(u64::MAX);
        // Requests go first.
        tokio::task::yield_now().await;
    }
}

/// False = not all of Redis was seen.
async fn count_far(places: &Places<'_>, tags: &[Tag], entries: &mut u64) -> bool {
    let Some(redis) = places.redis else { return true };
    if !redis.may_judge() {
        return false;
    }
    let (mut walk, mut connection) = redis.walk();
    let mut seen = 0;
    while seen < COUNT_MOST {
        let Ok(found) = walk.step(&mut connection).await else { return false };
        for (_, head) in &found {
            seen += 1;
            *entries += u64::from(carries(head, tags, places.coherence, places.clock));
        }
        if walk.at_start() {
            return true;
        }
    }
    false
}

fn carries(head: &Head, tags: &[Tag], coherence: &Coherence, clock: &Clock) -> bool {
    !head.index
        && head.gone_at > clock.now()
        && head.tags.iter().any(|t| tags.binary_search(t).is_ok())
        && coherence.liveness(&head.stamp, &head.tags) == Liveness::Live
}
