//! What comes from Redis: entries and indices, events of the purge log, replies of its scripts.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use redis::Value;
use weir::coherence::{Epoch, Event, EventKind, Stamp};
use weir::policy::key::CacheKey;
use weir::policy::tags::Tag;
use weir::semantics::coding::{Coded, Coding};
use weir::semantics::stored::{Lifetimes, StoredResponse, Unpacked};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::Selecting;
use weir::store::codec::{Undecodable, decode, encode_entry, encode_index, read_head};
use weir::store::entry::{Entry, Slot, VaryIndex};
use weir::store::redis::wire::{LogKeys, followed, records, state};
use weir_fuzz::{fields, numbers, sections};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const KEY: CacheKey = CacheKey([7; 32]);
const MOST: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => forged(data),
        1 => written(data),
        2 => event(data),
        _ => reply(data),
    }
});

fn route() -> Arc<str> {
    "route".into()
}

/// Bytes of anybody's, with a checksum that fits and the right key, so that the rest is looked at.
fn forged(data: &[u8]) {
    let _ = decode(Bytes::copy_from_slice(data), &KEY, &route(), MOST);
    let mut value = data.to_vec();
    if value.len() < 88 {
        return;
    }
    value[..5].copy_from_slice(b"WEIR\x03");
    value[56..88].copy_from_slice(&KEY.0);
    let seed = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
    let sum = xxh3_64_with_seed(&value[16..], seed);
    value[8..16].copy_from_slice(&sum.to_le_bytes());
    let head = read_head(&value).expect("a head");
    match decode(Bytes::from(value), &KEY, &route(), MOST) {
        Ok(Slot::Entry(entry)) => {
            assert!(!head.index && entry.response.content_size() <= MOST);
            assert!(entry.response.content_length() <= MOST, "who decodes it takes its length for a bound");
            assert_eq!((entry.stamp(), &*entry.tags), (head.stamp, &head.tags[..]));
            round_trip(&entry);
        }
        Ok(Slot::Index(index)) => {
            assert!(head.index);
            let value = encode_index(&index).expect("as large as it was");
            let back = decode(Bytes::from(value), &KEY, &route(), MOST);
            assert!(matches!(back, Ok(Slot::Index(back)) if back == index));
        }
        Err(why) => assert_eq!(why, Undecodable::Malformed),
    }
}

/// An entry like those that Weir makes.
fn written(data: &[u8]) {
    let [head, headers, selecting, tags, body] = sections(data);
    let ([sent, came, fresh, keep, status, repeat, change, coding, length], _) = numbers(head);
    let selecting: Vec<_> = fields(selecting).into_iter().filter_map(|(n, v)| Some((n?, v))).collect();
    let selecting = selecting.into_iter().map(|(n, v)| (n, Some(v).filter(|v| !v.is_empty()))).collect();
    let response = Unpacked {
        status: StatusCode::from_u16(u16::try_from(status).unwrap_or(200)).unwrap_or(StatusCode::OK),
        headers: fields(headers),
        body: body.repeat((repeat % 64) as usize + 1).into(),
        coded: coded(coding, length),
        response_time: Timestamp(came),
        initial_age: Duration::from_millis(came),
        lifetimes: Lifetimes {
            fresh: Duration::from_millis(fresh),
            keep: Duration::from_millis(keep),
            always_validate: sent & 1 != 0,
            must_revalidate: came & 1 != 0,
            ..Lifetimes::default()
        },
        selecting: Selecting(selecting),
    };
    let stamp = Stamp { epoch: Epoch(u128::from(sent) << 60), seq: came, rules: fresh };
    let tags: Vec<_> = tags.as_chunks().0.iter().map(|tag| Tag(u64::from_le_bytes(*tag))).collect();
    let entry = Entry::new(KEY, &route(), stamp, tags, response.pack());
    let Some(value) = round_trip(&entry) else { return };
    // Not a bit may change, nor anybody else read it.
    assert_eq!(decode(value.clone(), &CacheKey([8; 32]), &route(), MOST).err(), Some(Undecodable::OtherKey));
    let mut changed = value.to_vec();
    let at = (change / 8) as usize % changed.len();
    changed[at] ^= 1 << (change % 8);
    assert!(decode(Bytes::from(changed), &KEY, &route(), MOST).is_err(), "bit {} of byte {at}", change % 8);
    assert!(decode(value.slice(..at), &KEY, &route(), MOST).is_err(), "cut at {at}");
    let size = entry.response.content_length().max(entry.response.content_size());
    assert!(size == 0 || decode(value, &KEY, &route(), size - 1).is_err(), "over the bound");
    let index = VaryIndex::of(&entry);
    let value = encode_index(&index).expect("small");
    let back = decode(Bytes::from(value), &KEY, &route(), MOST);
    assert!(matches!(back, Ok(Slot::Index(back)) if *back == index));
}

/// Of which content, as its fields have it, the body is a coding. Its length is bounded as the body's is.
fn coded(coding: u64, length: u64) -> Option<Coded> {
    let coding = *Coding::ALL.get((coding % 4) as usize)?;
    Some(Coded { coding, length: length % (MOST + 1) })
}

fn round_trip(entry: &Entry) -> Option<Bytes> {
    let value = Bytes::from(encode_entry(entry)?);
    let head = read_head(&value).expect("a head");
    assert_eq!((head.stamp, &head.tags[..], head.gone_at), (entry.stamp(), &*entry.tags, entry.gone_at()));
    let Ok(Slot::Entry(back)) = decode(value.clone(), &KEY, &route(), MOST) else {
        panic!("{entry:?} is lost")
    };
    let (ours, theirs) = (&entry.response, &back.response);
    let seen = |r: &StoredResponse| (r.status(), r.fields().as_bytes().to_vec(), r.body());
    assert_eq!(seen(ours), seen(theirs));
    assert_eq!(ours.response_time(), theirs.response_time());
    assert_eq!((ours.selecting(), ours.coded()), (theirs.selecting(), theirs.coded()));
    let most = Duration::from_secs(u32::MAX.into());
    assert_eq!(ours.initial_age().min(most), theirs.initial_age().min(most));
    assert_eq!(ours.lifetimes().fresh.min(most), theirs.lifetimes().fresh.min(most));
    assert_eq!(ours.lifetimes().always_validate, theirs.lifetimes().always_validate);
    assert_eq!(ours.lifetimes().must_revalidate, theirs.lifetimes().must_revalidate);
    assert_eq!((entry.stamp(), &entry.tags), (back.stamp(), &back.tags));
    Some(value)
}

/// What is not understood is a flush; what is understood says the same when it is written again.
fn event(data: &[u8]) {
    let pieces: Vec<&[u8]> = data.split(|&b| b == b'\n').collect();
    let pairs = pieces.as_chunks::<2>().0.iter().map(|[field, value]| (*field, *value));
    let event = Event::decode(pairs.clone());
    let fields = event.encode();
    assert_eq!(Event::decode(fields.iter().map(|(f, v)| (f.as_bytes(), v.as_slice()))), event);
    let novel = Event::decode(pairs.chain([(&b"novel"[..], &b""[..])]));
    assert_eq!(novel.kind, EventKind::Flush);
}

/// Replies of any shape.
fn reply(data: &[u8]) {
    let value = shape(&mut data.iter().copied(), 0);
    let keys = LogKeys::new("cache");
    if let Some(state) = state(&value, Duration::from_secs(1)) {
        assert_eq!((state.roster.epoch, state.roster.end), (state.epoch, state.end));
    }
    if let Some(found) = records(&value) {
        let Value::Array(items) = &value else { panic!("records of {value:?}") };
        assert_eq!(found.len(), items.len(), "an event was skipped");
    }
    let _ = followed(&keys, &value);
    let _ = HeaderValue::from_bytes(data);
    // As an entry of each of the three streams.
    for stream in [&keys.stream, &keys.acks, &keys.inbox] {
        let name = Value::BulkString(stream.clone().into_bytes());
        let whole = Value::Array(vec![Value::Array(vec![name, value.clone()])]);
        let Some(found) = followed(&keys, &whole) else { continue };
        let Value::Array(items) = &value else { panic!("entries of {value:?}") };
        assert!(*stream != keys.stream || found.events.len() == items.len(), "an event was skipped");
        assert!(found.acks.len() + found.outside.len() <= items.len());
    }
}

fn shape(bytes: &mut impl Iterator<Item = u8>, depth: usize) -> Value {
    let kind = bytes.next().unwrap_or_default();
    let length = usize::from(kind >> 3);
    match kind % 8 {
        0 => Value::Nil,
        1 => Value::Int(i64::from(bytes.next().unwrap_or_default()) - 128),
        2..=4 if depth < 6 => Value::Array((0..length).map(|_| shape(bytes, depth + 1)).collect()),
        5 => Value::SimpleString(bytes.take(length).map(char::from).collect()),
        6 => Value::Okay,
        _ => Value::BulkString(bytes.take(length).collect()),
    }
}
