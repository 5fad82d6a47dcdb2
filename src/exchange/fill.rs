//! The content on its way: to the client that began the fetch, and into the store's copy.
//!
//! Invariants:
//! - A content that broke off or ran over a limit leaves nothing in the store.
//! - What ends the content is passed on only when the entry is stored: who knows the length sees its end there.
//! - What is buffered, for the store or for a slow client, is counted against the process' budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::Exchange;
use super::answer::Failure;
use super::coalesce::Landing;
use super::fetch::{Fetch, Sent};
use super::relay::RelaySender;
use crate::body::Body;
use crate::semantics::stored::{Lifetimes, StoredResponse};
use crate::semantics::vary::Selecting;

const CUT_OFF: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "upstream-cut-off",
    detail: "The upstream's response broke off.",
};

/// What is known of an entry-to-be before its content.
pub(super) struct Plan {
    pub(super) status: StatusCode,
    pub(super) received: HeaderMap,
    pub(super) lifetimes: Lifetimes,
    pub(super) selecting: Selecting,
    pub(super) sent: Sent,
}

impl Fetch {
    /// Reads the content to its end, for the store and for the client. What a slow client has yet to take stays
    /// counted as buffered. What ends the content is passed on only
    /// when the entry is stored: a client that knows the length sees its end there.
    pub(super) async fn fill(mut self, mut body: Body, client: RelaySender, plan: Plan) {
        let mut copy = Copy::new(&self.exchange, self.wanted.route.max_body);
        let mut last = None;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref()
                        && let Err((reason, buffered)) = copy.push(data)
                    {
                        client.keep(buffered);
                        self.not_shareable(reason, true);
                    }
                    if body.is_end_stream() {
                        last = Some(frame);
                        break;
                    }
                    client.push(frame);
                    if !copy.filling() && !client.drained().await {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(path = self.wanted.path, "the upstream's body broke off: {error}");
                    self.exchange.metrics.not_stored("cut-off");
                    self.lead.land(Landing::Failed(CUT_OFF));
                    client.finish(Err(error.to_string()));
                    return;
                }
                None => break,
            }
        }
        if let Some((content, buffered)) = copy.finish() {
            client.keep(buffered);
            self.store(content, plan);
        }
        if let Some(frame) = last {
            client.push(frame);
        }
        client.finish(Ok(()));
    }

    fn store(&mut self, content: Bytes, plan: Plan) {
        let response = StoredResponse::new(
            plan.status,
            plan.received.clone(),
            content,
            plan.sent.request_time,
            plan.sent.response_time,
            plan.lifetimes,
            plan.selecting,
        );
        let entry = self.exchange.store.insert(self.entry(response, &plan.received));
        self.lead.land(Landing::Stored(entry));
        self.exchange.hit_for_miss.remove(&self.wanted.key);
    }
}

/// The store's copy of a content on its way, within the route's and the process' limits.
struct Copy {
    /// `None` = given up.
    filling: Option<(Vec<Bytes>, Reserved)>,
    limit: u64,
    budget: u64,
}

impl Copy {
    fn new(exchange: &Exchange, limit: u64) -> Copy {
        let reserved = Reserved { bytes: 0, all: Arc::clone(&exchange.filling) };
        Copy { filling: Some((Vec::new(), reserved)), limit, budget: exchange.config.max_fill_bytes }
    }

    fn filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Takes a chunk, or gives the copy up and says why; what it had reserved comes back.
    fn push(&mut self, data: &Bytes) -> Result<(), (&'static str, Reserved)> {
        let Some((mut chunks, mut reserved)) = self.filling.take() else { return Ok(()) };
        let all = reserved.add(data.len() as u64);
        if reserved.bytes > self.limit {
            return Err(("too-large", reserved));
        }
        if all > self.budget {
            return Err(("fill-budget", reserved));
        }
        chunks.push(data.clone());
        self.filling = Some((chunks, reserved));
        Ok(())
    }

    fn finish(self) -> Option<(Bytes, Reserved)> {
        let (mut chunks, reserved) = self.filling?;
        if chunks.len() == 1 {
            return chunks.pop().map(|whole| (whole, reserved));
        }
        let mut all = BytesMut::with_capacity(usize::try_from(reserved.bytes).unwrap_or(0));
        chunks.iter().for_each(|c| all.extend_from_slice(c));
        Some((all.freeze(), reserved))
    }
}

/// Bytes of the process' budget for buffering; given back when dropped.
pub(super) struct Reserved {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Reserved {
    /// Adds to it, within the budget or not; returns what is reserved by all.
    fn add(&mut self, more: u64) -> u64 {
        self.bytes += more;
        self.all.fetch_add(more, Ordering::Relaxed) + more
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
