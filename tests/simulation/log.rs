//! The log's drivers, as `store::redis::log` has them: the same steps in the same order, on simulated connections.
//!
//! Each function names what it mirrors. What decides is not here: scripts, wire forms, membership and view are
//! production's own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{Notify, oneshot};
use weir::coherence::event::Settle;
use weir::coherence::lease::{Pending, Standing};
use weir::coherence::{Agreement, Alone, Coherence, Epoch, Event, MemberId, Membership, Mode, Roster};
use weir::store::redis::breaker::pause;
use weir::store::redis::wire::{
    self, Ack, Candidate, Followed, LogKeys, LogState, Outside, Part, Places, Record,
};
use weir::store::{Reach, UnreachableLog};

use crate::exchange::translate;
use crate::ledger::Ledger;
use crate::redis::{Dedicated, Failure, Redis};
use crate::sabotage::Sabotage;
use crate::settling::Settling;
use crate::world::{Clock, Micros, Pid, Signal, World};

/// `append::BATCH`.
const BATCH: usize = 64;
/// `append::FOLLOWER`.
const FOLLOWER: Duration = Duration::from_millis(10);
/// `follow::TRIES`.
const TRIES: usize = 4;
/// `members::FAREWELL`.
const FAREWELL: Duration = Duration::from_millis(500);

/// What one instance is set to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub agreement: Agreement,
    pub alone: Alone,
    pub unreachable: UnreachableLog,
    pub secret: Option<[u8; 32]>,
    pub sabotage: Option<Sabotage>,
}

/// `queue::What`.
#[derive(Debug, Clone)]
enum What {
    Intend(Arc<Event>),
    Withdraw,
    Append { event: Arc<Event>, intent: Option<u64>, claim: Option<Arc<str>> },
}

/// `queue::Done`.
#[derive(Debug, Clone)]
pub struct Done {
    seq: u64,
    told: Rc<Roster>,
    at: Duration,
}

/// `queue::Waiting`.
struct Waiting {
    what: What,
    id: u64,
    done: RefCell<Vec<oneshot::Sender<Done>>>,
}

impl Waiting {
    fn event(&self) -> Option<&Arc<Event>> {
        match &self.what {
            What::Append { event, .. } => Some(event),
            What::Intend(_) | What::Withdraw => None,
        }
    }
}

/// `Log`, with as much of `Store` as keeps it company.
pub struct Log {
    pub world: Rc<World>,
    pub redis: Rc<Redis>,
    pub host: usize,
    pub pid: Pid,
    pub clock: Clock,
    pub keys: LogKeys,
    pub coherence: Arc<Coherence>,
    pub membership: Membership,
    pub settings: Settings,
    pub settling: Settling,
    ledger: Rc<Ledger>,
    budget: Duration,
    brief: Duration,
    queue: RefCell<VecDeque<Rc<Waiting>>>,
    queued: Notify,
    open: RefCell<BTreeMap<u64, Arc<Event>>>,
    applied: Notify,
    heard: Signal,
    advanced: Signal,
    entering: tokio::sync::Mutex<()>,
    pub joined: Cell<bool>,
    numbers: Cell<u64>,
    /// When a beat was last answered after which all mutations under way were told anew.
    pub last_change: Cell<Micros>,
    /// The life of Redis in which it last answered.
    met: Cell<u64>,
    pub leaving: Notify,
    pub told_to_leave: Cell<bool>,
    pub translates: bool,
}

impl Log {
    pub fn new(
        redis: &Rc<Redis>,
        host: usize,
        pid: Pid,
        clock: Clock,
        coherence: Coherence,
        settings: Settings,
        ledger: &Rc<Ledger>,
    ) -> Rc<Log> {
        let world = Rc::clone(&clock.world);
        let coherence = Arc::new(coherence);
        let me = MemberId(world.random() | 1);
        let membership = Membership::new(me, settings.agreement, settings.alone, Arc::clone(&coherence));
        Rc::new(Log {
            redis: Rc::clone(redis),
            host,
            pid,
            clock,
            keys: LogKeys::new("cache"),
            coherence,
            membership,
            settings,
            settling: Settling::default(),
            ledger: Rc::clone(ledger),
            budget: settings.agreement.lease,
            brief: Duration::from_millis(50),
            queue: RefCell::default(),
            queued: Notify::new(),
            open: RefCell::default(),
            applied: Notify::new(),
            heard: Signal::default(),
            advanced: Signal::default(),
            entering: tokio::sync::Mutex::default(),
            joined: Cell::new(false),
            numbers: Cell::new(0),
            last_change: Cell::new(0),
            met: Cell::new(0),
            leaving: Notify::new(),
            told_to_leave: Cell::new(false),
            translates: true,
            world,
        })
    }

    pub fn is(&self, sabotage: Sabotage) -> bool {
        self.settings.sabotage == Some(sabotage)
    }

    fn connection(&self) -> Dedicated {
        Dedicated::new(&self.redis, self.host, &self.clock)
    }

    fn number(&self) -> u64 {
        self.world.random() | 1 << 63
    }

    /// Spawns what `Redis::start` spawns.
    pub fn start(self: &Rc<Log>) {
        self.world.spawn(self.pid, Rc::clone(self).follow());
        self.world.spawn(self.pid, Rc::clone(self).append());
        self.world.spawn(self.pid, Rc::clone(self).take_part());
        self.world.spawn(self.pid, Rc::clone(self).acknowledge());
    }

    /// How long one wait at the streams lasts, and how long an answer may take: `follow::{BLOCK, ANSWER}` for the
    /// usual lease.
    fn block(&self) -> Duration {
        self.settings.agreement.lease / 2
    }

    fn answer(&self) -> Duration {
        self.settings.agreement.lease / 2
    }

    // ── log.rs ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// `Log::intend`: the epoch in which it is recorded.
    pub async fn intend(&self, event: Arc<Event>) -> Option<Epoch> {
        let id = event.id;
        self.open.borrow_mut().insert(id, Arc::clone(&event));
        let away = self.membership.status().away_since.is_some();
        let patience = match self.settings.unreachable {
            UnreachableLog::Forward if away => Duration::ZERO,
            UnreachableLog::Forward => self.brief,
            UnreachableLog::Refuse => self.patience(),
        };
        let recorded = self.enqueue(What::Intend(event), id);
        let done = self.clock.timeout(patience, recorded).await;
        done.and_then(Result::ok).map(|done| done.told.epoch)
    }

    /// `Log::withdraw`.
    pub fn withdraw(&self, intent: u64) {
        if self.open.borrow_mut().remove(&intent).is_some()
            && self.membership.agreement().mode == Mode::Strong
        {
            drop(self.enqueue(What::Withdraw, intent));
        }
    }

    /// `Log::publish`.
    pub async fn publish(&self, event: Event, intent: Option<u64>) -> Reach {
        let event = Arc::new(event);
        let reach = loop {
            let Some(done) = self.appended(&event, intent).await else { break self.out_of_reach() };
            if self.everywhere(&done).await {
                break Reach::Everywhere;
            }
            self.ledger.count("mutations appended again");
            if self.is(Sabotage::AppendsOnlyOnce) {
                break Reach::Everywhere;
            }
            self.world.tell(|| format!("#{} appends again: the epoch is over", self.host));
        };
        if let Some(intent) = intent {
            self.open.borrow_mut().remove(&intent);
        }
        reach
    }

    /// Redis has been up, perhaps for others, and this instance has not heard of it.
    pub fn may_be_the_only_one_away(&self) -> bool {
        self.met.get() != self.redis.lives()
    }

    /// `Log::out_of_reach`.
    fn out_of_reach(&self) -> Reach {
        match self.settings.unreachable {
            UnreachableLog::Forward => Reach::Owed,
            UnreachableLog::Refuse if self.membership.agreement().mode == Mode::Eventual => Reach::Owed,
            UnreachableLog::Refuse => Reach::Unconfirmed,
        }
    }

    /// `Log::appended`.
    async fn appended(&self, event: &Arc<Event>, intent: Option<u64>) -> Option<Done> {
        let mut appended = self.enqueue(What::Append { event: Arc::clone(event), intent, claim: None }, 0);
        if let Some(done) = self.in_time(&mut appended).await {
            return Some(done);
        }
        if let Some(done) = self.owe(event, &mut appended) {
            return Some(done);
        }
        if self.settings.unreachable == UnreachableLog::Forward
            && let Some(mut until) = self.membership.detached_until(self.clock.elapsed())
            && !self.is(Sabotage::AnswersWhatIsOwedAtOnce)
        {
            loop {
                let wait = until.saturating_sub(self.clock.elapsed());
                if let Some(done) = self.clock.timeout(wait, &mut appended).await {
                    return done.ok();
                }
                let now = self.clock.elapsed();
                match self.membership.detached_until(now) {
                    Some(later) if later > now => until = later,
                    _ => return None,
                }
            }
        }
        None
    }

    /// `Log::everywhere`.
    async fn everywhere(&self, done: &Done) -> bool {
        let mut wait = self.membership.wait(&done.told, done.seq, done.at);
        loop {
            let heard = self.heard.version();
            let now = self.clock.elapsed();
            if self.is(Sabotage::WaitsForNobody) {
                return true;
            }
            match self.membership.pending(&mut wait, now) {
                Pending::Over => return true,
                Pending::EpochOver => return false,
                Pending::Until(moment) => {
                    let _ = self.clock.timeout(moment.saturating_sub(now), self.heard.changed(heard)).await;
                }
            }
        }
    }

    /// `Log::in_time`.
    async fn in_time(&self, appended: &mut oneshot::Receiver<Done>) -> Option<Done> {
        let began = self.clock.elapsed();
        loop {
            let heard = self.heard.version();
            let left = (began + self.patience()).saturating_sub(self.clock.elapsed());
            let changed = std::pin::pin!(self.heard.changed(heard));
            match self.clock.timeout(left, select(&mut *appended, changed)).await {
                Some(Either::Left((done, _))) => return done.ok(),
                Some(Either::Right(_)) => {}
                None => return None,
            }
        }
    }

    /// `Log::unanswered`.
    fn unanswered(&self) {
        self.membership.unanswered(self.clock.elapsed());
        self.heard.raise();
    }

    /// `Log::patience`.
    fn patience(&self) -> Duration {
        if self.membership.agreement().mode == Mode::Eventual {
            return self.brief;
        }
        let away = self.membership.status().away_since;
        let spent = away.map_or(Duration::ZERO, |since| self.clock.elapsed().saturating_sub(since));
        self.budget.saturating_sub(spent).max(self.brief)
    }

    /// `Log::enqueue`.
    fn enqueue(&self, what: What, id: u64) -> oneshot::Receiver<Done> {
        let (done, receiver) = oneshot::channel();
        self.push(what, id, Some(done));
        self.queued.notify_one();
        receiver
    }

    /// `Queue::push`; so much as to collapse never waits here.
    fn push(&self, what: What, id: u64, done: Option<oneshot::Sender<Done>>) {
        let done = RefCell::new(done.into_iter().collect());
        self.queue.borrow_mut().push_back(Rc::new(Waiting { what, id, done }));
    }

    /// `Log::owe`.
    fn owe(&self, event: &Arc<Event>, appended: &mut oneshot::Receiver<Done>) -> Option<Done> {
        if let Ok(done) = appended.try_recv() {
            return Some(done);
        }
        self.world.tell(|| format!("#{} owes {:x}", self.host, event.id));
        let holds = self.queue.borrow().iter().any(|w| w.event().is_some_and(|e| Arc::ptr_eq(e, event)));
        if holds && !self.is(Sabotage::OwesWithoutMarks) {
            self.coherence.apply_owed(event);
        }
        self.unanswered();
        None
    }

    /// Events not in the log yet.
    pub fn waiting(&self) -> usize {
        self.queue.borrow().iter().filter(|w| w.event().is_some()).count()
    }

    /// Nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// `Log::stands`.
    fn stands(&self, epoch: Epoch, seq: u64) -> bool {
        let view = self.coherence.view();
        view.epoch == epoch && view.applied.load(Ordering::Acquire) >= seq
    }

    /// `Log::apply`: what is to settle is held before its purge counts, and let go after its second one does.
    fn apply(&self, epoch: Epoch, seq: u64, event: &Event) {
        self.hold(event);
        if self.coherence.apply(epoch, seq, event) {
            let (host, settle) = (self.host, event.settle);
            self.world.tell(|| {
                format!(
                    "#{host} applies {seq} of {:04x}: {:x}/{:x} {settle:?}",
                    epoch.0 >> 112,
                    event.origin,
                    event.id
                )
            });
        }
        if event.settle == Settle::Over && event.origin != self.membership.me().0 {
            self.settling.release(event, self.is(Sabotage::LetsGoWhatOthersHold));
        }
    }

    /// `Log::hold`.
    fn hold(&self, event: &Event) {
        if let Settle::For(ms) = event.settle
            && event.origin != self.membership.me().0
        {
            let settle = Duration::from_millis(ms) + self.membership.agreement().lease;
            self.settling.hold(event, self.clock.elapsed() + settle);
        }
    }

    /// `Log::heard`.
    fn heard(&self, state: &LogState) {
        self.met.set(self.redis.lives());
        self.membership.observe(&state.roster, self.clock.elapsed());
        self.heard.raise();
    }

    /// `Log::candidate`.
    fn candidate(&self) -> Candidate {
        let mut secret = [0; 32];
        if self.settings.secret.is_some() {
            secret[..8].copy_from_slice(&self.world.random().to_le_bytes());
        } else {
            secret = self.coherence.view().secret;
        }
        let epoch = Epoch(u128::from(self.world.random()) << 64 | u128::from(self.world.random()));
        Candidate { epoch, secret, agreement: self.membership.agreement() }
    }

    fn secret_of(&self, state: &LogState) -> [u8; 32] {
        self.settings.secret.unwrap_or(state.secret)
    }

    // ── append.rs ───────────────────────────────────────────────────────────────────────────────────────────────

    /// `Log::append`.
    async fn append(self: Rc<Log>) {
        let mut connection = self.connection();
        let mut attempt = 0;
        loop {
            let batch: Vec<_> = self.queue.borrow().iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                self.queued.notified().await;
                continue;
            }
            match self.append_batch(&mut connection, &batch).await {
                Ok(()) => attempt = 0,
                Err(failure) => {
                    self.world.tell(|| format!("#{} cannot append: {failure:?}", self.host));
                    self.unanswered();
                    self.clock.sleep(Duration::from_millis(20)).await;
                    let _ =
                        self.clock.timeout(pause(attempt, self.world.random()), self.queued.notified()).await;
                    attempt += 1;
                }
            }
        }
    }

    /// `Log::append_batch`.
    async fn append_batch(&self, connection: &mut Dedicated, batch: &[Rc<Waiting>]) -> Result<(), Failure> {
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
            if let Some(event) = waiting.event()
                && self.coherence.view().applied.load(Ordering::Acquire) + 1 == *seq
            {
                self.apply(state.epoch, *seq, event);
            }
        }
        if !self.follower_reaches(state.epoch, state.end).await {
            self.catch_up(connection).await?;
        }
        let told = Rc::new(state.roster.clone());
        for (waiting, seq) in batch.iter().zip(&state.seqs) {
            if waiting.event().is_some() && *seq == 0 {
                self.ledger.count("purges from outside taken up by another");
            }
            if waiting.event().is_none() || self.stands(state.epoch, *seq) {
                self.written(waiting, *seq, &told);
            }
        }
        Ok(())
    }

    /// `Log::follower_reaches`.
    async fn follower_reaches(&self, epoch: Epoch, end: u64) -> bool {
        let reached = async {
            while !self.stands(epoch, end) && self.coherence.view().epoch == epoch {
                self.advanced.changed(self.advanced.version()).await;
            }
        };
        self.clock.timeout(FOLLOWER, reached).await;
        self.stands(epoch, end)
    }

    /// `Log::written`.
    fn written(&self, waiting: &Rc<Waiting>, seq: u64, told: &Rc<Roster>) {
        {
            let mut queue = self.queue.borrow_mut();
            let Some(at) = queue.iter().position(|w| Rc::ptr_eq(w, waiting)) else { return };
            queue.remove(at);
        }
        if let Some(event) = waiting.event()
            && self.coherence.settle_owed(event)
        {
            let nothing = Event { origin: event.origin, id: self.number(), ..Event::default() };
            self.push(What::Append { event: Arc::new(nothing), intent: None, claim: None }, 0, None);
        }
        let at = self.clock.elapsed();
        for done in waiting.done.borrow_mut().drain(..) {
            let _ = done.send(Done { seq, told: Rc::clone(told), at });
        }
    }

    // ── follow.rs ───────────────────────────────────────────────────────────────────────────────────────────────

    /// `Log::follow`.
    async fn follow(self: Rc<Log>) {
        let mut connection = self.connection();
        let mut attempt = 0;
        loop {
            let failure = self.follow_while_it_answers(&mut connection, &mut attempt).await;
            self.world.tell(|| format!("#{} does not follow: {failure:?}", self.host));
            self.clock.sleep(pause(attempt, self.world.random())).await;
            attempt += 1;
        }
    }

    /// `Log::follow_while_it_answers`.
    async fn follow_while_it_answers(&self, connection: &mut Dedicated, attempt: &mut u32) -> Failure {
        let (mut ack, mut inbox) = ("0".to_owned(), "0".to_owned());
        let mut followed_epoch = self.coherence.view().epoch;
        loop {
            if let Err(failure) = self.catch_up(connection).await {
                return failure;
            }
            let epoch = self.coherence.view().epoch;
            if std::mem::replace(&mut followed_epoch, epoch) != epoch {
                (ack, inbox) = ("0".to_owned(), "0".to_owned());
            }
            *attempt = 0;
            loop {
                let (epoch, seq) = {
                    let view = self.coherence.view();
                    (view.epoch, view.applied.load(Ordering::Acquire))
                };
                let place = if self.translates { &inbox } else { "$" };
                let places = Places { seq, ack: ack.clone(), inbox: place.to_owned() };
                let command = wire::follow(&self.keys, &places, self.block());
                let reply = match connection.command(&command, self.block() + self.answer()).await {
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
                    _ => break,
                }
            }
        }
    }

    /// `Log::take_in`.
    fn take_in(&self, epoch: Epoch, followed: Followed) {
        let others = followed.events.iter().any(|r| r.event.origin != self.membership.me().0);
        for record in &followed.events {
            self.apply(epoch, record.seq, &record.event);
        }
        self.advanced.raise();
        if others {
            self.applied.notify_one();
        }
        for ack in &followed.acks {
            self.membership.acknowledged(ack.member, ack.epoch, ack.applied);
        }
        if !followed.acks.is_empty() {
            self.heard.raise();
        }
        for outside in &followed.outside {
            self.take_up(outside);
        }
    }

    fn take_up(&self, outside: &Outside) {
        let event = Event { id: self.number(), ..translate(outside) };
        let claim = Some(Arc::from(outside.id.as_str()));
        drop(self.enqueue(What::Append { event: Arc::new(event), intent: None, claim }, 0));
    }

    /// `Log::catch_up`.
    async fn catch_up(&self, connection: &mut Dedicated) -> Result<(), Failure> {
        let _entering = self.entering.lock().await;
        for _ in 0..TRIES {
            let asked = self.clock.elapsed();
            let reply = connection.command(&wire::read(&self.keys, self.candidate()), self.answer()).await?;
            let state = wire::state(&reply, asked).ok_or_else(not_understood)?;
            self.heard(&state);
            if !self.membership.is_current(state.epoch) {
                return Err(not_understood());
            }
            let done = if self.coherence.view().epoch == state.epoch {
                self.read_on(connection, &state).await?
            } else {
                self.enter(connection, &state).await?
            };
            if done {
                self.joined.set(true);
                self.heard(&state);
                self.advanced.raise();
                self.applied.notify_one();
                return Ok(());
            }
        }
        Err(not_understood())
    }

    pub fn applied(&self) -> u64 {
        self.coherence.view().applied.load(Ordering::Acquire)
    }

    /// `Log::read_on`.
    async fn read_on(&self, connection: &mut Dedicated, state: &LogState) -> Result<bool, Failure> {
        while self.applied() < state.end {
            let Some(records) = self.range(connection, self.applied() + 1, state).await? else {
                return Ok(false);
            };
            if records.is_empty() {
                self.ledger.count("ends of the log skipped to");
                self.coherence.skip_to(state.epoch, state.end);
            }
            for record in records {
                self.apply(state.epoch, record.seq, &record.event);
            }
        }
        Ok(true)
    }

    /// `Log::enter`.
    async fn enter(&self, connection: &mut Dedicated, state: &LogState) -> Result<bool, Failure> {
        let mut draft = self.coherence.draft(state.epoch, self.secret_of(state), state.floor.min(state.end));
        while draft.applied() < state.end {
            if self.is(Sabotage::JoinsWithoutReplay) {
                for seq in draft.applied() + 1..=state.end {
                    draft.apply(seq, &Event::default());
                }
                break;
            }
            let Some(records) = self.range(connection, draft.applied() + 1, state).await? else {
                return Ok(false);
            };
            if records.is_empty() {
                self.ledger.count("ends of the log skipped to");
                draft.skip_to(state.end);
            }
            for record in records {
                self.hold(&record.event);
                draft.apply(record.seq, &record.event);
            }
        }
        if self.coherence.enter(draft) {
            self.ledger.count("epochs entered");
            self.world
                .tell(|| format!("#{} enters {:04x} at {}", self.host, state.epoch.0 >> 112, state.end));
        }
        Ok(true)
    }

    /// `Log::range`.
    async fn range(
        &self,
        connection: &mut Dedicated,
        from: u64,
        state: &LogState,
    ) -> Result<Option<Vec<Record>>, Failure> {
        let reply = connection.command(&wire::range(&self.keys, from, state.end), self.answer()).await?;
        Ok(wire::records(&reply).filter(|records| records.iter().all(|r| r.epoch == state.epoch)))
    }

    // ── members.rs ──────────────────────────────────────────────────────────────────────────────────────────────

    /// `Log::take_part`.
    async fn take_part(self: Rc<Log>) {
        let mut connection = self.connection();
        let (mut last, mut attempt) = (None, 0);
        loop {
            let interval = self.membership.agreement().beat_interval();
            let wait = match self.beat(&mut connection, &mut last).await {
                Ok(()) => {
                    attempt = 0;
                    interval
                }
                Err(failure) => {
                    self.world.tell(|| format!("#{} has no beat: {failure:?}", self.host));
                    last = None;
                    attempt += 1;
                    interval.min(pause(attempt - 1, self.world.random()))
                }
            };
            if !self.told_to_leave.get() {
                let leaving = std::pin::pin!(self.leaving.notified());
                let sleep = std::pin::pin!(self.clock.sleep(wait));
                if let Either::Left(_) = select(sleep, leaving).await {
                    continue;
                }
            }
            break;
        }
        self.leave(&mut connection).await;
    }

    /// `Log::beat`.
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
        if let Standing::Refused(_) = self.membership.beaten(&beat, &state.roster, self.clock.elapsed()) {
            self.ledger.count("members refused");
        }
        self.world.tell(|| {
            let (left, epoch) =
                (self.coherence.view().lease_left(self.clock.elapsed()), state.epoch.0 >> 112);
            format!(
                "#{} beat {} is answered in {epoch:04x} at {}: lease {left:?}",
                self.host, beat.number, state.end
            )
        });
        if !self.stands(state.epoch, state.end) {
            self.catch_up(connection).await?;
        }
        self.heard(&state);
        let since = beat.sent.saturating_sub(self.membership.agreement().lease);
        if last.replace((state.epoch, beat.sent)).is_none_or(|(of, at)| of != state.epoch || at < since) {
            self.last_change.set(self.world.now());
            self.intend_again();
        }
        self.evict(connection).await
    }

    /// `Log::intend_again`.
    fn intend_again(&self) {
        if self.membership.agreement().mode == Mode::Eventual || self.is(Sabotage::IntendsOnlyOnce) {
            return;
        }
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        for event in open {
            let id = event.id;
            drop(self.enqueue(What::Intend(event), id));
        }
    }

    /// `Log::evict`.
    async fn evict(&self, connection: &mut Dedicated) -> Result<(), Failure> {
        let mut silent = self.membership.evictable(self.clock.elapsed());
        silent.sort();
        for (member, beat) in silent {
            let command = wire::evict(&self.keys, self.candidate(), member, Some(beat));
            let asked = self.clock.elapsed();
            self.ledger.evicts(member.0);
            let reply = connection.command(&command, FAREWELL).await?;
            self.ledger.evicts(member.0);
            let state = wire::state(&reply, asked).ok_or_else(not_understood)?;
            if !self.stands(state.epoch, state.end) {
                self.ledger.count("purges for the dead");
            }
            self.world.tell(|| format!("#{} evicts {member} at its beat {beat}", self.host));
            self.ledger.count("members evicted");
            self.heard(&state);
        }
        Ok(())
    }

    /// `Log::leave`.
    async fn leave(&self, connection: &mut Dedicated) {
        if !self.is(Sabotage::LeavesWithItsLease) {
            self.coherence.give_up_lease();
        }
        let command = wire::evict(&self.keys, self.candidate(), self.membership.me(), None);
        let _ = connection.command(&command, FAREWELL).await;
        self.world.tell(|| format!("#{} has left", self.host));
    }

    /// `Log::acknowledge`.
    async fn acknowledge(self: Rc<Log>) {
        let mut connection = self.connection();
        let mut attempt = 0;
        loop {
            self.applied.notified().await;
            let ack = {
                let view = self.coherence.view();
                let applied = view.applied.load(Ordering::Acquire);
                Ack { member: self.membership.me(), epoch: view.epoch, applied }
            };
            match connection.command(&wire::ack(&self.keys, &ack), self.budget).await {
                Ok(_) => attempt = 0,
                Err(_) => {
                    self.clock.sleep(pause(attempt, self.world.random())).await;
                    attempt += 1;
                    self.applied.notify_one();
                }
            }
        }
    }

    /// `Store::signed`.
    pub fn signed(&self, mut event: Event) -> Event {
        event.origin = self.membership.me().0;
        self.numbers.set(self.numbers.get() + 1);
        event.id = self.numbers.get();
        if event.hashed_with == 0 {
            event.hashed_with = self.coherence.view().secret_id;
        }
        event
    }
}

fn not_understood() -> Failure {
    Failure::Failed("not understood".to_owned())
}

fn part(waiting: &Waiting) -> Part<'_> {
    match &waiting.what {
        What::Intend(event) => Part::Intend(waiting.id, event),
        What::Withdraw => Part::Withdraw(waiting.id),
        What::Append { event, intent, claim } => Part::Append(event, *intent, claim.as_deref()),
    }
}
