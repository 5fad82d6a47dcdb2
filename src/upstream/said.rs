//! A connection's stream as hyper writes to it: what can go out by a plain write does, and what was said can be said again.
//!
//! A safe request without content may be sent once more when a kept-alive connection turns out to have been closed, and
//! hyper gives back only what it has not begun to write. So the head of such a request is taken down as it is written: one
//! copy of some hundred bytes, where the request would be copied field by field for a case that hardly ever comes.
//!
//! Invariants:
//! - What is read again is what hyper made of valid fields, in the form that hyper gives them; nothing that others have
//!   sent is read here. What cannot be read again whole is not sent again.
//! - Nothing is taken down but while a request is sent that may be said again: not content, not what goes through a tunnel.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_body::Outgoing;

/// Room that is kept from one request to the next.
const KEPT: usize = 4096;

/// What was said last on a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    listening: AtomicBool,
    head: Mutex<Head>,
}

#[derive(Default)]
struct Head {
    /// What was offered to the stream.
    bytes: Vec<u8>,
    /// How much of it the stream has taken.
    taken: usize,
}

/// Credentials are among it, so it is not shown.
impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({} bytes, {} taken)", self.bytes.len(), self.taken)
    }
}

impl Head {
    fn offer(&mut self, pieces: &[IoSlice<'_>]) {
        self.bytes.truncate(self.taken);
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
    }
}

impl Said {
    /// What is written from now on is taken down.
    pub(super) fn listen(&self) {
        let mut head = self.0.head.lock();
        head.bytes.clear();
        head.taken = 0;
        self.0.listening.store(true, Ordering::Release);
    }

    /// It no longer is, and what was is forgotten.
    pub(super) fn ignore(&self) {
        if self.0.listening.swap(false, Ordering::AcqRel) {
            let bytes = &mut self.0.head.lock().bytes;
            if bytes.capacity() > KEPT {
                *bytes = Vec::new();
            }
            bytes.clear();
        }
    }

    /// The request that was taken down, if it is whole, and this one: what is repeated is never another's, nor of another
    /// method.
    pub(super) fn request(&self, method: &Method, target: &Uri) -> Option<Request<Outgoing>> {
        let said = read_again(&self.0.head.lock().bytes)?;
        (said.method() == method && said.uri() == target).then_some(said)
    }

    fn head(&self) -> Option<MutexGuard<'_, Head>> {
        self.0.listening.load(Ordering::Acquire).then(|| self.0.head.lock())
    }
}

/// A request without content, of its head as hyper writes it.
fn read_again(head: &[u8]) -> Option<Request<Outgoing>> {
    let mut lines = head.strip_suffix(b"\r\n\r\n")?.split(|&byte| byte == b'\n');
    let mut line = || lines.next().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = line()?.strip_suffix(b" HTTP/1.1")?;
    let space = memchr::memchr(b' ', first)?;
    let mut request = Request::new(Outgoing::empty());
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    while let Some(line) = line() {
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].strip_prefix(b" ")?).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// The stream that is listened to.
#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: S,
    said: Said,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S, said: Said) -> Heard<S> {
        Heard { stream, said }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Heard<S> {
    /// Writes pieces of which not all need be taken.
    fn write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut head = self.said.head();
        if let Some(head) = &mut head {
            head.offer(pieces);
        }
        let stream = Pin::new(&mut self.stream);
        let polled = match pieces {
            // To have the system gather one piece costs more than to write it.
            [one] => stream.poll_write(cx, one),
            more => stream.poll_write_vectored(cx, more),
        };
        if let (Some(head), Poll::Ready(Ok(n))) = (&mut head, &polled) {
            head.taken += n;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST, VIA};
    use tokio::io::AsyncWriteExt;

    use super::*;

    const TARGET: &str = "/a?b=%20c";
    const HEAD: &[u8] =
        b"GET /a?b=%20c HTTP/1.1\r\nhost: api.example\r\naccept: a: b\r\naccept: \xff\r\nvia: \r\n\r\n";

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let request = read_again(HEAD).unwrap();
        assert_eq!((request.method(), request.uri()), (&Method::GET, &Uri::from_static("/a?b=%20c")));
        assert_eq!(request.headers()[HOST], "api.example");
        let accepted: Vec<_> = request.headers().get_all(ACCEPT).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(accepted, [&b"a: b"[..], b"\xff"]);
        assert_eq!(request.headers()[VIA], "");
        assert_eq!(request.headers().len(), 4);
        let star = read_again(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!((star.method(), star.uri()), (&Method::OPTIONS, &Uri::from_static("*")));
    }

    #[test]
    fn what_is_not_whole_is_none() {
        for end in 0..HEAD.len() {
            assert!(read_again(&HEAD[..end]).is_none(), "{end}");
        }
        for other in [
            &b"GET / HTTP/1.0\r\nhost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\nmore",
            b"GET\r\n\r\n",
            b"\r\n\r\n",
        ] {
            assert!(read_again(other).is_none(), "{}", String::from_utf8_lossy(other));
        }
    }

    #[tokio::test]
    async fn what_the_stream_takes_in_parts_is_taken_down_once() {
        // So little at once that each write is taken in part.
        let (near, mut far) = tokio::io::duplex(7);
        let said = Said::default();
        let mut stream = Heard::new(near, said.clone());
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut far, &mut all).await.map(|_| all)
        });
        stream.write_all(b"before").await.unwrap();
        let request = || said.request(&Method::GET, &Uri::from_static(TARGET));
        assert!(request().is_none(), "nobody listened");
        said.listen();
        let (first, second) = HEAD.split_at(30);
        stream.write_all(first).await.unwrap();
        let mut pieces = [IoSlice::new(&second[..10]), IoSlice::new(&second[10..])];
        let mut left = &mut pieces[..];
        while !left.is_empty() {
            let n = stream.write_vectored(left).await.unwrap();
            IoSlice::advance_slices(&mut left, n);
        }
        assert_eq!(said.0.head.lock().bytes, HEAD);
        assert_eq!(request().unwrap().headers().len(), 4);
        assert!(said.request(&Method::HEAD, &Uri::from_static(TARGET)).is_none(), "another method");
        assert!(said.request(&Method::GET, &Uri::from_static("/other")).is_none(), "another target");
        said.ignore();
        stream.write_all(b"after").await.unwrap();
        assert!(said.0.head.lock().bytes.is_empty(), "nothing stays behind");
        said.listen();
        assert!(request().is_none(), "another request begins");
        drop(stream);
        assert_eq!(reader.await.unwrap().unwrap(), [b"before", HEAD, b"after"].concat());
    }

    #[test]
    fn what_was_offered_but_not_taken_counts_as_said() {
        let mut head = Head::default();
        head.offer(&[IoSlice::new(HEAD)]);
        assert!(read_again(&head.bytes).is_some(), "the stream failed when it was offered all of it");
        head.taken = 4;
        head.offer(&[IoSlice::new(&HEAD[4..])]);
        assert_eq!(head.bytes, HEAD);
    }
}
