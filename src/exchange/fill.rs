//! The content on its way: to the client that began the fetch, and into the store's copy.
//!
//! Invariants:
//! - A content that broke off or ran over a limit leaves nothing in the store.
//! - What ends the content is passed on only when the entry is stored: who knows the length sees its end there.
//! - Store and client get the same coded bytes, or the client the plain ones: a content is coded once.
//! - What is buffered, for the store or for a slow client, is counted against the process' budget.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::poll;
use http::{HeaderMap, StatusCode, header, response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::Exchange;
use super::answer::Failure;
use super::coalesce::Landing;
use super::fetch::{Fetch, Sent};
use super::relay::RelaySender;
use super::wanted::Wanted;
use crate::body::{Body, BodyError};
use crate::coder::{Encoded, Encoder};
use crate::semantics::coding::{self, Coded, Coding, Form};
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

/// Codes a content for the store, and for the client that began the fetch if that takes it so.
pub(super) struct Coder {
    encoder: Encoder,
    coding: Coding,
    form: Form,
    /// Bytes taken so far.
    length: u64,
}

impl Coder {
    /// One for a response with this head, as the route wants it.
    pub(super) fn of(wanted: &Wanted, head: &response::Parts, length: Option<u64>) -> Option<Coder> {
        let words = wanted.route.compress.as_deref()?;
        let list = &wanted.terms.target_list;
        let coding = coding::admit(words, head.status, &head.headers, length, list).ok()?;
        let encoder = Encoder::new(words)
            .inspect_err(|error| tracing::error!("no {} encoder: {error}", coding.as_str()))
            .ok()?;
        // A part is cut from the plain form, and where that is not stored, the plain whole is the answer.
        let part = wanted.parts.headers.contains_key(header::RANGE);
        Some(Coder { encoder, coding, form: coding::form(&wanted.parts.headers, coding, part), length: 0 })
    }

    /// Makes the fields those of what the client gets.
    pub(super) fn dress(&self, headers: &mut HeaderMap) {
        coding::dress(headers, self.coding, self.form);
    }

    /// Whether the client gets what is coded.
    pub(super) fn serves_client(&self) -> bool {
        self.form == Form::Coded
    }

    /// A body for the client alone, if it is coded for that.
    pub(super) fn encode(self, body: Body) -> Body {
        match self.serves_client() {
            true => Body::stream(Encoded::new(body, self.encoder)),
            false => body,
        }
    }
}

/// Where a content goes: to the client, through the coder where there is one.
pub(super) struct Outlet {
    client: RelaySender,
    coder: Option<Coder>,
    /// The coder may hold back something that the client could have.
    behind: bool,
}

impl Outlet {
    /// To this client, through this coder.
    pub(super) fn new(client: RelaySender, coder: Option<Coder>) -> Outlet {
        Outlet { client, coder, behind: false }
    }

    /// A piece of the content as the store keeps it, and as the client gets it.
    fn take(&mut self, data: &Bytes) -> io::Result<(Bytes, Bytes)> {
        let Some(coder) = &mut self.coder else { return Ok((data.clone(), data.clone())) };
        coder.length += data.len() as u64;
        let coded = coder.encoder.write(data)?;
        self.behind = coder.serves_client();
        let outward = if self.behind { coded.clone() } else { data.clone() };
        Ok((coded, outward))
    }

    /// What the coder holds back, for the client and for the copy.
    fn catch_up(&mut self, copy: &mut Copy) -> io::Result<()> {
        if let Some(coder) = self.coder.as_mut().filter(|_| self.behind) {
            let coded = coder.encoder.flush()?;
            copy.add(&coded);
            self.push(Frame::data(coded));
        }
        self.behind = false;
        Ok(())
    }

    /// The end of the content: what the client gets last, and how the copy was coded.
    fn end(&mut self, last: Option<Frame<Bytes>>, copy: &mut Copy) -> io::Result<Poured> {
        let Some(coder) = self.coder.take() else { return Ok(Poured::Whole { last, coded: None }) };
        let coded = Some(Coded { coding: coder.coding, length: coder.length });
        let for_client = coder.serves_client();
        let tail = coder.encoder.finish()?;
        copy.add(&tail);
        if !for_client {
            return Ok(Poured::Whole { last, coded });
        }
        let last = match last {
            Some(trailers) if trailers.is_trailers() => {
                self.push(Frame::data(tail));
                trailers
            }
            content => {
                content.into_iter().for_each(|frame| self.push(frame));
                Frame::data(tail)
            }
        };
        Ok(Poured::Whole { last: Some(last), coded })
    }

    /// Passes a frame on, unless the coder has kept all of it.
    fn push(&self, frame: Frame<Bytes>) {
        if frame.data_ref().is_none_or(|data| !data.is_empty()) {
            self.client.push(frame);
        }
    }

    /// The copy is given up: only the client is left to code for.
    fn without_copy(&mut self) {
        self.coder = self.coder.take().filter(Coder::serves_client);
    }
}

impl Fetch {
    /// Reads the content to its end, for the store and for the client. What a slow client has yet to take stays
    /// counted as buffered.
    pub(super) async fn fill(mut self, mut body: Body, mut outlet: Outlet, plan: Plan) {
        let mut copy = Copy::new(&self.exchange, self.wanted.route.max_body);
        match self.pour(&mut body, &mut outlet, &mut copy).await {
            Ok(Poured::Left) => {}
            Ok(Poured::Whole { last, coded }) => {
                if let Some((content, buffered)) = copy.finish() {
                    outlet.client.keep(buffered);
                    self.store(content, coded, plan);
                }
                if let Some(frame) = last {
                    outlet.client.push(frame);
                }
                outlet.client.finish(Ok(()));
            }
            Err(error) => {
                tracing::warn!(path = self.wanted.path, "the upstream's body broke off: {error}");
                self.exchange.metrics.not_stored("cut-off");
                self.lead.land(Landing::Failed(CUT_OFF));
                outlet.client.finish(Err(error.to_string()));
            }
        }
    }

    /// Passes on all but what ends it.
    async fn pour(
        &mut self,
        body: &mut Body,
        outlet: &mut Outlet,
        copy: &mut Copy,
    ) -> Result<Poured, BodyError> {
        let mut last = None;
        while let Some(frame) = next_frame(body, outlet, copy).await? {
            let frame = match frame.into_data() {
                Ok(data) => {
                    let (kept, outward) = outlet.take(&data)?;
                    if let Err((reason, buffered)) = copy.push(data.len(), kept) {
                        outlet.client.keep(buffered);
                        outlet.without_copy();
                        self.not_shareable(reason, true);
                    }
                    Frame::data(outward)
                }
                Err(trailers) => trailers,
            };
            if body.is_end_stream() {
                last = Some(frame);
                break;
            }
            outlet.push(frame);
            if !copy.filling() && !outlet.client.drained().await {
                return Ok(Poured::Left);
            }
        }
        Ok(outlet.end(last, copy)?)
    }

    fn store(&mut self, content: Bytes, coded: Option<Coded>, plan: Plan) {
        let mut response = StoredResponse::new(
            plan.status,
            plan.received.clone(),
            content,
            plan.sent.request_time,
            plan.sent.response_time,
            plan.lifetimes,
            plan.selecting,
        );
        response.coded = coded;
        let entry = self.exchange.store.insert(self.entry(response, &plan.received));
        self.lead.land(Landing::Stored(entry));
        self.exchange.hit_for_miss.remove(&self.wanted.key);
    }
}

/// The next frame; while there is none yet, the client gets what the coder holds back.
async fn next_frame(
    body: &mut Body,
    outlet: &mut Outlet,
    copy: &mut Copy,
) -> Result<Option<Frame<Bytes>>, BodyError> {
    let mut frame = pin!(body.frame());
    let next = match poll!(frame.as_mut()) {
        Poll::Ready(next) => next,
        Poll::Pending => {
            outlet.catch_up(copy)?;
            frame.await
        }
    };
    next.transpose()
}

/// How far a content was passed on.
enum Poured {
    /// All but the frame that ends it, and how it was coded.
    Whole { last: Option<Frame<Bytes>>, coded: Option<Coded> },
    /// Its client left, and nobody else wants it.
    Left,
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

    /// Takes a chunk that was this many bytes before it was coded, or gives the copy up and says why; what it had
    /// reserved comes back.
    fn push(&mut self, length: usize, chunk: Bytes) -> Result<(), (&'static str, Reserved)> {
        let Some((mut chunks, mut reserved)) = self.filling.take() else { return Ok(()) };
        let all = reserved.add(length as u64);
        if reserved.bytes > self.limit {
            return Err(("too-large", reserved));
        }
        if all > self.budget {
            return Err(("fill-budget", reserved));
        }
        chunks.push(chunk);
        self.filling = Some((chunks, reserved));
        Ok(())
    }

    /// Takes what a coder held back.
    fn add(&mut self, coded: &Bytes) {
        if let Some((chunks, _)) = &mut self.filling {
            chunks.push(coded.clone());
        }
    }

    fn finish(self) -> Option<(Bytes, Reserved)> {
        let (mut chunks, reserved) = self.filling?;
        chunks.retain(|chunk| !chunk.is_empty());
        if chunks.len() == 1 {
            return chunks.pop().map(|whole| (whole, reserved));
        }
        let mut all = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
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
