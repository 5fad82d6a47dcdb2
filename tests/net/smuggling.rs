//! Messages that two readers could read differently, sent to the real binary: each is refused, closed upon, or
//! forwarded with one plain framing. docs/conformance.md shows the tables; every row there is a case here.

mod backend;
mod http2;
mod requests;
mod responses;
