//! The reference: hyper on tokio, answering from memory and deciding nothing. What remains is what HTTP costs.
//!
//! Every GET gets as many bytes as its path asks for, with the origin's fields; there is no look-up, no key, no age. As
//! the peers, it has the settings that suit the workload: whether small bodies are copied behind their head.

use std::convert::Infallible;
use std::sync::Arc;

use bench_rig::{Outcome, during};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::answers;
use crate::arguments::BareOptions;

/// Serves until it is ended.
pub fn run(options: &BareOptions) -> Outcome<()> {
    // As many workers as cores this process may use.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(during("starting"))?;
    runtime.block_on(serve(options))
}

async fn serve(options: &BareOptions) -> Outcome<()> {
    let acceptor = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let protocol: &[u8] = if options.h2 { b"h2" } else { b"http/1.1" };
            Some(TlsAcceptor::from(crate::tls::server(certificate, key, protocol)?))
        }
        _ => None,
    };
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await.map_err(during("listening"))?;
    let filler = answers::filler();
    let (h2, copy) = (options.h2, options.copy);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (filler, acceptor) = (filler.clone(), acceptor.clone());
        // A connection that breaks is the generator's affair: it shows there.
        tokio::spawn(async move {
            match acceptor {
                None => connection(stream, filler, h2, copy).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(stream, filler, h2, copy).await;
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, filler: Bytes, h2: bool, copy: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let filler = Arc::new(filler);
    let service = service_fn(move |request| {
        let response = answer(&request, &filler);
        async move { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let done =
            http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new()).serve_connection(io, service);
        done.await.ok();
    } else {
        let done = http1::Builder::new().timer(TokioTimer::new()).writev(!copy).serve_connection(io, service);
        done.await.ok();
    }
}

fn answer(request: &Request<Incoming>, filler: &Bytes) -> Response<Full<Bytes>> {
    let Some(asked) = answers::asked(request.uri().path()) else {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let mut response = Response::new(Full::new(filler.slice(..asked.size)));
    *response.headers_mut() = answers::fields(asked.kind, asked.size);
    response
}
