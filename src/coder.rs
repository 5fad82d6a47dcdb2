//! Codes content and decodes it again: the work behind [`crate::semantics::coding`].
//!
//! Invariants:
//! - What an encoder has taken is whole in what `write`, `flush` and `finish` gave back, in that order.
//! - A decoder gives back no more bytes than the content is said to have: nothing stored can swell beyond that.
//! - A content that is not what it is said to be ends in an error, never early.
//!
//! It decodes what was coded here, nothing else: what backends code stays as it is.

use std::io::{self, Write};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::body::{Body, BodyError};
use crate::semantics::coding::{Coded, Coding, Compression};

/// Bytes that are decoded at once.
const STEP: usize = 4 << 10;
/// Bytes that may be decoded and thrown away before other tasks get their turn.
const PATIENCE: u64 = 256 << 10;
/// log2 of brotli's window: that of its own command line.
const BROTLI_WINDOW: u32 = 22;

/// Codes a content as it comes.
pub struct Encoder(Encoding);

enum Encoding {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// One for a new content.
    pub fn new(words: &Compression) -> io::Result<Encoder> {
        let level = words.level;
        let encoding = match words.coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(u32::from(level));
                Encoding::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
            Coding::Br => {
                let writer = brotli::CompressorWriter::new(Vec::new(), STEP, u32::from(level), BROTLI_WINDOW);
                Encoding::Br(Box::new(writer))
            }
            Coding::Zstd => Encoding::Zstd(zstd::stream::write::Encoder::new(Vec::new(), i32::from(level))?),
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
pub struct Encoded {
    body: Body,
    /// `None` = the content has ended.
    encoder: Option<Encoder>,
    behind: bool,
    trailers: Option<Frame<Bytes>>,
}

impl Encoded {
    /// This body, coded by this encoder.
    pub fn new(body: Body, encoder: Encoder) -> Encoded {
        Encoded { body, encoder: Some(encoder), behind: false, trailers: None }
    }

    fn end(&mut self) -> io::Result<Frame<Bytes>> {
        self.encoder.take().map_or(Ok(Bytes::new()), Encoder::finish).map(Frame::data)
    }
}

impl http_body::Body for Encoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(this.trailers.take().map(Ok)) };
            let coded = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending if !this.behind => return Poll::Pending,
                Poll::Pending => {
                    this.behind = false;
                    encoder.flush()
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(Some(this.end().map_err(Into::into))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        this.behind = true;
                        encoder.write(&data)
                    }
                    Err(trailers) => {
                        this.trailers = Some(trailers);
                        return Poll::Ready(Some(this.end().map_err(Into::into)));
                    }
                },
            };
            match coded {
                Ok(coded) if coded.is_empty() => {}
                coded => return Poll::Ready(Some(coded.map(Frame::data).map_err(Into::into))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

/// Decodes a content step by step.
struct Decoder(Decoding);

enum Decoding {
    Gzip(Box<flate2::write::GzDecoder<Bounded>>),
    Br(Box<brotli::DecompressorWriter<Bounded>>),
    Zstd(zstd::stream::write::Decoder<'static, Bounded>),
}

impl Decoder {
    fn new(coded: Coded) -> io::Result<Decoder> {
        let output = Bounded { bytes: Vec::new(), left: coded.length };
        Ok(Decoder(match coded.coding {
            Coding::Gzip => Decoding::Gzip(Box::new(flate2::write::GzDecoder::new(output))),
            Coding::Br => Decoding::Br(Box::new(brotli::DecompressorWriter::new(output, STEP))),
            Coding::Zstd => Decoding::Zstd(zstd::stream::write::Decoder::new(output)?),
        }))
    }

    /// Takes more of the coded content; gives back what that was.
    fn write(&mut self, input: &[u8]) -> io::Result<Bytes> {
        let writer: &mut dyn Write = match &mut self.0 {
            Decoding::Gzip(decoder) => decoder,
            Decoding::Br(decoder) => decoder,
            Decoding::Zstd(decoder) => decoder,
        };
        writer.write_all(input)?;
        writer.flush()?;
        let output = match &mut self.0 {
            Decoding::Gzip(decoder) => decoder.get_mut(),
            Decoding::Br(decoder) => decoder.get_mut(),
            Decoding::Zstd(decoder) => decoder.get_mut(),
        };
        Ok(std::mem::take(&mut output.bytes).into())
    }
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than it is said to be")),
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The whole content that was coded.
pub fn decode(coded: Coded, body: &[u8]) -> io::Result<Bytes> {
    let content = Decoder::new(coded)?.write(body)?;
    match content.len() as u64 == coded.length {
        true => Ok(content),
        false => Err(cut_off()),
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "shorter than it is said to be")
}

/// A content, or a part of it, decoded as its client takes it.
pub struct Decoded {
    coded: Coded,
    /// Made with the first step.
    decoder: Option<Decoder>,
    input: Bytes,
    skip: u64,
    left: u64,
}

impl Decoded {
    /// These bytes of a content that was coded to `body`.
    pub fn new(coded: Coded, body: Bytes, range: Range<u64>) -> Decoded {
        let left = range.end.saturating_sub(range.start);
        Decoded { coded, decoder: None, input: body, skip: range.start, left }
    }

    /// Decodes a step; what of it is wanted.
    fn step(&mut self) -> io::Result<Bytes> {
        if self.input.is_empty() {
            return Err(cut_off());
        }
        let input = self.input.split_to(STEP.min(self.input.len()));
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(Decoder::new(self.coded)?),
        };
        let mut output = decoder.write(&input)?;
        let length = |bytes: &Bytes| bytes.len() as u64;
        let skipped = self.skip.min(length(&output));
        // Both are lengths of parts of what is in memory.
        drop(output.split_to(usize::try_from(skipped).unwrap_or(output.len())));
        output.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.skip -= skipped;
        self.left -= length(&output);
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
        let enough = this.skip.saturating_sub(PATIENCE);
        while this.left > 0 {
            match this.step() {
                Ok(output) if !output.is_empty() => return Poll::Ready(Some(Ok(Frame::data(output)))),
                Ok(_) if this.skip > 0 && this.skip <= enough => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(_) => {}
                Err(error) => {
                    this.left = 0;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        Poll::Ready(None)
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
        let mut encoder = Encoder::new(&words(coding)).unwrap();
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
            let said = |length| Coded { length, ..how };
            let length = plain.len() as u64;
            assert!(decode(said(length - 1), &body).is_err(), "{coding:?}: longer than said");
            assert!(decode(said(length + 1), &body).is_err(), "{coding:?}: shorter than said");
            assert!(decode(said(length), b"this is nothing of the kind").is_err(), "{coding:?}");
            let cut = Bytes::copy_from_slice(&body[..body.len() / 2]);
            let cut = Decoded::new(how, cut, 0..length);
            assert!(collected(cut).await.is_err(), "{coding:?}: cut off");
        }
    }

    #[test]
    fn what_was_flushed_can_be_read() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(&words(coding)).unwrap();
            let mut so_far = encoder.write(b"as far as this").unwrap().to_vec();
            so_far.extend_from_slice(&encoder.flush().unwrap());
            let mut decoder = Decoder::new(Coded { coding, length: 1000 }).unwrap();
            assert_eq!(decoder.write(&so_far).unwrap(), "as far as this", "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_coded_comes_back(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..5000), any::<bool>()), 0..6),
        ) {
            for coding in Coding::ALL {
                let (how, plain, body) = coded(coding, &pieces);
                prop_assert_eq!(decode(how, &body).unwrap(), plain);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0..4000u64) {
            for coding in Coding::ALL {
                if let Ok(content) = decode(Coded { coding, length }, &bytes) {
                    prop_assert_eq!(content.len() as u64, length);
                }
            }
        }
    }
}
