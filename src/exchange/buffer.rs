//! Reading a body up to a limit without losing what was read, and looking at one as it passes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::body::{Body, BodyError};

/// A body read up to a limit.
pub(crate) enum Buffered {
    /// All of it.
    Whole(Bytes),
    /// Not all of it, or with trailers: what was read, followed by the rest (or by the error that ended it).
    Partly(Body),
}

/// Reads at most `limit` bytes ahead. A body that is silent for longer than `patience` has broken off (zero = it may
/// be; an upstream's has a limit of its own).
pub(crate) async fn read_up_to(mut body: Body, limit: u64, patience: Duration) -> Buffered {
    let mut frames = VecDeque::new();
    let mut total = 0u64;
    if body.size_hint().lower() > limit {
        return Buffered::Partly(body);
    }
    loop {
        match next_frame(&mut body, patience).await {
            None => return Buffered::Whole(join(frames)),
            Some(Ok(frame)) => {
                let plain = frame.is_data();
                total += frame.data_ref().map_or(0, |d| d.len() as u64);
                frames.push_back(Ok(frame));
                if total > limit || !plain {
                    return Buffered::Partly(Body::stream(Prefixed { frames, rest: body }));
                }
            }
            Some(Err(error)) => {
                frames.push_back(Err(error));
                return Buffered::Partly(Body::stream(Prefixed { frames, rest: Body::Empty }));
            }
        }
    }
}

async fn next_frame(body: &mut Body, patience: Duration) -> Option<Result<Frame<Bytes>, BodyError>> {
    if patience.is_zero() {
        return body.frame().await;
    }
    match tokio::time::timeout(patience, body.frame()).await {
        Ok(frame) => frame,
        Err(_) => Some(Err(format!("nothing came for {patience:?}").into())),
    }
}

fn join(mut frames: VecDeque<Result<Frame<Bytes>, BodyError>>) -> Bytes {
    if frames.len() == 1
        && let Some(Ok(frame)) = frames.pop_front()
    {
        return frame.into_data().unwrap_or_default();
    }
    let mut all = BytesMut::new();
    for frame in frames.into_iter().flatten() {
        if let Some(data) = frame.data_ref() {
            all.extend_from_slice(data);
        }
    }
    all.freeze()
}

struct Prefixed {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.frames.iter().any(Result::is_err) {
            return SizeHint::default();
        }
        let ahead: u64 =
            self.frames.iter().flatten().filter_map(|f| f.data_ref()).map(|d| d.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

/// A copy of what passed through a [`Capturing`] body.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    bytes: BytesMut,
    whole: bool,
    over: bool,
}

/// Where the copy is picked up afterwards.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Captured>>);

impl Capture {
    /// The content, if all of it passed and it stayed within the limit.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let mut captured = self.0.lock();
        (captured.whole && !captured.over).then(|| captured.bytes.split().freeze())
    }
}

/// Passes a body on and keeps a copy of at most `limit` bytes.
pub(crate) fn capturing(body: Body, limit: u64) -> (Body, Capture) {
    let capture = Capture::default();
    if body.is_end_stream() {
        capture.0.lock().whole = true;
        return (body, capture);
    }
    let passing = Capturing { body, limit, capture: capture.clone() };
    (Body::stream(passing), capture)
}

struct Capturing {
    body: Body,
    limit: u64,
    capture: Capture,
}

impl http_body::Body for Capturing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let mut captured = this.capture.0.lock();
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref()
                    && !captured.over
                {
                    if (captured.bytes.len() + data.len()) as u64 > this.limit {
                        captured.over = true;
                        captured.bytes = BytesMut::new();
                    } else {
                        captured.bytes.extend_from_slice(data);
                    }
                }
                // A sized body may never be polled past its last frame.
                captured.whole = this.body.is_end_stream();
            }
            Poll::Ready(None) => captured.whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        drop(captured);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static str]) -> Body {
        let frames = parts.iter().map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes())))).collect();
        Body::stream(Prefixed { frames, rest: Body::Empty })
    }

    #[tokio::test]
    async fn a_small_body_is_read_whole() {
        let Buffered::Whole(all) = read_up_to(chunks(&["ab", "cd"]), 4, Duration::ZERO).await else {
            panic!("partly")
        };
        assert_eq!(all, "abcd");
    }

    #[tokio::test]
    async fn a_large_body_loses_nothing() {
        let Buffered::Partly(body) = read_up_to(chunks(&["ab", "cd", "ef"]), 3, Duration::ZERO).await else {
            panic!("whole")
        };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_broken_body_stays_broken() {
        let frames = VecDeque::from([Ok(Frame::data(Bytes::from_static(b"ab"))), Err("cut".into())]);
        let body = Body::stream(Prefixed { frames, rest: Body::Empty });
        let Buffered::Partly(body) = read_up_to(body, 100, Duration::ZERO).await else { panic!("whole") };
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_capture_is_whole_only_at_the_end_and_within_its_limit() {
        let (mut body, capture) = capturing(chunks(&["ab", "cd"]), 4);
        body.frame().await.unwrap().unwrap();
        assert_eq!(capture.whole(), None);
        body.collect().await.unwrap();
        assert_eq!(capture.whole().unwrap(), "abcd");
        let (body, capture) = capturing(chunks(&["ab", "cd"]), 3);
        body.collect().await.unwrap();
        assert_eq!(capture.whole(), None);
    }
}
