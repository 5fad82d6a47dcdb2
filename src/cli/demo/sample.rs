//! The demo's backend: a reading list, slow on purpose, that sends no caching field at all.
//!
//! ```text
//! GET /books         300 ms   every book with its mean rating
//! GET /books/{id}    150 ms   one book
//! GET /me/summary    400 ms   the caller's own ratings (Authorization: Bearer NAME)
//! PUT /books/{id}     60 ms   {"rating": 1…5}, by the caller
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const BODY_BYTES: usize = 16 * 1024;

/// The backend. It counts what reaches it, so that the story can be checked from its side.
#[derive(Debug)]
pub(super) struct Sample {
    requests: AtomicU64,
    slow: bool,
    books: Mutex<BTreeMap<u32, Book>>,
}

#[derive(Debug)]
struct Book {
    title: &'static str,
    author: &'static str,
    ratings: BTreeMap<String, u8>,
}

impl Book {
    fn new(title: &'static str, author: &'static str, ratings: &[(&str, u8)]) -> Book {
        Book {
            title,
            author,
            ratings: ratings.iter().map(|(who, stars)| ((*who).to_owned(), *stars)).collect(),
        }
    }

    fn show(&self, id: u32) -> Value {
        json!({ "id": id, "title": self.title, "author": self.author, "rating": mean(self.ratings.values()) })
    }
}

fn mean<'a>(ratings: impl ExactSizeIterator<Item = &'a u8>) -> Option<f64> {
    let count = ratings.len() as f64;
    let sum: f64 = ratings.map(|stars| f64::from(*stars)).sum();
    (count > 0.0).then(|| (sum / count * 10.0).round() / 10.0)
}

impl Sample {
    /// `slow`: takes the documented times; tests need not wait.
    pub(super) fn new(slow: bool) -> Arc<Sample> {
        let books = [
            (1, Book::new("The Dispossessed", "Ursula K. Le Guin", &[("ann", 5), ("bob", 4)])),
            (2, Book::new("Solaris", "Stanisław Lem", &[("ann", 2)])),
            (3, Book::new("Kindred", "Octavia E. Butler", &[("bob", 5)])),
        ];
        Arc::new(Sample { requests: AtomicU64::new(0), slow, books: Mutex::new(books.into()) })
    }

    /// Requests that arrived here so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Serves for as long as the runtime lives.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let sample = self.clone();
            let service = service_fn(move |request| {
                let sample = sample.clone();
                async move { Ok::<_, Infallible>(sample.answer(request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (head, body) = request.into_parts();
        let segments: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
        let id = segments.get(1).and_then(|id| id.parse().ok());
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let (work_ms, answer) = match (reads, segments.as_slice(), id) {
            (true, ["books"], _) => (300, Ok(self.list())),
            (true, ["books", _], Some(id)) => (150, self.book(id)),
            (true, ["me", "summary"], _) => (400, self.summary(&head.headers)),
            (false, ["books", _], Some(id)) if head.method == Method::PUT => {
                (60, self.rate(id, &head.headers, body).await)
            }
            _ => (1, Err((StatusCode::NOT_FOUND, "GET /books, GET or PUT /books/{id}, GET /me/summary"))),
        };
        if self.slow {
            tokio::time::sleep(Duration::from_millis(work_ms)).await;
        }
        match answer {
            Ok(value) => reply(StatusCode::OK, &value),
            Err((status, words)) => reply(status, &json!({ "error": words })),
        }
    }

    fn list(&self) -> Value {
        let books = self.books.lock();
        json!({ "books": books.iter().map(|(id, book)| book.show(*id)).collect::<Vec<_>>() })
    }

    fn book(&self, id: u32) -> Result<Value, Refusal> {
        self.books.lock().get(&id).map(|book| book.show(id)).ok_or((StatusCode::NOT_FOUND, "no such book"))
    }

    fn summary(&self, headers: &HeaderMap) -> Result<Value, Refusal> {
        let who = caller(headers)?;
        let books = self.books.lock();
        let ratings: Vec<u8> = books.values().filter_map(|book| book.ratings.get(&who).copied()).collect();
        Ok(json!({ "reader": who, "rated": ratings.len(), "mean": mean(ratings.iter()) }))
    }

    async fn rate(&self, id: u32, headers: &HeaderMap, body: Incoming) -> Result<Value, Refusal> {
        const WRONG: Refusal = (StatusCode::BAD_REQUEST, "send {\"rating\": 1 to 5}");
        let who = caller(headers)?;
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| WRONG)?.to_bytes();
        let value: Value = serde_json::from_slice(&body).map_err(|_| WRONG)?;
        let stars = value["rating"].as_u64().filter(|stars| (1..=5).contains(stars)).ok_or(WRONG)?;
        let mut books = self.books.lock();
        let book = books.get_mut(&id).ok_or((StatusCode::NOT_FOUND, "no such book"))?;
        book.ratings.insert(who, u8::try_from(stars).map_err(|_| WRONG)?);
        Ok(book.show(id))
    }
}

type Refusal = (StatusCode, &'static str);

/// This backend believes whatever name stands there; yours will know better.
fn caller(headers: &HeaderMap) -> Result<String, Refusal> {
    let field = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let name = field.and_then(|value| value.strip_prefix("Bearer ")).filter(|name| !name.is_empty());
    let refusal = (StatusCode::UNAUTHORIZED, "send Authorization: Bearer ann (or bob)");
    name.map(|name| name.chars().take(64).collect()).ok_or(refusal)
}

fn reply(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::super::super::client;
    use super::*;

    async fn started() -> (Arc<Sample>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let sample = Sample::new(false);
        tokio::spawn(sample.clone().serve(listener));
        (sample, base)
    }

    async fn ask(
        base: &str,
        method: Method,
        path: &str,
        who: Option<&str>,
        body: &str,
    ) -> (StatusCode, Value) {
        let url = format!("{base}{path}").parse().unwrap();
        let bearer = who.map(|who| format!("Bearer {who}"));
        let fields: Vec<(&str, &str)> = bearer.iter().map(|b| ("authorization", b.as_str())).collect();
        let limit = Duration::from_secs(10);
        let answer = client::send(method, &url, &fields, body.to_owned(), limit).await.unwrap();
        assert!(!answer.headers.contains_key("cache-control"), "unaware of caching");
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    #[tokio::test]
    async fn a_rating_shows_in_the_book_the_list_and_the_readers_summary() {
        let (sample, base) = started().await;
        let (status, book) = ask(&base, Method::PUT, "/books/2", Some("ann"), r#"{"rating":4}"#).await;
        assert_eq!((status, &book["rating"]), (StatusCode::OK, &json!(4.0)));
        let (_, list) = ask(&base, Method::GET, "/books", None, "").await;
        assert_eq!(list["books"][1]["rating"], json!(4.0));
        let (_, ann) = ask(&base, Method::GET, "/me/summary", Some("ann"), "").await;
        let (_, bob) = ask(&base, Method::GET, "/me/summary", Some("bob"), "").await;
        assert_eq!((&ann["mean"], &bob["mean"]), (&json!(4.5), &json!(4.5)));
        assert_eq!(sample.requests(), 4);
    }

    #[tokio::test]
    async fn nonsense_is_refused_in_words() {
        let (_, base) = started().await;
        let cases = [
            (Method::GET, "/me/summary", None, "", StatusCode::UNAUTHORIZED),
            (Method::GET, "/books/99", None, "", StatusCode::NOT_FOUND),
            (Method::GET, "/x", None, "", StatusCode::NOT_FOUND),
            (Method::PUT, "/books/1", Some("ann"), r#"{"rating":9}"#, StatusCode::BAD_REQUEST),
            (Method::PUT, "/books/1", None, r#"{"rating":5}"#, StatusCode::UNAUTHORIZED),
        ];
        for (method, path, who, body, expected) in cases {
            let (status, value) = ask(&base, method, path, who, body).await;
            assert_eq!(status, expected, "{path}");
            assert!(value["error"].is_string());
        }
    }
}
