use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::coherence::{Epoch, Event, EventKind};
use crate::semantics::timestamp::Timestamp;

const KEY: CacheKey = CacheKey([1; 32]);
const TAG: Tag = Tag(7);
const SECOND: Duration = Duration::from_secs(1);

/// A board, a view of the log and a clock that a test moves.
struct Field {
    clock: Clock,
    board: Arc<Board>,
    coherence: Coherence,
}

impl Field {
    /// A lease is needed, and none is held.
    fn detached() -> Field {
        let field = Field::alone();
        field.coherence.require_leases();
        field
    }

    /// The log is this process alone.
    fn alone() -> Field {
        let clock = Clock::manual(Timestamp(1_000_000));
        let board = Board::new(clock.clone());
        Field { clock, board, coherence: Coherence::new(Epoch(1), [7; 32], 10, 16) }
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Somebody arrives after a moment, and joins.
    fn arrive(&self) -> Seat {
        self.clock.advance(Duration::from_millis(1));
        self.join(self.now())
    }

    fn join(&self, arrived: Duration) -> Seat {
        self.board.join(KEY, arrived, self.looks(), || vec![TAG], &self.coherence)
    }

    /// When a look-up began that nothing has landed since.
    fn looks(&self) -> Duration {
        self.now() + Duration::from_nanos(1)
    }

    fn lease(&self) {
        self.coherence.offer_lease(Epoch(1), 0, self.now() + SECOND);
    }

    fn purge(&self, kind: EventKind) {
        self.coherence.append_local(&Event { kind, tags: vec![TAG], ..Event::default() });
    }

    fn is_empty(&self) -> bool {
        self.board.shards.iter().all(|shard| shard.lock().gates.is_empty())
    }
}

#[track_caller]
fn lead(seat: Seat) -> Lead {
    match seat {
        Seat::Lead(lead) => lead,
        Seat::Aboard(_) | Seat::LookAgain => panic!("should lead"),
    }
}

#[track_caller]
fn aboard(seat: Seat) -> Passenger {
    match seat {
        Seat::Aboard(passenger) => passenger,
        Seat::Lead(_) | Seat::LookAgain => panic!("should wait"),
    }
}

async fn fly(field: &Field, passenger: Passenger) -> Arrival {
    passenger.fly(|| vec![TAG], &field.coherence).await
}

/// The end of a wait that is over, or about to be.
async fn ended(flown: impl Future<Output = Arrival>) -> Arrival {
    tokio::time::timeout(Duration::from_secs(20), flown).await.expect("the wait ends")
}

/// What becomes of a passenger that need not wait any more.
#[track_caller]
fn flown(field: &Field, passenger: Passenger) -> Arrival {
    let flown = futures_util::FutureExt::now_or_never(fly(field, passenger));
    flown.expect("the wait is over")
}

#[tokio::test]
async fn a_flight_whose_task_vanishes_ends_and_leaves_the_board() {
    let field = Field::alone();
    let leader = lead(field.arrive());
    let passenger = aboard(field.arrive());
    assert!(!field.is_empty());
    drop(leader);
    assert!(matches!(flown(&field, passenger), Arrival::Landed(Landing::Dropped)));
    assert!(field.is_empty());
    lead(field.arrive());
}

#[tokio::test]
async fn with_a_lease_a_live_flight_is_boarded_and_a_void_one_is_replaced() {
    for kind in [EventKind::Purge, EventKind::Soft, EventKind::Flush] {
        let field = Field::detached();
        field.lease();
        let mut old = lead(field.arrive());
        let passenger = aboard(field.arrive());
        assert!(!passenger.after_arrival(), "the lease let it aboard");
        field.purge(kind);
        let new = lead(field.arrive());
        old.land(Landing::NotShareable);
        assert!(matches!(flown(&field, passenger), Arrival::Landed(Landing::NotShareable)), "its own flight");
        // The old one's landing concerns nobody any more: the new one is in the air as before.
        let later = aboard(field.arrive());
        assert!(!later.after_arrival());
        drop((new, later));
        assert!(field.is_empty());
    }
}

#[tokio::test]
async fn without_a_lease_only_a_flight_that_began_after_the_arrival_is_boarded() {
    let field = Field::detached();
    let (before, at) = (field.now(), field.now() + SECOND);
    field.clock.advance(SECOND);
    let leader = lead(field.join(at));
    assert_eq!(leader.began(), at);
    let early = aboard(field.join(before));
    assert!(
        early.after_arrival() && early.waits_at.is_none(),
        "delayed on its way, it finds the flight in the air"
    );
    for arrived in [at, at + SECOND] {
        let late = aboard(field.join(arrived));
        assert!(late.waits_at.is_some(), "it may have heard of something that the flight does not show");
    }
    drop((leader, early));
    assert!(field.is_empty());
}

#[tokio::test]
async fn a_lease_that_ended_before_the_arrival_proves_nothing() {
    let field = Field::detached();
    field.lease();
    let leader = lead(field.arrive());
    let during = aboard(field.arrive());
    field.clock.advance(SECOND);
    let after = aboard(field.arrive());
    assert!(during.waits_at.is_none() && after.waits_at.is_some());
    drop(leader);
}

#[tokio::test]
async fn the_next_flight_takes_off_when_the_present_one_has_landed() {
    let field = Field::detached();
    let mut present = lead(field.arrive());
    let (first, second) = (aboard(field.arrive()), aboard(field.arrive()));
    let (mut first, mut second) = (Box::pin(fly(&field, first)), Box::pin(fly(&field, second)));
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
    field.clock.advance(SECOND);
    present.land(Landing::NotShareable);
    // Not yet taken off: who arrives now boards it too.
    let third = aboard(field.arrive());
    assert!(third.after_arrival());
    let Arrival::Leads(mut leader) = ended(first).await else { panic!("the first to wait leads") };
    assert_eq!(leader.began(), field.now(), "it took off just now");
    assert!(futures_util::poll!(&mut second).is_pending());
    leader.land(Landing::NotShareable);
    assert!(matches!(ended(second).await, Arrival::Landed(Landing::NotShareable)));
    assert!(matches!(flown(&field, third), Arrival::Landed(Landing::NotShareable)));
    assert!(field.is_empty());
}

#[tokio::test]
async fn who_leaves_hands_the_lead_on() {
    let field = Field::detached();
    let present = lead(field.arrive());
    let (first, second) = (aboard(field.arrive()), aboard(field.arrive()));
    let (mut first, mut second) = (Box::pin(fly(&field, first)), Box::pin(fly(&field, second)));
    assert!(futures_util::poll!(&mut first).is_pending() && futures_util::poll!(&mut second).is_pending());
    drop(present);
    // The turn is the first's, who leaves without having taken it.
    drop(first);
    assert!(matches!(ended(second).await, Arrival::Leads(_)));
    assert!(field.is_empty());
}

#[tokio::test]
async fn a_flight_without_passengers_does_not_wait() {
    let field = Field::detached();
    let present = lead(field.arrive());
    drop(aboard(field.arrive()));
    assert!(field.board.shard(&KEY).gates[&KEY].next.is_none());
    let cleared = aboard(field.arrive());
    drop(present);
    assert!(!field.is_empty());
    drop(cleared);
    assert!(field.is_empty(), "nor when it was cleared");
}

#[tokio::test]
async fn who_holds_a_lease_again_need_not_wait_for_what_is_void() {
    let field = Field::detached();
    let mut old = lead(field.arrive());
    let waiting = aboard(field.arrive());
    let mut waiting = Box::pin(fly(&field, waiting));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    field.purge(EventKind::Purge);
    field.lease();
    let mut new = lead(field.arrive());
    old.land(Landing::Dropped);
    assert!(
        futures_util::poll!(&mut waiting).is_pending(),
        "it rides on the new one, and does not lead a third"
    );
    new.land(Landing::NotShareable);
    assert!(matches!(ended(waiting).await, Arrival::Landed(Landing::NotShareable)));
    assert!(field.is_empty());
}

#[tokio::test]
async fn a_refresh_begins_only_where_nothing_flies_or_waits() {
    let field = Field::detached();
    let begin = || field.board.begin(KEY, field.looks(), Vec::new, &field.coherence);
    let mut first = begin().expect("nothing flies");
    assert!(begin().is_none());
    let waiting = aboard(field.arrive());
    first.land(Landing::Dropped);
    assert!(begin().is_none(), "the next flight is about to take off");
    drop(waiting);
    assert!(begin().is_some());
}

/// A look-up is one moment and a seat another: what landed in between may have left what was looked for.
#[tokio::test]
async fn nobody_leads_what_has_landed_since_the_look_up() {
    let field = Field::alone();
    let join = |looked| field.board.join(KEY, field.now(), looked, || vec![TAG], &field.coherence);
    let begin = |looked| field.board.begin(KEY, looked, Vec::new, &field.coherence);
    let looked = field.now();
    let mut leader = lead(field.arrive());
    leader.land(Landing::NotShareable);
    let landed = field.now();
    for overtaken in [looked, landed] {
        assert!(matches!(join(overtaken), Seat::LookAgain));
        assert!(begin(overtaken).is_none());
    }
    assert!(field.is_empty(), "it is nobody's flight");
    // What is in the air, or about to be, is boarded by whoever has looked at what came before.
    let next = lead(field.arrive());
    aboard(join(looked));
    drop(next);
    field.clock.advance(Duration::from_millis(1));
    drop(lead(join(field.now())));
    field.clock.advance(Duration::from_millis(1));
    assert!(begin(field.now()).is_some());
}

/// However tasks interleave: never two in the air without a lease, everybody is served, nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_without_a_lease_is_one_flight_at_a_time() {
    let clock = Clock::system();
    let field = Arc::new(Field { board: Board::new(clock.clone()), clock, ..Field::detached() });
    let (flying, most, flights) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let crowd: Vec<_> = (0..400)
        .map(|n| {
            let (field, flying, most, flights) =
                (field.clone(), flying.clone(), most.clone(), flights.clone());
            tokio::spawn(async move {
                let mut led = match field.join(field.now()) {
                    Seat::Lead(lead) => lead,
                    Seat::LookAgain => return,
                    Seat::Aboard(passenger) if n % 7 == 0 => return drop(passenger),
                    Seat::Aboard(passenger) => match fly(&field, passenger).await {
                        Arrival::Leads(lead) => lead,
                        Arrival::Landed(landing) => {
                            return assert!(matches!(landing, Landing::NotShareable), "{landing:?}");
                        }
                    },
                };
                flights.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(flying.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                flying.fetch_sub(1, Ordering::SeqCst);
                led.land(Landing::NotShareable);
            })
        })
        .collect();
    for task in crowd {
        let served = tokio::time::timeout(Duration::from_secs(20), task).await;
        served.expect("nobody waits for ever").expect("served");
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert!(flights.load(Ordering::SeqCst) >= 1);
    assert!(field.is_empty());
}

#[test]
fn keys_are_told_apart_by_what_their_shard_is_not_chosen_by() {
    use std::hash::BuildHasher;
    let hashes: std::collections::HashSet<u64> = (0..=u8::MAX)
        .map(|last| {
            let mut key = CacheKey([7; 32]);
            key.0[31] = last;
            BuildHasherDefault::<PartOfKey>::default().hash_one(key)
        })
        .collect();
    assert_eq!(hashes.len(), 256);
}
