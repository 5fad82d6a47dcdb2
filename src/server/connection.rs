//! One client connection, from its first byte to its last: protocol, service, watchdog, orders to stop.
//!
//! HTTP/1 begins without hyper (`short`), which comes in with the first exchange that is not short, and stays as long as the
//! client keeps asking. Between two exchanges its connection is no more than two empty buffers of 8 KiB, and what its machine takes. So
//! one that rests for a moment is *parked*: hyper's connection is ended, and the socket goes on as it
//! began. Nothing can be lost by that: it is hyper that says it has nothing under way, and the framing that no byte of a
//! request has come.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::Activity;
use super::exchanges::{Exchanges, Serving};
use super::multiplex::{Multiplexed, Speaking};
use super::short::{Over, Short};
use super::slack;
use super::tls::{self, Acceptor, Opened};
use super::wire::{Protocol, Wire};
use super::{Handler, Hold, Peer, Phase, ServerLimits};
use crate::interim::Line;

/// hyper's smallest read buffer.
const SMALLEST_BUFFER: usize = 8192;

/// Looks for a connection to park come this long after its first bytes, and then ever more seldom, up to the watchdog's pace.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// One that has rested for this long is parked.
const REST: Duration = Duration::from_millis(500);

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
    let exchanges = Arc::new(exchanges);
    let ended = match protocol {
        Protocol::Http1 => speak_http1(wire, exchanges, &limits, &mut phase).await,
        Protocol::Http2 => {
            activity.multiplexed();
            let mut connection = Multiplexed::new(wire, exchanges, &limits);
            drive(Pin::new(&mut connection), &activity, &mut phase)
                .await
                .map(|ended| ended.map_err(Into::into))
        }
    };
    match ended {
        End::Done(Ok(())) | End::Parked => {}
        End::Done(Err(error)) => tracing::debug!(client = %peer.addr, %error, "a client connection broke"),
        End::TimedOut => tracing::debug!(client = %peer.addr, "a client connection idled too long"),
        End::Cut => tracing::debug!(client = %peer.addr, "a client connection was cut by the drain"),
    }
}

/// Speaks HTTP/1 to the end: without hyper, and with a connection of hyper's from what needs it to the next rest.
async fn speak_http1<H: Handler>(
    mut wire: Wire,
    exchanges: Arc<Exchanges<H>>,
    limits: &ServerLimits,
    phase: &mut watch::Receiver<Phase>,
) -> End<Result<(), Broken>> {
    let activity = &*exchanges.activity;
    loop {
        let mut short = Short::new(wire, Arc::clone(&exchanges), limits.max_header_bytes);
        let carried = match drive(Pin::new(&mut short), activity, phase).await {
            End::Done(Ok(Over::Hypers(carried))) => carried,
            ended => return ended.map(|over| over.map(drop).map_err(Into::into)),
        };
        let service = Serving::new(Arc::clone(&exchanges), carried);
        let io = TokioIo::new(short.into_wire());
        // Boxed: who rests should not carry the room for it.
        let mut connection = Box::new(http1_builder(limits).serve_connection(io, service).with_upgrades());
        let ended = drive(Pin::new(&mut *connection), activity, phase).await;
        if !matches!(ended, End::Parked) {
            return ended.map(|ended| ended.map_err(Into::into));
        }
        let Some(rest) = into_wire(connection) else { return End::Parked };
        wire = rest;
        slack::is_due();
    }
}

/// Takes the socket, which outlives it, out of hyper's connection, and frees the rest. Empty lines behind a request, which hyper keeps for
/// the next one's beginning, say nothing (RFC 9112 §2.2). `None`, which does not come to pass: it was upgraded, or has other
/// bytes that it did not take for a request.
fn into_wire<H: Handler>(connection: Box<Hypers<H>>) -> Option<Wire> {
    let parts = connection.into_parts()?;
    let rest = &parts.read_buf;
    rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')).then(|| parts.io.into_inner())
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

pub(super) fn http1_builder(limits: &ServerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The watchdog does this, and knows idle from trickling.
        .header_read_timeout(None)
        // A client that closed its half has left: the upstream hears of it at once. What is there at once, a short
        // exchange says all the same.
        .half_close(false)
        .max_buf_size(limits.max_header_bytes.max(SMALLEST_BUFFER))
        .max_header_size(limits.max_header_bytes);
    builder
}

/// hyper's part of an HTTP/1 connection.
type Hypers<H> = http1::UpgradeableConnection<TokioIo<Wire>, Serving<H>>;

/// How it broke.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What speaks on a connection.
trait Speaks: Future<Output = Result<Self::Over, Self::Error>> {
    type Over;
    type Error;

    /// Whether it keeps something while it rests that it could do without.
    const PARKS: bool;

    /// Has it end when what is under way has ended.
    fn leave(self: Pin<&mut Self>);
}

impl<H: Handler> Speaks for Short<H> {
    type Over = Over;
    type Error = io::Error;

    const PARKS: bool = false;

    fn leave(self: Pin<&mut Self>) {
        Short::leave(self);
    }
}

impl<H: Handler> Speaks for Hypers<H> {
    type Over = ();
    type Error = hyper::Error;

    const PARKS: bool = true;

    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<H: Handler> Speaks for Multiplexed<Speaking<H>, Wire> {
    type Over = ();
    type Error = hyper::Error;

    const PARKS: bool = false;

    fn leave(self: Pin<&mut Self>) {
        Multiplexed::leave(self);
    }
}

/// How a connection ended.
enum End<T> {
    Done(T),
    /// hyper's part ended; the socket is open, and nobody wants anything of it.
    Parked,
    TimedOut,
    Cut,
}

impl<T> End<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> End<U> {
        match self {
            End::Done(done) => End::Done(f(done)),
            End::Parked => End::Parked,
            End::TimedOut => End::TimedOut,
            End::Cut => End::Cut,
        }
    }
}

/// Runs the connection under the watchdog and the drain's orders. Returning drops it, which closes the socket.
async fn drive<C: Speaks>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
    phase: &mut watch::Receiver<Phase>,
) -> End<C::Output> {
    let longest = activity.look_again();
    let mut pause = if C::PARKS { longest.min(FIRST_LOOK) } else { longest };
    // What has begun before this ends before what begins now.
    let first = Instant::now() + pause;
    let watchdog = sleep_until(activity.deadline().map_or(first, |deadline| deadline.min(first)));
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
                    connection.as_mut().leave();
                }
                // The server is gone, or wants this to end.
                Ok(Phase::Cut | Phase::Serving) | Err(_) => return End::Cut,
            },
            () = watchdog.as_mut() => {
                let now = Instant::now();
                pause = (2 * pause).min(activity.look_again());
                let next = match activity.deadline() {
                    Some(deadline) if deadline <= now && (told_to_leave || activity.leaves_at_once()) => {
                        return End::TimedOut;
                    }
                    Some(deadline) if deadline <= now => {
                        told_to_leave = true;
                        connection.as_mut().leave();
                        now + GOODBYE
                    }
                    Some(_) if C::PARKS && known == Phase::Serving && activity.rests().is_some_and(|rest| rest >= REST) => {
                        if let Some(ended) = park(connection.as_mut(), activity).await {
                            return ended;
                        }
                        now + pause
                    }
                    Some(deadline) => deadline.min(now + pause),
                    None => now + pause,
                };
                watchdog.as_mut().reset(next);
            }
        }
    }
}

/// Has hyper end a connection on which nothing is under way, and leave the socket. `None`: it sees something, and ends when that does.
async fn park<C: Speaks>(mut connection: Pin<&mut C>, activity: &Activity) -> Option<End<C::Output>> {
    activity.outlives(true);
    connection.as_mut().leave();
    let polled = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
    activity.outlives(false);
    match polled {
        Poll::Ready(Ok(_)) => Some(End::Parked),
        Poll::Ready(Err(error)) => Some(End::Done(Err(error))),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests;
