//! Heads: of requests that are plain, and of answers to them, as hyper reads and writes them.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::body::Body;
use crate::server::activity::Answer;

/// Most fields, as with hyper.
const MOST_FIELDS: usize = 100;

/// Most fields for which there is room kept from one answer to the next request.
const KEPT_FIELDS: usize = 64;

thread_local! {
    /// A map for the fields of the next request. Empty.
    static FIELDS: RefCell<HeaderMap> = RefCell::default();
}

/// The request that these bytes are, if they are one, nothing else, and plain; and whether it is a HEAD.
pub(super) fn read(came: &Bytes) -> Option<(Request<()>, bool)> {
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    // hyper's server reads heads by the same parser with the same settings.
    match ParserConfig::default().parse_request_with_uninit_headers(&mut head, came, &mut room) {
        Ok(Status::Complete(length)) if length == came.len() => {}
        Ok(_) | Err(_) => return None,
    }
    let method = match head.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    let target = head.path.filter(|target| target.starts_with('/'))?;
    if head.version != Some(1) || !head.headers.iter().all(is_plain) {
        return None;
    }
    let mut fields = FIELDS.take();
    fields.reserve(head.headers.len());
    for field in head.headers.iter() {
        let value = HeaderValue::from_maybe_shared(came.slice_ref(field.value)).ok()?;
        fields.append(HeaderName::from_bytes(field.name.as_bytes()).ok()?, value);
    }
    let of_head = method == Method::HEAD;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_maybe_shared(came.slice_ref(target.as_bytes())).ok()?;
    *request.headers_mut() = fields;
    Some((request, of_head))
}

/// Whether a field says nothing that a server must heed to read on, or to answer.
fn is_plain(field: &httparse::Header<'_>) -> bool {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    // Told by their lengths first: nearly all are others.
    match field.name.len() {
        6 => !is("expect"),
        7 => !is("upgrade"),
        10 => !is("connection") || field.value.eq_ignore_ascii_case(b"keep-alive"),
        14 => !is("content-length"),
        17 => !is("transfer-encoding"),
        _ => true,
    }
}

/// A whole answer to GET, as it goes over the wire.
pub struct Written {
    /// All that comes before its content.
    pub head: Bytes,
    /// Its content.
    pub content: Bytes,
}

impl Written {
    /// The head of such an answer, whatever its content. `None`: it goes over the wire another way.
    pub fn head_of(response: &Response<Body>) -> Option<Bytes> {
        let mut head = Vec::new();
        write(response, response.body(), false, &mut head).then(|| head.into())
    }
}

/// The head of a 200 that is written line by line, all of which its writer answers for.
pub struct HeadLines(Vec<u8>);

impl HeadLines {
    /// With room for lines of so many bytes.
    pub fn new(room: usize) -> HeadLines {
        let mut out = Vec::with_capacity(OK.len() + room + b"\r\n".len());
        out.extend_from_slice(OK);
        HeadLines(out)
    }

    /// One more.
    pub fn line(&mut self, name: &[u8], value: &[u8]) {
        put(name, value, &mut self.0);
    }

    /// All of it.
    pub fn end(mut self) -> Bytes {
        self.0.extend_from_slice(b"\r\n");
        self.0.into()
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

fn put(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes the head of an answer. `false`: it is not one that is written here, and what was written is nothing.
pub(super) fn write<B>(response: &Response<B>, body: &Body, of_head: bool, out: &mut Vec<u8>) -> bool {
    let status = response.status();
    // These have no content, and no length (RFC 9110 §8.6).
    let is_bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let content = match body {
        Body::Stream(_) => return false,
        Body::Full(Some(content)) => content.len(),
        Body::Full(None) | Body::Empty | Body::Head(_) => 0,
    };
    if status.is_informational() || content > 0 && (is_bare || of_head) {
        return false;
    }
    line(response, out);
    let (mut dated, mut measured) = (false, false);
    for (name, value) in response.headers() {
        match *name {
            CONNECTION | TRANSFER_ENCODING | TRAILER => return false,
            // Without content hyper says itself what there is to be said, but to a HEAD.
            CONTENT_LENGTH if content == 0 && !of_head => continue,
            CONTENT_LENGTH if std::mem::replace(&mut measured, true) => return false,
            DATE => dated = true,
            _ => {}
        }
        put(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    if !measured && !is_bare && !of_head {
        put(b"content-length", itoa::Buffer::new().format(content).as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
    // What time it is, hyper knows.
    dated
}

fn line<B>(response: &Response<B>, out: &mut Vec<u8>) {
    let reason = response.extensions().get::<ReasonPhrase>();
    if response.status() == StatusCode::OK && reason.is_none() {
        return out.extend_from_slice(OK);
    }
    let usual = || response.status().canonical_reason().unwrap_or("<none>").as_bytes();
    for part in [
        b"HTTP/1.1 ",
        response.status().as_str().as_bytes(),
        b" ",
        reason.map_or_else(usual, ReasonPhrase::as_bytes),
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// Leaves the room of an answer's fields to the next request's.
pub(super) fn forget(response: &mut Response<Answer>) {
    let mut fields = std::mem::take(response.headers_mut());
    if fields.capacity() <= KEPT_FIELDS {
        fields.clear();
        FIELDS.set(fields);
    }
}
