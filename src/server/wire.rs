//! One client's socket: gives back the bytes that were read to tell the protocol, notes when bytes arrive, has them
//! looked at on their way to HTTP/1's parser ([`Framing`]), and closes in a way that the client can understand.
//!
//! Two ways of closing need care. A client that is still sending when Weir closes would get a reset that can
//! destroy the answer on its way (a 431, a 413): so what is unread is read off for a moment first. And a client
//! of an answer that only the end of the connection delimits (HTTP/1.0) would take a plain close in the middle for
//! the end: it gets a reset. Under TLS a connection that ends at rest says so (`close_notify`), and no other does.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::framing::Framing;
use super::socket::Socket;
use crate::interim::Line;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A head with so small a content is copied into one piece: that costs less than to have the system gather two.
const GATHERED: usize = 4096;

/// Longest reading-off of a client that is still sending, and the most that is read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The socket with its memory.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Socket,
    first: [u8; PREFACE.len()],
    /// Of `first`: given back already, and read.
    given: usize,
    read: usize,
    /// What is to be read once more. It has been looked at.
    again: Bytes,
    closing: Closing,
    activity: Arc<Activity>,
    framing: Framing,
    interims: Interims,
}

#[derive(Debug)]
enum Closing {
    No,
    /// Our half is closed.
    Half,
    ReadingOff {
        left: usize,
        until: Pin<Box<Sleep>>,
    },
    Done,
}

impl Closing {
    fn reading_off() -> Closing {
        Closing::ReadingOff { left: LINGER_BYTES, until: Box::pin(sleep(LINGER)) }
    }
}

impl Wire {
    pub(super) fn new(stream: Socket, activity: Arc<Activity>, line: Arc<Line>) -> Wire {
        let first = [0; PREFACE.len()];
        Wire {
            stream,
            first,
            given: 0,
            read: 0,
            again: Bytes::new(),
            closing: Closing::No,
            activity,
            framing: Framing::new(),
            interims: Interims::new(line),
        }
    }

    /// Reads until the first bytes tell the protocol: at the first that differs from HTTP/2's preface it is
    /// HTTP/1. `None`: the client closed before that.
    pub(super) async fn sniff(&mut self) -> io::Result<Option<Protocol>> {
        loop {
            if self.first[..self.read] != PREFACE[..self.read] {
                return Ok(Some(Protocol::Http1));
            }
            if self.read == PREFACE.len() {
                self.framing.ends();
                return Ok(Some(Protocol::Http2));
            }
            match self.stream.read(&mut self.first[self.read..]).await? {
                0 => return Ok(None),
                n => self.read += n,
            }
        }
    }

    /// TLS has told the protocol.
    pub(super) fn speaks(&mut self, protocol: Protocol) {
        if protocol == Protocol::Http2 {
            self.framing.ends();
        }
    }

    /// What was read is read once more, before anything else.
    pub(super) fn give_back(&mut self, read: Bytes) {
        self.again = read;
    }

    /// Whether the socket took bytes. TLS takes what the socket below it does not take yet, and tells that itself.
    fn wrote(&self, took: bool) {
        if !self.stream.buffers() {
            self.activity.writing(took);
        }
    }

    fn poll_read_off(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0_u8; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(self.stream.tcp()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let n = buffer.filled().len();
                    match &mut self.closing {
                        Closing::ReadingOff { left, .. } if *left > n => *left -= n,
                        Closing::ReadingOff { .. } => return Poll::Ready(()),
                        other => *other = Closing::reading_off(),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                // Nothing unread, and the request is whole: no reason to stay. Else the client gets its moment.
                Poll::Pending => match &mut self.closing {
                    Closing::ReadingOff { until, .. } => return until.as_mut().poll(cx),
                    other if self.framing.is_midway() => *other = Closing::reading_off(),
                    _ => return Poll::Ready(()),
                },
            }
        }
    }
}

/// Interim responses on their way to the socket, and where between hyper's bytes there is a place for them.
#[derive(Debug)]
struct Interims {
    line: Arc<Line>,
    /// Those that are being written, and how much of them is done.
    bytes: Vec<u8>,
    done: usize,
    /// The socket has yet to take bytes that hyper has offered: whatever comes next belongs behind them.
    offered: bool,
}

impl Interims {
    fn new(line: Arc<Line>) -> Interims {
        Interims { line, bytes: Vec::new(), done: 0, offered: false }
    }

    fn has_any(&self) -> bool {
        !self.bytes.is_empty() || self.line.is_waiting()
    }

    /// Writes them, where there is a place.
    fn poll<W: AsyncWrite + Unpin>(&mut self, stream: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.done < self.bytes.len() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.done..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => self.done += n,
                }
            }
            (self.bytes, self.done) = (Vec::new(), 0);
            match self.line.take() {
                Some(more) if !self.offered => self.bytes = more,
                // No place for them, and later there would be none either.
                Some(_) => {}
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes them, and then what hyper offers: so many bytes, by `write`.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
        offered: usize,
        write: impl FnOnce(&mut W, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let polled = match self.has_any().then(|| self.poll(stream, cx)) {
            None | Some(Poll::Ready(Ok(()))) => write(stream, cx),
            Some(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Some(Poll::Pending) => Poll::Pending,
        };
        self.offered = !matches!(polled, Poll::Ready(Ok(n)) if n == offered);
        self.line.congested(self.offered);
        polled
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.activity.must_reset() {
            // Fails only on a socket that is gone already.
            let _ = self.stream.tcp().set_zero_linger();
        } else if self.activity.is_at_rest() {
            self.stream.part();
        }
    }
}

impl Wire {
    /// Reads from the socket.
    fn poll_read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) else {
            if self.framing.is_between() {
                self.activity.waits();
            }
            return Poll::Pending;
        };
        read?;
        if buffer.filled().len() > before {
            if self.activity.is_tunnel() {
                self.framing.ends();
            }
            let of_content = self.framing.is_in_content();
            self.framing.look(&mut buffer.filled_mut()[before..]);
            match of_content && (self.framing.is_in_content() || self.framing.is_between()) {
                true => self.activity.content(),
                false => self.activity.bytes(),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.again.is_empty() {
            let n = this.again.len().min(buffer.remaining());
            buffer.put_slice(&this.again[..n]);
            this.again.advance(n);
            if this.again.is_empty() {
                // An empty piece would keep the whole.
                this.again = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if this.given < this.read {
            let n = (this.read - this.given).min(buffer.remaining());
            let given = &mut this.first[this.given..this.given + n];
            this.framing.look(given);
            buffer.put_slice(given);
            this.given += n;
            // What follows them is in the socket already, mostly. Given alone, they would make hyper's buffer grow.
            return match this.poll_read_on(cx, buffer) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            };
        }
        this.poll_read_on(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = |stream: &mut Socket, cx: &mut Context<'_>| Pin::new(stream).poll_write(cx, bytes);
        let polled = this.interims.poll_write(&mut this.stream, cx, bytes.len(), write);
        this.wrote(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        if slices.len() > 1 && offered <= GATHERED {
            thread_local! {
                static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
            }
            return PIECE.with_borrow_mut(|piece| {
                piece.clear();
                slices.iter().for_each(|slice| piece.extend_from_slice(slice));
                self.poll_write(cx, piece)
            });
        }
        let this = self.get_mut();
        let write =
            |stream: &mut Socket, cx: &mut Context<'_>| Pin::new(stream).poll_write_vectored(cx, slices);
        let polled = this.interims.poll_write(&mut this.stream, cx, offered, write);
        this.wrote(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.interims.has_any() {
            let polled = this.interims.poll(&mut this.stream, cx);
            this.wrote(polled.is_ready());
            ready!(polled)?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_outliving() {
            return Poll::Ready(Ok(()));
        }
        if matches!(this.closing, Closing::No) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.closing = Closing::Half;
        }
        if !matches!(this.closing, Closing::Done) {
            ready!(this.poll_read_off(cx));
            this.closing = Closing::Done;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    /// What a client that sends these pieces and closes its half is taken for, and what is read from it after that.
    async fn sniffed(pieces: &[&[u8]]) -> (Option<Protocol>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut wire = Wire::new(stream.into(), Activity::new(LINGER, LINGER), Arc::default());
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let reading = async {
            let protocol = wire.sniff().await.unwrap();
            let mut all = Vec::new();
            wire.read_to_end(&mut all).await.unwrap();
            (protocol, all)
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn who_is_in_the_midst_of_a_request_may_end_it_when_the_answer_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for begun in ["GET / HTTP/1.1\r\nx: ", "POST / HTTP/1.1\r\ncontent-length: 9999999\r\n\r\nxx"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            client.write_all(begun.as_bytes()).await.unwrap();
            let serving = tokio::spawn(async move {
                let mut wire = Wire::new(stream.into(), Activity::new(LINGER, LINGER), Arc::default());
                let mut read = vec![0; begun.len()];
                wire.read_exact(&mut read).await.unwrap();
                wire.write_all(b"no").await.unwrap();
                // Nothing is unread at this moment.
                wire.shutdown().await.unwrap();
            });
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            client.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
            drop(client);
            serving.await.unwrap();
        }
    }

    /// A socket that takes so many bytes and no more.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nvia: 1.1 weir\r\n\r\n";

    /// hyper's way: it offers what is left until the socket takes no more.
    fn offer(interims: &mut Interims, socket: &mut Narrow, bytes: &mut &[u8]) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while !bytes.is_empty() {
            let left = *bytes;
            let write = |socket: &mut Narrow, cx: &mut Context<'_>| Pin::new(socket).poll_write(cx, left);
            match interims.poll_write(socket, &mut cx, left.len(), write) {
                Poll::Ready(n) => *bytes = &bytes[n.unwrap()..],
                Poll::Pending => return false,
            }
        }
        true
    }

    async fn listener(line: &Arc<Line>) -> Option<crate::interim::Listener> {
        line.begin().listen(&http::HeaderValue::from_static("1.1 weir")).await
    }

    #[tokio::test]
    async fn nothing_comes_between_bytes_that_are_offered_at_once() {
        for room in 1..25 {
            let line = Arc::<Line>::default();
            let (mut interims, mut socket) =
                (Interims::new(Arc::clone(&line)), Narrow { room, ..Narrow::default() });
            let listener = listener(&line).await.unwrap();
            let mut bytes = &b"HTTP/1.1 100 Continue\r\n\r\n"[..];
            assert!(!offer(&mut interims, &mut socket, &mut bytes));
            listener.pass_on(http::StatusCode::EARLY_HINTS, &http::HeaderMap::new());
            socket.room = 1000;
            assert!(offer(&mut interims, &mut socket, &mut bytes));
            listener.pass_on(http::StatusCode::EARLY_HINTS, &http::HeaderMap::new());
            assert!(offer(&mut interims, &mut socket, &mut &b"HTTP/1.1 200 OK\r\n\r\n"[..]));
            let taken = String::from_utf8(socket.taken).unwrap();
            assert_eq!(taken, format!("HTTP/1.1 100 Continue\r\n\r\n{HINTS}HTTP/1.1 200 OK\r\n\r\n"));
        }
    }

    #[tokio::test]
    async fn a_response_that_waits_behind_an_interim_one_comes_before_the_next_request_s() {
        for room in 1..HINTS.len() {
            let line = Arc::<Line>::default();
            let (mut interims, mut socket) =
                (Interims::new(Arc::clone(&line)), Narrow { room, ..Narrow::default() });
            let first = listener(&line).await.unwrap();
            first.pass_on(http::StatusCode::EARLY_HINTS, &http::HeaderMap::new());
            let mut bytes = &b"HTTP/1.1 204 No Content\r\n\r\n"[..];
            assert!(!offer(&mut interims, &mut socket, &mut bytes));
            assert!(listener(&line).await.is_none(), "its response is not written yet");
            socket.room = 1000;
            assert!(offer(&mut interims, &mut socket, &mut bytes));
            assert_eq!(
                String::from_utf8(socket.taken).unwrap(),
                format!("{HINTS}HTTP/1.1 204 No Content\r\n\r\n")
            );
            assert!(listener(&line).await.is_some());
        }
    }

    #[tokio::test]
    async fn the_first_bytes_tell_and_are_given_back() {
        let long = [PREFACE.as_slice(), &[0; 100]].concat();
        let cases: [(&[u8], Option<Protocol>); 7] = [
            (b"GET / HTTP/1.1\r\n\r\n", Some(Protocol::Http1)),
            (b"PROPFIND / HTTP/1.1\r\n\r\n", Some(Protocol::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSX", Some(Protocol::Http1)),
            (PREFACE, Some(Protocol::Http2)),
            (&long, Some(Protocol::Http2)),
            (b"PRI * HT", None),
            (b"", None),
        ];
        for (bytes, protocol) in cases {
            for size in [1, 3, 24, 1000] {
                let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
                let (told, all) = sniffed(&pieces).await;
                assert_eq!(told, protocol, "{bytes:?} by {size}");
                assert_eq!(all, bytes, "{bytes:?} by {size}");
            }
        }
    }
}
