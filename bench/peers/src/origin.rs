//! The origin: answers from memory what [`crate::answers`] says, and counts what reaches it.
//!
//! A process of its own, on the core of the generator where cores are divided. `GET /-/counts` tells the counts and is
//! not counted; nothing else has an effect.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bench_rig::{Outcome, during};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::answers::{self, Kind};
use crate::arguments::OriginOptions;

/// Where the counts are.
pub const COUNTS: &str = "/-/counts";

/// What reached the origin so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// GET.
    pub reads: u64,
    /// Everything else.
    pub others: u64,
}

struct Origin {
    filler: Bytes,
    delay: Duration,
    reads: AtomicU64,
    others: AtomicU64,
}

/// Serves until it is ended.
pub fn run(options: &OriginOptions) -> Outcome<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(during("starting"))?;
    runtime.block_on(serve(options))
}

async fn serve(options: &OriginOptions) -> Outcome<()> {
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await.map_err(during("listening"))?;
    let origin = Arc::new(Origin {
        filler: answers::filler(),
        delay: Duration::from_millis(options.delay_ms),
        reads: AtomicU64::new(0),
        others: AtomicU64::new(0),
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let origin = Arc::clone(&origin);
        let service = service_fn(move |request| {
            let origin = Arc::clone(&origin);
            async move { Ok::<_, Infallible>(origin.answer(&request).await) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        // A connection that breaks is the other side's affair: it shows there.
        tokio::spawn(connection);
    }
}

impl Origin {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path == COUNTS {
            return self.counts();
        }
        let Some(asked) = answers::asked(path) else { return status(StatusCode::NOT_FOUND) };
        if request.method() != Method::GET {
            self.others.fetch_add(1, Ordering::Relaxed);
            return status(StatusCode::NO_CONTENT);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        if asked.kind == Kind::Slow {
            tokio::time::sleep(self.delay).await;
        }
        let body = match asked.kind {
            Kind::User => {
                let who = request.headers().get(AUTHORIZATION).map_or(&b"nobody"[..], |v| v.as_bytes());
                answers::personal(&self.filler, asked.size, who)
            }
            _ => self.filler.slice(..asked.size),
        };
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = answers::fields(asked.kind, asked.size);
        response
    }

    fn counts(&self) -> Response<Full<Bytes>> {
        let counts =
            Counts { reads: self.reads.load(Ordering::Relaxed), others: self.others.load(Ordering::Relaxed) };
        Response::new(Full::new(Bytes::from(serde_json::to_vec(&counts).unwrap_or_default())))
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}
