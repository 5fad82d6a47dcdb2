//! Who takes part, who is waited for, and how long (DESIGN §4.4, §4.5): one instance's side of it.
//!
//! A *beat* registers this instance with the log and brings back the log's end and everybody else: a [`Roster`]. The
//! lease that it earns counts from the moment the beat was **sent** and is granted once `applied` has reached that end.
//! A mutation's purge brings back a roster too: [`Wait`] is over when everybody on it has applied the purge, or has
//! left, or can hold no lease any more that was earned before it.
//!
//! ```text
//!  beat sent ─► roster: end ─► applied ≥ end ─► lease until sent + lease
//!  append ────► roster: who ─► each has acknowledged, has gone, or lease × drift is over ─► answer
//!  same beat number seen for lease × drift ─► its lease is over ─► evict
//! ```
//!
//! Invariants:
//! - Only elapsed times of this machine's own clock are compared; times arrive as arguments.
//! - A roster older than one already seen changes nothing: [`Roster::turn`] orders them within an epoch, an epoch that
//!   another has followed never comes back, and of another epoch counts only what was asked after this one had been
//!   heard of: an answer that was long on its way may come from before it.
//! - An epoch is settled once somebody has seen it for a whole lease × drift: until then leases of the one before may
//!   still run, and whoever holds them is on no roster.
//!
//! It lacks I/O: what to send when is the log's business.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::view::{Coherence, Epoch};

/// How many epochs are remembered as over.
const MOST_PAST: usize = 64;
/// How many acknowledgements are kept of members not seen on a roster yet.
const MOST_UNKNOWN: usize = 1024;

/// One process' identity, random per start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a mutation waits for before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Until no instance can answer with anything older.
    #[default]
    Strong,
    /// Only until its purge is applied here. Leases never end.
    Eventual,
}

impl Mode {
    /// `strong` or `eventual`.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Strong => "strong",
            Mode::Eventual => "eventual",
        }
    }

    /// Reads [`Mode::as_str`].
    pub fn parse(text: &str) -> Option<Mode> {
        [Mode::Strong, Mode::Eventual].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// What all who take part in a namespace must agree on; kept with the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// How long one beat entitles to answer from the store.
    pub lease: Duration,
    /// What mutations wait for.
    pub mode: Mode,
}

impl Agreement {
    /// After how long, by anybody's clock, a lease earned before now is over: lease × drift. A tenth is far more than
    /// two sane clocks differ by over a few seconds.
    pub fn patience(&self) -> Duration {
        self.lease + self.lease / 10
    }

    /// How often a beat is sent: a lease survives three that are lost.
    pub fn beat_interval(&self) -> Duration {
        self.lease / 4
    }
}

impl Default for Agreement {
    fn default() -> Agreement {
        Agreement { lease: Duration::from_secs(2), mode: Mode::Strong }
    }
}

/// What an instance does that is cut off from the log and was the only one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Alone {
    /// It serves on: every mutation passes through it.
    #[default]
    Serve,
    /// It goes to the backend, as it does in company.
    Bypass,
}

/// What a script of the log tells beside its own result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// When it was asked for, on `Clock::elapsed`: it was told later.
    pub asked: Duration,
    /// The log's epoch.
    pub epoch: Epoch,
    /// Rises with each script that was run in this epoch.
    pub turn: u64,
    /// The log's end.
    pub end: u64,
    /// What this namespace has agreed on.
    pub agreement: Agreement,
    /// Nobody can hold a lease of an earlier epoch any more.
    pub settled: bool,
    /// Everybody registered, with the number of their last beat.
    pub members: Vec<(MemberId, u64)>,
}

/// A beat about to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Rises with each beat of this process.
    pub number: u64,
    /// When it was sent.
    pub sent: Duration,
    /// This epoch is settled as far as this instance has seen.
    pub settled: Option<Epoch>,
}

/// How this instance stands with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not been registered yet.
    Outside,
    /// Registered, as far as the last answer goes.
    Member,
    /// The namespace has agreed on something else: this instance answers nothing from the store.
    Refused(Agreement),
}

/// A mutation's wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    epoch: Epoch,
    seq: u64,
    outstanding: Vec<MemberId>,
    /// Everybody's earlier lease is over.
    deadline: Duration,
    /// Leases of earlier epochs are over.
    not_before: Duration,
}

/// How a wait stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Nobody can answer with anything older.
    Over,
    /// Not yet; at this moment at the latest.
    Until(Duration),
    /// The purge's epoch is over: it is to be appended to the new one, and waited for there.
    EpochOver,
}

/// This instance as health and metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Who it is.
    pub me: MemberId,
    /// How it stands.
    pub standing: Standing,
    /// Everybody registered, this instance included.
    pub members: u64,
    /// The epoch is settled.
    pub settled: bool,
    /// Since when the log has not answered, on `Clock::elapsed`.
    pub away_since: Option<Duration>,
}

/// One instance's membership.
#[derive(Debug)]
pub struct Membership {
    me: MemberId,
    agreement: Agreement,
    alone: Alone,
    coherence: Arc<Coherence>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    beats: u64,
    standing: Standing,
    /// The epoch seen last.
    epoch: Option<SeenEpoch>,
    /// Epochs that are over, the latest last.
    past: VecDeque<Epoch>,
    /// Who is registered beside this instance.
    others: HashMap<MemberId, SeenMember>,
    /// The longest patience of all that was ever agreed on here.
    longest: Duration,
    /// The highest that each has acknowledged; an acknowledgement may come before its sender is seen on a roster.
    acknowledged: HashMap<MemberId, (Epoch, u64)>,
    away_since: Option<Duration>,
    /// When contact failed last, while it is away.
    missed: Option<Duration>,
    /// When the last beat was answered, or given up; `None` = none has been answered since a sleep.
    judged: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct SeenEpoch {
    epoch: Epoch,
    /// When it was first heard of.
    since: Duration,
    /// When leases of the epochs before are over: they were earned before anybody saw this one. What they had agreed on
    /// may have been a longer lease.
    settles_at: Duration,
    /// When its latest roster came.
    heard: Duration,
    turn: u64,
    settled: bool,
    agreement: Agreement,
}

#[derive(Debug, Clone, Copy)]
struct SeenMember {
    beat: u64,
    since: Duration,
}

impl Membership {
    /// Not registered yet. In strong mode nothing is answered from the store until it is.
    pub fn new(me: MemberId, agreement: Agreement, alone: Alone, coherence: Arc<Coherence>) -> Membership {
        if agreement.mode == Mode::Strong {
            coherence.require_leases();
        }
        let state = State {
            beats: 0,
            standing: Standing::Outside,
            epoch: None,
            past: VecDeque::new(),
            others: HashMap::new(),
            longest: agreement.patience(),
            acknowledged: HashMap::new(),
            away_since: None,
            missed: None,
            judged: None,
        };
        Membership { me, agreement, alone, coherence, state: Mutex::new(state) }
    }

    /// Who this is.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// What this instance wants the namespace to agree on.
    pub fn agreement(&self) -> Agreement {
        self.agreement
    }

    /// A beat to be sent now.
    pub fn next_beat(&self, now: Duration) -> Beat {
        let mut state = self.state.lock();
        state.beats += 1;
        let settled = state.epoch.filter(|seen| !seen.settled && now >= seen.settles_at);
        Beat { number: state.beats, sent: now, settled: settled.map(|seen| seen.epoch) }
    }

    /// The number of the last beat.
    pub fn beats(&self) -> u64 {
        self.state.lock().beats
    }

    /// A beat was answered at `now`: a lease is on offer, unless the namespace has agreed on something else.
    pub fn beaten(&self, beat: &Beat, told: &Roster, now: Duration) -> Standing {
        self.observe(told, now);
        let mut state = self.state.lock();
        if !state.is_current(told.epoch) {
            return state.standing;
        }
        if told.agreement != self.agreement {
            state.standing = Standing::Refused(told.agreement);
            drop(state);
            self.coherence.require_leases();
            self.coherence.give_up_lease();
            return Standing::Refused(told.agreement);
        }
        state.standing = Standing::Member;
        state.judged = Some(now);
        drop(state);
        if self.agreement.mode == Mode::Eventual {
            self.coherence.waive_leases();
            return Standing::Member;
        }
        self.coherence.offer_lease(told.epoch, told.end, beat.sent + self.agreement.lease);
        Standing::Member
    }

    /// A beat was not answered, or with an error. Who was by itself may serve on for another lease, unless it has slept
    /// for as long as one: somebody may have come meanwhile, so that it must be answered first.
    pub fn beat_failed(&self, beat: &Beat, now: Duration) {
        let mut state = self.state.lock();
        let lease = self.agreement.lease;
        state.missed(now, lease);
        let awake = now.saturating_sub(beat.sent) < lease
            && state.judged.is_some_and(|before| beat.sent.saturating_sub(before) < lease);
        state.judged = awake.then_some(now);
        let alone = self.alone == Alone::Serve && awake && state.by_itself();
        if let (true, Some(seen)) = (alone, state.epoch) {
            self.coherence.prolong_alone(seen.epoch, beat.sent + self.agreement.lease);
        }
    }

    /// Something else than a beat was not answered.
    pub fn unanswered(&self, now: Duration) {
        self.state.lock().missed(now, self.agreement.lease);
    }

    /// Any script's answer: who is there, and since when they have been silent.
    pub fn observe(&self, told: &Roster, now: Duration) {
        let mut state = self.state.lock();
        if state.past.contains(&told.epoch) {
            return;
        }
        // Whose lease never ends must not wait for its next beat to hear that others count on leases.
        if self.agreement.mode == Mode::Eventual && told.agreement != self.agreement {
            self.coherence.require_leases();
        }
        // Who could not be heard of was not silent.
        let was_away = state.away_since.take().is_some();
        state.missed = None;
        let state = &mut *state;
        match &mut state.epoch {
            Some(seen) if seen.epoch == told.epoch => {
                if told.turn <= seen.turn {
                    return;
                }
                seen.heard = now;
                seen.turn = told.turn;
                seen.settled |= told.settled;
                seen.agreement = told.agreement;
            }
            // Which of the two is the later cannot be told: the next answer will.
            Some(seen) if told.asked <= seen.since => return,
            epoch => {
                if let Some(over) = epoch {
                    if state.past.len() == MOST_PAST {
                        state.past.pop_front();
                    }
                    state.past.push_back(over.epoch);
                }
                state.others.clear();
                state.longest = state.longest.max(told.agreement.patience());
                *epoch = Some(SeenEpoch {
                    epoch: told.epoch,
                    since: now,
                    settles_at: now + state.longest,
                    heard: now,
                    turn: told.turn,
                    settled: told.settled,
                    agreement: told.agreement,
                });
            }
        }
        state.others.retain(|member, _| told.members.iter().any(|(there, _)| there == member));
        for (member, beat) in told.members.iter().filter(|(member, _)| *member != self.me) {
            let seen = state.others.entry(*member).or_insert(SeenMember { beat: *beat, since: now });
            if seen.beat != *beat || was_away {
                *seen = SeenMember { beat: *beat, since: now };
            }
        }
        if state.acknowledged.len() > MOST_UNKNOWN / 2 {
            state.acknowledged.retain(|member, _| state.others.contains_key(member));
        }
    }

    /// Whether this epoch is the latest heard of: whoever speaks of another is behind, or is to be asked again.
    pub fn is_current(&self, epoch: Epoch) -> bool {
        self.state.lock().is_current(epoch)
    }

    /// A member says that it has applied everything of `epoch` up to `applied`.
    pub fn acknowledged(&self, member: MemberId, epoch: Epoch, applied: u64) {
        let mut state = self.state.lock();
        if !state.acknowledged.contains_key(&member) && state.acknowledged.len() >= MOST_UNKNOWN {
            return;
        }
        let highest = state.acknowledged.entry(member).or_insert((epoch, applied));
        if highest.0 == epoch {
            highest.1 = highest.1.max(applied);
        } else {
            *highest = (epoch, applied);
        }
    }

    /// Members whose lease is over, with the beat number that proves it.
    pub fn evictable(&self, now: Duration) -> Vec<(MemberId, u64)> {
        let state = self.state.lock();
        let Some(epoch) = state.epoch else { return Vec::new() };
        let silent = |seen: &SeenMember| now >= seen.since + epoch.agreement.patience();
        state.others.iter().filter(|(_, seen)| silent(seen)).map(|(id, seen)| (*id, seen.beat)).collect()
    }

    /// The wait for a purge that was appended at `seq` and is applied here; `told` and `now` are of the append's answer.
    pub fn wait(&self, told: &Roster, seq: u64, now: Duration) -> Wait {
        self.observe(told, now);
        let state = self.state.lock();
        let unsettled = state.epoch.filter(|seen| seen.epoch == told.epoch && !seen.settled);
        let members = told.members.iter().map(|(member, _)| *member);
        let wait = Wait {
            epoch: told.epoch,
            seq,
            outstanding: members.filter(|member| *member != self.me).collect(),
            deadline: now + told.agreement.patience(),
            not_before: unsettled.map_or(Duration::ZERO, |seen| seen.settles_at),
        };
        match told.agreement.mode {
            Mode::Strong => wait,
            Mode::Eventual => {
                Wait { outstanding: Vec::new(), not_before: Duration::ZERO, deadline: now, ..wait }
            }
        }
    }

    /// Whether the wait is over at `now`.
    pub fn pending(&self, wait: &mut Wait, now: Duration) -> Pending {
        let state = self.state.lock();
        if state.epoch.is_some_and(|seen| seen.epoch != wait.epoch)
            || self.coherence.view().epoch != wait.epoch
        {
            return Pending::EpochOver;
        }
        // Who is on no later roster has left, or was evicted after its lease.
        let (epoch, seq) = (wait.epoch, wait.seq);
        wait.outstanding.retain(|member| {
            let applied = state.acknowledged.get(member).filter(|(of, _)| *of == epoch);
            state.others.contains_key(member) && applied.is_none_or(|(_, applied)| *applied < seq)
        });
        let latest = if wait.outstanding.is_empty() { Duration::ZERO } else { wait.deadline };
        let until = latest.max(wait.not_before);
        if now >= until { Pending::Over } else { Pending::Until(until) }
    }

    /// Until when the answer to a mutation waits whose purge could not be appended: by then nobody who is cut off as
    /// well answers from the store. Who was alone in its last beat waits too: somebody may have joined since.
    /// `None` = nobody is to be waited for.
    /// After a sleep the wait begins anew: to be asked again when it is over.
    pub fn detached_until(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.away_since.is_some() && state.has_slept(now, self.agreement.lease) {
            state.missed(now, self.agreement.lease);
        }
        let theirs = state.epoch.map_or(self.agreement, |seen| seen.agreement);
        if (self.agreement.mode, theirs.mode) == (Mode::Eventual, Mode::Eventual) {
            return None;
        }
        state.away_since.map(|since| since + self.agreement.patience().max(theirs.patience()))
    }

    /// For health and metrics.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let others = u64::try_from(state.others.len()).unwrap_or(u64::MAX);
        Status {
            me: self.me,
            standing: state.standing,
            members: others + u64::from(state.standing == Standing::Member),
            settled: state.epoch.is_some_and(|seen| seen.settled),
            away_since: state.away_since,
        }
    }
}

impl State {
    /// Nobody has tried for so long: whoever is away tries several times in a lease.
    fn has_slept(&self, now: Duration, lease: Duration) -> bool {
        self.missed.is_some_and(|last| now.saturating_sub(last) >= lease)
    }

    /// Contact failed. How long it has been away counts from the first time in a row: for that long, others who are away
    /// as well have earned no lease. Who has slept in between has not seen whether they could: it counts anew.
    fn missed(&mut self, now: Duration, lease: Duration) {
        let slept = self.has_slept(now, lease);
        self.away_since = self.away_since.filter(|_| !slept).or(Some(now));
        self.missed = Some(now);
    }

    fn is_current(&self, epoch: Epoch) -> bool {
        self.epoch.is_some_and(|seen| seen.epoch == epoch)
    }

    /// Registered, and nobody else is, as far as known. Of a roster from when the epoch was so new that others may not
    /// have registered anew yet nobody can say that, however long ago that was.
    fn by_itself(&self) -> bool {
        let established = self.epoch.is_some_and(|seen| seen.settled || seen.heard >= seen.settles_at);
        established && self.standing == Standing::Member && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests;
