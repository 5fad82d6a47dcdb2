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
use http::{HeaderMap, StatusCode, response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use super::Exchange;
use super::answer::Failure;
use super::coalesce::Landing;
use super::fetch::{Fetch, Sent};
use super::relay::RelaySender;
use crate::body::{Body, BodyError};
use crate::coder::{self, Encoded, Encoder};
use crate::policy::tags::TAG_FIELDS;
use crate::semantics::coding::{self, Coded, Coding, Form};
use crate::semantics::stored::{Beginning, JOINED, Lifetimes};
use crate::semantics::vary::Selecting;

const CUT_OFF: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "upstream-cut-off",
    detail: "The upstream's response broke off.",
};

/// Not stored: all fills together take up what they may.
const FILL_BUDGET: &str = "fill-budget";

/// What is known of an entry-to-be before its content.
pub(super) struct Plan {
    beginning: Beginning,
    /// The fields that it names tags by: mostly none.
    tags: HeaderMap,
}

impl Plan {
    /// Of a head as received; `content` = it is here already.
    pub(super) fn of(
        head: &response::Parts,
        content: Option<&Bytes>,
        sent: &Sent,
        lifetimes: Lifetimes,
        selecting: Selecting,
    ) -> Plan {
        let (status, fields) = (head.status, &head.headers);
        // What is still to come is counted as it comes.
        let room = content.map_or(0, Bytes::len);
        let beginning =
            Beginning::of(status, fields, sent.request_time, sent.response_time, lifetimes, selecting, room);
        let mut tags = HeaderMap::new();
        for (name, value) in fields.iter().filter(|(name, _)| TAG_FIELDS.contains(&name.as_str())) {
            tags.append(name.clone(), value.clone());
        }
        Plan { beginning, tags }
    }
}

/// What a response is coded by: for the store, and for the client that began the fetch if that takes it so.
pub(super) struct Coder {
    /// `None` = nobody gets it coded.
    encoder: Option<Encoder>,
    coding: Coding,
    form: Form,
    /// Bytes taken so far.
    length: u64,
    /// What the encoder takes up.
    room: Reserved,
}

impl Coder {
    /// One for a response with this head and this length, if the route wants it coded and there is room for an encoder.
    pub(super) fn of(
        fetch: &Fetch,
        head: &response::Parts,
        length: Option<u64>,
        stored: bool,
    ) -> Option<Coder> {
        let wanted = &fetch.wanted;
        let words = wanted.route.compress.as_deref()?;
        let list = &wanted.terms.target_list;
        let coding = coding::admit(words, head.status, &head.headers, length, list).ok()?;
        let room = Reserved::for_encoder(&fetch.exchange, coder::footprint(words, length))?;
        // A part is cut from the plain form, and where that is not stored, the plain whole is the answer.
        let form = coding::form(&wanted.parts.headers, coding, wanted.asks_for_part());
        let encoder = (stored || form == Form::Coded).then(|| Encoder::new(words, length));
        let encoder = encoder
            .transpose()
            .inspect_err(|error| tracing::error!("no {} encoder: {error}", coding.as_str()))
            .ok()?;
        Some(Coder { encoder, coding, form, length: 0, room })
    }

    /// Makes the fields those of what the client gets.
    pub(super) fn dress(&self, headers: &mut HeaderMap) {
        coding::dress(headers, self.coding, self.form);
    }

    /// Whether the client gets what is coded.
    pub(super) fn serves_client(&self) -> bool {
        self.form == Form::Coded
    }

    /// A body for the client alone, coded if it takes it so.
    pub(super) fn encode(self, body: Body) -> Body {
        match self.encoder {
            Some(encoder) if self.form == Form::Coded => Body::stream(Encoded::new(body, encoder, self.room)),
            _ => body,
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

    /// Whether the client gets what is coded.
    fn coded_for_client(&self) -> bool {
        self.coder.as_ref().is_some_and(Coder::serves_client)
    }

    /// A piece of the content as the store keeps it; other tasks get their turn while a long one is coded.
    async fn code(&mut self, data: &Bytes) -> io::Result<Bytes> {
        let Some(coder) = &mut self.coder else { return Ok(data.clone()) };
        let Some(encoder) = &mut coder.encoder else { return Ok(data.clone()) };
        coder.length += data.len() as u64;
        self.behind = coder.form == Form::Coded;
        let mut pieces = data.chunks(coder::STEP);
        let first = encoder.write(pieces.next().unwrap_or_default())?;
        let mut coded = Vec::new();
        for piece in pieces {
            tokio::task::yield_now().await;
            coded.push(encoder.write(piece)?);
        }
        Ok(if coded.is_empty() { first } else { joined(std::iter::once(&first).chain(&coded)) })
    }

    /// What the coder holds back, of which the client is in want.
    fn catch_up(&mut self) -> io::Result<Bytes> {
        if !std::mem::take(&mut self.behind) {
            return Ok(Bytes::new());
        }
        let encoder = self.coder.as_mut().and_then(|coder| coder.encoder.as_mut());
        encoder.map_or(Ok(Bytes::new()), Encoder::flush)
    }

    /// What ends the coded content, and how all of it was coded.
    fn end(&mut self) -> io::Result<Option<(Bytes, Coded)>> {
        let Some(Coder { encoder: Some(encoder), coding, length, .. }) = self.coder.take() else {
            return Ok(None);
        };
        Ok(Some((encoder.finish()?, Coded { coding, length })))
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
                for frame in last {
                    outlet.push(frame);
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

    /// The same for a content that is here already: there is nothing to wait for, and nothing to pass on later.
    pub(super) fn fill_at_once(&mut self, content: &Bytes, plan: Plan) -> Result<(), &'static str> {
        let mut copy = Copy::new(&self.exchange, self.wanted.route.max_body);
        if let Err((reason, _)) = copy.push(content.len(), content, false) {
            // That there is no room now says nothing about later.
            self.not_shareable(reason, reason != FILL_BUDGET);
            return Err(reason);
        }
        if let Some((content, _)) = copy.finish() {
            self.store(content, None, plan);
        }
        Ok(())
    }

    /// Passes on all but what ends it.
    async fn pour(
        &mut self,
        body: &mut Body,
        outlet: &mut Outlet,
        copy: &mut Copy,
    ) -> Result<Poured, BodyError> {
        let mut trailers = None;
        let mut last = None;
        while let Some(frame) = self.next_frame(body, outlet, copy).await? {
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    // They come when all else has.
                    trailers = Some(frame);
                    continue;
                }
            };
            let coded = outlet.code(&data).await?;
            self.keep(copy, data.len(), &coded, outlet);
            let outward = Frame::data(if outlet.coded_for_client() { coded } else { data });
            if body.is_end_stream() {
                last = Some(outward);
                break;
            }
            outlet.push(outward);
            if !copy.filling() && !outlet.client.drained().await {
                return Ok(Poured::Left);
            }
        }
        self.ends(outlet, copy, last, trailers)
    }

    /// The next frame; while there is none yet, the client gets what the coder holds back.
    async fn next_frame(
        &mut self,
        body: &mut Body,
        outlet: &mut Outlet,
        copy: &mut Copy,
    ) -> Result<Option<Frame<Bytes>>, BodyError> {
        let mut frame = pin!(body.frame());
        let next = match poll!(frame.as_mut()) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                let coded = outlet.catch_up()?;
                self.keep(copy, 0, &coded, outlet);
                outlet.push(Frame::data(coded));
                frame.await
            }
        };
        next.transpose()
    }

    /// The last of it: the tail of what was coded, then trailers.
    fn ends(
        &mut self,
        outlet: &mut Outlet,
        copy: &mut Copy,
        last: Option<Frame<Bytes>>,
        trailers: Option<Frame<Bytes>>,
    ) -> Result<Poured, BodyError> {
        let for_client = outlet.coded_for_client();
        let mut last: Vec<Frame<Bytes>> = last.into_iter().collect();
        let mut coded = None;
        if let Some((tail, how)) = outlet.end()? {
            self.keep(copy, 0, &tail, outlet);
            coded = Some(how);
            if for_client {
                last.push(Frame::data(tail));
            }
        }
        last.extend(trailers.map(|frame| if for_client { coder::of_any_form(frame) } else { frame }));
        Ok(Poured::Whole { last, coded })
    }

    /// Takes into the copy what came of so many bytes, or gives the copy up.
    fn keep(&mut self, copy: &mut Copy, length: usize, coded: &Bytes, outlet: &mut Outlet) {
        // What is queued for the client are other bytes then, which it may be slow to take.
        let apart = outlet.coder.is_some() && !outlet.coded_for_client();
        if let Err((reason, buffered)) = copy.push(length, coded, apart) {
            outlet.client.keep(buffered);
            outlet.without_copy();
            // That there is no room now says nothing about later.
            self.not_shareable(reason, reason != FILL_BUDGET);
        }
    }

    fn store(&mut self, content: Bytes, coded: Option<Coded>, plan: Plan) {
        let mut response = plan.beginning.with(content);
        response.set_coded(coded);
        let taken = self.exchange.take_in(&self.wanted, self.entry(response, &plan.tags));
        self.lead.land(taken.landing());
        self.exchange.hit_for_miss.remove(&self.wanted.key);
    }
}

/// How far a content was passed on.
enum Poured {
    /// All but the frames that end it, and how it was coded.
    Whole { last: Vec<Frame<Bytes>>, coded: Option<Coded> },
    /// Its client left, and nobody else wants it.
    Left,
}

/// The store's copy of a content on its way, within the route's and the process' limits.
struct Copy {
    /// `None` = given up.
    filling: Option<Filling>,
    limit: u64,
    budget: u64,
}

struct Filling {
    chunks: Vec<Bytes>,
    /// Bytes of the content before it was coded.
    plain: u64,
    /// Bytes of the chunks.
    kept: u64,
    /// Those, and what is queued apart from them.
    reserved: Reserved,
}

impl Copy {
    fn new(exchange: &Exchange, limit: u64) -> Copy {
        let reserved = Reserved::of(&exchange.filling);
        let filling = Filling { chunks: Vec::new(), plain: 0, kept: 0, reserved };
        Copy { filling: Some(filling), limit, budget: exchange.config.max_fill_bytes }
    }

    fn filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Takes a chunk that so many bytes of the content have given, or gives the copy up and says why; what it had
    /// reserved comes back. Neither content nor copy may be larger than the limit. `apart`: the content is queued beside it.
    fn push(&mut self, plain: usize, chunk: &Bytes, apart: bool) -> Result<(), (&'static str, Reserved)> {
        let Some(mut filling) = self.filling.take() else { return Ok(()) };
        filling.plain += plain as u64;
        filling.kept += chunk.len() as u64;
        let all = filling.reserved.add(chunk.len() as u64 + if apart { plain as u64 } else { 0 });
        if filling.plain.max(filling.kept) > self.limit {
            return Err(("too-large", filling.reserved));
        }
        if all > self.budget {
            return Err((FILL_BUDGET, filling.reserved));
        }
        if !chunk.is_empty() {
            filling.chunks.push(chunk.clone());
        }
        self.filling = Some(filling);
        Ok(())
    }

    fn finish(self) -> Option<(Bytes, Reserved)> {
        let Filling { mut chunks, kept, reserved, .. } = self.filling?;
        let whole = match chunks.len() {
            // A small one is copied to its fields. A larger one would keep alive all that was read along with it.
            1 if kept <= JOINED as u64 => chunks.pop()?,
            _ => joined(&chunks),
        };
        Some((whole, reserved))
    }
}

fn joined<'a>(chunks: impl IntoIterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut all = BytesMut::with_capacity(chunks.clone().into_iter().map(Bytes::len).sum());
    chunks.into_iter().for_each(|chunk| all.extend_from_slice(chunk));
    all.freeze()
}

/// Bytes of the process' budget for buffering; given back when dropped.
pub(super) struct Reserved {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Reserved {
    fn of(all: &Arc<AtomicU64>) -> Reserved {
        Reserved { bytes: 0, all: Arc::clone(all) }
    }

    /// So many for an encoder, unless that is more than there is. Encoders have a share of their own, a quarter more: a
    /// slow client of what is not stored holds one for as long as it likes.
    fn for_encoder(exchange: &Exchange, bytes: u64) -> Option<Reserved> {
        let mut reserved = Reserved::of(&exchange.coding);
        (reserved.add(bytes) <= exchange.config.max_fill_bytes / 4).then_some(reserved)
    }

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
