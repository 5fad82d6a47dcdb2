//! A byte pipe from a fetch to the client that began it.
//!
//! While a fill buffers the content anyway, the pipe takes everything at once (the fetch must not wait for a slow
//! client while others wait for the fetch); once the fill is given up, the writer waits until little is queued.
//! A pipe whose writer vanishes ends with an error, never with a clean end: nobody takes a part for the whole.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::fill::Reserved;
use crate::body::BodyError;

/// Bytes that may be queued before a writer that minds the client waits.
const WINDOW: usize = 256 * 1024;

#[derive(Default)]
struct State {
    queue: VecDeque<Frame<Bytes>>,
    queued: usize,
    /// Counts what is queued as buffered, until little is.
    buffered: Option<Reserved>,
    end: Option<Result<(), String>>,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The fetch's end.
pub(crate) struct RelaySender(Arc<Mutex<State>>);

/// The client's end: a body.
pub(crate) struct RelayBody {
    state: Arc<Mutex<State>>,
    hint: SizeHint,
}

/// A new pipe; `hint` is what the upstream declared.
pub(crate) fn relay(hint: SizeHint) -> (RelaySender, RelayBody) {
    let state = Arc::new(Mutex::new(State::default()));
    (RelaySender(Arc::clone(&state)), RelayBody { state, hint })
}

impl RelaySender {
    /// Queues a frame; false when the client has left.
    pub(crate) fn push(&self, frame: Frame<Bytes>) -> bool {
        let mut state = self.0.lock();
        if state.reader_gone {
            return false;
        }
        state.queued += frame.data_ref().map_or(0, Bytes::len);
        state.queue.push_back(frame);
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Keeps bytes reserved for as long as much is queued: the fetch is done with them, the client is not.
    pub(crate) fn keep(&self, buffered: Reserved) {
        let mut state = self.0.lock();
        state.buffered = (state.queued > WINDOW).then_some(buffered);
    }

    /// Waits until little is queued; false when the client has left.
    pub(crate) async fn drained(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.reader_gone {
                return Poll::Ready(false);
            }
            if state.queued <= WINDOW {
                return Poll::Ready(true);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends the pipe: whole, or broken with a reason.
    pub(crate) fn finish(self, end: Result<(), String>) {
        self.set_end(end);
    }

    fn set_end(&self, end: Result<(), String>) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for RelaySender {
    fn drop(&mut self) {
        self.set_end(Err("the fetch ended early".to_owned()));
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.reader_gone = true;
        state.queue.clear();
        state.queued = 0;
        state.buffered = None;
        let waker = state.writer.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl http_body::Body for RelayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.lock();
        if let Some(frame) = state.queue.pop_front() {
            state.queued -= frame.data_ref().map_or(0, Bytes::len);
            let (waker, buffered) = match state.queued <= WINDOW {
                true => (state.writer.take(), state.buffered.take()),
                false => (None, None),
            };
            drop((state, buffered));
            if let Some(waker) = waker {
                waker.wake();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match &state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(reason)) => Poll::Ready(Some(Err(reason.clone().into()))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() && matches!(state.end, Some(Ok(())))
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_in_order() {
        let (tx, rx) = relay(SizeHint::default());
        assert!(tx.push(data("a")) && tx.push(data("b")));
        tx.finish(Ok(()));
        assert_eq!(rx.collect().await.unwrap().to_bytes(), "ab");
    }

    #[tokio::test]
    async fn a_writer_that_vanishes_is_an_error_not_an_end() {
        let (tx, rx) = relay(SizeHint::default());
        tx.push(data("half"));
        drop(tx);
        assert!(rx.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_leaves_frees_the_writer() {
        let (tx, rx) = relay(SizeHint::default());
        tx.push(Frame::data(Bytes::from(vec![0; WINDOW + 1])));
        let waiting = tokio::spawn(async move { tx.drained().await });
        tokio::task::yield_now().await;
        drop(rx);
        assert!(!waiting.await.unwrap());
    }
}
