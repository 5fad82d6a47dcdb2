//! Lines on their way to a writer that may be slow: requests leave them here, a thread of its own takes them away.
//!
//! Invariants:
//! - Whoever leaves a line never waits for the writer. What finds no room is dropped and counted.
//! - A thread that leaves lines wakes the writer once for many of them: a wake-up costs more than a line.
//! - Lines stay whole, and one thread's lines in their order.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Most lines that wait in one of the piles, and most bytes.
pub(super) const MOST_LINES: usize = 16_384;
const MOST_BYTES: usize = 8 << 20;

/// Threads keep to one pile each, so that they seldom meet at one.
const PILES: usize = 8;

/// Room that a pile keeps when it was taken away.
const KEPT: usize = 256 << 10;

/// How long lines are collected once there is one.
const COLLECTING: Duration = Duration::from_millis(20);
/// How long the end waits for the writer.
const FLUSHING: Duration = Duration::from_secs(1);

/// Takes lines.
#[derive(Debug)]
pub(super) struct Spool {
    piles: [Mutex<Pile>; PILES],
    /// The writer has been told of lines since it last looked.
    told: AtomicBool,
    asleep: Mutex<Orders>,
    orders: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pile {
    text: Vec<u8>,
    lines: usize,
}

#[derive(Debug, Default)]
struct Orders {
    lines: bool,
    end: bool,
}

/// Has what waits written when dropped, within a second.
#[derive(Debug)]
pub struct SpoolGuard {
    spool: Arc<Spool>,
    ended: Receiver<()>,
}

impl Spool {
    /// A spool, and the thread that empties it into `writer`.
    pub(super) fn start(
        mut writer: impl Write + Send + 'static,
    ) -> std::io::Result<(Arc<Spool>, SpoolGuard)> {
        let spool = Arc::new(Spool {
            piles: Default::default(),
            told: AtomicBool::new(false),
            asleep: Mutex::default(),
            orders: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let (end, ended) = channel();
        let emptied = Arc::clone(&spool);
        std::thread::Builder::new().name("weir-access-log".to_owned()).spawn(move || {
            emptied.empty_into(&mut writer);
            // Whoever waited for this may have given up.
            let _ = end.send(());
        })?;
        Ok((Arc::clone(&spool), SpoolGuard { spool, ended }))
    }

    /// Leaves one line.
    pub(super) fn leave(&self, line: &[u8]) {
        let mut pile = self.piles[mine()].lock();
        if pile.lines >= MOST_LINES || pile.text.len() + line.len() > MOST_BYTES {
            drop(pile);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pile.text.extend_from_slice(line);
        pile.lines += 1;
        drop(pile);
        if !self.told.load(Ordering::Acquire) && !self.told.swap(true, Ordering::AcqRel) {
            self.asleep.lock().lines = true;
            self.orders.notify_one();
        }
    }

    /// Lines that found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn empty_into(&self, writer: &mut impl Write) {
        let mut taken = Vec::new();
        loop {
            let end = self.wait();
            // Before the piles are looked into: what is left after that tells again.
            self.told.store(false, Ordering::Release);
            for pile in &self.piles {
                {
                    let mut pile = pile.lock();
                    std::mem::swap(&mut pile.text, &mut taken);
                    pile.lines = 0;
                }
                self.write(writer, &taken);
                taken.clear();
                taken.shrink_to(KEPT);
            }
            let _ = writer.flush();
            if end {
                return;
            }
        }
    }

    /// Writes whole lines, however long that takes. What cannot be written counts as dropped.
    fn write(&self, writer: &mut impl Write, mut lines: &[u8]) {
        while !lines.is_empty() {
            match writer.write(lines) {
                Ok(n) if n > 0 => lines = &lines[n.min(lines.len())..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe that somebody has set not to wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut orders = self.asleep.lock();
                    if orders.end {
                        return self.lose(lines);
                    }
                    self.orders.wait_for(&mut orders, COLLECTING);
                }
                Ok(_) | Err(_) => return self.lose(lines),
            }
        }
    }

    fn lose(&self, lines: &[u8]) {
        let lost = lines.iter().filter(|b| **b == b'\n').count();
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// Until there are lines, and then a little for more of them; at once at the end (`true`).
    fn wait(&self) -> bool {
        let mut orders = self.asleep.lock();
        while !orders.lines && !orders.end {
            self.orders.wait(&mut orders);
        }
        if !orders.end {
            self.orders.wait_for(&mut orders, COLLECTING);
        }
        orders.lines = false;
        orders.end
    }
}

impl Drop for SpoolGuard {
    fn drop(&mut self) {
        self.spool.asleep.lock().end = true;
        self.spool.orders.notify_one();
        // A writer that is stuck is left to itself.
        let _ = self.ended.recv_timeout(FLUSHING);
    }
}

/// The calling thread's pile.
fn mine() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // A thread on its way out has no locals any more.
    THREAD.try_with(|thread| *thread).unwrap_or(0) % PILES
}
