//! A connection's stream, which two speak on in turn: hyper, and the [short exchange](super::short).
//!
//! ```text
//!  short exchange ──► Stream ◄── Hyper's end
//!                       │ Owed: "this head has left already, and that has come of it"
//! ```
//!
//! An exchange that turns out not to be plain is hyper's from there on, as if it had been hyper's from the start: what hyper
//! writes of the head that has left is swallowed, and its reads begin with what was read.
//!
//! Invariants:
//! - What is swallowed is, byte for byte, what was written before: anything else breaks the connection.
//! - hyper reads nothing before it has "written" what was written, or a response would look like one nobody asked for.
//! - hyper's end alone keeps the stream open: it closes when hyper is done with it.
//! - Nothing of a head, which has credentials in it, is kept once hyper has written it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The stream, and what hyper is owed of it.
pub(super) struct Stream {
    io: Box<dyn Io>,
    owed: Option<Box<Owed>>,
}

/// What has happened on a stream without hyper.
#[derive(Default)]
pub(super) struct Owed {
    /// Of the head, as much as was written.
    pub(super) written: Vec<u8>,
    /// How writing on failed.
    pub(super) broken: Option<io::Error>,
    /// What was read.
    pub(super) came: Bytes,
    /// How reading ended.
    pub(super) end: Option<io::Result<()>>,
    /// How much of `written` hyper has written.
    pub(super) swallowed: usize,
    /// Who waits for that.
    pub(super) reader: Option<Waker>,
}

/// Credentials may be among it, so it is not shown.
impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("owed", &self.owed.is_some()).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(io: impl Io + 'static) -> Arc<Mutex<Stream>> {
        Arc::new(Mutex::new(Stream { io: Box::new(io), owed: None }))
    }

    /// The stream itself, for who has it alone.
    pub(super) fn io(&mut self) -> &mut (dyn Io + 'static) {
        &mut *self.io
    }

    /// From here on it is hyper's.
    pub(super) fn hand_over(&mut self, owed: Owed) {
        self.owed = Some(Box::new(owed));
    }
}

impl Owed {
    /// Whether hyper has yet to write what was written.
    fn unsaid(&self) -> bool {
        self.swallowed < self.written.len()
    }

    fn read(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.unsaid() {
            self.reader = Some(cx.waker().clone());
            return Some(Poll::Pending);
        }
        if !self.came.is_empty() {
            let n = self.came.len().min(buffer.remaining());
            buffer.put_slice(&self.came[..n]);
            self.came.advance(n);
            return Some(Poll::Ready(Ok(())));
        }
        match &mut self.end {
            None => None,
            // What has ended does so again.
            Some(end) => Some(Poll::Ready(std::mem::replace(end, Ok(())))),
        }
    }

    fn write(&mut self, piece: &[u8]) -> Option<io::Result<usize>> {
        if !self.unsaid() {
            return self.broken.take().map(Err);
        }
        let due = &self.written[self.swallowed..];
        let n = due.len().min(piece.len());
        if piece[..n] != due[..n] {
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "another request than was sent")));
        }
        self.swallowed += n;
        if !self.unsaid() {
            (self.written, self.swallowed) = (Vec::new(), 0);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
        Some(Ok(n))
    }

    /// There is nothing left of it.
    fn is_paid(&self) -> bool {
        !self.unsaid() && self.broken.is_none() && self.came.is_empty() && self.end.is_none()
    }
}

/// hyper's end of a stream.
#[derive(Debug)]
pub(super) struct Hypers(pub(super) Arc<Mutex<Stream>>);

impl Hypers {
    /// Writes pieces of which not all need be taken.
    fn write(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut stream = self.0.lock();
        let stream = &mut *stream;
        if let Some(owed) = &mut stream.owed {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            let swallowed = first.and_then(|piece| owed.write(piece));
            if owed.is_paid() {
                stream.owed = None;
            }
            if let Some(swallowed) = swallowed {
                return Poll::Ready(swallowed);
            }
        }
        let io = Pin::new(&mut *stream.io);
        match pieces {
            // To have the system gather one piece costs more than to write it.
            [one] => io.poll_write(cx, one),
            more => io.poll_write_vectored(cx, more),
        }
    }
}

impl AsyncRead for Hypers {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.0.lock();
        let stream = &mut *stream;
        if let Some(owed) = &mut stream.owed {
            let read = owed.read(cx, buffer);
            if owed.is_paid() {
                stream.owed = None;
            }
            if let Some(read) = read {
                return read;
            }
        }
        Pin::new(&mut *stream.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Hypers {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::woken::Woken;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    fn owing(owed: Owed) -> (Hypers, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(1024);
        let stream = Stream::new(near);
        stream.lock().hand_over(owed);
        (Hypers(stream), far)
    }

    /// What a read brings now.
    fn read(hypers: &mut Hypers, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        Pin::new(hypers).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn what_has_left_is_swallowed_in_whatever_pieces_and_the_rest_leaves() {
        for left in 0..=HEAD.len() {
            for piece in [1, 3, HEAD.len()] {
                let (mut hypers, mut far) = owing(Owed { written: HEAD[..left].to_vec(), ..Owed::default() });
                for bytes in HEAD.chunks(piece) {
                    hypers.write_all(bytes).await.unwrap();
                }
                hypers.write_all(b"next").await.unwrap();
                assert!(hypers.0.lock().owed.is_none());
                drop(hypers);
                let mut heard = Vec::new();
                far.read_to_end(&mut heard).await.unwrap();
                assert_eq!(heard, [&HEAD[left..], b"next"].concat());
            }
        }
    }

    #[tokio::test]
    async fn pieces_that_are_gathered_are_swallowed_too() {
        let (mut hypers, mut far) = owing(Owed { written: HEAD[..20].to_vec(), ..Owed::default() });
        let mut pieces = [IoSlice::new(b""), IoSlice::new(&HEAD[..7]), IoSlice::new(&HEAD[7..])];
        let mut left = &mut pieces[..];
        while left.iter().any(|piece| !piece.is_empty()) {
            let n = hypers.write_vectored(left).await.unwrap();
            IoSlice::advance_slices(&mut left, n);
        }
        drop(hypers);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, &HEAD[20..]);
    }

    #[tokio::test]
    async fn another_head_than_has_left_breaks_the_connection() {
        for at in 0..HEAD.len() {
            let (mut hypers, _far) = owing(Owed { written: HEAD.to_vec(), ..Owed::default() });
            let mut other = HEAD.to_vec();
            other[at] ^= 1;
            assert_eq!(
                hypers.write_all(&other).await.unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{at}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_is_read_before_the_head_is_written_and_then_all_in_order() {
        let ((count, waker), mut far_says) = (Woken::counted(), b"!".as_slice());
        let cx = &mut Context::from_waker(&waker);
        let came = Bytes::from_static(b"response");
        let (mut hypers, mut far) = owing(Owed { written: HEAD.to_vec(), came, ..Owed::default() });
        far.write_all_buf(&mut far_says).await.unwrap();
        assert!(read(&mut hypers, cx, 5).is_pending());
        hypers.write_all(&HEAD[..9]).await.unwrap();
        assert!(read(&mut hypers, cx, 5).is_pending());
        assert_eq!(count.times(), 0);
        hypers.write_all(&HEAD[9..]).await.unwrap();
        assert_eq!(count.times(), 1, "who waits to read is woken");
        assert!(hypers.0.lock().owed.as_ref().is_some_and(|owed| owed.written.capacity() == 0), "forgotten");
        for expected in ["respo", "nse", "!"] {
            let Poll::Ready(Ok(bytes)) = read(&mut hypers, cx, 5) else { panic!("{expected} is here") };
            assert_eq!(bytes, expected.as_bytes());
        }
        assert!(read(&mut hypers, cx, 5).is_pending());
    }

    #[tokio::test]
    async fn an_end_and_an_error_are_told_after_what_came() {
        let cx = &mut Context::from_waker(Waker::noop());
        let came = || Bytes::from_static(b"resp");
        let (mut hypers, _far) = owing(Owed { came: came(), end: Some(Ok(())), ..Owed::default() });
        for expected in ["resp", "", ""] {
            assert!(
                matches!(read(&mut hypers, cx, 9), Poll::Ready(Ok(bytes)) if bytes == expected.as_bytes())
            );
        }
        let reset = Some(Err(io::ErrorKind::ConnectionReset.into()));
        let (mut hypers, _far) = owing(Owed { came: came(), end: reset, ..Owed::default() });
        assert!(matches!(read(&mut hypers, cx, 9), Poll::Ready(Ok(bytes)) if bytes == b"resp"));
        assert!(matches!(read(&mut hypers, cx, 9), Poll::Ready(Err(_))));
        let broken = Some(io::ErrorKind::BrokenPipe.into());
        let (mut hypers, _far) = owing(Owed { written: HEAD[..3].to_vec(), broken, ..Owed::default() });
        assert_eq!(hypers.write_all(HEAD).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn credentials_are_not_shown() {
        let (near, _far) = tokio::io::duplex(1);
        let stream = Stream::new(near);
        stream.lock().hand_over(Owed { written: b"secret".to_vec(), ..Owed::default() });
        assert!(!format!("{:?}", Hypers(stream)).contains("115"), "not as numbers either");
    }
}
