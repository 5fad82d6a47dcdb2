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
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Where a thread's questions wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// What has been added and not been taken, by place.
#[derive(Debug)]
pub struct Gather<T>(Box<[Mutex<Vec<T>>]>);

impl<T> Gather<T> {
    /// With so many places, at least one.
    pub fn new(places: usize) -> Gather<T> {
        Gather((0..places.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Adds at this thread's place. `Some` = nobody has been asked yet to take what is there: the caller has to.
    #[must_use = "what nobody takes is never answered"]
    pub fn add(&self, items: impl IntoIterator<Item = T>) -> Option<Place> {
        let place = Place(thread() % self.0.len());
        let mut waiting = self.0.get(place.0)?.lock();
        let first = waiting.is_empty();
        waiting.extend(items);
        (first && !waiting.is_empty()).then_some(place)
    }

    /// All that is at a place once the other tasks that are ready now have had their turn.
    pub async fn gathered(&self, place: Place) -> Vec<T> {
        tokio::task::yield_now().await;
        self.0.get(place.0).map(|waiting| mem::take(&mut *waiting.lock())).unwrap_or_default()
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
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn requests_that_are_ready_together_are_taken_together() {
        let gather = Arc::new(Gather::new(2));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let requests: Vec<_> = (0..50)
            .map(|n| {
                let (gather, taken) = (Arc::clone(&gather), Arc::clone(&taken));
                tokio::spawn(async move {
                    if let Some(place) = gather.add([n]) {
                        tokio::spawn(async move {
                            let all = gather.gathered(place).await;
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
        let place = gather.add(["a"]).unwrap();
        assert_eq!(gather.add(["b", "c"]), None, "somebody takes them already");
        assert_eq!(gather.gathered(place).await, ["a", "b", "c"]);
        assert_eq!(gather.add([]), None, "nothing to take");
        assert_eq!(gather.add(["d"]), Some(place));
        assert_eq!(gather.gathered(place).await, ["d"]);
        assert!(gather.gathered(place).await.is_empty());
    }
}
