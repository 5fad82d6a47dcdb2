//! Codes content and decodes it again: the work behind [`crate::semantics::coding`].
//!
//! Invariants:
//! - Nothing runs for long without other tasks getting their turn: a step is some 16 KiB of content.
//! - What an encoder has taken is whole in what `write`, `flush` and `finish` gave back, in that order.
//! - A decoder gives back no more bytes than the content is said to have: nothing stored can swell beyond that.
//! - A content that is not what it is said to be ends in an error, never early.
//!
//! It decodes what was coded here, nothing else: what backends code stays as it is.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::body::{Body, BodyError};
use crate::semantics::coding::{Coded, Coding, Compression, strip_digests};

/// Bytes of content that are coded or decoded at once.
pub const STEP: usize = 16 << 10;
/// Bytes that brotli reads and writes at once.
const BROTLI_BUFFER: usize = 4 << 10;
/// log2 of the windows of brotli and zstd: 1 MiB.
const WINDOW: u32 = 20;

/// Bytes that an encoder takes up for a content of this length, at most and about (measured).
pub fn footprint(words: &Compression, length: Option<u64>) -> u64 {
    const FEW: u64 = 320 << 10;
    let most = match (words.coding, words.level) {
        (Coding::Gzip, _) => FEW,
        (Coding::Br | Coding::Zstd, ..4) => 3 << 20,
        (Coding::Zstd, _) => 6 << 20,
        (Coding::Br, _) => 10 << 20,
    };
    // What a small content does not reach takes no room.
    length.map_or(most, |length| most.min(length.saturating_mul(16).saturating_add(FEW)))
}

/// Codes a content as it comes.
pub struct Encoder(Encoding);

enum Encoding {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// One for a new content, of this many bytes where that is known.
    pub fn new(words: &Compression, length: Option<u64>) -> io::Result<Encoder> {
        let level = words.level;
        let encoding = match words.coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(u32::from(level));
                Encoding::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
            Coding::Br => {
                let level = u32::from(level);
                let writer = brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, level, WINDOW);
                Encoding::Br(Box::new(writer))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), i32::from(level))?;
                encoder.window_log(WINDOW)?;
                // A small content needs small tables.
                encoder.set_pledged_src_size(length)?;
                Encoding::Zstd(encoder)
            }
        };
        Ok(Encoder(encoding))
    }

    /// Takes more of it; gives back what is coded so far, often nothing.
    pub fn write(&mut self, content: &[u8]) -> io::Result<Bytes> {
        self.writer().write_all(content)?;
        Ok(self.take())
    }

    /// Gives back what has been taken, to the last byte.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        self.writer().flush()?;
        Ok(self.take())
    }

    /// Ends the content.
    pub fn finish(self) -> io::Result<Bytes> {
        match self.0 {
            Encoding::Gzip(encoder) => encoder.finish(),
            Encoding::Br(encoder) => Ok(encoder.into_inner()),
            Encoding::Zstd(encoder) => encoder.finish(),
        }
        .map(fitted)
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Encoding::Gzip(encoder) => encoder,
            Encoding::Br(encoder) => encoder,
            Encoding::Zstd(encoder) => encoder,
        }
    }

    fn take(&mut self) -> Bytes {
        let output = match &mut self.0 {
            Encoding::Gzip(encoder) => encoder.get_mut(),
            Encoding::Br(encoder) => encoder.get_mut(),
            Encoding::Zstd(encoder) => encoder.get_mut(),
        };
        fitted(std::mem::take(output))
    }
}

/// Bytes without the room that their buffer had for more: they may be kept for long.
fn fitted(mut bytes: Vec<u8>) -> Bytes {
    bytes.shrink_to_fit();
    bytes.into()
}

/// A body, coded as it comes. What the encoder holds back is passed on whenever nothing more is there yet.
pub struct Encoded<R> {
    body: Body,
    /// `None` = the content has ended.
    encoder: Option<Encoder>,
    /// Content that is yet to be coded.
    input: Bytes,
    behind: bool,
    trailers: Option<Frame<Bytes>>,
    /// What the encoder takes up, for as long as there is one.
    room: Option<R>,
}

impl<R> Encoded<R> {
    /// This body, coded by this encoder, which takes up this room.
    pub fn new(body: Body, encoder: Encoder, room: R) -> Encoded<R> {
        let (encoder, room) = (Some(encoder), Some(room));
        Encoded { body, encoder, input: Bytes::new(), behind: false, trailers: None, room }
    }

    /// Codes a step of what is there.
    fn step(&mut self) -> io::Result<Bytes> {
        let piece = self.input.split_to(STEP.min(self.input.len()));
        self.behind = true;
        self.encoder.as_mut().map_or(Ok(Bytes::new()), |encoder| encoder.write(&piece))
    }

    fn catch_up(&mut self) -> io::Result<Bytes> {
        self.behind = false;
        self.encoder.as_mut().map_or(Ok(Bytes::new()), Encoder::flush)
    }

    fn end(&mut self) -> io::Result<Bytes> {
        self.room = None;
        self.encoder.take().map_or(Ok(Bytes::new()), Encoder::finish)
    }
}

impl<R: Unpin> http_body::Body for Encoded<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.encoder.is_none() {
            return Poll::Ready(this.trailers.take().map(Ok));
        }
        let coded = if this.input.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending if !this.behind => return Poll::Pending,
                Poll::Pending => this.catch_up(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => this.end(),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        this.input = data;
                        this.step()
                    }
                    Err(trailers) => {
                        this.trailers = Some(of_any_form(trailers));
                        this.end()
                    }
                },
            }
        } else {
            this.step()
        };
        match coded {
            // The encoder kept it all: others first, then more of it.
            Ok(coded) if coded.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            coded => Poll::Ready(Some(coded.map(Frame::data).map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

/// Trailers without what they say about the bytes of the plain form.
pub fn of_any_form(trailers: Frame<Bytes>) -> Frame<Bytes> {
    match trailers.into_trailers() {
        Ok(mut fields) => {
            strip_digests(&mut fields);
            Frame::trailers(fields)
        }
        Err(frame) => frame,
    }
}

/// Decodes a content step by step.
struct Decoder {
    reader: Box<dyn Read + Send>,
    /// Bytes that are yet to come.
    left: u64,
}

impl Decoder {
    fn new(coded: Coded, body: Bytes) -> io::Result<Decoder> {
        let input = io::Cursor::new(body);
        let reader: Box<dyn Read + Send> = match coded.coding {
            Coding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Coding::Br => Box::new(brotli::Decompressor::new(input, BROTLI_BUFFER)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        };
        Ok(Decoder { reader, left: coded.length })
    }

    /// The next bytes, at most [`STEP`]; none at the end.
    fn step(&mut self) -> io::Result<Bytes> {
        // The last step asks for one byte more than there may be: that shows whether there are more, and has what the
        // coding says at its end (a checksum, a length) read and checked.
        let most = usize::try_from(self.left).ok().filter(|left| *left <= STEP).map_or(STEP, |left| left + 1);
        let mut output = vec![0; most];
        let mut length = 0;
        while length < most {
            match self.reader.read(&mut output[length..])? {
                0 => break,
                n => length += n,
            }
        }
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| not_as_said("longer"))?;
        if length < most {
            if self.left > 0 {
                return Err(not_as_said("shorter"));
            }
            // Only when asked once more after the end does brotli's reader tell of bytes that are left over.
            if self.reader.read(&mut [0])? > 0 {
                return Err(not_as_said("longer"));
            }
        }
        output.truncate(length);
        Ok(output.into())
    }
}

/// The whole content that was coded.
pub fn decode(coded: Coded, body: Bytes) -> io::Result<Bytes> {
    let mut decoder = Decoder::new(coded, body)?;
    let mut content = BytesMut::new();
    loop {
        match decoder.step()? {
            end if end.is_empty() => return Ok(content.freeze()),
            more => content.extend_from_slice(&more),
        }
    }
}

fn not_as_said(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{how} than it is said to be"))
}

/// A content, or a part of it, decoded as its client takes it.
pub struct Decoded {
    coded: Coded,
    body: Bytes,
    /// Made with the first step.
    decoder: Option<Decoder>,
    skip: u64,
    left: u64,
}

impl Decoded {
    /// These bytes of a content that was coded to `body`.
    pub fn new(coded: Coded, body: Bytes, range: Range<u64>) -> Decoded {
        let left = range.end.saturating_sub(range.start);
        Decoded { coded, body, decoder: None, skip: range.start, left }
    }

    /// Decodes a step; what of it is wanted, if anything.
    fn step(&mut self) -> io::Result<Bytes> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new(self.coded, std::mem::take(&mut self.body))?),
        };
        let mut output = decoder.step()?;
        if output.is_empty() {
            return Err(not_as_said("shorter"));
        }
        // Both are at most a step.
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(output.len());
        drop(output.split_to(skipped));
        output.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        self.left -= output.len() as u64;
        Ok(output)
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        match this.step() {
            Ok(skipped) if skipped.is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(output) => Poll::Ready(Some(Ok(Frame::data(output)))),
            Err(error) => {
                this.left = 0;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    fn words(coding: Coding) -> Compression {
        Compression { coding, level: 3, min_size: 0, types: Vec::new() }
    }

    /// Coded in pieces, flushed after some.
    fn coded(coding: Coding, pieces: &[(Vec<u8>, bool)]) -> (Coded, Vec<u8>, Vec<u8>) {
        let mut encoder = Encoder::new(&words(coding), None).unwrap();
        let (mut plain, mut body) = (Vec::new(), Vec::new());
        for (piece, flush) in pieces {
            plain.extend_from_slice(piece);
            body.extend_from_slice(&encoder.write(piece).unwrap());
            if *flush {
                body.extend_from_slice(&encoder.flush().unwrap());
            }
        }
        body.extend_from_slice(&encoder.finish().unwrap());
        (Coded { coding, length: plain.len() as u64 }, plain, body)
    }

    async fn collected(decoded: Decoded) -> Result<Bytes, BodyError> {
        Ok(decoded.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn every_part_of_a_large_content_comes_back() {
        let piece: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for coding in Coding::ALL {
            let (how, plain, body) = coded(coding, &[(piece.clone(), false)]);
            assert!(body.len() < plain.len() / 2, "{coding:?}: {} of {}", body.len(), plain.len());
            let body = Bytes::from(body);
            let length = plain.len() as u64;
            for (from, to) in [(0, length), (0, 1), (1, 5), (length - 1, length), (700_001, 900_000), (5, 5)]
            {
                let part = Decoded::new(how, body.clone(), from..to);
                assert_eq!(http_body::Body::size_hint(&part).exact(), Some(to - from));
                let expected = &plain[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
                assert_eq!(collected(part).await.unwrap(), expected, "{coding:?} {from}..{to}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_as_said_is_an_error() {
        for coding in Coding::ALL {
            let (how, plain, body) = coded(coding, &[(vec![7; 100_000], false)]);
            let said_to_be = |length| Coded { length, ..how };
            let length = plain.len() as u64;
            let body = Bytes::from(body);
            for (said, what) in
                [(length - 1, "longer"), (length + 1, "shorter"), (0, "longer"), (STEP as u64, "longer")]
            {
                let error = decode(said_to_be(said), body.clone()).unwrap_err().to_string();
                assert_eq!(error, format!("{what} than it is said to be"), "{coding:?} {said}");
            }
            let other = Bytes::from_static(b"this is nothing of the kind");
            assert!(decode(how, other).is_err(), "{coding:?}");
            let cut = Bytes::copy_from_slice(&body[..body.len() / 2]);
            let cut = Decoded::new(how, cut, 0..length);
            assert!(collected(cut).await.is_err(), "{coding:?}: cut off");
        }
    }

    /// The end of a content may fall on the end of a step: what follows it counts all the same.
    #[tokio::test]
    async fn a_content_of_whole_steps_is_checked_to_its_end() {
        for coding in Coding::ALL {
            for steps in [1, 2] {
                let length = (STEP * steps) as u64;
                let (how, plain, body) = coded(coding, &[(vec![7; STEP * steps], false)]);
                let whole = Decoded::new(how, body.clone().into(), 0..length);
                assert_eq!(collected(whole).await.unwrap(), plain, "{coding:?}");
                let cut = body[..body.len() - 1].to_vec();
                let cut = Decoded::new(how, cut.into(), 0..length);
                assert!(collected(cut).await.is_err(), "{coding:?}: cut off");
                let (_, _, longer) = coded(coding, &[(vec![7; STEP * steps + 1], false)]);
                let longer = Decoded::new(how, longer.into(), 0..length);
                assert!(collected(longer).await.is_err(), "{coding:?}: longer");
            }
        }
    }

    #[tokio::test]
    async fn nothing_follows_what_is_coded() {
        for coding in Coding::ALL {
            let (how, plain, body) = coded(coding, &[(b"content".to_vec(), false)]);
            let (_, _, another) = coded(coding, &[(b"another".to_vec(), false)]);
            for rest in [&b"x"[..], b"more than a few bytes of no coding", &another] {
                let more: Bytes = [&body, rest].concat().into();
                assert!(decode(how, more.clone()).is_err(), "{coding:?} {rest:?}");
                let whole = Decoded::new(how, more, 0..plain.len() as u64);
                assert!(collected(whole).await.is_err(), "{coding:?} {rest:?}");
            }
        }
    }

    #[test]
    fn what_was_flushed_can_be_read() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(&words(coding), None).unwrap();
            let mut so_far = encoder.write(b"as far as this").unwrap().to_vec();
            so_far.extend_from_slice(&encoder.flush().unwrap());
            let mut decoder = Decoder::new(Coded { coding, length: 1000 }, so_far.into()).unwrap();
            let mut read = [0; 14];
            decoder.reader.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"as far as this", "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_coded_comes_back(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..5000), any::<bool>()), 0..6),
        ) {
            for coding in Coding::ALL {
                let (how, plain, body) = coded(coding, &pieces);
                prop_assert_eq!(decode(how, body.into()).unwrap(), plain);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0..4000u64) {
            for coding in Coding::ALL {
                if let Ok(content) = decode(Coded { coding, length }, bytes.clone().into()) {
                    prop_assert_eq!(content.len() as u64, length);
                }
            }
        }
    }
}
