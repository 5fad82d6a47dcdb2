//! The response body on its way down: it never ends cleanly unless the upstream ended it cleanly.
//!
//! What has come with the head comes along; a short content is whole by then, and is no stream.
//!
//! It owns the connection, and drives it. At the end of the stream the connection goes back to the pool; in every other case
//! (dropped half-read, cut off, silent for too long, request body unfinished) the connection is closed. The
//! silence is counted only while somebody waits for a frame, so a slow client does not make the upstream late.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::pool::Lease;
use super::request_body::Upload;
use crate::body::{Body, BodyError};

/// Why a response body broke off. Found inside the [`BodyError`] that a body from [`super::Upstream`] ends with.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    /// The connection ended or broke before the content was whole, or its framing was wrong.
    #[error("the upstream cut its response off: {0}")]
    Cut(#[source] hyper::Error),
    /// Nothing came for this long in the middle of the content.
    #[error("the upstream fell silent for {0:?} within its response")]
    Idle(Duration),
}

/// Most bytes that are read before anybody asks for them.
const AHEAD: usize = 64 << 10;

/// A response body that is still connected to the upstream.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inner: Incoming,
    /// What has come before anybody asked for it.
    ahead: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// It ended with an error.
    over: bool,
    /// `None` once the stream ended, one way or the other.
    lease: Option<Lease>,
    upload: Option<Arc<Upload>>,
    /// The connection may be used again after this response.
    reusable: bool,
    idle: Option<Duration>,
    /// The upstream has been waited for since then.
    waiting: Option<Instant>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Incoming,
        lease: Lease,
        upload: Option<Arc<Upload>>,
        reusable: bool,
        idle: Duration,
    ) -> ResponseBody {
        let idle = (!idle.is_zero()).then_some(idle);
        ResponseBody {
            inner,
            ahead: VecDeque::new(),
            over: false,
            lease: Some(lease),
            upload,
            reusable,
            idle,
            waiting: None,
        }
    }

    /// Takes what is there. Whole contents of a declared length need no stream any more.
    pub(super) async fn read_ahead(mut self) -> Body {
        match poll_fn(|cx| Poll::Ready(self.take_ahead(cx))).await {
            Some(whole) => Body::full(whole),
            None => Body::stream(self),
        }
    }

    /// The whole of a content of declared length, if it is there.
    fn take_ahead(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let declared = self.inner.size_hint().exact().is_some();
        let mut bytes = 0;
        while bytes < AHEAD
            && self.lease.is_some()
            && let Poll::Ready(Some(next)) = self.poll_next(cx)
        {
            let next = match next {
                // Mostly the first is all, and needs no queue.
                Ok(only) if declared && self.ahead.is_empty() && self.inner.is_end_stream() => {
                    match only.into_data() {
                        Ok(whole) => return Some(whole),
                        Err(trailers) => Ok(trailers),
                    }
                }
                next => next,
            };
            bytes += self.put_ahead(next);
        }
        let whole = declared && self.inner.is_end_stream() && self.ahead.iter().flatten().all(Frame::is_data);
        (whole && !self.over).then(|| joined(std::mem::take(&mut self.ahead), bytes))
    }

    fn put_ahead(&mut self, next: Result<Frame<Bytes>, BodyError>) -> usize {
        let bytes = next.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        self.ahead.push_back(next);
        bytes
    }

    /// The next frame as the upstream sends it, however long that takes.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None); // an error was the last word
        }
        let inner = &mut self.inner;
        let polled = match &mut self.lease {
            Some(lease) => lease.poll(cx, |cx| Pin::new(&mut *inner).poll_frame(cx)),
            None => Pin::new(inner).poll_frame(cx),
        };
        polled.map(|next| match next {
            Some(Ok(frame)) => {
                self.waiting = None;
                // A receiver that knows the length, or has the trailers, never asks for the end.
                if self.inner.is_end_stream() || frame.is_trailers() {
                    self.finish();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(self.break_off(ResponseBodyError::Cut(error)))),
            None => {
                self.finish();
                None
            }
        })
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take()
            && self.reusable
            && self.upload.as_ref().is_none_or(|u| u.done())
        {
            lease.give_back();
        }
    }

    fn break_off(&mut self, why: ResponseBodyError) -> BodyError {
        self.lease = None;
        self.over = true;
        why.into()
    }

    /// Ready when the upstream has been silent for too long while being waited for.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let (Some(idle), Some(lease)) = (self.idle, &mut self.lease) else { return Poll::Pending };
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let mut until = since + idle;
        loop {
            if lease.poll_alarm(cx, until).is_pending() {
                return Poll::Pending;
            }
            match &self.upload {
                // An upstream that is still being fed is not silent: it may answer when it has all.
                Some(upload) if upload.last_moved() + idle > Instant::now() => {
                    until = upload.last_moved() + idle;
                }
                _ => return Poll::Ready(idle),
            }
        }
    }
}

/// So many bytes in one piece.
fn joined(mut frames: VecDeque<Result<Frame<Bytes>, BodyError>>, bytes: usize) -> Bytes {
    if frames.len() == 1 {
        let only = frames.pop_front().and_then(Result::ok);
        return only.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(bytes);
    frames.iter().flatten().filter_map(Frame::data_ref).for_each(|data| all.extend_from_slice(data));
    all.freeze()
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(next) = this.ahead.pop_front() {
            return Poll::Ready(Some(next));
        }
        match this.poll_next(cx) {
            Poll::Pending => {
                this.poll_idle(cx).map(|idle| Some(Err(this.break_off(ResponseBodyError::Idle(idle)))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.inner.size_hint();
        // What happens to have come says nothing about a length that was not declared.
        let Some(left) = hint.exact() else { return hint };
        let ahead = self.ahead.iter().flatten().filter_map(Frame::data_ref).map(|data| data.len() as u64);
        SizeHint::with_exact(left + ahead.sum::<u64>())
    }
}
