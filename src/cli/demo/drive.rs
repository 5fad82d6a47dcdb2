//! The story: every step says what it expects, and is checked against `Cache-Status`, against the content, and
//! against what reached the sample API. Times are shown and not judged: machines differ.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::sample::Sample;
use crate::cli::client::{self, Answer};
use crate::time::Clock;

const LIMIT: Duration = Duration::from_secs(30);
/// Clients that ask at once for what nobody has fetched yet.
const CROWD: usize = 50;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The API, through Weir.
    Api,
    /// Weir alone.
    Cache,
}

/// One request and what must come of it.
struct Step {
    /// Printed before it.
    words: &'static str,
    method: Method,
    path: &'static str,
    reader: Option<&'static str>,
    body: &'static str,
    by: By,
    /// A JSON pointer into the answer and what stands there.
    holds: (&'static str, Value),
}

impl Step {
    fn get(words: &'static str, path: &'static str, by: By, holds: (&'static str, Value)) -> Step {
        Step { words, method: Method::GET, path, reader: None, body: "", by, holds }
    }
    fn of(mut self, reader: &'static str) -> Step {
        self.reader = Some(reader);
        self
    }
    fn send(mut self, method: Method, body: &'static str) -> Step {
        (self.method, self.body) = (method, body);
        self
    }
}

fn story() -> Vec<Step> {
    use By::{Api, Cache};
    let (list, book, mean) = ("/books/1/rating", "/rating", "/mean");
    let get = Step::get;
    vec![
        get("The list is asked for: the API works 300 ms for it.", "/books", Api, (list, json!(2.0))),
        get("Again, by somebody else: from memory.", "/books", Cache, (list, json!(2.0))).of("bob"),
        get("Two single books.", "/books/1", Api, (book, json!(4.5))),
        get("", "/books/2", Api, (book, json!(2.0))),
        get("Ann's own summary.", "/me/summary", Api, ("/reader", json!("ann"))).of("ann"),
        get("Again.", "/me/summary", Cache, (mean, json!(3.5))).of("ann"),
        get("Bob, same URL: never Ann's answer.", "/me/summary", Api, ("/reader", json!("bob"))).of("bob"),
        get("Bob again: his own.", "/me/summary", Cache, ("/reader", json!("bob"))).of("bob"),
        get("Ann rates book 2. The purge rules see it pass.", "/books/2", Api, (book, json!(5.0)))
            .of("ann")
            .send(Method::PUT, r#"{"rating": 5}"#),
        get("The list shows it at once,", "/books", Api, (list, json!(5.0))),
        get("and so does the book,", "/books/2", Api, (book, json!(5.0))),
        get("and Ann's summary.", "/me/summary", Api, (mean, json!(5.0))).of("ann"),
        get("Book 1 is untouched and still kept,", "/books/1", Cache, (book, json!(4.5))),
        get("and so is Bob's summary.", "/me/summary", Cache, (mean, json!(4.5))).of("bob"),
        get("From memory again, and up to date.", "/books", Cache, (list, json!(5.0))),
        get("", "/me/summary", Cache, (mean, json!(5.0))).of("ann"),
        get("Bob adds a book: the list has it at once, single books stay.", "/books", Api, ("/id", json!(4)))
            .of("bob")
            .send(Method::POST, r#"{"title": "Roadside Picnic", "author": "A. and B. Strugatsky"}"#),
        get("", "/books", Api, ("/books/3/title", json!("Roadside Picnic"))),
        get("", "/books/2", Cache, (book, json!(5.0))),
    ]
}

/// Plays the story; false if any of it did not hold.
pub(super) async fn drive(weir: SocketAddr, sample: &Sample, print: fn(&str)) -> bool {
    let mut tale = Tale { print, requests: 0, wrong: vec![], from_api: vec![], from_cache: vec![] };
    print(&format!("{:<22} {:<6} {:>9}  {}\n", "request", "reader", "time", "Cache-Status"));
    print(&format!("{:-<22} {:-<6} {:->9}  {:-<44}\n", "", "", "", ""));
    for step in story() {
        let before = sample.requests();
        let answer = ask(weir, &step).await;
        let reached = sample.requests() - before;
        tale.told(&step, answer, reached);
    }
    tale.crowd(weir, sample).await;
    tale.end(sample)
}

async fn ask(weir: SocketAddr, step: &Step) -> Result<Answer, String> {
    let url = format!("http://{weir}{}", step.path).parse().map_err(|_| "not a URL".to_owned())?;
    let bearer = step.reader.map(|reader| format!("Bearer {reader}"));
    let mut fields: Vec<(&str, &str)> =
        bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    if !step.body.is_empty() {
        fields.push(("content-type", "application/json"));
    }
    client::send(step.method.clone(), &url, &fields, step.body, LIMIT).await
}

/// What happened so far.
struct Tale {
    print: fn(&str),
    requests: u64,
    wrong: Vec<String>,
    from_api: Vec<Duration>,
    from_cache: Vec<Duration>,
}

impl Tale {
    fn told(&mut self, step: &Step, answer: Result<Answer, String>, reached: u64) {
        self.requests += 1;
        if !step.words.is_empty() {
            (self.print)(&format!("\n{}\n", step.words));
        }
        let request = format!("{} {}", step.method, step.path);
        match answer {
            Err(why) => self.fail(&request, &why),
            Ok(answer) => {
                let status = cache_status(&answer);
                let took = milliseconds(answer.took);
                (self.print)(&format!(
                    "{request:<22} {:<6} {took:>9}  {status}\n",
                    step.reader.unwrap_or("")
                ));
                if step.method == Method::GET {
                    let times = if step.by == By::Cache { &mut self.from_cache } else { &mut self.from_api };
                    times.push(answer.took);
                }
                for flaw in flaws(step, &answer, &status, reached) {
                    self.fail(&request, &flaw);
                }
            }
        }
    }

    fn fail(&mut self, request: &str, why: &str) {
        (self.print)(&format!("  NOT AS IT SHOULD BE: {why}\n"));
        self.wrong.push(format!("{request}: {why}"));
    }

    /// Many at once for one cold answer: one of them fetches, the others wait for it.
    async fn crowd(&mut self, weir: SocketAddr, sample: &Sample) {
        (self.print)(&format!(
            "\n{CROWD} clients at once for a book nobody has asked for yet: the API is asked once.\n"
        ));
        let step = || Step::get("", "/books/3", By::Api, ("/rating", json!(5.0)));
        let clock = Clock::system();
        let (before, began) = (sample.requests(), clock.elapsed());
        let answers =
            futures_util::future::join_all((0..CROWD).map(|_| async move { ask(weir, &step()).await }));
        let answers = answers.await;
        let (took, reached) = (clock.elapsed().saturating_sub(began), sample.requests() - before);
        self.requests += CROWD as u64;
        let request = format!("GET /books/3 ×{CROWD}");
        let collapsed =
            answers.iter().flatten().filter(|answer| cache_status(answer).contains("collapsed")).count();
        let line = format!("requests at the API: {reached}; collapsed: {collapsed}");
        (self.print)(&format!("{request:<22} {:<6} {:>9}  {line}\n", "", milliseconds(took)));
        let failed = answers.iter().filter_map(|answer| match answer {
            Err(why) => Some(why.clone()),
            Ok(answer) => (answer.status != StatusCode::OK).then(|| format!("status {}", answer.status)),
        });
        // Each way to fail once: fifty times the same line helps nobody.
        for why in failed.collect::<std::collections::BTreeSet<_>>() {
            self.fail(&request, &why);
        }
        if reached != 1 {
            self.fail(&request, &format!("the API was asked {reached} times"));
        }
    }

    fn end(self, sample: &Sample) -> bool {
        let mut text = String::new();
        // Into a String: cannot fail.
        let _ = writeln!(
            text,
            "\n{} requests, {} of them reached the API. Mean of single reads: {} from the API, {} from memory.",
            self.requests,
            sample.requests(),
            milliseconds(mean(&self.from_api)),
            milliseconds(mean(&self.from_cache)),
        );
        if self.wrong.is_empty() {
            text.push_str("The story held.\n\n");
        } else {
            let _ = writeln!(text, "The story did NOT hold:\n  {}\n", self.wrong.join("\n  "));
        }
        (self.print)(&text);
        self.wrong.is_empty()
    }
}

/// What is wrong with an answer.
fn flaws(step: &Step, answer: &Answer, status: &str, reached: u64) -> Vec<String> {
    let mut flaws = Vec::new();
    if answer.status != StatusCode::OK {
        flaws.push(format!("status {}", answer.status));
    }
    let hit = status.split(';').any(|parameter| parameter.trim() == "hit");
    if hit != (step.by == By::Cache) {
        flaws.push(format!("Cache-Status says {status:?}"));
    }
    let expected = u64::from(step.by == By::Api);
    if reached != expected {
        flaws.push(format!("{reached} requests reached the API instead of {expected}"));
    }
    let content: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (place, value) = &step.holds;
    if content.pointer(place) != Some(value) {
        flaws.push(format!("{place} should be {value}; the answer is {content}"));
    }
    flaws
}

fn cache_status(answer: &Answer) -> String {
    let field = answer.headers.get("cache-status").map(|value| String::from_utf8_lossy(value.as_bytes()));
    field.map_or_else(|| "(none)".to_owned(), |value| value.into_owned())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn mean(times: &[Duration]) -> Duration {
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
    times.iter().sum::<Duration>() / count
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn each_departure_from_the_story_is_a_flaw() {
        let step = Step::get("", "/books/1", By::Cache, ("/rating", json!(4.5)));
        let good = answer(200, r#"{"rating":4.5}"#);
        assert!(flaws(&step, &good, "weir; hit; ttl=1", 0).is_empty());
        assert_eq!(flaws(&step, &good, "weir; fwd=uri-miss", 0).len(), 1);
        assert_eq!(flaws(&step, &good, "weir; hit", 1).len(), 1);
        assert_eq!(flaws(&step, &answer(502, r#"{"rating":4.5}"#), "weir; hit", 0).len(), 1);
        assert_eq!(flaws(&step, &answer(200, r#"{"rating":1}"#), "weir; hit", 0).len(), 1);
        assert_eq!(flaws(&step, &answer(502, "x"), "(none)", 2).len(), 4);
    }

    #[tokio::test]
    async fn without_a_cache_the_story_does_not_hold() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sample = Sample::new(false);
        tokio::spawn(sample.clone().serve(listener));
        assert!(!drive(address, &sample, |_| ()).await);
    }
}
