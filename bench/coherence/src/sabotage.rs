//! A saboteur in front of one proxy: now and then it serves an answer from its past instead of asking.
//!
//! It exists to show that the judge notices. It only ever serves what is certainly stale: a page of which some item
//! has been changed, and the change acknowledged more than a second ago. Every such answer carries [`MARK`], which
//! the judge does not look at; in the end as many marked answers must have been found stale as were served.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::header::{CONTENT_LENGTH, HeaderValue, IF_NONE_MATCH};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::ledger::Ledger;
use crate::random::Random;
use crate::world::Page;

/// The field that an old answer carries.
pub const MARK: &str = "x-sabotaged";

/// How long a change must have been acknowledged for an old answer to be certainly stale, whatever the client noted.
const CERTAIN: Duration = Duration::from_secs(1);

/// One in so many reads is sabotaged, where an old answer is at hand.
const ONE_IN: f64 = 500.0;

/// It.
#[derive(Debug)]
pub struct Saboteur {
    proxy: SocketAddr,
    ledger: Arc<Ledger>,
    /// An answer per path, kept until it has been served.
    past: Mutex<HashMap<String, Response<Bytes>>>,
    served: AtomicU64,
}

impl Saboteur {
    /// Stands in front of `proxy`; returns itself and where it listens.
    pub async fn start(
        proxy: SocketAddr,
        ledger: Arc<Ledger>,
        seed: u64,
    ) -> std::io::Result<(Arc<Saboteur>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let saboteur =
            Arc::new(Saboteur { proxy, ledger, past: Mutex::default(), served: AtomicU64::new(0) });
        let this = Arc::clone(&saboteur);
        tokio::spawn(async move {
            let mut connections = 0;
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                connections += 1;
                let random = Random::new(seed, (2 << 40) + connections);
                tokio::spawn(Arc::clone(&this).connection(stream, random));
            }
        });
        Ok((saboteur, address))
    }

    /// How many old answers it has served.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// One connection in, one connection out.
    async fn connection(self: Arc<Saboteur>, stream: TcpStream, random: Random) {
        let Ok(onward) = TcpStream::connect(self.proxy).await else { return };
        onward.set_nodelay(true).ok();
        let Ok((sender, connection)) = client::handshake(TokioIo::new(onward)).await else { return };
        tokio::spawn(connection);
        let shared = tokio::sync::Mutex::new((sender, random));
        let service = service_fn(|request| {
            let (this, shared) = (&self, &shared);
            async move {
                let mut shared = shared.lock().await;
                let (sender, random) = &mut *shared;
                Ok::<_, Infallible>(this.exchange(request, sender, random).await)
            }
        });
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
    }

    async fn exchange(
        &self,
        request: Request<Incoming>,
        sender: &mut client::SendRequest<Incoming>,
        random: &mut Random,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        // Conditional reads and mutations are none of its business.
        let read = request.method() == Method::GET && !request.headers().contains_key(IF_NONE_MATCH);
        if read
            && random.chance(1.0 / ONE_IN)
            && let Some(old) = self.old_answer(&path)
        {
            self.served.fetch_add(1, Ordering::SeqCst);
            return old.map(Full::new);
        }
        match forward(request, sender).await {
            Ok(response) => {
                if read && response.status() == StatusCode::OK {
                    self.keep(path, &response);
                }
                response.map(Full::new)
            }
            Err(_) => {
                let mut failed = Response::new(Full::default());
                *failed.status_mut() = StatusCode::BAD_GATEWAY;
                failed
            }
        }
    }

    fn keep(&self, path: String, response: &Response<Bytes>) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.entry(path).or_insert_with(|| {
            let mut kept = response.clone();
            kept.headers_mut().remove(CONTENT_LENGTH);
            kept.headers_mut().insert(MARK, HeaderValue::from_static("1"));
            kept
        });
    }

    /// The answer kept for this path, if it is certainly stale by now. It is given out once.
    fn old_answer(&self, path: &str) -> Option<Response<Bytes>> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = Page::at(path)?.read(past.get(path)?.body()).ok()?;
        let now = self.ledger.now();
        let certain = |id, version| {
            self.ledger.outdated_since(id, version).is_some_and(|newer| now > newer.at + CERTAIN)
        };
        if shown.iter().any(|s| certain(s.id, s.version)) { past.remove(path) } else { None }
    }
}

async fn forward(
    request: Request<Incoming>,
    sender: &mut client::SendRequest<Incoming>,
) -> hyper::Result<Response<Bytes>> {
    sender.ready().await?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}
