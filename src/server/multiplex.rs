//! HTTP/2 on a connection: streams that are answered at once, and frames that leave together.
//!
//! h2 hands each content of some size to the socket by itself, and hyper gives each stream a task, so that eight requests
//! that came by one read were answered by eight writes. Here a stream is looked at once where it began, which is all that
//! a hit takes; only what has to wait, or is not whole in memory, becomes a task. And what hyper writes while the connection is polled is
//! gathered, and leaves when that poll is over.
//!
//! Invariants: bytes leave in the order in which they were written, and none stays behind when a poll is over but those the
//! socket does not take; so many are gathered and no more, then a write waits for the socket as it would without. The
//! connection's end waits for all of them.

use std::future::Future;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchanges::{Exchanges, Serving};
use super::wire::Wire;
use super::{Handler, ServerLimits};

/// An HTTP/2 client that answers no ping for this long after this much silence is gone.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// Bounds against clients that open and reset streams for a living (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 1024;

/// Most bytes that wait for others.
const GATHERED: usize = 64 << 10;

/// What is larger than this is not copied to wait for others: no frame is, unless the client asks for larger ones.
const COPIED: usize = 32 << 10;

/// Most streams that are answered at once before other connections have their turn.
const AT_ONCE: usize = 64;

pub(super) type Speaking<H> = http2::Connection<TokioIo<Shared<Wire>>, Serving<H>, Streams>;

/// A connection that speaks HTTP/2.
pub(super) struct Multiplexed<C, W> {
    connection: Pin<Box<C>>,
    wire: Shared<W>,
    streams: Streams,
}

impl<H: Handler> Multiplexed<Speaking<H>, Wire> {
    pub(super) fn new(wire: Wire, exchanges: Arc<Exchanges<H>>, limits: &ServerLimits) -> Self {
        Multiplexed::of(wire, |wire, streams| {
            let mut builder = http2::Builder::new(streams);
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.max_streams)
                .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
                .max_pending_accept_reset_streams(PENDING_RESETS)
                .max_local_error_reset_streams(LOCAL_RESETS)
                .keep_alive_interval(PING_AFTER)
                .keep_alive_timeout(PING_PATIENCE);
            builder.serve_connection(TokioIo::new(wire), Serving::new(exchanges, None))
        })
    }

    /// Takes no more streams, and ends behind those that are under way.
    pub(super) fn leave(mut self: Pin<&mut Self>) {
        self.connection.as_mut().graceful_shutdown();
    }
}

impl<C, W> Multiplexed<C, W> {
    /// The connection that is made of the wire and what runs its streams.
    fn of(wire: W, speak: impl FnOnce(Shared<W>, Streams) -> C) -> Self {
        let (wire, streams) = (Shared::new(wire), Streams::default());
        let connection = Box::pin(speak(wire.clone(), streams.clone()));
        Multiplexed { connection, wire, streams }
    }
}

impl<C: Future, W: AsyncWrite + Unpin> Future for Multiplexed<C, W> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        this.streams.begin();
        let polled = this.connection.as_mut().poll(cx);
        this.wire.0.lock().send(cx);
        polled
    }
}

/// Runs streams: those that can be answered at once where they began.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<AtomicUsize>);

impl Streams {
    /// Another turn of the connection.
    fn begin(&self) {
        self.0.store(AT_ONCE, Ordering::Relaxed);
    }

    fn may(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let mut stream = Box::pin(stream);
        if self.may() {
            // Nobody need be woken: what is not over is asked again at once, by its task.
            let once = || stream.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            match catch_unwind(AssertUnwindSafe(once)) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => return,
                // A task's panic is the end of that task. It has been told by the hook; the client sees a stream reset.
                Err(_) => return,
            }
        }
        tokio::spawn(stream);
    }
}

/// A wire that hyper's connection writes to, and whoever polls that sends on.
pub(super) struct Shared<W>(Arc<Mutex<Gather<W>>>);

impl<W> Clone for Shared<W> {
    fn clone(&self) -> Shared<W> {
        Shared(Arc::clone(&self.0))
    }
}

impl<W> Shared<W> {
    fn new(wire: W) -> Shared<W> {
        let waiting = BytesMut::new();
        Shared(Arc::new(Mutex::new(Gather { wire, waiting, unflushed: false, failed: None })))
    }
}

/// A wire, and what is on its way there.
#[derive(Debug)]
struct Gather<W> {
    wire: W,
    waiting: BytesMut,
    /// What has left may wait in the wire itself.
    unflushed: bool,
    /// How sending failed, until it is told.
    failed: Option<io::Error>,
}

impl<W: AsyncWrite + Unpin> Gather<W> {
    /// Sends on what waits. A failure is told to who reads or writes next, and the task is woken to do so.
    fn send(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            self.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }

    /// Ready when all of it has left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let polled = Pin::new(&mut self.wire).poll_write(cx, &self.waiting);
            self.waiting.advance(ready!(wrote(polled))?);
        }
        // A connection at rest keeps no room for it.
        self.waiting = BytesMut::new();
        if self.unflushed {
            ready!(Pin::new(&mut self.wire).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn told(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.told()?;
        self.unflushed = true;
        let offered = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if offered <= COPIED && self.waiting.len() + offered <= GATHERED {
            pieces.iter().for_each(|piece| self.waiting.extend_from_slice(piece));
            return Poll::Ready(Ok(offered));
        }
        self.poll_write_through(cx, pieces)
    }

    /// Sends what waits and these pieces, both by one write where the wire takes so many.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        /// Of a frame: its head and its content.
        const PIECES: usize = 8;
        while !self.waiting.is_empty() {
            let ahead = self.waiting.len();
            let mut all = [IoSlice::new(&[]); PIECES];
            all[0] = IoSlice::new(&self.waiting);
            all[1..].iter_mut().zip(pieces).for_each(|(to, piece)| *to = *piece);
            let count = PIECES.min(1 + pieces.len());
            let polled = Pin::new(&mut self.wire).poll_write_vectored(cx, &all[..count]);
            let n = ready!(wrote(polled))?;
            self.waiting.advance(n.min(ahead));
            if n > ahead {
                return Poll::Ready(Ok(n - ahead));
            }
        }
        Pin::new(&mut self.wire).poll_write_vectored(cx, pieces)
    }
}

/// A wire that takes nothing, and does not say that it will, takes nothing ever.
fn wrote(polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    polled.map(|wrote| match wrote {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        wrote => wrote,
    })
}

impl<W: AsyncRead + Unpin> AsyncRead for Shared<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        if let Some(error) = gather.failed.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut gather.wire).poll_read(cx, buffer)
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Shared<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Whoever polls the connection sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        gather.unflushed = true;
        Poll::Ready(gather.told())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        gather.told()?;
        ready!(gather.poll_send(cx))?;
        Pin::new(&mut gather.wire).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
