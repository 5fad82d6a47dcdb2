//! One client connection, from its first byte to its last: protocol, service, watchdog, orders to stop.
//!
//! Between two exchanges hyper's connection is no more than two empty buffers of 8 KiB, and what its machine takes. So an HTTP/1
//! connection that rests for a moment is *parked*: hyper's connection is ended, the socket stays, and another is made for
//! it with the next bytes. Nothing can be lost by that: it is hyper that says it has nothing under way, and the
//! framing that no byte of a request has come. Who asks often is never parked, and pays a look now and then.

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
use super::multiplex::Multiplexed;
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
        Protocol::Http1 => speak_http1(wire, Serving(exchanges), &limits, &activity, &mut phase).await,
        Protocol::Http2 => {
            activity.multiplexed();
            let mut connection = Multiplexed::new(wire, exchanges, &limits);
            drive(Pin::new(&mut connection), Multiplexed::leave, &activity, &mut phase).await
        }
    };
    match ended {
        End::Done(Ok(())) | End::Parked => {}
        End::Done(Err(error)) => tracing::debug!(client = %peer.addr, %error, "a client connection broke"),
        End::TimedOut => tracing::debug!(client = %peer.addr, "a client connection idled too long"),
        End::Cut => tracing::debug!(client = %peer.addr, "a client connection was cut by the drain"),
    }
}

/// Speaks HTTP/1 to the end, with a connection of hyper's for each time between two rests.
async fn speak_http1<H: Handler>(
    wire: Wire,
    service: Serving<H>,
    limits: &ServerLimits,
    activity: &Activity,
    phase: &mut watch::Receiver<Phase>,
) -> End<hyper::Error> {
    let (mut io, mut service) = (TokioIo::new(wire), service);
    loop {
        // Boxed: who rests should not carry the room for it.
        let mut connection = Box::new(http1_builder(limits).serve_connection(io, service).with_upgrades());
        let stop = http1::UpgradeableConnection::graceful_shutdown;
        let ended = drive(Pin::new(&mut *connection), stop, activity, phase).await;
        if !matches!(ended, End::Parked) {
            return ended;
        }
        let Some(parts) = into_parts(connection) else { return ended };
        (io, service) = parts;
        slack::is_due();
        if !is_wanted_again(io.inner_mut(), activity, phase).await {
            return End::TimedOut;
        }
    }
}

/// Takes what outlives hyper's connection out of it, and frees the rest. Empty lines behind a request, which hyper keeps for
/// the next one's beginning, say nothing (RFC 9112 §2.2). `None`, which does not come to pass: it was upgraded, or has other
/// bytes that it did not take for a request.
fn into_parts<H: Handler>(
    connection: Box<http1::UpgradeableConnection<TokioIo<Wire>, Serving<H>>>,
) -> Option<(TokioIo<Wire>, Serving<H>)> {
    let parts = connection.into_parts()?;
    let rest = &parts.read_buf;
    rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')).then_some((parts.io, parts.service))
}

/// Waits for a parked connection's next bytes, or for orders. `false`: its time is over.
async fn is_wanted_again(wire: &mut Wire, activity: &Activity, phase: &mut watch::Receiver<Phase>) -> bool {
    let Some(deadline) = activity.deadline() else { return true };
    tokio::select! {
        biased;
        () = wire.stirs() => true,
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => true,
        () = sleep_until(deadline) => false,
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

/// How a connection ended.
enum End<E> {
    Done(Result<(), E>),
    /// hyper's part ended; the socket is open, and nobody wants anything of it.
    Parked,
    TimedOut,
    Cut,
}

/// Runs the connection under the watchdog and the drain's orders. Returning drops it, which closes the socket.
async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    stop: fn(Pin<&mut C>),
    activity: &Activity,
    phase: &mut watch::Receiver<Phase>,
) -> End<E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut pause = first_pause(activity);
    let watchdog = sleep_until(Instant::now() + pause);
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
                pause = (2 * pause).min(activity.look_again());
                let next = match activity.deadline() {
                    Some(deadline) if deadline <= now && (told_to_leave || activity.leaves_at_once()) => {
                        return End::TimedOut;
                    }
                    Some(deadline) if deadline <= now => {
                        told_to_leave = true;
                        stop(connection.as_mut());
                        now + GOODBYE
                    }
                    Some(_) if known == Phase::Serving && activity.rests().is_some_and(|rest| rest >= REST) => {
                        if let Some(ended) = park(connection.as_mut(), stop, activity).await {
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

/// On HTTP/2 there is nothing to park.
fn first_pause(activity: &Activity) -> Duration {
    let longest = activity.look_again();
    if activity.leaves_at_once() { longest.min(FIRST_LOOK) } else { longest }
}

/// Has hyper end a connection on which nothing is under way, and leave the socket. `None`: it sees something, and ends when that does.
async fn park<C, E>(mut connection: Pin<&mut C>, stop: fn(Pin<&mut C>), activity: &Activity) -> Option<End<E>>
where
    C: Future<Output = Result<(), E>>,
{
    activity.outlives(true);
    stop(connection.as_mut());
    let polled = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
    activity.outlives(false);
    match polled {
        Poll::Ready(Ok(())) => Some(End::Parked),
        Poll::Ready(Err(error)) => Some(End::Done(Err(error))),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests;
