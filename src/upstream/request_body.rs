//! The request body on its way up: how far it got, and the gate of `Expect: 100-continue`.
//!
//! hyper polls the body from the connection's task while `send` waits for the response head; both share one
//! [`Upload`]. It answers three questions: may the body be read yet (the gate), when did it last move (so that
//! a long upload is not taken for a silent upstream), and is it over (only then may the connection be reused).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Duration, Instant};

use crate::body::{Body, BodyError};

/// Bytes that the socket of an idle connection has room for.
const AT_ONCE: u64 = 16 << 10;

/// What the sending side and the waiting side know of one request body.
#[derive(Debug)]
pub(super) struct Upload {
    /// Nobody has asked for the content yet. After a final response nobody will: what was not read by then stays
    /// unread (RFC 9110 §10.1.1).
    held: AtomicBool,
    waker: AtomicWaker,
    done: AtomicBool,
    /// The last poll found the client silent (rather than the upstream slow to read).
    awaiting_client: AtomicBool,
    /// Milliseconds from `start` to the last frame.
    moved: AtomicU64,
    /// Bytes handed over.
    sent: AtomicU64,
    start: Instant,
}

impl Upload {
    /// `held`: the request expects a `100 Continue` first.
    pub(super) fn new(held: bool) -> Arc<Upload> {
        Arc::new(Upload {
            held: AtomicBool::new(held),
            waker: AtomicWaker::new(),
            done: AtomicBool::new(false),
            awaiting_client: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            start: Instant::now(),
        })
    }

    /// The upstream wants the body, or has let the client wait long enough.
    pub(super) fn open(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.touch();
            self.waker.wake();
        }
    }

    pub(super) fn held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// The whole body was handed over.
    pub(super) fn done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// More was handed over than a socket takes at once: some of it may not have left yet.
    pub(super) fn may_wait(&self) -> bool {
        self.sent.load(Ordering::Acquire) > AT_ONCE
    }

    pub(super) fn awaiting_client(&self) -> bool {
        self.awaiting_client.load(Ordering::Acquire)
    }

    /// When a frame last went up (or the exchange began).
    pub(super) fn last_moved(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Acquire))
    }

    fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Release);
    }

    /// Registers the waker and says whether the gate is open.
    fn poll_gate(&self, cx: &Context<'_>) -> bool {
        if !self.held() {
            return true;
        }
        self.waker.register(cx.waker());
        !self.held() // it may have opened in between
    }
}

/// The body type of the connections. A request without content carries no [`Upload`] and allocates nothing.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    upload: Option<Arc<Upload>>,
    /// Bytes still to come, where the length is declared.
    left: Option<u64>,
}

impl Outgoing {
    pub(super) fn empty() -> Outgoing {
        Outgoing { body: Body::Empty, upload: None, left: None }
    }

    pub(super) fn new(body: Body, upload: Arc<Upload>, length: Option<u64>) -> Outgoing {
        Outgoing { body, upload: Some(upload), left: length }
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(upload) = &self.upload else { return };
        upload.awaiting_client.store(false, Ordering::Release);
        upload.touch();
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        upload.sent.fetch_add(length, Ordering::AcqRel);
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            *left = left.saturating_sub(data.len() as u64);
        }
        // hyper stops asking once the declared length, the trailers or `is_end_stream` say so.
        if frame.is_trailers() || self.left == Some(0) || self.body.is_end_stream() {
            upload.done.store(true, Ordering::Release);
        }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.upload.as_ref().is_some_and(|upload| !upload.poll_gate(cx)) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => this.note(frame),
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(None) => {
                if let Some(upload) = &this.upload {
                    upload.done.store(true, Ordering::Release);
                }
            }
            Poll::Pending => {
                if let Some(upload) = &this.upload {
                    upload.awaiting_client.store(true, Ordering::Release);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
