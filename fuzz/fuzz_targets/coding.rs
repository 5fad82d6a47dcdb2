//! Content codings that are applied here: for whom, what the fields then say, and the bytes themselves
//! (RFC 9110 §8.4, §12.5.3).
#![no_main]

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame};
use libfuzzer_sys::fuzz_target;
use weir::body::{Body, BodyError};
use weir::coder::{Decoded, Encoded, Encoder, STEP, decode};
use weir::semantics::coding::{
    COMPRESSIBLE, Coded, Coding, Compression, Form, MediaRange, Uncoded, admit, dress, form, is_coded,
    is_untouchable, strip_digests,
};
use weir::semantics::fields::accepts;
use weir::semantics::ranges::{Slice, slice};
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::storing::CDN_CACHE_CONTROL;
use weir::semantics::timestamp::Timestamp;
use weir::semantics::validation::{Precondition, evaluate};
use weir::semantics::vary::{Selecting, Vary};
use weir_fuzz::{fields, map_values, numbers, sections};

/// Most bytes that a content is said to have.
const MOST: u64 = 1 << 17;

fuzz_target!(|data: &[u8]| {
    let [head, request, response, types, bytes] = sections(data);
    let ([kind, coding, level, said, first, last, status, min_size], _) = numbers(head);
    let coding = Coding::ALL[(coding % 3) as usize];
    let (levels, from) = match coding {
        Coding::Gzip | Coding::Zstd => (9, 1),
        Coding::Br => (7, 0),
    };
    let types = media_ranges(&String::from_utf8_lossy(types));
    let words = Compression { coding, level: (level % levels) as u8 + from, min_size, types };
    match kind % 3 {
        0 => {
            let (request, response) = (fields(request), fields(response));
            let status = u16::try_from(status).ok().and_then(|n| StatusCode::from_u16(n).ok());
            admitted(&words, status.unwrap_or(StatusCode::OK), &response, said);
            formed(&request, coding);
            dressed(&response, coding);
        }
        1 => {
            let coded = Coded { coding, length: said % MOST };
            decoded(coded, bytes, first..last);
        }
        _ => round_trip(&words, bytes, said, first, last),
    }
});

/// Ranges of media types, one a line; what is one has no case, and is one with what it contains.
fn media_ranges(text: &str) -> Vec<MediaRange> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let range = MediaRange::parse(line);
        assert_eq!(MediaRange::parse(&format!("\t{} ", line.to_ascii_uppercase())), range, "{line:?}");
        assert!(range.is_none() || line.bytes().filter(|&b| b == b'/').count() == 1 && !line.contains(';'));
        ranges.extend(range);
    }
    if ranges.is_empty() {
        ranges.extend(COMPRESSIBLE.iter().filter_map(|line| MediaRange::parse(line)));
        assert_eq!(ranges.len(), COMPRESSIBLE.len());
    }
    ranges
}

fn admitted(words: &Compression, status: StatusCode, response: &HeaderMap, length: u64) {
    let admitted =
        |response: &HeaderMap, length| admit(words, status, response, length, &[CDN_CACHE_CONTROL]);
    for length in [None, Some(length)] {
        let found = admitted(response, length);
        if found.is_ok() {
            assert_eq!(found, Ok(words.coding));
            assert!(!is_coded(response) && !is_untouchable(response, &[CDN_CACHE_CONTROL]));
            assert!(status != StatusCode::NO_CONTENT && length.is_none_or(|n| n > 0 && n >= words.min_size));
            let kind = response[CONTENT_TYPE].to_str().expect("a type").to_ascii_lowercase();
            assert!(!kind.starts_with("text/event-stream;") && kind != "text/event-stream", "{kind}");
            // A type has no case, and its parameters are not looked at.
            let shouted = map_values(response, |name, value| match *name == CONTENT_TYPE {
                true => [&value.to_ascii_uppercase()[..], b" ; charset=\"a/b\""].concat(),
                false => value.to_vec(),
            });
            assert_eq!(admitted(&shouted, length), found, "{shouted:?}");
            // A content whose length nobody said may be as long.
            assert_eq!(admitted(response, None), found);
            assert_eq!(admitted(response, Some(0)), Err(Uncoded::Nothing));
        }
        // What is coded is not coded twice; nobody touches what nobody may touch.
        let with = |name: &HeaderName, value| {
            let mut more = response.clone();
            more.append(name, HeaderValue::from_static(value));
            admitted(&more, length)
        };
        assert_eq!(with(&CONTENT_ENCODING, "gzip"), Err(Uncoded::Already));
        assert!(with(&CACHE_CONTROL, "no-transform").is_err());
        assert!(with(&http::header::CONTENT_RANGE, "bytes 0-0/1").is_err());
        if !response.contains_key(CDN_CACHE_CONTROL) {
            assert!(with(&CDN_CACHE_CONTROL, "no-transform").is_err());
        }
    }
}

/// Coded is for those alone who asked for it.
fn formed(request: &HeaderMap, coding: Coding) {
    let whole = form(request, coding, false);
    let part = form(request, coding, true);
    assert!(part == Form::Plain || whole == Form::Coded && !accepts(request, "identity"));
    let lines = request.get_all(ACCEPT_ENCODING).into_iter();
    let said = lines.flat_map(|l| [l.as_bytes(), b","].concat()).collect::<Vec<u8>>().to_ascii_lowercase();
    let named = said.windows(coding.as_str().len()).any(|w| w == coding.as_str().as_bytes());
    assert!(whole == Form::Plain || named || said.contains(&b'*'), "{request:?}");
    let with = |name: &HeaderName, value| {
        let mut more = request.clone();
        more.append(name, HeaderValue::from_static(value));
        form(&more, coding, false)
    };
    assert_eq!(with(&CACHE_CONTROL, "no-transform"), Form::Plain);
    assert_eq!(with(&ACCEPT_ENCODING, "zstd;q=0, br;q=0.000, gzip; q=0"), Form::Plain);
    let mut without = request.clone();
    without.remove(ACCEPT_ENCODING);
    assert_eq!(form(&without, coding, false), Form::Plain);
}

fn digests(headers: &HeaderMap) -> usize {
    let names = ["content-md5", "content-digest", "repr-digest", "digest"];
    names.iter().filter(|name| headers.contains_key(**name)).count()
}

fn dressed(response: &HeaderMap, coding: Coding) {
    let mut plain = response.clone();
    dress(&mut plain, coding, Form::Plain);
    let mut coded = response.clone();
    dress(&mut coded, coding, Form::Coded);
    for (form, dressed) in [(Form::Plain, &plain), (Form::Coded, &coded)] {
        let mut again = dressed.clone();
        dress(&mut again, coding, form);
        assert_eq!(again, *dressed);
        // Caches on the way learn what it depends on.
        match Vary::of(dressed, &[]) {
            Vary::Any => {}
            Vary::Fields(names) => assert!(names.contains(&ACCEPT_ENCODING)),
            Vary::None => panic!("{dressed:?}"),
        }
    }
    // The plain form is the backend's.
    plain.remove(VARY);
    let mut untouched = response.clone();
    untouched.remove(VARY);
    assert_eq!(plain, untouched);
    // The coded one has other bytes.
    assert_eq!(coded.get_all(CONTENT_ENCODING).iter().collect::<Vec<_>>(), [coding.as_str()]);
    assert!(!coded.contains_key(CONTENT_LENGTH) && !coded.contains_key(ACCEPT_RANGES));
    assert_eq!(digests(&coded), 0);
    let tags: Vec<&HeaderValue> = coded.get_all(ETAG).iter().collect();
    assert!(tags.len() <= 1 && tags.iter().all(|tag| tag.as_bytes().starts_with(b"W/\"")), "{tags:?}");
    if let [tag] = tags[..] {
        recognised(tag, response, coding);
    }
    // Nothing else comes or goes.
    strip_digests(&mut untouched);
    for name in [CONTENT_ENCODING, CONTENT_LENGTH, ACCEPT_RANGES, ETAG, VARY] {
        coded.remove(&name);
        untouched.remove(&name);
    }
    assert_eq!(coded, untouched);
}

/// The tag that a client got with the coded form says that it has the response, and never which part of it.
fn recognised(tag: &HeaderValue, response: &HeaderMap, coding: Coding) {
    let mut stored = StoredResponse::new(
        StatusCode::OK,
        response.clone(),
        Bytes::from_static(b"coded"),
        Timestamp(0),
        Timestamp(0),
        Lifetimes::default(),
        Selecting::default(),
    );
    stored.set_coded(Some(Coded { coding, length: 7 }));
    let kept = stored.fields().contains(&ETAG);
    let opaque = &tag.as_bytes()[2..];
    let sound = opaque.len() > 1 && opaque.ends_with(b"\"") && !opaque[1..opaque.len() - 1].contains(&b'"');
    let mut asks = HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]);
    if kept && sound {
        assert_eq!(evaluate(&Method::GET, &asks, &stored), Precondition::NotModified, "{tag:?}");
    }
    asks.insert(RANGE, HeaderValue::from_static("bytes=1-2"));
    asks.insert(IF_RANGE, tag.clone());
    assert_eq!(slice(&Method::GET, &asks, &stored), Slice::Whole, "a weak tag may not stitch");
}

/// Bytes of anybody's: never more than they are said to be, and parts are the whole's.
fn decoded(coded: Coded, bytes: &[u8], wanted: std::ops::Range<u64>) {
    let bytes = Bytes::copy_from_slice(bytes);
    let whole = decode(coded, bytes.clone());
    if let Ok(content) = &whole {
        assert_eq!(content.len() as u64, coded.length);
    }
    // Given out as it is decoded, it is an error where it is one at once.
    let streamed = collected(Decoded::new(coded, bytes.clone(), 0..coded.length), coded.length);
    match (&whole, &streamed) {
        (Ok(whole), Ok(streamed)) => assert_eq!(whole, streamed),
        (Err(_), Err(_)) => {}
        (Err(_), Ok(_)) => assert_eq!(coded.length, 0, "{coded:?} ended early"),
        (Ok(_), Err(why)) => panic!("{coded:?}: {why}"),
    }
    let first = wanted.start % (coded.length + 1);
    let last = first + wanted.end % (coded.length - first + 1);
    let part = collected(Decoded::new(coded, bytes.clone(), first..last), last - first);
    if let Ok(whole) = &whole {
        assert_eq!(part.expect("a part"), whole[first as usize..last as usize]);
    }
    // Beyond its end there is nothing.
    assert!(collected(Decoded::new(coded, bytes, first..coded.length + 1), MOST).is_err());
}

/// A content, given in pieces with pauses, comes back whole, in every part, and by either way of coding it.
fn round_trip(words: &Compression, bytes: &[u8], seed: u64, first: u64, last: u64) {
    let content = bytes.repeat((seed % 48) as usize + 1);
    let mut pieces = Vec::new();
    let (mut rest, mut state) = (&content[..], seed | 1);
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most = [1, 100, 4096, STEP * 3][(state >> 60) as usize % 4];
        let (piece, more) = rest.split_at(((state >> 33) as usize % most + 1).min(rest.len()));
        pieces.push((piece, state >> 40 & 3 == 0));
        rest = more;
        if pieces.len() > 40 {
            pieces.push((rest, true));
            rest = &[];
        }
    }
    let known = (seed & 1 == 0).then_some(content.len() as u64);
    let coded = Coded { coding: words.coding, length: content.len() as u64 };
    let mut encoder = Encoder::new(words, known).expect("an encoder");
    let mut body = Vec::new();
    for (piece, pause) in &pieces {
        body.extend_from_slice(&encoder.write(piece).expect("coded"));
        if *pause {
            body.extend_from_slice(&encoder.flush().expect("flushed"));
        }
    }
    body.extend_from_slice(&encoder.finish().expect("ended"));
    assert_eq!(decode(coded, body.clone().into()).expect("a coding"), content);
    streamed(words, &pieces, known, &content);
    decoded(coded, &body, first..last);
    // Damaged or cut, it is an error or another content of the same length.
    if body.is_empty() || content.is_empty() {
        return;
    }
    let at = first as usize % body.len();
    assert!(decode(coded, Bytes::copy_from_slice(&body[..at])).is_err(), "cut at {at} of {}", body.len());
    body[at] ^= 1 << (last % 8);
    decoded(coded, &body, 0..last);
    decoded(Coded { length: coded.length / 2, ..coded }, &body, 0..last);
}

/// As a body that is coded on its way: the same content, and trailers that say nothing about its plain bytes.
fn streamed(words: &Compression, pieces: &[(&[u8], bool)], known: Option<u64>, content: &[u8]) {
    let mut frames = VecDeque::new();
    for (piece, pause) in pieces {
        frames.push_back(Some(Frame::data(Bytes::copy_from_slice(piece))));
        if *pause {
            frames.push_back(None);
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("content-digest", HeaderValue::from_static("sha-256=:AA==:"));
    trailers.insert("x-a", HeaderValue::from_static("1"));
    if content.len() % 2 == 0 {
        frames.push_back(Some(Frame::trailers(trailers.clone())));
    }
    let body = Body::stream(Pieces(frames));
    let mut encoded = Encoded::new(body, Encoder::new(words, known).expect("an encoder"), ());
    let mut out = Vec::new();
    let mut ended = None;
    while let Some(frame) = next(&mut encoded) {
        assert!(ended.is_none(), "something after trailers");
        match frame.expect("coded").into_data() {
            Ok(data) => out.extend_from_slice(&data),
            Err(frame) => ended = frame.into_trailers().ok(),
        }
    }
    assert!(encoded.is_end_stream());
    strip_digests(&mut trailers);
    assert_eq!(ended, (content.len() % 2 == 0).then_some(trailers));
    let coded = Coded { coding: words.coding, length: content.len() as u64 };
    assert_eq!(decode(coded, out.into()).expect("a coding"), content);
}

/// The next frame. What is pending is asked again, and not for ever.
fn next<B>(body: &mut B) -> Option<Result<Frame<Bytes>, BodyError>>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut context) {
            return frame;
        }
    }
    panic!("pending for ever")
}

fn collected(mut decoded: Decoded, most: u64) -> Result<Bytes, BodyError> {
    let mut content = Vec::new();
    while let Some(frame) = next(&mut decoded) {
        content.extend_from_slice(&frame?.into_data().expect("data"));
        assert!(content.len() as u64 <= most, "more than was wanted");
    }
    assert_eq!((content.len() as u64, decoded.is_end_stream()), (most, true));
    Ok(content.into())
}

/// Frames with pauses (`None`) between them.
struct Pieces(VecDeque<Option<Frame<Bytes>>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.0.pop_front() {
            Some(None) => Poll::Pending,
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(None),
        }
    }
}
