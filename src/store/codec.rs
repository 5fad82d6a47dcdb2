//! The binary form of an entry in Redis: fixed header, fields, body; checksum; zstd when it pays.
//!
//! ```text
//!  0  magic "WEIR"        8  checksum            40  rules            88  tags, 8 bytes each
//!  4  version            16  epoch               48  gone at, ms         then, for an entry: times, windows,
//!  5  flags              32  sequence            56  primary key         status, selecting, fields, body;
//!  6  number of tags                                                     for an index: field lists, variants
//! ```
//!
//! All numbers are little endian. The checksum (xxh3-64, seeded with the first eight bytes) covers everything but
//! itself. What a sweeper needs (stamp, expiry, tags) lies in front, so that it can read the head alone.
//!
//! Decoding takes slices of the one buffer it is given: an uncompressed body is not copied. Nothing in it is
//! believed: every length is checked against what is there, every duration and size against a bound, and the
//! key inside against the key asked for. It lacks sealing (AEAD); a version number is there for it.

use std::cell::RefCell;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use zstd::bulk::{Compressor, Decompressor};

use super::entry::{Entry, Slot, VaryIndex};
use crate::coherence::{Epoch, Stamp};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::coding::{Coded, Coding};
use crate::semantics::stored::{JOINED, Lifetimes, StoredResponse, Unpacked};
use crate::semantics::timestamp::Timestamp;
use crate::semantics::vary::Selecting;

const MAGIC: &[u8; 4] = b"WEIR";
const VERSION: u8 = 3;
const FLAG_ZSTD: u8 = 1;
const FLAG_INDEX: u8 = 2;
const FIXED: usize = 88;
const CHECKSUM: std::ops::Range<usize> = 8..16;

/// Bytes of a value that hold its head, for up to 245 tags; sweepers read no more.
pub const HEAD_BYTES: usize = 2048;
/// What a value may take beside its body.
pub const MAX_OVERHEAD: u64 = 1 << 20;
/// Bodies below this are not worth compressing.
const COMPRESS_FROM: usize = 1024;
/// Level for bodies that are not large: it finds what is repeated, and leaves the rest as it is. To read the tables of a
/// coding of that rest would be most of the work at each hit: a list of 1 KiB in JSON is read in 0.35 µs instead of 1.4,
/// and takes 67 % of its size instead of 52.
const SMALL: i32 = -1;
/// Level for large ones, which fill Redis: at 64 KiB, 78 % of what the other makes of them, for a tenth more work.
const LARGE: i32 = 1;
/// Longer durations (136 years) are cut; this keeps every later sum within range.
const MAX_SECONDS: u64 = u32::MAX as u64;

/// Why a value is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecodable {
    /// Not written by Weir.
    Foreign,
    /// Written by another version.
    Version,
    /// The checksum does not fit the bytes.
    Checksum,
    /// Another key's value.
    OtherKey,
    /// A length, number or name that cannot be, or a body over the limit.
    Malformed,
}

/// The parts of a value that lie in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The entry's stamp.
    pub stamp: Stamp,
    /// Its tags, as far as the bytes at hand reach.
    pub tags: Vec<Tag>,
    /// When it is gone.
    pub gone_at: Timestamp,
    /// An index of variants, not an entry.
    pub index: bool,
    /// The value's checksum: tells one value from another.
    pub checksum: [u8; 8],
}

/// Writes an entry. `None` = it has parts too large for the format, and cannot be kept outside memory.
pub fn encode_entry(entry: &Entry) -> Option<Vec<u8>> {
    let response = &entry.response;
    let compressed = compress(response);
    let body: &[u8] = compressed.as_deref().unwrap_or(response.body_bytes());
    let flags = if compressed.is_some() { FLAG_ZSTD } else { 0 };
    let fields = response.fields().as_bytes();
    let room = fields.len() + body.len() + 512;
    let mut w = Writer::start(flags, &entry.stamp(), entry.gone_at(), &entry.key, &entry.tags, room)?;
    w.u64(response.response_time().0);
    w.duration(response.initial_age());
    let lifetimes = response.lifetimes();
    for window in
        [lifetimes.fresh, lifetimes.stale_while_revalidate, lifetimes.stale_if_error, lifetimes.keep]
    {
        w.duration(window);
    }
    let coded = response.coded();
    w.u8(u8::from(lifetimes.always_validate) | u8::from(lifetimes.must_revalidate) << 1);
    w.u8(coded.map_or(0, |coded| coding_number(coded.coding)));
    w.u64(coded.map_or(0, |coded| coded.length));
    w.u16(response.status().as_u16());
    w.count(response.selecting().0.len())?;
    for (name, value) in &response.selecting().0 {
        w.name(name)?;
        w.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            w.bytes(value.as_bytes())?;
        }
    }
    w.u64(u64::try_from(response.body_bytes().len()).ok()?);
    w.0.extend_from_slice(fields);
    if u64::try_from(w.0.len()).ok()? > MAX_OVERHEAD {
        return None;
    }
    w.0.extend_from_slice(body);
    Some(w.seal())
}

/// Writes an index. `None` = it has parts too large for the format.
pub fn encode_index(index: &VaryIndex) -> Option<Vec<u8>> {
    let mut w = Writer::start(FLAG_INDEX, &index.stamp, index.gone_at, &index.key, &[], 1024)?;
    w.count(index.fields.len())?;
    for list in &index.fields {
        w.count(list.len())?;
        for name in list {
            w.name(name)?;
        }
    }
    w.count(index.variants.len())?;
    for variant in &index.variants {
        w.0.extend_from_slice(&variant.0);
    }
    Some(w.seal())
}

/// Reads a value stored for `key` (the primary key, also where the value is a variant). `max_body` bounds the
/// body in memory, bytes.
pub fn decode(value: Bytes, key: &CacheKey, route: &Arc<str>, max_body: u64) -> Result<Slot, Undecodable> {
    let head = read_head(&value)?;
    if checksum(&value) != head.checksum {
        return Err(Undecodable::Checksum);
    }
    let mut r = Reader { value: &value, at: FIXED + head.tags.len() * 8 };
    if read_key(&value) != Some(*key) {
        return Err(Undecodable::OtherKey);
    }
    // The head was read from the whole value: tags missing at its end mean that it was cut.
    let slot = if usize::from(read_tag_count(&value)) != head.tags.len() {
        None
    } else if head.index {
        r.index(&head, key).map(|index| Slot::Index(Arc::new(index)))
    } else {
        r.response(&value, max_body)
            .map(|response| entry(head, key, route, response))
            .map(|entry| Slot::Entry(Arc::new(entry)))
    };
    slot.ok_or(Undecodable::Malformed)
}

/// Reads the front of a value, unverified by its checksum: for sweepers, who only ever throw away what is void.
pub fn read_head(value: &[u8]) -> Result<Head, Undecodable> {
    let fixed: &[u8; FIXED] = value.first_chunk().ok_or(Undecodable::Foreign)?;
    if &fixed[..4] != MAGIC {
        return Err(Undecodable::Foreign);
    }
    if fixed[4] != VERSION {
        return Err(Undecodable::Version);
    }
    let tags = value[FIXED..].as_chunks::<8>().0.iter().take(usize::from(read_tag_count(value)));
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&fixed[CHECKSUM]);
    let mut r = Reader { value: fixed, at: CHECKSUM.end };
    let numbers = (|| Some((r.u128()?, r.u64()?, r.u64()?, r.u64()?)))();
    let (epoch, seq, rules, gone_at) = numbers.ok_or(Undecodable::Malformed)?;
    Ok(Head {
        stamp: Stamp { epoch: Epoch(epoch), seq, rules },
        tags: tags.map(|t| Tag(u64::from_le_bytes(*t))).collect(),
        gone_at: Timestamp(gone_at),
        index: fixed[5] & FLAG_INDEX != 0,
        checksum,
    })
}

fn entry(head: Head, key: &CacheKey, route: &Arc<str>, response: StoredResponse) -> Entry {
    Entry::new(*key, route, head.stamp, head.tags, response)
}

fn read_tag_count(value: &[u8]) -> u16 {
    value.get(6..8).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn read_key(value: &[u8]) -> Option<CacheKey> {
    value.get(56..FIXED)?.try_into().ok().map(CacheKey)
}

fn checksum(value: &[u8]) -> [u8; 8] {
    let seed = value.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    xxh3_64_with_seed(value.get(CHECKSUM.end..).unwrap_or_default(), seed).to_le_bytes()
}

/// The body by zstd, if it is large enough, not encoded already, and becomes at least a tenth smaller.
fn compress(response: &StoredResponse) -> Option<Vec<u8>> {
    let body = response.body_bytes();
    let coded = response.coded().is_some() || response.fields().contains(&http::header::CONTENT_ENCODING);
    if body.len() < COMPRESS_FROM || coded {
        return None;
    }
    thread_local! {
        // Contexts are large: one per thread, not one per body.
        static ZSTD: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LARGE).ok());
    }
    let compressed = ZSTD.with_borrow_mut(|zstd| {
        let zstd = zstd.as_mut()?;
        zstd.set_compression_level(if body.len() <= JOINED { SMALL } else { LARGE }).ok()?;
        zstd.compress(body).ok()
    })?;
    (compressed.len() <= body.len() / 10 * 9).then_some(compressed)
}

/// Adds a decompressed content of `size` bytes, for which there is room and no more; any other size is an error.
fn decompress(room: Vec<u8>, compressed: &[u8], size: usize) -> Option<Vec<u8>> {
    thread_local! {
        static ZSTD: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }
    let from = u64::try_from(room.len()).ok()?;
    let mut room = Cursor::new(room);
    room.set_position(from);
    let written =
        ZSTD.with_borrow_mut(|zstd| zstd.as_mut()?.decompress_to_buffer(compressed, &mut room).ok())?;
    (written == size).then(|| room.into_inner())
}

fn coding_number(coding: Coding) -> u8 {
    match coding {
        Coding::Gzip => 1,
        Coding::Br => 2,
        Coding::Zstd => 3,
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn start(
        flags: u8,
        stamp: &Stamp,
        gone_at: Timestamp,
        key: &CacheKey,
        tags: &[Tag],
        room: usize,
    ) -> Option<Writer> {
        let mut w = Writer(Vec::with_capacity(FIXED + tags.len() * 8 + room));
        w.0.extend_from_slice(MAGIC);
        w.0.extend_from_slice(&[VERSION, flags]);
        w.count(tags.len())?;
        w.u64(0);
        w.0.extend_from_slice(&stamp.epoch.0.to_le_bytes());
        w.u64(stamp.seq);
        w.u64(stamp.rules);
        w.u64(gone_at.0);
        w.0.extend_from_slice(&key.0);
        for tag in tags {
            w.u64(tag.0);
        }
        Some(w)
    }

    fn seal(mut self) -> Vec<u8> {
        let sum = checksum(&self.0);
        self.0[CHECKSUM].copy_from_slice(&sum);
        self.0
    }

    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    fn u16(&mut self, n: u16) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn duration(&mut self, d: Duration) {
        let d = d.min(Duration::from_secs(MAX_SECONDS));
        self.u64(d.as_secs());
        self.0.extend_from_slice(&d.subsec_nanos().to_le_bytes());
    }

    fn count(&mut self, n: usize) -> Option<()> {
        self.u16(u16::try_from(n).ok()?);
        Some(())
    }

    fn name(&mut self, name: &HeaderName) -> Option<()> {
        self.count(name.as_str().len())?;
        self.0.extend_from_slice(name.as_str().as_bytes());
        Some(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        self.0.extend_from_slice(bytes);
        Some(())
    }
}

struct Reader<'a> {
    value: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let bytes = self.value.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    fn duration(&mut self) -> Option<Duration> {
        let (seconds, nanos) = (self.u64()?, u32::from_le_bytes(self.array()?));
        (seconds <= MAX_SECONDS && nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
    }

    fn name(&mut self) -> Option<HeaderName> {
        let n = usize::from(self.u16()?);
        HeaderName::from_bytes(self.take(n)?).ok()
    }

    fn field_value(&mut self) -> Option<HeaderValue> {
        let n = u32::from_le_bytes(self.array()?);
        HeaderValue::from_bytes(self.take(usize::try_from(n).ok()?)?).ok()
    }

    fn selecting(&mut self) -> Option<Selecting> {
        let n = self.u16()?;
        let pair = |r: &mut Self| {
            let name = r.name()?;
            let value = match r.u8()? {
                0 => None,
                _ => Some(r.field_value()?),
            };
            Some((name, value))
        };
        (0..n).map(|_| pair(self)).collect::<Option<_>>().map(Selecting)
    }

    fn response(&mut self, whole: &Bytes, max_body: u64) -> Option<StoredResponse> {
        let about = Unpacked {
            response_time: Timestamp(self.u64()?),
            initial_age: self.duration()?,
            lifetimes: self.lifetimes()?,
            coded: self.coded(max_body)?,
            status: StatusCode::from_u16(self.u16()?).ok()?,
            selecting: self.selecting()?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let size = self.u64()?;
        if size > max_body {
            return None;
        }
        if self.value.get(5)? & FLAG_ZSTD == 0 {
            let response = StoredResponse::of_whole(about, whole.clone(), self.at)?;
            return (response.content_size() == size).then_some(response);
        }
        let size = usize::try_from(size).ok()?;
        StoredResponse::of_block(about, whole.get(self.at..)?, size, |room, behind| {
            decompress(room, behind, size)
        })
    }

    fn lifetimes(&mut self) -> Option<Lifetimes> {
        let mut lifetimes = Lifetimes {
            fresh: self.duration()?,
            stale_while_revalidate: self.duration()?,
            stale_if_error: self.duration()?,
            keep: self.duration()?,
            ..Lifetimes::default()
        };
        let flags = self.u8()?;
        lifetimes.always_validate = flags & 1 != 0;
        lifetimes.must_revalidate = flags & 2 != 0;
        Some(lifetimes)
    }

    /// How the content was coded here. Who decodes it relies on its length.
    fn coded(&mut self, max_body: u64) -> Option<Option<Coded>> {
        let (number, length) = (self.u8()?, self.u64()?);
        if number == 0 {
            return (length == 0).then_some(None);
        }
        let coding = Coding::ALL.into_iter().find(|coding| coding_number(*coding) == number)?;
        (length <= max_body).then_some(Some(Coded { coding, length }))
    }

    fn index(&mut self, head: &Head, key: &CacheKey) -> Option<VaryIndex> {
        let lists = self.u16()?;
        let list = |r: &mut Self| {
            let n = r.u16()?;
            (0..n).map(|_| r.name()).collect::<Option<Vec<_>>>()
        };
        let fields = (0..lists).map(|_| list(self)).collect::<Option<Vec<_>>>()?;
        let variants = self.u16()?;
        let variants = (0..variants).map(|_| self.array().map(CacheKey)).collect::<Option<Vec<_>>>()?;
        (self.at == self.value.len()).then(|| VaryIndex {
            key: *key,
            stamp: head.stamp,
            fields,
            variants,
            gone_at: head.gone_at,
        })
    }
}

#[cfg(test)]
mod tests;
