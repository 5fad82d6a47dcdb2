//! What a cacheable read wants: route, normal form, subject, key; or why the cache may not take part.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header, response};
use http_body::Body as _;

use super::buffer::{Buffered, read_up_to};
use super::fetch::within;
use super::identity::Identity;
use super::search::Reduced;
use super::{Exchange, Inbound, forwarded, pass::origin_form};
use crate::body::Body;
use crate::coder;
use crate::coherence::Stamp;
use crate::interim::Interim;
use crate::policy::json::parse_strict;
use crate::policy::key::CacheKey;
use crate::policy::lifetime::{seed, spread};
use crate::policy::path::PathParams;
use crate::policy::route::Route;
use crate::policy::subject::{self, Subject};
use crate::policy::tags::{Facts, Json, Tag};
use crate::semantics::coding::{self, Form};
use crate::semantics::fields;
use crate::semantics::stored::{StoredResponse, Unpacked};
use crate::semantics::storing::{Terms, stated_lifetime};
use crate::semantics::validation::{CONDITIONAL, conditional_fields};
use crate::semantics::vary::Selecting;
use crate::server::Peer;
use crate::store::Entry;

/// A read that the cache may answer.
pub(crate) struct Wanted {
    pub(crate) route: Arc<Route>,
    /// Those of its path, where the route's tags might be made of them.
    params: PathParams,
    /// Method, URI, fields as received.
    pub(crate) parts: http::request::Parts,
    pub(crate) peer: Peer,
    /// The normalised path: keyed, and forwarded.
    pub(crate) path: String,
    /// The normalised query: keyed, and forwarded.
    pub(crate) query: String,
    pub(crate) subject: Subject,
    /// The route's words as they hold for this caller.
    pub(crate) terms: Terms,
    pub(crate) key: CacheKey,
    /// How `key` was made, where that is by a rule of the backend's about queries.
    pub(super) reduced: Option<Reduced>,
    /// A keyed body.
    pub(crate) body: Option<Bytes>,
    /// When it arrived, on `Clock::elapsed`: what it may be answered with is judged by that.
    pub(crate) arrived: Duration,
    pub(crate) interim: Interim,
}

/// Why the cache does not take part.
pub(crate) enum Unwanted {
    /// Pass through, because…
    Pass(&'static str),
    /// The body says that this is no read.
    Mutation,
}

impl Wanted {
    /// The read that this identity is of.
    pub(super) fn new(
        inbound: Inbound,
        route: Arc<Route>,
        identity: Identity,
        body: Option<Bytes>,
    ) -> Wanted {
        let Inbound { parts, peer, arrived, interim, .. } = inbound;
        let Identity { path, query, subject, key, reduced } = identity;
        // What nobody in particular gets, everybody without credentials may get: then `private` is an obstacle.
        let terms =
            Terms { per_subject: route.terms.per_subject && !subject.anonymous, ..route.terms.clone() };
        // For tags alone.
        let params = match route.tags.is_empty() {
            true => PathParams::default(),
            false => route.matcher.path.matches(parts.uri.path()).unwrap_or_default(),
        };
        Wanted {
            route,
            params,
            parts,
            peer,
            path,
            query,
            subject,
            terms,
            key,
            reduced,
            body,
            arrived,
            interim,
        }
    }
}

impl Exchange {
    /// What a request on a cached route wants. The request keeps its body when the answer is no.
    pub(crate) async fn identify(
        &self,
        mut inbound: Inbound,
        route: Arc<Route>,
    ) -> Result<Wanted, (Inbound, Unwanted)> {
        let now = self.clock.now();
        let admitted = match self.admissible(&inbound.head(now), &route) {
            Ok(admitted) => admitted.into_owned(),
            Err(why) => return Err(self.not_admitted(inbound, &route, why).await),
        };
        let body = match self.keyed_body(&mut inbound, &route).await {
            Ok(body) => body,
            Err(why) => return Err((inbound, why)),
        };
        let identity = self.keyed(&inbound.head(now), &route, admitted, body.as_ref()).into_identity();
        Ok(Wanted::new(inbound, route, identity, body))
    }

    /// The cache takes no part, whatever the body says; but a body may still say that something is to be purged.
    async fn not_admitted(
        &self,
        mut inbound: Inbound,
        route: &Route,
        why: &'static str,
    ) -> (Inbound, Unwanted) {
        if inbound.parts.method != Method::POST {
            return (inbound, Unwanted::Pass(why));
        }
        match self.keyed_body(&mut inbound, route).await {
            Ok(body) => {
                inbound.body = body.map_or(Body::Empty, Body::full);
                (inbound, Unwanted::Pass(why))
            }
            Err(unwanted) => (inbound, unwanted),
        }
    }

    /// The body where the route keys by it. Any other read with a body is not the cache's business: what is not
    /// keyed must not influence an answer.
    async fn keyed_body(&self, inbound: &mut Inbound, route: &Route) -> Result<Option<Bytes>, Unwanted> {
        let bodiless = matches!(inbound.parts.method, Method::GET | Method::HEAD);
        let Some(body_key) = route.body_key.as_ref().filter(|_| !bodiless) else {
            return if inbound.body.is_end_stream() { Ok(None) } else { Err(Unwanted::Pass("request-body")) };
        };
        let otherwise = |why| {
            if inbound.parts.method.is_safe() || inbound.parts.method.as_str() == "QUERY" {
                Unwanted::Pass(why)
            } else {
                Unwanted::Mutation
            }
        };
        let headers = &inbound.parts.headers;
        // One type is keyed; of two a backend may read the other.
        let unclear = headers.get_all(header::CONTENT_TYPE).iter().nth(1).is_some();
        if unclear || headers.contains_key(header::CONTENT_ENCODING) {
            return Err(otherwise("request-encoding"));
        }
        // As long as the upstream would wait for it.
        let patience = self.upstream.config().first_byte_timeout;
        let body = std::mem::replace(&mut inbound.body, Body::Empty);
        match read_up_to(body, self.config.max_key_body, patience).await {
            Buffered::Partly(body) => {
                inbound.body = body;
                Err(otherwise("request-too-large"))
            }
            Buffered::Whole(bytes)
                if body_key.is_read_at(inbound.parts.uri.query().unwrap_or_default(), &bytes) =>
            {
                Ok(Some(bytes))
            }
            Buffered::Whole(bytes) => {
                inbound.body = Body::full(bytes);
                Err(otherwise("request-not-a-read"))
            }
        }
    }
}

impl Wanted {
    /// Leaves codings to this cache, as a fetch for the store does. A part that its client would join with bytes of it
    /// does not know which form, is not asked for: only a strong tag is the plain form's alone.
    pub(crate) fn ask_for_plain(&self, headers: &mut HeaderMap) {
        if self.terms.asks_uncoded {
            headers.remove(header::ACCEPT_ENCODING);
        }
        let strong = |line: &HeaderValue| line.as_bytes().starts_with(b"\"");
        if self.route.compress.is_some() && !headers.get_all(header::IF_RANGE).iter().all(strong) {
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
        }
    }

    /// Says that the plain form of a response is one of two, where it is.
    pub(crate) fn dress_plain(&self, headers: &mut HeaderMap) {
        if let Some(words) = self.route.compress.as_ref().filter(|_| !coding::is_coded(headers)) {
            coding::dress(headers, words.coding, Form::Plain);
        }
    }

    /// Makes the head of a response that of the form that a GET would get.
    pub(crate) fn dress_head(&self, head: &mut response::Parts) {
        let Some(words) = &self.route.compress else { return };
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|line| line.to_str().ok()?.parse().ok());
        let list = &self.terms.target_list;
        if let Ok(coding) = coding::admit(words, head.status, &head.headers, length, list) {
            coding::dress(&mut head.headers, coding, coding::form(&self.parts.headers, coding, false));
        }
    }

    /// Whether a part of the answer is asked for.
    pub(crate) fn asks_for_part(&self) -> bool {
        self.parts.method == Method::GET && self.parts.headers.contains_key(header::RANGE)
    }

    /// What tag templates may draw on.
    pub(crate) fn facts<'a>(&'a self, request: Json<'a>, response: Json<'a>) -> Facts<'a> {
        Facts {
            params: &self.params,
            path: &self.path,
            query: &self.query,
            headers: &self.parts.headers,
            subject: Some(&self.subject),
            request,
            response,
        }
    }

    /// The tags known before the response.
    pub(crate) fn request_tags(&self, exchange: &Exchange) -> Vec<Tag> {
        let secret = exchange.store.coherence().view().secret;
        let json = self.request_json();
        let facts = self.facts(json.as_ref().map_or(Json::Unknown, Json::Known), Json::Unknown);
        exchange.policy.tags.request_tags(&secret, &self.route, &facts)
    }

    /// The same, made when they are asked for.
    pub(crate) fn later_tags(
        self: &Arc<Self>,
        exchange: &Arc<Exchange>,
    ) -> impl FnOnce() -> Vec<Tag> + Send + use<> {
        let (wanted, exchange) = (Arc::clone(self), Arc::clone(exchange));
        move || wanted.request_tags(&exchange)
    }

    /// The keyed body as JSON.
    pub(crate) fn request_json(&self) -> Option<serde_json::Value> {
        self.body.as_ref().and_then(|b| parse_strict(b))
    }

    /// An entry of a response to this request, with the tags that both give it. `stamp` was sampled before the first
    /// byte went upstream; `received` are the response's fields as they came.
    pub(crate) fn entry(
        &self,
        exchange: &Exchange,
        stamp: Stamp,
        response: StoredResponse,
        received: &HeaderMap,
    ) -> Entry {
        let response = self.left_whole(response);
        let plan = &exchange.policy.tags;
        let request_json = self.request_json();
        let response_json = plan
            .route_needs_response(&self.route)
            .then(|| plain_json(&response, exchange.config.max_tag_body))
            .flatten();
        let facts = self.facts(
            request_json.as_ref().map_or(Json::Unknown, Json::Known),
            response_json.as_ref().map_or(Json::Unknown, Json::Known),
        );
        let secret = exchange.store.coherence().view().secret;
        let tags = plan.entry_tags(&secret, &self.route, &facts, received);
        Entry::new(self.key, &self.route.name, stamp, tags, response)
    }

    /// What is freshened together should not expire together either.
    pub(crate) fn spread(&self, response: &mut StoredResponse) {
        if self.route.jitter <= 0.0 {
            return;
        }
        let at = response.response_time();
        let stated = stated_lifetime(&response.fields().to_map(0), at, &self.terms);
        response.set_lifetimes(spread(response.lifetimes(), self.route.jitter, stated, seed(&self.key, at)));
    }

    /// A validation may say for the first time that nobody may touch the content: then it is kept as it came.
    fn left_whole(&self, response: StoredResponse) -> StoredResponse {
        let Some(coded) = response.coded() else { return response };
        if !coding::is_untouchable(&response.fields().to_map(0), &self.terms.target_list) {
            return response;
        }
        match coder::decode(coded, response.body()) {
            Ok(body) => Unpacked { body, coded: None, ..response.unpack() }.pack(),
            Err(error) => {
                tracing::error!(path = self.path, "what was coded here cannot be decoded: {error}");
                response
            }
        }
    }

    /// What varies by a field that Weir adds for each client cannot be told apart by what clients send.
    pub(crate) fn selects_among_clients(&self, selecting: &Selecting) -> Result<(), &'static str> {
        let any_host = self.route.any_host;
        let added = selecting.names().any(|name| forwarded::is_added_here(name, any_host));
        if added { Err("vary-client") } else { Ok(()) }
    }

    /// The request that fetches this for the store: normal form, whole representation, nothing that is of no
    /// influence; conditional on `validator` (`true` = a purge has voided it, so only its ETag may vouch for it).
    pub(crate) fn upstream_request(
        &self,
        exchange: &Exchange,
        validator: Option<(&StoredResponse, bool)>,
    ) -> Request<Body> {
        let mut request = Request::new(self.body.clone().map_or(Body::Empty, Body::full));
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = origin_form(&self.path, &self.query);
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        if !request.headers().contains_key(header::HOST)
            && let Some(authority) = self.parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let (mut parts, body) = request.into_parts();
        exchange.make_forwardable(&mut parts, self.peer);
        self.trim_fields(&mut parts.headers, validator);
        Request::from_parts(parts, body)
    }

    fn trim_fields(&self, headers: &mut HeaderMap, validator: Option<(&StoredResponse, bool)>) {
        subject::strip_ignored(&self.route, headers);
        // One look at each name costs less than a search for each of these; and mostly there is none.
        if headers.keys().any(is_of_client) {
            for name in &CONDITIONAL {
                headers.remove(name);
            }
            headers.remove(header::EXPECT);
            // Says per client what X-Forwarded-* says too; what is not keyed must not colour an answer.
            headers.remove(header::FORWARDED);
        }
        if self.terms.asks_uncoded {
            headers.remove(header::ACCEPT_ENCODING);
        } else {
            fields::normalise_accept_encoding(headers);
        }
        if let Some((stored, purged)) = validator {
            for (name, value) in conditional_fields(stored, purged) {
                headers.insert(name, value);
            }
        }
    }
}

/// Whether a fetch for the store leaves this field out, whatever it says.
fn is_of_client(name: &HeaderName) -> bool {
    // So do they all begin.
    matches!(name.as_str().as_bytes().first(), Some(b'e' | b'f' | b'i' | b'r'))
        && (CONDITIONAL.contains(name) || [header::EXPECT, header::FORWARDED].contains(name))
}

/// JSON of a response that may be coded here, if it is small enough to look into.
fn plain_json(response: &StoredResponse, limit: u64) -> Option<serde_json::Value> {
    match response.coded() {
        Some(coded) if coded.length > limit => None,
        Some(coded) => parse_strict(&coder::decode(coded, response.body()).ok()?),
        None => within(response.body_bytes(), limit),
    }
}
