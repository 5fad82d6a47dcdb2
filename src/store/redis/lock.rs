//! The lock of shared coalescing: of many instances that want the same thing, one fetches.
//!
//! ```text
//!  ask ─┬─ mine ──► fetch, renewed every third of its bound ──► entry written ──► ended, announced
//!       └─ held ──► listen ◄──────────────── announcement ◄──────────────────────────┘
//! ```
//!
//! Invariants:
//! - It can only cost time. What is answered from is the entry, and that proves itself; who cannot ask goes on
//!   without, two holders are two fetches.
//! - It lasts [`BOUND`] after its holder's last word, so a dead holder costs those who wait no more than that.
//! - Only its holder changes it (compared by a random value), except that one who knows that a purge has voided the
//!   holder's fetch takes its place.
//! - Who waits asks Redis nothing but whether the lock is still held, a few times a second. The ends of all locks
//!   are announced in one stream, which one connection per instance reads, and only while somebody here waits.
//!
//! It lacks fairness, and any claim to exclude: an instance that was frozen past the bound goes on where it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::breaker::pause;
use super::link::{Connector, Dedicated, Failure, Link, pipe};
use super::tier::Names;
use super::wire;
use super::writer::Writes;
use crate::coherence::{Epoch, Stamp};
use crate::policy::key::CacheKey;
use crate::store::codec::{self, HEAD_BYTES};
use crate::store::entry::Entry;
use crate::store::random;

/// How long a lock lasts after its holder's last word, and with it how long those who wait lose by a holder that
/// dies. Longer than a pause of a busy machine, shorter than a client's patience.
pub const BOUND: Duration = Duration::from_secs(1);
/// How long an entry may take to get to Redis before its lock is given up. The last renewal is at most a third of
/// the bound ago.
const WRITE: Duration = Duration::from_millis(500);
/// What lies in a lock's place when nothing came of its fetch that others could use.
const UNSHARED: &str = "-";
/// About how many announcements are kept: who listens reads them at once.
const KEEP: u32 = 1024;
/// How long the stream of announcements outlives the last of them.
const STREAM_LIFE: Duration = Duration::from_secs(60);
/// Shortest wait of one listening. It also ends when Redis' budget is over, so that a Redis that says nothing is told
/// from one that has nothing to say.
const SHORTEST: Duration = Duration::from_millis(20);

const ASK: &str = include_str!("lock_ask.lua");
const TURN: &str = include_str!("lock_turn.lua");

/// All locks, as this instance sees them.
#[derive(Debug)]
pub struct Locks {
    names: Names,
    link: Arc<Link>,
    writes: Writes,
    connector: Arc<Connector>,
    /// `{cache:log}:ended`: names of locks that have ended.
    stream: String,
    /// Budget of one operation.
    limit: Duration,
    /// Who waits here for which lock.
    waiting: Mutex<HashMap<Arc<str>, watch::Sender<Heard>>>,
    /// Somebody has begun to wait.
    somebody: Notify,
}

/// A lock that is ours until it ends or its bound is over.
#[derive(Debug, Clone)]
pub struct Lock {
    name: Arc<str>,
    value: String,
}

/// Somebody else's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Tells one holder from the next.
    pub value: String,
    /// When its fetch began, in the log's terms, if it can be read.
    pub stamp: Option<Stamp>,
    /// How long the lock still lasts unless it is renewed.
    pub left: Duration,
}

/// What came of asking for a lock.
#[derive(Debug, Clone)]
pub enum Claim {
    /// It is ours.
    Mine(Lock),
    /// Somebody has it.
    Held(Holder),
    /// The last fetch brought nothing that others could use: nobody waits for the next.
    Unshared,
    /// Redis cannot be asked.
    Unavailable,
}

/// How a lock's fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its entry is in Redis, or somebody else should try.
    Free,
    /// There is nothing for others.
    Unshared,
}

/// What a listener has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// The lock has ended.
    Ended,
    /// Something may have been missed: better ask.
    Perhaps,
}

impl Locks {
    /// Those of one namespace, whose keys begin with `prefix`.
    pub fn new(
        prefix: &str,
        names: &Names,
        link: &Arc<Link>,
        writes: &Writes,
        connector: &Arc<Connector>,
        limit: Duration,
    ) -> Locks {
        Locks {
            names: names.clone(),
            link: Arc::clone(link),
            writes: writes.clone(),
            connector: Arc::clone(connector),
            stream: format!("{{{prefix}:log}}:ended"),
            limit,
            waiting: Mutex::default(),
            somebody: Notify::new(),
        }
    }

    /// The name of the lock on a route's key: `{prefix}:{route}:{64 hex digits}:lock`.
    pub fn name(&self, route: &str, key: &CacheKey) -> Arc<str> {
        Arc::from(self.names.of(route, key) + ":lock")
    }

    /// Asks for a lock, for a fetch with this stamp; where the holder's value is `instead_of`, in its place.
    pub async fn ask(&self, name: &Arc<str>, stamp: &Stamp, instead_of: Option<&str>) -> Claim {
        let value = value_of(u64::from_le_bytes(random()), stamp);
        let mut command = script(ASK, name, &value);
        command.arg(milliseconds(BOUND)).arg(instead_of.unwrap_or_default());
        match self.link.command(&command).await.ok().as_ref().and_then(read_ask) {
            Some((held, _)) if held == value => Claim::Mine(Lock { name: Arc::clone(name), value }),
            Some((held, _)) if held == UNSHARED => Claim::Unshared,
            Some((held, left)) => Claim::Held(Holder { stamp: stamp_of(&held), value: held, left }),
            None => Claim::Unavailable,
        }
    }

    /// Prolongs a lock. False = it is somebody else's by now; while Redis cannot be asked, it may still be ours.
    pub async fn renew(&self, lock: &Lock) -> bool {
        self.turn(lock, &lock.value).await != Some(false)
    }

    /// Ends a lock, if it is still ours, and tells those who wait.
    pub async fn end(&self, lock: &Lock, ended: Ended) {
        let left = if ended == Ended::Free { "" } else { UNSHARED };
        if self.turn(lock, left).await != Some(true) {
            return;
        }
        let mut announcement = pipe();
        announcement.cmd("XADD").arg(&self.stream).arg("MAXLEN").arg("~").arg(KEEP).arg("*");
        announcement.arg("n").arg(&*lock.name);
        announcement.cmd("PEXPIRE").arg(&self.stream).arg(milliseconds(STREAM_LIFE));
        // If it does not get through, those who wait will see for themselves.
        let _ = self.link.pipeline(&announcement).await;
    }

    /// Puts `value` in a lock's place. `None` = Redis cannot be asked.
    async fn turn(&self, lock: &Lock, value: &str) -> Option<bool> {
        let mut command = script(TURN, &lock.name, &lock.value);
        command.arg(value).arg(milliseconds(BOUND));
        match self.link.command(&command).await {
            Ok(Value::Int(done)) => Some(done == 1),
            _ => None,
        }
    }

    /// Whether an entry that was stored here has got to Redis: waits for the writes before it, then looks.
    pub async fn written(&self, entry: &Entry) -> bool {
        if !self.writes.flushed(WRITE).await {
            return false;
        }
        let mut command = redis::cmd("GETRANGE");
        command.arg(self.names.of(entry.route(), &entry.storage_key())).arg(0).arg(HEAD_BYTES - 1);
        let reply = self.link.command(&command).await;
        let head = reply.ok().as_ref().and_then(wire::bytes).map(codec::read_head);
        head.is_some_and(|head| head.is_ok_and(|head| head.stamp == entry.stamp()))
    }

    /// Begins to listen for a lock's end.
    pub fn listen(&self, name: &Arc<str>) -> Listener<'_> {
        let mut waiting = self.waiting.lock();
        let heard = match waiting.get(name) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, heard) = watch::channel(Heard::Nothing);
                waiting.insert(Arc::clone(name), sender);
                heard
            }
        };
        self.somebody.notify_one();
        Listener { locks: self, name: Arc::clone(name), heard }
    }

    /// Reads announcements for those who listen, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let mut attempt = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.somebody.notified() => {}
            }
            while !self.waiting.lock().is_empty() {
                let failure = tokio::select! {
                    () = stop.cancelled() => return,
                    heard = self.hear(&mut connection, &mut attempt) => heard.err(),
                };
                // Whoever waits finds out by asking whether it was this connection or Redis.
                self.tell_all();
                if failure.is_some() {
                    let noise = u64::from_le_bytes(random());
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause(attempt, noise)) => attempt += 1,
                    }
                }
            }
        }
    }

    /// Reads announcements as long as somebody waits.
    async fn hear(&self, connection: &mut Dedicated, attempt: &mut u32) -> Result<(), Failure> {
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let reply = connection.command(&newest, self.limit).await?;
        let newest = wire::list(&reply).and_then(|entries| wire::pairs(entries.first()?));
        let mut place = newest.map_or_else(|| "0-0".to_owned(), |(id, _)| id);
        *attempt = 0;
        // What ended before this was not heard.
        self.tell_all();
        let block = self.limit.max(SHORTEST);
        while !self.waiting.lock().is_empty() {
            let mut read = redis::cmd("XREAD");
            read.arg("BLOCK").arg(milliseconds(block)).arg("STREAMS").arg(&self.stream).arg(&place);
            let reply = connection.command(&read, block + self.limit).await?;
            for (id, fields) in announcements(&reply) {
                fields.iter().for_each(|(_, name)| self.tell(name));
                place = id;
            }
        }
        Ok(())
    }

    fn tell(&self, name: &[u8]) {
        if let Some(sender) = std::str::from_utf8(name).ok().and_then(|n| self.waiting.lock().get(n).cloned())
        {
            sender.send_replace(Heard::Ended);
        }
    }

    fn tell_all(&self) {
        for sender in self.waiting.lock().values() {
            sender.send_replace(Heard::Perhaps);
        }
    }
}

/// Somebody who waits for a lock's end.
#[derive(Debug)]
pub struct Listener<'a> {
    locks: &'a Locks,
    name: Arc<str>,
    heard: watch::Receiver<Heard>,
}

impl Listener<'_> {
    /// Waits for news, about `patience` at most: not all who wait should ask again in the same moment.
    pub async fn heard(&mut self, patience: Duration) -> Heard {
        let noise = f64::from(u16::from_le_bytes(random())) / f64::from(u16::MAX);
        match timeout(patience.mul_f64(0.75 + noise / 2.0), self.heard.changed()).await {
            Ok(Ok(())) => *self.heard.borrow_and_update(),
            _ => Heard::Nothing,
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut waiting = self.locks.waiting.lock();
        // The last receiver, this one, takes the sender with it.
        if waiting.get(&self.name).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.name);
        }
    }
}

fn script(text: &str, name: &str, value: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(1).arg(name).arg(value);
    command
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The value that is there, and how long it lasts.
fn read_ask(reply: &Value) -> Option<(String, Duration)> {
    let Value::Array(parts) = reply else { return None };
    let [value, left] = &parts[..] else { return None };
    let left = match left {
        // What lasts for ever was not put there by a holder.
        Value::Int(left) => u64::try_from(*left).ok()?,
        text => std::str::from_utf8(wire::bytes(text)?).ok()?.parse().ok()?,
    };
    Some((String::from_utf8_lossy(wire::bytes(value)?).into_owned(), Duration::from_millis(left)))
}

/// The entries of the one stream that was read; nothing came = none.
fn announcements(reply: &Value) -> Vec<wire::Pairs<'_>> {
    let entries = wire::list(reply).and_then(|streams| match wire::list(streams.first()?)? {
        [_, entries] => wire::list(entries),
        _ => None,
    });
    entries.unwrap_or_default().iter().filter_map(wire::pairs).collect()
}

/// `token.epoch.seq.rules`, in hexadecimal.
fn value_of(token: u64, stamp: &Stamp) -> String {
    format!("{token:016x}.{:032x}.{:x}.{:x}", stamp.epoch.0, stamp.seq, stamp.rules)
}

fn stamp_of(value: &str) -> Option<Stamp> {
    let mut parts = value.split('.').skip(1);
    let epoch = Epoch(u128::from_str_radix(parts.next()?, 16).ok()?);
    let seq = u64::from_str_radix(parts.next()?, 16).ok()?;
    let rules = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some(Stamp { epoch, seq, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_when_its_fetch_began() {
        let stamp = Stamp { epoch: Epoch(u128::MAX - 7), seq: u64::MAX, rules: 12 };
        assert_eq!(stamp_of(&value_of(u64::MAX, &stamp)), Some(stamp));
        for other in ["", UNSHARED, "a token of another version", "1.2", "1.2.3", "1.x.3.4"] {
            assert_eq!(stamp_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_locks_name_is_no_entrys() {
        let names = Names::new("cache");
        let key = CacheKey([0xab; 32]);
        let name = names.of("summary", &key) + ":lock";
        assert!(names.is_ours(names.of("summary", &key).as_bytes()));
        assert!(!names.is_ours(name.as_bytes()));
        assert!(!names.is_ours(b"{cache:log}:ended"));
    }

    #[test]
    fn a_reply_is_read_or_refused() {
        let text = |s: &str| Value::BulkString(s.as_bytes().to_vec());
        let some = |left| Some(("v".to_owned(), Duration::from_millis(left)));
        assert_eq!(read_ask(&Value::Array(vec![text("v"), text("1000")])), some(1000));
        assert_eq!(read_ask(&Value::Array(vec![text("v"), Value::Int(400)])), some(400));
        assert_eq!(read_ask(&Value::Array(vec![text("v"), Value::Int(-1)])), None, "without an end");
        assert_eq!(read_ask(&Value::Array(vec![text("v")])), None);
        assert_eq!(read_ask(&Value::Nil), None);
    }
}
