//! The response body on its way down: it never ends cleanly unless the upstream ended it cleanly.
//!
//! It owns the connection. At the end of the stream the connection goes back to the pool; in every other case
//! (dropped half-read, cut off, silent for too long, request body unfinished) the connection is closed. The
//! silence is counted only while somebody waits for a frame, so a slow client does not make the upstream late.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::pool::Lease;
use super::request_body::Upload;
use crate::body::BodyError;

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

/// A response body that is still connected to the upstream.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inner: Incoming,
    /// It ended with an error.
    over: bool,
    /// `None` once the stream ended, one way or the other.
    lease: Option<Lease>,
    upload: Option<Arc<Upload>>,
    /// The connection may be used again after this response.
    reusable: bool,
    idle: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer runs: somebody is waiting for a frame.
    waiting: bool,
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
            over: false,
            lease: Some(lease),
            upload,
            reusable,
            idle,
            timer: None,
            waiting: false,
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take()
            && self.reusable
            && self.upload.as_ref().is_none_or(|u| u.done())
        {
            lease.give_back();
        }
    }

    /// Ready when the upstream has been silent for too long while being waited for.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(idle) = self.idle else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + idle)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + idle);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // An upstream that is still being fed is not silent: it may answer when it has all.
            match &self.upload {
                Some(upload) if upload.last_moved() + idle > Instant::now() => {
                    timer.as_mut().reset(upload.last_moved() + idle);
                }
                _ => return Poll::Ready(idle),
            }
        }
        Poll::Pending
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None); // an error was the last word
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                // A receiver that knows the length, or has the trailers, never asks for the end.
                if this.inner.is_end_stream() || frame.is_trailers() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.lease = None;
                this.over = true;
                Poll::Ready(Some(Err(ResponseBodyError::Cut(error).into())))
            }
            Poll::Pending => match this.poll_idle(cx) {
                Poll::Ready(idle) => {
                    this.lease = None;
                    this.over = true;
                    this.over = true;
                    Poll::Ready(Some(Err(ResponseBodyError::Idle(idle).into())))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
