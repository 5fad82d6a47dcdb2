//! How this instance takes part: it registers with beats, evicts who has fallen silent, tells how much it has applied,
//! and leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::breaker::pause;
use super::super::link::{Dedicated, Failure};
use super::super::wire::{self, Ack};
use super::Log;
use super::follow::not_understood;
use super::queue::What;
use crate::coherence::lease::Standing;
use crate::coherence::{Epoch, Mode};
use crate::store::random;

/// How long leaving may take.
const FAREWELL: Duration = Duration::from_millis(500);

impl Log {
    /// Sends beats until `stop`, and then leaves.
    pub async fn take_part(self: Arc<Log>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let (mut last, mut attempt, mut held) = (None, 0, false);
        loop {
            let interval = self.membership.agreement().beat_interval();
            let wait = match self.beat(&mut connection, &mut last).await {
                Ok(()) => {
                    attempt = 0;
                    interval
                }
                Err(failure) => {
                    if attempt == 0 {
                        tracing::warn!(%failure, "this instance cannot register with the purge log");
                    }
                    // Intents are recorded anew: whoever could not reach the log may have been evicted.
                    last = None;
                    attempt += 1;
                    interval.min(pause(attempt - 1, u64::from_le_bytes(random())))
                }
            };
            self.note_lease(&mut held);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.leave(&mut connection).await;
    }

    async fn beat(
        &self,
        connection: &mut Dedicated,
        last: &mut Option<(Epoch, Duration)>,
    ) -> Result<(), Failure> {
        let beat = self.membership.next_beat(self.clock.elapsed());
        let command = wire::beat(&self.keys, self.candidate(), self.membership.me(), &beat);
        let limit = self.membership.agreement().lease / 2;
        let answered = connection.command(&command, limit).await;
        let state = answered.and_then(|reply| wire::state(&reply, beat.sent).ok_or_else(not_understood));
        let state = match state {
            Ok(state) => state,
            Err(failure) => {
                self.membership.beat_failed(&beat, self.clock.elapsed());
                self.unanswered();
                return Err(failure);
            }
        };
        let before = self.membership.status().standing;
        let standing = self.membership.beaten(&beat, &state.roster, self.clock.elapsed());
        if standing != before {
            self.announce(standing);
        }
        if !self.stands(state.epoch, state.end) {
            self.catch_up(connection).await?;
        }
        self.heard(&state);
        // A new epoch knows nothing of the mutations that are under way; neither does one in which this instance was
        // silent for so long that it may have been evicted.
        let since = beat.sent.saturating_sub(self.membership.agreement().lease);
        if last.replace((state.epoch, beat.sent)).is_none_or(|(of, at)| of != state.epoch || at < since) {
            self.intend_again();
        }
        self.evict(connection).await
    }

    fn announce(&self, standing: Standing) {
        let (me, ours) = (self.membership.me(), self.membership.agreement());
        match standing {
            Standing::Outside => {}
            Standing::Member => tracing::info!(member = %me, "registered with the purge log"),
            Standing::Refused(theirs) => tracing::error!(
                lease = ?theirs.lease,
                coherence = theirs.mode.as_str(),
                our_lease = ?ours.lease,
                our_coherence = ours.mode.as_str(),
                "this instance's lease or coherence differs from what the namespace has agreed on: it answers nothing \
                 from the cache until they are the same, or nobody else is left"
            ),
        }
    }

    /// Says once when the lease is lost, and once when there is one again.
    fn note_lease(&self, held: &mut bool) {
        let now_held = self.coherence.holds_lease(self.clock.elapsed());
        match (std::mem::replace(held, now_held), now_held) {
            (true, false) => tracing::warn!(
                "the lease is lost: requests go to the upstream until Redis has been heard from again"
            ),
            (false, true) => tracing::info!("a lease is held: requests are answered from the cache"),
            _ => {}
        }
    }

    /// Records all mutations that are under way anew.
    fn intend_again(&self) {
        if self.membership.agreement().mode == Mode::Eventual {
            return;
        }
        // Locked throughout: what ends meanwhile is taken out behind this.
        for event in self.open.lock().values() {
            drop(self.enqueue(What::Intend(Arc::clone(event)), event.id));
        }
    }

    async fn evict(&self, connection: &mut Dedicated) -> Result<(), Failure> {
        for (member, beat) in self.membership.evictable(self.clock.elapsed()) {
            let command = wire::evict(&self.keys, self.candidate(), member, Some(beat));
            let asked = self.clock.elapsed();
            let reply = connection.command(&command, FAREWELL).await?;
            let state = wire::state(&reply, asked).ok_or_else(not_understood)?;
            if state.roster.members.iter().all(|(there, _)| *there != member) {
                self.metrics.log_eviction();
                tracing::warn!(%member, "an instance has fallen silent: it is no longer waited for");
            }
            self.heard(&state);
        }
        Ok(())
    }

    /// Nothing is answered from the store any more, so nobody need wait for this instance.
    async fn leave(&self, connection: &mut Dedicated) {
        self.coherence.give_up_lease();
        let command = wire::evict(&self.keys, self.candidate(), self.membership.me(), None);
        if let Err(failure) = connection.command(&command, FAREWELL).await {
            tracing::warn!(%failure, "could not take leave of the purge log: others will wait for a lease's time");
        }
    }

    /// Tells others how much has been applied here, whenever they may be waiting for it; until `stop`.
    pub async fn acknowledge(self: Arc<Log>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let mut attempt = 0;
        loop {
            tokio::select! {
                () = self.applied.notified() => {}
                () = stop.cancelled() => return,
            }
            let ack = {
                let view = self.coherence.view();
                let applied = view.applied.load(Ordering::Acquire);
                Ack { member: self.membership.me(), epoch: view.epoch, applied }
            };
            match connection.command(&wire::ack(&self.keys, &ack), self.budget).await {
                Ok(_) => attempt = 0,
                Err(failure) => {
                    tracing::debug!(%failure, "an acknowledgement was not taken");
                    tokio::time::sleep(pause(attempt, u64::from_le_bytes(random()))).await;
                    attempt += 1;
                    self.applied.notify_one();
                }
            }
        }
    }
}
