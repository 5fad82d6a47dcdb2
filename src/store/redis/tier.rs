//! L2: entries as Redis strings, named `{prefix}:{route}:{64 hex digits}`.
//!
//! This is the reading side: on the request path, within its deadline, on shared connections. What is read is
//! believed only after the codec, and used only after the liveness test; void values are reclaimed behind the
//! request. The writing side is [`super::writer`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use redis::{Cmd, RedisResult, Value};

use super::link::{Failure, Link};
use super::reads::Reads;
use super::writer::Writes;
use crate::coherence::Coherence;
use crate::metrics::{Metrics, StoreOp, StoreResult, StoreTier};
use crate::policy::key::CacheKey;
use crate::semantics::vary::Selecting;
use crate::store::codec::{self, MAX_OVERHEAD, Undecodable};
use crate::store::entry::{Entry, Slot, VaryIndex};
use crate::store::memory::{Asked, Choice};
use crate::store::{Absent, Lookup, Tier};
use crate::time::Clock;

/// Values from this size on are decoded away from the threads that serve requests: that takes milliseconds.
pub const HEAVY: usize = 256 * 1024;
/// Room in a command for what a read has besides a name.
const READ_ROOM: usize = 32;

/// The tier's reading side.
#[derive(Debug)]
pub struct RedisTier {
    /// How entries are named.
    pub names: Names,
    /// The request path's connections.
    pub link: Arc<Link>,
    /// The request path's reads over them.
    pub reads: Arc<Reads>,
    /// The writing side.
    pub writes: Writes,
    /// Liveness.
    pub coherence: Arc<Coherence>,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Largest body, bytes.
    pub max_body: u64,
}

/// Each byte in hexadecimal.
const DIGITS: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// How entries are named.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: Arc<str>,
}

impl Names {
    /// Names under a prefix (namespace included).
    pub fn new(prefix: &str) -> Names {
        Names { prefix: Arc::from(prefix) }
    }

    /// `{prefix}:{route}:{64 hex digits}`
    pub fn of(&self, route: &str, key: &CacheKey) -> String {
        // The stand-in for traffic without a route is written as a word.
        let route = if route == "-" { "rfc" } else { route };
        let mut name = String::with_capacity(self.prefix.len() + route.len() + 2 + 2 * key.0.len());
        for part in [&self.prefix, ":", route, ":"] {
            name.push_str(part);
        }
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(key.0) {
            *pair = DIGITS[usize::from(byte)];
        }
        // They are ASCII.
        name.push_str(str::from_utf8(&digits).unwrap_or_default());
        name
    }

    /// Whether a name is one of our entries' (other namespaces and the log share the prefix).
    pub fn is_ours(&self, name: &[u8]) -> bool {
        let Some(rest) = name.strip_prefix(self.prefix.as_bytes()).and_then(|r| r.strip_prefix(b":")) else {
            return false;
        };
        let mut parts = rest.split(|b| *b == b':');
        let (route, digits) = (parts.next(), parts.next());
        parts.next().is_none()
            && route.is_some_and(|r| !r.is_empty())
            && digits.is_some_and(|d| d.len() == 64 && d.iter().all(u8::is_ascii_hexdigit))
    }

    /// The pattern that `SCAN` narrows by.
    pub fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 2);
        for c in self.prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + ":*"
    }
}

/// A decoded value and the checksum that tells it from its successors.
type Stored = (Slot, [u8; 8]);

/// What is looked for. Handed on by reference: futures keep what they are given.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// The primary key.
    pub key: &'a CacheKey,
    /// The route's name.
    pub route: &'a Arc<str>,
    /// The request's fields.
    pub request: &'a HeaderMap,
    /// When it arrived, on `Clock::elapsed`.
    pub arrived: Duration,
}

impl RedisTier {
    /// The answer for a request, if Redis has one, within the deadline.
    pub async fn lookup(&self, sought: &Sought<'_>) -> Lookup {
        let started = self.clock.elapsed();
        let (lookup, result) = match self.find(sought).await {
            Ok(lookup) => {
                let result = match &lookup {
                    Lookup::Found(..) | Lookup::Softened(..) => StoreResult::Ok,
                    Lookup::Voided(..) | Lookup::Absent(Absent::Void(_)) => StoreResult::Void,
                    Lookup::Absent(Absent::Corrupt) => StoreResult::Corrupt,
                    Lookup::Absent(_) => StoreResult::Absent,
                };
                (lookup, result)
            }
            Err(failure) => (Lookup::Absent(Absent::StoreUnavailable), result_of(&failure)),
        };
        let elapsed = self.clock.elapsed().saturating_sub(started);
        self.metrics.store(StoreTier::Redis, StoreOp::Get, result, elapsed);
        lookup
    }

    async fn find(&self, sought: &Sought<'_>) -> Result<Lookup, Failure> {
        let (key, route) = (sought.key, sought.route);
        let name = self.names.of(route, key);
        let reply = match self.reads.one(self.read(&name)).await {
            Ok(reply) => Ok(reply),
            // A value of another type under our name: nothing that a rewrite would not heal.
            Err(Failure::Failed(error)) if error.code() == Some("WRONGTYPE") => Err(error),
            Err(failure) => return Err(failure),
        };
        let index = match self.slot(reply, key, route).await {
            Ok(None) => return Ok(Lookup::Absent(Absent::NotStored)),
            Err(_) => return Ok(Lookup::Absent(Absent::Corrupt)),
            Ok(Some((Slot::Index(index), _))) => index,
            Ok(Some((Slot::Entry(entry), checksum))) => {
                let mut choice = Choice::new(Absent::NotStored);
                self.offer(&mut choice, &name, entry, checksum, sought);
                return Ok(choice.done(Tier::Redis));
            }
        };
        // In a box, so that the many that have found an entry by now have no room for it.
        Box::pin(self.find_variant(&index, sought)).await
    }

    async fn find_variant(&self, index: &VaryIndex, sought: &Sought<'_>) -> Result<Lookup, Failure> {
        let Sought { key, route, request, .. } = *sought;
        let mut choice = Choice::new(Absent::NoVariant);
        let variants: Vec<_> =
            index.fields.iter().map(|f| key.variant(&Selecting::from_request(f, request))).collect();
        let names: Vec<_> = variants.iter().map(|v| self.names.of(route, v)).collect();
        let replies = self.reads.several(names.iter().map(|name| self.read(name)).collect()).await?;
        for (name, reply) in names.iter().zip(replies) {
            if let Ok(Some((Slot::Entry(entry), checksum))) = self.slot(reply, key, route).await {
                self.offer(&mut choice, name, entry, checksum, sought);
            }
        }
        Ok(choice.done(Tier::Redis))
    }

    /// Reads a whole value, but never more than one can be: a larger one fails its checksum.
    fn read(&self, name: &str) -> Cmd {
        let mut command = Cmd::with_capacity(4, name.len() + READ_ROOM);
        command.arg("GETRANGE").arg(name).arg(0).arg(self.max_body.saturating_add(MAX_OVERHEAD));
        command
    }

    async fn slot(
        &self,
        reply: RedisResult<Value>,
        key: &CacheKey,
        route: &Arc<str>,
    ) -> Result<Option<Stored>, Undecodable> {
        let value = match reply {
            Ok(Value::BulkString(value)) if value.is_empty() => return Ok(None),
            Ok(Value::BulkString(value)) => Bytes::from(value),
            Ok(Value::Nil) => return Ok(None),
            _ => return Err(Undecodable::Foreign),
        };
        let checksum = codec::read_head(&value)?.checksum;
        let slot = if value.len() < HEAVY {
            codec::decode(value, key, route, self.max_body)
        } else {
            let (key, route, max_body) = (*key, Arc::clone(route), self.max_body);
            tokio::task::spawn_blocking(move || codec::decode(value, &key, &route, max_body))
                .await
                .unwrap_or(Err(Undecodable::Malformed))
        };
        slot.map(|slot| Some((slot, checksum)))
    }

    fn offer(
        &self,
        choice: &mut Choice,
        name: &str,
        entry: Arc<Entry>,
        checksum: [u8; 8],
        sought: &Sought<'_>,
    ) {
        let asked = Asked { request: sought.request, arrived: sought.arrived, now: self.clock.now() };
        let rules = entry.stamp().rules;
        // An entry of other rules is absent here, but another instance may live by them (a rolling deployment).
        if !choice.offer(entry, asked, &self.coherence) && rules == self.coherence.view().rules {
            self.writes.reclaim(name, checksum);
        }
    }
}

/// How the metrics call a failure.
pub fn result_of(failure: &Failure) -> StoreResult {
    match failure {
        Failure::Skipped => StoreResult::Skipped,
        Failure::Late => StoreResult::Timeout,
        Failure::Failed(_) => StoreResult::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_the_route_and_nothing_else() {
        let names = Names::new("cache");
        let key = CacheKey([0xab; 32]);
        assert_eq!(names.of("summary", &key), format!("cache:summary:{}", "ab".repeat(32)));
        assert_eq!(names.of("-", &key), format!("cache:rfc:{}", "ab".repeat(32)));
        let key = CacheKey(std::array::from_fn(|n| n as u8 * 8));
        assert_eq!(names.of("r", &key), format!("cache:r:{}", key.hex()));
    }

    #[test]
    fn only_our_own_names_are_ours() {
        let names = Names::new("cache");
        let hex = "ab".repeat(32);
        assert!(names.is_ours(format!("cache:summary:{hex}").as_bytes()));
        for other in [
            "cache:log".to_owned(),
            format!("cache:{hex}"),
            format!("cache::{hex}"),
            format!("cache:staging:summary:{hex}"),
            format!("cache:summary:{hex}0"),
            format!("other:summary:{hex}"),
            format!("cache:summary:{}", "zz".repeat(32)),
        ] {
            assert!(!names.is_ours(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(Names::new("a*[b]").pattern(), "a\\*\\[b\\]:*");
    }
}
