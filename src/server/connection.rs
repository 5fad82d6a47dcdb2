//! One client connection, from its first byte to its last: protocol, service, watchdog, orders to stop.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::Activity;
use super::exchanges::{Exchanges, Serving};
use super::tls::{self, Acceptor, Opened};
use super::wire::{Protocol, Wire};
use super::{Handler, Hold, Peer, Phase, ServerLimits};
use crate::interim::Line;

/// hyper's smallest read buffer.
const SMALLEST_BUFFER: usize = 8192;

/// An HTTP/2 client that answers no ping for this long after this much silence is gone.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// Bounds against clients that open and reset streams for a living (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 1024;

/// How long an idle HTTP/2 client has to leave after it was told to.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves one connection to its end.
pub(super) async fn serve<H: Handler>(
    stream: TcpStream,
    peer: Peer,
    tls: Option<Acceptor>,
    handler: Arc<H>,
    limits: Arc<ServerLimits>,
    hold: Hold,
    mut phase: watch::Receiver<Phase>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let activity = Activity::new(limits.header_timeout, limits.idle_timeout);
    let line = Arc::<Line>::default();
    let opened = open(stream, tls, &activity, &line);
    let (wire, protocol) = tokio::select! {
        biased;
        opened = timeout(limits.header_timeout, opened) => match opened {
            Ok(Ok(Some(opened))) => opened,
            // Silent, gone, or a preface that never ended: nobody to answer.
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::debug!(client = %peer.addr, %error, "a client connection came to nothing");
                return;
            }
        },
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
    };
    let patience = limits.header_timeout;
    let exchanges = Exchanges { handler, peer, hold, activity: activity.clone(), line, patience };
    let service = Serving(Arc::new(exchanges));
    let ended = match protocol {
        Protocol::Http1 => {
            let connection =
                http1_builder(&limits).serve_connection(TokioIo::new(wire), service).with_upgrades();
            tokio::pin!(connection);
            drive(connection, http1::UpgradeableConnection::graceful_shutdown, &activity, phase).await
        }
        Protocol::Http2 => {
            activity.multiplexed();
            let connection = http2_builder(&limits).serve_connection(TokioIo::new(wire), service);
            tokio::pin!(connection);
            drive(connection, http2::Connection::graceful_shutdown, &activity, phase).await
        }
    };
    match ended {
        End::Done(Ok(())) => {}
        End::Done(Err(error)) => tracing::debug!(client = %peer.addr, %error, "a client connection broke"),
        End::TimedOut => tracing::debug!(client = %peer.addr, "a client connection idled too long"),
        End::Cut => tracing::debug!(client = %peer.addr, "a client connection was cut by the drain"),
    }
}

/// The wire, and what is spoken over it. `None`: nobody is left to speak to.
async fn open(
    stream: TcpStream,
    tls: Option<Acceptor>,
    activity: &Arc<Activity>,
    line: &Arc<Line>,
) -> io::Result<Option<(Wire, Protocol)>> {
    let wire = |socket| Wire::new(socket, activity.clone(), line.clone());
    let Some(tls) = tls else {
        let mut wire = wire(stream.into());
        return Ok(wire.sniff().await?.map(|protocol| (wire, protocol)));
    };
    // Boxed: a handshake is large, and connections without one should not carry the room for it.
    match Box::pin(tls.accept(stream, activity.clone())).await? {
        Opened::Tls(socket, agreed) => {
            let mut wire = wire(socket);
            let protocol = match agreed {
                Some(protocol) => {
                    wire.speaks(protocol);
                    Some(protocol)
                }
                None => wire.sniff().await?,
            };
            Ok(protocol.map(|protocol| (wire, protocol)))
        }
        Opened::NoTls(stream) => {
            let mut wire = wire(stream.into());
            wire.write_all(tls::refusal().as_bytes()).await?;
            wire.shutdown().await?;
            Ok(None)
        }
        Opened::Nothing => Ok(None),
    }
}

fn http1_builder(limits: &ServerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The watchdog does this, and knows idle from trickling.
        .header_read_timeout(None)
        // A client that closed its half has left: the upstream hears of it at once.
        .half_close(false)
        .max_buf_size(limits.max_header_bytes.max(SMALLEST_BUFFER))
        .max_header_size(limits.max_header_bytes);
    builder
}

fn http2_builder(limits: &ServerLimits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_PATIENCE);
    builder
}

/// How a connection ended.
enum End<E> {
    Done(Result<(), E>),
    TimedOut,
    Cut,
}

/// Runs the connection under the watchdog and the drain's orders. Returning drops it, which closes the socket.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    stop: fn(Pin<&mut C>),
    activity: &Activity,
    mut phase: watch::Receiver<Phase>,
) -> End<E>
where
    C: Future<Output = Result<(), E>>,
{
    let watchdog = sleep_until(Instant::now() + activity.look_again());
    tokio::pin!(watchdog);
    let mut known = Phase::Serving;
    let mut told_to_leave = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return End::Done(ended),
            now = async { phase.wait_for(|phase| *phase != known).await.map(|phase| *phase) } => match now {
                Ok(Phase::Draining) => {
                    known = Phase::Draining;
                    stop(connection.as_mut());
                }
                // The server is gone, or wants this to end.
                Ok(Phase::Cut | Phase::Serving) | Err(_) => return End::Cut,
            },
            () = watchdog.as_mut() => {
                let now = Instant::now();
                let next = match activity.deadline() {
                    Some(deadline) if deadline <= now && (told_to_leave || activity.leaves_at_once()) => {
                        return End::TimedOut;
                    }
                    Some(deadline) if deadline <= now => {
                        told_to_leave = true;
                        stop(connection.as_mut());
                        now + GOODBYE
                    }
                    Some(deadline) => deadline.min(now + activity.look_again()),
                    None => now + activity.look_again(),
                };
                watchdog.as_mut().reset(next);
            }
        }
    }
}
