//! Kept-alive connections to one origin.
//!
//! Invariants: a connection is in exactly one place (an exchange's `Lease` or the idle stack); a handle that is
//! dropped closes its connection; only an exchange that ended whole puts its connection back. The newest idle
//! connection is used first, so that the surplus grows old and is closed. At most `max` exchanges hold a
//! connection at once; an idle one is closed where a new one would go over the limit. Nobody drives an idle connection:
//! that the upstream has closed it is seen by whoever takes it, before anything is written, or else by the reaper.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::alarm::Alarm;
use super::connect::{Connector, Opened};
use super::driver::Driver;
use super::request_body::Outgoing;
use super::said::Said;
use super::short::{Precedent, Short, Trial};
use super::stream::Stream;
use super::{UpstreamConfig, UpstreamError};
use crate::body::Body;

/// A request that must not be repeated goes out only on a connection used this recently, or on a new one: the
/// longer a connection idled, the likelier the upstream is closing it at this very moment.
const RECENT: Duration = Duration::from_secs(1);

/// How long a connection that was put back may take to notice that its exchange is over.
const SETTLE: Duration = Duration::from_millis(100);

/// How often idle connections are asked whether the upstream has closed them: nobody drives them.
const SWEEP: Duration = Duration::from_secs(5);

/// Which connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Any that is alive.
    Any,
    /// One used a moment ago, or a new one.
    Recent,
    /// A new one.
    Fresh,
}

/// The connections of one origin.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    keep_alive: Duration,
    /// How long a request waits for its turn.
    patience: Duration,
    max: usize,
    turns: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Oldest first.
    stack: VecDeque<(Instant, Box<Conn>)>,
    /// A reaper task is about.
    reaping: bool,
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
struct Conn {
    sender: SendRequest<Outgoing>,
    driver: Driver,
    /// Open for as long as hyper keeps it.
    stream: Weak<Mutex<Stream>>,
    said: Said,
    /// hyper has been asked for something since it was last seen to be at rest.
    asked: bool,
    trial: Trial,
    precedent: Precedent,
    alarm: Alarm,
    counted: Counted,
}

/// One in the count of open connections.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Counted {
        open.fetch_add(1, Ordering::AcqRel);
        Counted(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pool {
    pub(super) fn new(connector: Connector, config: &UpstreamConfig) -> Arc<Pool> {
        let max = config.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Pool {
            connector,
            keep_alive: config.keep_alive,
            patience: config.connect_timeout,
            max,
            turns: Arc::new(Semaphore::new(max)),
            open: Arc::new(AtomicUsize::new(0)),
            idle: Mutex::new(Idle::default()),
        })
    }

    /// A connection for one exchange.
    pub(super) async fn checkout(self: &Arc<Self>, want: Want) -> Result<Lease, UpstreamError> {
        let turn = self.turn().await?;
        while let Some(mut conn) = self.pop(want) {
            if conn.usable().await {
                return Ok(Lease { conn, turn, pool: self.clone(), reused: true });
            }
        }
        self.make_room();
        let counted = Counted::new(&self.open);
        let conn = Conn::new(self.connector.connect().await?, counted);
        Ok(Lease { conn, turn, pool: self.clone(), reused: false })
    }

    /// A connection over this stream.
    #[cfg(test)]
    pub(super) async fn lease_of(
        self: &Arc<Self>,
        io: impl super::stream::Io + 'static,
        reused: bool,
    ) -> Lease {
        let turn = self.turn().await.unwrap();
        let opened = super::connect::handshake(io).await.unwrap();
        Lease { conn: Conn::new(opened, Counted::new(&self.open)), turn, pool: self.clone(), reused }
    }

    /// Of each idle connection: whether hyper had to do with its last exchange.
    #[cfg(test)]
    pub(super) fn asked(&self) -> Vec<bool> {
        self.idle.lock().stack.iter().map(|(_, conn)| conn.asked).collect()
    }

    /// Open connections (those being made included), and idle ones among them.
    pub(super) fn connections(&self) -> (usize, usize) {
        let mut gone = Vec::new();
        let idle = {
            let stack = &mut self.idle.lock().stack;
            for _ in 0..stack.len() {
                match stack.pop_front() {
                    Some((since, mut conn)) => match conn.is_closed() {
                        true => gone.push(conn),
                        false => stack.push_back((since, conn)),
                    },
                    None => break,
                }
            }
            stack.len()
        };
        drop(gone);
        (self.open.load(Ordering::Acquire).max(idle), idle)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        match timeout(self.patience, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed; if it were, nobody would get a turn.
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Busy),
        }
    }

    /// The newest idle connection that will do.
    fn pop(&self, want: Want) -> Option<Box<Conn>> {
        let longest = match want {
            Want::Any => self.keep_alive,
            Want::Recent => self.keep_alive.min(RECENT),
            Want::Fresh => return None,
        };
        let mut idle = self.idle.lock();
        let (since, _) = idle.stack.back()?;
        // If the newest is too old, all are. The reaper closes those past `keep_alive`.
        if since.elapsed() >= longest {
            return None;
        }
        idle.stack.pop_back().map(|(_, conn)| conn)
    }

    /// Closes idle connections where one more would go over the limit.
    fn make_room(&self) {
        while self.open.load(Ordering::Acquire) >= self.max {
            let Some(oldest) = self.idle.lock().stack.pop_front() else { break };
            drop(oldest);
        }
    }

    fn put(self: &Arc<Self>, mut conn: Box<Conn>) {
        if self.keep_alive.is_zero() || !conn.rest() {
            return;
        }
        let mut idle = self.idle.lock();
        if !idle.reaping {
            let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
            runtime.spawn(reap(Arc::downgrade(self)));
            idle.reaping = true;
        }
        idle.stack.push_back((Instant::now(), conn));
    }

    /// Closes what idled too long, and what the upstream has closed; when to look again, or `None` when nothing is left.
    fn drop_expired(&self) -> Option<Instant> {
        let mut expired = Vec::new();
        let mut idle = self.idle.lock();
        for _ in 0..idle.stack.len() {
            let Some((since, mut conn)) = idle.stack.pop_front() else { break };
            match since.elapsed() >= self.keep_alive || conn.is_closed() {
                true => expired.push(conn),
                false => idle.stack.push_back((since, conn)),
            }
        }
        let next =
            idle.stack.front().map(|(since, _)| (*since + self.keep_alive).min(Instant::now() + SWEEP));
        idle.reaping = next.is_some();
        drop(idle); // before the connections: closing them needs no lock
        next
    }
}

/// Closes idle connections when their time is up, also when no request comes; ends when there are none.
async fn reap(pool: Weak<Pool>) {
    loop {
        let Some(next) = pool.upgrade().and_then(|pool| pool.drop_expired()) else { return };
        tokio::time::sleep_until(next).await;
    }
}

impl Conn {
    fn new((sender, driver, stream): Opened, counted: Counted) -> Box<Conn> {
        Box::new(Conn {
            sender,
            driver,
            stream,
            said: Said::default(),
            asked: false,
            trial: Trial::default(),
            precedent: Precedent::default(),
            alarm: Alarm::default(),
            counted,
        })
    }

    /// Alive, and done with the exchange before.
    async fn usable(&mut self) -> bool {
        // What has happened to it since is found out by driving it, which sending does before it writes.
        self.sender.is_ready()
            || matches!(timeout(SETTLE, poll_fn(|cx| self.poll_ready(cx))).await, Ok(Ok(())))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let Conn { sender, driver, .. } = self;
        driver.poll(cx, |cx| sender.poll_ready(cx))
    }

    /// Whether it has ended.
    fn is_closed(&mut self) -> bool {
        self.sender.is_closed() || self.driver.is_over()
    }

    /// Leaves it to itself; false when it has ended.
    fn rest(&mut self) -> bool {
        if !self.asked {
            return true;
        }
        self.driver.rest();
        // Mostly it was ready with the last of the content.
        if !self.sender.is_ready() {
            self.driver.settle();
        }
        !self.sender.is_closed()
    }
}

/// A connection in the hands of one exchange. Dropped, it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    /// In one place for all its life: only its address is passed on.
    conn: Box<Conn>,
    turn: OwnedSemaphorePermit,
    pool: Arc<Pool>,
    reused: bool,
}

impl Lease {
    pub(super) fn sender(&mut self) -> &mut SendRequest<Outgoing> {
        self.conn.asked = true;
        &mut self.conn.sender
    }

    /// A [short exchange](Short), where it is worth trying, and nobody but who has the connection uses its stream.
    pub(super) fn short(&mut self) -> Option<Short> {
        let Conn { sender, driver, stream, asked, trial, precedent, .. } = &mut *self.conn;
        if !trial.is_on() {
            return None;
        }
        if std::mem::take(asked) {
            // Whatever hyper has read or is about to do is found out first.
            driver.settle();
        }
        let at_rest = driver.is_here() && sender.is_ready();
        let stream = stream.upgrade().filter(|_| at_rest)?;
        Some(Short::new(stream, precedent))
    }

    /// Sends what was [taken down](Said::take_down) by a short exchange.
    pub(super) fn poll_short(
        &mut self,
        cx: &mut Context<'_>,
        short: &mut Short,
    ) -> Poll<Option<Response<Body>>> {
        let Conn { said, trial, precedent, .. } = &mut *self.conn;
        let polled = short.poll(cx, said.head(), precedent);
        if let Poll::Ready(came) = &polled {
            trial.end(came.is_some());
        }
        polled
    }

    /// This request was answered by a short exchange.
    pub(super) fn answered(&mut self, request: &mut Request<Outgoing>) {
        self.conn.said.forget();
        self.conn.precedent.reuse(std::mem::take(request.headers_mut()));
    }

    /// Polls `step`, which waits for something that comes by way of this connection.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.conn.driver.poll(cx, step)
    }

    /// Ready once it is `until`.
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.conn.alarm.poll(cx, until)
    }

    /// The connection must go on also when nobody asks for what comes by way of it.
    pub(super) fn detach(&mut self) {
        self.conn.driver.detach();
    }

    /// What is said on this connection.
    pub(super) fn said(&mut self) -> &mut Said {
        &mut self.conn.said
    }

    /// It had served a request before, so the upstream may have closed it since.
    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    /// The exchange ended whole: others may use the connection.
    pub(super) fn give_back(self) {
        let Lease { conn, turn, pool, .. } = self;
        pool.put(conn);
        drop(turn); // after the connection is back, so that whoever waits for a turn finds it
    }

    /// The connection speaks another protocol from now on; it stays counted until the answer is dropped.
    pub(super) fn into_upgraded(self) -> Held {
        let Conn { driver, counted, .. } = *self.conn;
        driver.release();
        Held(Arc::new((counted, self.turn)))
    }
}

/// Keeps an upgraded connection in the upstream's counts and under its limit. Found in the extensions of a `101`
/// response; whoever copies the bytes holds it for as long.
#[derive(Debug, Clone)]
pub struct Held(#[allow(dead_code, reason = "held for its drop")] Arc<(Counted, OwnedSemaphorePermit)>);
