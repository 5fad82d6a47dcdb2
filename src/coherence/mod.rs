//! The order of purges (DESIGN §4): epoch, floor, marks, applied sequence: one object, swapped whole.
//!
//! Pure: no I/O and no clock. The log itself (in process or in Redis) is `store`'s; it hands events here in
//! order, and everyone who wants to reuse an entry asks here whether it is still live.

pub mod event;
pub mod lease;
pub mod marks;
pub mod tally;
pub mod view;

pub use event::{Event, EventKind};
pub use lease::{Agreement, Alone, MemberId, Membership, Mode, Roster};
pub use view::{Coherence, Draft, Epoch, Liveness, Stamp, View, Void};
