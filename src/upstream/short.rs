//! The short exchange: a plain request, and its response if that is plain in every way and wholly here.
//!
//! ```text
//!  look (nobody has spoken or left?) ─► write the head ─► read ─► plain, whole, and not a byte more ─► response
//!    └────────────────────────────────────┴────────────────┴───── anything else: hyper's from there on (stream.rs)
//! ```
//!
//! hyper's client is made for every exchange there is; a small answer of declared length is most of them, and needs one
//! write, one read and one look at the head.
//!
//! Invariants:
//! - What is answered here is what hyper would have answered. What might not be is not judged here, not even to refuse it:
//!   interim responses, other versions, other framings than one plain `Content-Length`, `Connection` with a say, heads that
//!   cannot be read, bytes beyond the content.
//! - The connection is at rest afterwards: the request is written whole, the response read whole.
//! - A head that has come is held up for no more than a turn of the scheduler: what is not all here then is hyper's.

use std::cmp::Ordering;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use parking_lot::Mutex;
use tokio_util::io::poll_read_buf;

use super::stream::{Io, Owed, Stream};
use crate::body::Body;

/// Room for a response of which nothing is known, bytes.
const LEAST: usize = 4 << 10;

/// The longest response, head and all.
const MOST: usize = 72 << 10;

/// The longest content.
const MOST_CONTENT: usize = 64 << 10;

/// Most fields, as with hyper.
const MOST_FIELDS: usize = 100;

/// Whether the short way is worth trying on a connection: one whose responses were not plain goes without for a while,
/// longer each time.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Exchanges that it is not tried for.
    skipped: u8,
    /// How many it will be the next time.
    next: u8,
}

impl Trial {
    /// Whether to try it this time.
    pub(super) fn is_on(&mut self) -> bool {
        let skipped = self.skipped;
        self.skipped = skipped.saturating_sub(1);
        skipped == 0
    }

    /// It was tried.
    pub(super) fn end(&mut self, succeeded: bool) {
        self.skipped = if succeeded { 0 } else { self.next };
        self.next = if succeeded { 0 } else { (self.next * 2).clamp(1, MOST_SKIPPED) };
    }
}

/// Most exchanges that it is not tried for.
const MOST_SKIPPED: u8 = 16;

/// What one response tells about the next on its connection.
#[derive(Debug)]
pub(super) struct Precedent {
    /// Bytes to make room for.
    room: usize,
    /// The names of its fields, as they were written and as they were read: mostly the next has the same.
    names: Vec<(Box<str>, HeaderName)>,
    /// A map for the fields of the next. Empty.
    fields: HeaderMap,
}

impl Default for Precedent {
    fn default() -> Precedent {
        Precedent { room: LEAST, names: Vec::new(), fields: HeaderMap::new() }
    }
}

impl Precedent {
    /// A map that has no other use any more.
    pub(super) fn reuse(&mut self, mut fields: HeaderMap) {
        if fields.capacity() <= KEPT_FIELDS {
            fields.clear();
            self.fields = fields;
        }
    }

    /// A response took so many bytes. There will be room for some more, so that one read takes the next and finds that
    /// there is no more.
    fn took(&mut self, bytes: usize) {
        self.room = (bytes + LEAST / 8).next_multiple_of(LEAST / 4).clamp(LEAST, MOST);
    }

    /// The name of the field in this place. Those of the last response are not parsed again.
    fn name(&mut self, place: usize, name: &str) -> Option<HeaderName> {
        if let Some((_, read)) = self.names.get(place).filter(|(written, _)| **written == *name) {
            return Some(read.clone());
        }
        let read = HeaderName::from_bytes(name.as_bytes()).ok()?;
        self.names.truncate(place);
        if self.names.len() == place && name.len() <= LONGEST_KEPT {
            self.names.push((name.into(), read.clone()));
        }
        Some(read)
    }
}

/// Most fields for which there is room kept from one response to the next.
const KEPT_FIELDS: usize = 64;

/// The longest name that is kept from one response to the next, bytes.
const LONGEST_KEPT: usize = 64;

/// One exchange on a stream that nobody else uses meanwhile.
pub(super) struct Short {
    stream: Arc<Mutex<Stream>>,
    written: bool,
    came: BytesMut,
    /// Others have their turn, before what has come in part is given up.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Short {
    pub(super) fn new(stream: Arc<Mutex<Stream>>, precedent: &Precedent) -> Short {
        Short { stream, written: false, came: BytesMut::with_capacity(precedent.room), turn: None }
    }

    /// Writes `head`, and waits for the response. `None`: the exchange is hyper's from here on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        precedent: &mut Precedent,
    ) -> Poll<Option<Response<Body>>> {
        let stream = Arc::clone(&self.stream);
        let mut stream = stream.lock();
        if !self.written {
            if let Err(owed) = self.write(stream.io(), cx, head) {
                stream.hand_over(owed);
                return Poll::Ready(None);
            }
            self.written = true;
        }
        // There may be more than there was room for.
        let mut full = false;
        let end = loop {
            match poll_read_buf(Pin::new(stream.io()), cx, &mut self.came) {
                Poll::Pending if self.came.is_empty() => return Poll::Pending,
                Poll::Pending if !full && self.is_worth_a_turn(cx) => return Poll::Pending,
                Poll::Pending if !full => break None,
                Poll::Pending => full = false,
                Poll::Ready(Ok(0)) => break Some(Ok(())),
                Poll::Ready(Ok(_)) => full = self.came.len() == self.came.capacity(),
                Poll::Ready(Err(error)) => break Some(Err(error)),
            }
            let came = fitting(std::mem::take(&mut self.came));
            match judge(&came, full, precedent) {
                Judged::Whole(response) => {
                    precedent.took(came.len());
                    return Poll::Ready(Some(response));
                }
                Judged::More(all) => {
                    self.came = came.into();
                    // One more, so that what does not belong to it is seen.
                    self.came.reserve(all + 1 - self.came.len());
                }
                Judged::Other => {
                    self.came = came.into();
                    break None;
                }
            }
        };
        let came = std::mem::take(&mut self.came).freeze();
        stream.hand_over(Owed { written: head.to_vec(), came, end, ..Owed::default() });
        Poll::Ready(None)
    }

    /// Whether what is missing may be here when others have had their turn: many backends send head and content by two
    /// writes, the one right after the other. The task is woken then; a second time it is not worth it.
    fn is_worth_a_turn(&mut self, cx: &mut Context<'_>) -> bool {
        let first = self.turn.is_none();
        let turn = self.turn.get_or_insert_with(|| Box::pin(tokio::task::yield_now()));
        first && turn.as_mut().poll(cx).is_pending()
    }

    /// Writes the head, unless there is something to be read already. The error is what hyper must know otherwise.
    fn write(&mut self, io: &mut (dyn Io + 'static), cx: &mut Context<'_>, head: &[u8]) -> Result<(), Owed> {
        match poll_read_buf(Pin::new(&mut *io), cx, &mut self.came) {
            Poll::Pending => {}
            Poll::Ready(read) => {
                let end = match read {
                    Ok(0) => Some(Ok(())),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                };
                let came = std::mem::take(&mut self.came).freeze();
                return Err(Owed { came, end, ..Owed::default() });
            }
        }
        let so_far = |n: usize, broken: Option<io::Error>| {
            Err(Owed { written: head[..n].to_vec(), broken, ..Owed::default() })
        };
        match Pin::new(&mut *io).poll_write(cx, head) {
            Poll::Ready(Ok(n)) if n == head.len() => {}
            Poll::Ready(Ok(n)) => return so_far(n, None),
            Poll::Ready(Err(error)) => return so_far(0, Some(error)),
            Poll::Pending => return so_far(0, None),
        }
        match Pin::new(io).poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(error)) => so_far(head.len(), Some(error)),
            Poll::Pending => so_far(head.len(), None),
        }
    }
}

/// The same bytes, where they take most of their room: a short answer would keep what the long one before it took.
fn fitting(came: BytesMut) -> Bytes {
    if came.capacity() > 2 * LEAST && came.len() < came.capacity() / 4 {
        return Bytes::copy_from_slice(&came);
    }
    came.freeze()
}

/// What some bytes of a response are.
enum Judged {
    /// A response and nothing else.
    Whole(Response<Body>),
    /// Part of one that may become so many bytes, or all of one, of which it is not known yet whether it is all there is.
    More(usize),
    /// Something else.
    Other,
}

/// `full`: there may be more to be read at once.
fn judge(came: &Bytes, full: bool, precedent: &mut Precedent) -> Judged {
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    // hyper's client reads heads by the same parser with the same settings.
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut head, came, &mut room);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if came.len() < MOST => return Judged::More(came.len() + 1),
        Ok(Status::Partial) | Err(_) => return Judged::Other,
    };
    let Some(content) = content_length(&head) else { return Judged::Other };
    let all = length + content;
    match came.len().cmp(&all) {
        _ if all > MOST => Judged::Other,
        Ordering::Less => Judged::More(all),
        Ordering::Equal if full => Judged::More(all),
        Ordering::Equal => respond(came, &head, length, precedent).map_or(Judged::Other, Judged::Whole),
        Ordering::Greater => Judged::Other,
    }
}

/// The length of the content, where the head leaves nothing to be judged about it (RFC 9112 §6.3).
fn content_length(head: &httparse::Response<'_, '_>) -> Option<usize> {
    let status = head.code.filter(|_| head.version == Some(1))?;
    let mut declared = None;
    for field in head.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // Told by their lengths first: nearly all are others.
        let plain = match field.name.len() {
            10 if is("connection") => field.value.eq_ignore_ascii_case(b"keep-alive"),
            14 if is("content-length") => declared.replace(plain_length(field.value)?).is_none(),
            17 if is("transfer-encoding") => false,
            _ => true,
        };
        if !plain {
            return None;
        }
    }
    match status {
        // RFC 9112 §6.3: these end with their head, whatever length they declare.
        204 | 304 => Some(0),
        200..600 => declared.filter(|&length| length <= MOST_CONTENT),
        _ => None,
    }
}

/// A length as everybody writes it, and everybody reads it.
fn plain_length(value: &[u8]) -> Option<usize> {
    match value {
        b"0" => Some(0),
        [b'1'..=b'9', ..] if value.len() < 10 && value.iter().all(u8::is_ascii_digit) => {
            Some(value.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
        }
        _ => None,
    }
}

fn respond(
    came: &Bytes,
    head: &httparse::Response<'_, '_>,
    length: usize,
    precedent: &mut Precedent,
) -> Option<Response<Body>> {
    let status = StatusCode::from_u16(head.code?).ok()?;
    let reason = head.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| ReasonPhrase::try_from(reason.as_bytes())).transpose().ok()?;
    let mut fields = std::mem::take(&mut precedent.fields);
    fields.reserve(head.headers.len());
    for (place, field) in head.headers.iter().enumerate() {
        let value = HeaderValue::from_maybe_shared(came.slice_ref(field.value)).ok()?;
        fields.append(precedent.name(place, field.name)?, value);
    }
    let mut response = Response::new(Body::full(came.slice(length..)));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Some(response)
}

#[cfg(test)]
mod tests;
