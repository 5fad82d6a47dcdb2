//! The short exchange with a client: a plain request, and an answer that is whole in memory.
//!
//! ```text
//!  read ─► plain, whole, and not a byte more ─► handler ─► wait for it ─► whole in memory ─► write ─► read …
//!    └────────── anything else ────────────────────────────────┴──────────────┴──► hyper's, with the reply if there is one
//! ```
//!
//! hyper's server is made for every exchange there is; a GET without content that is answered from memory is most of them,
//! and needs one read, one look at the head and one write. Nothing is kept between two of those: a connection
//! that rests here is a socket.
//!
//! Invariants:
//! - What is answered here is, byte for byte, what hyper would have answered, who closes its half with its request
//!   excepted: hyper says nothing to it, and here it gets what is there at once. What might not be is not judged here, not even to
//!   refuse it: other methods, versions and forms of a target, content, fields with a say about the connection, heads
//!   that cannot be read or are not whole at once, requests behind one another, answers that stream or end the connection.
//! - hyper comes in at the beginning of a request, all of which it reads. The handler is asked once: its reply goes along.
//! - No byte of an answer is written here that hyper would write, too.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Request, Response, request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Handler;
use super::activity::{Answer, Exchanging};
use super::exchanges::{Exchanges, Given, Reply, as_handled};
use super::wire::Wire;
pub use head::{HeadLines, Written};
use known::{Known, known};

mod head;
mod known;

/// The longest head that is read here, bytes.
const LONGEST: usize = 8 << 10;

thread_local! {
    /// What is read, until it is known how much that is.
    static CAME: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into());
    /// A head that is about to be written.
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection's exchanges, as long as they are short.
///
/// Dropped in this order: the wire tells by the exchange that is under way whether its end is one that the client may take for
/// a good one.
pub(super) struct Short<H> {
    wire: Wire,
    exchanges: Arc<Exchanges<H>>,
    /// The longest head, bytes.
    longest: usize,
    at: At,
    leaves: bool,
}

/// What a connection is about.
enum At {
    /// To read a request.
    Rest,
    /// To be answered: a request, as it came, and its reply.
    Asked { came: Bytes, of_head: bool, reply: Reply },
    /// To take the rest of its answer.
    Answered(Left),
    /// To be closed.
    End,
}

/// What is left to be written of an answer.
struct Left {
    head: Bytes,
    content: Bytes,
    exchange: Exchanging,
}

/// How short exchanges end.
pub(super) enum Over {
    /// With the connection.
    Ended,
    /// The connection is hyper's, and so is the reply to the request that it will read.
    Hypers(Option<Reply>),
}

impl<H: Handler> Short<H> {
    pub(super) fn new(wire: Wire, exchanges: Arc<Exchanges<H>>, max_header_bytes: usize) -> Short<H> {
        Short { wire, exchanges, longest: max_header_bytes.min(LONGEST - 1), at: At::Rest, leaves: false }
    }

    /// Has it end at the next opportunity.
    pub(super) fn leave(self: Pin<&mut Self>) {
        self.get_mut().leaves = true;
    }

    /// The socket, when they are over.
    pub(super) fn into_wire(self) -> Wire {
        self.wire
    }

    /// hyper reads this, before whatever comes next.
    fn hand_over(&mut self, came: Bytes, reply: Option<Reply>) -> Over {
        self.wire.give_back(came);
        Over::Hypers(reply)
    }

    /// What comes next, as `take` takes it; `None` at the end.
    fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        CAME.with_borrow_mut(|room| {
            let mut came = ReadBuf::new(room);
            ready!(Pin::new(&mut self.wire).poll_read(cx, &mut came))?;
            let came = came.filled();
            Poll::Ready(Ok((!came.is_empty()).then(|| take(came))))
        })
    }

    /// A request, and its answer if that is there at once.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Over>>> {
        if self.leaves {
            self.at = At::End;
            return Poll::Ready(Ok(None));
        }
        let longest = self.longest;
        let take =
            |came: &[u8]| known().find(came, longest).map_err(|hash| (hash, Bytes::copy_from_slice(came)));
        match ready!(self.poll_read(cx, take))? {
            None => {
                self.at = At::End;
                Poll::Ready(Ok(None))
            }
            // What is found is there.
            Some(Ok(found)) => {
                found.as_deref().map_or(Poll::Ready(Ok(None)), |(_, known)| self.poll_known(cx, known))
            }
            Some(Err((hash, came))) => self.poll_new(cx, hash, came),
        }
    }

    /// The answer to a request that came before.
    fn poll_known(&mut self, cx: &mut Context<'_>, known: &Known) -> Poll<io::Result<Option<Over>>> {
        let given = self.exchanges.repeat(&known.request);
        let anew = || self.exchanges.plain(Request::from_parts(request::Parts::clone(&known.request), ()));
        let given = given.unwrap_or_else(anew);
        self.poll_given(cx, known.came.clone(), known.of_head, given)
    }

    /// The answer to one that did not.
    fn poll_new(&mut self, cx: &mut Context<'_>, hash: u128, came: Bytes) -> Poll<io::Result<Option<Over>>> {
        let plain = Some(&came).filter(|came| came.len() <= self.longest).and_then(head::read);
        let Some((request, of_head)) = plain else {
            return Poll::Ready(Ok(Some(self.hand_over(came, None))));
        };
        known().remember(hash, &came, || {
            let request = Arc::new(as_handled(&request)?);
            Some(Known { came: came.clone(), of_head, request })
        });
        let given = self.exchanges.plain(request);
        self.poll_given(cx, came, of_head, given)
    }

    fn poll_given(
        &mut self,
        cx: &mut Context<'_>,
        came: Bytes,
        of_head: bool,
        given: Given,
    ) -> Poll<io::Result<Option<Over>>> {
        let mut reply = match given {
            Given::Reply(reply) => reply,
            Given::Written(Written { head, content }, exchange) => {
                return Poll::Ready(self.write(cx, &head, content, exchange).map(|()| None));
            }
        };
        match Pin::new(&mut reply).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(self.answer(cx, came, of_head, response)),
            Poll::Pending => {
                self.at = At::Asked { came, of_head, reply };
                self.poll_client(cx)
            }
        }
    }

    /// The answer to a request that has waited for it.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Over>>> {
        let At::Asked { reply, .. } = &mut self.at else { return Poll::Ready(Ok(None)) };
        if self.leaves {
            return self.poll_hand_over(None);
        }
        let Poll::Ready(Ok(response)) = Pin::new(reply).poll(cx) else { return self.poll_client(cx) };
        let At::Asked { came, of_head, .. } = std::mem::replace(&mut self.at, At::Rest) else {
            return Poll::Ready(Ok(None));
        };
        Poll::Ready(self.answer(cx, came, of_head, response))
    }

    /// What the client does while it waits: it is told what its answer's interim responses say, and may have left.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Over>>> {
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.wire).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        match ready!(self.poll_read(cx, Bytes::copy_from_slice))? {
            // Nobody is interested any more. The reply goes with what it holds.
            None => Poll::Ready(Ok(Some(Over::Ended))),
            more => self.poll_hand_over(more),
        }
    }

    /// Gives hyper the request that is waiting, with what came behind it.
    fn poll_hand_over(&mut self, more: Option<Bytes>) -> Poll<io::Result<Option<Over>>> {
        let At::Asked { came, reply, .. } = std::mem::replace(&mut self.at, At::Rest) else {
            return Poll::Ready(Ok(None));
        };
        let came = match more {
            Some(more) => [came, more].concat().into(),
            None => came,
        };
        Poll::Ready(Ok(Some(self.hand_over(came, Some(reply)))))
    }

    /// Writes an answer, if it is one that is written here.
    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        came: Bytes,
        of_head: bool,
        mut response: Response<Answer>,
    ) -> io::Result<Option<Over>> {
        HEAD.with_borrow_mut(|head| {
            head.clear();
            if !head::write(&response, response.body().body(), of_head, head) {
                return Ok(Some(self.hand_over(came, Some(Reply::Now(Some(response))))));
            }
            head::forget(&mut response);
            let (content, exchange) = response.into_body().into_parts();
            self.write(cx, head, content, exchange).map(|()| None)
        })
    }

    /// Writes an answer as far as the socket takes it now.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        content: Bytes,
        exchange: Exchanging,
    ) -> io::Result<()> {
        let taken = match self.poll_write(cx, head, &content) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        let mut rest = head.chain(content);
        rest.advance(taken);
        if rest.has_remaining() || Pin::new(&mut self.wire).poll_flush(cx)?.is_pending() {
            let (head, content) = rest.into_inner();
            self.at = At::Answered(Left { head: Bytes::copy_from_slice(head), content, exchange });
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, head: &[u8], content: &[u8]) -> Poll<io::Result<usize>> {
        let wire = Pin::new(&mut self.wire);
        match (head.is_empty(), content.is_empty()) {
            (false, false) => wire.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(content)]),
            (false, true) => wire.poll_write(cx, head),
            (true, _) => wire.poll_write(cx, content),
        }
    }

    /// The rest of an answer.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let At::Answered(Left { head, content, exchange }) = std::mem::replace(&mut self.at, At::Rest) else {
            return Poll::Ready(Ok(()));
        };
        let mut rest = head.chain(content);
        while rest.has_remaining() {
            match self.poll_write(cx, rest.first_ref(), rest.last_ref())? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(taken) => rest.advance(taken),
                Poll::Pending => break,
            }
        }
        if !rest.has_remaining() && Pin::new(&mut self.wire).poll_flush(cx)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let (head, content) = rest.into_inner();
        self.at = At::Answered(Left { head, content, exchange });
        Poll::Pending
    }
}

impl<H: Handler> Future for Short<H> {
    type Output = io::Result<Over>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Over>> {
        let this = self.get_mut();
        loop {
            let over = match &this.at {
                At::Rest => ready!(this.poll_rest(cx))?,
                At::Asked { .. } => ready!(this.poll_asked(cx))?,
                At::Answered(_) => {
                    ready!(this.poll_answered(cx))?;
                    None
                }
                At::End => {
                    ready!(Pin::new(&mut this.wire).poll_shutdown(cx))?;
                    Some(Over::Ended)
                }
            };
            if let Some(over) = over {
                return Poll::Ready(Ok(over));
            }
        }
    }
}

#[cfg(test)]
mod tests;
