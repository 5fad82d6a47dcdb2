//! What a client connection is doing, told by three witnesses (the socket, the service, the answer's body) and
//! read by the watchdog: in an exchange, idle between two, in the middle of sending a request head, sending content that
//! outlasts its answer, or not reading what it is sent.
//!
//! hyper has one timer for the last two, and cannot tell a client that may idle from one that trickles.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::{Body, BodyError};

/// Shared by the parts of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    accepted: Instant,
    header_timeout: Duration,
    idle_timeout: Duration,
    exchanges: AtomicUsize,
    /// A request head is on its way. Always false on HTTP/2, where bytes need not be requests.
    in_head: AtomicBool,
    multiplexed: AtomicBool,
    /// Milliseconds from `accepted` to the beginning of the head, or of the idleness.
    since: AtomicU64,
    /// Milliseconds from `accepted`, plus one, to the moment from which the client takes no bytes; 0 = it does.
    blocked: AtomicU64,
    /// The answer being sent has no other end than the connection's.
    close_delimited: AtomicBool,
    broken_off: AtomicBool,
    tunnel: AtomicBool,
    /// The next byte begins a request, and hyper waits for it.
    between: AtomicBool,
    /// hyper's connection ends, and the socket does not.
    outlives: AtomicBool,
    /// A request has named another protocol.
    named_another: AtomicBool,
    /// Content came after its answer, and no other request since.
    outlasted: AtomicBool,
}

impl Activity {
    pub(super) fn new(header_timeout: Duration, idle_timeout: Duration) -> Arc<Activity> {
        Arc::new(Activity {
            accepted: Instant::now(),
            header_timeout,
            idle_timeout,
            exchanges: AtomicUsize::new(0),
            in_head: AtomicBool::new(true),
            multiplexed: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            close_delimited: AtomicBool::new(false),
            broken_off: AtomicBool::new(false),
            tunnel: AtomicBool::new(false),
            between: AtomicBool::new(false),
            outlives: AtomicBool::new(false),
            named_another: AtomicBool::new(false),
            outlasted: AtomicBool::new(false),
        })
    }

    /// The connection turned out to be HTTP/2.
    pub(super) fn multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Release);
        self.in_head.store(false, Ordering::Release);
    }

    /// Content arrived, and no more than that. After its answer it is what the connection idles from: no head is on its way.
    pub(super) fn content(&self) {
        self.between.store(false, Ordering::Release);
        if self.exchanges.load(Ordering::Acquire) == 0 && !self.in_head.load(Ordering::Acquire) {
            self.mark();
            self.outlasted.store(true, Ordering::Release);
        }
    }

    /// Bytes arrived.
    pub(super) fn bytes(&self) {
        self.between.store(false, Ordering::Release);
        if self.exchanges.load(Ordering::Acquire) == 0
            && !self.in_head.load(Ordering::Acquire)
            && !self.multiplexed.load(Ordering::Acquire)
        {
            self.mark();
            self.in_head.store(true, Ordering::Release);
        }
    }

    /// hyper wants to read on, all requests so far were read to their end, and nothing more has come.
    pub(super) fn waits(&self) {
        self.between.store(true, Ordering::Release);
    }

    /// A request names another protocol. hyper then keeps the connection for whoever may upgrade it, also after an answer
    /// that does not, and would give it away at its end.
    pub(super) fn names_another(&self) {
        self.named_another.store(true, Ordering::Release);
    }

    /// How long nothing at all has been under way on a connection that has had exchanges: none of its bytes is anywhere but
    /// with the client or the handler. `None` while something is, on HTTP/2, where another protocol was ever named, and
    /// where content has outlasted its answer: hyper tells that content's end with the next request.
    pub(super) fn rests(&self) -> Option<Duration> {
        let rests = self.between.load(Ordering::Acquire)
            && !self.named_another.load(Ordering::Acquire)
            && !self.outlasted.load(Ordering::Acquire)
            && !self.in_head.load(Ordering::Acquire)
            && self.leaves_at_once()
            && self.is_at_rest();
        rests.then(|| {
            let since = self.since.load(Ordering::Acquire);
            Duration::from_millis(self.elapsed().saturating_sub(since))
        })
    }

    /// What hyper says next of the connection's end is, or is not, meant for the socket.
    pub(super) fn outlives(&self, outlives: bool) {
        self.outlives.store(outlives, Ordering::Release);
    }

    /// Whether the socket is to stay open when hyper closes it.
    pub(super) fn is_outliving(&self) -> bool {
        self.outlives.load(Ordering::Acquire)
    }

    /// The socket took bytes, or has no room for them because the client does not read.
    pub(super) fn writing(&self, took: bool) {
        if !took {
            let now = self.elapsed().saturating_add(1);
            // Only the first refusal in a row counts.
            let _ = self.blocked.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        } else if self.blocked.swap(0, Ordering::AcqRel) > 0 && !self.in_head.load(Ordering::Acquire) {
            // The exchange may be over but for its last bytes: the idleness begins behind them.
            self.mark();
        }
    }

    /// A request was read. The exchange lasts until the guard is dropped with the answer.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchanging {
        self.exchanges.fetch_add(1, Ordering::AcqRel);
        self.in_head.store(false, Ordering::Release);
        self.outlasted.store(false, Ordering::Release);
        Exchanging(self.clone())
    }

    /// When the connection is to be closed if nothing happens; `None` while an exchange is going on whose client
    /// takes what it is sent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Some(since) = self.blocked.load(Ordering::Acquire).checked_sub(1) {
            return Some(self.accepted + Duration::from_millis(since) + self.idle_timeout);
        }
        if self.exchanges.load(Ordering::Acquire) > 0 {
            return None;
        }
        let since = self.accepted + Duration::from_millis(self.since.load(Ordering::Acquire));
        let limit =
            if self.in_head.load(Ordering::Acquire) { self.header_timeout } else { self.idle_timeout };
        Some(since + limit)
    }

    /// HTTP/1 has no word for "leave"; HTTP/2 has GOAWAY.
    pub(super) fn leaves_at_once(&self) -> bool {
        !self.multiplexed.load(Ordering::Acquire)
    }

    /// How long the watchdog may sleep without missing a deadline: what begins after it looked ends later.
    pub(super) fn look_again(&self) -> Duration {
        self.header_timeout.min(self.idle_timeout).max(Duration::from_millis(1))
    }

    /// The connection ends in the middle of an answer that nothing else delimits.
    pub(super) fn must_reset(&self) -> bool {
        self.close_delimited.load(Ordering::Acquire)
            && (self.broken_off.load(Ordering::Acquire)
                || self.exchanges.load(Ordering::Acquire) > 0
                || self.blocked.load(Ordering::Acquire) > 0)
    }

    /// Nothing is under way, nothing broke off, and what is spoken is HTTP.
    pub(super) fn is_at_rest(&self) -> bool {
        self.exchanges.load(Ordering::Acquire) == 0
            && self.blocked.load(Ordering::Acquire) == 0
            && !self.broken_off.load(Ordering::Acquire)
            && !self.is_tunnel()
    }

    /// The answer about to be sent ends with the connection alone.
    pub(super) fn close_delimited(&self) {
        self.close_delimited.store(true, Ordering::Release);
    }

    /// The answer about to be sent ends HTTP on this connection: what the client sends after it is no request.
    pub(super) fn tunnels(&self) {
        self.tunnel.store(true, Ordering::Release);
    }

    /// Whether such an answer was given.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Acquire)
    }

    fn mark(&self) {
        self.since.store(self.elapsed(), Ordering::Release);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One exchange under way.
#[derive(Debug)]
pub(super) struct Exchanging(Arc<Activity>);

impl Drop for Exchanging {
    fn drop(&mut self) {
        // The mark first: with the count at zero the watchdog reads it.
        self.0.mark();
        self.0.exchanges.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body that notes its end.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    exchange: Exchanging,
}

impl Answer {
    pub(super) fn new(body: Body, exchange: Exchanging) -> Answer {
        Answer { body, exchange }
    }

    /// Whether all of it is here, in one piece: sending it is no work but to write it.
    pub(super) fn is_here(&self) -> bool {
        !matches!(self.body, Body::Stream(_))
    }

    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    /// Its content, if that is here; and the exchange, which ends when that is sent.
    pub(super) fn into_parts(self) -> (Bytes, Exchanging) {
        let content = match self.body {
            Body::Full(content) => content.unwrap_or_default(),
            Body::Empty | Body::Head(_) | Body::Stream(_) => Bytes::new(),
        };
        (content, self.exchange)
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            this.exchange.0.broken_off.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(30);
    const IDLE: Duration = Duration::from_secs(75);

    fn left(activity: &Activity) -> Option<u64> {
        activity.deadline().map(|at| (at - Instant::now()).as_secs())
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn heads_and_idleness_have_their_own_time() {
        let activity = Activity::new(HEAD, IDLE);
        assert_eq!(left(&activity), Some(30), "the first head counts from accept");
        pass(10).await;
        activity.bytes();
        assert_eq!(left(&activity), Some(20), "and trickling does not help");
        let exchange = activity.exchange();
        assert_eq!(left(&activity), None);
        pass(1000).await;
        activity.bytes();
        assert_eq!(left(&activity), None);
        drop(exchange);
        assert_eq!(left(&activity), Some(75));
        pass(50).await;
        assert_eq!(left(&activity), Some(25));
        activity.bytes();
        assert_eq!(left(&activity), Some(30), "a later head counts from its first byte");
        pass(29).await;
        activity.bytes();
        assert_eq!(left(&activity), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_has_its_time_and_one_that_takes_something_has_more() {
        let activity = Activity::new(HEAD, IDLE);
        let exchange = activity.exchange();
        activity.writing(false);
        pass(70).await;
        activity.writing(false);
        assert_eq!(left(&activity), Some(5));
        activity.writing(true);
        assert_eq!(left(&activity), None);
        activity.writing(false);
        drop(exchange);
        pass(70).await;
        activity.writing(true);
        assert_eq!(left(&activity), Some(75), "idle from its last bytes on");
    }

    #[tokio::test(start_paused = true)]
    async fn http2_is_idle_until_there_is_a_stream() {
        let activity = Activity::new(HEAD, IDLE);
        activity.multiplexed();
        assert_eq!(left(&activity), Some(75));
        pass(5).await;
        activity.bytes();
        assert_eq!(left(&activity), Some(70), "bytes are no streams");
        let (one, two) = (activity.exchange(), activity.exchange());
        drop(one);
        assert_eq!(left(&activity), None);
        drop(two);
        assert_eq!(left(&activity), Some(75));
        assert!(!activity.leaves_at_once());
    }

    #[test]
    fn only_a_broken_end_of_an_undelimited_answer_needs_a_reset() {
        let activity = Activity::new(HEAD, IDLE);
        let exchange = activity.exchange();
        assert!(!activity.must_reset());
        activity.close_delimited();
        assert!(activity.must_reset(), "it is still under way");
        drop(exchange);
        assert!(!activity.must_reset(), "it ended whole");
        activity.writing(false);
        assert!(activity.must_reset() && !activity.is_at_rest(), "its last bytes have not left");
        activity.writing(true);
        assert!(!activity.must_reset() && activity.is_at_rest());
        activity.broken_off.store(true, Ordering::Release);
        assert!(activity.must_reset());
    }
}
