//! Upgraded connections (WebSocket and the like): after both sides said `101 Switching Protocols`, bytes are copied
//! both ways until one side ends.
//!
//! Invariants: nothing times out while both sides are open (a socket may be quiet for hours); when one direction
//! ends, the other is told and has a short while to say its last words, then both are closed; every copy is known
//! to [`Tunnels`], so that a drain can end it; both connections stay under their limits for as long.
//!
//! A wish for HTTP or TLS itself is not heard, as RFC 9110 §7.8 leaves to a server: `h2c` is never passed on (the upstream
//! would take a second, unseen stream of requests through it), and some clients offer `TLS/1.2` with every request that
//! they make. Such a request is like any other, and the wish goes no further.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forwarded::prepare_response;
use crate::body::Body;
use crate::server::Hold;
use crate::upstream::pool::Held;

/// Once one direction has ended: the longest silence of the other before both are closed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bytes copied at once.
const CHUNK: usize = 16 * 1024;

/// Whether the request asks for another protocol (RFC 9110 §7.8).
pub fn is_upgrade(parts: &Parts) -> bool {
    requested(parts).is_some()
}

/// The protocols that the request asks for and may get: HTTP/1.1, with `Upgrade` and `Connection: upgrade`, and not those
/// of HTTP itself. Of a list those remain that are for a tunnel.
pub fn requested(parts: &Parts) -> Option<HeaderValue> {
    let asks = parts.version == Version::HTTP_11
        && parts.headers.contains_key(UPGRADE)
        && names_upgrade(&parts.headers);
    if !asks {
        return None;
    }
    let lines = parts.headers.get_all(UPGRADE).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&b| b == b',')).map(<[u8]>::trim_ascii);
    let asked: Vec<&[u8]> = members.filter(|member| is_for_a_tunnel(member)).collect();
    if asked.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&asked.join(&b", "[..])).ok()
}

/// Whether a protocol is something else than HTTP, or a layer beneath it, on the same connection. What is not spelt as RFC 9110
/// §7.8 has it might be taken for one of those by somebody else.
fn is_for_a_tunnel(protocol: &[u8]) -> bool {
    let mut parts = protocol.splitn(2, |&b| b == b'/');
    let name = parts.next().unwrap_or_default();
    is_token(name) && parts.next().is_none_or(is_token) && !is_http_itself(name)
}

/// `h2c` and what it was called in drafts (`h2c-14`), `HTTP/2.0`, and TLS (RFC 2817).
fn is_http_itself(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(&name[..], b"h2" | b"h2c" | b"http" | b"tls")
        || [&b"h2-"[..], b"h2c-", b"http-"].iter().any(|draft| name.starts_with(draft))
}

fn is_token(text: &[u8]) -> bool {
    let is_tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(is_tchar)
}

/// A client's wish for another protocol, kept aside while its request is made fit for forwarding.
#[derive(Debug, Default)]
pub struct Wish {
    protocols: Option<HeaderValue>,
    client: Option<OnUpgrade>,
    hold: Option<Hold>,
}

impl Wish {
    /// Takes it out of a request as received; empty where there is none.
    pub fn take(parts: &mut Parts) -> Wish {
        Wish {
            protocols: requested(parts),
            client: parts.extensions.remove::<OnUpgrade>(),
            hold: parts.extensions.remove::<Hold>(),
        }
    }

    /// Puts it on the request that is fit by now.
    pub fn restore(&self, headers: &mut HeaderMap) {
        if let Some(protocols) = &self.protocols {
            restore(headers, protocols);
        }
    }

    /// The client's connection to be, and what counts it; `None` = nothing was asked for.
    pub fn granted(self) -> Option<(OnUpgrade, Option<Hold>)> {
        self.protocols.and(self.client).map(|client| (client, self.hold))
    }
}

/// Puts back what the stripping of hop-by-hop fields took away.
pub fn restore(headers: &mut HeaderMap, protocols: &HeaderValue) {
    headers.insert(UPGRADE, protocols.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    })
}

/// All upgraded connections of the process.
#[derive(Debug, Default)]
pub struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Tunnels {
    /// Takes the upstream's `101` as received, and returns the client's; the copying begins when that is sent.
    /// This includes [`prepare_response`]. `client` is `hyper::upgrade::on` of the request, `hold` is found in the
    /// request's extensions.
    pub fn splice(
        &self,
        client: OnUpgrade,
        hold: Option<Hold>,
        mut response: Response<Body>,
        name: &str,
    ) -> Response<Body> {
        let upstream = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let held = parts.extensions.remove::<Held>();
        let protocols = parts.headers.get(UPGRADE).cloned();
        prepare_response(&mut parts, name);
        if let Some(protocols) = protocols {
            restore(&mut parts.headers, &protocols);
        }
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            // Both connections count until the copying is over.
            let _held = (hold, held);
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = tunnel(client, upstream) => {}
            }
        });
        Response::from_parts(parts, Body::Empty)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for all to end, at most `limit`, then cuts them; returns how many were cut. Later ones are cut at once.
    pub async fn close(&self, limit: Duration) -> usize {
        self.tasks.close();
        let open = if timeout(limit, self.tasks.wait()).await.is_ok() { 0 } else { self.tasks.len() };
        self.cut.cancel();
        self.tasks.wait().await;
        open
    }
}

async fn tunnel(client: OnUpgrade, upstream: OnUpgrade) {
    match tokio::try_join!(client, upstream) {
        Ok((client, upstream)) => copy_both(TokioIo::new(client), TokioIo::new(upstream)).await,
        Err(error) => tracing::debug!(%error, "an upgrade was agreed on and did not come about"),
    }
}

async fn copy_both(client: TokioIo<Upgraded>, upstream: TokioIo<Upgraded>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let moved = Arc::new(AtomicU64::new(0));
    let up = pump(&mut from_client, &mut to_upstream, &moved);
    let down = pump(&mut from_upstream, &mut to_client, &moved);
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => last_words(down, &moved).await,
        () = &mut down => last_words(up, &moved).await,
    }
}

/// Copies one direction to its end, then closes that half. An error ends it like an end.
async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), moved: &AtomicU64) {
    let mut chunk = vec![0_u8; CHUNK];
    loop {
        let n = match from.read(&mut chunk).await {
            Ok(n) if n > 0 => n,
            Ok(_) | Err(_) => break,
        };
        if to.write_all(&chunk[..n]).await.is_err() || to.flush().await.is_err() {
            break;
        }
        moved.fetch_add(1, Ordering::Relaxed);
    }
    // Fails only where there is nobody left to tell.
    let _ = to.shutdown().await;
}

/// Lets the other direction go on until it ends or falls silent.
async fn last_words(mut other: std::pin::Pin<&mut impl Future<Output = ()>>, moved: &AtomicU64) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        if timeout(LAST_WORDS, other.as_mut()).await.is_ok() || moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_counts_as_an_upgrade() {
        let asked = parts(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(requested(&asked).unwrap(), "websocket");
        assert!(is_upgrade(&asked));
        for not in [
            &[("connection", "upgrade")][..],
            &[("upgrade", "websocket")],
            &[("connection", "keep-alive"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "")],
        ] {
            assert!(!is_upgrade(&parts(not)), "{not:?}");
        }
        let mut old = asked;
        old.version = Version::HTTP_10;
        assert!(!is_upgrade(&old));
    }

    #[test]
    fn http_itself_is_not_upgraded() {
        for (lines, left) in [
            (&["h2c"][..], None),
            (&["TLS/1.2"], None),
            (&["tls/1.3, TLS"], None),
            (&["HTTP/2.0"], None),
            (&["HTTP/2.0, h2c", " , h2c-14, H2, HTTP-draft-04/2.0"], None),
            (&["TLS/1.2, websocket"], Some("websocket")),
            (&["websocket, H2C"], Some("websocket")),
            (&["websocket", "h2c"], Some("websocket")),
            (&["IRC/6.9 ,RTA/x11", "tcp"], Some("IRC/6.9, RTA/x11, tcp")),
            (&["SPDY/3.1"], Some("SPDY/3.1")),
            // Not spelt as it should be: others may read another name in it.
            (&["\"h2c\"", "h2c;q=1", "h2c x", "a/b/c", "/1", "chat/", "chat/ 1"], None),
            (&["h2c/1.0", "tlsx", "h2cx"], Some("tlsx, h2cx")),
        ] {
            let mut fields = vec![("connection", "upgrade")];
            fields.extend(lines.iter().map(|line| ("upgrade", *line)));
            let asked = requested(&parts(&fields));
            assert_eq!(asked.as_ref().map(|v| v.to_str().unwrap()), left, "{lines:?}");
        }
    }

    #[test]
    fn restoring() {
        let mut headers = HeaderMap::new();
        restore(&mut headers, &HeaderValue::from_static("websocket"));
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[CONNECTION], "upgrade");
    }
}
