//! A backend that reads as strictly as the standard allows, and writes down what came.

use std::sync::{Arc, Mutex};

use crate::rig::{Weir, WeirConfig};
use crate::support::{Origin, Wire};

/// What a backend got: requests in one plain framing, or the reason why something was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Method and target.
    pub line: String,
    pub head: String,
    pub body: String,
    pub trailers: String,
}

/// The log of all connections.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Result<Received, String>>>>);

impl Log {
    pub fn note(&self, what: Result<Received, String>) {
        self.0.lock().unwrap().push(what);
    }

    /// Everything since the last time.
    pub fn take(&self) -> Vec<Result<Received, String>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The same where all of it was plain.
    pub fn plain(&self, what: &str) -> Vec<Received> {
        let all = self
            .take()
            .into_iter()
            .map(|one| one.unwrap_or_else(|odd| panic!("{what}: the backend got {odd}")));
        all.collect()
    }
}

/// What is said of a request whose content breaks off, which no reader takes for a whole one.
pub const PART: &str = "a part of ";

/// Answers every request that is plainly one with its own request line, and is done with whoever sends another.
pub async fn strict(log: Log) -> Origin {
    Origin::start(move |_, mut wire| {
        let log = log.clone();
        async move {
            while let Some(read) = read(&mut wire).await {
                let plain = read.is_ok();
                let line = read.as_ref().map(|r| r.line.clone()).unwrap_or_default();
                log.note(read);
                let length = line.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{line}");
                if !plain || !wire.try_say(answer).await {
                    return;
                }
            }
        }
    })
    .await
}

/// The next request; `None` when the connection ended between two.
pub async fn read(wire: &mut Wire) -> Option<Result<Received, String>> {
    let head = wire.head().await?;
    if let Some(fault) = fault(&head) {
        return Some(Err(format!("{fault}: {head:?}")));
    }
    let line = head.lines().next().unwrap_or_default();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
    // Its head has one reading; what does not follow it was cut off, which every backend sees.
    let Some(message) = wire.content(head.clone()).await else { return Some(Err(format!("{PART}{line}"))) };
    Some(Ok(Received {
        line,
        head,
        body: String::from_utf8_lossy(&message.body).into_owned(),
        trailers: message.trailers,
    }))
}

/// Why a head has more than one reading.
fn fault(head: &str) -> Option<&'static str> {
    let lines = head.strip_suffix("\r\n\r\n")?;
    if lines.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Some("a bare CR, LF or NUL");
    }
    let mut lines = lines.split("\r\n");
    let parts: Vec<&str> = lines.next()?.split(' ').collect();
    if !matches!(parts[..], [method, target, "HTTP/1.1"] if is_token(method) && !target.is_empty()) {
        return Some("a request line that is none");
    }
    let mut counts = [("host", 0), ("content-length", 0), ("transfer-encoding", 0)];
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Some("a line that is no field") };
        if !is_token(name) {
            return Some("a field name that is none");
        }
        for (counted, n) in &mut counts {
            *n += usize::from(name.eq_ignore_ascii_case(counted));
        }
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length")
            && value.parse::<u64>().map(|n| n.to_string()).as_deref() != Ok(value)
        {
            return Some("a length that is none");
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value != "chunked" {
            return Some("another coding");
        }
    }
    match counts.map(|(_, n)| n) {
        [1, 0 | 1, 0] | [1, 0, 1] => None,
        [1, ..] => Some("two framings"),
        _ => Some("no Host or several"),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The real binary before this backend, with one route that is cached.
pub async fn weir(origin: &Origin) -> Weir {
    let text =
        "[[route]]\nname = \"cached\"\nmatch = \"GET /cached/**\"\nttl = \"1h\"\n[server]\nprobes = true\n";
    WeirConfig::new(text).upstream(&format!("http://{}", origin.addr)).start().await
}
