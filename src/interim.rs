//! Interim responses (1xx, RFC 9110 §15.2) on their way from the backend to an HTTP/1.1 client: early hints, mostly.
//!
//! ```text
//!  upstream hears a 1xx ─► Listener::pass_on ─► queue of the client's connection ─► its socket, before the response's head
//! ```
//!
//! hyper's server writes one head per request. So an interim response goes around it, straight to the socket; where that
//! is safe is the whole of this module.
//!
//! Invariants:
//! - What is queued belongs to the request in progress: the queue opens when its request goes upstream and is closed
//!   before its response is handed to hyper. What comes later is dropped.
//! - Nothing is put between two bytes that hyper writes at once. While the socket has yet to take what hyper has offered
//!   (its own 100 Continue, the last response of a pipelining client that does not read), what is queued is dropped, and a
//!   request that is read meanwhile has no interim responses.
//! - What is queued is written before anything that hyper offers later.
//! - The queue of a connection holds at most 64 KiB, and as much again while it is written; an interim response beyond
//!   that is dropped, as a proxy may not fail a request for it.
//!
//! What it lacks: HTTP/2, where heads are compressed by a state that only the library has, and clients of HTTP/1.0, which
//! do not know interim responses.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use http::header::VIA;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;

use crate::semantics::stored::strip_for_storage;

/// Most bytes of interim responses that wait for a client to take them.
const MOST: usize = 64 << 10;

/// Where interim responses to one request may go; nowhere by default.
#[derive(Debug, Clone, Default)]
pub struct Interim {
    line: Option<Arc<Line>>,
    request: u64,
}

/// Passes interim responses on to a client.
#[derive(Debug, Clone)]
pub struct Listener {
    interim: Interim,
    via: HeaderValue,
}

impl Interim {
    /// From now on they are passed on, with this member added to `Via`. To be called from the task that serves the
    /// client's connection. `None`: this client is told none.
    pub async fn listen(&self, via: &HeaderValue) -> Option<Listener> {
        let line = self.line.as_ref()?;
        poll_fn(|cx| {
            line.open(self.request, cx.waker());
            Poll::Ready(())
        })
        .await;
        Some(Listener { interim: self.clone(), via: via.clone() })
    }

    /// Its response is about to be sent: nothing may come before that any more.
    pub(crate) fn end(&self) {
        if let Some(line) = &self.line {
            line.close();
        }
    }
}

impl Listener {
    /// Sends one on. `100` is a matter between neighbours, and `101` is not interim here: it ends HTTP.
    pub fn pass_on(&self, status: StatusCode, headers: &HeaderMap) {
        let Interim { line, request } = &self.interim;
        let Some(line) = line.as_ref().filter(|_| (102..200).contains(&status.as_u16())) else { return };
        let mut headers = headers.clone();
        // What a stored response does not keep, this does not carry: fields of the connection, of content (RFC 9110
        // §8.6), and tags.
        strip_for_storage(&mut headers);
        headers.append(VIA, self.via.clone());
        line.push(*request, &head(status, &headers));
    }
}

/// As it goes over the wire (RFC 9112 §4).
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// One client connection's queue.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Requests begun.
    requests: AtomicU64,
    /// Somebody listened to the request in progress.
    listening: AtomicBool,
    /// The queue is not empty.
    waiting: AtomicBool,
    /// The socket has yet to take bytes that it was offered.
    congested: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The request that it is open for, and who writes.
    open: Option<(u64, Waker)>,
    bytes: Vec<u8>,
}

impl Line {
    /// A request was read.
    pub(crate) fn begin(self: &Arc<Line>) -> Interim {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let line = (!self.congested.load(Ordering::Acquire)).then(|| Arc::clone(self));
        Interim { line, request }
    }

    /// The socket has taken all it was offered, or it has not.
    pub(crate) fn congested(&self, congested: bool) {
        if self.congested.load(Ordering::Relaxed) != congested {
            self.congested.store(congested, Ordering::Release);
        }
    }

    /// Whether something is to be written before anything else.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// What is to be written before anything else.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        self.waiting.swap(false, Ordering::AcqRel).then(|| std::mem::take(&mut self.queue.lock().bytes))
    }

    fn open(&self, request: u64, writer: &Waker) {
        self.listening.store(true, Ordering::Release);
        self.queue.lock().open = Some((request, writer.clone()));
    }

    fn push(&self, request: u64, bytes: &[u8]) {
        let mut queue = self.queue.lock();
        if queue.bytes.len() + bytes.len() > MOST {
            return;
        }
        let Some((_, writer)) = queue.open.as_ref().filter(|(open, _)| *open == request) else { return };
        let writer = writer.clone();
        queue.bytes.extend_from_slice(bytes);
        self.waiting.store(true, Ordering::Release);
        drop(queue);
        writer.wake();
    }

    fn close(&self) {
        // Whoever listens does so in the task that closes.
        if self.listening.swap(false, Ordering::AcqRel) {
            self.queue.lock().open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake};

    use super::*;

    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\nvia: 1.1 weir\r\n\r\n";

    fn via() -> HeaderValue {
        HeaderValue::from_static("1.1 weir")
    }

    fn hints() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("link", "</a>"),
            ("link", "</b>"),
            ("content-length", "9"),
            ("surrogate-key", "secret"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[tokio::test]
    async fn what_is_said_while_a_request_is_open_is_queued_as_it_goes_over_the_wire() {
        let line = Arc::new(Line::default());
        let request = line.begin();
        let interim = request.listen(&via()).await.unwrap();
        interim.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(line.take().as_deref(), Some(HINTS));
        assert_eq!(line.take(), None);
        for status in [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK] {
            interim.pass_on(status, &hints());
        }
        assert_eq!(line.take(), None);
        interim.pass_on(StatusCode::PROCESSING, &HeaderMap::new());
        request.end();
        interim.pass_on(StatusCode::EARLY_HINTS, &hints());
        let written = line.take().expect("what came before the end");
        assert_eq!(written, b"HTTP/1.1 102 Processing\r\nvia: 1.1 weir\r\n\r\n");
    }

    #[tokio::test]
    async fn a_request_that_is_over_says_nothing_into_the_next() {
        let line = Arc::new(Line::default());
        let request = line.begin();
        let first = request.listen(&via()).await.unwrap();
        request.end();
        first.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(line.take(), None);
        let second = line.begin().listen(&via()).await.unwrap();
        first.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(line.take(), None);
        second.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert!(line.take().is_some());
    }

    #[tokio::test]
    async fn behind_bytes_that_are_yet_to_be_taken_there_is_no_place() {
        let line = Arc::new(Line::default());
        line.congested(true);
        let behind = line.begin();
        line.congested(false);
        assert!(behind.listen(&via()).await.is_none());
        behind.end();
        let next = line.begin().listen(&via()).await.unwrap();
        next.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert!(line.take().is_some());
    }

    #[tokio::test]
    async fn a_flood_is_cut_off_between_two() {
        let line = Arc::new(Line::default());
        let interim = line.begin().listen(&via()).await.unwrap();
        for _ in 0..=MOST {
            interim.pass_on(StatusCode::EARLY_HINTS, &hints());
        }
        let bytes = line.take().unwrap();
        assert!(
            bytes.len() <= MOST
                && bytes.len() > MOST - HINTS.len()
                && bytes.len().is_multiple_of(HINTS.len())
        );
    }

    #[test]
    fn who_writes_is_woken() {
        struct Writer(AtomicBool);
        impl Wake for Writer {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (line, writer) = (Arc::new(Line::default()), Arc::new(Writer(AtomicBool::new(false))));
        let (via, waker) = (via(), Waker::from(Arc::clone(&writer)));
        let request = line.begin();
        let listening = std::pin::pin!(request.listen(&via));
        let Poll::Ready(Some(interim)) = listening.poll(&mut Context::from_waker(&waker)) else {
            panic!("it waits for nothing")
        };
        assert!(!writer.0.load(Ordering::SeqCst));
        interim.pass_on(StatusCode::EARLY_HINTS, &hints());
        assert!(writer.0.load(Ordering::SeqCst));
    }
}
