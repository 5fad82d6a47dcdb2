//! A connection that is driven by whoever has an exchange on it, in that one's own task.
//!
//! ```text
//!  exchange's task ─► poll ─► step (what has come?) ─► drive (sockets, hyper's state) ─► step ─► …
//!                       │                                                                 │
//!                       └───────────── Bell: rings while this goes on are noted ◄─────────┘
//! ```
//!
//! hyper gives a connection as a future beside its handle, to be run in a task of its own. Then each exchange wakes that
//! task three times, and is woken by it three times, mostly on another core. Driven in place, an answer that comes in
//! one piece is one wake-up: the socket's.
//!
//! Invariants:
//! - Nothing waits for a connection that nobody drives: who waits for something of it polls it, and idle ones are asked
//!   for their state by [`Driver::is_over`] and [`Driver::settle`].
//! - No wake-up is lost: a ring from elsewhere while the connection is polled makes it be polled again.
//! - A connection that must go on by itself (an upload that outlasts its response's head, an upgrade) gets a task
//!   ([`Driver::detach`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;

/// The future that reads and writes for one connection. It ends with the connection, or with an upgrade.
pub(super) type Driven = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often one poll drives the connection because of what happened while it was driven. hyper asks to be polled again
/// when it has had its turn; others must have theirs.
const ROUNDS: usize = 3;

/// Drives one connection, or knows the task that does. Dropped, it closes the connection.
pub(super) struct Driver {
    engine: Engine,
    bell: Arc<Bell>,
    /// Rings the bell. One for the life of the connection, so that nobody has to clone it anew.
    waker: Waker,
}

enum Engine {
    /// Whoever polls drives.
    Here(Driven),
    /// A task does.
    Task(AbortHandle),
    /// The connection has ended, or runs on without its handle.
    Gone,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let engine = match self.engine {
            Engine::Here(_) => "here",
            Engine::Task(_) => "task",
            Engine::Gone => "gone",
        };
        f.debug_struct("Driver").field("engine", &engine).finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(connection: Driven) -> Driver {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Driver { engine: Engine::Here(connection), bell, waker }
    }

    /// Polls `step`, which waits for something that comes by way of this connection, and drives the connection for it.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Engine::Here(connection) = &mut self.engine else { return step(cx) };
        let mut inner = Context::from_waker(&self.waker);
        self.bell.wakes(cx.waker());
        for _ in 0..ROUNDS {
            self.bell.hush();
            let mut polled = step(&mut inner);
            if polled.is_pending() {
                let over = connection.as_mut().poll(&mut inner).is_ready();
                polled = step(&mut inner);
                if over {
                    self.engine = Engine::Gone;
                    self.bell.listen();
                    // Its end has told whoever waited for anything of it.
                    return if polled.is_ready() { polled } else { step(cx) };
                }
            }
            let rang = self.bell.listen();
            if polled.is_ready() {
                // What rang was heard, or will be found by the next poll.
                return polled;
            }
            if !rang {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the connection has ended. Finds out.
    pub(super) fn is_over(&mut self) -> bool {
        self.settle();
        match &self.engine {
            Engine::Gone => true,
            Engine::Here(_) => false,
            Engine::Task(task) => task.is_finished(),
        }
    }

    /// Whether nobody drives it but who polls.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.engine, Engine::Here(_))
    }

    /// Lets the connection do what is left to do, for nobody in particular.
    pub(super) fn settle(&mut self) {
        if let Engine::Here(connection) = &mut self.engine {
            self.bell.hush();
            let over = connection.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready();
            self.bell.listen();
            if over {
                self.engine = Engine::Gone;
            }
        }
    }

    /// The exchange is over: what happens to the connection from now on wakes nobody.
    pub(super) fn rest(&self) {
        self.bell.forget();
    }

    /// Gives the connection a task of its own, which still ends with this handle.
    pub(super) fn detach(&mut self) {
        self.engine = match std::mem::replace(&mut self.engine, Engine::Gone) {
            Engine::Here(connection) => Engine::Task(tokio::spawn(connection).abort_handle()),
            detached => detached,
        };
    }

    /// Lets the connection run to its end in a task of its own: others hold what is left of it.
    pub(super) fn release(mut self) {
        self.detach();
        self.engine = Engine::Gone;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Engine::Task(task) = &self.engine {
            task.abort();
        }
    }
}

const LISTENING: u8 = 0;
const HUSHED: u8 = 1;
const RANG: u8 = 2;

/// Wakes the exchange's task, or, while that is polling the connection anyway, notes that it should look again.
#[derive(Debug, Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    /// This task is to be woken from now on.
    fn wakes(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Nobody is.
    fn forget(&self) {
        drop(self.task.take());
    }

    /// From now on rings are noted.
    fn hush(&self) {
        self.state.store(HUSHED, Ordering::SeqCst);
    }

    /// From now on rings wake the task. Whether any was noted.
    fn listen(&self) -> bool {
        self.state.swap(LISTENING, Ordering::SeqCst) == RANG
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted =
            self.state.compare_exchange(HUSHED, RANG, Ordering::SeqCst, Ordering::SeqCst).map_or_else(
                // Noted before, or nobody is about to look.
                |state| state == RANG,
                |_| true,
            );
        if !noted {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::ready;

    use super::*;
    use crate::woken::Woken;

    /// A connection that does this whenever it is driven.
    fn driven(mut poll: impl FnMut(&mut Context<'_>) -> Poll<()> + Send + 'static) -> Driver {
        Driver::new(Box::pin(std::future::poll_fn(move |cx| poll(cx))))
    }

    #[test]
    fn what_rings_while_it_is_driven_wakes_nobody_and_is_looked_into() {
        let (count, waker) = Woken::counted();
        let rounds = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&rounds);
        let mut driver = driven(move |cx| {
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        let polled: Poll<()> = driver.poll(&mut Context::from_waker(&waker), |_| Poll::Pending);
        assert!(polled.is_pending());
        assert_eq!((rounds.load(Ordering::SeqCst), count.times()), (2, 0));
    }

    #[test]
    fn what_rings_afterwards_wakes_whoever_polled_last() {
        let (first, first_waker) = Woken::counted();
        let (second, second_waker) = Woken::counted();
        let mut driver = driven(|_| Poll::Pending);
        for waker in [&first_waker, &second_waker] {
            let _: Poll<()> = driver.poll(&mut Context::from_waker(waker), |_| Poll::Pending);
        }
        driver.waker.wake_by_ref();
        assert_eq!((first.times(), second.times()), (0, 1));
        driver.rest();
        driver.waker.wake_by_ref();
        assert_eq!(second.times(), 1, "it rests");
    }

    #[test]
    fn one_that_never_stops_ringing_lets_others_have_their_turn() {
        let (count, waker) = Woken::counted();
        let mut driver = driven(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let polled: Poll<()> = driver.poll(&mut Context::from_waker(&waker), |_| Poll::Pending);
        assert!(polled.is_pending());
        assert_eq!(count.times(), 1, "and comes back");
    }

    #[test]
    fn the_end_of_the_connection_is_told_and_it_is_not_driven_again() {
        let (_, waker) = Woken::counted();
        let mut ends = 0;
        let mut driver = driven(move |_| {
            ends += 1;
            assert_eq!(ends, 1, "driven after its end");
            Poll::Ready(())
        });
        let mut told = 0;
        let polled = driver.poll(&mut Context::from_waker(&waker), |_| {
            told += 1;
            if told > 1 { Poll::Ready(told) } else { Poll::Pending }
        });
        assert_eq!(polled, Poll::Ready(2));
        assert!(driver.is_over());
        let again = driver.poll(&mut Context::from_waker(&waker), |_| Poll::Ready(()));
        assert!(again.is_ready());
    }

    #[test]
    fn a_ring_from_another_thread_is_never_lost() {
        use std::sync::mpsc;
        // The connection has work whenever the other thread has counted one more; it must see the last.
        let work = Arc::new(AtomicUsize::new(0));
        let (bells, got) = mpsc::channel::<Waker>();
        let last = 20_000;
        let counted = Arc::clone(&work);
        let ringer = std::thread::spawn(move || {
            let Ok(waker) = got.recv() else { return };
            for _ in 0..last {
                counted.fetch_add(1, Ordering::SeqCst);
                waker.wake_by_ref();
            }
        });
        let seen = Arc::new(AtomicUsize::new(0));
        let (seen_here, mut told) = (Arc::clone(&seen), false);
        let mut driver = driven(move |cx| {
            if !std::mem::replace(&mut told, true) {
                let _ = bells.send(cx.waker().clone());
            }
            seen_here.store(work.load(Ordering::SeqCst), Ordering::SeqCst);
            Poll::Pending
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let waited = runtime.block_on(async {
            let all = std::future::poll_fn(|cx| {
                driver.poll(cx, |_| match seen.load(Ordering::SeqCst) {
                    n if n == last => Poll::Ready(()),
                    _ => Poll::Pending,
                })
            });
            tokio::time::timeout(std::time::Duration::from_secs(30), all).await
        });
        waited.expect("a ring was lost");
        ringer.join().unwrap();
    }

    #[tokio::test]
    async fn a_detached_one_runs_until_its_handle_goes() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.take().map(|told| told.send(()));
            }
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let (go, mut gone) = tokio::sync::oneshot::channel::<()>();
        let told_at_end = Told(Some(tell));
        let mut driver = driven(move |cx| {
            let _held = &told_at_end;
            let _ = ready!(Pin::new(&mut gone).poll(cx));
            Poll::Pending
        });
        driver.detach();
        driver.detach();
        assert!(!driver.is_over());
        drop(driver);
        told.await.expect("the connection is dropped");
        drop(go);
    }
}
