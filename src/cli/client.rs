//! A small HTTP/1.1 client for the commands: one request, one connection, one deadline. Plain `http://` only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::time::Clock;

/// Largest answer taken, bytes.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its fields.
    pub(super) headers: HeaderMap,
    /// Its content.
    pub(super) body: Bytes,
    /// From the request sent to the content complete; connecting is not part of it.
    pub(super) took: Duration,
}

/// Sends one request; the error is a sentence.
pub(super) async fn send(
    method: Method,
    url: &Uri,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
    limit: Duration,
) -> Result<Answer, String> {
    let exchange = exchange(method, url, fields, body.into());
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer.map_err(|why| format!("{url}: {why}")),
        Err(_) => Err(format!("{url}: no answer within {limit:?}")),
    }
}

/// A listener on every address is asked on the loopback one.
pub(super) fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

/// The URL of `path` at an admin listener; a path in the URL replaces it.
pub(super) fn from_url(text: &str, path: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is not a URL such as http://127.0.0.1:8081");
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let (Some("http"), Some(authority)) = (url.scheme_str(), url.authority()) else { return Err(wrong()) };
    let path = if url.path() == "/" { path } else { url.path() };
    format!("http://{authority}{path}").parse().map_err(|_| wrong())
}

async fn exchange(method: Method, url: &Uri, fields: &[(&str, &str)], body: Bytes) -> Result<Answer, String> {
    let authority = url.authority().ok_or("not an absolute URL")?;
    if url.scheme_str() != Some("http") {
        return Err("only http:// is spoken here".into());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream =
        TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(|e| e.to_string())?;
    // Small requests and answers: waiting for more to send would be all latency.
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let request = request(method, url, authority.as_str(), fields, body)?;
    let clock = Clock::system();
    let began = clock.elapsed();
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let (head, content) = response.into_parts();
    let content = Limited::new(content, ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?;
    let took = clock.elapsed().saturating_sub(began);
    connection.abort();
    Ok(Answer { status: head.status, headers: head.headers, body: content.to_bytes(), took })
}

fn request(
    method: Method,
    url: &Uri,
    host: &str,
    fields: &[(&str, &str)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).map_err(|e| e.to_string())?;
        request = request.header(*name, value);
    }
    request.body(Full::new(body)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (listen, asked) in
            [("0.0.0.0:8081", "127.0.0.1:8081"), ("[::]:9", "[::1]:9"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn the_probe_is_asked_unless_the_url_has_a_path() {
        let asked = |url| from_url(url, "/readyz").map(|url| url.to_string());
        assert_eq!(asked("http://127.0.0.1:8081").unwrap(), "http://127.0.0.1:8081/readyz");
        assert_eq!(asked("http://[::1]:8081/").unwrap(), "http://[::1]:8081/readyz");
        assert_eq!(asked("http://weir:8081/healthz").unwrap(), "http://weir:8081/healthz");
        for wrong in ["", "127.0.0.1:8081", "https://x", "http://", "/readyz"] {
            assert!(asked(wrong).unwrap_err().contains("is not a URL"), "{wrong}");
        }
    }
}
