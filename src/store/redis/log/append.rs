//! How the queue empties: batches, each one script, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::breaker::pause;
use super::super::link::{Dedicated, Failure};
use super::super::wire::{self, Part};
use super::Log;
use super::follow::not_understood;
use super::queue::{Done, Waiting, What, number};
use crate::coherence::{Epoch, Event, Roster};
use crate::store::random;

/// Most that is written in one round trip.
const BATCH: usize = 64;
/// How long the follower may take for what lies between: it is told at the same moment.
const FOLLOWER: Duration = Duration::from_millis(10);

impl Log {
    /// Writes what waits, for ever; ends when `stop` is cancelled and the queue is empty.
    pub async fn append(self: Arc<Log>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let mut attempt = 0;
        loop {
            let batch = self.queue.lock().batch(BATCH);
            if batch.is_empty() {
                tokio::select! {
                    () = self.queued.notified() => {}
                    () = stop.cancelled() => return,
                }
                continue;
            }
            match self.append_batch(&mut connection, &batch).await {
                Ok(()) => {
                    if std::mem::take(&mut attempt) > 0 {
                        let owed = self.coherence.owed();
                        tracing::info!(owed, "the purge log can be reached again: what is owed goes into it");
                    }
                }
                Err(failure) => {
                    if attempt == 0 {
                        tracing::warn!(%failure, "the purge log cannot be reached: purges are owed to it");
                    }
                    self.unanswered();
                    // Something new cuts the pause short, down to a little that keeps this from spinning.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let noise = u64::from_le_bytes(random());
                    let _ = timeout(pause(attempt, noise), self.queued.notified()).await;
                    attempt += 1;
                }
            }
        }
    }

    async fn append_batch(&self, connection: &mut Dedicated, batch: &[Arc<Waiting>]) -> Result<(), Failure> {
        let parts: Vec<Part<'_>> = batch.iter().map(|waiting| part(waiting)).collect();
        let (me, beats) = (self.membership.me(), self.membership.beats());
        let command = wire::write(&self.keys, self.candidate(), me, beats, &parts);
        let limit = self.budget.max(Duration::from_millis(100));
        let asked = self.clock.elapsed();
        let reply = connection.command(&command, limit).await?;
        let state = wire::state(&reply, asked).filter(|state| state.seqs.len() == batch.len());
        let state = state.ok_or_else(not_understood)?;
        self.heard(&state);
        for (waiting, seq) in batch.iter().zip(&state.seqs) {
            // Never 0, which stands for an event that was not appended: another had taken the purge up.
            if let What::Append { event, .. } = &waiting.what
                && self.coherence.view().applied.load(Ordering::Acquire) + 1 == *seq
            {
                self.apply(state.epoch, *seq, event);
            }
        }
        if !self.follower_reaches(state.epoch, state.end).await {
            // It is a new epoch, or events do not come in: read them here.
            self.catch_up(connection).await?;
        }
        let told = Arc::new(state.roster.clone());
        for (waiting, seq) in batch.iter().zip(&state.seqs) {
            // What does not stand is of an epoch that has ended since: it stays, to be appended to the next too.
            if waiting.event().is_none() || self.stands(state.epoch, *seq) {
                self.written(waiting, *seq, &told);
            }
        }
        Ok(())
    }

    /// Others' events lie between: they are on their way to the follower. True = it has applied them.
    async fn follower_reaches(&self, epoch: Epoch, end: u64) -> bool {
        let mut applied = self.advanced.subscribe();
        let reached = applied.wait_for(|_| self.stands(epoch, end) || self.coherence.view().epoch != epoch);
        let _ = timeout(FOLLOWER, reached).await;
        self.stands(epoch, end)
    }

    /// It is in the log, and applied here if it is an event.
    fn written(&self, waiting: &Arc<Waiting>, seq: u64, told: &Arc<Roster>) {
        let mut queue = self.queue.lock();
        if !queue.remove(waiting) {
            return;
        }
        if let Some(event) = waiting.event()
            && self.coherence.settle_owed(event)
        {
            // It came through unseen, in a gap. An event that names nothing moves the log past its last mark.
            let nothing = Event { origin: event.origin, id: number(), ..Event::default() };
            let what = What::Append { event: Arc::new(nothing), intent: None, claim: None };
            queue.push(what, 0, None, &self.coherence);
        }
        let at = self.clock.elapsed();
        for done in waiting.done.lock().drain(..) {
            // Who no longer waits owes, and that has just been settled.
            let _ = done.send(Done { seq, told: Arc::clone(told), at });
        }
    }
}

fn part(waiting: &Waiting) -> Part<'_> {
    match &waiting.what {
        What::Intend(event) => Part::Intend(waiting.id, event),
        What::Withdraw => Part::Withdraw(waiting.id),
        What::Append { event, intent, claim } => Part::Append(event, *intent, claim.as_deref()),
    }
}
