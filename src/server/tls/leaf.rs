//! What people want to know of a certificate: for which names it is, and until when (RFC 5280 §4.1). Whether anybody
//! trusts it is for clients to say.
//!
//! A small reader of DER that looks at those two fields and at nothing else; what it cannot read it does not know.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// DER's tags (X.690 §8).
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, the version; `[3]`, the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[2]` and `[7]` among general names (RFC 5280 §4.2.1.6).
const DNS_NAME: u8 = 0x82;
const ADDRESS: u8 = 0x87;

/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// Most names that are shown.
const SHOWN: usize = 5;

/// A certificate's names and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Host names and addresses (`subjectAltName`).
    pub names: Vec<String>,
    /// The moment after which no client accepts it.
    pub not_after: Timestamp,
}

impl Leaf {
    /// Reads a certificate in DER. `None`: its validity is not where RFC 5280 has it.
    pub(super) fn read(der: &[u8]) -> Option<Leaf> {
        let mut whole = Der(der);
        let mut certificate = Der(whole.take(SEQUENCE)?);
        let mut tbs = Der(certificate.take(SEQUENCE)?);
        tbs.take_if(VERSION);
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            tbs.next()?;
        }
        let mut validity = Der(tbs.take(SEQUENCE)?);
        validity.next()?;
        let not_after = moment(validity.next()?)?;
        Some(Leaf { names: names(tbs), not_after })
    }

    /// Whether its time is over. `now`: milliseconds since the Unix epoch.
    pub fn is_over(&self, now: u64) -> bool {
        i64::try_from(now).is_ok_and(|now| self.not_after.as_millisecond() < now)
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let names = if shown.is_empty() { "no name" } else { shown.as_str() };
        let more = if self.names.len() > SHOWN { ", …" } else { "" };
        write!(f, "{names}{more}, until {}", self.not_after)
    }
}

/// The names in what follows the validity; none where they cannot be read.
fn names(mut rest: Der<'_>) -> Vec<String> {
    let mut find = || {
        let extensions = loop {
            match rest.next()? {
                (EXTENSIONS, found) => break found,
                _ => continue,
            }
        };
        let mut extensions = Der(Der(extensions).take(SEQUENCE)?);
        while let Some((SEQUENCE, extension)) = extensions.next() {
            let mut extension = Der(extension);
            let id = extension.take(OBJECT_IDENTIFIER)?;
            extension.take_if(BOOLEAN);
            if id == SUBJECT_ALT_NAME {
                return Some(Der(Der(extension.take(OCTET_STRING)?).take(SEQUENCE)?));
            }
        }
        None
    };
    let Some(mut list) = find() else { return Vec::new() };
    let mut names = Vec::new();
    while let Some((tag, value)) = list.next() {
        names.extend(match tag {
            DNS_NAME => std::str::from_utf8(value).ok().map(|name| name.escape_default().to_string()),
            ADDRESS => address(value).map(|address| address.to_string()),
            _ => None,
        });
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ` (RFC 5280 §4.1.2.5): two digits of a year from 50 on are the last century's.
fn moment((tag, text): (u8, &[u8])) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| {
        digits.get(from..to).map(|part| part.iter().fold(0_i16, |n, d| n * 10 + i16::from(d - b'0')))
    };
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (number(0, 2).map(|y| if y < 50 { 2000 + y } else { 1900 + y })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |n: usize| number(at + 2 * n, at + 2 * n + 2).and_then(|part| i8::try_from(part).ok());
    let date = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(date).ok()
}

/// What is left of a run of DER values.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        // Below 128 the length itself, else how many bytes of it follow (X.690 §8.1.3).
        let (length, rest) = match usize::from(length) {
            length @ 0..=0x7f => (length, rest),
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
                (bytes.iter().fold(0_usize, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value's content, which has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Passes over the next value if it has this tag.
    fn take_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[&str], until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let params = params.as_mut().unwrap();
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_end_are_read() {
        for (names, until, shown) in [
            (&["api.example", "127.0.0.1", "::1"][..], (2049, 12, 31), "2049-12-31T00:00:00Z"),
            (&["*.api.example"], (2050, 1, 1), "2050-01-01T00:00:00Z"),
            (&[], (1999, 2, 28), "1999-02-28T00:00:00Z"),
            (&["x"], (9999, 12, 30), "9999-12-30T00:00:00Z"),
        ] {
            let leaf = Leaf::read(&certificate(names, until)).unwrap();
            assert_eq!(
                (leaf.names.as_slice(), leaf.not_after.to_string().as_str()),
                (names_of(names).as_slice(), shown)
            );
        }
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_is_shown_is_short() {
        let leaf = Leaf::read(&certificate(&["a", "b", "c", "d", "e", "f"], (2040, 1, 1))).unwrap();
        assert_eq!(leaf.to_string(), "a, b, c, d, e, …, until 2040-01-01T00:00:00Z");
        let leaf = Leaf { names: Vec::new(), ..leaf };
        assert_eq!(leaf.to_string(), "no name, until 2040-01-01T00:00:00Z");
        let end = u64::try_from(leaf.not_after.as_millisecond()).unwrap();
        assert!(!leaf.is_over(end) && leaf.is_over(end + 1));
    }

    #[test]
    fn a_certificate_cut_anywhere_is_none_or_the_same() {
        let whole = certificate(&["api.example"], (2040, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(Leaf::read(&whole[..end]), None, "the outermost length says that there is more");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0_usize..400, byte: u8, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut spoilt = certificate(&["api.example", "127.0.0.1"], (2040, 1, 1));
            let at = at % spoilt.len();
            spoilt[at] = byte;
            let _ = Leaf::read(&spoilt);
            let _ = Leaf::read(&bytes);
            let _ = moment((UTC_TIME, &bytes));
        }
    }
}
