//! The head of a request as it goes over the wire, so that it can be said again.
//!
//! A safe request without content may be sent once more when a kept-alive connection turns out to have been closed, and
//! hyper gives back only what it has not begun to write. So the head of such a request is taken down: one copy of some
//! hundred bytes, where the request would be copied field by field for a case that hardly ever comes. In a
//! [short exchange](super::short) it is also what is written.
//!
//! Invariants:
//! - What is taken down is, byte for byte, what hyper writes of the same request.
//! - What is read again is what was made of valid fields here; nothing that others have sent is read. What cannot be read
//!   again whole is not sent again.
//! - Nothing of it is kept once its response has come.

use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::request_body::Outgoing;

/// Room that is kept from one request to the next.
const KEPT: usize = 4096;

/// What was said last on a connection.
#[derive(Default)]
pub(super) struct Said(Vec<u8>);

/// Credentials are among it, so it is not shown.
impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Said({} bytes)", self.0.len())
    }
}

impl Said {
    /// Takes down a request without content.
    pub(super) fn take_down(&mut self, request: &Request<Outgoing>) {
        let head = &mut self.0;
        head.clear();
        let mut say = |part: &[u8]| head.extend_from_slice(part);
        let target = request.uri();
        say(request.method().as_str().as_bytes());
        say(b" ");
        say(target.path().as_bytes());
        if let Some(query) = target.query() {
            say(b"?");
            say(query.as_bytes());
        }
        say(b" HTTP/1.1\r\n");
        for (name, value) in request.headers() {
            say(name.as_str().as_bytes());
            say(b": ");
            say(value.as_bytes());
            say(b"\r\n");
        }
        say(b"\r\n");
    }

    /// What was taken down.
    pub(super) fn head(&self) -> &[u8] {
        &self.0
    }

    /// Forgets it.
    pub(super) fn forget(&mut self) {
        if self.0.capacity() > KEPT {
            self.0 = Vec::new();
        }
        self.0.clear();
    }

    /// The request that was taken down.
    pub(super) fn again(&self) -> Option<Request<Outgoing>> {
        read_again(&self.0)
    }
}

/// A request without content, of its head.
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

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST, VIA};
    use http::uri::PathAndQuery;
    use tokio::io::AsyncReadExt;

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

    #[test]
    fn what_is_taken_down_is_the_last_alone() {
        let mut said = Said::default();
        assert!(said.again().is_none());
        let other = read_again(b"OPTIONS * HTTP/1.1\r\nhost: another\r\n\r\n").unwrap();
        said.take_down(&other);
        assert_eq!(said.again().unwrap().method(), Method::OPTIONS);
        said.take_down(&read_again(HEAD).unwrap());
        assert_eq!(said.head(), HEAD);
        assert_eq!(said.again().unwrap().uri(), TARGET);
        said.forget();
        assert!(said.head().is_empty() && said.again().is_none(), "nothing stays behind");
    }

    #[test]
    fn what_is_taken_down_is_not_shown() {
        let mut said = Said::default();
        said.take_down(&read_again(b"GET / HTTP/1.1\r\nauthorization: secret\r\n\r\n").unwrap());
        assert_eq!(format!("{said:?}"), "Said(41 bytes)");
    }

    /// What hyper writes of a request.
    async fn written_by_hyper(request: Request<Outgoing>) -> Vec<u8> {
        let (near, mut far) = tokio::io::duplex(4096);
        let io = hyper_util::rt::TokioIo::new(near);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let sending = tokio::spawn(async move { sender.send_request(request).await.map(|_| ()) });
        tokio::spawn(connection);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut head).await.unwrap();
        }
        drop(far);
        assert!(sending.await.unwrap().is_err());
        head
    }

    #[tokio::test]
    async fn what_is_taken_down_is_what_hyper_writes() {
        let targets = ["/", "/a?b=%20c", "*", "?q", "/?", "/a?", "//x", "/a b", "/\u{e4}", "/a#f", ""];
        let targets = targets.iter().filter_map(|target| PathAndQuery::try_from(*target).ok()).map(Uri::from);
        for target in targets {
            for method in ["GET", "OPTIONS", "TRACE", "HEAD"] {
                let request = || {
                    let mut request = Request::new(Outgoing::empty());
                    *request.method_mut() = method.parse().unwrap();
                    *request.uri_mut() = target.clone();
                    for (name, value) in [
                        ("b", "2"),
                        ("host", "h"),
                        ("b", "3"),
                        ("a", ""),
                        ("content-length", "0"),
                        ("te", "trailers"),
                    ] {
                        request.headers_mut().append(name, HeaderValue::from_static(value));
                    }
                    let odd = HeaderValue::from_bytes(b"\xff\t\x80 ").unwrap();
                    request.headers_mut().append("x-odd", odd);
                    request
                };
                let mut said = Said::default();
                said.take_down(&request());
                let written = written_by_hyper(request()).await;
                assert_eq!(said.head(), written, "{}", String::from_utf8_lossy(&written));
            }
        }
    }
}
