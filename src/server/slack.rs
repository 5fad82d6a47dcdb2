//! Has the allocator give back to the system what parked connections have freed.
//!
//! mimalloc keeps free pages for a second, since giving and taking them costs, and looks for those whose second is
//! over when it makes or frees another page. A server on which all has gone quiet does neither, and would keep for
//! the night what a burst has taken. So some time after connections were parked a piece of memory that has pages of
//! its own is asked for and freed: nothing is written to it. With another allocator that is of no use, and no harm.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// The allocator's second, and a bit.
const KEPT: Duration = Duration::from_millis(1200);

/// Larger than what shares pages.
const PIECE: usize = 1 << 20;

/// Somebody has it in hand. One for the process, as is the allocator.
static PLANNED: AtomicBool = AtomicBool::new(false);

/// Taken back also where the runtime ends before its time.
struct Plan;

impl Drop for Plan {
    fn drop(&mut self) {
        PLANNED.store(false, Ordering::Release);
    }
}

/// Something was freed that may not be needed again soon.
pub(super) fn is_due() {
    if PLANNED.swap(true, Ordering::AcqRel) {
        return;
    }
    let plan = Plan;
    tokio::spawn(async move {
        sleep(KEPT).await;
        // What is freed from here on has a time of its own, and all before it is old enough at the end.
        drop(plan);
        sleep(KEPT).await;
        drop(black_box(Vec::<u8>::with_capacity(PIECE)));
    });
}
