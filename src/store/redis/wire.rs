//! The purge log's scripts and what comes back from them.
//!
//! Scripts are sent whole (`EVAL`) every time: Redis knows them by their digest anyway, and there is no second
//! path for a server that has forgotten them. Each touches only keys of one hash slot.

use redis::{Cmd, Value};

use crate::coherence::{Epoch, Event};

/// Reads the log's state, or makes a new epoch.
const READ: &str = concat!(include_str!("state.lua"), include_str!("read.lua"));
/// Appends an event.
const APPEND: &str = concat!(include_str!("state.lua"), include_str!("append.lua"));
/// Removes a void value.
const RECLAIM: &str = include_str!("reclaim.lua");

/// About how many events the stream keeps. Who is further behind than that starts over.
const KEEP_EVENTS: u32 = 50_000;

/// The log's keys. Both hash to one slot of a cluster: that of the stream's name.
#[derive(Debug)]
pub struct LogKeys {
    /// `cache:log`
    pub stream: String,
    /// `{cache:log}:state`
    pub state: String,
}

impl LogKeys {
    /// The keys under a prefix.
    pub fn new(prefix: &str) -> LogKeys {
        LogKeys { stream: format!("{prefix}:log"), state: format!("{{{prefix}:log}}:state") }
    }
}

/// What a log's first reader brings, should there be no log yet.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// A random epoch.
    pub epoch: Epoch,
    /// A secret; one that is in use already keeps keys as they are.
    pub secret: [u8; 32],
}

/// The log as a script found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its secret.
    pub secret: [u8; 32],
    /// Its end; after an append, the event's own sequence.
    pub seq: u64,
    /// What lies at or below has been trimmed away.
    pub floor: u64,
}

/// One entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub seq: u64,
    /// The epoch it was appended in.
    pub epoch: Epoch,
    /// What it says.
    pub event: Event,
}

/// The command that reads the state.
pub fn read(keys: &LogKeys, candidate: Candidate) -> Cmd {
    script(READ, keys, candidate)
}

/// The command that appends.
pub fn append(keys: &LogKeys, candidate: Candidate, event: &Event) -> Cmd {
    let mut command = script(APPEND, keys, candidate);
    command.arg(KEEP_EVENTS);
    for (field, value) in event.encode() {
        command.arg(field).arg(value);
    }
    command
}

/// The command that removes a value whose checksum is still this one.
pub fn reclaim(name: &str, checksum: [u8; 8]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(RECLAIM).arg(1).arg(name).arg(&checksum[..]);
    command
}

/// The command that waits for events after `seq`, at most `block_ms`.
pub fn follow(keys: &LogKeys, seq: u64, block_ms: u64) -> Cmd {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(512).arg("BLOCK").arg(block_ms).arg("STREAMS").arg(&keys.stream);
    command.arg(format!("{seq}-0"));
    command
}

/// The command that reads events `from` to `to`, some at a time.
pub fn range(keys: &LogKeys, from: u64, to: u64) -> Cmd {
    let mut command = redis::cmd("XRANGE");
    command.arg(&keys.stream).arg(format!("{from}-0")).arg(format!("{to}-0")).arg("COUNT").arg(512);
    command
}

fn script(text: &str, keys: &LogKeys, candidate: Candidate) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(2).arg(&keys.stream).arg(&keys.state);
    command.arg(format!("{:032x}", candidate.epoch.0)).arg(hex(&candidate.secret));
    command
}

/// Reads a script's reply; further elements are a newer script's business.
pub fn state(reply: &Value) -> Option<LogState> {
    let [epoch, secret, seq, floor, ..] = list(reply)? else {
        return None;
    };
    Some(LogState {
        epoch: self::epoch(bytes(epoch)?)?,
        secret: unhex(bytes(secret)?)?,
        seq: number(bytes(seq)?)?,
        floor: number(bytes(floor)?)?,
    })
}

/// Reads an `XRANGE` reply. `None` = something in it was not written by the append script.
pub fn records(reply: &Value) -> Option<Vec<Record>> {
    list(reply)?.iter().map(record).collect()
}

/// Reads an `XREAD` reply of one stream; nothing came = empty.
pub fn followed(reply: &Value) -> Option<Vec<Record>> {
    match reply {
        Value::Nil => Some(Vec::new()),
        _ => {
            let [stream] = list(reply)? else { return None };
            let [_, entries] = list(stream)? else { return None };
            records(entries)
        }
    }
}

fn record(value: &Value) -> Option<Record> {
    let [id, fields] = list(value)? else { return None };
    let seq = number(bytes(id)?.strip_suffix(b"-0")?)?;
    let mut epoch = None;
    let mut rest = Vec::new();
    let (pairs, []) = list(fields)?.as_chunks::<2>() else { return None };
    for [field, value] in pairs {
        match (bytes(field)?, bytes(value)?) {
            (b"e", value) => epoch = Some(self::epoch(value)?),
            pair => rest.push(pair),
        }
    }
    Some(Record { seq, epoch: epoch?, event: Event::decode(rest) })
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// The bytes of a string reply.
pub fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn epoch(text: &[u8]) -> Option<Epoch> {
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Epoch)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tags::Tag;

    fn text(s: &str) -> Value {
        Value::BulkString(s.as_bytes().to_vec())
    }

    #[test]
    fn names_carry_the_prefix_and_share_a_slot() {
        let keys = LogKeys::new("cache");
        assert_eq!((keys.stream.as_str(), keys.state.as_str()), ("cache:log", "{cache:log}:state"));
    }

    #[test]
    fn a_state_is_read_and_its_future_ignored() {
        let secret = [0xab; 32];
        let reply = |seq: &str| {
            Value::Array(vec![
                text(&format!("{:032x}", 77)),
                text(&hex(&secret)),
                text(seq),
                text("3"),
                Value::Array(vec![]),
            ])
        };
        assert_eq!(state(&reply("9")), Some(LogState { epoch: Epoch(77), secret, seq: 9, floor: 3 }));
        assert_eq!(state(&reply("nine")), None);
        assert_eq!(state(&Value::Nil), None);
    }

    #[test]
    fn records_are_read_or_refused() {
        let event = Event { tags: vec![Tag(5)], origin: 1, id: 2, ..Event::default() };
        let entry = |id: &str, epoch: Option<&str>| {
            let mut fields: Vec<Value> = Vec::new();
            fields.extend(epoch.into_iter().flat_map(|e| [text("e"), text(e)]));
            for (name, value) in event.encode() {
                fields.extend([text(name), Value::BulkString(value)]);
            }
            Value::Array(vec![text(id), Value::Array(fields)])
        };
        let good = Value::Array(vec![entry("4-0", Some("4d"))]);
        let record = Record { seq: 4, epoch: Epoch(77), event: event.clone() };
        assert_eq!(records(&good), Some(vec![record.clone()]));
        let followed_ = Value::Array(vec![Value::Array(vec![text("cache:log"), good])]);
        assert_eq!(followed(&followed_), Some(vec![record]));
        assert_eq!(followed(&Value::Nil), Some(vec![]));
        assert_eq!(records(&Value::Array(vec![entry("4-1", Some("4d"))])), None, "not ours");
        assert_eq!(records(&Value::Array(vec![entry("4-0", None)])), None, "no epoch");
        assert_eq!(records(&text("x")), None);
    }
}
