//! One connection's exchanges: each request is settled, handed to the handler, and answered; at once where the handler can.
//!
//! Invariants:
//! - What is answered at once never becomes a future: hyper keeps a value of a few words for it, and nothing is moved
//!   about but the response itself.
//! - On HTTP/2, what is not whole at once begins in its stream's own task, and keeps no other stream of its connection
//!   waiting: hyper's connection looks at a stream itself first (`multiplex`).
//! - A panic of the handler is a 500, not the end of the process.

use std::any::Any;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::time::timeout;

use super::activity::{Activity, Answer, Exchanging};
use super::check::{Refusal, ambiguous, problem, settle};
use super::{Answering, Handler, Hold, Later, Peer, Whole, Written};
use crate::body::Body;
use crate::interim::{Interim, Line};

/// What the exchanges of one connection have in common.
pub(super) struct Exchanges<H> {
    pub(super) handler: Arc<H>,
    pub(super) peer: Peer,
    pub(super) hold: Hold,
    pub(super) activity: Arc<Activity>,
    pub(super) line: Arc<Line>,
    /// How long content is waited for that should not be there.
    pub(super) patience: Duration,
}

/// Them, as hyper calls on them.
pub(super) struct Serving<H> {
    exchanges: Arc<Exchanges<H>>,
    /// The reply to its first request, if that was asked about before hyper came.
    carried: Cell<Option<Reply>>,
}

impl<H> Serving<H> {
    pub(super) fn new(exchanges: Arc<Exchanges<H>>, carried: Option<Reply>) -> Serving<H> {
        Serving { exchanges, carried: Cell::new(carried) }
    }
}

/// What hyper waits for.
pub(super) enum Reply {
    Now(Option<Response<Answer>>),
    Later(Coming),
    /// What begins when it is asked for the second time.
    Apart(Option<Coming>),
}

type Coming = Pin<Box<dyn Future<Output = Response<Answer>> + Send>>;

impl Reply {
    fn later(version: Version, response: Coming) -> Reply {
        if version == Version::HTTP_2 { Reply::Apart(Some(response)) } else { Reply::Later(response) }
    }

    fn now(version: Version, response: Response<Answer>) -> Reply {
        if version == Version::HTTP_2 && !response.body().is_here() {
            return Reply::Apart(Some(Box::pin(std::future::ready(response))));
        }
        Reply::Now(Some(response))
    }
}

impl Future for Reply {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            // Not polled again once it has answered.
            Reply::Now(response) => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Reply::Later(response) => response.as_mut().poll(cx).map(Ok),
            Reply::Apart(response) => {
                if let Some(response) = response.take() {
                    *this = Reply::Later(response);
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// What a plain request is answered with.
pub(super) enum Given {
    Written(Written, Exchanging),
    Reply(Reply),
}

/// A plain request as a handler is given it; none if no handler is.
pub(super) fn as_handled(request: &Request<()>) -> Option<request::Parts> {
    let mut handled = request.clone();
    if ambiguous(&handled).is_some() {
        return None;
    }
    settled(&mut handled);
    Some(handled.into_parts().0)
}

fn settled<B>(request: &mut Request<B>) {
    let mut uri = std::mem::take(request.uri_mut());
    settle(&mut uri, request.headers_mut());
    *request.uri_mut() = uri;
}

/// A request under way: what its answer depends on.
struct Underway {
    exchange: Exchanging,
    version: Version,
    interim: Interim,
}

impl<H: Handler> Service<Request<Incoming>> for Serving<H> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Reply;

    fn call(&self, request: Request<Incoming>) -> Reply {
        self.carried.take().unwrap_or_else(|| self.exchanges.reply(request.map(content)))
    }
}

/// A request's content, which mostly is none.
fn content(incoming: Incoming) -> Body {
    if incoming.is_end_stream() { Body::Empty } else { Body::stream(incoming) }
}

impl<H: Handler> Exchanges<H> {
    /// What a request is answered with.
    pub(super) fn reply(self: &Arc<Self>, mut request: Request<Body>) -> Reply {
        if request.headers().contains_key(UPGRADE) {
            self.activity.names_another();
            request.extensions_mut().insert(self.hold.clone());
        }
        let version = request.version();
        let underway = self.begin(version);
        if let Some(refusal) = ambiguous(&request) {
            return Reply::Now(Some(self.refuse(refusal, underway)));
        }
        if denies_its_content(&request) {
            let response = Arc::clone(self).after_content(request, underway);
            return Reply::later(version, Box::pin(response));
        }
        self.answered(self.ask(request, &underway.interim), underway)
    }

    /// What a plain request is answered with.
    pub(super) fn plain(self: &Arc<Self>, mut request: Request<()>) -> Given {
        let underway = self.begin(Version::HTTP_11);
        if let Some(refusal) = ambiguous(&request) {
            return Given::Reply(Reply::Now(Some(self.refuse(refusal, underway))));
        }
        settled(&mut request);
        let (head, ()) = request.into_parts();
        let ask = || self.handler.handle_plain(head, self.peer, &underway.interim);
        let answering = self.guarded(ask, |failed| Answering::Now(Whole::Response(failed)));
        self.given(answering, underway)
    }

    /// What one is answered with that came before, as it was given to the handler then. `None`: nobody can say without
    /// being given it again.
    pub(super) fn repeat(self: &Arc<Self>, request: &Arc<request::Parts>) -> Option<Given> {
        let underway = self.begin(Version::HTTP_11);
        let ask = || self.handler.handle_again(request, self.peer, &underway.interim);
        let answering = self.guarded(ask, |failed| Some(Answering::Now(Whole::Response(failed))))?;
        Some(self.given(answering, underway))
    }

    /// A request was read. Only here is it known whether all before it has been written.
    fn begin(&self, version: Version) -> Underway {
        let interim = if version == Version::HTTP_11 { self.line.begin() } else { Interim::default() };
        Underway { exchange: self.activity.exchange(), version, interim }
    }

    fn given(self: &Arc<Self>, answering: Answering<Whole>, underway: Underway) -> Given {
        Given::Reply(match answering {
            Answering::Now(Whole::Written(written)) => {
                underway.interim.end();
                return Given::Written(written, underway.exchange);
            }
            Answering::Now(Whole::Response(response)) => self.answered(Answering::Now(response), underway),
            Answering::Later(response) => self.answered(Answering::Later(response), underway),
        })
    }

    fn answered(self: &Arc<Self>, answering: Answering, underway: Underway) -> Reply {
        let version = underway.version;
        match answering {
            Answering::Now(response) => Reply::now(version, self.send(response, underway)),
            Answering::Later(response) => {
                Reply::later(version, Box::pin(Arc::clone(self).after(response, underway)))
            }
        }
    }

    /// Asks the handler about a request that has one meaning.
    fn ask(&self, mut request: Request<Body>, interim: &Interim) -> Answering {
        settled(&mut request);
        self.guarded(|| self.handler.handle(request, self.peer, interim), Answering::Now)
    }

    /// What the handler says, or what is said for it where it panics.
    fn guarded<T>(&self, ask: impl FnOnce() -> T, failed: impl FnOnce(Response<Body>) -> T) -> T {
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|panic| failed(self.panicked(&*panic)))
    }

    async fn after(self: Arc<Self>, response: Later, underway: Underway) -> Response<Answer> {
        let response = AssertUnwindSafe(response).catch_unwind().await;
        self.send(response.unwrap_or_else(|panic| self.panicked(&*panic)), underway)
    }

    async fn after_content(
        self: Arc<Self>,
        mut request: Request<Body>,
        underway: Underway,
    ) -> Response<Answer> {
        if timeout(self.patience, has_content(&mut request)).await.unwrap_or(true) {
            return self.refuse(Refusal::Content, underway);
        }
        match self.ask(request, &underway.interim) {
            Answering::Now(response) => self.send(response, underway),
            Answering::Later(response) => self.after(response, underway).await,
        }
    }

    fn refuse(&self, refusal: Refusal, underway: Underway) -> Response<Answer> {
        tracing::debug!(client = %self.peer.addr, reason = refusal.token(), "refused a request");
        self.send(refusal.answer(underway.version), underway)
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Response<Body> {
        let text = panic.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        tracing::error!(client = %self.peer.addr, panic = text, "the handler panicked");
        let sentence = "Weir failed on this request; its log says how.";
        problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", sentence)
    }

    /// Gives the answer to hyper.
    fn send(&self, mut response: Response<Body>, underway: Underway) -> Response<Answer> {
        let Underway { exchange, version, interim } = underway;
        interim.end();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.activity.tunnels();
        }
        // Weir's own version, whatever the upstream's; hyper lowers it for older clients.
        *response.version_mut() = Version::HTTP_11;
        if version == Version::HTTP_10
            && !response.body().is_end_stream()
            && response.body().size_hint().exact().is_none()
        {
            self.activity.close_delimited();
        }
        response.map(|body: Body| Answer::new(body, exchange))
    }
}

/// Whether an HTTP/2 request may have content although its length says that there is none. Elsewhere the upstream sees a
/// message break off; without content there is nothing to break.
fn denies_its_content(request: &Request<Body>) -> bool {
    let says_none =
        || request.headers().get(CONTENT_LENGTH).is_some_and(|n| n.as_bytes().iter().all(|b| *b == b'0'));
    request.version() == Version::HTTP_2 && !request.body().is_end_stream() && says_none()
}

/// Such content is none, or makes the request malformed (RFC 9113 §8.1.1).
async fn has_content(request: &mut Request<Body>) -> bool {
    while let Some(frame) = request.body_mut().frame().await {
        if !frame.is_ok_and(|frame| frame.data_ref().is_none_or(Bytes::is_empty)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;
    use crate::body::BodyError;
    use crate::woken::Woken;

    fn answer(body: Body) -> Response<Answer> {
        let activity = Activity::new(Duration::from_secs(1), Duration::from_secs(1));
        Response::new(Answer::new(body, activity.exchange()))
    }

    /// Whether a reply is there at the first look and, if not, how often who looks is woken, and whether it is there then.
    fn looks(mut reply: Reply) -> (bool, usize, bool) {
        let (woken, waker) = Woken::counted();
        let mut look = || Pin::new(&mut reply).poll(&mut Context::from_waker(&waker)).is_ready();
        let first = look();
        (first, woken.times(), first || look())
    }

    #[test]
    fn on_http2_what_is_not_whole_at_once_is_not_begun_by_the_first_look() {
        let begun = Arc::<AtomicUsize>::default();
        let later = |version| {
            let begun = Arc::clone(&begun);
            Reply::later(
                version,
                Box::pin(async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    answer(Body::Empty)
                }),
            )
        };
        let mut apart = later(Version::HTTP_2);
        assert!(Pin::new(&mut apart).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(begun.load(Ordering::SeqCst), 0, "a signature may have to be verified");
        assert!(Pin::new(&mut apart).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(looks(later(Version::HTTP_2)), (false, 1, true));
        assert_eq!(looks(later(Version::HTTP_11)), (true, 0, true));
        let streamed = || Body::stream(StreamBody::new(stream::empty::<Result<_, BodyError>>()));
        assert_eq!(looks(Reply::now(Version::HTTP_2, answer(streamed()))), (false, 1, true));
        assert_eq!(looks(Reply::now(Version::HTTP_11, answer(streamed()))), (true, 0, true));
        for here in [Body::Empty, Body::full("content"), Body::Head(7)] {
            assert_eq!(looks(Reply::now(Version::HTTP_2, answer(here))), (true, 0, true));
        }
    }
}
