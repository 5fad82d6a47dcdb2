//! Questions of many requests, gathered so that one round trip carries them all.
//!
//! ```text
//!  request ─┐                      ┌─ answer
//!  request ─┼─ add ─ … ─ gathered ─┼─ answer
//!  request ─┘    (one scheduler turn)  └─ answer
//! ```
//!
//! Each thread has a place of its own, so that threads do not wait for one another. Whoever finds its place empty has it
//! emptied by a task, which first stands back until the other requests that are ready have had their turn: the busier
//! the server, the more share a round trip. No timer is involved, so a request that is alone waits for nobody.
//!
//! Invariant: what is added is taken exactly once, by the task that the first addition after the last taking asked for.
//! That task is nobody's: a request that is given up takes nothing away from others.

use std::cell::Cell;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// What has been added and not been taken, by thread.
#[derive(Debug)]
pub struct Gather<T>(Arc<[Mutex<Vec<T>>]>);

/// The duty to take what is at a place. Dropped, it takes all the same: what waits there is dropped with it, rather than
/// waiting for ever.
#[derive(Debug)]
#[must_use = "what nobody takes is never answered"]
pub struct Taker<T> {
    places: Arc<[Mutex<Vec<T>>]>,
    /// `None` = it is done.
    place: Option<usize>,
}

impl<T> Gather<T> {
    /// With so many places, at least one.
    pub fn new(places: usize) -> Gather<T> {
        Gather((0..places.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Adds at this thread's place. `Some` = nobody has been asked yet to take what is there: the caller has to.
    pub fn add(&self, items: impl IntoIterator<Item = T>) -> Option<Taker<T>> {
        let place = thread() % self.0.len();
        let mut waiting = self.0.get(place)?.lock();
        let first = waiting.is_empty();
        waiting.extend(items);
        (first && !waiting.is_empty()).then(|| Taker { places: Arc::clone(&self.0), place: Some(place) })
    }
}

impl<T> Taker<T> {
    /// All that is there once the other tasks that are ready now have had their turn.
    pub async fn gathered(mut self) -> Vec<T> {
        tokio::task::yield_now().await;
        self.take()
    }

    fn take(&mut self) -> Vec<T> {
        let waiting = self.place.take().and_then(|place| self.places.get(place));
        waiting.map(|waiting| mem::take(&mut *waiting.lock())).unwrap_or_default()
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.take();
    }
}

/// A number of this thread's own, counted from 0.
fn thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<Option<usize>> = const { Cell::new(None) });
    MINE.with(|mine| match mine.get() {
        Some(number) => number,
        None => {
            let number = THREADS.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_that_are_ready_together_are_taken_together() {
        let gather = Arc::new(Gather::new(2));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let requests: Vec<_> = (0..50)
            .map(|n| {
                let (gather, taken) = (Arc::clone(&gather), Arc::clone(&taken));
                tokio::spawn(async move {
                    if let Some(taker) = gather.add([n]) {
                        tokio::spawn(async move {
                            let all = taker.gathered().await;
                            taken.lock().push(all);
                        });
                    }
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        while taken.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*taken.lock(), [(0..50).collect::<Vec<_>>()]);
    }

    #[tokio::test]
    async fn each_taking_is_asked_for_once() {
        let gather = Gather::new(1);
        let taker = gather.add(["a"]).unwrap();
        assert!(gather.add(["b", "c"]).is_none(), "somebody takes them already");
        assert_eq!(taker.gathered().await, ["a", "b", "c"]);
        assert!(gather.add([]).is_none(), "nothing to take");
        assert_eq!(gather.add(["d"]).unwrap().gathered().await, ["d"]);
    }

    #[test]
    fn what_a_lost_task_was_to_take_is_dropped_and_not_left_to_wait() {
        let gather = Gather::new(1);
        let waiting = Arc::new(());
        let taker = gather.add([Arc::clone(&waiting)]).unwrap();
        drop(async move { taker.gathered().await });
        assert_eq!(Arc::strong_count(&waiting), 1);
        assert!(gather.add([waiting]).is_some(), "and the next one finds nobody in charge");
    }
}
