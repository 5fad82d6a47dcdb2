//! The purge log's scripts and what comes back from them.
//!
//! Scripts are sent whole (`EVAL`) every time: Redis knows them by their digest anyway, and there is no second
//! path for a server that has forgotten them. Each touches only keys of one hash slot.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::coherence::lease::Beat;
use crate::coherence::{Agreement, Epoch, Event, MemberId, Mode, Roster};

/// Reads the log's state, or makes a new epoch.
const READ: &str = concat!(include_str!("state.lua"), include_str!("read.lua"));
/// Registers a member.
const BEAT: &str = concat!(include_str!("state.lua"), include_str!("beat.lua"));
/// Appends events, records and withdraws intents.
const WRITE: &str = concat!(include_str!("state.lua"), include_str!("write.lua"));
/// Removes a member and appends its intents.
const EVICT: &str = concat!(include_str!("state.lua"), include_str!("evict.lua"));
/// Removes a void value.
const RECLAIM: &str = include_str!("reclaim.lua");

/// About how many events the stream keeps. Who is further behind than that starts over.
const KEEP_EVENTS: u32 = 50_000;
/// About how many acknowledgements are kept: who waits reads them at once.
const KEEP_ACKS: u32 = 256;

/// The log's keys. All hash to one slot of a cluster: that of the stream's name.
#[derive(Debug)]
pub struct LogKeys {
    /// `cache:log`
    pub stream: String,
    /// `{cache:log}:state`
    pub state: String,
    /// `{cache:log}:members`: member → number of its last beat.
    pub members: String,
    /// `{cache:log}:intents`: `member:id` → an event's fields as netstrings.
    pub intents: String,
    /// `{cache:log}:acks`: who has applied how much.
    pub acks: String,
    /// `{cache:log}:inbox`: purges from outside.
    pub inbox: String,
}

impl LogKeys {
    /// The keys under a prefix.
    pub fn new(prefix: &str) -> LogKeys {
        let beside = |what: &str| format!("{{{prefix}:log}}:{what}");
        LogKeys {
            stream: format!("{prefix}:log"),
            state: beside("state"),
            members: beside("members"),
            intents: beside("intents"),
            acks: beside("acks"),
            inbox: beside("inbox"),
        }
    }
}

/// What a log's first reader brings, should there be no log yet.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// A random epoch.
    pub epoch: Epoch,
    /// A secret; one that is in use already keeps keys as they are.
    pub secret: [u8; 32],
    /// What the namespace is to agree on.
    pub agreement: Agreement,
}

/// The log as a script left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its secret.
    pub secret: [u8; 32],
    /// Its end.
    pub end: u64,
    /// What lies at or below has been trimmed away.
    pub floor: u64,
    /// Who takes part.
    pub roster: Roster,
    /// After a write, the log's end after each of its parts: an appended event's own sequence; 0 = it was not appended.
    pub seqs: Vec<u64>,
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

/// A member's word on how much it has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Whose.
    pub member: MemberId,
    /// Of which epoch.
    pub epoch: Epoch,
    /// Everything up to here.
    pub applied: u64,
}

/// A purge that somebody outside asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Its place in the inbox.
    pub id: String,
    /// Fields and values, as far as they are text; what is none is left out and makes it `garbled`.
    pub fields: Vec<(String, String)>,
    /// Something in it could not be read.
    pub garbled: bool,
}

/// What a wait at the streams has brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Followed {
    /// Events, in order.
    pub events: Vec<Record>,
    /// Acknowledgements.
    pub acks: Vec<Ack>,
    /// Purges from outside.
    pub outside: Vec<Outside>,
    /// Where to go on in the acknowledgements.
    pub last_ack: Option<String>,
}

/// Where a follower stands in the three streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The last event applied.
    pub seq: u64,
    /// The last acknowledgement seen.
    pub ack: String,
    /// The last purge from outside seen.
    pub inbox: String,
}

/// Something to be written to the log.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Record an intent under this number.
    Intend(u64, &'a Event),
    /// Forget it.
    Withdraw(u64),
    /// Append an event; forget this intent; only if this purge from outside still waits.
    Append(&'a Event, Option<u64>, Option<&'a str>),
}

/// The command that reads the state.
pub fn read(keys: &LogKeys, candidate: Candidate) -> Cmd {
    script(READ, keys, candidate)
}

/// The command that registers a member.
pub fn beat(keys: &LogKeys, candidate: Candidate, me: MemberId, beat: &Beat) -> Cmd {
    let mut command = script(BEAT, keys, candidate);
    let settled = beat.settled.map_or(String::new(), |epoch| format!("{:032x}", epoch.0));
    command.arg(me.to_string()).arg(beat.number).arg(settled);
    command
}

/// The command that writes `parts`, in order, for `me`, whose last beat had this number.
pub fn write(keys: &LogKeys, candidate: Candidate, me: MemberId, beat: u64, parts: &[Part<'_>]) -> Cmd {
    let mut command = script(WRITE, keys, candidate);
    command.arg(KEEP_EVENTS).arg(me.to_string()).arg(beat);
    for part in parts {
        match part {
            Part::Intend(id, event) => command.arg("intend").arg(*id).arg(netstrings(event)),
            Part::Withdraw(id) => command.arg("withdraw").arg(*id),
            Part::Append(event, intent, claim) => {
                let intent = intent.map_or(String::new(), |id| id.to_string());
                let fields = event.encode();
                command.arg("append").arg(intent).arg(claim.unwrap_or_default()).arg(fields.len() * 2);
                for (field, value) in fields {
                    command.arg(field).arg(value);
                }
                &mut command
            }
        };
    }
    command
}

/// The command that removes a member and appends its intents: if its last beat still has this number, or whichever.
pub fn evict(keys: &LogKeys, candidate: Candidate, who: MemberId, beat: Option<u64>) -> Cmd {
    let mut command = script(EVICT, keys, candidate);
    command.arg(KEEP_EVENTS).arg(who.to_string()).arg(beat.map_or(String::new(), |beat| beat.to_string()));
    command
}

/// The command that tells everybody how much has been applied here.
pub fn ack(keys: &LogKeys, ack: &Ack) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(&keys.acks).arg("MAXLEN").arg("~").arg(KEEP_ACKS).arg("*");
    command.arg("m").arg(ack.member.to_string());
    command.arg("e").arg(format!("{:032x}", ack.epoch.0)).arg("a").arg(ack.applied);
    command
}

/// The command that asks for a purge from outside.
pub fn outside(keys: &LogKeys, fields: &[(&str, &str)]) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(&keys.inbox).arg("*");
    for (field, value) in fields {
        command.arg(*field).arg(*value);
    }
    command
}

fn netstrings(event: &Event) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut push = |text: &[u8]| {
        packed.extend_from_slice(format!("{}:", text.len()).as_bytes());
        packed.extend_from_slice(text);
    };
    for (field, value) in event.encode() {
        push(field.as_bytes());
        push(&value);
    }
    packed
}

/// The command that removes a value whose checksum is still this one.
pub fn reclaim(name: &str, checksum: [u8; 8]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(RECLAIM).arg(1).arg(name).arg(&checksum[..]);
    command
}

/// The command that waits for events, acknowledgements and purges from outside, at most `block`.
pub fn follow(keys: &LogKeys, places: &Places, block: Duration) -> Cmd {
    let mut command = redis::cmd("XREAD");
    let block = u64::try_from(block.as_millis()).unwrap_or(1000).max(1);
    command.arg("COUNT").arg(512).arg("BLOCK").arg(block).arg("STREAMS");
    command.arg(&keys.stream).arg(&keys.acks).arg(&keys.inbox);
    command.arg(format!("{}-0", places.seq)).arg(&places.ack).arg(&places.inbox);
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
    command.arg(text).arg(6).arg(&keys.stream).arg(&keys.state).arg(&keys.members);
    command.arg(&keys.intents).arg(&keys.acks).arg(&keys.inbox);
    command.arg(format!("{:032x}", candidate.epoch.0)).arg(hex(&candidate.secret));
    let lease = u64::try_from(candidate.agreement.lease.as_millis()).unwrap_or(u64::MAX);
    command.arg(lease).arg(candidate.agreement.mode.as_str());
    command
}

/// Reads the reply to a script that was asked to run at `asked` (on `Clock::elapsed`); further elements are a newer
/// script's business.
pub fn state(reply: &Value, asked: Duration) -> Option<LogState> {
    let [epoch, secret, end, floor, turn, lease, mode, settled, members, rest @ ..] = list(reply)? else {
        return None;
    };
    let (epoch, end) = (self::epoch(bytes(epoch)?)?, number(bytes(end)?)?);
    let agreement = Agreement {
        lease: Duration::from_millis(number(bytes(lease)?)?),
        mode: Mode::parse(std::str::from_utf8(bytes(mode)?).ok()?)?,
    };
    let seqs = match rest {
        [seqs, ..] => list(seqs)?.iter().map(|seq| number(bytes(seq)?)).collect::<Option<Vec<_>>>()?,
        [] => Vec::new(),
    };
    Some(LogState {
        epoch,
        secret: unhex(bytes(secret)?)?,
        end,
        floor: number(bytes(floor)?)?,
        roster: Roster {
            asked,
            epoch,
            turn: number(bytes(turn)?)?,
            end,
            agreement,
            settled: bytes(settled)? == b"1",
            members: self::members(members)?,
        },
        seqs,
    })
}

fn members(value: &Value) -> Option<Vec<(MemberId, u64)>> {
    let (pairs, []) = list(value)?.as_chunks::<2>() else { return None };
    pairs.iter().map(|[who, beat]| Some((member(bytes(who)?)?, number(bytes(beat)?)?))).collect()
}

fn member(text: &[u8]) -> Option<MemberId> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(MemberId)
}

/// Reads an `XRANGE` reply. `None` = something in it was not written by the write script.
pub fn records(reply: &Value) -> Option<Vec<Record>> {
    list(reply)?.iter().map(record).collect()
}

/// Reads an `XREAD` reply; nothing came = empty. `None` = an event in it is none of the scripts'.
pub fn followed(keys: &LogKeys, reply: &Value) -> Option<Followed> {
    let mut followed = Followed::default();
    if *reply == Value::Nil {
        return Some(followed);
    }
    for stream in list(reply)? {
        let [name, entries] = list(stream)? else { return None };
        let name = bytes(name)?;
        if name == keys.stream.as_bytes() {
            followed.events = records(entries)?;
        } else if name == keys.acks.as_bytes() {
            // Anybody may write here what they like: what is no acknowledgement is none.
            followed.acks = list(entries)?.iter().filter_map(acknowledgement).collect();
            followed.last_ack = list(entries)?.last().and_then(|entry| Some(pairs(entry)?.0));
        } else {
            followed.outside = list(entries)?.iter().filter_map(from_outside).collect();
        }
    }
    Some(followed)
}

/// An entry's id and its fields.
pub(super) type Pairs<'a> = (String, Vec<(&'a [u8], &'a [u8])>);

pub(super) fn pairs(entry: &Value) -> Option<Pairs<'_>> {
    let [id, fields] = list(entry)? else { return None };
    let id = std::str::from_utf8(bytes(id)?).ok()?.to_owned();
    let (pairs, []) = list(fields)?.as_chunks::<2>() else { return None };
    let pairs = pairs.iter().map(|[field, value]| Some((bytes(field)?, bytes(value)?)));
    Some((id, pairs.collect::<Option<Vec<_>>>()?))
}

fn acknowledgement(entry: &Value) -> Option<Ack> {
    let (_, pairs) = pairs(entry)?;
    let of = |name: &[u8]| pairs.iter().find(|(field, _)| *field == name).map(|(_, value)| *value);
    Some(Ack { member: member(of(b"m")?)?, epoch: epoch(of(b"e")?)?, applied: number(of(b"a")?)? })
}

fn from_outside(entry: &Value) -> Option<Outside> {
    let (id, pairs) = pairs(entry)?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let fields: Vec<_> = pairs.iter().filter_map(|(f, v)| Some((text(f)?, text(v)?))).collect();
    Some(Outside { id, garbled: fields.len() < pairs.len(), fields })
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

pub(super) fn list(value: &Value) -> Option<&[Value]> {
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
        let reply = |seq: &str, mode: &str| {
            let words = ["3", "12", "2000", mode, "1"].map(text);
            let mut reply = vec![text(&format!("{:032x}", 77)), text(&hex(&secret)), text(seq)];
            reply.extend(words);
            reply.push(Value::Array(vec![text("00000000000000ff"), text("4")]));
            reply.push(Value::Array(vec![text("8"), text("9")]));
            reply.push(text("what comes later"));
            Value::Array(reply)
        };
        let roster = Roster {
            asked: Duration::ZERO,
            epoch: Epoch(77),
            turn: 12,
            end: 9,
            agreement: Agreement { lease: Duration::from_secs(2), mode: Mode::Strong },
            settled: true,
            members: vec![(MemberId(255), 4)],
        };
        let told = LogState { epoch: Epoch(77), secret, end: 9, floor: 3, roster, seqs: vec![8, 9] };
        assert_eq!(state(&reply("9", "strong"), Duration::ZERO), Some(told));
        assert_eq!(state(&reply("nine", "strong"), Duration::ZERO), None);
        assert_eq!(state(&reply("9", "weak"), Duration::ZERO), None);
        assert_eq!(state(&Value::Nil, Duration::ZERO), None);
    }

    #[test]
    fn what_followers_read_is_told_apart_by_its_stream() {
        let keys = LogKeys::new("cache");
        let entry = |id: &str, fields: &[&str]| {
            Value::Array(vec![text(id), Value::Array(fields.iter().map(|f| text(f)).collect())])
        };
        let stream = |name: &str, entries| Value::Array(vec![text(name), Value::Array(entries)]);
        let reply = Value::Array(vec![
            stream(
                &keys.acks,
                vec![entry("5-1", &["m", "ff", "e", "4d", "a", "7"]), entry("5-2", &["m", "?"])],
            ),
            stream(&keys.inbox, vec![entry("6-0", &["tag", "session:abc"])]),
        ]);
        let followed = followed(&keys, &reply).unwrap();
        assert_eq!(followed.acks, [Ack { member: MemberId(255), epoch: Epoch(77), applied: 7 }]);
        assert_eq!(followed.last_ack.as_deref(), Some("5-2"));
        assert_eq!(followed.outside[0].fields, [("tag".to_owned(), "session:abc".to_owned())]);
        assert!(followed.events.is_empty());
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
        let keys = LogKeys::new("cache");
        assert_eq!(followed(&keys, &followed_).unwrap().events, [record]);
        assert_eq!(followed(&keys, &Value::Nil), Some(Followed::default()));
        assert_eq!(records(&Value::Array(vec![entry("4-1", Some("4d"))])), None, "not ours");
        assert_eq!(records(&Value::Array(vec![entry("4-0", None)])), None, "no epoch");
        assert_eq!(records(&text("x")), None);
    }
}
