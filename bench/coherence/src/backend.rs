//! The versioned backend: an HTTP server inside this process that knows nothing of caching.
//!
//! A read takes a random time and reads the versions at a random moment within it; a mutation takes a random time
//! and commits at a random moment within it, so the commit may come well before the answer. Fetches under way
//! therefore race with mutations and purges in every order. Versions of an item only grow.
//!
//! Answers carry an `ETag` made of the versions, and a conditional read of unchanged versions is answered 304.
//! `/entries/{set}/{n}` is a page without a version and without delay, for what measures costs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::random::Random;
use crate::world::{Page, Shown, World};

/// The field of a mutation's answer that says how long the backend took, microseconds.
pub const TOOK: &str = "x-backend-us";
/// The field of a mutation's answer that names the paths it made untrue, separated by `|`.
pub const CHANGED: &str = "x-changed";

/// The versions, and how the backend behaves.
#[derive(Debug)]
pub struct Backend {
    world: World,
    versions: Vec<AtomicU64>,
    /// The longest that a request takes.
    delay: Duration,
    seed: u64,
    reads: AtomicU64,
    not_modified: AtomicU64,
    commits: AtomicU64,
}

impl Backend {
    /// For this world, with requests that take up to `delay`.
    pub fn new(world: World, delay: Duration, seed: u64) -> Arc<Backend> {
        let versions = (0..world.items()).map(|_| AtomicU64::new(1)).collect();
        let zero = || AtomicU64::new(0);
        Arc::new(Backend {
            world,
            versions,
            delay,
            seed,
            reads: zero(),
            not_modified: zero(),
            commits: zero(),
        })
    }

    /// Serves on a free port of loopback, for as long as the runtime lives.
    pub async fn serve(self: &Arc<Backend>) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let backend = Arc::clone(self);
        tokio::spawn(async move {
            let mut connections = 0;
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                stream.set_nodelay(true).ok();
                connections += 1;
                tokio::spawn(Arc::clone(&backend).connection(TokioIo::new(stream), connections));
            }
        });
        Ok(address)
    }

    async fn connection(self: Arc<Backend>, stream: TokioIo<tokio::net::TcpStream>, number: u64) {
        let requests = AtomicU64::new(0);
        let service = service_fn(|request| {
            let nth = requests.fetch_add(1, Ordering::Relaxed);
            let mut random = Random::new(self.seed, (1 << 40) + (number << 20) + nth);
            let backend = &self;
            async move { Ok::<_, Infallible>(backend.answer(request, &mut random).await) }
        });
        // A connection that breaks is the proxy's affair.
        http1::Builder::new().serve_connection(stream, service).await.ok();
    }

    /// The version of an item that is committed now.
    pub fn committed(&self, item: usize) -> u64 {
        self.versions[item].load(Ordering::SeqCst)
    }

    /// Reads answered, those of them answered 304, and mutations committed.
    pub fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.reads), of(&self.not_modified), of(&self.commits))
    }

    async fn answer(&self, request: Request<Incoming>, random: &mut Random) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path.starts_with("/entries/") {
            return json(r#"{"entry":true}"#.to_owned());
        }
        let page = Page::at(path).filter(|page| self.exists(*page));
        match (request.method(), page) {
            (&Method::GET, Some(page)) => self.read(page, &request, random).await,
            (&Method::PUT, Some(Page::Item(item))) => self.mutate(item, request, random).await,
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    fn exists(&self, page: Page) -> bool {
        match page {
            Page::Item(item) => item < self.world.items(),
            Page::List(n) | Page::Board(n) => n < self.world.views(),
        }
    }

    /// How long until the moment that counts, and how long from it to the answer.
    fn moments(&self, random: &mut Random) -> (Duration, Duration) {
        let whole = self.delay.mul_f64(random.share());
        let before = whole.mul_f64(random.share());
        (before, whole - before)
    }

    async fn read(
        &self,
        page: Page,
        request: &Request<Incoming>,
        random: &mut Random,
    ) -> Response<Full<Bytes>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let (before, after) = self.moments(random);
        pause(before).await;
        let shown: Vec<Shown> =
            self.world.shown(page).into_iter().map(|id| Shown { id, version: self.committed(id) }).collect();
        pause(after).await;
        let etag = etag(&shown);
        let mut response = if request.headers().get(IF_NONE_MATCH).is_some_and(|tag| *tag == *etag) {
            self.not_modified.fetch_add(1, Ordering::Relaxed);
            status(StatusCode::NOT_MODIFIED)
        } else {
            json(page.body(&shown))
        };
        insert(&mut response, ETAG.as_str(), &etag);
        response
    }

    async fn mutate(
        &self,
        item: usize,
        request: Request<Incoming>,
        random: &mut Random,
    ) -> Response<Full<Bytes>> {
        let began = Instant::now();
        if request.into_body().collect().await.is_err() {
            return status(StatusCode::BAD_REQUEST);
        }
        let (before, after) = self.moments(random);
        pause(before).await;
        let version = self.versions[item].fetch_add(1, Ordering::SeqCst) + 1;
        self.commits.fetch_add(1, Ordering::Relaxed);
        pause(after).await;
        let pages = self.world.pages_of(item);
        let boards: Vec<String> = pages
            .iter()
            .filter_map(|page| if let Page::Board(n) = page { Some(n.to_string()) } else { None })
            .collect();
        let body = format!(r#"{{"id":{item},"version":{version},"boards":[{}]}}"#, boards.join(","));
        let mut response = json(body);
        insert(&mut response, CHANGED, &pages.map(Page::path).join("|"));
        insert(&mut response, TOOK, &began.elapsed().as_micros().to_string());
        response
    }
}

/// Of all versions shown.
fn etag(shown: &[Shown]) -> String {
    let versions: Vec<String> = shown.iter().map(|s| format!("{}.{}", s.id, s.version)).collect();
    format!("\"{}\"", versions.join("-"))
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn json(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    insert(&mut response, CONTENT_TYPE.as_str(), "application/json");
    insert(&mut response, CACHE_CONTROL.as_str(), "max-age=3600");
    response
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

fn insert(response: &mut Response<Full<Bytes>>, name: &'static str, value: &str) {
    if let Ok(value) = hyper::header::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Connection;

    #[tokio::test]
    async fn a_mutation_shows_on_every_page_of_its_item() {
        let world = World::new(12);
        let backend = Backend::new(world, Duration::ZERO, 1);
        let address = backend.serve().await.unwrap();
        let mut connection = Connection::open(address).await.unwrap();
        let put = connection.mutate("/items/7", "{}").await.unwrap();
        assert_eq!(put.status, 200);
        assert_eq!(Page::Item(7).read(&put.body), Ok(vec![Shown { id: 7, version: 2 }]));
        assert_eq!(backend.committed(7), 2);
        for page in world.pages_of(7) {
            let answer = connection.read(&page.path(), None).await.unwrap();
            let shown = page.read(&answer.body).unwrap();
            assert_eq!(shown.iter().map(|s| s.id).collect::<Vec<_>>(), world.shown(page));
            assert!(shown.contains(&Shown { id: 7, version: 2 }));
            assert!(shown.iter().all(|s| s.version == if s.id == 7 { 2 } else { 1 }));
        }
        assert_eq!(connection.read("/items/12", None).await.unwrap().status, 404);
    }

    #[tokio::test]
    async fn an_etag_answers_for_exactly_its_versions() {
        let backend = Backend::new(World::new(5), Duration::ZERO, 1);
        let mut connection = Connection::open(backend.serve().await.unwrap()).await.unwrap();
        let first = connection.read("/lists/0", None).await.unwrap();
        let etag = first.etag.clone();
        assert_eq!(connection.read("/lists/0", etag.as_ref()).await.unwrap().status, 304);
        connection.mutate("/items/4", "{}").await.unwrap();
        let changed = connection.read("/lists/0", etag.as_ref()).await.unwrap();
        assert_eq!(changed.status, 200);
        assert_ne!(changed.etag, etag);
        assert_eq!(backend.counts(), (3, 1, 1));
    }
}
