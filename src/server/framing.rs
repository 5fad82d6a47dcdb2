//! Where requests begin and end on an HTTP/1 connection, followed beside hyper for one purpose: two things that its
//! parser lets pass in a head, and that the reader before Weir may have taken otherwise, become a byte that it refuses.
//!
//! - A line that ends with LF alone (RFC 9112 §2.2 lets a recipient take that for an end of line). Who takes it for a
//!   part of the value before it has seen fewer fields, and another framing.
//! - A fragment in the request target (RFC 9112 §3.2 has none). hyper drops it; who keeps it has seen another target.
//!
//! Content is counted and never touched. hyper alone decides what a request is: where this reading is at a loss, hyper
//! refuses the request, and what follows is not looked at. It ends, too, when the connection becomes a tunnel.

/// One more than a zero and the digits of the largest size: too many, as hyper says, too.
const MOST_DIGITS: usize = 18;

/// What hyper refuses wherever a head or a trailer section has it.
const REFUSED: u8 = 0;

/// The reading of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    at: At,
    /// The beginning of a line of which the end has not come. hyper's limits on heads and trailers bound it; what it takes
    /// of a chunk size without end, zeros and spaces, is squeezed.
    begun: Vec<u8>,
    chunked: bool,
    length: u64,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Line(Line),
    /// So many bytes of content, then this.
    Content(u64, Line),
    /// hyper refuses the request, or nothing has to be looked at any more.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Request,
    Field,
    ChunkSize,
    /// The empty one behind a chunk's data.
    ChunkEnd,
    Trailer,
}

impl Framing {
    /// At the beginning of a connection.
    pub(super) fn new() -> Framing {
        Framing { at: At::Line(Line::Request), begun: Vec::new(), chunked: false, length: 0 }
    }

    /// The connection is HTTP/1 no longer, or never was.
    pub(super) fn ends(&mut self) {
        self.at = At::Lost;
        self.begun = Vec::new();
    }

    /// Whether the next byte is the first of a request.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Line(Line::Request) && self.begun.is_empty()
    }

    /// Whether a request has begun and not ended, as far as can be told.
    pub(super) fn is_midway(&self) -> bool {
        self.at != At::Lost && !self.is_between()
    }

    /// Whether a request's head has ended and its content has not.
    pub(super) fn is_in_content(&self) -> bool {
        let lines = [Line::ChunkSize, Line::ChunkEnd, Line::Trailer].map(At::Line);
        matches!(self.at, At::Content(..)) || lines.contains(&self.at)
    }

    /// Reads on, and replaces what is to be refused.
    pub(super) fn look(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match self.at {
                At::Lost => return,
                At::Content(left, then) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    // No more than `left`, so it fits.
                    let left = left - taken as u64;
                    self.at = if left > 0 { At::Content(left, then) } else { At::Line(then) };
                    taken
                }
                At::Line(line) => self.line(line, bytes),
            };
            bytes = &mut bytes[taken..];
        }
    }

    /// Reads to the end of a line, or as far as there are bytes; returns how far that was.
    fn line(&mut self, line: Line, bytes: &mut [u8]) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if line == Line::Request {
            bytes[..taken].iter_mut().filter(|b| **b == b'#').for_each(|b| *b = REFUSED);
        }
        let Some(end) = end else {
            self.begun.extend_from_slice(bytes);
            if line == Line::ChunkSize {
                squeeze(&mut self.begun);
            }
            return taken;
        };
        let mut begun = std::mem::take(&mut self.begun);
        let whole = match begun.is_empty() {
            true => &bytes[..end],
            false => {
                begun.extend_from_slice(&bytes[..end]);
                &begun[..]
            }
        };
        match whole.strip_suffix(b"\r") {
            Some(text) => self.at = self.after(line, text),
            None => {
                // Between chunks hyper refuses a bare LF by itself.
                if !matches!(line, Line::ChunkSize | Line::ChunkEnd) {
                    bytes[end] = REFUSED;
                }
                self.at = At::Lost;
            }
        }
        taken
    }

    /// What follows a line, given without its end.
    fn after(&mut self, line: Line, text: &[u8]) -> At {
        match line {
            // RFC 9112 §2.2: empty lines before a request mean nothing.
            Line::Request if text.is_empty() => At::Line(Line::Request),
            Line::Request => {
                (self.chunked, self.length) = (false, 0);
                At::Line(Line::Field)
            }
            Line::Field if text.is_empty() => self.content(),
            Line::Field => {
                self.field(text);
                At::Line(Line::Field)
            }
            Line::ChunkSize => match chunk_size(text) {
                Some(0) => At::Line(Line::Trailer),
                Some(size) => At::Content(size, Line::ChunkEnd),
                None => At::Lost,
            },
            Line::ChunkEnd if text.is_empty() => At::Line(Line::ChunkSize),
            Line::ChunkEnd => At::Lost,
            Line::Trailer if text.is_empty() => At::Line(Line::Request),
            Line::Trailer => At::Line(Line::Trailer),
        }
    }

    /// RFC 9112 §6.3. Of the lengths and codings that have no meaning there hyper accepts none.
    fn content(&self) -> At {
        match (self.chunked, self.length) {
            (true, _) => At::Line(Line::ChunkSize),
            (false, 0) => At::Line(Line::Request),
            (false, length) => At::Content(length, Line::Request),
        }
    }

    fn field(&mut self, text: &[u8]) {
        let Some(b't' | b'T' | b'c' | b'C') = text.first() else { return };
        let Some(colon) = memchr::memchr(b':', text) else { return };
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.length = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    }
}

/// Takes from the beginning of a chunk size what means nothing: zeros in front, and all that comes behind the digits but the
/// last byte, which may be the CR of its end. More digits than there may be stay too many.
fn squeeze(begun: &mut Vec<u8>) {
    let zeros = begun.iter().take_while(|b| **b == b'0').count();
    begun.drain(..zeros.saturating_sub(1));
    let digits = begun.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > MOST_DIGITS {
        begun.drain(MOST_DIGITS..digits);
    }
    let digits = digits.min(MOST_DIGITS);
    if begun.len() > digits + 2 {
        begun.drain(digits + 1..begun.len() - 1);
    }
}

/// `chunk-size` of a line (RFC 9112 §7.1), whatever its extensions.
fn chunk_size(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(text.len());
    u64::from_str_radix(std::str::from_utf8(&text[..end]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left of a connection's bytes, read in pieces of this size; refused bytes show as `0`.
    fn seen(text: &str, piece: usize) -> String {
        let mut framing = Framing::new();
        let mut bytes = text.as_bytes().to_vec();
        bytes.chunks_mut(piece).for_each(|piece| framing.look(piece));
        String::from_utf8(bytes).unwrap().replace('\0', "0")
    }

    const PLAIN: [&str; 5] = [
        "GET /x HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\n\r\nPOST /x HTTP/1.1\r\nContent-Length: \t9 \r\nhost: a#b\r\n\r\nx\n#\n\r\n\ry\n",
        "POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a=\"#\"\r\n\n\n#\n\n\r\n0a\r\n\r\n\r\n\r\n\n\nab\r\n0\r\nx: #\r\n\r\n",
        "POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n00\r\n\r\n",
        "DELETE /x HTTP/1.1\r\ncontent-length: 00\r\n\r\n",
    ];

    #[test]
    fn plain_requests_are_left_alone() {
        let all = PLAIN.concat().repeat(2);
        for piece in 1..all.len() {
            assert_eq!(seen(&all, piece), all, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_refused_in_heads_and_trailers() {
        for (text, left) in [
            ("GET /x HTTP/1.1\nhost: a\r\n\r\n", "GET /x HTTP/1.10host: a\r\n\r\n"),
            ("GET /x HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", "GET /x HTTP/1.1\r\nhost: a0x: y\r\n\r\n"),
            ("GET /x HTTP/1.1\r\nhost: a\r\n\n", "GET /x HTTP/1.1\r\nhost: a\r\n0"),
            ("\nGET /x HTTP/1.1\r\n\r\n", "0GET /x HTTP/1.1\r\n\r\n"),
            ("GET /x#y HTTP/1.1\r\nhost: a\r\n\r\n", "GET /x0y HTTP/1.1\r\nhost: a\r\n\r\n"),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: b\n\r\n",
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: b0\r\n",
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n",
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n",
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\nGET ",
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n0GET ",
            ),
        ] {
            for plain in ["", PLAIN[1], PLAIN[2]] {
                for piece in 1..60 {
                    assert_eq!(seen(&format!("{plain}{text}"), piece), format!("{plain}{left}"), "{piece}");
                }
            }
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        for (begin, rest) in [("", "0"), ("5", " "), ("5;", "x"), ("", "f"), ("0a", "\t \r")] {
            let mut framing = Framing::new();
            framing.look(&mut format!("{head}{begin}").into_bytes());
            for _ in 0..1000 {
                framing.look(&mut rest.repeat(1000).into_bytes());
                assert!(framing.begun.len() <= MOST_DIGITS + 2, "{begin} {rest}: {}", framing.begun.len());
            }
        }
    }

    #[test]
    fn squeezing_does_not_change_what_a_size_says() {
        for (size, ends) in
            [("0000005 ;a=b", true), ("000", true), ("5\r ", true), ("11112222333344445", false)]
        {
            let text = format!(
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{size}\r\n#####\r\n0\r\n\r\nGET #"
            );
            for piece in 1..80 {
                let looked = seen(&text, piece);
                assert_eq!(looked, seen(&text, text.len()), "{size} in pieces of {piece}");
                if ends && size != "000" {
                    assert!(looked.ends_with("GET 0") && looked.contains("#####"), "{looked}");
                }
            }
        }
    }

    #[test]
    fn a_tunnel_is_not_looked_at() {
        let mut framing = Framing::new();
        framing.look(&mut b"GET /x HTTP/1.1\r\nupgrade: websocket\r\n\r\n".to_vec());
        framing.ends();
        let mut frames = b"#\n\n#".to_vec();
        framing.look(&mut frames);
        assert_eq!(frames, b"#\n\n#");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(GET /|POST /#|a: b|content-length: 3|transfer-encoding: chunked|0|2|\r\n|\n|xy){0,24}", piece in 1..9usize) {
            prop_assert_eq!(seen(&text, piece), seen(&text, text.len().max(1)));
        }

        #[test]
        fn content_is_never_touched(content: Vec<u8>, piece in 1..9usize) {
            let head = format!("PUT / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", content.len());
            let whole = [head.as_bytes(), &content, b"GET /"].concat();
            let mut looked = whole.clone();
            let mut framing = Framing::new();
            looked.chunks_mut(piece).for_each(|piece| framing.look(piece));
            prop_assert_eq!(looked, whole);
            prop_assert_eq!(framing.at, At::Line(Line::Request));
        }
    }
}
