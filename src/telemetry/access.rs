//! The access log: one line per finished request, formatted by hand, written by a thread of its own ([`Spool`]).
//!
//! What waits between is bounded in lines and bytes, and a line in bytes; when the disk or the reader of stdout cannot
//! keep up, lines are dropped and counted, and requests go on. A file is opened for appending, so that
//! `copytruncate` rotation works; Weir does not rotate by itself.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::escape_json;
use super::spool::{Spool, SpoolGuard};
use crate::semantics::cache_status::Outcome;
use crate::semantics::timestamp::Timestamp;

/// Longest text of one field in a line, bytes; the rest is cut off and marked with `…`.
const FIELD_BYTES: usize = 2_048;

/// One finished request, for the access log. Paths are logged without their query.
#[derive(Debug)]
pub struct AccessRecord<'a> {
    /// Wall-clock end, ms.
    pub at: Timestamp,
    /// Client address.
    pub peer: IpAddr,
    /// Method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Status sent.
    pub status: u16,
    /// Route name, `-` without one.
    pub route: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, as in `Cache-Status` detail.
    pub reason: Option<&'a str>,
    /// Age of what was served, where it came from the cache.
    pub age: Option<Duration>,
    /// From arrival to the response head.
    pub elapsed: Duration,
    /// Time to the upstream's first byte, where it was asked.
    pub upstream: Option<Duration>,
    /// Content bytes, where known beforehand.
    pub bytes: Option<u64>,
    /// Trace id of `traceparent`, else `X-Request-Id`, else one made here.
    pub request_id: &'a str,
}

/// Writes access lines without holding the request path up. The default is switched off.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Arc<Sink>>);

#[derive(Debug)]
struct Sink {
    spool: Arc<Spool>,
    json: bool,
}

/// Flushes what is queued when dropped, within a second.
#[derive(Debug)]
pub struct AccessGuard(#[allow(dead_code, reason = "held for its Drop")] SpoolGuard);

impl AccessLog {
    /// `None` = off, `Some("-")` = stdout, else a file to append to. JSON lines, or lines for people.
    pub fn open(target: Option<&str>, json: bool) -> io::Result<(AccessLog, Option<AccessGuard>)> {
        let Some(target) = target else { return Ok((AccessLog(None), None)) };
        let (log, guard) = if target == "-" {
            AccessLog::to_writer(io::stdout(), json)?
        } else {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(target)?;
            AccessLog::to_writer(file, json)?
        };
        Ok((log, Some(guard)))
    }

    /// A log into any writer, which is given many lines at once. Fails where no thread can be started.
    pub fn to_writer(
        writer: impl Write + Send + 'static,
        json: bool,
    ) -> io::Result<(AccessLog, AccessGuard)> {
        let (spool, guard) = Spool::start(writer)?;
        Ok((AccessLog(Some(Arc::new(Sink { spool, json }))), AccessGuard(guard)))
    }

    /// Writes one line, if the log is on.
    pub fn write(&self, record: &AccessRecord<'_>) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let Some(sink) = &self.0 else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            if sink.json {
                json_line(line, record)
            } else {
                human_line(line, record)
            }
            sink.spool.leave(line.as_bytes());
        });
    }

    /// Whether anybody listens (so that callers need not build a record).
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Lines dropped since start because the queue was full.
    pub fn dropped_lines(&self) -> u64 {
        self.0.as_ref().map_or(0, |sink| sink.spool.dropped())
    }
}

/// `2026-01-31T08:15:02.123Z`
fn time(out: &mut String, at: Timestamp) {
    thread_local! {
        /// The last second written, as it is written: most lines share one with the line before.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let (second, ms) = (at.0 / 1000, at.0 % 1000);
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            let whole = i64::try_from(second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            // Times beyond the year 9999 do not come from a clock.
            *text = whole.unwrap_or(jiff::Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S").to_string();
            *known = second;
        }
        out.push_str(text);
    });
    out.push('.');
    thousandths(out, ms);
    out.push('Z');
}

/// Three digits.
fn thousandths(out: &mut String, n: u64) {
    for digit in [n / 100, n / 10, n] {
        // Below ten, so it fits.
        out.push(char::from(b'0' + (digit % 10) as u8));
    }
}

/// At most [`FIELD_BYTES`] of `text`, and whether that was all.
fn clipped(text: &str) -> (&str, &'static str) {
    if text.len() <= FIELD_BYTES {
        (text, "")
    } else {
        (&text[..text.floor_char_boundary(FIELD_BYTES)], "…")
    }
}

fn json_text(out: &mut String, name: &str, value: &str) {
    let (value, mark) = clipped(value);
    json_name(out, name);
    out.push('"');
    escape_json(out, value);
    out.push_str(mark);
    out.push('"');
}

fn json_number(out: &mut String, name: &str, value: Option<u64>) {
    json_name(out, name);
    match value {
        Some(value) => number(out, value),
        None => out.push_str("null"),
    }
}

fn json_ms(out: &mut String, name: &str, value: Option<Duration>) {
    json_name(out, name);
    match value {
        Some(value) => ms(out, value),
        None => out.push_str("null"),
    }
}

fn json_name(out: &mut String, name: &str) {
    for part in [",\"", name, "\":"] {
        out.push_str(part);
    }
}

fn number(out: &mut String, n: u64) {
    out.push_str(itoa::Buffer::new().format(n));
}

/// Milliseconds with microseconds behind the point.
fn ms(out: &mut String, elapsed: Duration) {
    let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    number(out, us / 1000);
    out.push('.');
    thousandths(out, us % 1000);
}

fn address(out: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push('.');
                }
                number(out, octet.into());
            }
        }
        // Into a String: cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

fn json_line(out: &mut String, record: &AccessRecord<'_>) {
    out.push_str("{\"time\":\"");
    time(out, record.at);
    out.push('"');
    json_text(out, "request_id", record.request_id);
    json_text(out, "method", record.method);
    json_text(out, "path", record.path);
    json_text(out, "route", record.route);
    json_number(out, "status", Some(record.status.into()));
    json_text(out, "outcome", record.outcome.as_str());
    match record.reason {
        Some(reason) => json_text(out, "reason", reason),
        None => out.push_str(",\"reason\":null"),
    }
    json_number(out, "age", record.age.map(|age| age.as_secs()));
    json_ms(out, "elapsed_ms", Some(record.elapsed));
    json_ms(out, "upstream_ms", record.upstream);
    json_number(out, "bytes", record.bytes);
    out.push_str(",\"peer\":\"");
    address(out, record.peer);
    out.push_str("\"}\n");
}

/// Text from outside in a human line: without spaces, quotes and controls that could fake another field or line.
fn human_text(out: &mut String, text: &str) {
    let (text, mark) = clipped(text);
    for c in text.chars() {
        match c {
            ' ' => out.push_str("%20"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push_str(mark);
}

fn human_line(out: &mut String, record: &AccessRecord<'_>) {
    time(out, record.at);
    for text in [record.method, record.path] {
        out.push(' ');
        human_text(out, text);
    }
    out.push(' ');
    number(out, record.status.into());
    out.push(' ');
    out.push_str(record.outcome.as_str());
    if let Some(reason) = record.reason {
        out.push('(');
        human_text(out, reason);
        out.push(')');
    }
    out.push(' ');
    ms(out, record.elapsed);
    out.push_str("ms");
    if let Some(upstream) = record.upstream {
        out.push_str(" upstream=");
        ms(out, upstream);
        out.push_str("ms");
    }
    if let Some(age) = record.age {
        out.push_str(" age=");
        number(out, age.as_secs());
        out.push('s');
    }
    if let Some(bytes) = record.bytes {
        out.push_str(" bytes=");
        number(out, bytes);
    }
    out.push_str(" route=");
    human_text(out, record.route);
    out.push_str(" peer=");
    address(out, record.peer);
    out.push_str(" id=");
    human_text(out, record.request_id);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::super::spool::MOST_LINES;
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record<'a>(path: &'a str, id: &'a str) -> AccessRecord<'a> {
        AccessRecord {
            at: Timestamp(1_769_847_302_007),
            peer: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            path,
            status: 200,
            route: "books",
            outcome: Outcome::Hit,
            reason: Some("memory"),
            age: Some(Duration::from_millis(12_900)),
            elapsed: Duration::from_micros(1_234),
            upstream: None,
            bytes: Some(17),
            request_id: id,
        }
    }

    fn written(json: bool, record: &AccessRecord<'_>) -> String {
        let shared = Shared::default();
        let (log, guard) = AccessLog::to_writer(shared.clone(), json).unwrap();
        assert!(log.enabled());
        log.write(record);
        drop(guard); // flushes
        String::from_utf8(shared.0.lock().clone()).unwrap()
    }

    #[test]
    fn a_json_line_holds_every_field() {
        let line = written(true, &record("/books/1", "abc"));
        let expected = concat!(
            r#"{"time":"2026-01-31T08:15:02.007Z","request_id":"abc","method":"GET","path":"/books/1","#,
            r#""route":"books","status":200,"outcome":"hit","reason":"memory","age":12,"elapsed_ms":1.234,"#,
            r#""upstream_ms":null,"bytes":17,"peer":"127.0.0.1"}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn a_human_line_reads_from_left_to_right() {
        let line = written(false, &record("/books/1", "abc"));
        assert_eq!(
            line,
            "2026-01-31T08:15:02.007Z GET /books/1 200 hit(memory) 1.234ms age=12s bytes=17 route=books \
             peer=127.0.0.1 id=abc\n"
        );
    }

    #[test]
    fn switched_off_is_free_and_silent() {
        let (log, guard) = AccessLog::open(None, true).unwrap();
        assert!(!log.enabled() && guard.is_none());
        log.write(&record("/", "x"));
        assert_eq!(log.dropped_lines(), 0);
    }

    #[test]
    fn a_file_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let (log, guard) = AccessLog::open(path.to_str(), false).unwrap();
        log.write(&record("/", "x"));
        drop(guard);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n") && text.lines().count() == 2, "{text}");
        let missing = directory.path().join("no/such/directory");
        assert!(AccessLog::open(missing.to_str(), false).is_err());
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted_and_all_else_is_written() {
        /// A writer that never returns until it is let go.
        struct Stuck(std::sync::mpsc::Receiver<()>, Shared);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let shared = Shared::default();
        let (log, guard) = AccessLog::to_writer(Stuck(stuck, shared.clone()), true).unwrap();
        let mut left = 0;
        while log.dropped_lines() == 0 {
            log.write(&record("/", "x"));
            left += 1;
            assert!(left <= 3 * MOST_LINES, "it is bounded");
        }
        assert!(left > MOST_LINES, "what is in the writer's hands takes no room");
        drop(release);
        drop(guard);
        assert_eq!(shared.0.lock().iter().filter(|b| **b == b'\n').count(), left - 1);
    }

    proptest::proptest! {
        #[test]
        fn nothing_breaks_a_line(path in ".{0,3000}", id in ".{0,50}") {
            let mut json = String::new();
            json_line(&mut json, &record(&path, &id));
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            if path.len() <= FIELD_BYTES {
                proptest::prop_assert_eq!(value["path"].as_str(), Some(path.as_str()));
            }
            proptest::prop_assert_eq!(json.matches('\n').count(), 1);
            let mut human = String::new();
            human_line(&mut human, &record(&path, &id));
            proptest::prop_assert_eq!(human.chars().filter(|c| c.is_control()).count(), 1);
            proptest::prop_assert!(human.len() < FIELD_BYTES * 3 + 400);
        }
    }
}
