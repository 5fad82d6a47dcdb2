//! The one body type that Weir sends, up and down.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

/// What a body can fail with; the connection is then cut so that nobody takes a part for the whole.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way: whole in memory (hits cost no allocation), or streaming.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Whole content, shared with the store. Taken when sent.
    Full(Option<Bytes>),
    /// No content here, but this length is declared (an answer to HEAD).
    Head(u64),
    /// Anything that streams.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// Whole content.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(Some(bytes)) }
    }

    /// Any streaming body.
    pub fn stream<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        use http_body_util::BodyExt;
        Body::Stream(body.map_err(Into::into).boxed_unsync())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Empty | Body::Head(_) => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty | Body::Head(_) | Body::Full(None) => true,
            Body::Full(Some(_)) => false,
            Body::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty | Body::Full(None) => SizeHint::with_exact(0),
            Body::Head(length) => SizeHint::with_exact(*length),
            Body::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn every_kind_says_truly_how_much_it_is() {
        let cases = [
            (Body::Empty, Some(0), true, ""),
            (Body::full(""), Some(0), true, ""),
            (Body::full("four"), Some(4), false, "four"),
            (Body::Head(1234), Some(1234), true, ""),
            (Body::stream(Full::new(Bytes::from_static(b"five!"))), Some(5), false, "five!"),
        ];
        for (mut body, length, over, content) in cases {
            assert_eq!(body.size_hint().exact(), length, "{body:?}");
            assert_eq!(body.is_end_stream(), over, "{body:?}");
            let all = (&mut body).collect().await.unwrap().to_bytes();
            assert_eq!(all, content, "{body:?}");
            assert!(body.is_end_stream(), "{body:?}");
        }
    }

    #[tokio::test]
    async fn failures_pass_through() {
        let frames = [Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::other("cut"))];
        let body = Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        assert_eq!(body.collect().await.unwrap_err().to_string(), "cut");
    }
}
