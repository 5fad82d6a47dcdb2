//! The access log: one line per finished request, formatted by hand, written by a thread of its own.
//!
//! The queue between is bounded in lines, and a line in bytes; when the disk or the reader of stdout cannot
//! keep up, lines are dropped and counted, and requests go on. A file is opened for appending, so that
//! `copytruncate` rotation works; Weir does not rotate by itself.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::escape_json;
use crate::semantics::cache_status::Outcome;
use crate::semantics::timestamp::Timestamp;

/// Most lines waiting to be written.
const QUEUE_LINES: usize = 16_384;
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
    queue: NonBlocking,
    dropped: ErrorCounter,
    json: bool,
}

/// Flushes what is queued when dropped, within a second.
#[derive(Debug)]
pub struct AccessGuard(#[allow(dead_code, reason = "held for its Drop")] WorkerGuard);

impl AccessLog {
    /// `None` = off, `Some("-")` = stdout, else a file to append to. JSON lines, or lines for people.
    pub fn open(target: Option<&str>, json: bool) -> io::Result<(AccessLog, Option<AccessGuard>)> {
        let Some(target) = target else { return Ok((AccessLog(None), None)) };
        let (log, guard) = if target == "-" {
            AccessLog::to_writer(BufWriter::with_capacity(64 * 1024, io::stdout()), json)
        } else {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(target)?;
            AccessLog::to_writer(BufWriter::with_capacity(64 * 1024, file), json)
        };
        Ok((log, Some(guard)))
    }

    /// A log into any writer; it is flushed whenever the queue is empty.
    pub fn to_writer(writer: impl Write + Send + 'static, json: bool) -> (AccessLog, AccessGuard) {
        let builder = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE_LINES)
            .thread_name("weir-access-log");
        let (queue, guard) = builder.finish(writer);
        let dropped = queue.error_counter();
        (AccessLog(Some(Arc::new(Sink { queue, dropped, json }))), AccessGuard(guard))
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
            // The queue never fails; what it cannot take it counts.
            let _ = sink.queue.clone().write(line.as_bytes());
        });
    }

    /// Whether anybody listens (so that callers need not build a record).
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Lines dropped since start because the queue was full.
    pub fn dropped_lines(&self) -> u64 {
        self.0.as_ref().map_or(0, |sink| sink.dropped.dropped_lines() as u64)
    }
}

/// `2026-01-31T08:15:02.123Z`
fn time(out: &mut String, at: Timestamp) {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    // Writing into a String cannot fail; times beyond the year 9999 do not come from a clock.
    let _ = write!(out, "{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX));
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
    let _ = write!(out, ",\"{name}\":\"");
    escape_json(out, value);
    let _ = write!(out, "{mark}\"");
}

fn json_number(out: &mut String, name: &str, value: Option<impl std::fmt::Display>) {
    let _ = match value {
        Some(value) => write!(out, ",\"{name}\":{value}"),
        None => write!(out, ",\"{name}\":null"),
    };
}

/// Milliseconds with microseconds behind the point.
fn ms(elapsed: Duration) -> String {
    let us = elapsed.as_micros();
    format!("{}.{:03}", us / 1000, us % 1000)
}

fn json_line(out: &mut String, record: &AccessRecord<'_>) {
    out.push_str("{\"time\":\"");
    time(out, record.at);
    out.push('"');
    json_text(out, "request_id", record.request_id);
    json_text(out, "method", record.method);
    json_text(out, "path", record.path);
    json_text(out, "route", record.route);
    json_number(out, "status", Some(record.status));
    json_text(out, "outcome", record.outcome.as_str());
    match record.reason {
        Some(reason) => json_text(out, "reason", reason),
        None => out.push_str(",\"reason\":null"),
    }
    json_number(out, "age", record.age.map(|age| age.as_secs()));
    json_number(out, "elapsed_ms", Some(ms(record.elapsed)));
    json_number(out, "upstream_ms", record.upstream.map(ms));
    json_number(out, "bytes", record.bytes);
    let _ = writeln!(out, ",\"peer\":\"{}\"}}", record.peer);
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
    out.push(' ');
    human_text(out, record.method);
    out.push(' ');
    human_text(out, record.path);
    let _ = write!(out, " {} {}", record.status, record.outcome.as_str());
    if let Some(reason) = record.reason {
        out.push('(');
        human_text(out, reason);
        out.push(')');
    }
    let _ = write!(out, " {}ms", ms(record.elapsed));
    if let Some(upstream) = record.upstream {
        let _ = write!(out, " upstream={}ms", ms(upstream));
    }
    if let Some(age) = record.age {
        let _ = write!(out, " age={}s", age.as_secs());
    }
    if let Some(bytes) = record.bytes {
        let _ = write!(out, " bytes={bytes}");
    }
    out.push_str(" route=");
    human_text(out, record.route);
    let _ = write!(out, " peer={} id=", record.peer);
    human_text(out, record.request_id);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

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
        let (log, guard) = AccessLog::to_writer(shared.clone(), json);
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
    fn a_full_queue_drops_lines_and_counts_them() {
        /// A writer that never returns until it is let go.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let (log, guard) = AccessLog::to_writer(Stuck(stuck), true);
        for _ in 0..QUEUE_LINES + 10 {
            log.write(&record("/", "x"));
        }
        // One line may be in the writer's hands.
        assert!((9..=10).contains(&log.dropped_lines()), "{}", log.dropped_lines());
        drop(release);
        drop(guard);
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
