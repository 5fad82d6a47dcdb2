//! How others' events come in: joining the log, replaying it, following it.
//!
//! To join is to read the log from its floor to its end into a view that is not yet in force, and then to put it
//! in force: what Redis kept over this process' restart is then as good as it was. To follow is to wait at the
//! stream; every event names its epoch, and between waits the log's state is read anew, so that a log that was
//! lost and made again is noticed whether or not anything is written to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{ErrorKind, RedisError};
use tokio_util::sync::CancellationToken;

use super::super::breaker::pause;
use super::super::link::{Dedicated, Failure};
use super::super::wire::{self, Followed, LogState, Places, Record};
use super::Log;
use super::queue::{What, number};
use crate::coherence::{Epoch, Event};
use crate::store::random;

/// How long one wait at the stream lasts: a log made anew is noticed within this time.
const BLOCK: Duration = Duration::from_millis(250);
/// How long Redis may take for a script or a part of the stream.
const ANSWER: Duration = Duration::from_secs(1);
/// How often the log may change while it is being read before it counts as away.
const TRIES: usize = 4;

/// What Redis said is none of what the scripts say.
pub(super) fn not_understood() -> Failure {
    Failure::Failed(RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "the purge log's reply is not understood",
    )))
}

impl Log {
    /// Follows the log until `stop`.
    pub async fn follow(self: Arc<Log>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let mut attempt = 0;
        loop {
            let failure = tokio::select! {
                () = stop.cancelled() => return,
                failure = self.follow_while_it_answers(&mut connection, &mut attempt) => failure,
            };
            if self.following.swap(false, Ordering::AcqRel) {
                tracing::warn!(%failure, "the purge log is no longer followed");
            }
            let noise = u64::from_le_bytes(random());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause(attempt, noise)) => attempt += 1,
            }
        }
    }

    async fn follow_while_it_answers(&self, connection: &mut Dedicated, attempt: &mut u32) -> Failure {
        // From the beginning: an acknowledgement heard twice says nothing new, a purge from outside is claimed once.
        let (mut ack, mut inbox) = ("0".to_owned(), "0".to_owned());
        let mut followed_epoch = self.coherence.view().epoch;
        loop {
            if let Err(failure) = self.catch_up(connection).await {
                return failure;
            }
            let epoch = self.coherence.view().epoch;
            if std::mem::replace(&mut followed_epoch, epoch) != epoch {
                // The streams were made anew, and with them their numbers.
                (ack, inbox) = ("0".to_owned(), "0".to_owned());
            }
            *attempt = 0;
            if !self.following.swap(true, Ordering::AcqRel) {
                tracing::info!(seq = self.applied(), "following the purge log");
            }
            loop {
                let (epoch, seq) = {
                    let view = self.coherence.view();
                    (view.epoch, view.applied.load(Ordering::Acquire))
                };
                if epoch != followed_epoch {
                    // Entered by somebody else here: places in the old streams may lie beyond all there is.
                    break;
                }
                // Until purges from outside can be translated, they wait.
                let place = if self.translate.get().is_some() { &inbox } else { "$" };
                let places = Places { seq, ack: ack.clone(), inbox: place.to_owned() };
                let command = wire::follow(&self.keys, &places, BLOCK);
                let reply = match connection.command(&command, BLOCK + ANSWER).await {
                    Ok(reply) => reply,
                    Err(failure) => return failure,
                };
                match wire::followed(&self.keys, &reply) {
                    Some(followed)
                        if followed != Followed::default()
                            && followed.events.iter().all(|r| r.epoch == epoch) =>
                    {
                        ack = followed.last_ack.clone().unwrap_or(ack);
                        inbox = followed.outside.last().map_or(inbox, |last| last.id.clone());
                        self.take_in(epoch, followed);
                    }
                    // Nothing came, or something that is not of this epoch, or not of any: ask for the state.
                    _ => break,
                }
            }
        }
    }

    /// Applies what came, and passes on what somebody here or elsewhere waits for.
    fn take_in(&self, epoch: Epoch, followed: Followed) {
        let others = followed.events.iter().any(|r| r.event.origin != self.membership.me().0);
        for record in &followed.events {
            self.apply(epoch, record.seq, &record.event);
        }
        self.advanced.send_replace(());
        if others {
            self.applied.notify_one();
        }
        for ack in &followed.acks {
            self.membership.acknowledged(ack.member, ack.epoch, ack.applied);
        }
        if !followed.acks.is_empty() {
            self.heard.send_modify(|n| *n = n.wrapping_add(1));
        }
        for outside in &followed.outside {
            if let Some(translate) = self.translate.get() {
                let event = Event { id: number(), ..translate(outside) };
                let claim = Some(Arc::from(outside.id.as_str()));
                drop(self.enqueue(What::Append { event: Arc::new(event), intent: None, claim }, 0));
            }
        }
    }

    /// Brings the view to where the log's end is now: by the events in between, or by entering a new epoch.
    pub(super) async fn catch_up(&self, connection: &mut Dedicated) -> Result<(), Failure> {
        // One at a time, each with a state read under the lock: nobody re-enters an epoch that is over.
        let _entering = self.entering.lock().await;
        for _ in 0..TRIES {
            let asked = self.clock.elapsed();
            let reply = connection.command(&wire::read(&self.keys, self.candidate()), ANSWER).await?;
            let state = wire::state(&reply, asked).ok_or_else(not_understood)?;
            self.heard(&state);
            if !self.membership.is_current(state.epoch) {
                // A server that was left behind by a failover.
                return Err(not_understood());
            }
            let done = if self.coherence.view().epoch == state.epoch {
                self.read_on(connection, &state).await?
            } else {
                self.enter(connection, &state).await?
            };
            if done {
                self.joined.send_if_modified(|joined| !std::mem::replace(joined, true));
                self.heard(&state);
                self.advanced.send_replace(());
                self.applied.notify_one();
                return Ok(());
            }
        }
        Err(not_understood())
    }

    fn applied(&self) -> u64 {
        self.coherence.view().applied.load(Ordering::Acquire)
    }

    /// Applies what lies between here and the end. False = the log changed meanwhile.
    async fn read_on(&self, connection: &mut Dedicated, state: &LogState) -> Result<bool, Failure> {
        while self.applied() < state.end {
            let Some(records) = self.range(connection, self.applied() + 1, state).await? else {
                return Ok(false);
            };
            if records.is_empty() {
                self.coherence.skip_to(state.epoch, state.end);
            }
            for record in records {
                self.apply(state.epoch, record.seq, &record.event);
            }
        }
        Ok(true)
    }

    /// Replays another epoch from its floor and puts it in force. False = the log changed meanwhile.
    async fn enter(&self, connection: &mut Dedicated, state: &LogState) -> Result<bool, Failure> {
        let mut draft = self.coherence.draft(state.epoch, self.secret_of(state), state.floor.min(state.end));
        while draft.applied() < state.end {
            let Some(records) = self.range(connection, draft.applied() + 1, state).await? else {
                return Ok(false);
            };
            if records.is_empty() {
                draft.skip_to(state.end);
            }
            for record in records {
                self.hold(&record.event);
                draft.apply(record.seq, &record.event);
            }
        }
        if self.coherence.enter(draft) {
            self.metrics.log_epoch();
            tracing::info!(
                epoch = format!("{:032x}", state.epoch.0),
                seq = state.end,
                floor = state.floor,
                "entered the purge log's epoch: older entries are void"
            );
        }
        Ok(true)
    }

    /// Events from `from` to the end, some of them. `None` = not of this epoch: the log was made anew meanwhile.
    async fn range(
        &self,
        connection: &mut Dedicated,
        from: u64,
        state: &LogState,
    ) -> Result<Option<Vec<Record>>, Failure> {
        let reply = connection.command(&wire::range(&self.keys, from, state.end), ANSWER).await?;
        Ok(wire::records(&reply).filter(|records| records.iter().all(|r| r.epoch == state.epoch)))
    }
}
